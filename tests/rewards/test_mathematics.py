from __future__ import annotations

import threading

import pytest
from support.math_pairs import PAIRS
from support.rewards import make_reward, reward_spec

from bolt_ray.rewards.mathematics import MathReward
from bolt_ray.rewards.process.isolation import RewardProcess
from bolt_ray.rewards.protocol import RewardInput, Unscored, Verdict


def one(reward: MathReward, completion: str, answer: str) -> Verdict:
    return reward.score([RewardInput(prompt="", completion=completion, answer=answer)])[0]


def test_written_answer_pairs() -> None:
    reward = make_reward("math")
    assert [pair for pair in PAIRS if one(reward, *pair[:2]) != float(pair[2])] == []


def test_extraction_modes() -> None:
    text = r"I take \boxed{3} as given. The sum is 7"
    assert one(make_reward("math", extract="boxed"), text, "3") == 1.0
    assert one(make_reward("math", extract="last_number"), text, "7") == 1.0
    assert one(make_reward("math", extract="auto"), text, "3") == 1.0
    assert one(make_reward("math", extract="boxed"), "The sum is 7", "7") == 0.0
    assert one(make_reward("math", decimals=2), r"\boxed{3.141}", "3.14") == 1.0


def test_no_reference_is_no_verdict() -> None:
    empty = one(make_reward("math"), r"\boxed{3}", "")
    unreadable = one(make_reward("math"), r"\boxed{3}", "$")
    assert isinstance(empty, Unscored) and empty.kind == "no_answer"
    assert isinstance(unreadable, Unscored) and unreadable.kind == "bad_answer"


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("He answered 43-3=40 questions.\n#### 40", "40"),
        ("The answer is 5 per box, for 4 boxes.\n#### 20", "20"),
        ("First $x=\\boxed{5}$, so the sum is 12.\n#### 12", "12"),
        ("#### 3 is not it\n#### 1,234", "1234"),
    ],
)
def test_a_reference_counts_from_its_last_mark_on(answer: str, value: str) -> None:
    assert one(make_reward("math"), rf"\boxed{{{value}}}", answer) == 1.0
    assert one(make_reward("math"), r"\boxed{5}", answer) == 0.0


# Written in the form of GSM8K's own solutions (arXiv 2110.14168): worked steps, then the answer after four marks.
GSM8K_STYLE = [
    ("Of 43 questions she answered all but 3, so she answered 43-3=<<43-3=40>>40 questions.\n#### 40", "40"),
    ("Each box holds 6, so there are 4*6=<<4*6=24>>24 eggs.\nHe eats 2: the answer is 24-2=22, of 24.\n#### 22", "22"),
    ("The answer to the first part is $15.\nTogether they pay $15+$20=$<<15+20=35>>35.\n#### 35", "35"),
    ("They drive 2*600=<<2*600=1200>>1,200 miles.\n#### 1,200", "1200"),
    ("Half of 5 is 5/2=<<5/2=2.5>>2.5 pounds.\n#### 2.5", "2.5"),
    ("#### Step 1\nShe has 4 boxes.\n#### Answer\n4*6=<<4*6=24>>24 eggs.\n#### 24", "24"),
    ("The final answer is not 7 but 7-12=<<7-12=-5>>-5 degrees.\n#### -5", "-5"),
]


@pytest.mark.parametrize(("solution", "answer"), GSM8K_STYLE)
def test_a_solution_in_the_form_of_gsm8k_is_right_and_its_neighbours_wrong(solution: str, answer: str) -> None:
    reward = make_reward("math")
    assert one(reward, solution, answer) == 1.0
    assert one(reward, solution, solution) == 1.0
    assert one(reward, solution.rpartition("####")[0] + "#### 77", answer) == 0.0


@pytest.mark.parametrize(
    ("text", "truncated"),
    [
        ("First 10 / 2 = 5", True),
        (r"It is \boxed{5}", True),
        (r"It is 5, so \boxed{5", False),
        (r"\boxed{5} and then \boxed{5", False),
    ],
)
@pytest.mark.parametrize("extract", ["auto", "boxed"])
def test_what_is_not_finished_is_no_answer_unless_asked_for(text: str, truncated: bool, extract: str) -> None:
    item = RewardInput(prompt="", completion=text, answer="5", truncated=truncated)
    assert make_reward("math", extract=extract).score([item]) == [0.0]
    if extract == "auto":
        assert make_reward("math", unfinished=True).score([item]) == [1.0]


def test_right_steps_earn_a_part_of_the_reward() -> None:
    solution = "She sold 48/2 = <<48/2=24>>24 in May, 48+24 = <<48+24=72>>72 in all.\n#### 72"
    reward = make_reward("math", partial=0.5)

    def earned(completion: str, metadata: dict[str, str] | None = None, answer: str = "72") -> Verdict:
        return reward.score([RewardInput(prompt="", completion=completion, answer=answer, metadata=metadata or {})])[0]

    worked = {"solution": solution}
    assert earned("48/2 = 24, and 48 + 24 = 72. #### 72\n\\boxed{72}", worked) == 1.0
    assert earned("48/2 = 24, so 48 - 24 = 24. \\boxed{24}", worked) == 0.25
    assert earned("\\frac{48}{2} = 24 \\boxed{3}", answer=solution) == 0.25
    assert earned("48/2 = 25. \\boxed{25}", worked) == 0.0
    assert earned("24 and 72. \\boxed{24}", worked) == 0.0  # stated, not worked out
    assert earned(" ".join(f"{n}+0={n}" for n in range(100)) + " \\boxed{1}", worked) == 0.0  # a list of numbers
    assert earned("48/2 = 24 \\boxed{3}", {}) == 0.0  # nothing to compare with


def test_the_last_answer_tag_counts() -> None:
    text = "<answer>3</answer> no, <answer>4</answer>"
    assert one(make_reward("math"), text, "4") == 1.0
    assert one(make_reward("math"), text, "3") == 0.0


# Both would take minutes at least: the one to read, the other to compare.
ENDLESS = [(r"\boxed{9^{9^{9^{9}}}}", "2"), (r"\boxed{\sum_{k=1}^{10^{15}} \frac{1}{k^2+x}}", "3")]


def timed_out(verdict: Verdict) -> bool:
    return isinstance(verdict, Unscored) and verdict.kind == "timeout"


@pytest.mark.parametrize(("completion", "answer"), ENDLESS, ids=["reading", "comparing"])
def test_what_takes_too_long_is_no_verdict(completion: str, answer: str) -> None:
    assert timed_out(one(make_reward("math", parse_timeout_s=1), completion, answer))


@pytest.mark.slow
def test_its_timeout_works_in_the_reward_process_even_when_the_caller_is_a_thread() -> None:
    patient = reward_spec(name="patient", type="math", timeout_s=120.0, options={"parse_timeout_s": 60})
    impatient = reward_spec(name="impatient", type="math", timeout_s=60.0, options={"parse_timeout_s": 1})
    got: list[Verdict] = []

    def score(process: RewardProcess, reward: int, *pairs: tuple[str, str]) -> None:
        got.extend(process.score(reward, [RewardInput(prompt="", completion=c, answer=a) for c, a in pairs]))

    def work() -> None:
        process = RewardProcess(rewards=[patient, impatient], startup_timeout_s=120.0)
        score(process, 0, (r"\boxed{2}", "2"))
        score(process, 1, *ENDLESS)
        score(process, 0, (r"\boxed{3}", "2"))
        got.append(float(process.starts))
        process.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (got[0], got[3]) == (1.0, 0.0)
    assert timed_out(got[1]) and timed_out(got[2])
    assert got[4] == 1.0  # math-verify stopped itself: the process was never killed


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [
        (r"\boxed{18 dollars}", "18", True),
        (r"\boxed{20 eggs}", "20", True),
        (r"\boxed{18}", "18 dollars", True),
        (r"\boxed{**42**}", "42", True),
        (r"\boxed{3 million}", "3", False),
        (r"\boxed{6.63 \times 10^{-34}}", r"6.63 \times 10^{-34}", True),
        (r"\boxed{6.63 \times 10^{-34}}", r"1.1 \times 10^{-34}", False),
        (r"\boxed{0.0000001}", "0.0000004", False),
        (r"\boxed{0}", "0", True),
        (r"\boxed{10^{400}}", r"10^{400}", True),
    ],
)
def test_numbers_that_are_counted_and_numbers_that_are_small(completion: str, answer: str, right: bool) -> None:
    assert one(make_reward("math"), completion, answer) == float(right)


def test_what_the_prompt_began_belongs_to_the_answer() -> None:
    begun = RewardInput(prompt="", completion=r"3\sqrt{2}}.", answer=r"3\sqrt{2}", prefill=r"\boxed{")
    tagged = RewardInput(prompt="", completion="5</answer> of 6", answer="5", prefill="<answer>")
    assert make_reward("math").score([begun, tagged]) == [1.0, 1.0]
