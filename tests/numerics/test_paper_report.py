"""The report of the paper checks: rows become one page that needs nothing else, and LaTeX that compiles."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from numerics.claims import Claim, Evidence, Paper
from numerics.paper_report import formulas, tex
from numerics.paper_report.page import page
from numerics.paper_report.records import Report, gather, read, rerun
from numerics.plots import save
from numerics.report import write_results
from paper_checks import papers

EVIL = "<script>alert('x')</script> & \"quoted\""
NODE = "paper_checks/someone_2020/test_sums.py::test_sum[a b, c]"
PAPER = Paper(
    "X",
    "Someone, Șomeone",
    "Sums: 100% of a_b & more",
    2020,
    "arXiv 0000.00000",
    (
        Claim("sum", r"The sum $\sup_\theta \|D^2 F\| \le \frac{1}{2}$ & costs 5 % of a_b.", "read"),
        Claim("product", r"$1 \cdot 1 = 1$", "unsure", {"searched": "There is one product only."}),
        Claim("quotient", "One over one.", "derived"),
    ),
)
ROWS = (
    Evidence("X", "sum", "derived", "closed form", "sigma**2*exp(-2*c) < 1", test=NODE),
    Evidence("X", "sum", "measured", "a sum", math.inf, 3.0, test=NODE, figure="X-sum"),
    Evidence("X", "sum", "searched", f"largest {EVIL}", 2.0, 1.5, finding="loose", note=f"Loose: {EVIL}", test=NODE),
    Evidence("X", "product", "derived", "a product", "1", finding="sharpened", note="Better: $x < y$.", test=NODE),
    Evidence("X", "product", "measured", "a product", 1.0, 2.0, finding="false", note="It is two.", figure="gone"),
)
META = {
    "status": "finished",
    "outcomes": {"passed": 3},
    "versions": {"python": "3"},
    "finished": "today",
    "seconds": 1.0,
}


def record(row: Evidence) -> dict[str, object]:
    return {**asdict(row), "holds": row.holds, "tightness": row.tightness}


@pytest.fixture()
def report(tmp_path: Path) -> Report:
    """The small report, read back from the file that a run writes, with a figure beside it."""
    figure = Figure()
    figure.subplots().plot([1, 2], [2, 1])
    save(figure, tmp_path / "figures" / "X-sum")
    write_results(tmp_path / "rows.json", {**META, "papers": [asdict(PAPER)]}, map(record, ROWS))
    return read(tmp_path / "rows.json")


class Tags(HTMLParser):
    """Every tag with its attributes, and whether tags are closed in order."""

    VOID = frozenset({"meta", "link", "img", "wbr", "br", "mspace"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def test_the_page_is_whole_escaped_and_needs_nothing_else(report: Report, tmp_path: Path) -> None:
    text, missing = page(report, tmp_path / "figures")
    assert missing == ["gone"]
    found = Tags(text)
    assert found.open == []
    names = [tag for tag, _ in found.tags]
    assert "script" not in names
    assert "&lt;script&gt;" in text
    assert text.count("<html lang=") == names.count("h1") == 1
    images = [attrs for tag, attrs in found.tags if tag == "img"]
    assert len(images) == 1
    assert images[0]["src"].startswith("data:image/png;base64,")
    assert images[0]["alt"]
    # nothing is fetched: every link stays on the page, and nothing else has an address
    links = [attrs["href"] for tag, attrs in found.tags if tag == "a"]
    anchors = {attrs["id"] for _, attrs in found.tags if "id" in attrs}
    assert all(link.startswith("#") and link[1:] in anchors for link in links)
    assert [attrs for tag, attrs in found.tags if tag == "link"] == [{"rel": "icon", "href": "data:,"}]
    assert "url(" not in text
    assert "@import" not in text
    assert all(attrs.get("scope") for tag, attrs in found.tags if tag == "th")
    assert "The figure gone is not there" in re.sub("<[^>]*>", "", text)


def test_findings_stand_first_and_rows_say_how_to_run_them_again(report: Report, tmp_path: Path) -> None:
    text, _ = page(report, tmp_path / "figures")
    places = [text.index(mark) for mark in ("It is two.", "Loose: ", "Better: ", 'id="summary"', 'id="paper-X"')]
    assert places == sorted(places)
    plain = re.sub("<[^>]*>", "", text)
    assert "pytest 'paper_checks/someone_2020/test_sums.py::test_sum[a b, c]'" in plain.replace("&#x27;", "'").replace(
        "&#39;", "'"
    )
    assert rerun(ROWS[-1]) == ""
    assert "≤ ∞" in plain


def test_verdicts_follow_from_the_rows(report: Report) -> None:
    (paper,) = report.papers
    assert [claim.verdict for claim in paper.claims] == ["loose", "fails", "incomplete"]
    assert paper.missing == {"quotient": ("derived", "measured", "searched")}
    assert [row.what for row in report.failing] == ["a product"]
    assert [leg.state for leg in paper.claims[1].legs] == ["holds", "fails", "absent"]
    assert report.problems == ["Paper X, quotient: no derived and no measured and no searched leg."]


def test_an_interrupted_run_says_so_with_the_tests_that_failed(tmp_path: Path) -> None:
    meta = {**META, "status": "interrupted", "failed": [{"test": NODE, "reason": "2 against 1"}]}
    text, _ = page(gather([PAPER], [record(row) for row in ROWS], meta), tmp_path)
    plain = re.sub("<[^>]*>", "", text)
    assert "The run was interrupted" in plain
    assert "2 against 1" in plain


def test_a_figure_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "figures").mkdir()
    row = record(Evidence("X", "sum", "derived", "w", "1", figure="../secret"))
    assert page(gather([PAPER], [row], META), tmp_path / "figures")[1] == ["../secret"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "holds no rows of paper checks"),
        ("[]", "holds no rows of paper checks"),
        ('{"meta": {}, "rows": []}', "holds no rows of paper checks"),
        (json.dumps({"meta": {"papers": [asdict(PAPER)]}, "rows": [record(ROWS[0]) | {"paper": "Y"}]}), "paper 'Y'"),
        (json.dumps({"meta": {"papers": [asdict(PAPER)]}, "rows": [record(ROWS[0]) | {"claim": "z"}]}), "no claim 'z'"),
    ],
)
def test_files_that_are_no_rows_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "rows.json")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (3000.0, "3,000"),
        (-2, "−2"),
        (1.2346e-7, "1.235·10⁻⁷"),
        (0.5, "0.5"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "not a number"),
        ("oo", "∞"),
        ("x + 1", "x + 1"),
    ],
)
def test_numbers_are_short(value: float | str | None, text: str) -> None:
    assert formulas.number(value) == text


def test_text_and_formulas_are_told_apart() -> None:
    assert formulas.parts("a $x$ b") == [(False, "a "), (True, "x"), (False, " b")]
    assert formulas.parts("it costs $5") == [(False, "it costs $5")]
    assert "<math" in formulas.as_html("$x < y$")
    assert formulas.as_html(r"$\text{<script>}$").count("<script>") == 0
    assert formulas.as_html(r"$\left( a$ b") == r"<code>\left( a</code> b"
    assert formulas.as_html(r"$\nonsense{x}$") == r"<code>\nonsense{x}</code>"
    assert formulas.as_latex("5 % $x_1$ é") == r"5 \% $x_1$ e"


@pytest.mark.parametrize("package", sorted(papers()))
def test_every_formula_of_every_claim_is_understood(package: str) -> None:
    for claim in papers()[package].claims:
        for text in (claim.statement, *claim.absent.values()):
            assert text.count("$") % 2 == 0, text
            assert [
                piece for formula, piece in formulas.parts(text) if formula and formulas.mathml(piece) is None
            ] == []


def compiled(text: str, folder: Path) -> str:
    pdflatex = shutil.which("pdflatex")
    if pdflatex is None:
        pytest.skip("pdflatex is not installed: the LaTeX is checked as text only")
    (folder / "report.tex").write_text(text, encoding="utf-8")
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def test_the_latex_has_findings_first_and_compiles(report: Report, tmp_path: Path) -> None:
    text = tex.document(report)
    assert text.index("It is two.") < text.index("Rows of evidence on each leg")
    assert r"\subsection*{X. Sums: 100\% of a\_b \& more}" in text
    assert "Someone, Someone" in text
    compiled(text, tmp_path)


def test_the_latex_of_every_paper_compiles(tmp_path: Path) -> None:
    compiled(tex.document(gather(list(papers().values()), [], META)), tmp_path)
