"""`CurriculumScheduler.update` against an implementation that sums all counts at each update.

    python jobs/benchmarks/curriculum_bins.py --items 20000

Both track the same items and take the same updates in the same run; at the end their averages and bin
boundaries are compared, so that what is timed is the same work. The straightforward one keeps
``{key: (average, count)}``, sums the counts to know when 50 updates have come, and sorts all averages then.
"""

from __future__ import annotations

import argparse
import platform
import time

import numpy as np

from bolt_ray.core.bins import CurriculumScheduler


class SummingScheduler:
    """The rule written down directly, with compatible binning."""

    def __init__(self, n_bins: int = 5, ema_alpha: float = 0.3) -> None:
        self.n_bins = n_bins
        self.ema_alpha = ema_alpha
        self.items: dict[str, tuple[float, int]] = {}
        self.boundaries: list[float] = []
        self.last_rebin_count = 0

    def update(self, item_key: str, score: float) -> None:
        """Average, sum, and sort when 50 updates have come."""
        if item_key in self.items:
            average, count = self.items[item_key]
            self.items[item_key] = (self.ema_alpha * score + (1.0 - self.ema_alpha) * average, count + 1)
        else:
            self.items[item_key] = (score, 1)
        total = sum(count for _, count in self.items.values())
        if total - self.last_rebin_count >= 50:
            descending = sorted((average for average, _ in self.items.values()), reverse=True)
            if len(descending) >= self.n_bins:
                places = [i * len(descending) // self.n_bins for i in range(self.n_bins)]
                self.boundaries = [descending[place] for place in places]
            self.last_rebin_count = total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000, help="items tracked before the timing starts")
    parser.add_argument("--updates", type=int, default=2_000, help="updates timed of each implementation")
    parser.add_argument(
        "--repeats", type=int, default=3, help="times each is measured; the best counts (others may use the machine)"
    )
    parser.add_argument("--read-every", type=int, default=50, help="updates between two reads of a bin")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    keys = [f"item-{i}" for i in range(args.items)]
    first = rng.random(args.items).tolist()
    updates = args.updates // 50 * 50
    picked = rng.integers(0, args.items, updates)
    work = list(zip([keys[i] for i in picked], rng.random(updates).tolist(), strict=True))

    ours, reading, summing = CurriculumScheduler(), CurriculumScheduler(), SummingScheduler()
    for key, score in zip(keys, first, strict=True):
        ours.update(key, score)
        reading.update(key, score)
        summing.items[key] = (score, 1)  # filling it by update would take minutes
    summing.last_rebin_count = args.items // 50 * 50

    seconds: dict[str, list[float]] = {"ours": [], "reading": [], "summing": []}
    for _ in range(args.repeats):
        start = time.perf_counter()
        for key, score in work:
            summing.update(key, score)
        seconds["summing"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for key, score in work:
            ours.update(key, score)
        seconds["ours"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for i, (key, score) in enumerate(work):
            reading.update(key, score)
            if i % args.read_every == 0:
                reading.get_item_bin(key)
        seconds["reading"].append(time.perf_counter() - start)

    state = ours.state_dict()
    assert state["item_scores"] == summing.items, "the two implementations disagree on the averages"
    assert state["bin_boundaries"] == summing.boundaries, "the two implementations disagree on the boundaries"

    per_update = {name: 1e6 * float(min(values)) / updates for name, values in seconds.items()}
    print(f"{platform.machine()}, {platform.processor() or 'cpu'}, Python {platform.python_version()}")
    print(f"{args.items:,} items tracked, {updates:,} updates, best of {args.repeats}; results equal")
    print(f"{'implementation':<44}{'us/update':>12}{'ratio':>10}")
    rows = (
        ("sums all counts", "summing"),
        ("CurriculumScheduler.update", "ours"),
        (f"the same, a bin read every {args.read_every} updates", "reading"),
    )
    for label, name in rows:
        print(f"{label:<44}{per_update[name]:>12.2f}{per_update['summing'] / per_update[name]:>9.0f}x")


if __name__ == "__main__":
    main()
