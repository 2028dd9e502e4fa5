"""What a run of the checks leaves: rows, outcomes of tests, papers, and which legs are missing after a paper was run whole."""

from __future__ import annotations

import importlib
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from numerics.claims import LEGS, Paper, missing_legs, read_evidence, read_paper
from numerics.report import write_results

FILE = "paper_checks.json"
LIBRARIES = ("torch", "sympy", "numpy", "scipy")
WORKER = "paper_checks"
"""Key under which a worker of pytest-xdist tells the main process what it collected."""


def paper_of(module: Any) -> Paper | None:
    """The `PAPER` that the package of a test module declares."""
    name = getattr(module, "__package__", "")
    found = getattr(importlib.import_module(name), "PAPER", None) if name else None
    return found if isinstance(found, Paper) else None


class Ledger:
    """A pytest plugin. Papers run whole (every file of their package collected, none of their quick tests deselected, no test asked for by its
    name) have to have every leg of every claim; else the run fails and names claim and leg."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.started = time.time()
        self.rows: list[dict[str, Any]] = []
        self.outcomes: Counter[str] = Counter()
        self.failed: list[dict[str, str]] = []
        self.skipped: list[dict[str, str]] = []
        self.deselected: list[pytest.Item] = []
        self.papers: dict[str, Paper] = {}
        self.whole: set[str] = set()

    # what is collected

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        self.deselected += items

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        files: dict[str, set[Path]] = {}
        partial = set()
        for items, chosen in ((session.items, True), (self.deselected, False)):
            for item in items:
                paper = paper_of(getattr(item, "module", None))
                if paper is None:
                    continue
                self.papers[paper.letter] = paper
                files.setdefault(paper.letter, set()).add(item.path)
                if not chosen and item.get_closest_marker("slow") is None:
                    partial.add(paper.letter)
        by_name = any("::" in argument for argument in self.config.args)
        for letter, seen in files.items():
            there = {path for folder in {p.parent for p in seen} for path in folder.glob("test_*.py")}
            if not by_name and letter not in partial and there == seen:
                self.whole.add(letter)

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.started = time.time()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        told = getattr(node, "workeroutput", {}).get(WORKER, {})
        self.whole |= set(told.get("whole", ()))
        self.papers |= {record["letter"]: read_paper(record) for record in told.get("papers", ())}

    # what comes out

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.outcome] += 1
            reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
            last = next((line for line in reversed(reason.splitlines()) if line.startswith("E  ")), reason[-300:])
            if report.failed:
                self.failed.append({"test": report.nodeid, "reason": last.removeprefix("E").strip()})
            if report.skipped:
                self.skipped.append({"test": report.nodeid, "reason": last.removeprefix("Skipped:").strip()})
        if report.when == "call":
            self.rows += [value for name, value in report.user_properties if name == "evidence"]

    def missing(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Letter -> claim -> legs that a paper run whole lacks."""
        evidence = [read_evidence(row) for row in self.rows]
        found = {letter: missing_legs(self.papers[letter], evidence) for letter in sorted(self.whole)}
        return {letter: claims for letter, claims in found.items() if claims}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if (output := getattr(self.config, "workeroutput", None)) is not None:
            output[WORKER] = {"whole": sorted(self.whole), "papers": [asdict(p) for p in self.papers.values()]}
            return
        if exitstatus == pytest.ExitCode.OK and not self.config.option.collectonly and self.missing():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if (folder := self.config.getoption("--report")) and (self.rows or self.papers):
            meta = {
                "status": "interrupted" if exitstatus == pytest.ExitCode.INTERRUPTED else "finished",
                "seconds": round(time.time() - self.started, 1),
                "finished": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
                "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
                "platform": f"{platform.system()} {platform.machine()}, Python {sys.version_info[0]}.{sys.version_info[1]}",
                "outcomes": dict(self.outcomes),
                "failed": self.failed,
                "skipped": self.skipped,
                "whole": sorted(self.whole),
                "papers": [asdict(self.papers[letter]) for letter in sorted(self.papers)],
            }
            write_results(Path(folder) / FILE, meta, sorted(self.rows, key=self._place))

    def _place(self, row: dict[str, Any]) -> tuple[str, int, int, str]:
        """Rows stand in the order of their claims and legs; with workers tests end in any order."""
        keys = [claim.key for claim in self.papers[row["paper"]].claims]
        return row["paper"], keys.index(row["claim"]), LEGS.index(row["leg"]), row["test"]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        write = terminalreporter.write_line
        if self.rows:
            terminalreporter.section("paper checks")
        for row in self.rows:
            numbers = " ".join(
                f"{v:.4g}" if isinstance(v := row[k], float) else str(v) for k in ("measured", "tightness")
            )
            finding = f" [{row['finding']}]" if row["finding"] else ""
            write(
                f"{row['paper']} {row['claim']} ({row['leg']}){finding}: {row['what']}: "
                f"bound {str(row['bound'])[:60]}; measured, tightness: {numbers}"
            )
        missing = {} if self.config.option.collectonly else self.missing()
        if missing:
            terminalreporter.section("missing legs")
        for letter, claims in missing.items():
            for claim, legs in claims.items():
                write(
                    f"{letter}, {claim}: no {' and no '.join(legs)} leg; give evidence or say in Claim.absent why there is none"
                )
