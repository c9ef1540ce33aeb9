"""The page in a real browser: it draws, filters and fits, complains of nothing and asks nobody."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from support.report_runs import CONFIG, HOSTILE, evaluation, sample, step_record, write_run

from bolt_ray.commands.report.report import report_html

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the browser 'chromium' is not installed")

DRAWN = """() => [...document.querySelectorAll('.plot canvas')].map((canvas) => {
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let coloured = 0;
  for (let i = 0; i < data.length; i += 4) {
    const [r, g, b, a] = data.slice(i, i + 4);
    if (a > 20 && Math.max(r, g, b) - Math.min(r, g, b) > 30) coloured += 1;
  }
  return coloured;
})"""
"""For each picture, its pixels that are not grey: lines and areas, not axes and letters."""


@dataclass
class Opened:
    """A report in the browser, and what went wrong or was asked for meanwhile."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def show_all(self) -> None:
        """Scroll through, so that every picture is drawn."""
        for figure in self.page.locator("figure").all():
            figure.scroll_into_view_if_needed()
            figure.locator("canvas").first.wait_for(state="attached")

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def show(browser: Browser, file: Path, *, width: int = 1440, dark: bool = False) -> Opened:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    opened = Opened(page)
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(file.as_uri())
    page.locator("#samples").wait_for(state="attached")
    return opened


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [sample(40, number) for number in range(250)]
    rows[7] = sample(40, 7, completion=HOSTILE, reward=None, unscored="exception: x", why=["unscored"])
    root = tmp_path_factory.mktemp("report") / "one"
    write_run(
        root,
        evaluations={0: 0.3, 20: 0.4, 40: 0.6},
        samples={"step-000040": rows, "eval-000040": [sample(40, 3, kind="eval", v_hat=None)]},
        tail='{"step": 41, "rew',
    )
    file = root / "report.html"
    file.write_text(report_html([root]), encoding="utf-8")
    return file


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, False), (1440, True)])
def test_it_draws_fits_and_asks_nobody(browser: Browser, one_run: Path, width: int, dark: bool) -> None:
    opened = show(browser, one_run, width=width, dark=dark)
    opened.show_all()
    pixels = opened.page.evaluate(DRAWN)
    assert len(pixels) >= 15
    assert min(pixels) > 30
    assert opened.overflow() <= 0
    assert opened.page.locator(".gain .change").inner_text() == "30.0 % [25.0, 35.0] → 60.0 % [55.0, 65.0]"
    assert opened.page.locator("html").get_attribute("data-theme") == ("dark" if dark else "light")
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [one_run.as_uri()]
    opened.page.close()


def test_samples_are_filtered_sorted_and_opened(browser: Browser, one_run: Path) -> None:
    opened = show(browser, one_run)
    page, rows, count = opened.page, opened.page.locator("tr.sample"), opened.page.locator(".count")
    assert count.inner_text() == "251 of 251"
    assert rows.count() == 100
    page.get_by_role("button", name="Show more").click()
    assert rows.count() == 200

    def counted(text: str) -> None:
        expect(count).to_have_text(text, timeout=20_000)

    page.get_by_label("kind").select_option("eval")
    counted("1 of 251")
    page.get_by_label("kind").select_option("")
    page.get_by_label("reward from").fill("0.5")
    page.get_by_label("v̂ to").fill("0.3")
    counted("50 of 251")
    page.get_by_label("order").select_option("longest first")
    page.get_by_label("text").fill("= 22")
    counted("3 of 251")
    assert rows.first.locator(".c-completion").inner_text().startswith("= 224")
    for label in ("reward from", "v̂ to", "text"):
        page.get_by_label(label).fill("")
    page.get_by_label("why").select_option("unscored")
    counted("1 of 251")
    rows.first.click()
    opened_row = page.locator("tr.opened")
    assert "onerror" in opened_row.inner_text()
    assert "exception: x" in opened_row.inner_text()
    assert page.locator("main img, main b:text('bold')").count() == 0
    assert page.evaluate("window.hacked") is None
    rows.first.click()
    assert opened_row.count() == 0
    assert opened.complaints == []
    page.close()


def test_a_number_is_read_under_the_cursor(browser: Browser, one_run: Path) -> None:
    opened = show(browser, one_run)
    chart = opened.page.locator("figure", has_text="Held-out evaluation").first
    chart.scroll_into_view_if_needed()
    legend = chart.locator(".u-legend")
    assert "60 %" in legend.inner_text(), "the last one, while there is no cursor"
    plot = chart.locator(".u-over")
    plot.scroll_into_view_if_needed()
    plot.hover(position={"x": 2, "y": 50})
    chart.locator(".u-value", has_text="30 %").wait_for()
    opened.page.get_by_label("over").select_option("tokens")
    chart.locator(".u-legend", has_text="tokens").wait_for()
    assert opened.complaints == []
    opened.page.close()


def test_runs_over_one_another(browser: Browser, tmp_path: Path) -> None:
    other = {**CONFIG, "train": {"max_steps": 40, "learning_rate": 2.0e-6}}
    runs = [
        write_run(tmp_path / "slow", evaluations={0: 0.3, 40: 0.4}),
        write_run(tmp_path / "fast", evaluations={0: 0.3, 30: 0.7}, config=other, steps=30),
    ]
    file = tmp_path / "report.html"
    file.write_text(report_html(runs), encoding="utf-8")
    for width in (1440, 390):
        opened = show(browser, file, width=width)
        differing = opened.page.locator("#settings-that-differ tbody tr")
        assert differing.count() == 1
        assert differing.inner_text().split() == ["train.learning_rate", "1e-06", "2e-06"]
        chart = opened.page.locator("figure", has_text="Held-out evaluation").first
        chart.scroll_into_view_if_needed()
        chart.locator(".u-legend", has_text="slow").wait_for()
        assert "fast" in chart.inner_text()
        opened.page.locator(".runs button", has_text="fast").click()
        expect(chart.locator(".u-legend")).not_to_contain_text("fast", timeout=20_000)
        opened.page.get_by_label("single run").select_option("fast")
        opened.show_all()
        assert min(opened.page.evaluate(DRAWN)) > 30
        assert opened.overflow() <= 0
        assert opened.complaints == []
        opened.page.close()


def test_a_run_that_has_only_begun(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(report_html([write_run(tmp_path / "run", steps=0)], live=True), encoding="utf-8")
    opened = show(browser, file)
    assert "models/small was trained by bolt" in opened.page.locator("main").inner_text()
    assert opened.complaints == []
    opened.page.close()


@pytest.mark.slow
def test_a_long_run_opens_soon(browser: Browser, tmp_path: Path) -> None:
    """50,000 steps and 10,000 samples. They take about a second; the deadline is for a machine with other work."""
    root = write_run(tmp_path / "long", steps=0)
    text = json.dumps(step_record(1, of=1))
    with (root / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, 50_001):
            file.write(text.replace('"step": 1,', f'"step": {step},', 1) + "\n")
            if step % 1000 == 0:
                file.write(json.dumps(evaluation(step, 0.3 + step / 1e5)) + "\n")
    (root / "samples").mkdir()
    for step in range(500, 50_001, 500):
        rows = [sample(step, number, completion=f"{number} " * 200) for number in range(100)]
        (root / "samples" / f"step-{step:06d}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file_of_report = tmp_path / "long.html"
    file_of_report.write_text(report_html([root]), encoding="utf-8")
    assert file_of_report.stat().st_size < 20_000_000
    browser.new_page().close()
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(20_000)
    page.goto(file_of_report.as_uri())
    page.locator("figure canvas").first.wait_for(state="attached")
    assert page.locator(".count").text_content() == "10,000 of 10,000"
    page.close()
