"""The prompt stream, with the real Ray Data."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bolt_ray.core.errors import CheckpointError, DataError, ModelError, RunError, StallError
from bolt_ray.core.records import Prompt
from bolt_ray.data.ingest.build import build_store
from bolt_ray.data.ingest.read_plan import source_weights
from bolt_ray.data.settings import DatasetSettings
from bolt_ray.data.store import PromptStore
from bolt_ray.data.stream.draw_log import DrawLog
from bolt_ray.data.stream.stream import PromptStream
from bolt_ray.data.stream.window_reader import DRAWS_PER_TASK, Tokenize
from bolt_ray.engines.tokenizer import PromptTokenizer

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

NUM_ROWS = 400


def characters() -> Tokenize:
    """One token a character. Made inside a function, so that it travels to Ray's workers by value."""

    def tokenize(prompts: Sequence[Prompt]) -> list[NDArray[np.int32]]:
        return [np.array([ord(character) for character in str(prompt.prompt)], np.int32) for prompt in prompts]

    return tokenize


def store_of(datasets: list[DatasetSettings], home: Path) -> PromptStore:
    return build_store(
        datasets,
        store_dir=home / "stores",
        on_bad_row="error",
        max_prompt_chars=1_000_000,
        stall_timeout_s=120.0,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> PromptStore:
    home = tmp_path_factory.mktemp("prompts")
    for name, count in (("large", 300), ("small", 100)):
        rows = [{"prompt": f"{name} {number}", "answer": str(number)} for number in range(count)]
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    datasets = [DatasetSettings(name=str(home / f"{name}.jsonl")) for name in ("large", "small")]
    return store_of(datasets, home)


OPENED: list[PromptStream] = []


@pytest.fixture(autouse=True)
def closed_streams() -> Iterator[None]:
    """No stream reads on after its test."""
    yield
    while OPENED:
        OPENED.pop().close()


def make(store: PromptStore, draws_dir: Path, **settings: Any) -> PromptStream:
    stream = PromptStream(
        **{
            "store": store,
            "tokenize": characters(),
            "window_size": 64,
            "distinct_draws": settings.get("window_size", 64),
            "draws_dir": draws_dir,
            "seed": 7,
            "num_samples": 1,
            "max_prompt_tokens": 1024,
            "on_long_prompt": "skip",
            "stall_timeout_s": 120.0,
            **settings,
        }
    )
    OPENED.append(stream)
    return stream


def rows_of(stream: PromptStream, count: int) -> list[int]:
    return [drawn.prompt.row for drawn in stream.take(count)]


def test_prompts_come_tokenized_in_draw_order(store: PromptStore, tmp_path: Path) -> None:
    stream = make(store, tmp_path, num_samples=3)
    drawn = stream.take(130)
    assert [entry.group_id for entry in drawn] == list(range(130))
    assert stream.position == (2, 2)
    for entry in drawn[:5]:
        assert entry.prompt == store.read(np.array([entry.prompt.row]))[0]
        assert "".join(map(chr, entry.token_ids)) == entry.prompt.prompt
        assert (entry.token_ids.dtype, entry.num_samples) == (np.int32, 3)
    assert len({entry.prompt.row for entry in drawn[:64]}) == 64
    assert stream.metrics() == {"data/draws": 130.0}


def test_chat_and_text_prompts_with_a_real_tokenizer(tmp_path: Path) -> None:
    vocabulary = {token: number for number, token in enumerate("?abu<>:")}
    characters_only = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    characters_only.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=characters_only, unk_token="?")
    fast.chat_template = (
        "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
    )
    fast.save_pretrained(tmp_path / "model")
    (tmp_path / "text.jsonl").write_text('{"prompt": "ab"}\n')
    (tmp_path / "chat.jsonl").write_text('{"prompt": "b"}\n')
    datasets = [
        DatasetSettings(name=str(tmp_path / "text.jsonl")),
        DatasetSettings(name=str(tmp_path / "chat.jsonl"), chat=True, system_prompt="u"),
    ]
    both = store_of(datasets, tmp_path)
    tokenize = PromptTokenizer(path=str(tmp_path / "model"), trust_remote_code=False)
    drawn = make(both, tmp_path / "draws", tokenize=tokenize, window_size=2).take(2)
    assert {entry.prompt.source: entry.token_ids.tolist() for entry in drawn} == {
        "text": [1, 2],
        "chat": [4, 3, 5, 4, 2, 5, 1, 6],
    }


def test_the_sequence_is_a_function_of_the_seed(store: PromptStore, tmp_path: Path) -> None:
    expected = rows_of(make(store, tmp_path / "a"), 150)
    ahead = make(store, tmp_path / "b")
    ahead.prefetch_next()
    ahead.prefetch_next()
    assert rows_of(ahead, 150) == expected
    assert rows_of(make(store, tmp_path / "c", seed=8), 150) != expected


def test_a_window_of_several_tasks_comes_in_draw_order(store: PromptStore, tmp_path: Path) -> None:
    size = 2 * DRAWS_PER_TASK + 7
    drawn = make(store, tmp_path, window_size=size).take(size)
    assert [entry.group_id for entry in drawn] == list(range(size))
    logged = DrawLog(tmp_path, store_address=store.address).read(0).rows
    assert [entry.prompt.row for entry in drawn] == logged.tolist()


def test_weights_are_asked_once_per_window_and_when_promised(store: PromptStore, tmp_path: Path) -> None:
    asked: list[int] = []

    def weights(window: int) -> NDArray[np.float64]:
        asked.append(window)
        favored = np.full(NUM_ROWS, 1e-9)
        favored[window * 64 : window * 64 + 64] = 1.0
        return favored

    stream = make(store, tmp_path, weights=weights)
    assert sorted(rows_of(stream, 64)) == list(range(64))
    assert asked == [0]
    stream.prefetch_next()
    stream.prefetch_next()
    assert asked == [0, 1]
    assert sorted(rows_of(stream, 64)) == list(range(64, 128))
    assert sorted(rows_of(stream, 64)) == list(range(128, 192))
    assert asked == [0, 1, 2]


def test_resuming_goes_on_with_the_same_draws(store: PromptStore, tmp_path: Path) -> None:
    """The state is taken in the middle of window 1 with window 2 drawn; the weights have changed since."""
    stream = make(store, tmp_path)
    seen = rows_of(stream, 100)
    stream.prefetch_next()
    state = json.loads(json.dumps(stream.state_dict()))
    stream.save_draws(tmp_path / "saved")
    following = rows_of(stream, 100)
    lost = make(store, tmp_path / "elsewhere", weights=lambda window: np.linspace(1, 2, NUM_ROWS))
    lost.load_state_dict(state, draws_dir=tmp_path / "saved")
    assert lost.position == (1, 36)
    resumed = lost.take(92)
    assert [entry.prompt.row for entry in resumed] == following[:92]
    assert resumed[0].group_id == 100
    # Window 3 was drawn after the state was taken: it is drawn again, from today's weights.
    assert rows_of(lost, 8) != following[92:]
    assert len(seen) == 100


def test_resuming_at_the_end_of_a_window_and_before_anything(store: PromptStore, tmp_path: Path) -> None:
    expected = rows_of(make(store, tmp_path / "a"), 70)
    stream = make(store, tmp_path / "b")
    fresh = make(store, tmp_path / "c")
    fresh.load_state_dict(stream.state_dict(), draws_dir=tmp_path / "nothing")
    assert rows_of(fresh, 70) == expected
    stream.take(64)
    stream.save_draws(tmp_path / "saved")
    resumed = make(store, tmp_path / "b")
    resumed.load_state_dict(stream.state_dict(), draws_dir=tmp_path / "saved")
    resumed.prefetch_next()
    assert rows_of(resumed, 6) == expected[64:]


def test_states_that_do_not_fit_are_refused(store: PromptStore, tmp_path: Path) -> None:
    stream = make(store, tmp_path)
    next(stream)
    state = stream.state_dict()
    with pytest.raises(CheckpointError, match="window_size 64 and now has 32"):
        make(store, tmp_path, window_size=32).load_state_dict(state, draws_dir=tmp_path)
    before_it_could_be_set = {name: value for name, value in state.items() if name != "distinct_draws"}
    make(store, tmp_path).load_state_dict(before_it_could_be_set, draws_dir=tmp_path)
    with pytest.raises(CheckpointError, match="distinct_draws 64 and now has 8"):
        make(store, tmp_path, distinct_draws=8).load_state_dict(before_it_could_be_set, draws_dir=tmp_path)
    with pytest.raises(CheckpointError, match="saved with seed"):
        make(store, tmp_path, seed=1).load_state_dict(state, draws_dir=tmp_path)
    with pytest.raises(CheckpointError, match="impossible position"):
        stream.load_state_dict({**state, "offset": 65}, draws_dir=tmp_path)
    with pytest.raises(CheckpointError, match="draws of window 0 cannot be read"):
        make(store, tmp_path).load_state_dict(state, draws_dir=tmp_path / "elsewhere")


def test_a_resume_from_an_older_state_leaves_the_newer_one_as_it_was(store: PromptStore, tmp_path: Path) -> None:
    """What the newer one needs lies with it: window 2 is drawn otherwise after the resume, under the same number."""
    stream = make(store, tmp_path / "run")
    stream.take(70)
    older = stream.state_dict()
    stream.save_draws(tmp_path / "older")
    stream.take(70)
    newer = stream.state_dict()
    stream.save_draws(tmp_path / "newer")
    following = rows_of(stream, 40)
    back = make(store, tmp_path / "run", weights=lambda window: np.linspace(1, 2, NUM_ROWS))
    back.load_state_dict(older, draws_dir=tmp_path / "older")
    assert rows_of(back, 110)[-40:] != following
    again = make(store, tmp_path / "run")
    again.load_state_dict(newer, draws_dir=tmp_path / "newer")
    assert rows_of(again, 40) == following


def failing(kind: str) -> Tokenize:
    good = characters()

    def tokenize(prompts: Sequence[Prompt]) -> list[NDArray[np.int32]]:
        if kind == "refuse":
            raise ModelError("the tokenizer has no chat template")
        if kind == "fail":
            raise KeyError("eos")
        time.sleep(2)
        return good(prompts)

    return tokenize


@pytest.mark.parametrize(
    ("kind", "timeout_s", "error", "message"),
    [
        ("refuse", 120.0, ModelError, "^the tokenizer has no chat template$"),
        ("fail", 120.0, RunError, "the prompts of window 0 failed: KeyError: 'eos'"),
        (
            "sleep",
            0.3,
            StallError,
            r"waited for the prompts of window 0 since \S+ \(0 s\), and Ray Data gave nothing",
        ),
    ],
)
def test_failures_reach_the_consumer(
    store: PromptStore, tmp_path: Path, kind: str, timeout_s: float, error: type[Exception], message: str
) -> None:
    stream = make(store, tmp_path, tokenize=failing(kind), stall_timeout_s=timeout_s)
    with pytest.raises(error, match=message):
        next(stream)
    stream.close()


def test_two_datasets_come_out_at_their_weights(store: PromptStore, tmp_path: Path) -> None:
    datasets = [DatasetSettings(name="large.jsonl", weight=1), DatasetSettings(name="small.jsonl", weight=3)]
    stream = make(store, tmp_path, source_weights=source_weights(datasets))
    for _ in range(2):
        sources = [drawn.prompt.source for drawn in stream.take(64)]
        assert (sources.count("large"), sources.count("small")) == (16, 48)
    with pytest.raises(DataError, match=r"weights are given for \['large'\]"):
        make(store, tmp_path, source_weights={"large": 1.0})


def test_heldout_rows_never_come(store: PromptStore, tmp_path: Path) -> None:
    train, heldout = store.split_heldout(size=300)
    stream = make(store, tmp_path / "even", rows=train, window_size=100)
    assert sorted(rows_of(stream, 100)) == train.tolist()
    assert set(rows_of(stream, 100)).isdisjoint(heldout.tolist())
    # Weights belong to the rows that may be drawn, in their order.
    wanted = np.where(np.arange(100) < 10, 1.0, 1e-12)
    ten = make(store, tmp_path / "ten", rows=train, window_size=10, weights=lambda window: wanted)
    assert sorted(rows_of(ten, 10)) == train[:10].tolist()
    with pytest.raises(DataError, match="every row is held out"):
        make(store, tmp_path, rows=np.empty(0, np.int64))


def test_completions_are_allocated_per_draw(store: PromptStore, tmp_path: Path) -> None:
    train, _ = store.split_heldout(size=300)

    def allocate(window: int, drawn: NDArray[np.int64]) -> NDArray[np.int32]:
        return (drawn % 3 + 1).astype(np.int32)

    for entry in make(store, tmp_path, rows=train, num_samples=allocate).take(10):
        assert entry.num_samples == train.tolist().index(entry.prompt.row) % 3 + 1


def test_prompts_that_are_too_long_are_passed_over(
    store: PromptStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """ "large 7" has 7 characters, "large 17" has 8: only the first ten of "large" and all of "small" fit."""
    stream = make(store, tmp_path / "a", max_prompt_tokens=8, window_size=400)
    drawn = stream.take(200)
    fitting = [entry for entry in drawn if entry.group_id < 400]
    assert all(entry.token_ids.size <= 8 for entry in drawn)
    assert len(fitting) == 200
    assert stream.metrics()["data/skipped_too_many_tokens"] == stream.metrics()["data/draws"] - 200 > 0
    (told,) = [record.getMessage() for record in caplog.records if "tokens" in record.getMessage()]
    assert "large.jsonl, line " in told and "the prompt has 9 tokens, the limit is 8 (data.max_prompt_tokens" in told
    state = json.loads(json.dumps(stream.state_dict()))
    stream.save_draws(tmp_path / "saved")
    following = [(entry.group_id, entry.prompt.row) for entry in stream.take(30)]
    resumed = make(store, tmp_path / "a", max_prompt_tokens=8, window_size=400)
    resumed.load_state_dict(state, draws_dir=tmp_path / "saved")
    assert [(entry.group_id, entry.prompt.row) for entry in resumed.take(30)] == following
    with pytest.raises(DataError, match=r"not one of 8 prompts .* longer than 2 tokens"):
        make(store, tmp_path / "c", max_prompt_tokens=2, window_size=8).take(1)
    with pytest.raises(
        DataError, match=r"large\.jsonl, line \d+: the prompt has \d tokens, the limit is 7 .*on_long_prompt: skip"
    ):
        make(store, tmp_path / "b", max_prompt_tokens=7, on_long_prompt="error").take(64)


def test_a_run_that_a_long_prompt_ended_goes_on_with_the_advice_that_it_gave(
    store: PromptStore, tmp_path: Path
) -> None:
    """Under its own settings it stops at the same prompt again, from a checkpoint before it and from one after."""
    expected = make(store, tmp_path / "other").take(64)
    place = next(number for number, entry in enumerate(expected) if number > 2 and entry.token_ids.size == 9)
    limits: dict[str, Any] = {"max_prompt_tokens": 8, "on_long_prompt": "error"}
    short = [entry.prompt.row for entry in expected[:place] if entry.token_ids.size < 9]
    stream = make(store, tmp_path / "draws", max_prompt_tokens=8)
    rows_of(stream, len(short))
    states = [stream.state_dict()]
    stream = make(store, tmp_path / "draws", **limits)
    stream.load_state_dict(states[0], draws_dir=tmp_path / "draws")
    with pytest.raises(DataError, match=r"9 tokens, the limit is 8.*on_long_prompt: skip.*may be resumed with either"):
        stream.take(1)
    states.append(stream.state_dict())
    for state in states:
        for cure in ({"on_long_prompt": "skip", "max_prompt_tokens": 8}, {"max_prompt_tokens": 9}):
            again = make(store, tmp_path / "draws", **(limits | cure))
            again.load_state_dict(state, draws_dir=tmp_path / "draws")
            left = [entry for entry in expected[place:] if entry.token_ids.size <= again._max_prompt_tokens]
            assert rows_of(again, 3) == [entry.prompt.row for entry in left[:3]]
        again = make(store, tmp_path / "draws", **limits)
        again.load_state_dict(state, draws_dir=tmp_path / "draws")
        with pytest.raises(DataError, match="9 tokens, the limit is 8"):
            again.take(1)


def test_weights_of_the_wrong_shape(store: PromptStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\), not \(400,\)"):
        next(make(store, tmp_path, weights=lambda window: np.ones(3)))
    with pytest.raises(ValueError, match="positive"):
        next(make(store, tmp_path, weights=lambda window: np.zeros(NUM_ROWS)))
