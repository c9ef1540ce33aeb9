"""Rules of the whole package that no linter checks: where Ray is called, and how large a piece of code may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import bolt_ray

PACKAGE = Path(bolt_ray.__file__).parent
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
TREES = {path: ast.parse((PACKAGE / path).read_text(encoding="utf-8")) for path in FILES}

CALLS_RAY = ("actors", "training")
MAX_FILE, MAX_LARGE_FILES, MAX_FUNCTION, MAX_CLASS = 300, 0.05, 80, 300


def remote_calls(tree: ast.AST) -> Iterator[int]:
    """Lines with ``x.remote(…)``, ``ray.get`` or ``ray.wait``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "remote":
            yield node.lineno
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("ray.get", "ray.wait"):
            yield node.lineno
        if isinstance(node, ast.ImportFrom) and node.module == "ray":
            yield from (node.lineno for name in node.names if name.name in ("get", "wait"))


def test_actors_are_called_in_actors_and_training_alone() -> None:
    found = {path: list(remote_calls(tree)) for path, tree in TREES.items()}
    elsewhere = {str(path): lines for path, lines in found.items() if lines and path.parts[0] not in CALLS_RAY}
    assert elsewhere == {}
    assert all(any(lines and path.parts[0] == layer for path, lines in found.items()) for layer in CALLS_RAY)


@pytest.mark.parametrize(
    "code",
    ["handle.poll.remote(1)", "ray.get(x)", "done = ray.wait", "from ray import get", "Actor.options().remote()"],
)
def test_every_way_to_call_an_actor_is_seen(code: str) -> None:
    assert list(remote_calls(ast.parse(code))) == [1]


def lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_files_are_small() -> None:
    lengths = {str(path): len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) for path in FILES}
    large = {path: length for path, length in lengths.items() if length > MAX_FILE}
    assert len(large) <= MAX_LARGE_FILES * len(FILES), large


@pytest.mark.parametrize(
    ("kinds", "limit"),
    [((ast.FunctionDef, ast.AsyncFunctionDef), MAX_FUNCTION), ((ast.ClassDef,), MAX_CLASS)],
    ids=["functions", "classes"],
)
def test_functions_and_classes_are_small(kinds: tuple[type[ast.stmt], ...], limit: int) -> None:
    large = {
        f"{path}:{node.lineno}": lines_of(node)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, kinds) and lines_of(node) > limit
    }
    assert large == {}
