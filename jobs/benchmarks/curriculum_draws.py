"""Time of drawing a window of prompts without replacement, and of computing the weights for it.

    python jobs/benchmarks/curriculum_draws.py --sizes 10000 1000000 10000000

Beside `draw_without_replacement` it times numpy's ``Generator.choice(replace=False, p=...)`` on the same
weights, a draw from weights so skewed (1 / rank^2) that rejection is given up for random keys, and a whole refresh
window, which is drawn step by step.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum import STRATEGIES, Curriculum, CurriculumSettings, PromptColumns
from bolt_ray.core.curriculum.sampling import draw_without_replacement
from bolt_ray.data.stream.draw_log import draw_window, relative_draws

STEPS = 10
"""Steps of a refresh window; within each of them no row is drawn twice."""


def best_ms(work: Callable[[int], object], repeats: int) -> float:
    """Milliseconds of ``work(i)``, the best of i = 0 ... repeats - 1 (others may use the machine)."""
    times = []
    for i in range(repeats):
        start = time.perf_counter()
        work(i)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def draw_ms(weights: NDArray[np.float64], k: int, repeats: int) -> float:
    """Milliseconds of one draw of k."""
    return best_ms(lambda i: draw_without_replacement(weights, k, np.random.default_rng(i)), repeats)


def choice_ms(weights: NDArray[np.float64], k: int, repeats: int) -> float:
    """Milliseconds of the same draw by numpy."""
    p = weights / weights.sum()
    return best_ms(lambda i: np.random.default_rng(i).choice(p.size, k, replace=False, p=p), repeats)


def window_ms(weights: NDArray[np.float64], k: int, steps: int, repeats: int) -> float:
    """Milliseconds of a whole refresh window of ``steps`` steps as a run draws it, with how often each row comes."""

    def draw(i: int) -> object:
        drawn = draw_window(weights, size=k, distinct=k // steps, rng=np.random.default_rng(i))
        return relative_draws(weights, drawn, distinct=k // steps)

    return best_ms(draw, repeats)


def weights_ms(strategy: str, columns: PromptColumns, repeats: int) -> float:
    """Milliseconds of one refresh of all weights, every option on."""
    settings = CurriculumSettings(strategy=strategy, skip_solved=True, staleness_bonus=1.0, exploration_floor=0.05)
    made = Curriculum(settings, seed=0)
    return best_ms(lambda i: made.weights(columns, step=100, total_steps=1000, window=i), repeats)


def some_columns(num_prompts: int) -> PromptColumns:
    """Columns as after some training: values spread, evidence of up to eight outcomes."""
    rng = np.random.default_rng(0)
    return PromptColumns(
        v_hat=rng.random(num_prompts, dtype=np.float32),
        n_eff=1.0 + 7.0 * rng.random(num_prompts, dtype=np.float32),
        visits=rng.integers(0, 5, num_prompts, dtype=np.int32),
        solved_streak=rng.integers(0, 3, num_prompts, dtype=np.int32),
        last_version=rng.integers(-1, 100, num_prompts, dtype=np.int32),
        category=rng.integers(0, 5, num_prompts, dtype=np.int32),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--draws", type=int, default=2_560, help="prompts of one window")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()

    print(f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}; best of {args.repeats}, milliseconds")
    print(f"drawing {args.draws:,} without replacement")
    print(
        f"{'weights':>12}{'draw':>10}{'ms per 1e6':>12}{'numpy choice':>14}{'ratio':>8}{'skewed':>10}{'10 steps':>10}"
    )
    for size in args.sizes:
        weights = np.random.default_rng(1).random(size) + 0.05
        skewed = (1.0 + np.arange(size)) ** -2.0
        k = min(args.draws, size)
        ours = draw_ms(weights, k, args.repeats)
        theirs = choice_ms(weights, k, args.repeats)
        worst = draw_ms(skewed, k, 3)
        ratio = f"{theirs / ours:.1f}x"
        window = window_ms(weights, k, STEPS, 3)
        line = f"{ours:>10.2f}{1e6 * ours / size:>12.2f}{theirs:>14.2f}{ratio:>8}{worst:>10.1f}{window:>10.1f}"
        print(f"{size:>12,}{line}")

    print("\nweights of all prompts, once per refresh (skip_solved, staleness_bonus and exploration_floor on)")
    print(f"{'strategy':<20}" + "".join(f"{size:>14,}" for size in args.sizes))
    columns = {size: some_columns(size) for size in args.sizes}
    for strategy in STRATEGIES:
        cells = [weights_ms(strategy, columns[size], 3) for size in args.sizes]
        print(f"{strategy:<20}" + "".join(f"{cell:>14.1f}" for cell in cells))


if __name__ == "__main__":
    main()
