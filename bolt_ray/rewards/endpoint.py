"""The ``http`` reward, and the HTTP client with retries that ``llm_judge`` also uses."""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import random
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

from bolt_ray.core.secrets import check_door, is_loopback
from bolt_ray.core.settings import SettingError, setting
from bolt_ray.rewards.protocol import RewardInput, Unscored
from bolt_ray.rewards.settings import RewardSettings

RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
MAX_BACKOFF_S = 30.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024


class EndpointError(Exception):
    """The endpoint gave no usable answer; the message never contains the key."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to a place the configuration does not name."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings(RewardSettings):
    """What the rewards behind an HTTP endpoint share."""

    url: str = setting(
        ..., "where the requests go; https certificates are always verified", pattern=r"^https?://[^\s/]+"
    )
    api_key_env: str | None = setting(
        None,
        "environment variable, on the scorers' machines, with the key for Authorization: Bearer; never logged",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
    )
    request_timeout_s: float = setting(30.0, "limit of one request", unit="s", gt=0)
    max_retries: int = setting(
        4, "further tries after a failed connection or the statuses 408, 425, 429, 500, 502, 503 and 504", ge=0, le=20
    )
    backoff_s: float = setting(
        0.5, "wait before the first retry; doubles each time, with jitter; Retry-After is honored", unit="s", gt=0
    )
    concurrency: int = setting(8, "requests under way at a time, per scorer", ge=1, le=256)
    timeout_s: float | None = setting(300.0, "wall-clock limit of one call", unit="s", gt=0)

    def __post_init__(self) -> None:
        RewardSettings.__post_init__(self)
        try:
            check_door(self.url, has_key=self.api_key_env is not None)
        except ValueError as error:
            raise SettingError("url", str(error)) from None

    @property
    def variables(self) -> tuple[str, ...]:
        return (*(self.env or ()), *([self.api_key_env] if self.api_key_env else []))


class Endpoint:
    """POSTs JSON, with retries; certificates are verified, redirects refused. Safe for several threads.

    Args:
        path: added to the URL of the settings.

    Raises:
        ValueError: the variable of the key is not set.
    """

    def __init__(self, settings: EndpointSettings, *, path: str = "") -> None:
        self._url = f"{settings.url.rstrip('/')}{path}" if path else settings.url
        self._timeout_s = settings.request_timeout_s
        self._max_retries = settings.max_retries
        self._backoff_s = settings.backoff_s
        self._headers = {"Content-Type": "application/json", "User-Agent": "bolt-ray"}
        if settings.api_key_env is not None:
            key = os.environ.get(settings.api_key_env, "").strip()
            if not key:
                raise ValueError(f"the environment variable {settings.api_key_env} (`api_key_env`) is not set")
            self._headers["Authorization"] = f"Bearer {key}"
        handlers: list[urllib.request.BaseHandler] = [
            _NoRedirects(),
            urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        ]
        if is_loopback(urllib.parse.urlsplit(self._url).hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))  # a proxy is another machine, and would read the key
        self._opener = urllib.request.build_opener(*handlers)

    def post(self, body: Mapping[str, Any]) -> Any:
        """The endpoint's JSON answer.

        Raises:
            EndpointError: no answer after all tries, a permanent error status, or an answer that is not JSON.
        """
        problem = EndpointError("not tried")
        for attempt in range(self._max_retries + 1):
            wait_s = min(MAX_BACKOFF_S, self._backoff_s * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                return self._try(body)
            except urllib.error.HTTPError as error:
                problem = EndpointError(f"HTTP status {error.code} after {attempt + 1} tries")
                asked_s = _retry_after_s(error.headers.get("Retry-After"))
                error.close()
                if error.code not in RETRIED_STATUSES:
                    raise problem from None
                wait_s = max(wait_s, min(MAX_BACKOFF_S, asked_s))
            except ssl.SSLCertVerificationError as error:
                raise EndpointError(f"certificate refused: {error.verify_message}") from None
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, ssl.SSLCertVerificationError):
                    raise EndpointError(f"certificate refused: {reason.verify_message}") from None
                problem = EndpointError(f"{type(reason).__name__}: {reason} after {attempt + 1} tries")
            if attempt < self._max_retries:
                time.sleep(wait_s)
        raise problem

    def _try(self, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(
            self._url, data=json.dumps(body).encode(), headers=self._headers, method="POST"
        )
        with self._opener.open(request, timeout=self._timeout_s) as answer:
            data = answer.read(MAX_ANSWER_BYTES + 1)
        if len(data) > MAX_ANSWER_BYTES:
            raise EndpointError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        try:
            return json.loads(data)
        except ValueError as error:
            raise EndpointError("the answer is not JSON") from error


def _retry_after_s(value: str | None) -> float:
    """Seconds a ``Retry-After`` header asks for, as a number or a date; 0.0 without one."""
    if value is None:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings(EndpointSettings):
    """``type: http`` - POSTs ``{"inputs": [...]}``, expects ``{"rewards": [number or null, ...]}``."""

    batch_size: int = setting(16, "completions per request", ge=1)


class HttpReward:
    """A reward behind HTTP: POSTs ``{"inputs": [RewardInput, …]}``, reads ``{"rewards": [number | null, …]}``.

    A request that still fails after its retries leaves its completions unscored; the others keep their rewards.
    """

    settings = HttpSettings
    batched = True

    def __init__(self, settings: HttpSettings) -> None:
        self._endpoint = Endpoint(settings)
        self._threads = ThreadPoolExecutor(max_workers=settings.concurrency)
        self._batch_size = settings.batch_size

    def score(self, inputs: Sequence[RewardInput]) -> list[object]:
        batches = [inputs[i : i + self._batch_size] for i in range(0, len(inputs), self._batch_size)]
        return [value for values in self._threads.map(self._score_batch, batches) for value in values]

    def _score_batch(self, inputs: Sequence[RewardInput]) -> list[object]:
        try:
            answer = self._endpoint.post({"inputs": [item.to_dict() for item in inputs]})
        except EndpointError as problem:
            return [Unscored("http", str(problem))] * len(inputs)
        rewards = answer.get("rewards") if isinstance(answer, dict) else None
        if not isinstance(rewards, list):
            return [Unscored("http", "the answer has no list `rewards`")] * len(inputs)
        if len(rewards) != len(inputs):
            return [Unscored("wrong_count", f"{len(rewards)} rewards for {len(inputs)} completions")] * len(inputs)
        return rewards
