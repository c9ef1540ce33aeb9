"""The ``code`` reward: the completion's program against tests, or against expected output, in the sandbox."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.core.settings import SettingError, setting
from bolt_ray.rewards.protocol import RewardInput, Unscored
from bolt_ray.rewards.sandbox.box import Sandbox
from bolt_ray.rewards.sandbox.results import SandboxLimits
from bolt_ray.rewards.settings import RewardSettings

_FENCED = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)

# Runs inside the sandbox. A test counts when its line, with the run's secret, is written; a program that exits
# before its tests has written none. The program runs in this process, so one that finds the secret in the
# interpreter's frames could still fake a pass.
HARNESS = """
import json, os, sys
job = json.load(sys.stdin)
report = os.dup(1)
nothing = os.open("/dev/null", os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(nothing, fd)

def run(job, report, write):
    space = {"__name__": "solution"}
    exec(compile(job["program"], "solution.py", "exec"), space)
    for index, test in enumerate(job["tests"]):
        own = dict(space)
        try:
            exec(compile(test, "test.py", "exec"), own)
            if job["entry_point"] and "check" in own:
                own["check"](own[job["entry_point"]])
        except BaseException:
            continue
        write(report, f"{job['secret']} {index}\\n".encode())

run(job, report, os.write)
"""


def extract_program(completion: str) -> str:
    """The program in a completion: its last fenced block, of Python where one says so, else the whole text."""
    blocks = _FENCED.findall(completion)
    python = [text for language, text in blocks if language.lower() in ("python", "python3", "py")]
    if python:
        return str(python[-1])
    return str(blocks[-1][1]) if blocks else completion


def plain_output(text: str) -> str:
    """Output as it is compared: without white space at the ends of lines and of the whole."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeSettings(RewardSettings):
    """``type: code`` - runs the completion's program in the sandbox."""

    always_within = (0.0, 1.0)

    check: Literal["tests", "output"] = setting(
        "tests",
        "tests: the column holds Python test code, as text or a list of texts; a check(candidate) it defines is called "
        "with the function the row's entry_point names. output: the column holds [{input, output}], or the expected "
        "output alone, the row's input being its standard input",
    )
    tests_column: str = setting(
        "answer", "a metadata column, or answer for the row's answer; text that is a JSON list is one", min_length=1
    )
    partial: bool = setting(False, "the share of tests or cases passed instead of all or nothing")
    wall_s: float = setting(5.0, "wall-clock limit of one run", unit="s", gt=0)
    cpu_s: int = setting(4, "CPU time of one run", unit="s", ge=1)
    memory_mb_program: int = setting(512, "memory of one run", unit="MiB", ge=64)
    max_processes: int = setting(16, "processes of one run", ge=1)
    file_mb: int = setting(16, "size of a file one run writes", unit="MiB", ge=1)
    output_kb: int = setting(256, "output of one run", unit="KiB", ge=1)
    allow_unsafe: bool = setting(False, "run without a sandbox where the machine has none; only for programs you trust")
    timeout_s: float | None = setting(120.0, "wall-clock limit of all runs of one completion", unit="s", gt=0)

    def __post_init__(self) -> None:
        RewardSettings.__post_init__(self)
        if self.timeout_s is not None and self.timeout_s <= self.wall_s:
            raise SettingError("timeout_s", "(all runs of a completion) must be above wall_s (one run)")


class CodeReward:
    """1.0 if the program passes, else 0.0; with ``partial`` the share of tests or cases it passes.

    Tests share the program's interpreter, so a program that looks for them can fake a pass; with ``output`` it cannot.
    A program that fails, hangs or is stopped by a limit is wrong: 0. A row without tests, or a sandbox that cannot be
    set up, gives no verdict.

    Raises:
        EnvironmentProblem: no sandbox works here.
    """

    settings = CodeSettings
    batched = False

    def __init__(self, settings: CodeSettings, *, sandbox: Callable[..., Sandbox] = Sandbox) -> None:
        limits = SandboxLimits(
            wall_s=settings.wall_s,
            cpu_s=settings.cpu_s,
            memory_mb=settings.memory_mb_program,
            max_processes=settings.max_processes,
            file_mb=settings.file_mb,
            output_kb=settings.output_kb,
        )
        self._sandbox = sandbox(limits=limits, allow_unsafe=settings.allow_unsafe)
        self._check = settings.check
        self._column = settings.tests_column
        self._partial = settings.partial

    def score(self, inputs: Sequence[RewardInput]) -> list[float | Unscored]:
        return [self._score_one(item) for item in inputs]

    def _score_one(self, item: RewardInput) -> float | Unscored:
        wanted = _parsed(item.answer if self._column == "answer" else item.metadata.get(self._column))
        if not wanted:
            return Unscored("no_tests", f"the row has nothing in {self._column!r}")
        program = extract_program(item.completion)
        try:
            if self._check == "tests":
                share = self._share_of_tests(program, wanted, str(item.metadata.get("entry_point") or ""))
            else:
                share = self._share_of_cases(program, _cases(wanted, item.metadata))
        except EnvironmentProblem as problem:
            return Unscored("sandbox", str(problem))
        except (KeyError, TypeError) as problem:
            return Unscored("bad_tests", f"{self._column!r} has another form than expected: {problem!r}")
        return share if self._partial else float(share == 1.0)

    def _share_of_tests(self, program: str, wanted: Any, entry_point: str) -> float:
        tests = [str(test) for test in wanted] if isinstance(wanted, list) else [str(wanted)]
        secret = secrets.token_hex(16)
        job = {"program": program, "tests": tests, "entry_point": entry_point, "secret": secret}
        result = self._sandbox.run(HARNESS, stdin=json.dumps(job))
        passed = {line for line in result.stdout.splitlines() if line.startswith(f"{secret} ")}
        return len(passed & {f"{secret} {index}" for index in range(len(tests))}) / len(tests)

    def _share_of_cases(self, program: str, cases: Sequence[tuple[str, str]]) -> float:
        passed = 0
        for given, expected in cases:
            result = self._sandbox.run(program, stdin=given)
            right = result.ok and plain_output(result.stdout) == plain_output(expected)
            passed += right
            # Without partial credit one wrong case decides; one that hangs would take the full time for every case.
            if not right and (not self._partial or result.end == "wall_time"):
                break
        return passed / len(cases)


def _parsed(value: Any) -> Any:
    """A column's value; text that is a JSON list or object is that."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _cases(wanted: Any, metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    if isinstance(wanted, list):
        return [(str(case["input"]), str(case["output"])) for case in wanted]
    if isinstance(wanted, dict):
        return [(str(wanted["input"]), str(wanted["output"]))]
    return [(str(metadata.get("input") or ""), str(wanted))]
