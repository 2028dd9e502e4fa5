"""The report as one page that needs nothing else: no network, no script; figures inside, formulas as MathML."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from numerics.claims import LEGS, SOURCES, Evidence
from numerics.paper_report.formulas import as_html, breakable, number
from numerics.paper_report.records import Report, rerun

KINDS = {
    "false": "False as stated",
    "loose": "True, but loose",
    "sharpened": "Sharpened here",
    "undecided": "Not decided by what was measured",
}
"""Headings of the findings."""
VERDICTS = {
    "fails": "a row does not hold",
    "incomplete": "a leg is missing",
    "false": "false as stated",
    "undecided": "not decided",
    "loose": "holds, but is loose",
    "sharpened": "holds, sharpened here",
    "holds": "holds",
}
"""What the verdict on a claim means."""
RELATIONS = {"upper": "≤", "lower": "≥", "equal": "="}


def verdict_of(row: Evidence) -> str:
    """A word on one row: two numbers were compared, or a closed form was derived, or something was shown without a number to compare."""
    if row.numeric:
        return "holds" if row.holds else "FAILS"
    return "derived" if row.leg == "derived" else "shown"


class Figures:
    """Embeds the figures of a folder; remembers those that are missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: list[str] = []

    def __call__(self, name: str) -> str:
        """The figure as a data URI, or nothing where there is no such file."""
        file = self.folder / f"{name}.png"
        # names come from the rows: nothing outside the folder is read
        if file.parent != self.folder or not file.is_file():
            if name not in self.missing:
                self.missing.append(name)
            return ""
        return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode("ascii")


def page(report: Report, figures: Path) -> tuple[str, list[str]]:
    """The page, and the names of figures that are not in the folder (the page names each in its place)."""
    environment = Environment(
        loader=PackageLoader("numerics.paper_report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    embed = Figures(figures)
    environment.filters |= {"formulas": as_html, "breakable": breakable, "number": number}
    text = environment.get_template("report.html.j2").render(
        report=report,
        legs=LEGS,
        sources=SOURCES,
        kinds=KINDS,
        verdicts=VERDICTS,
        relations=RELATIONS,
        rerun=rerun,
        embed=embed,
        verdict_of=verdict_of,
    )
    return text, embed.missing
