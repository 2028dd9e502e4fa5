"""One torch thread, and the report table: every check leaves rows through the fixture `evidence`, printed at the end."""

import importlib
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from numerics.claims import Evidence, Paper
from numerics.plots import save
from numerics.report import write_results

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--data", default=None, help="folder of MNIST in its published format, for the checks that can use it"
    )
    parser.addoption("--report", default=None, help="folder for the paper checks' rows (paper_checks.json)")


@pytest.fixture()
def evidence(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[..., Evidence]:
    """`evidence(claim, leg, what, bound, measured=None, sense="upper", ...)`: one row of the report, asserted.

    `claim` is a key of the `PAPER` that the check's package declares; the other arguments are those of `numerics.claims.Evidence`. A `figure`
    (matplotlib's, or a function that draws to the path it is given) is drawn into the report's folder, when there is one (`--report`).
    """
    paper: Paper = importlib.import_module(request.module.__package__).PAPER
    drawn: list[str] = []

    def row(claim: str, leg: str, what: str, bound: object, measured: object = None, **more: object) -> Evidence:
        figure, name = more.pop("figure", None), ""
        if figure is not None:
            stem = "-".join(
                (paper.letter, claim, re.sub(r"\W+", "-", request.node.name).strip("-"), str(len(drawn) + 1))
            )
            drawn.append(name := stem)
            if folder := request.config.getoption("--report"):
                draw(figure, Path(folder) / "figures" / name)
        found = Evidence(
            paper.letter,
            paper.claim(claim).key,
            leg,
            what,
            float(bound) if isinstance(bound, int | float) else str(bound),
            None if measured is None else float(measured),  # type: ignore[arg-type]
            test=request.node.nodeid,
            figure=name,
            **more,  # type: ignore[arg-type]
        )
        record_property("evidence", {**asdict(found), "holds": found.holds, "tightness": found.tightness})
        assert found.holds, f"{paper.letter}, {claim} ({leg}): {what}: {measured} against {bound} ({found.sense})"
        return found

    return row


def draw(figure: object, path: Path) -> None:
    """A matplotlib figure, or a function that draws to a path, as PNG and PDF."""
    if isinstance(figure, Figure):
        save(figure, path)
    elif callable(figure):
        figure(path)
    else:
        raise ValueError(f"figure {path.name} is neither a matplotlib Figure nor a function of a path")


def pytest_terminal_summary(terminalreporter, config) -> None:
    reports = [
        r for key in ("passed", "failed") for r in terminalreporter.stats.get(key, []) if hasattr(r, "user_properties")
    ]
    rows = [value for report in reports for name, value in report.user_properties if name == "evidence"]
    if not rows:
        return
    terminalreporter.section("paper checks")
    for row in rows:
        numbers = " ".join(
            f"{row[k]:.4g}" if isinstance(row[k], float) else str(row[k]) for k in ("measured", "tightness")
        )
        terminalreporter.write_line(
            f"{row['paper']} {row['claim']} ({row['leg']}): {row['what']}: bound {str(row['bound'])[:60]}; measured, tightness: {numbers}"
        )
    folder = config.getoption("--report")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_results(Path(folder) / "paper_checks.json", {}, rows)
