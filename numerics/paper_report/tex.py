"""The report as LaTeX: findings first, a table of papers, then a table of claims and one of rows for each paper."""

from __future__ import annotations

from numerics.claims import LEGS, Evidence
from numerics.paper_report.formulas import as_latex, number, plain_latex
from numerics.paper_report.page import KINDS, VERDICTS, verdict_of
from numerics.paper_report.records import ClaimReport, PaperReport, Report
from theory import latex

RELATIONS = {"upper": r"$\le$", "lower": r"$\ge$", "equal": "$=$"}


def _columns(*shares: float) -> str:
    return "".join(rf">{{\raggedright\arraybackslash}}p{{{share}\linewidth}}" for share in shares)


def _row(*cells: str) -> str:
    return " & ".join(cells) + r" \\"


def _number(value: float | str | None) -> str:
    if value is None:
        return "--"
    return latex.code(number(value)) if isinstance(value, str) else f"${latex.number(value)}$"


def findings(report: Report) -> str:
    """The claims that turned out false, loose, sharpened or undecided."""
    out = []
    for kind, found in report.findings.items():
        lines = [
            _row(
                f"{plain_latex(claim.paper.letter)}, {plain_latex(claim.claim.key)}" if row is rows[0] else "",
                as_latex(row.sentence),
                as_latex(row.what),
            )
            for claim, rows in found
            for row in rows
        ]
        out.append(
            latex.longtable(_columns(0.16, 0.48, 0.3), ["claim", "what was found", "where"], lines, f"{KINDS[kind]}.")
        )
    return "\n\n".join(out)


def summary(report: Report) -> str:
    """Papers with their numbers of rows on each leg and the verdicts on their claims."""
    lines = []
    for each in report.papers:
        verdicts = ", ".join(f"{count} {name}" for name, count in each.verdicts().items())
        missing = sum(map(len, each.missing.values()))
        name = plain_latex(f"{each.paper.letter}. {each.paper.authors.split(',')[0]} {each.paper.year}")
        lines.append(_row(name, str(len(each.claims)), *(str(each.count(leg)) for leg in LEGS), verdicts, str(missing)))
    head = ["paper", "claims", *LEGS, "verdicts", "missing legs"]
    return latex.longtable(
        _columns(0.2, 0.06, 0.08, 0.08, 0.08, 0.3, 0.08), head, lines, "Rows of evidence on each leg."
    )


def _claim(each: ClaimReport) -> str:
    legs = "; ".join(
        leg.name
        + (f": {len(leg.rows)} rows" if leg.rows else f": {as_latex(leg.absent)}" if leg.absent else ": missing")
        for leg in each.legs
    )
    return _row(
        plain_latex(each.claim.key), as_latex(each.claim.statement), each.claim.source, legs, VERDICTS[each.verdict]
    )


def _evidence(claim: ClaimReport, row: Evidence) -> str:
    bound = f"{RELATIONS[row.sense]} {_number(row.bound)}" if row.numeric else _number(str(row.bound))
    return _row(
        plain_latex(claim.claim.key),
        row.leg,
        as_latex(row.what),
        bound,
        _number(row.measured),
        _number(row.tightness),
        verdict_of(row),
    )


def paper(each: PaperReport) -> str:
    """Claims, then rows."""
    title = f"\\subsection*{{{plain_latex(each.paper.letter)}. {plain_latex(each.paper.title)}}}"
    about = plain_latex(f"{each.paper.authors}. {each.paper.reference} ({each.paper.year}).")
    claims = latex.longtable(
        _columns(0.12, 0.42, 0.07, 0.2, 0.1),
        ["claim", "statement", "source", "legs", "verdict"],
        [_claim(claim) for claim in each.claims],
        f"Claims of paper {plain_latex(each.paper.letter)}.",
    )
    lines = [_evidence(claim, row) for claim in each.claims for row in claim.rows]
    rows = latex.longtable(
        _columns(0.11, 0.07, 0.32, 0.2, 0.08, 0.07, 0.06),
        ["claim", "leg", "what", "bound", "measured", "tightness", "verdict"],
        lines,
        f"Evidence on paper {plain_latex(each.paper.letter)}.",
    )
    return "\n\n".join([title, about, claims, *([rows] if lines else [])])


def document(report: Report) -> str:
    """A document that compiles by itself."""
    problems = "".join(f"\\item {latex.code(text)}\n" for text in report.problems)
    warning = f"This run is not complete:\n\\begin{{itemize}}\n{problems}\\end{{itemize}}" if problems else ""
    bodies = [warning, findings(report), summary(report), *(paper(each) for each in report.papers)]
    body = "\n\n".join(text for text in bodies if text)
    return latex.document("Claims of papers, checked", f"\\begingroup\\footnotesize\n{body}\n\\endgroup")
