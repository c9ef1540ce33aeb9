from __future__ import annotations

import threading

import pytest
from support.math_pairs import PAIRS

from bolt_ray.rewards.mathematics import MathReward, last_boxed, last_number
from bolt_ray.rewards.process.isolation import RewardProcess
from bolt_ray.rewards.protocol import RewardInput, Unscored, Verdict
from bolt_ray.rewards.registry import RewardSpec


def one(reward: MathReward, completion: str, answer: str) -> Verdict:
    return reward.score([RewardInput(prompt="", completion=completion, answer=answer)])[0]


def test_written_answer_pairs() -> None:
    reward = MathReward()
    wrong = [pair for pair in PAIRS if one(reward, *pair[:2]) != float(pair[2])]
    assert len(PAIRS) >= 100
    assert sum(not equal for *_, equal in PAIRS) >= 25
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} \boxed {2}", "2"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\fbox{3}", "3"),
        ("none", None),
    ],
)
def test_last_boxed(text: str, boxed: str | None) -> None:
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 and 3/4", "3/4"),
        ("-1,234.5 km", "-1,234.5"),
        ("10-5", "5"),
        (r"about 12\% of", "12%"),
        ("It is 5.", "5"),
        ("costs $1,250.", "1,250"),
        (".5", ".5"),
        ("none", None),
        ("", None),
    ],
)
def test_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == number


def test_extraction_modes() -> None:
    text = r"I take \boxed{3} as given. The sum is 7"
    assert one(MathReward(extract="boxed"), text, "3") == 1.0
    assert one(MathReward(extract="last_number"), text, "7") == 1.0
    assert one(MathReward(extract="auto"), text, "3") == 1.0
    assert one(MathReward(extract="boxed"), "The sum is 7", "7") == 0.0
    assert one(MathReward(decimals=2), r"\boxed{3.141}", "3.14") == 1.0


def test_no_reference_is_no_verdict() -> None:
    empty = one(MathReward(), r"\boxed{3}", "")
    unreadable = one(MathReward(), r"\boxed{3}", "$")
    assert isinstance(empty, Unscored) and empty.kind == "no_answer"
    assert isinstance(unreadable, Unscored) and unreadable.kind == "bad_answer"


@pytest.mark.slow
def test_its_time_out_works_in_the_reward_process_even_when_the_caller_is_a_thread() -> None:
    spec = RewardSpec(name="math", type="math", timeout_s=30.0, options={"parse_timeout_s": 1})
    items = [
        RewardInput(prompt="", completion=r"\boxed{2}", answer="2"),
        RewardInput(prompt="", completion=r"\boxed{9^{9^{9^{9}}}}", answer="2"),
        RewardInput(prompt="", completion=r"\boxed{(x+y+z)^{200} - (x+z+y)^{200}}", answer="(a+b+c+d)^{300}"),
        RewardInput(prompt="", completion=r"\boxed{3}", answer="2"),
    ]
    got: list[Verdict] = []

    def work() -> None:
        process = RewardProcess(rewards=[spec])
        got.extend(process.score(0, items))
        got.append(float(process.starts))
        process.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (got[0], got[3]) == (1.0, 0.0)
    assert all(verdict == 0.0 or isinstance(verdict, Unscored) for verdict in got[1:3])
    assert got[4] == 1.0  # math-verify stopped itself: the process was never killed
