"""A store of one system as the warm start of another: under Ray, and in TRL's trainer.

    python -m bolt_ray.integrations.trl.convert runs/my-run warm.json      # then baseline.warm_start=warm.json
    BoltConfig(..., baseline_warm_start="runs/my-run")                     # the other way, nothing to convert

A store holds how each prompt differs from the level of its own time; a warm-start file holds Beta counts, which the
reader measures against their mean. The counts are chosen so that the reader finds the same v̂:

    v̂' = M + (α − cM)/(c + m) = v̂,   α + β = c = N_eff,   M = Σ v̂(c + m)/c / Σ (c + m)/c

m the strength that the reader begins with. What would need α outside [0, c] is cut there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bolt_ray.core.baseline import BaselineSettings, BaselineStore
from bolt_ray.core.baseline.sharded_snapshot import MANIFEST, read_sharded_snapshot
from bolt_ray.core.baseline.snapshot import BaselineSnapshot, read_snapshot
from bolt_ray.core.baseline.warm_start import WarmStartReport
from bolt_ray.core.errors import CheckpointError, UserError
from bolt_ray.core.files import write_file_atomically
from bolt_ray.integrations.trl.baseline import BASELINE_FILE

_FIRST_STRENGTH = BaselineStore().strength
_LEAST_COUNT = 1e-6


def find_store(path: str | Path) -> Path:
    """The store in a run, the newest; in a checkpoint; or the store's own file or directory.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    if path.is_file() or ((path / MANIFEST).is_file() and list(path.glob("shard-*"))):
        return path
    # A checkpoint holds one, a run several; names of checkpoints end in their step.
    for pattern in (BASELINE_FILE, "baseline", f"checkpoint-*/{BASELINE_FILE}", "checkpoints/step-*/baseline"):
        found = sorted(path.glob(pattern), key=lambda each: (len(str(each)), str(each)))
        if found:
            return found[-1]
    raise CheckpointError(
        f"{path}: no store of a baseline there; give a run or a checkpoint of bolt-ray, under Ray or of BoltGRPOTrainer"
    )


def read_store(path: str | Path) -> BaselineStore:
    """The store of a run under Ray or of a TRL trainer, with its own settings.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    place = find_store(path)
    snapshot = read_snapshot(place) if place.is_file() else read_sharded_snapshot(place)
    store = BaselineStore(_settings_of(snapshot))
    store.restore([snapshot])
    return store


def warm_start_document(store: BaselineStore) -> dict[str, Any]:
    """What a warm-start file says of a store's prompts with evidence."""
    snapshot = store.snapshot()
    keys = snapshot.keys.strings()
    read = store.read(snapshot.keys)
    counts = np.maximum(read.n_eff, _LEAST_COUNT)
    means = read.v_hat
    if store.settings.estimator == "two_level" and len(keys):
        stretch = (counts + _FIRST_STRENGTH) / counts
        middle = float((read.v_hat * stretch).sum() / stretch.sum())
        means = np.clip(middle + (read.v_hat - middle) * stretch, 0.0, 1.0)
    return {
        "metadata": {"n_prompts": len(keys), "mean_v_hat": float(read.v_hat.mean()) if len(keys) else 0.5},
        "baselines": {
            key: {"alpha": mean * count, "beta": (1.0 - mean) * count}
            for key, mean, count in zip(keys, means.tolist(), counts.tolist(), strict=True)
        },
    }


def write_warm_start(source: str | Path, output: str | Path) -> int:
    """Write the warm-start file of a store, for ``baseline.warm_start`` or ``baseline_warm_start``.

    Returns:
        How many prompts it holds.

    Raises:
        CheckpointError: there is no store at ``source``, or it is damaged.
    """
    document = warm_start_document(read_store(source))
    text = json.dumps(document, indent=1, ensure_ascii=False)
    write_file_atomically(Path(output), lambda file: file.write(text.encode("utf-8", "surrogatepass")))
    return len(document["baselines"])


def warm_start(store: BaselineStore, source: str | Path) -> WarmStartReport:
    """Let a warm-start file, or another run's store, into a store that has its rows.

    Raises:
        CheckpointError: it cannot be used, or fits none of the rows.
    """
    path = Path(source)
    if path.suffix == ".json":
        return store.load_from_json(path)
    with tempfile.TemporaryDirectory() as directory:
        converted = Path(directory) / f"{path.name or 'store'}.json"
        write_warm_start(path, converted)
        return store.load_from_json(converted)


def _settings_of(snapshot: BaselineSnapshot) -> BaselineSettings:
    meaning = snapshot.meaning
    low, high = meaning["reward_range"]
    settings = BaselineSettings(
        estimator=meaning["estimator"], forgetting=meaning["forgetting"], reward_range=(low, high)
    )
    return replace(settings, prior="mean") if meaning.get("prior") == "mean" else settings


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="a run or checkpoint, under Ray or of BoltGRPOTrainer")
    parser.add_argument("output", help="the warm-start file to write")
    arguments = parser.parse_args()
    try:
        written = write_warm_start(arguments.source, arguments.output)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{written} prompts: baseline.warm_start={arguments.output}")


if __name__ == "__main__":
    main()
