"""The ``code`` reward: the completion's program against tests, or against expected output, in the sandbox."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.core.settings import SettingError, setting
from bolt_ray.rewards.endpoint import EndpointSettings
from bolt_ray.rewards.exchange.tests_side import signed
from bolt_ray.rewards.protocol import RewardInput, Unscored
from bolt_ray.rewards.sandbox.box import Sandbox
from bolt_ray.rewards.sandbox.fusion import FusionSandbox
from bolt_ray.rewards.sandbox.results import RunResult, SandboxLimits

_FENCED = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


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
class CodeSettings(EndpointSettings):
    """``type: code`` - runs the completion's program in a sandbox: of this machine, or of a service."""

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
    sandbox: Literal["local", "http"] = setting(
        "local", "local: processes of this machine; http: a service with SandboxFusion's POST /run_code"
    )
    url: str = setting(
        "",
        "with sandbox http: the service; /run_code is added. The settings of the connection count for it alone",
        pattern=r"^(https?://[^\s/]+.*)?$",
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
        EndpointSettings.__post_init__(self)
        if self.sandbox == "http" and not self.url:
            raise SettingError("url", "is needed with sandbox http: http://host:8080, where POST /run_code is answered")
        if self.timeout_s is not None and self.timeout_s <= self.wall_s:
            raise SettingError("timeout_s", "(all runs of a completion) must be above wall_s (one run)")


class IdleTestError(Exception):
    """A test that says nothing about the program."""


class Runner(Protocol):
    """What runs programs: :class:`Sandbox` on this machine, :class:`FusionSandbox` on another."""

    def run(self, source: str, *, stdin: str) -> RunResult:
        """Run a program. Raises: EnvironmentProblem, where there is no verdict."""
        ...

    def run_tests(self, job: str) -> RunResult:
        """Run tests against a program in another process; see ``exchange/tests_side.py`` for job and output."""
        ...


class CodeReward:
    """1.0 if the program passes, else 0.0; with ``partial`` the share of tests or cases it passes.

    The program runs in one process, the tests and every comparison in another, which it cannot reach: what it returns
    is copied there as plain data. A program that fails, hangs or is stopped by a limit is wrong: 0. No verdict: a row
    without tests, a test that asks nothing of the program, a sandbox that cannot be set up or does not answer.

    Raises:
        EnvironmentProblem: no sandbox works here.
    """

    settings = CodeSettings

    def __init__(
        self,
        settings: CodeSettings,
        *,
        sandbox: Callable[..., Runner] = Sandbox,
        service: Callable[..., Runner] = FusionSandbox,
    ) -> None:
        limits = SandboxLimits(
            wall_s=settings.wall_s,
            cpu_s=settings.cpu_s,
            memory_mb=settings.memory_mb_program,
            max_processes=settings.max_processes,
            file_mb=settings.file_mb,
            output_kb=settings.output_kb,
        )
        self.batched = settings.sandbox == "http"
        if self.batched:
            self._sandbox = service(settings, limits=limits)
        else:
            self._sandbox = sandbox(limits=limits, allow_unsafe=settings.allow_unsafe)
        self._threads = ThreadPoolExecutor(max_workers=settings.concurrency if self.batched else 1)
        self._check = settings.check
        self._column = settings.tests_column
        self._partial = settings.partial

    def score(self, inputs: Sequence[RewardInput]) -> list[float | Unscored]:
        return list(self._threads.map(self._score_one, inputs))

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
        except IdleTestError as problem:
            return Unscored("bad_tests", str(problem))
        except (KeyError, TypeError) as problem:
            return Unscored("bad_tests", f"{self._column!r} has another form than expected: {problem!r}")
        return share if self._partial else float(share == 1.0)

    def _share_of_tests(self, program: str, wanted: Any, entry_point: str) -> float:
        tests = [str(test) for test in wanted] if isinstance(wanted, list) else [str(wanted)]
        key = secrets.token_hex(16)  # known to the tests' process alone: the program may find a way to its output
        job = {"program": program, "tests": tests, "entry_point": entry_point, "key": key}
        result = self._sandbox.run_tests(json.dumps(job))
        lines = [(line, line.partition(" ")[2]) for line in result.stdout.splitlines()]
        report = [json.loads(text) for line, text in lines if line == signed(text, key)]
        said = {kind: [value for other, value in report if other == kind] for kind in ("setup", "idle", "passed")}
        if said["setup"]:
            raise EnvironmentProblem(f"the program's process could not be set up: {said['setup'][0]}")
        if said["idle"]:
            raise IdleTestError(
                f"test {said['idle'][0]} passes without asking the program for anything; tests are run as they stand: "
                "call the function, or name it in the row's entry_point for a check(candidate)"
            )
        return len(set(said["passed"])) / len(tests)

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
