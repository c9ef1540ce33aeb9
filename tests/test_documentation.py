"""The documentation names what there is: every registered algorithm, and only files, tests and links that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bolt_ray.config.schema import RunConfig
from bolt_ray.config.tree import walk
from bolt_ray.core.advantages import BASELINES, NORMALIZATIONS
from bolt_ray.core.correction_options import MODES
from bolt_ray.core.curriculum import STRATEGIES
from bolt_ray.core.kl_options import ADAPTATIONS, CONTROLLERS, ESTIMATORS
from bolt_ray.core.losses import AGGREGATIONS, LOSSES
from bolt_ray.core.metric_names import is_declared
from bolt_ray.rewards.registry import REWARDS
from bolt_ray.training.telemetry.health import RULES

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "bolt_ray" / "guides").glob("*.md"),
        *(ROOT / ".github").rglob("*.md"),
        *ROOT.glob("*.md"),
    ]
)
FOLDERS = ("bolt_ray", "tests", "docs", "configs", "scripts", "jobs", "cluster", "requirements", ".github", ".ci")
_PATH = re.compile(rf"(?<![\w./~-])(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*(?:::\w+)?")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def paths_in(text: str) -> list[str]:
    """Without the metrics that are named like one."""
    return [path for found in _PATH.findall(text) if not is_declared(path := found.rstrip("."))]


def missing(path: str) -> str | None:
    """Why a path that a page names is wrong; None if it is right."""
    place, _, test = path.partition("::")
    found = list(ROOT.glob(place.rstrip("/"))) if "*" in place else [ROOT / place]
    if not found or not all(file.exists() for file in found):
        return f"{path}: there is no such file"
    if test and f"def {test}(" not in found[0].read_text(encoding="utf-8"):
        return f"{path}: the file has no such test"
    return None


def links_in(text: str) -> list[str]:
    return [first or second for first, second in _LINK.findall(text)]


def settings_in(text: str) -> list[str]:
    """Settings named in backticks as ``section.key``, with or without a value."""
    sections = "|".join(RunConfig.model_fields)
    return re.findall(rf"`((?:{sections})\.\w+)(?:: [^`]*)?`", text)


def classes_in(text: str) -> list[str]:
    """Names in backticks that are written like classes."""
    return re.findall(r"`([A-Z]+[a-z]\w*[A-Z]\w*|[A-Z]{2,}[a-z]\w*)`", text)


def heading_anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, blanks to hyphens, punctuation gone."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("loss.type", list(LOSSES)),
        ("loss.aggregation", list(AGGREGATIONS)),
        ("kl.estimator", list(ESTIMATORS)),
        ("kl.adaptation", list(ADAPTATIONS)),
        ("kl.controller", list(CONTROLLERS)),
        ("advantage.baseline", list(BASELINES)),
        ("advantage.normalize", list(NORMALIZATIONS)),
        ("correction.mode", list(MODES)),
        ("curriculum.strategy", list(STRATEGIES)),
    ],
)
def test_every_algorithm_has_a_row(setting: str, names: list[str]) -> None:
    text = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    tables = re.split(r"\n\n", text)
    # The table whose first column is the setting; a name has its row there and not merely somewhere in the text.
    (table,) = [part for part in tables if part.lstrip().startswith(f"| `{setting}`")]
    rows = {match.group(1) for match in re.finditer(r"^\| `([\w+.:]+)`", table, re.MULTILINE)} - {setting}
    without_own = {row for row in rows if ":" not in row}
    assert without_own == set(names)


def test_every_health_rule_has_a_row() -> None:
    text = (ROOT / "docs" / "health.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([^|`]+?) \| [^|]+ \| `", text, re.MULTILINE) == list(RULES)


def test_every_reward_is_in_the_guide() -> None:
    text = (ROOT / "bolt_ray" / "guides" / "reward.md").read_text(encoding="utf-8")
    assert [name for name in REWARDS if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_tests_that_a_page_names_exist(page: Path) -> None:
    wrong = [problem for path in paths_in(page.read_text(encoding="utf-8")) if (problem := missing(path))]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page: Path) -> None:
    wrong = []
    for link in links_in(page.read_text(encoding="utf-8")):
        if "://" in link or link.startswith("mailto:"):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in heading_anchors(file)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    known = {".".join(place[:2]).replace("[]", "") for place, _ in walk()}
    assert [name for name in settings_in(page.read_text(encoding="utf-8")) if name not in known] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_classes_that_a_page_names_exist(page: Path) -> None:
    source = "\n".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "bolt_ray").rglob("*.py")))
    words = set(re.findall(r"\w+", source))
    assert [name for name in classes_in(page.read_text(encoding="utf-8")) if name not in words] == []


def test_the_checks_see_what_is_wrong() -> None:
    """The patterns find paths and links as pages write them, and tell wrong from right."""
    text = "See `bolt_ray/core/kl.py`, tests/core/test_kl.py::test_written_values and [x](docs/no.md), ![y](z.png)."
    assert paths_in(text) == ["bolt_ray/core/kl.py", "tests/core/test_kl.py::test_written_values", "docs/no.md"]
    assert links_in(text) == ["docs/no.md", "z.png"]
    assert [missing(path) for path in paths_in(text)] == [None, None, "docs/no.md: there is no such file"]
    assert (
        missing("tests/core/test_kl.py::test_no_such")
        == "tests/core/test_kl.py::test_no_such: the file has no such test"
    )
    assert missing("bolt_ray/core/nowhere/*.py") == "bolt_ray/core/nowhere/*.py: there is no such file"
    settings = settings_in("`kl.coef`, `kl.no_such: 3`, `registry.py` and `loss.type: file.py:f`")
    assert settings == ["kl.coef", "kl.no_such", "loss.type"]
    assert classes_in("`RolloutLoop`, `VLLMEngine`, `bolt`, `K` and `TorchTrainer.fit`") == [
        "RolloutLoop",
        "VLLMEngine",
    ]
