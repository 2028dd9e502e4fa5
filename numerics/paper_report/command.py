"""`depthbound report`: run the checks of the papers and build one page, and LaTeX, of every claim with its evidence."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from numerics.paper_report import records, tex
from numerics.paper_report.page import page
from numerics.report import INTERRUPTED, write_atomically

CHECKS = "paper_checks"
ROWS = "paper_checks.json"
RAN = {0: "passed", 1: "failed", 2: "was interrupted", 5: "found nothing to run"}
"""Exit status of pytest after which there may be rows."""

app = typer.Typer(add_completion=False)


def package() -> Path:
    """The folder of the checks.

    Raises:
        ValueError: they are not installed.
    """
    found = importlib.util.find_spec(CHECKS)
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            f'the package {CHECKS} is not there: run in a checkout of the project, or pip install "depthbound[test]"'
        )
    return Path(next(iter(found.submodule_search_locations))).resolve()


def _environment(folder: Path) -> dict[str, str]:
    """This process's, where the checks' own package comes first; one thread each, as workers share the cores."""
    path = os.pathsep.join([str(folder.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", **os.environ, "PYTHONPATH": path}


def known(folder: Path) -> list[dict[str, Any]]:
    """The papers with checks: package, letter, claims."""
    listed = subprocess.run(
        [sys.executable, "-P", "-m", CHECKS], capture_output=True, text=True, check=False, env=_environment(folder)
    )
    if listed.returncode:
        raise RuntimeError(f"the papers cannot be listed: {listed.stderr.strip().splitlines()[-1]}")
    papers: list[dict[str, Any]] = json.loads(listed.stdout)
    return papers


def chosen(papers: Sequence[dict[str, Any]], only: Sequence[str]) -> list[dict[str, Any]]:
    """The papers of these letters (all where none is given).

    Raises:
        ValueError: a letter that no paper has.
    """
    letters = [paper["letter"] for paper in papers]
    for letter in only:
        if letter not in letters:
            raise ValueError(f"--only {letter}: no such paper; letters: {', '.join(letters)}")
    return [paper for paper in papers if not only or paper["letter"] in only]


def command_line(folder: Path, packages: Sequence[str], out: Path, slow: bool, workers: int) -> list[str]:
    """pytest on the packages, in settings of its own: none of the folder in which it happens to run."""
    # -P: a folder of the same name where the command happens to run is not taken for the checks
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-c",
        os.devnull,
        f"--rootdir={folder.parent}",
        "-p",
        "no:cacheprovider",
    ]
    # every paper's package whole, or all of them where all are asked for; rows go to the folder of the report
    command += ["-q", "--strict-markers", f"--report={out.resolve()}"]
    if not slow:
        command += ["-m", "not slow"]
    if workers > 1:
        command += ["-n", str(workers), "--dist", "loadscope"]
    return command + [str(folder / name) for name in packages]


def run(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run the checks, their output as it comes; when interrupted, wait for what they still write down."""
    process = subprocess.Popen(command, env=environment)
    interrupted = False
    while True:
        try:
            status = process.wait()
            return 2 if interrupted and status not in RAN else status
        except KeyboardInterrupt:
            # the signal reached the checks as well: they stop and write their rows
            interrupted = True


def build(rows: Path, papers: Sequence[dict[str, Any]], out: Path) -> records.Report:
    """`report.html` and `report.tex` in the folder, from saved rows and the figures beside them."""
    report = records.read(rows, papers)
    text, missing = page(report, rows.resolve().parent / "figures")
    write_atomically(out / "report.html", text)
    write_atomically(out / "report.tex", tex.document(report))
    for name in missing:
        Console(stderr=True).print(f"the figure {name} is not there: the page says so", soft_wrap=True)
    return report


@app.command("report")
def command(
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.tex, rows and figures.")] = Path(
        "report-out"
    ),
    slow: Annotated[bool, typer.Option("--slow", help="The long checks too (published sizes).")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Only the paper of this letter (may be given again).", metavar="LETTER")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes (more than one: pytest-xdist).")] = 1,
    rows: Annotated[
        Path | None, typer.Option(help="Build the page from these saved rows; run nothing.", metavar="FILE")
    ] = None,
) -> None:
    """Run the checks of the papers and show every claim with its source, evidence, verdict, figures, and how to run it again.

    Claims that turned out false, loose or sharpened stand first. Exit status 0 if every check holds, 1 if one fails or a leg is missing, 2 on bad
    input, 130 when interrupted; the page is built from what there is.
    """
    status = 0
    if rows is not None:
        if slow or only or workers > 1:
            raise ValueError("--rows runs nothing: leave out --slow, --only and --workers")
        papers: list[dict[str, Any]] = []
    else:
        folder = package()
        for needed, wanted in (("pytest", True), ("xdist", workers > 1)):
            if wanted and importlib.util.find_spec(needed) is None:
                raise ValueError(f'the checks need {needed}: pip install "depthbound[test]"')
        papers = chosen(known(folder), only or [])
        rows = out / ROWS
        rows.unlink(missing_ok=True)
        status = run(command_line(folder, [p["package"] for p in papers], out, slow, workers), _environment(folder))
        if status not in RAN or not rows.is_file():
            raise RuntimeError(
                f"the checks {RAN.get(status, f'ended with status {status}')} and left no rows: what they printed says why"
            )
    report = build(rows, papers, out)
    total = sum(len(claim.rows) for paper in report.papers for claim in paper.claims)
    stdout = Console(width=None if sys.stdout.isatty() else 160)
    for kind, found in report.findings.items():
        stdout.print(f"{kind}: {len(found)} claims")
    for problem in report.problems:
        stdout.print(problem, highlight=False, markup=False, soft_wrap=True)
    stdout.print(f"{total} rows on {len(report.papers)} papers; report.html and report.tex are in {out}")
    if status == 2 or report.meta["status"] == "interrupted":
        raise typer.Exit(INTERRUPTED)
    if status or report.problems or report.failing:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
