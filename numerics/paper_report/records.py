"""What the report shows: papers, their claims with the evidence of each, findings, and how the run went."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numerics.claims import FINDINGS, LEGS, Claim, Evidence, Paper, missing_legs, read_evidence, read_paper

UNKNOWN: dict[str, Any] = {
    "status": "finished",
    "finished": "",
    "seconds": None,
    "versions": {},
    "outcomes": {},
    "failed": [],
    "skipped": [],
}
"""How a run went of which nothing is recorded."""


@dataclass(frozen=True)
class Leg:
    """One leg of a claim: its rows, or the sentence that says why there is none, or neither (missing)."""

    name: str
    rows: tuple[Evidence, ...]
    absent: str

    @property
    def state(self) -> str:
        """`fails`, `holds`, `absent` or `missing`."""
        if self.rows:
            return "holds" if all(row.holds for row in self.rows) else "fails"
        return "absent" if self.absent else "missing"


@dataclass(frozen=True)
class ClaimReport:
    """A claim with its evidence."""

    paper: Paper
    claim: Claim
    rows: tuple[Evidence, ...]

    @property
    def anchor(self) -> str:
        """Where the page shows it."""
        return f"{self.paper.letter}-{self.claim.key}"

    @property
    def legs(self) -> tuple[Leg, ...]:
        return tuple(
            Leg(name, tuple(row for row in self.rows if row.leg == name), self.claim.absent.get(name, ""))
            for name in LEGS
        )

    @property
    def findings(self) -> tuple[Evidence, ...]:
        return tuple(row for row in self.rows if row.finding)

    @property
    def verdict(self) -> str:
        """`fails` where a row does, `incomplete` where a leg is missing, else the gravest finding, else `holds`."""
        states = {leg.state for leg in self.legs}
        if "fails" in states:
            return "fails"
        if "missing" in states:
            return "incomplete"
        found = {row.finding for row in self.findings}
        return next((name for name in ("false", "undecided", "loose", "sharpened") if name in found), "holds")

    @property
    def figures(self) -> tuple[Evidence, ...]:
        """Rows with a figure, each figure once."""
        return tuple({row.figure: row for row in self.rows if row.figure}.values())


@dataclass(frozen=True)
class PaperReport:
    """A paper with its claims."""

    paper: Paper
    claims: tuple[ClaimReport, ...]

    @property
    def missing(self) -> dict[str, tuple[str, ...]]:
        return missing_legs(self.paper, [row for claim in self.claims for row in claim.rows])

    def count(self, leg: str) -> int:
        """Rows of a leg."""
        return sum(row.leg == leg for claim in self.claims for row in claim.rows)

    def verdicts(self) -> dict[str, int]:
        """How many claims have which verdict, those that occur."""
        found = [claim.verdict for claim in self.claims]
        order = ("fails", "incomplete", "false", "undecided", "loose", "sharpened", "holds")
        return {name: found.count(name) for name in order if name in found}


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        papers: ordered by letter.
        meta: how the run went (`paper_checks.ledger`): status, seconds, versions, outcomes, failed and skipped tests.
    """

    papers: tuple[PaperReport, ...]
    meta: Mapping[str, Any]

    @property
    def findings(self) -> dict[str, list[tuple[ClaimReport, tuple[Evidence, ...]]]]:
        """Kind -> claims with their findings, each note once; kinds in the order of `FINDINGS`."""
        found: dict[str, list[tuple[ClaimReport, tuple[Evidence, ...]]]] = {kind: [] for kind in FINDINGS}
        for paper in self.papers:
            for claim in paper.claims:
                for kind, claims in found.items():
                    if rows := {row.note: row for row in claim.findings if row.finding == kind}:
                        claims.append((claim, tuple(rows.values())))
        return {kind: rows for kind, rows in found.items() if rows}

    @property
    def failing(self) -> list[Evidence]:
        return [row for paper in self.papers for claim in paper.claims for row in claim.rows if not row.holds]

    @property
    def problems(self) -> list[str]:
        """Why not all of it can be relied on: interrupted, failed, missing; empty for a clean run."""
        out = []
        if self.meta["status"] == "interrupted":
            out.append("The run was interrupted: what follows rests on the checks that had finished.")
        for test in self.meta["failed"]:
            out.append(f"Failed: {test['test']}: {test['reason']}")
        for paper in self.papers:
            for claim, legs in paper.missing.items():
                out.append(f"Paper {paper.paper.letter}, {claim}: no {' and no '.join(legs)} leg.")
        return out


def gather(papers: Sequence[Paper], rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> Report:
    """Sort rows under their claims.

    Raises:
        ValueError: a row of a paper or of a claim that is not known.
    """
    by_letter = {paper.letter: paper for paper in papers}
    under: dict[tuple[str, str], list[Evidence]] = {(p.letter, c.key): [] for p in papers for c in p.claims}
    for row in map(read_evidence, rows):
        if row.paper not in by_letter:
            raise ValueError(f"a row of paper {row.paper!r}, which is not among {', '.join(sorted(by_letter))}")
        by_letter[row.paper].claim(row.claim)
        under[row.paper, row.claim].append(row)
    return Report(
        tuple(
            PaperReport(
                paper, tuple(ClaimReport(paper, claim, tuple(under[letter, claim.key])) for claim in paper.claims)
            )
            for letter, paper in sorted(by_letter.items())
        ),
        {**UNKNOWN, **meta},
    )


def read(file: str | Path, papers: Sequence[Mapping[str, Any]] = ()) -> Report:
    """The report of the rows that a run saved (`paper_checks.json`); `papers` adds those of which no check was run.

    Raises:
        ValueError: the file holds no rows of paper checks.
    """
    try:
        saved = json.loads(Path(file).read_text(encoding="utf-8"))
        known = {record["letter"]: read_paper(record) for record in (*papers, *saved["meta"]["papers"])}
        return gather(list(known.values()), saved["rows"], saved["meta"])
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{file} holds no rows of paper checks ({type(error).__name__}: {error}): give the paper_checks.json that a run wrote"
        ) from None


def rerun(row: Evidence) -> str:
    """The command that runs the row's check again, from a checkout of the project."""
    return f"pytest {shlex.quote(row.test)}" if row.test else ""
