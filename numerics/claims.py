"""What a paper claims, and the evidence that checks leave: `Paper`, `Claim`, `Evidence`. Records only; nothing is computed here but verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

LEGS = ("derived", "measured", "searched")
"""The three legs of a check: our machinery yields the statement, sampled networks obey it, a search finds no counterexample."""

SOURCES = {
    "read": "in the authors' text or code",
    "recalled": "from memory, form sure",
    "unsure": "constants or form not certain: what is checked instead stands in the check",
    "derived": "re-derived for this project",
}
"""How sure it is that the source states the claim."""

FINDINGS = ("false", "loose", "sharpened", "undecided")
"""What stands at the top of the report: the statement fails as written, holds with a better constant, is improved by a derivation of ours, or is not decided by
what was measured (the interval over seeds holds both answers)."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement of a paper.

    `key` is short and unique in its paper; `statement` is in words with formulas between `$` signs; `source` one of `SOURCES`; `absent` says for each leg that
    cannot exist why it cannot, in a sentence. Errors: `ValueError` for an unknown source or leg, and for a reason that is no sentence.
    """

    key: str
    statement: str
    source: str
    absent: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"claim {self.key!r}: unknown source {self.source!r}; one of {', '.join(SOURCES)}")
        for leg, reason in self.absent.items():
            if leg not in LEGS:
                raise ValueError(f"claim {self.key!r}: unknown leg {leg!r}; one of {', '.join(LEGS)}")
            if not reason.strip().endswith("."):
                raise ValueError(f"claim {self.key!r}: why there is no {leg} leg has to be a sentence")


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper: `letter` as in the list of papers, authors, title, year, `reference` (such as `arXiv 2210.05371`), its claims.

    Errors: `ValueError` for two claims of one key.
    """

    letter: str
    authors: str
    title: str
    year: int
    reference: str
    claims: tuple[Claim, ...]

    def __post_init__(self) -> None:
        keys = [claim.key for claim in self.claims]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"paper {self.letter}: claims stated twice: {', '.join(twice)}")

    def claim(self, key: str) -> Claim:
        """The claim of that key; `ValueError` names the known ones."""
        for claim in self.claims:
            if claim.key == key:
                return claim
        raise ValueError(f"paper {self.letter} has no claim {key!r}; known: {', '.join(c.key for c in self.claims)}")


@dataclass(frozen=True, slots=True)
class Evidence:
    """One row of the report: what one leg of one claim showed.

    `what` names the quantity or setting; `bound` is a number or a closed form (as text); `measured` a number or None; `sense` is "upper" (measured at most bound),
    "lower" or "equal" (to within `tolerance`, absolute plus relative). `finding` is one of `FINDINGS` or empty, `note` its sentence. `figure` is a file name.
    """

    paper: str
    claim: str
    leg: str
    what: str
    bound: float | str
    measured: float | None = None
    sense: str = "upper"
    tolerance: float = 1e-9
    finding: str = ""
    note: str = ""
    test: str = ""
    figure: str = ""

    def __post_init__(self) -> None:
        if self.leg not in LEGS:
            raise ValueError(f"{self.paper}, {self.claim}: unknown leg {self.leg!r}; one of {', '.join(LEGS)}")
        if self.sense not in ("upper", "lower", "equal"):
            raise ValueError(f"{self.paper}, {self.claim}: sense {self.sense!r}; one of upper, lower, equal")
        if self.finding and (self.finding not in FINDINGS or not self.note):
            raise ValueError(
                f"{self.paper}, {self.claim}: a finding is one of {', '.join(FINDINGS)} and has a note that says what was found"
            )

    @property
    def sentence(self) -> str:
        """The note as a sentence: a first word in plain letters begins with a capital one, and there is a full stop."""
        note = self.note.strip()
        first = note.partition(" ")[0].rstrip(":,")
        if first == "a" or (first.isalpha() and first.islower() and len(first) > 1):
            note = note[0].upper() + note[1:]
        return note if not note or note.endswith((".", "?", "!")) else f"{note}."

    @property
    def numeric(self) -> bool:
        """Whether there are two numbers to compare."""
        return isinstance(self.bound, int | float) and self.measured is not None

    @property
    def holds(self) -> bool:
        """The verdict; a derived closed form without a measured number holds, as the check's own assertions decided it."""
        if not self.numeric:
            return True
        bound, measured = float(self.bound), float(self.measured or 0.0)
        if math.isnan(bound) or math.isnan(measured):
            return False
        slack = self.tolerance * (1.0 + abs(bound)) if math.isfinite(bound) else 0.0
        if self.sense == "equal":
            return bound == measured or abs(bound - measured) <= slack
        return measured <= bound + slack if self.sense == "upper" else measured >= bound - slack

    @property
    def tightness(self) -> float | None:
        """measured / bound (inverted for lower bounds), or None where a ratio says nothing (equalities, infinite or non-positive numbers)."""
        if not self.numeric or self.sense == "equal":
            return None
        bound, measured = float(self.bound), float(self.measured or 0.0)
        low, high = (measured, bound) if self.sense == "upper" else (bound, measured)
        return low / high if low >= 0 and high > 0 and math.isfinite(high) else None


def missing_legs(paper: Paper, evidence: Iterable[Evidence]) -> dict[str, tuple[str, ...]]:
    """Claim key -> legs that have neither evidence nor a sentence saying why they cannot exist; complete claims are left out."""
    seen = {(row.claim, row.leg) for row in evidence if row.paper == paper.letter}
    gaps = {
        claim.key: tuple(leg for leg in LEGS if leg not in claim.absent and (claim.key, leg) not in seen)
        for claim in paper.claims
    }
    return {key: legs for key, legs in gaps.items() if legs}


def read_paper(record: Mapping[str, Any]) -> Paper:
    """A paper from its record as JSON holds it (`dataclasses.asdict`); keys that are no fields are passed over."""
    claims = tuple(Claim(**claim) for claim in record["claims"])
    return Paper(**{**_own(Paper, record), "claims": claims})


def read_evidence(record: Mapping[str, Any]) -> Evidence:
    """A row from its record as strict JSON holds it (`numerics.report.plain`): `"oo"` is infinite where it was measured; a row that does not hold and
    has lost its number had NaN."""
    own = _own(Evidence, record)
    measured = own.get("measured")
    if isinstance(measured, str):
        own["measured"] = math.inf if measured == "oo" else -math.inf
    elif measured is None and not record.get("holds", True):
        own["measured"] = math.nan
    if own.get("measured") is not None and own["bound"] in ("oo", "-oo"):
        own["bound"] = math.inf if own["bound"] == "oo" else -math.inf
    return Evidence(**own)


def _own(kind: type, record: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: record[f.name] for f in fields(kind) if f.name in record}
