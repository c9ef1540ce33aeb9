"""``bolt-ray``: the command line.

Exit codes: 0 done, 2 something the user can mend, 1 our failure, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer.exceptions import TyperException

from bolt_ray.core.errors import BoltRayError, ConfigError, UserError

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
    from bolt_ray.config.loading import load_config
    from bolt_ray.pipeline.run import train as run_training

    run_training(load_config(config, overrides or []), base_dir=config.absolute().parent)


@app.command()
def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print the resolved config, the arithmetic of a step and the processes. Starts nothing."""
    from bolt_ray.config.loading import load_config
    from bolt_ray.pipeline.validation import print_validation

    print_validation(load_config(config, overrides or []), console=Console())


@app.command()
def doctor(
    model: Annotated[str, typer.Option(help="a model directory, or `arithmetic`")] = "arithmetic",
) -> None:
    """Check the installation, and prove that generator and learner agree before and after a weight sync."""
    from bolt_ray.pipeline.doctor import run_doctor

    run_doctor(model, console=Console())


@app.command()
def pretrain(
    config: Annotated[Path | None, typer.Argument(help="a config with an `arithmetic:` section")] = None,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="also copy the model here")] = None,
) -> None:
    """Teach the embedded arithmetic model by supervised learning until it is mediocre."""
    from bolt_ray.pipeline.embedded import run_pretraining

    run_pretraining(config, overrides or [], output=output, console=Console())


def main() -> None:
    """Entry point: the exit code follows from the error."""
    try:
        code = app(standalone_mode=False) or 0
    except typer.Exit as leave:
        code = leave.exit_code
    except (UserError, BoltRayError) as error:
        _complain(str(error))
        code = 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        _complain("interrupted")
        code = 130
    except typer.Abort:
        code = 130
    except TyperException as error:
        _complain(error.format_message())
        code = 2
    sys.exit(code)


def _complain(message: str) -> None:
    Console(stderr=True).print(f"[bold red]error:[/] {_plain(message)}", highlight=False, soft_wrap=True)


def _plain(message: str) -> str:
    return message.replace("[", r"\[")


__all__ = ["ConfigError", "app", "main"]

if __name__ == "__main__":
    main()
