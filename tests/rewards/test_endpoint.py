"""The rewards behind HTTP, against a real server on this machine."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.http_server import Answer, serve
from support.rewards import make_reward

from bolt_ray.rewards.endpoint import Endpoint, EndpointError, EndpointSettings
from bolt_ray.rewards.protocol import Reward, RewardInput, Unscored


def inputs(*completions: str) -> list[RewardInput]:
    return [RewardInput(prompt="2+2", completion=text, answer="4") for text in completions]


def lengths(body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
    return 200, {"rewards": [float(len(item["completion"])) for item in body["inputs"]]}, {}


def failing(times: int, status: int, headers: dict[str, str] | None = None) -> Answer:
    """Fails ``times`` times, then answers."""
    left = [times]

    def answer(body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        left[0] -= 1
        return (status, {"error": "busy"}, headers or {}) if left[0] >= 0 else lengths(body)

    return answer


def details(values: list[object]) -> list[str]:
    return [f"{v.kind}: {v.detail}" if isinstance(v, Unscored) else str(v) for v in values]


def test_batches_go_out_and_rewards_come_back_in_order() -> None:
    with serve(lengths) as (url, recorder):
        reward = make_reward("http", url=url, batch_size=2)
        assert reward.score(inputs("a", "bb", "ccc", "dddd", "eeeee")) == [1.0, 2.0, 3.0, 4.0, 5.0]
        assert reward.score([]) == []
    assert sorted(len(body["inputs"]) for body in recorder.bodies) == [1, 2, 2]
    first = next(item for body in recorder.bodies for item in body["inputs"] if item["completion"] == "a")
    assert (first["prompt"], first["answer"], first["truncated"]) == ("2+2", "4", False)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_statuses_that_may_pass_are_tried_again(status: int) -> None:
    with serve(failing(2, status)) as (url, recorder):
        assert make_reward("http", url=url, max_retries=2, backoff_s=0.01).score(inputs("abc")) == [3.0]
    assert len(recorder.bodies) == 3


def test_retry_after_is_waited_for() -> None:
    with serve(failing(1, 429, {"Retry-After": "1"})) as (url, _):
        started = time.monotonic()
        assert make_reward("http", url=url, backoff_s=0.01).score(inputs("abc")) == [3.0]
        assert time.monotonic() - started >= 1.0


def test_what_fails_for_good_is_unscored_and_alone() -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        kind = body["inputs"][0]["completion"]
        wrong: dict[str, tuple[int, Any, dict[str, str]]] = {
            "400": (400, {}, {}),
            "500": (500, {}, {}),
            "moved": (302, {}, {"Location": "http://127.0.0.1:9/"}),
            "html": (200, b"<html>", {}),
            "count": (200, {"rewards": [1.0, 2.0]}, {}),
            "list": (200, [1.0], {}),
        }
        return wrong.get(kind) or lengths(body)

    with serve(answer) as (url, recorder):
        reward = make_reward("http", url=url, batch_size=1, max_retries=1, backoff_s=0.01)
        got = details(reward.score(inputs("400", "500", "moved", "html", "count", "list", "ok")))
    assert got == [
        "http: HTTP status 400 after 1 tries",
        "http: HTTP status 500 after 2 tries",
        "http: HTTP status 302 after 1 tries",
        "http: the answer is not JSON",
        "wrong_count: 2 rewards for 1 completions",
        "http: the answer has no list `rewards`",
        "2.0",
    ]
    assert len(recorder.bodies) == 8


def test_a_server_that_is_not_there_and_one_that_is_slow() -> None:
    with serve(lengths) as (url, _):
        pass
    gone = details(make_reward("http", url=url, max_retries=1, backoff_s=0.01).score(inputs("a")))
    assert "ConnectionRefusedError" in gone[0] and "after 2 tries" in gone[0]

    release = threading.Event()

    def slow(body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        release.wait(30)
        return lengths(body)

    with serve(slow) as (url, _):
        late = details(make_reward("http", url=url, max_retries=0, request_timeout_s=0.2).score(inputs("a")))
        release.set()
    assert "timed out" in late[0]


def test_no_more_requests_at_once_than_allowed() -> None:
    three = threading.Barrier(3)

    def together(body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        three.wait(60)  # answers come when three requests are under way, never to fewer
        time.sleep(0.02)  # a fourth that is under way has arrived by then
        return lengths(body)

    with serve(together) as (url, recorder):
        reward = make_reward("http", url=url, batch_size=1, concurrency=3, request_timeout_s=60)
        assert reward.score(inputs(*["x"] * 12)) == [1.0] * 12
    assert recorder.most_running == 3


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOLT_TEST_KEY", "s3cret-key")
    with serve(failing(9, 401)) as (url, recorder):
        reward = make_reward("http", url=url, api_key_env="BOLT_TEST_KEY")
        assert "s3cret" not in details(reward.score(inputs("a")))[0]
    assert recorder.headers[0]["Authorization"] == "Bearer s3cret-key"
    with pytest.raises(ValueError, match="BOLT_TEST_NO_KEY"):
        make_reward("http", url=url, api_key_env="BOLT_TEST_NO_KEY")


def test_what_goes_to_this_machine_passes_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOLT_TEST_KEY", "s3cret-key")
    with serve(lengths) as (proxy, seen), serve(lengths) as (url, recorder):
        monkeypatch.setenv("http_proxy", proxy)
        assert make_reward("http", url=url, api_key_env="BOLT_TEST_KEY").score(inputs("abc")) == [3.0]
    assert (len(recorder.bodies), seen.bodies) == (1, [])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_certificates_are_verified(tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with serve(lengths, certificate=(certificate, key)) as (url, recorder):
        endpoint = Endpoint(EndpointSettings(type="http", url=url, request_timeout_s=10, max_retries=3, backoff_s=0.01))
        with pytest.raises(EndpointError, match="certificate refused: self-signed certificate"):
            endpoint.post({})
    assert recorder.bodies == []


def judge(url: str, **options: Any) -> Reward:
    return make_reward("llm_judge", url=url, model="judge", backoff_s=0.01, **options)


def says(*texts: str) -> Answer:
    left = list(texts)

    def answer(body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        return 200, {"choices": [{"message": {"role": "assistant", "content": left.pop(0)}}]}, {}

    return answer


def test_the_judges_grade_is_mapped_to_the_unit_range() -> None:
    replies = ["Score: 10", "Good, but score: 2.5\nScore: 7.5", "I cannot say", "Score: 11", "Score: 0"]
    with serve(says(*replies)) as (url, recorder):
        got = details(judge(f"{url}/v1", concurrency=1).score(inputs("a", "b", "c", "d", "{answer}")))
    assert got[:2] == ["1.0", "0.75"]
    assert got[2].startswith("no_grade: no grade in the judge's answer 'I cannot say'")
    assert got[3] == "no_grade: grade 11 is outside 0 … 10"
    assert got[4] == "0.0"
    assert set(recorder.paths) == {"/v1/chat/completions"}
    request = recorder.bodies[4]
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("judge", 0.0, 256)
    asked = request["messages"][0]["content"]
    assert "Question:\n2+2" in asked and "(may be empty):\n4\n" in asked and "grade:\n{answer}\n" in asked


def test_a_judge_that_fails_is_no_verdict() -> None:
    with serve(failing(1, 500)) as (url, recorder):
        assert details(judge(url, max_retries=0).score(inputs("a"))) == ["http: HTTP status 500 after 1 tries"]
        assert len(recorder.bodies) == 1
    with serve(lambda body: (200, {"choices": []}, {})) as (url, _):
        assert details(judge(url).score(inputs("a"))) == ["http: the answer has no choices[0].message.content"]


def test_a_chat_prompt_is_written_out_for_the_judge() -> None:
    chat = RewardInput(prompt=[{"role": "user", "content": "Hi"}], completion="Hello")
    with serve(says("Score: 5")) as (url, recorder):
        assert judge(url, prompt="{prompt}|{completion}|{other}").score([chat]) == [0.5]
    assert recorder.bodies[0]["messages"][0]["content"] == "user: Hi|Hello|{other}"
