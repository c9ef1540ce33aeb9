"""The report as a file: its data, what it may load, and its errors."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

import pytest
from support.report_runs import HOSTILE, data_of, sample, write_run

from bolt_ray.cli import main
from bolt_ray.commands.report.chart import with_names
from bolt_ray.commands.report.charts import SECTIONS
from bolt_ray.commands.report.report import labels, report_html
from bolt_ray.commands.report.samples import sample_table


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bolt-ray", "report", *map(str, arguments)])
    with pytest.raises(SystemExit) as leave:
        main()
    return int(leave.value.code or 0)


def test_the_page_may_run_its_own_script_and_load_nothing(tmp_path: Path) -> None:
    page = report_html([write_run(tmp_path / "run")])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    script, style = (
        re.findall(r"<script>(.*?)</script>", page, re.DOTALL),
        re.findall(r"<style>(.*?)</style>", page, re.DOTALL),
    )
    assert (len(script), len(style)) == (1, 1)
    for text, rule in ((script[0], "script-src"), (style[0], "style-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not re.search(r"(src|href)=[\"']?http", page)


def test_foreign_text_stays_text(tmp_path: Path) -> None:
    rows = [sample(1, 1, completion=HOSTILE, prompt=[{"role": "user", "content": HOSTILE}])]
    config = {"datasets": [{"name": HOSTILE.replace("\ud800", "").replace("\x00", "").replace("\u2028", "")}]}
    root = write_run(tmp_path / "<img onerror=1>", samples={"step-000001": rows}, config=config)
    page = report_html([root])
    assert "<img" not in page
    assert page.count("</script>") == 2
    data = data_of(page)
    assert HOSTILE in data["runs"][0]["samples"]["texts"]
    assert f"[user]\n{HOSTILE}" in data["runs"][0]["samples"]["texts"]


def test_no_number_is_written_that_json_does_not_know(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run", tail='{"step": 41, "reward/mean": NaN, "optim/grad_norm": Infinity}\n')
    data = data_of(report_html([root]))
    assert data["runs"][0]["series"]["reward/mean"][0][-1] is None


def test_a_text_stands_once_and_not_endlessly() -> None:
    rows = [sample(1, 1, prompt="same", completion="x" * 30_000), sample(2, 2, prompt="same", reward=None)]
    table = sample_table(rows)
    place = {name: number for number, name in enumerate(table["columns"])}
    assert table["rows"][0][place["prompt"]] == table["rows"][1][place["prompt"]]
    assert table["texts"].count("same") == 1
    longest = table["texts"][table["rows"][0][place["completion"]]]
    assert longest.endswith("x… (10,000 more characters in the file)")
    assert table["rows"][1][place["reward"]] is None
    assert sample_table([{"completion": "only this"}])["texts"] == ["only this"]


def test_secrets_are_not_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    config = {
        "model": {"name_or_path": "m-0123456789abcdef"},
        "rewards": [{"type": "http", "api_key": "hunter2hunter2"}],
    }
    other = {"rewards": [{"type": "http", "api_key": "other-secret"}]}
    runs = [write_run(tmp_path / name, config=tree) for name, tree in (("a", config), ("b", other))]
    state = {"version": 1, "ended": "failed", "error": "https://u:hunter3@x refused"}
    (runs[0] / "state.json").write_text(json.dumps(state))
    page = report_html(runs)
    for secret in ("0123456789abcdef", "hunter2hunter2", "other-secret", "hunter3"):
        assert secret not in page
    assert "ended after step 40: failed: https://***@x refused." in data_of(page)["runs"][0]["story"]


def test_charts_of_the_metrics_there_are() -> None:
    by_title = {chart.title: chart for section in SECTIONS for chart in section.charts}
    assert len(by_title) == sum(len(section.charts) for section in SECTIONS)
    sources = with_names(
        by_title["Held-out evaluation by dataset"], ["eval/gsm8k/pass@1", "eval/aime/pass@1", "eval/pass@1"]
    )
    assert sources is not None
    assert [line.label for line in sources.lines] == ["aime", "gsm8k"]
    assert with_names(by_title["Held-out evaluation by dataset"], ["eval/gsm8k/pass@1"]) is None
    assert with_names(by_title["Entropy"], []) is None


def test_labels_tell_runs_apart(tmp_path: Path) -> None:
    assert labels([tmp_path / "x" / "a", tmp_path / "y" / "b"]) == ["a", "b"]
    assert labels([tmp_path / "x" / "a", tmp_path / "y" / "a"]) == ["x/a", "y/a"]
    assert labels([tmp_path / "a", tmp_path / "a"]) == ["a", "a (2)"]


def test_a_run_without_a_record_has_a_page_and_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_run(tmp_path / "run", steps=0)
    assert data_of(report_html([root], live=True))["live"] is True
    assert run_cli(monkeypatch, root) == 2
    assert "nothing to report yet, metrics.jsonl has no record" in " ".join(capsys.readouterr().err.split())


def test_files_are_written_beside_the_run_or_where_one_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / name, evaluations={0: 0.2, 40: 0.5}) for name in ("a", "b")]
    assert run_cli(monkeypatch, runs[0]) == 0
    assert (runs[0] / "report.html").is_file()
    assert run_cli(monkeypatch, *runs, "--output", tmp_path / "both.html", "--png") == 0
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    assert run_cli(monkeypatch, *runs) == 0
    assert (tmp_path / "report.html").is_file()
    capsys.readouterr()
    assert run_cli(monkeypatch, runs[0], "--output", tmp_path / "no" / "such" / "place.html") == 2
    assert "place.html: cannot be written" in capsys.readouterr().err
    assert run_cli(monkeypatch, tmp_path / "nothing") == 2
    assert "nothing: there is no such directory" in capsys.readouterr().err
