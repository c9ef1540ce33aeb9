"""Secrets kept out of what a run shows, sends or writes beside its configuration: the one place that knows them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

MASK = "***"

_ANYWHERE = {"secret", "secrets", "password", "passwd", "passphrase", "credential", "credentials"}
_ANYWHERE |= {"authorization", "headers", "header", "cookie", "cookies", "apikey"}
# ``stop_token_ids`` and ``key_column`` name no secret, ``api_key`` and ``token`` do.
_LAST = {"key", "keys", "token", "tokens", "auth"}
_SHORTEST = 8
"""Characters of an environment variable's value from which on it is looked for; shorter ones are found by chance."""

_CREDENTIALS_IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_QUERY = re.compile(r"([?&]([^=&#\s]+)=)[^&#\s]+")
_MASKED_URL = re.compile(rf"://{re.escape(MASK)}@|://\S*[?&][^=&#\s]+={re.escape(MASK)}")
_KNOWN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|AKIA[0-9A-Z]{16}|xox[abprs]-[\w-]{10,})|(?<=Bearer )[^\s\"']+|(?<=Basic )[A-Za-z0-9+/=]{8,}"
)


def masked(tree: Any, *, environ: Mapping[str, str]) -> Any:
    """A copy of a configuration with its secrets as ``***``.

    Args:
        tree: mappings, lists and plain values. What a key's name says is secret is masked with all below it, numbers
            apart; every other text as by `masked_text`.
        environ: see `masked_text`.
    """
    return _masked(tree, _secret_values(environ), under_secret=False)


def masked_text(text: str, *, environ: Mapping[str, str]) -> str:
    """A text without credentials in URLs, tokens of well-known forms, and the values of secret variables.

    Args:
        environ: the environment; a variable is secret if its name says so (``WANDB_API_KEY``).
    """
    return _masked(text, _secret_values(environ), under_secret=False)  # type: ignore[no-any-return]


def left_out(tree: Any, place: str = "") -> Iterator[str]:
    """The keys of a configuration, as ``rewards[0].url``, whose secret `masked` has left out."""
    if isinstance(tree, Mapping):
        for key, below in tree.items():
            yield from left_out(below, f"{place}.{key}" if place else str(key))
    elif isinstance(tree, list | tuple):
        for number, below in enumerate(tree):
            yield from left_out(below, f"{place}[{number}]")
    elif isinstance(tree, str) and (_MASKED_URL.search(tree) or (tree == MASK and not place.endswith("]"))):
        yield place


def is_secret(name: str) -> bool:
    """Whether a key or variable of that name holds a secret; the name of a variable (``api_key_env``) is none."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    parts = [part for part in re.split(r"[^a-z0-9]+", words) if part]
    return bool(parts) and parts[-1] != "env" and (parts[-1] in _LAST or not _ANYWHERE.isdisjoint(parts))


def check_door(url: str, *, has_key: bool) -> None:
    """Refuse a URL with a secret in it, and one over which a key would go through the network in clear.

    Args:
        has_key: whether requests to it carry a key.

    Raises:
        ValueError: what is wrong and the remedy; the URL is not repeated, the message is logged.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.username is not None or any(is_secret(name) for name, _ in parse_qsl(parts.query)):
        raise ValueError(
            "must hold no user, password or key, it is written to the run's files; put the key into an environment "
            "variable and name that in api_key_env"
        )
    if has_key and parts.scheme != "https" and not is_loopback(host):
        raise ValueError(f"would send the key of api_key_env to {host} in clear; use https, or leave out api_key_env")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret_values(environ: Mapping[str, str]) -> list[str]:
    found = {value for name, value in environ.items() if is_secret(name) and len(value) >= _SHORTEST}
    found = {value for value in found if not value.startswith("/")}  # where a secret lies is none
    return sorted(found, key=len, reverse=True)


def _masked(value: Any, secrets: list[str], *, under_secret: bool) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _masked(below, secrets, under_secret=under_secret or is_secret(str(key)))
            for key, below in value.items()
        }
    if isinstance(value, list | tuple):
        return [_masked(below, secrets, under_secret=under_secret) for below in value]
    if not isinstance(value, str):
        return value
    if under_secret:
        return MASK if value else value
    for secret in secrets:
        value = value.replace(secret, MASK)
    value = _CREDENTIALS_IN_URL.sub(MASK, value)
    value = _QUERY.sub(lambda found: f"{found[1]}{MASK}" if is_secret(found[2]) else found[0], value)
    return _KNOWN.sub(MASK, value)
