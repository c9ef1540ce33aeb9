from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bolt_ray.core.keys import concatenate_keys, encode_keys, prompt_key, shard_of

KEY = "c1f45ef80399d283c7a7641ff5f09c9d"


def test_key_of_a_text_prompt() -> None:
    assert prompt_key("1+1=?") == KEY


def test_key_of_chat_messages_does_not_depend_on_the_order_of_fields() -> None:
    one = prompt_key([{"role": "user", "content": "1+1=?"}])
    assert one == prompt_key([{"content": "1+1=?", "role": "user"}])
    assert one != KEY
    assert len(one) == 32


def test_shard_is_the_first_half_of_the_key_modulo_the_number_of_shards() -> None:
    assert shard_of(KEY, 1) == 0
    assert shard_of(KEY, 7) == 0xC1F45EF80399D283 % 7
    assert shard_of("0" * 15 + "5" + "f" * 16, 4) == 1


def test_own_ids_are_digested_to_choose_their_shard() -> None:
    ids = ["gsm8k-17", KEY.upper(), "é" * 32]
    digests = [hashlib.blake2b(i.encode(), digest_size=16, person=b"bolt_ray.v1").digest() for i in ids]
    assert encode_keys(ids).digests.astype(">u8").tobytes() == b"".join(digests)
    assert digests[0][:8].hex() == "e89815ddb796ecaf"
    assert shard_of("gsm8k-17", 5) == 0xE89815DDB796ECAF % 5


def test_same_key_and_shard_under_any_hash_seed() -> None:
    program = (
        "from bolt_ray.core.keys import prompt_key, shard_of;"
        "key = prompt_key([{'role': 'user', 'content': 'π?'}]);"
        "print(key, shard_of(key, 13), shard_of('my-id', 13))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    key = prompt_key([{"role": "user", "content": "π?"}])
    assert outputs == {f"{key} {shard_of(key, 13)} {shard_of('my-id', 13)}\n"}


@given(st.lists(st.text(min_size=1) | st.binary(min_size=16, max_size=16).map(bytes.hex), max_size=12))
def test_a_batch_keeps_its_keys_and_agrees_with_single_keys(keys: list[str]) -> None:
    batch = encode_keys(keys)
    assert batch.strings() == keys
    assert batch.shards(5).tolist() == [shard_of(key, 5) for key in keys]
    backwards = np.arange(len(keys))[::-1]
    assert batch.take(backwards).strings() == keys[::-1]
    assert batch.take(np.arange(len(keys)) % 2 == 0).strings() == keys[::2]
    assert concatenate_keys([batch, batch]).strings() == keys + keys


def test_a_lone_surrogate_has_a_key() -> None:
    assert encode_keys(["\ud800"]).strings() == ["\ud800"]
    assert len(prompt_key("\ud800")) == 32


def test_no_keys() -> None:
    batch = encode_keys([])
    assert (len(batch), batch.strings(), batch.shards(2).tolist()) == (0, [], [])
    assert concatenate_keys([]).strings() == []


def test_refused() -> None:
    with pytest.raises(ValueError, match="key 1 is empty"):
        encode_keys(["a", ""])
    with pytest.raises(ValueError, match="at least one shard"):
        shard_of(KEY, 0)
