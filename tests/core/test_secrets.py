"""What is kept out of everything a run shows or sends."""

from __future__ import annotations

import pytest

from bolt_ray.config.tree import walk
from bolt_ray.core.secrets import is_secret, left_out, masked, masked_text

ENVIRON = {"JUDGE_API_KEY": "swordfish-77", "PIN_TOKEN": "1234", "HOME": "/home/someone", "PWD": "/home/someone"} | {
    "MODEL_CREDENTIALS": "/home/someone/models"
}


def test_a_configuration_is_masked_and_otherwise_the_same() -> None:
    config = {
        "rewards": [
            {
                "type": "http",
                "url": "https://me:hunter2@judge.example/score?api_key=abc&model=m",
                "api_key_env": "JUDGE_API_KEY",
                "options": {"headers": {"X-Team": "blue", "retries": 3}, "apiKey": "abc", "auth": ["u", "p"]},
            }
        ],
        "sampling": {"max_new_tokens": 8, "stop": ["hf_is_short"], "stop_token_ids": [5, "<eos>"]},
        "name": "run-swordfish-77-of-1234",
        "seed": None,
    }
    assert masked(config, environ=ENVIRON) == {
        "rewards": [
            {
                "type": "http",
                "url": "https://***@judge.example/score?api_key=***&model=m",
                "api_key_env": "JUDGE_API_KEY",
                "options": {"headers": {"X-Team": "***", "retries": 3}, "apiKey": "***", "auth": ["***", "***"]},
            }
        ],
        "sampling": {"max_new_tokens": 8, "stop": ["hf_is_short"], "stop_token_ids": [5, "<eos>"]},
        "name": "run-***-of-1234",
        "seed": None,
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("asked http://a:b@host/x and got 401", "asked http://***@host/x and got 401"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("hf_abcdefghijklmnopqrst is wrong", "*** is wrong"),
        ("sk-proj-abcdefghijklmnop", "***"),
        ("answer swordfish-77!", "answer ***!"),
        ("in /home/someone/run", "in /home/someone/run"),
        ("in /home/someone/models", "in /home/someone/models"),
        ("mail me@example.com about https://example.com/a?q=1", "mail me@example.com about https://example.com/a?q=1"),
    ],
)
def test_texts(text: str, shown: str) -> None:
    assert masked_text(text, environ=ENVIRON) == shown


def test_no_setting_of_ours_is_masked() -> None:
    texts = [place for place, field in walk() if field.annotation not in (int, int | None)]
    assert [place for place in texts if is_secret(place[-1])] == []
    assert [is_secret(name) for name in ("OPENAI_API_KEY", "token", "dbPassword", "aws_secret_id")] == [True] * 4


def test_what_was_left_out_of_a_configuration_is_found_again() -> None:
    tree = {
        "name": "ours",
        "sampling": {"stop": ["***", "=***"]},
        "rewards": [
            {"url": "http://me:hunter2@judge/"},
            {"url": "http://judge/?model=m&api_key=abc"},
            {"options": {"token": "abc", "of": 1}},
        ],
    }
    assert list(left_out(tree)) == []
    found = list(left_out(masked(tree, environ={})))
    assert found == ["rewards[0].url", "rewards[1].url", "rewards[2].options.token"]
