"""The table of scripts/mutations.py fits the code as it is; whether the mutations are noticed, the script shows."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("mutations_script", ROOT / "scripts" / "mutations.py")
assert _spec is not None and _spec.loader is not None
script = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = script  # dataclasses look their module up there
_spec.loader.exec_module(script)

TABLE = script.load_table(script.TABLES)


@pytest.mark.parametrize("entry", TABLE, ids=[entry.id for entry in TABLE])
def test_an_entry_fits_the_code(entry: script.Mutation) -> None:
    changed = script.mutated(entry, ROOT)
    assert changed is not None, f"`old` of {entry.id} does not occur exactly once in {entry.file}"
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse((ROOT / entry.file).read_text(encoding="utf-8")))
    assert entry.why
    assert entry.tests
    for test in entry.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).exists(), test
        assert not name or f"def {name.split('::')[-1].split('[')[0]}(" in (ROOT / path).read_text(encoding="utf-8")


def write(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def entry(tmp_path: Path, **fields: object) -> script.Mutation:
    write(tmp_path, "test_code.py", "from code_under_test import double\n\ndef test_it():\n    assert double(2) == 4\n")
    write(tmp_path, "code_under_test.py", "def double(x):\n    return 2 * x\n")
    write(tmp_path, "pyproject.toml", "[tool.pytest.ini_options]\nmarkers = ['ray', 'vllm', 'slow', 'gpu']\n")
    values = {"id": "A", "file": "code_under_test.py", "old": "2 * x", "new": "3 * x", "why": "wrong"}
    return script.Mutation(**{**values, "tests": ("test_code.py",), **fields})


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({}, "killed"),
        ({"new": "x ** 2"}, "survived"),
        ({"old": "4 * x"}, "stale"),
        ({"tests": ("no_such_test.py",)}, "broken"),
    ],
)
def test_the_script_tells_what_became_of_a_mutation(tmp_path: Path, fields: dict[str, object], result: str) -> None:
    outcome = script.try_mutation(entry(tmp_path, **fields), tmp_path, limit_s=120.0)
    assert outcome.result == result
    assert (tmp_path / "code_under_test.py").read_text() == "def double(x):\n    return 2 * x\n"


def test_a_mutation_that_hangs_counts_as_noticed_and_says_so(tmp_path: Path) -> None:
    hangs = entry(tmp_path, new="[None for _ in iter(int, 1)]")
    assert script.try_mutation(hangs, tmp_path, limit_s=3.0).result == "killed (timeout)"
