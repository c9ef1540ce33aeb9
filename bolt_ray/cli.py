"""``bolt-ray``: the command line.

Exit codes: 0 done, 2 something the user can fix, 1 our failure, 130 interrupted; of status also 3 stalled, 4 ended.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from typer.exceptions import TyperException

from bolt_ray.commands.inspect.command import inspect
from bolt_ray.core.errors import BoltRayError, UserError
from bolt_ray.training.interrupts import Interrupted

INTERRUPTED = 130

app = typer.Typer(
    name="bolt-ray",
    help="Reinforcement learning for language models on Ray, with a persistent baseline per prompt.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

ConfigFile = Annotated[Path, typer.Argument(help="a YAML config file", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="settings laid over the file: `train.max_steps=50`", show_default=False),
]


@app.command()
def train(config: ConfigFile, overrides: Overrides = None) -> None:
    """Train as CONFIG says; `resume=auto` goes on with the newest run."""
    from bolt_ray.commands.train.train import train as run_training
    from bolt_ray.config.loading import load_config

    outcome = run_training(load_config(config, overrides or []))
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command()
def submit(
    config: ConfigFile,
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="the cluster's dashboard; default: RAY_API_SERVER_ADDRESS, else 127.0.0.1:8265")
    ] = None,
    submission_id: Annotated[str | None, typer.Option("--id", help="the job's name; default: NAME-TIME")] = None,
    grace_s: Annotated[
        int, typer.Option(min=1, help="seconds from `ray job stop` to the end by force: a step and its checkpoint")
    ] = 600,
    env: Annotated[
        list[str] | None, typer.Option(help="`NAME=VALUE` for the job's processes, no secrets; repeat it for several")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-wait", help="show the log until the job has ended")] = True,
    only_print: Annotated[bool, typer.Option("--print", help="only print the `ray job submit` that does it")] = False,
) -> None:
    """Train on a running cluster, as a Ray job that gets a copy of the working directory. Exit code: the run's."""
    from bolt_ray.commands.submit.job import training_job
    from bolt_ray.commands.submit.submit import submit as submit_job

    job = training_job(
        config, overrides or [], address=address, submission_id=submission_id, grace_s=grace_s, env=env or ()
    )
    if only_print:
        typer.echo(job.command())
        return
    raise typer.Exit(submit_job(job, console=Console(), follow=follow))


@app.command()
def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print the resolved config, the arithmetic of a step and the processes. Starts nothing."""
    from bolt_ray.commands.validate import print_validation
    from bolt_ray.config.loading import load_config

    print_validation(load_config(config, overrides or []), console=Console())


@app.command()
def doctor(
    model: Annotated[str, typer.Option(help="a model directory, or `arithmetic`")] = "arithmetic",
    lora: Annotated[bool, typer.Option("--lora", help="train and send a LoRA adapter instead of all weights")] = False,
) -> None:
    """Check the installation, and prove that generator and learner agree before and after a weight sync."""
    from bolt_ray.commands.doctor import run_doctor

    run_doctor(model, lora=lora, console=Console())


@app.command()
def pretrain(
    config: Annotated[
        Path | None, typer.Argument(help="a config; default: the embedded model", show_default=False)
    ] = None,
    overrides: Overrides = None,
    data: Annotated[str | None, typer.Option(help="in place of CONFIG: a dataset, or `reasoning_gym/TASK`")] = None,
    size: Annotated[int | None, typer.Option(help="with `--data reasoning_gym/TASK`: problems to make")] = None,
    seed: Annotated[int | None, typer.Option(help="with `--data reasoning_gym/TASK`: of the problems")] = None,
    steps: Annotated[int | None, typer.Option(help="optimizer steps at most (pretrain.steps)")] = None,
    until_accuracy: Annotated[
        float | None, typer.Option(help="stop at this share of held-out rows (pretrain.until_accuracy)")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="where to write the model; default: as model.name_or_path says")
    ] = None,
) -> None:
    """Teach the model that CONFIG names: the embedded arithmetic one, or a tiny one from the rows of its datasets.

    It is stopped while it is mediocre, so that reinforcement learning has something to improve.
    """
    from bolt_ray.commands.pretrain.pretrain import run_pretraining

    entry = {"name": data, "size": size, "seed": seed}
    asked = {"steps": steps, "until_accuracy": until_accuracy}
    run_pretraining(
        config,
        overrides or [],
        data=None if data is None else {key: value for key, value in entry.items() if value is not None},
        pretrain={key: value for key, value in asked.items() if value is not None},
        output=output,
        console=Console(),
    )


@app.command()
def evaluate(
    config: ConfigFile,
    overrides: Overrides = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="a run, checkpoint, model or LoRA adapter directory; repeat it for several"),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="problems in place of the config's held-out ones")] = None,
    samples: Annotated[int | None, typer.Option(help="completions per problem (eval.num_samples)")] = None,
    k: Annotated[int | None, typer.Option(help="of pass@k and maj@k; default: all samples")] = None,
    temperature: Annotated[float | None, typer.Option(help="of sampling (eval.temperature)")] = None,
    output: Annotated[Path | None, typer.Option(help="a new directory; default: `evaluations/NAME-TIME`")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="paired bootstrap against the first model, or the config's own")
    ] = False,
) -> None:
    """Evaluate models on held-out problems: pass@1, pass@k, maj@k, with intervals and predictions."""
    from bolt_ray.commands.evaluate.evaluate import evaluate as run_evaluation
    from bolt_ray.config.loading import load_config

    options = {"eval.num_samples": samples, "eval.temperature": temperature}
    set_here = [f"{key}={value}" for key, value in options.items() if value is not None]
    run_evaluation(
        load_config(config, [*(overrides or []), *set_here]),
        models=model or (),
        dataset=dataset,
        k=k,
        output=output,
        compare=compare,
    )


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="where the files go; made if it is missing")] = Path(),
    template: Annotated[str, typer.Option(help="math, code, format or own")] = "math",
) -> None:
    """Write a starter config with a dataset (and a reward of your own) that trains as it is."""
    from bolt_ray.commands.init import write_starter

    write_starter(directory, template=template, console=Console())


@app.command()
def docs(
    topic: Annotated[str | None, typer.Argument(help="data, reward or model", show_default=False)] = None,
) -> None:
    """The guides: your own data, reward, model or loss, seeing a run, other libraries; each with an example to copy."""
    from bolt_ray.commands.docs import guide

    typer.echo(guide(topic), nl=False)


config_app = typer.Typer(help="The settings a config file may hold.", no_args_is_help=True)
app.add_typer(config_app, name="config")


@config_app.command()
def schema() -> None:
    """Print a JSON schema: `# yaml-language-server: $schema=schema.json` makes editors complete and check a config."""
    from bolt_ray.commands.config import schema_text

    typer.echo(schema_text(), nl=False)


@config_app.command()
def explain(key: Annotated[str, typer.Argument(help="a setting or a section: `train.learning_rate`, `kl`")]) -> None:
    """Say what a setting does, what it may be and what it is by default."""
    from bolt_ray.commands.config import explanation

    typer.echo(explanation(key), nl=False)


@app.command()
def export(
    source: Annotated[str, typer.Argument(help="a run, checkpoint, LoRA adapter or model directory")],
    output: Annotated[Path, typer.Argument(help="a new directory for the plain model")],
    base: Annotated[
        str | None, typer.Option(help="base model directory of the adapter; default: the one it names")
    ] = None,
) -> None:
    """Write the policy as a plain model directory; a LoRA adapter is merged into its base."""
    from bolt_ray.commands.export import export_model

    export_model(source, output, base=base, say=lambda text: Console().print(text, markup=False, soft_wrap=True))


@app.command("precompute-baseline")
def precompute_baseline(
    config: ConfigFile,
    overrides: Overrides = None,
    *,
    output: Annotated[Path, typer.Option(help="the JSON file to write, for baseline.warm_start", show_default=False)],
    num_samples: Annotated[int, typer.Option(min=1, help="completions per prompt")] = 8,
    adapter: Annotated[Path | None, typer.Option(help="a LoRA adapter to put on the model")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many prompts")] = None,
) -> None:
    """Sample and score completions of every prompt: the baseline a training run can start from.

    Interrupted, the same command goes on with what is missing.
    """
    from bolt_ray.commands.precompute_baseline.precompute_baseline import precompute_baseline as run_precompute
    from bolt_ray.config.loading import load_config

    run_precompute(
        load_config(config, overrides or []),
        output=output,
        num_samples=num_samples,
        adapter=adapter,
        limit=limit,
    )


app.command()(inspect)


@app.command()
def status(
    run: Annotated[Path | None, typer.Argument(help="a run directory; default: the newest", show_default=False)] = None,
    watch: Annotated[bool, typer.Option("--watch", help="again and again, until the run has ended")] = False,
) -> None:
    """Show what a run is doing. Exit code: 0 it is running, 3 stalled, 4 ended."""
    from bolt_ray.commands.status.status import show_status

    raise typer.Exit(show_status(run, watch=watch, console=Console()))


@app.command()
def dashboard(
    run: Annotated[Path | None, typer.Argument(help="a run directory; default: the newest", show_default=False)] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free")] = 8400,
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    any_host: Annotated[bool, typer.Option("--any-host", help="let other machines in; there is no password")] = False,
) -> None:
    """Serve a run's report to this machine's browsers, kept up to date while the run goes on."""
    from bolt_ray.commands.dashboard import serve_dashboard

    serve_dashboard(run, host=host, port=port, any_host=any_host, console=Console())


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="run directories; several are compared", show_default=False)],
    output: Annotated[
        Path | None, typer.Option(help="the page; default: report.html in the run, of several in this directory")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="also draw the main pictures into a PNG beside the page")] = False,
) -> None:
    """Write one HTML page about runs, finished or not: what they gained, what looks wrong, curves, samples."""
    from bolt_ray.commands.report.report import write_report

    write_report(runs, output=output, png=png, console=Console())


def main() -> None:
    """Entry point: the exit code follows from the error."""
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        code = app(standalone_mode=False) or 0
    except typer.Exit as leave:
        code = leave.exit_code
    except (UserError, BoltRayError) as error:
        _complain(str(error))
        code = 2 if isinstance(error, UserError) else 1
    except (KeyboardInterrupt, Interrupted):
        _complain("interrupted")
        code = INTERRUPTED
    except typer.Abort:
        code = INTERRUPTED
    except TyperException as error:
        _complain(error.format_message())
        code = 2
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(code)


def _terminated(number: int, frame: FrameType | None) -> None:
    """As Ctrl-C does, until a run puts its own handler in place."""
    raise Interrupted(signal.Signals(number).name)


def _complain(message: str) -> None:
    Console(stderr=True).print(f"[bold red]error:[/] {_plain(message)}", highlight=False, soft_wrap=True)


def _plain(message: str) -> str:
    return message.replace("[", r"\[")


if __name__ == "__main__":
    main()
