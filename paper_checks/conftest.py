"""One torch thread, and the report: every check leaves rows through the fixture `evidence`, which `paper_checks.ledger` collects."""

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from numerics.claims import Evidence
from numerics.plots import save
from paper_checks.ledger import Ledger, paper_of

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--data", default=None, help="folder of MNIST in its published format, for the checks that can use it"
    )
    parser.addoption("--report", default=None, help="folder for the paper checks' rows (paper_checks.json)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: longer than the default run allows; run with `pytest -m slow`")
    config.addinivalue_line("markers", "cuda: needs a CUDA device; skipped with a reason where there is none")
    config.pluginmanager.register(Ledger(config), "paper checks")


@pytest.fixture()
def evidence(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[..., Evidence]:
    """`evidence(claim, leg, what, bound, measured=None, sense="upper", ...)`: one row of the report, asserted.

    `claim` is a key of the `PAPER` that the check's package declares; the other arguments are those of `numerics.claims.Evidence`. A `figure`
    (matplotlib's, or a function that draws to the path it is given) is drawn into the report's folder, when there is one (`--report`).
    """
    paper = paper_of(request.module)
    if paper is None:
        raise ValueError(f"{request.module.__name__}: its package declares no PAPER (numerics.claims.Paper)")
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
