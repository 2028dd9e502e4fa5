"""The command `report`: what it runs, what it writes, its exit statuses; failing, interrupted and impossible runs say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from numerics import cli
from numerics.claims import Claim, Evidence, Paper
from numerics.paper_report import command as report_command
from numerics.report import write_results

PACKAGE = """
from numerics.claims import Claim, Paper
PAPER = Paper("{letter}", "Someone", "A small paper", 2020, "none", (Claim("sum", "$1 + 1 = 2$", "derived"),))
"""
CHECKS = """
import os, pytest, signal

def test_sum(evidence):
    for leg in ("derived", "measured", "searched"):
        evidence("sum", leg, "1 + 1", 2.0, float(os.environ.get("TWO", "2")), sense="equal")

def test_interrupted():
    # the whole group gets the signal, as from a terminal
    if "INTERRUPT" in os.environ:
        os.killpg(0, signal.SIGINT)
        signal.pause()

@pytest.mark.slow
def test_long(evidence):
    evidence("sum", "searched", "for long", 2.0, 2.0)
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture()
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `paper_checks` with two small papers, found before the project's own."""
    folder = tmp_path / "there" / "paper_checks"
    folder.mkdir(parents=True)
    for file in ("__init__.py", "__main__.py", "conftest.py", "ledger.py"):
        (folder / file).write_text((ROOT / "paper_checks" / file).read_text())
    for letter, name in (("X", "someone_2020"), ("Y", "other_2021")):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(PACKAGE.format(letter=letter))
        (folder / name / "test_sums.py").write_text(CHECKS)
    monkeypatch.setattr(report_command, "package", lambda: folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["report", *arguments])
    return result.exit_code, result.output


def rows_of(out: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads((out / "paper_checks.json").read_text())["rows"]
    return rows


def test_a_run_leaves_rows_a_page_and_latex(checks: Path, tmp_path: Path) -> None:
    status, text = call("--out", str(tmp_path / "out"))
    assert status == 0, text
    assert "6 rows on 2 papers" in text
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["paper_checks.json", "report.html", "report.tex"]
    assert rows_of(tmp_path / "out")[0]["test"] == "paper_checks/someone_2020/test_sums.py::test_sum"
    # the page again from its rows, in another folder, and nothing is run
    status, text = call("--rows", str(tmp_path / "out" / "paper_checks.json"), "--out", str(tmp_path / "again"))
    assert status == 0, text
    assert (tmp_path / "again" / "report.html").read_text() == (tmp_path / "out" / "report.html").read_text()


def test_one_paper_and_the_long_checks(checks: Path, tmp_path: Path) -> None:
    status, text = call("--only", "Y", "--slow", "--out", str(tmp_path / "out"))
    assert status == 0, text
    rows = rows_of(tmp_path / "out")
    assert {row["paper"] for row in rows} == {"Y"}
    assert [row["what"] for row in rows].count("for long") == 1


def test_a_failing_check_is_on_the_page_and_the_status_is_1(
    checks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWO", "3")
    status, text = call("--only", "X", "--out", str(tmp_path))
    assert status == 1, text
    assert "Failed: paper_checks/someone_2020/test_sums.py::test_sum" in text
    page = (tmp_path / "report.html").read_text()
    assert "This run is not complete" in page
    assert "FAILS" in page


def test_an_interrupted_run_keeps_what_is_finished(checks: Path, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\nfrom numerics import cli\nfrom numerics.paper_report import command as report_command\n"
        f"report_command.package = lambda: pathlib.Path({str(checks)!r})\n"
        f"sys.argv = ['depthbound', 'report', '--only', 'X', '--out', {str(tmp_path / 'out')!r}]\ncli.main()\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "INTERRUPT": "yes"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        start_new_session=True,
    )
    assert process.returncode == 130, process.stdout + process.stderr
    assert len(rows_of(tmp_path / "out")) == 3
    assert "The run was interrupted" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "Z"], "--only Z: no such paper; letters: X, Y"),
        (["--rows", "nowhere.json"], "nowhere.json"),
        (["--rows", "rows.json", "--slow"], "--rows runs nothing"),
    ],
)
def test_bad_input_is_refused_in_one_line(checks: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(cli.app, ["report", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("absent", "more"), [("pytest", ()), ("xdist", ("--workers", "2"))])
def test_without_pytest_the_command_says_what_to_install(
    checks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str, more: tuple[str, ...]
) -> None:
    found = report_command.importlib.util.find_spec
    monkeypatch.setattr(
        report_command.importlib.util, "find_spec", lambda name, *rest: None if name == absent else found(name, *rest)
    )
    result = CliRunner().invoke(cli.app, ["report", "--out", str(tmp_path), *more])
    assert result.exit_code == 2
    assert f'the checks need {absent}: pip install "depthbound[test]"' in result.stderr


def test_the_projects_own_checks_are_found() -> None:
    folder = report_command.package()
    assert folder == ROOT / "paper_checks"
    assert {"A", "B", "C"} <= {paper["letter"] for paper in report_command.known(folder)}


def test_rows_that_do_not_hold_have_status_1(tmp_path: Path) -> None:
    paper = Paper(
        "X", "Someone", "t", 2020, "r", (Claim("sum", "One.", "derived", {"measured": "No.", "searched": "No."}),)
    )
    row = Evidence("X", "sum", "derived", "w", 1.0, 2.0)
    record = {**asdict(row), "holds": row.holds, "tightness": row.tightness}
    write_results(tmp_path / "rows.json", {"papers": [asdict(paper)]}, [record])
    assert call("--rows", str(tmp_path / "rows.json"), "--out", str(tmp_path))[0] == 1
