"""Makes known mistakes in the code, one at a time, and checks that the fast tests notice each of them.

    python scripts/mutations.py                 all of scripts/mutations/*.toml
    python scripts/mutations.py M1 S1 --jobs 2  some of them, two at a time
    python scripts/mutations.py --list          what they are

An entry names a file, a text that occurs exactly once in it, the text to put in its place, the tests that must then
fail, and what would go wrong if nobody noticed. The repository is copied first and only the copy is changed. Before
any mutation the named tests must pass in the copy, otherwise a failure would prove nothing.

Exit status 1 when a mutation survives (no test failed), is stale (its text does not occur exactly once) or is broken
(pytest could not run the tests), 2 when the tests fail without any mutation.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TABLES = Path(__file__).resolve().parent / "mutations"
FAST = "not ray and not vllm and not slow and not gpu"
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "runs", "build", "dist")
FAILURES = ("survived", "stale", "broken")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One deliberate mistake.

    Attributes:
        id: its name on the command line.
        file: the file to change, relative to the repository.
        old, new: the text that occurs exactly once in the file, and its replacement.
        tests: files, folders or test ids given to pytest; only their fast tests run.
        why: what would go wrong if nobody noticed.
    """

    id: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a mutation: killed, killed (timeout), survived, stale or broken; with one line of detail."""

    mutation: Mutation
    result: str
    seconds: float = 0.0
    detail: str = ""


def load_table(directory: Path) -> list[Mutation]:
    """The mutations of all TOML files in a directory.

    Raises:
        ValueError: two entries have one id.
        TypeError: an entry lacks a field or has one too many.
    """
    entries = [
        Mutation(**{**entry, "tests": tuple(entry["tests"])})
        for path in sorted(directory.glob("*.toml"))
        for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("mutation", [])
    ]
    ids = [entry.id for entry in entries]
    if len(set(ids)) < len(ids):
        raise ValueError(f"ids that occur twice: {sorted({i for i in ids if ids.count(i) > 1})}")
    return entries


def mutated(mutation: Mutation, root: Path) -> str | None:
    """The file's text with the mistake in it; None if the entry is stale."""
    path = root / mutation.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text.replace(mutation.old, mutation.new) if text.count(mutation.old) == 1 else None


def run_tests(copy: Path, tests: Sequence[str], *, limit_s: float) -> tuple[int | None, str]:
    """Run fast tests in a copy of the repository; pytest's exit status (None after the limit) and last line."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", FAST, *tests]
    # No bytecode: a file that is changed and changed back within a second could be taken for its older self.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command,
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return process.returncode, (failed or output.splitlines()[-1:] or [""])[0]


def try_mutation(mutation: Mutation, copy: Path, *, limit_s: float) -> Outcome:
    """Make one mutation in a copy, run its tests, and undo it."""
    text = mutated(mutation, copy)
    if text is None:
        return Outcome(mutation=mutation, result="stale", detail=f"its text is not exactly once in {mutation.file}")
    path = copy / mutation.file
    original = path.read_text(encoding="utf-8")
    started = time.monotonic()
    path.write_text(text, encoding="utf-8")
    try:
        status, detail = run_tests(copy, mutation.tests, limit_s=limit_s)
    finally:
        path.write_text(original, encoding="utf-8")
    results = {0: "survived", 1: "killed", None: "killed (timeout)"}
    return Outcome(
        mutation=mutation,
        result=results.get(status, "broken"),
        seconds=time.monotonic() - started,
        detail=detail if status else mutation.why,
    )


def try_all(mutations: Sequence[Mutation], *, jobs: int, limit_s: float) -> int:
    """Try mutations, ``jobs`` at a time, each job in its own copy; prints each outcome and returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="bolt-ray-mutations-") as directory:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(jobs):
            copies.put(shutil.copytree(REPOSITORY, Path(directory, str(number)), ignore=NOT_COPIED))
        tests = sorted({test for mutation in mutations for test in mutation.tests})
        copy = copies.get()
        status, detail = run_tests(copy, tests, limit_s=limit_s * len(tests))
        copies.put(copy)
        if status != 0:
            print(f"The tests do not pass without any mutation: {detail or 'too slow'}", file=sys.stderr)
            return 2

        def one(mutation: Mutation) -> Outcome:
            free = copies.get()
            try:
                return try_mutation(mutation, free, limit_s=limit_s)
            finally:
                copies.put(free)

        failures = 0
        with ThreadPoolExecutor(max_workers=jobs) as threads:
            for outcome in threads.map(one, mutations):
                failures += outcome.result in FAILURES
                print(
                    f"{outcome.result:17}{outcome.mutation.id:16}{outcome.seconds:6.1f} s  {outcome.detail}", flush=True
                )
    print(f"{len(mutations) - failures} of {len(mutations)} mutations were noticed")
    return int(failures > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make known mistakes one at a time; the fast tests must notice each.")
    parser.add_argument("ids", nargs="*", help="mutations to try; default: all")
    parser.add_argument("--list", action="store_true", help="print the table and stop")
    parser.add_argument("--jobs", type=int, default=1, help="mutations at a time")
    parser.add_argument("--limit-s", type=float, default=300.0, help="seconds for one mutation's tests")
    arguments = parser.parse_args()
    table = load_table(TABLES)
    unknown = set(arguments.ids) - {entry.id for entry in table}
    if unknown:
        parser.error(f"no mutation {', '.join(sorted(unknown))}; --list shows them")
    chosen = [entry for entry in table if not arguments.ids or entry.id in arguments.ids]
    if arguments.list:
        for entry in chosen:
            print(f"{entry.id:16}{entry.file}: {entry.why}")
        return 0
    return try_all(chosen, jobs=max(1, arguments.jobs), limit_s=arguments.limit_s)


if __name__ == "__main__":
    sys.exit(main())
