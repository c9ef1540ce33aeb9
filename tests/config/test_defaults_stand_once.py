"""Each default stands in the record of its setting: no function or class repeats it, where it could drift apart."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import bolt_ray
from bolt_ray.config.tree import walk

PACKAGE = Path(bolt_ray.__file__).parent
SETTINGS = {place[-1] for place, _ in walk()}

Default = tuple[str, str, str]
"""File, function or class, and name."""

OTHER_THINGS: dict[Default, str] = {
    ("actors/scorer_pool.py", "poll", "timeout_s"): "0: does not wait; a reward's limit is another thing",
    ("training/rollout.py", "pump", "timeout_s"): "0: does not wait",
    ("training/learner_group.py", "close", "timeout_s"): "how long a shutdown may take, which no setting changes",
    ("cli.py", "doctor", "model"): "an option of a command that reads no configuration",
    ("cli.py", "precompute_baseline", "num_samples"): "completions per prompt of that command, not of an evaluation",
    ("core/baseline/sharded_snapshot.py", "read_sharded_snapshot", "num_shards"): "1: all of it, read as one shard",
    ("core/bins.py", "__init__", "strategy"): "the public bin scheduler, which no configuration makes",
    ("core/bins.py", "__init__", "temperature"): "the public bin scheduler",
    ("core/bins.py", "__init__", "ema_alpha"): "the public bin scheduler; its average is of rewards",
    ("core/bins.py", "__init__", "seed"): "the public bin scheduler",
    ("core/curriculum/binning.py", "bin_probabilities", "temperature"): "1 changes nothing: the neutral value",
    (
        "core/losses/registry.py",
        "LossType",
        "clip_low",
    ): "the range of a loss's authors, where the setting is not given",
    ("core/losses/registry.py", "LossType", "clip_high"): "the same",
    ("engines/vllm/statistics.py", "EngineStatistics", "steps"): "engine steps counted, not those recorded",
    ("commands/report/reading.py", "ReadRun", "num_samples"): "samples of completions read, not of an evaluation",
    ("core/records.py", "DrawnPrompt", "num_samples"): "completions of one draw, not of an evaluation",
    ("core/records.py", "DrawnPrompt", "weight"): "of a draw, not of a dataset or reward; 1: the neutral value",
    ("training/in_flight.py", "SavedRequest", "weight"): "of a draw; checkpoints of earlier versions have none",
    ("core/bins.py", "__init__", "binning"): "the public bin scheduler",
    ("data/store.py", "split_heldout", "size"): "0: no prompt is held out",
    ("engines/learner/logprobs.py", "LogitShape", "temperature"): "the neutral shape: logits as the model gives them",
    ("engines/learner/logprobs.py", "LogitShape", "min_p"): "the neutral shape",
    ("engines/learner/logprobs.py", "LogitShape", "top_k"): "the neutral shape",
    ("engines/learner/logprobs.py", "LogitShape", "top_p"): "the neutral shape",
    ("rewards/sandbox/box.py", "__init__", "allow_unsafe"): "no caller gets an unsafe sandbox by leaving something out",
    ("tasks/tiny/sampling.py", "sample_completions", "batch_size"): "prompts of a plain forward pass",
    ("data/ingest/read_plan.py", "Piece", "size"): "bytes of a piece of a file",
    ("commands/inspect/command.py", "inspect", "full"): "whole texts in the terminal",
    ("commands/inspect/samples.py", "SampleQuery", "full"): "the same",
}
"""The same name, but another thing; and why."""


def literal_defaults(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Function or class, and name, of everything with a default that says something.

    ``None``, an empty text and an empty collection only say that nothing was given. A settings record calls
    ``setting(…)``, which is no literal.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            positional = [*arguments.posonlyargs, *arguments.args]
            pairs = [
                *zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True),
                *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
            ]
            yield from ((node.name, argument.arg) for argument, default in pairs if says_something(default))
        if isinstance(node, ast.ClassDef):
            for field in node.body:
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and says_something(field.value)
                ):
                    yield node.name, field.target.id


def says_something(default: ast.expr | None) -> bool:
    try:
        return default is not None and ast.literal_eval(default) not in (None, "", (), [], {})
    except ValueError:
        return False


def repeated() -> set[Default]:
    return {
        (str(path.relative_to(PACKAGE)), owner, name)
        for path in PACKAGE.rglob("*.py")
        for owner, name in literal_defaults(ast.parse(path.read_text(encoding="utf-8")))
        if name in SETTINGS
    }


def test_no_default_of_a_setting_is_repeated() -> None:
    assert repeated() - set(OTHER_THINGS) == set()


def test_every_exception_is_still_there_and_says_why() -> None:
    assert set(OTHER_THINGS) - repeated() == set()
    assert all(OTHER_THINGS.values())


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f(a, b=1, *, c=0.5, d): ...", [("f", "b"), ("f", "c")]),
        ("class A:\n    b: int = 1\n    c: int\n    d: float = setting(2.0, 'x')", [("A", "b")]),
        ("def f(a=None, b='', c=(), d=False): ...", [("f", "d")]),
        ("def f(a=-1.0, b=OTHER): ...", [("f", "a")]),
    ],
)
def test_what_counts_as_a_default(code: str, found: list[tuple[str, str]]) -> None:
    assert list(literal_defaults(ast.parse(code))) == found
