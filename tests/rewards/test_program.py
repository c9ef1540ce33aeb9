from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from support.cheating_programs import CHEATS
from support.rewards import make_reward

from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.rewards.program import CodeReward, CodeSettings, extract_program, plain_output
from bolt_ray.rewards.protocol import RewardInput, Unscored, Verdict
from bolt_ray.rewards.sandbox.box import Sandbox

ADD = "Here:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."
TESTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'"]
HUMANEVAL = """

METADATA = {'author': 'me', 'dataset': 'test'}


def check(candidate):
    import math
    assert candidate(1, 2) == 3, "sum"
    assert math.fabs(candidate(0.1, 0.2) - 0.3) < 1e-6
    assert len(candidate([1], [2])) == 2
"""
KINDS_OF_TESTS: dict[str, dict[str, Any]] = {
    "asserts": {"answer": TESTS},
    "one text": {"answer": "\n".join(TESTS)},
    "humaneval": {"answer": HUMANEVAL, "entry_point": "add"},
    "one builtin": {
        "answer": "def check(candidate):\n    assert abs(candidate(1, 2) - 3) < 1e-6\n"
        "    assert abs(candidate(2, 2) - 4) < 1e-6",
        "entry_point": "add",
    },
    "caught": {
        "answer": ["try:\n    same = add(1, 2) == 3\nexcept Exception:\n    same = False\nassert same", *TESTS[1:]]
    },
    "an order": {"answer": ["assert 2 < add(1, 2) < 4 and abs(add(0.1, 0.2) - 0.3) < 1e-9 and 1 in add([1], [2])"]},
}


@pytest.fixture(scope="module")
def sandboxed() -> None:
    """For tests that run programs; that some sandbox works is demanded in test_sandbox.py."""
    try:
        make_reward("code")
    except EnvironmentProblem as problem:
        pytest.skip(str(problem))


@pytest.fixture(scope="module", params=["namespaces", "landlock"])
def reward(request: pytest.FixtureRequest) -> CodeReward:
    try:
        return CodeReward(
            CodeSettings(type="code", wall_s=20.0), sandbox=functools.partial(Sandbox, mechanism=request.param)
        )
    except EnvironmentProblem as problem:
        pytest.skip(f"this machine has no {request.param}: {problem}")


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


@pytest.mark.parametrize("kind", KINDS_OF_TESTS)
def test_right_and_wrong_programs(reward: CodeReward, kind: str) -> None:
    assert one(reward, ADD, **KINDS_OF_TESTS[kind]) == 1.0
    assert one(reward, ADD.replace("+", "and"), **KINDS_OF_TESTS[kind]) == 0.0
    assert one(reward, "```python\ndef add(:\n```", **KINDS_OF_TESTS[kind]) == 0.0
    assert one(reward, "", **KINDS_OF_TESTS[kind]) == 0.0


@pytest.mark.parametrize("name", CHEATS)
def test_nothing_is_won_without_a_program(reward: CodeReward, name: str) -> None:
    completion = f"```python\n{CHEATS[name]}\n```"
    kinds = ["asserts", "humaneval", "one builtin", "caught", "an order"]
    earned = {kind: one(reward, completion, **KINDS_OF_TESTS[kind]) for kind in kinds}
    assert earned == dict.fromkeys(kinds, 0.0)


def test_a_program_that_ends_in_a_test_that_catches_everything_has_not_passed_it(reward: CodeReward) -> None:
    looks_away = "try:\n    f(1)\nexcept BaseException:\n    pass"
    assert one(reward, "import os\ndef f(x):\n    os._exit(0)", looks_away) == 0.0
    assert one(reward, "def f(x):\n    raise ValueError", looks_away) == 1.0


# Programs that do nothing, and a test each that would have passed or proved nothing.
TRICKS: dict[str, tuple[str, str, Verdict | None]] = {
    "a value in place of a function": ("add = 5", "def test_add():\n    assert add(1, 2) == 3", None),
    "a value for a check that is not called": (
        "poly = 5",
        "def check(candidate):\n    assert poly(candidate(1)) == 0",
        None,
    ),
    "ends a loop of the test's": (
        "def f(x): raise StopIteration",
        "for given, wanted in zip(map(f, [1, 2]), [1, 4]):\n    assert given == wanted",
        0.0,
    ),
    "catches the failure": (
        "NegErr = AssertionError\ndef f(x): return 0",
        "try:\n    f(-1)\n    assert False\nexcept NegErr:\n    pass",
        0.0,
    ),
    "catches everything": (
        "NegErr = (ValueError, BaseException)\ndef f(x): return 0",
        "try:\n    f(-1)\n    assert False\nexcept NegErr:\n    pass",
        0.0,
    ),
}


@pytest.mark.parametrize("name", TRICKS)
def test_nothing_is_won_by_a_trick_on_the_test(reward: CodeReward, name: str) -> None:
    program, test, wanted = TRICKS[name]
    verdict = one(reward, program, [test])
    assert verdict == wanted if wanted is not None else isinstance(verdict, Unscored)


def test_partial_and_columns_and_check_functions(sandboxed: None) -> None:
    partial = make_reward("code", partial=True, tests_column="tests")
    wrong = "def add(a, b):\n    return a + b if isinstance(a, int) else None"
    assert one(partial, wrong, tests=TESTS) == pytest.approx(2 / 3)
    assert one(partial, ADD, tests=HUMANEVAL, entry_point="add") == 1.0
    assert one(partial, ADD, tests=HUMANEVAL, entry_point="plus") == 0.0
    missing = one(partial, ADD)
    assert isinstance(missing, Unscored) and missing.kind == "no_tests"


# A program, and a test of it that a program in the tests' own process would pass.
PASSES: dict[str, tuple[str, str]] = {
    "changes its argument": (
        "def f(rows):\n    rows.sort()\n    rows[0].append(9)\n    rows.append([])",
        "rows = [[2], [1]]\ninner = rows[1]\nf(rows)\nassert rows == [[1, 9], [2], []]",
    ),
    "changes what is inside": (
        "def f(d, s, *, extra):\n    d['x'].append(1); d['y'] = 2; s.discard(1); extra[:] = b'z'",
        "x = []; d = {'x': x}; s = {1, 2}; b = bytearray(b'ab')\nf(d, s, extra=b)\n"
        "assert x == [1] and d == {'x': [1], 'y': 2} and s == {2} and b == b'z'",
    ),
    "a class": (
        "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n"
        "    def __len__(self): return len(self.items)\n    def __getitem__(self, i): return self.items[i]",
        "s = Stack(); s.push(4); s.push(5); t = Stack()\n"
        "assert len(s) == 2 and s[1] == 5 and s.items == [4, 5] and isinstance(s, Stack) and not isinstance(3, Stack)\n"
        "assert s == s and s != t and list(s) == [4, 5] and 5 in s and s and not t\ns.items = []\nassert len(s) == 0",
    ),
    "objects that calculate": (
        "class V:\n    def __init__(self, x): self.x = x\n    def __add__(self, other): return V(self.x + other.x)\n"
        "    def __str__(self): return f'V({self.x})'",
        "assert (V(1) + V(2)).x == 3 and str(V(4)) == 'V(4)'",
    ),
    "an object handed back": (
        "class N:\n    pass\ndef same(a, b): return a is b",
        "n = N(); assert same(n, n) is True",
    ),
    "a generator": (
        "def count():\n    i = 0\n    while True:\n        yield i\n        i += 1",
        "from itertools import islice\ng = count()\n"
        "assert next(g) == 0 and list(islice(g, 3000)) == list(range(1, 3001))",
    ),
    "builtin exceptions": (
        "def f(x):\n    raise KeyError(x, 2)",
        "try:\n    f('a')\n    raise RuntimeError\n"
        "except LookupError as e:\n    assert type(e) is KeyError and e.args == ('a', 2)",
    ),
    "exceptions of its own": (
        "class Base(ValueError): pass\nclass Own(Base): pass\ndef f(): raise Own('no', 3)",
        "for kind in (Own, Base, ValueError):\n    try:\n        f()\n        raise RuntimeError\n"
        "    except kind as e:\n        assert e.args == ('no', 3)",
    ),
    "functions as arguments": (
        "def f(g, xs, key=None): return [g(x) for x in sorted(xs, key=key)]",
        "seen = []\n"
        "assert f(lambda x: seen.append(x) or x * 2, [1, 2], key=lambda x: -x) == [4, 2] and seen == [2, 1]\n"
        "import operator\nassert f(str, (1, 2)) == ['1', '2'] and f(operator.neg, {1}) == [-1]",
    ),
    "iterators as arguments": (
        "def f(xs): return next(xs) + sum(xs)",
        "assert f(iter([1, 2])) + f(x for x in [3]) == 6",
    ),
    "kinds of values": (
        "from collections import Counter, OrderedDict, deque, namedtuple\nfrom fractions import Fraction\n"
        "from decimal import Decimal\nimport datetime\nP = namedtuple('P', 'x y')\n"
        "def f(): return [2 ** 20000, -0.0, 1e308, 1j, b'\\x00', '\\ud800', None, True, (1, [2]), {(1, 2): {3}}, "
        "frozenset('a'), range(3), Counter('aa'), OrderedDict(b=1), deque([1]), P(1, 2), Fraction(1, 3), "
        "Decimal('0.10'), datetime.date(2020, 2, 2), datetime.timedelta(1), int, {}.keys()]",
        "from fractions import Fraction\nfrom decimal import Decimal\nimport datetime, collections\nresult = f()\n"
        "assert result == [2 ** 20000, -0.0, 1e308, 1j, b'\\x00', '\\ud800', None, True, (1, [2]), {(1, 2): {3}}, "
        "frozenset('a'), range(3), {'a': 2}, {'b': 1}, collections.deque([1]), (1, 2), Fraction(1, 3), "
        "Decimal('0.10'), datetime.date(2020, 2, 2), datetime.timedelta(1), int, []]\n"
        "assert [type(result[i]) for i in (0, 7, 12, 15)] == [int, bool, dict, tuple]",
    ),
    "not a number and infinity": (
        "def f(x): return x",
        "nan = f(float('nan')); assert nan != nan and f(float('inf')) == float('inf') and type(f(1.0)) is float",
    ),
    "constants and modules": (
        "import math\nLIMIT = [1, 2]\ndef f(): return LIMIT",
        "assert LIMIT == f() and math.pi > 3",
    ),
    "named like a builtin": ("def sum(a, b): return a * b", "assert sum(10, 15) == 150"),
    "named like a module": ("def statistics(a): return len(a)", "assert statistics([1]) == 1"),
    "prints": (
        "def f(): print('hi')",
        "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as out: f()\n"
        "assert out.getvalue() == 'hi\\n'",
    ),
    "a coroutine": ("async def f(x): return x + 1", "import asyncio\nassert asyncio.run(f(1)) == 2"),
    "a dataclass": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 1",
        "assert P().x == 1 and repr(P(3)) == 'P(x=3)'",
    ),
    "a main block": ("def f(): return 1\nif __name__ == '__main__':\n    print(input())", "assert f() == 1"),
    "names of a program": (
        "def f(x): return x",
        "def helper(y):\n    return f(y)\nassert [helper(z) for z in (1, 2)] == [1, 2]",
    ),
}


@pytest.mark.parametrize("name", PASSES)
def test_programs_and_tests_are_joined_as_in_one_process(reward: CodeReward, name: str) -> None:
    program, test = PASSES[name]
    assert one(reward, program, [test]) == 1.0


# Told in the guide: tests that need more than the program's values.
FAILS: dict[str, tuple[str, str]] = {
    "objects compare by identity": ("class P:\n    def __eq__(self, o): return True", "assert P() == P()"),
    "a subclass of a class of the program's": ("class A: pass", "class B(A): pass\nassert B()"),
    "an object of the tests'": ("def f(x): return x.y", "class T: y = 1\nassert f(T()) == 1"),
    "a builtin beside another name": (
        "def len(x): return 2\ndef f(x): return x",
        "assert len(f([1])) == 2",
    ),
    "a module beside another name": (
        "class math:\n    isclose = staticmethod(lambda a, b: True)\ndef f(x): return 0.0",
        "assert math.isclose(f(1), 5.0)",
    ),
    "eval given to the program": (
        "import sys\ndef f(g): return g('sys.modules[\"support\"]')",
        "assert f(eval)",
    ),
}


@pytest.mark.parametrize("name", FAILS)
def test_what_does_not_cross(reward: CodeReward, name: str) -> None:
    program, test = FAILS[name]
    assert one(reward, program, [test]) == 0.0


@pytest.mark.parametrize("test", ["assert True", HUMANEVAL, "def test_add():\n    assert add(1, 2) == 3"])
def test_a_test_that_asks_nothing_is_the_datasets_fault(reward: CodeReward, test: str) -> None:
    verdict = one(reward, ADD, [*TESTS, test])
    assert isinstance(verdict, Unscored) and verdict.kind == "bad_tests"
    assert "test 3" in verdict.detail and "entry_point" in verdict.detail


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
