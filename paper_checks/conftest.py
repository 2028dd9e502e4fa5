"""One torch thread, and the report table: every check leaves rows through the fixture `leave`, printed at the end."""

import importlib
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
KEYS = ("claim", "leg", "bound", "measured", "tightness", "verdict")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--data", default=None, help="folder of MNIST in its published format, for the checks that can use it"
    )
    parser.addoption("--report", default=None, help="folder for the paper checks' rows (paper_checks.json)")


@pytest.fixture()
def leave(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """`leave(claim, leg, bound, measured)`: one row of the report; an upper bound, or a lower one with `lower=True`."""

    def row(claim: str, leg: str, bound: object, measured: object = None, *, lower: bool = False) -> None:
        holds, tightness = True, None
        if isinstance(bound, float | int) and isinstance(measured, float | int):
            low, high = (bound, measured) if lower else (measured, bound)
            tightness = low / high if high else None
            holds = low <= high * (1 + 1e-9)
        verdict = "holds" if holds else "FAILS"
        record_property(
            "paper_check", dict(zip(KEYS, (claim, leg, str(bound), measured, tightness, verdict), strict=True))
        )
        assert holds, f"{claim} ({leg}): {measured} against {bound}"

    return row


@pytest.fixture()
def evidence(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[..., Evidence]:
    """`evidence(claim, leg, what, bound, measured=None, sense="upper", ...)`: one row of the report, asserted.

    `claim` is a key of the `PAPER` that the check's package declares; the other arguments are those of `numerics.claims.Evidence`. A matplotlib `figure`
    is drawn into the report's folder, when there is one (`--report`).
    """
    paper: Paper = importlib.import_module(request.module.__package__).PAPER

    def row(claim: str, leg: str, what: str, bound: object, measured: object = None, **more: object) -> Evidence:
        figure = more.pop("figure", None)
        name = ""
        if isinstance(figure, Figure):
            name = f"{paper.letter}-{claim}-{leg}"
            if folder := request.config.getoption("--report"):
                save(figure, Path(folder) / "figures" / name)
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


def pytest_terminal_summary(terminalreporter, config) -> None:
    reports = [
        r for key in ("passed", "failed") for r in terminalreporter.stats.get(key, []) if hasattr(r, "user_properties")
    ]
    rows = [value for report in reports for name, value in report.user_properties if name == "paper_check"]
    if not rows:
        return
    terminalreporter.section("paper checks")
    for row in rows:
        numbers = " ".join(
            f"{row[k]:.4g}" if isinstance(row[k], float) else str(row[k]) for k in ("measured", "tightness")
        )
        terminalreporter.write_line(
            f"{row['verdict']:6} {row['leg']:9} {row['claim']}: bound {row['bound'][:60]}; measured, tightness: {numbers}"
        )
    folder = config.getoption("--report")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_results(
            Path(folder) / "paper_checks.json",
            {"papers": ["arXiv 2210.05371", "arXiv 2401.03824", "arXiv 2206.06929"]},
            rows,
        )
