"""The level of a prompt by its text (core/baseline/text_level.py, prompt_features.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bolt_ray.core.baseline import BaselineStore
from bolt_ray.core.baseline.prompt_features import BUCKETS, NUM_FEATURES, prompt_features, prompt_text
from bolt_ray.core.baseline.text_level import SHARES

OUTCOMES = Path(__file__).parent / "outcomes" / "texts.npz"
"""A real run: 200 steps of 256 of 20,000 arithmetic problems, one completion each, with the problems."""

STEP = 256


def recorded() -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
    """The problems; int64 [steps, 256], which was asked; float64 [steps, 256], the rewards."""
    with np.load(OUTCOMES) as file:
        texts = file["texts"].tobytes().decode().split("\n")
        return texts, file["prompt"].reshape(-1, STEP).astype(np.int64), file["reward"].reshape(-1, STEP).astype(float)


def explained(features: NDArray[np.uint16] | None, *, first: int, last: int) -> tuple[float, float, float]:
    """Share of the reward's variance that v̂, read before each step's outcomes, removes in steps ``first`` … ``last``:
    of all prompts, of those never seen; and the share of texts at the end."""
    texts, asked, rewards = recorded()
    keys = [str(number) for number in range(len(texts))]
    store = BaselineStore()
    store.register(keys, None, features)
    missed, spread = np.zeros(2), np.zeros(2)
    for step in range(last):
        now, earned = [keys[number] for number in asked[step]], rewards[step]
        read = store.read(now)
        if step >= first:
            for i, which in enumerate((np.full(STEP, True), read.visits == 0)):
                missed[i] += ((earned - read.v_hat)[which] ** 2).sum()
                spread[i] += ((earned - earned.mean())[which] ** 2).sum()
        store.update_many(now, earned, np.ones(STEP, dtype=np.int64), drift=0.01)
    everything, unseen = (1.0 - missed / spread).tolist()
    return everything, unseen, store.metrics().get("baseline/text_share", -1.0)


def test_texts_tell_what_prompts_never_seen_are_worth() -> None:
    features = prompt_features(recorded()[0])
    everything, unseen, share = explained(features, first=10, last=60)
    alone, nothing, _ = explained(None, first=10, last=60)
    assert everything > alone + 0.2
    assert unseen > 0.3 > 0.05 > nothing
    assert share == 1.0


def test_texts_that_tell_nothing_cost_nearly_nothing() -> None:
    features = prompt_features(recorded()[0])
    shuffled = features[np.random.default_rng(0).permutation(len(features))]
    everything, _, share = explained(shuffled, first=10, last=60)
    alone, _, _ = explained(None, first=10, last=60)
    assert everything > alone - 0.02
    assert share < 1.0


def test_the_level_follows_the_text_only_after_enough_outcomes() -> None:
    store = BaselineStore()
    texts = ["1+2=", "3+4=", "98/(7-51)=", "87/(6-43)="]
    store.register(["a", "b", "c", "d"], None, prompt_features(texts))
    store.update_many(["a", "c"], [64.0, 0.0], [64, 64])
    assert store.get("b") == store.get("d")
    for _ in range(5):
        store.update_many(["a", "c"], [64.0, 0.0], [64, 64])
    assert store.get("b")[0] > 0.6 > 0.4 > store.get("d")[0]
    assert store.get("never registered")[0] == store.level.mean


def test_a_store_read_back_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    texts, asked, rewards = recorded()
    keys, features = [str(number) for number in range(len(texts))], prompt_features(texts)

    def learn(store: BaselineStore, steps: range) -> None:
        for step in steps:
            store.update_many([keys[n] for n in asked[step]], rewards[step], np.ones(STEP, dtype=np.int64), drift=0.01)

    whole, cut, after = BaselineStore(), BaselineStore(), BaselineStore()
    for store in (whole, cut, after):
        store.register(keys, None, features)
    learn(whole, range(6))
    learn(cut, range(3))
    cut.save(tmp_path / "store.npz")
    after.load(tmp_path / "store.npz")
    learn(after, range(3, 6))
    assert np.array_equal(after.get_many(keys)[0], whole.get_many(keys)[0])


def test_a_store_of_another_setting_is_read(tmp_path: Path) -> None:
    """Evidence is kept; the texts' level begins anew."""
    plain, told = BaselineStore(text_level=False), BaselineStore()
    for store in (plain, told):
        store.register(["a", "b"], None, prompt_features(["1+2=", "98/(7-51)="]))
    plain.update_many(["a"], [3.0], [4])
    plain.save(tmp_path / "plain.npz")
    told.load(tmp_path / "plain.npz")
    assert told.get("a") == plain.get("a")
    assert told.level.text is not None
    assert told.level.text.share == 0.0
    assert plain.level.text is None


@pytest.mark.parametrize("text", ["", "1", "12*(3-5)/36=", "What is the largest prime below one? " * 200, "数学"])
def test_every_text_has_features(text: str) -> None:
    features = prompt_features([text, text])
    assert features.shape == (2, NUM_FEATURES)
    assert features.dtype == np.uint16
    assert (features[0] == features[1]).all()
    assert features.max() < BUCKETS
    assert np.count_nonzero(features[0]) >= 3


def test_like_texts_share_features() -> None:
    one, near, far = prompt_features(["12*(3-5)/36=", "12*(3-5)/37=", "zebra"])
    assert np.intersect1d(one, near).size > np.intersect1d(one, far).size


def test_a_conversation_is_told_by_what_its_user_says() -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+2="}]
    parts = [{"role": "user", "content": [{"type": "image", "image": object()}, {"type": "text", "text": "1+2="}]}]
    assert prompt_text(talk) == prompt_text(parts) == prompt_text("1+2=") == "1+2="


def test_22_bytes_a_prompt() -> None:
    keys = [f"{i:032x}" for i in range(100_000)]
    sizes = []
    for features in (None, np.zeros((len(keys), NUM_FEATURES), dtype=np.uint16)):
        store = BaselineStore()
        store.register(keys, None, features)
        sizes.append(store.nbytes / len(keys))
    assert sizes[1] - sizes[0] == 22


def test_no_share_is_the_level_alone() -> None:
    assert SHARES[0] == 0.0
