"""Write docs/configuration.md and docs/metrics.md from the code: python scripts/generate_docs.py [--check]."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import bolt_ray
from bolt_ray.config.reference import markdown
from bolt_ray.core.metric_names import declared_metrics

ROOT = Path(__file__).parents[1]
PACKAGE = Path(bolt_ray.__file__).parent


def metrics_page() -> str:
    """Every metric of ``metrics.jsonl``, by group."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "\ndeclare_metrics(" in path.read_text(encoding="utf-8"):
            importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    lines = [
        "# Metrics",
        "",
        "<!-- Made by scripts/generate_docs.py from the code; change the tables there, not here. -->",
        "",
        "What a record of `metrics.jsonl` (and a column of `metrics.csv`) means. A record is written after each "
        "optimizer step and after each evaluation. `step` counts finished optimizer steps, `policy_version` the weight "
        "updates. A number that is undefined in a step, as the variance reduction of equal rewards, is left out. r̃ is "
        "the reward scaled to [0, 1] by `baseline.reward_range`, v̂ the baseline. A name in braces stands for any.",
    ]
    group = ""
    for name, metric in declared_metrics().items():
        if name.split("/")[0] != group:
            group = name.split("/")[0]
            lines += ["", f"## {group}", "", "| metric | unit | meaning |", "|---|---|---|"]
        lines.append(f"| `{name}` | {metric.unit} | {metric.meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    pages = {ROOT / "docs" / "configuration.md": markdown(), ROOT / "docs" / "metrics.md": metrics_page()}
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        sys.exit(f"not current: {', '.join(map(str, stale))}; run scripts/generate_docs.py" if stale else 0)
    for path in stale:
        path.write_text(pages[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
