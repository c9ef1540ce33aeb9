"""Reads a warm-start file: success rates of the prompts, measured with another model or in an earlier run.

    {"metadata": {"model", "dataset", "num_samples", "n_prompts", "mean_v_hat", "timestamp"},
     "baselines": {key: v̂ | [reward, ...] | {"alpha": α, "beta": β}}}

or the inner object alone. A key is a prompt's ``prompt_id``, its digest, or ``<dataset>_<row index>``.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.advantages import scale_rewards
from bolt_ray.core.errors import CheckpointError

FORMAT_VERSION = 1
RowKey = Callable[[str, int], str | None]
"""(data set name, row index within it) -> the key of that prompt, or None if there is no such row."""

_V_HAT_MARGIN = 0.01
_ENOUGH_HITS = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStartFile:
    """The evidence a file holds, n entries.

    Attributes:
        path: where it was read.
        keys: the file's own keys, n.
        alpha, beta: float64 [n].
        empty: entries that were left out because they hold no score.
        metadata: the file's ``metadata``.
    """

    path: Path
    keys: list[str]
    alpha: NDArray[np.float64]
    beta: NDArray[np.float64]
    empty: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStartReport:
    """How well a warm-start file fits the data set.

    Attributes:
        path: the file.
        entries: entries with evidence in the file.
        matched: entries that belong to a prompt of the data set.
        rows: rows of the data set; 0 if none is registered, then every entry counts as matched.
        hits: rows that start warm.
        hit_rate: hits / rows; matched / entries when no row is registered.
        warning: what to tell the user, None if 90 % or more of the rows start warm.
        metadata: the file's ``metadata``.
    """

    path: Path
    entries: int
    matched: int
    rows: int
    hits: int
    hit_rate: float
    warning: str | None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedEvidence:
    """The entries of a warm-start file that belong to prompts, under the prompts' own keys; m entries.

    Attributes:
        keys: m different keys.
        alpha, beta: float64 [m].
        report: how well the file fits.
    """

    keys: list[str]
    alpha: NDArray[np.float64]
    beta: NDArray[np.float64]
    report: WarmStartReport


def read_warm_start(
    path: Path, *, strength: float, reward_range: tuple[float, float], allow_pickle: bool = False
) -> WarmStartFile:
    """Read a warm-start file and turn its values into Beta counts.

    With N₀ = ``strength`` and s successes in n₀ scores, α = N₀(s + ½)/(n₀ + 1), β = N₀(n₀ - s + ½)/(n₀ + 1);
    a bare v̂ is clipped to [.01, .99] and gives α = N₀v̂, β = N₀(1 - v̂). Scores are raw rewards, scaled as in
    training; a null among them is an unscored completion.

    Args:
        path: the file.
        strength: N₀, how many outcomes an entry of the file is worth.
        reward_range: (lo, hi) of the raw rewards.
        allow_pickle: also read the old ``.pkl`` form, restricted to plain data.

    Raises:
        CheckpointError: no such file, not readable, of another version, or a value is impossible.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no warm-start file there")
    document = _document(path, allow_pickle=allow_pickle)
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: holds a {type(document).__name__}; expected an object of key: value")
    metadata: dict[str, Any] = {}
    baselines = document
    if isinstance(document.get("baselines"), dict):
        baselines = document["baselines"]
        metadata = document.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise CheckpointError(f"{path}: metadata is a {type(metadata).__name__}; expected an object")
        version = document.get("version", metadata.get("version", FORMAT_VERSION))
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: warm-start format version {version!r}; this program reads version "
                f"{FORMAT_VERSION}, write the file again with bolt-ray precompute-baseline"
            )
    keys: list[str] = []
    counts: list[tuple[float, float]] = []
    for key, value in baselines.items():
        if not isinstance(key, str) or not key:
            raise CheckpointError(f"{path}: key {key!r}; keys must be non-empty text")
        evidence = _beta_counts(value, strength, reward_range, where=f"{path}: baseline of {key!r}")
        if evidence is not None:
            keys.append(key)
            counts.append(evidence)
    columns = np.array(counts, dtype=np.float64).reshape(-1, 2)
    return WarmStartFile(
        path=path,
        keys=keys,
        alpha=columns[:, 0],
        beta=columns[:, 1],
        empty=len(baselines) - len(keys),
        metadata=metadata,
    )


def match_prompts(
    file: WarmStartFile,
    *,
    rows_of: Callable[[Sequence[str]], NDArray[np.int64]],
    num_rows: int,
    row_key: RowKey | None,
) -> MatchedEvidence:
    """Find the prompts the entries of ``file`` belong to.

    An entry that matches by its own key goes before one that matches as ``<dataset>_<row index>``.

    Args:
        file: what was read.
        rows_of: keys -> int64, how many rows of the data set have each key.
        num_rows: rows of the data set; with 0 nothing is known of it and every entry is taken.
        row_key: resolves ``<dataset>_<row index>``.

    Raises:
        CheckpointError: no entry belongs to any prompt.
    """
    entries = len(file.keys)
    position: dict[str, int] = {}
    if num_rows == 0:
        position = {key: i for i, key in enumerate(file.keys)}
        rows = np.zeros(entries, dtype=np.int64)
    else:
        direct = rows_of(file.keys)
        position = {file.keys[i]: i for i in np.flatnonzero(direct).tolist()}
        for i in np.flatnonzero(direct == 0).tolist():
            key = _resolve(file.keys[i], row_key)
            if key is not None:
                position.setdefault(key, i)
        rows = rows_of(list(position))
        position = {key: i for (key, i), n in zip(position.items(), rows.tolist(), strict=True) if n > 0}
    matched = len(position)
    if matched == 0:
        example = f" such as {file.keys[0]!r}" if file.keys else ""
        raise CheckpointError(
            f"{file.path}: none of its {entries} keys{example} belongs to a prompt of the data set "
            "(hit rate 0 %); keys must be prompt ids, prompt digests or <dataset>_<row index>"
        )
    hits = int(rows.sum())
    hit_rate = hits / num_rows if num_rows else matched / entries
    warning = None
    if hit_rate < _ENOUGH_HITS:
        warning = (
            f"{file.path}: only {hits} of {num_rows} prompts ({hit_rate:.1%}) start warm; "
            f"{matched} of the file's {entries} keys belong to the data set"
        )
    chosen = np.fromiter(position.values(), dtype=np.int64, count=matched)
    return MatchedEvidence(
        keys=list(position),
        alpha=file.alpha[chosen],
        beta=file.beta[chosen],
        report=WarmStartReport(
            path=file.path,
            entries=entries,
            matched=matched,
            rows=num_rows,
            hits=hits,
            hit_rate=hit_rate,
            warning=warning,
            metadata=file.metadata,
        ),
    )


def _resolve(alias: str, row_key: RowKey | None) -> str | None:
    dataset, _, row = alias.rpartition("_")
    if row_key is None or not dataset or not (row.isascii() and row.isdigit()):
        return None
    return row_key(dataset, int(row))


def _beta_counts(
    value: object, strength: float, reward_range: tuple[float, float], *, where: str
) -> tuple[float, float] | None:
    """(α, β) of one entry, None if it holds no evidence."""
    if isinstance(value, dict):
        if set(value) != {"alpha", "beta"}:
            raise CheckpointError(f'{where} has the keys {sorted(map(str, value))}; expected "alpha" and "beta"')
        alpha, beta = _number(value["alpha"], where), _number(value["beta"], where)
        if alpha < 0 or beta < 0 or alpha + beta == 0:
            raise CheckpointError(f"{where} is alpha {alpha}, beta {beta}; neither may be negative, nor both 0")
        return alpha, beta
    if isinstance(value, list):
        scores = [_number(score, where) for score in value if score is not None]
        if not scores:
            return None
        successes = float(scale_rewards(scores, *reward_range).sum())
        share = strength / (len(scores) + 1)
        return share * (successes + 0.5), share * (len(scores) - successes + 0.5)
    v_hat = _number(value, where)
    if not 0.0 <= v_hat <= 1.0:
        raise CheckpointError(f"{where} is {v_hat}; a success rate lies in [0, 1]")
    v_hat = min(max(v_hat, _V_HAT_MARGIN), 1.0 - _V_HAT_MARGIN)
    return strength * v_hat, strength * (1.0 - v_hat)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CheckpointError(f"{where} holds {value!r}; expected a finite number")
    return float(value)


def _document(path: Path, *, allow_pickle: bool) -> object:
    with path.open("rb") as file:
        is_pickle = path.suffix in (".pkl", ".pickle") or file.read(1) == b"\x80"
        file.seek(0)
        if is_pickle:
            return _unpickle(path, file, allow_pickle=allow_pickle)
        try:
            return json.load(file)
        except ValueError as error:
            raise CheckpointError(f"{path}: not valid JSON ({error})") from error


class _PlainDataUnpickler(pickle.Unpickler):
    """Builds dicts, lists, numbers and text; anything that names a class or function is refused."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}; only plain data is read")


def _unpickle(path: Path, file: BinaryIO, *, allow_pickle: bool) -> object:
    if not allow_pickle:
        convert = f"json.dump(pickle.load(open({str(path)!r}, 'rb')), open({str(path) + '.json'!r}, 'w'))"
        raise CheckpointError(
            f"{path}: a pickle can run any code when it is read. If you trust where it comes from, convert "
            f'it once: python -c "import json, pickle; {convert}", or allow pickles explicitly '
            "(then only plain dicts, lists, numbers and text are read)"
        )
    try:
        return _PlainDataUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise CheckpointError(f"{path}: cannot be read as plain data: {error}") from error
