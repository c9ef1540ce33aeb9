from __future__ import annotations

import json
from typing import Any

import pytest
from support.rewards import make_reward

from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.rewards.program import CodeReward, extract_program, plain_output
from bolt_ray.rewards.protocol import RewardInput, Unscored, Verdict

ADD = "Here:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."
TESTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'"]


@pytest.fixture(scope="module")
def sandboxed() -> None:
    """For tests that run programs; that some sandbox works is demanded in test_sandbox.py."""
    try:
        make_reward("code")
    except EnvironmentProblem as problem:
        pytest.skip(str(problem))


def one(reward: CodeReward, completion: str, answer: Any = "", **metadata: Any) -> Verdict:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return reward.score([RewardInput(prompt="", completion=completion, answer=text, metadata=metadata)])[0]


def test_the_program_is_found() -> None:
    assert extract_program(ADD) == "def add(a, b):\n    return a + b\n"
    assert extract_program("```python\na\n```\n```\nb\n```") == "a\n"
    assert extract_program("```\na\n```\n```\nb\n```") == "b\n"
    assert extract_program("```py\ncut off") == "cut off"
    assert extract_program("x = 1") == "x = 1"
    assert plain_output(" 1 \n2  \n\n") == "1\n2"


def test_tests(sandboxed: None) -> None:
    reward = make_reward("code")
    assert one(reward, ADD, TESTS) == 1.0
    assert one(reward, ADD, "\n".join(TESTS)) == 1.0
    assert one(reward, ADD.replace("+", "-"), TESTS) == 0.0
    assert one(reward, "```python\ndef add(:\n```", TESTS) == 0.0
    assert one(reward, "", TESTS) == 0.0
    missing = one(reward, ADD)
    assert isinstance(missing, Unscored) and missing.kind == "no_tests"


def test_partial_and_columns_and_check_functions(sandboxed: None) -> None:
    partial = make_reward("code", partial=True, tests_column="tests")
    wrong = "def add(a, b):\n    return a + b if isinstance(a, int) else None"
    assert one(partial, wrong, tests=TESTS) == pytest.approx(2 / 3)
    check = "def check(candidate):\n    assert candidate(2, 2) == 4"
    assert one(partial, ADD, tests=check, entry_point="add") == 1.0
    assert one(partial, ADD.replace("+", "-"), tests=check, entry_point="add") == 0.0


@pytest.mark.parametrize(
    "cheat",
    [
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "print('passed 0')\nprint('0' * 32, 0)",
        "def add(a, b):\n    import os\n    os._exit(0)",
        "import os\nos.kill(os.getpid(), 9)",
        "import builtins\nbuiltins.AssertionError = None\nopen('tests.txt')",
    ],
)
def test_ending_early_is_not_passing(sandboxed: None, cheat: str) -> None:
    assert one(make_reward("code"), f"```python\n{cheat}\n```", TESTS) == 0.0


@pytest.mark.slow
def test_a_program_that_hangs_is_wrong_and_keeps_what_it_passed(sandboxed: None) -> None:
    source = "def add(a, b):\n    while a == -1: pass\n    return a + b"
    assert one(make_reward("code", wall_s=2.0), source, TESTS) == 0.0
    assert one(make_reward("code", wall_s=2.0, partial=True), source, TESTS) == pytest.approx(1 / 3)


def test_output(sandboxed: None) -> None:
    reward = make_reward("code", check="output", partial=True)
    double = "```python\nprint(int(input()) * 2)\n```"
    cases = [{"input": "2\n", "output": "4"}, {"input": "3\n", "output": "6\n"}, {"input": "x", "output": "0"}]
    assert one(reward, double, cases) == pytest.approx(2 / 3)
    assert one(reward, double, "8", input="4\n") == 1.0
    assert one(reward, "print('8'); raise SystemExit(1)", "8") == 0.0
    other = one(reward, double, [{"in": 1}])
    assert isinstance(other, Unscored) and other.kind == "bad_tests"
