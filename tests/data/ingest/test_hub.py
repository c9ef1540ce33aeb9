"""What tells the data of a Hugging Face data set from other data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bolt_ray.data.ingest.hub import hub_fingerprint


@dataclass
class Loaded:
    """As much of a ``datasets.Dataset`` as is looked at."""

    cache_files: list[dict[str, str]]
    num_rows: int = 3


def loaded(cache: Path, *, commit: str = "e53f", content: str = "rows") -> Loaded:
    file = cache / "openai___gsm8k" / "main" / "0.0.0" / commit / "gsm8k-train.arrow"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    return Loaded([{"filename": str(file)}])


def test_the_same_data_are_the_same_wherever_their_cache_is(tmp_path: Path) -> None:
    here, there = tmp_path / "home" / "datasets", tmp_path / "shared" / "hf"
    one = hub_fingerprint(loaded(here), cache=here)
    assert one == hub_fingerprint(loaded(there), cache=there)
    assert str(tmp_path) not in one


def test_other_data_are_others(tmp_path: Path) -> None:
    caches = [tmp_path / str(number) for number in range(3)]
    made = [loaded(caches[0]), loaded(caches[1], commit="77aa"), loaded(caches[2], content="more rows")]
    assert len({hub_fingerprint(each, cache=cache) for each, cache in zip(made, caches, strict=True)}) == 3
    elsewhere = loaded(tmp_path / "saved_to_disk")  # not of the cache: its path is all there is
    assert str(tmp_path) in hub_fingerprint(elsewhere, cache=tmp_path / "0")
