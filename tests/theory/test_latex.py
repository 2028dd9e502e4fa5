"""LaTeX of the records: symbols typeset, nothing unescaped, decimals on the safe side, and a document that compiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import sympy
from sympy import Max, Min, Rational, oo, sqrt

from theory import latex
from theory.bound import Bound, Sense
from theory.catalogue import Entry, entry
from theory.convergence import Certificate, certify
from theory.landscape import Landscape, landscape
from theory.spec import parse
from theory.symbols import K, L, N, c, d, ell, eps, rho, sigma, x_0, x_F

SCALED = "affine(12), repeat(L, residual(tanh, affine(12, weight_norm=frobenius), scale(c/L))), crop(10)"
LAYERS = (
    "affine(m)",
    "affine(m, bias=true, weight_norm=row, gain=true)",
    "silu",
    "batch_norm(gain=true, shift=true)",
    "crop(m)",
)
ROWS = [
    {
        "network": SCALED,
        "depth": 8,
        "quantity": "smoothness_constant",
        "sense": "upper",
        "bound": 57.3,
        "measured": 31.2,
        "tightness": 0.54,
        "holds": True,
    },
    {
        "network": "affine(12), tanh",
        "depth": 1,
        "quantity": "odd_%name",
        "sense": "lower",
        "bound": float("inf"),
        "measured": 1e-9,
        "tightness": None,
        "holds": False,
    },
]


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    networks = [parse(text) for text in (*LAYERS, "residual(tanh, affine(d, weight_norm=frobenius), scale(c))")]
    return [entry(network, domain) for domain in ("everywhere", "ball") for network in networks]


@pytest.fixture(scope="module")
def landscapes() -> list[Landscape]:
    return [landscape(parse(text), sympy.Integer(64)) for text in (SCALED, "affine(12), tanh, affine(10)")]


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    network = parse(SCALED.replace("L", "20"))
    return certify(
        landscape(network, sympy.Integer(64)), {"N": 16, "x_0": 8, "x_F": 10, "sigma": 1, "eps": 1, "c": Rational(1, 2)}
    )


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (eps, r"\varepsilon"),
        (x_0, r"\|X_0\|"),
        (x_F, r"\|X_0\|_F"),
        (sigma**2, r"\sigma_N(X_0)^{2}"),
        (ell, r"\ell"),
        (rho / sqrt(eps), r"\frac{\rho}{\sqrt{\varepsilon}}"),
        (oo, r"\infty"),
        (sympy.S.Zero, "0"),
        (K * N * d * L, "K L N d"),
        (48 * sqrt(5) / (125 * eps), r"\frac{48 \sqrt{5}}{125 \varepsilon}"),
    ],
)
def test_the_projects_symbols_are_typeset(expression: sympy.Expr, text: str) -> None:
    assert latex.expression(expression) == text


def test_a_minimum_may_break_at_its_commas() -> None:
    assert latex.expression(Min(c, rho)) == r"\min\{c,\allowbreak\; \rho\}"
    assert latex.expression(Max(0, 1 - c) ** 2) == r"\max\{0,\allowbreak\; 1 - c\}^{2}"


@pytest.mark.parametrize(
    ("value", "sense", "text"),
    [
        (Rational(54991966007, 50000000000), Sense.UPPER, "1.09984"),
        (Rational(54991966007, 50000000000), Sense.LOWER, "1.09983"),
        (Rational(100000000001, 200000000000), Sense.UPPER, "0.500001"),
        (1 / (3 + Rational(1, 3 * 10**7) * c), Sense.UPPER, r"\frac{1}{3.33333 \cdot 10^{-8} c + 3}"),
        (Rational(1, 3 * 10**9), Sense.UPPER, r"3.33334 \cdot 10^{-10}"),
        (c - Rational(1, 3 * 10**7), Sense.UPPER, r"- 3.33333 \cdot 10^{-8} + c"),
        (Rational(1, 10**6), Sense.UPPER, r"\frac{1}{1000000}"),
    ],
)
def test_ends_of_enclosures_become_decimals_rounded_to_the_safe_side(
    value: sympy.Expr, sense: Sense, text: str
) -> None:
    assert latex.expression(value, sense) == text


def test_a_bound_is_an_inequality_with_a_star_where_it_is_attained() -> None:
    assert latex.bound(Bound.upper(c, quantity="input_jacobian_norm", sharp=True)) == r"\|D_X f\| \le c{}^{\star}"
    assert latex.bound(Bound.lower(sigma, quantity="my_name")) == r"\text{my\_name} \ge \sigma_N(X_0)"


def test_every_special_character_is_escaped() -> None:
    assert latex.escape("50% of a_b & {c} $5 #1") == r"50\% of a\_b \& \{c\} \$5 \#1"
    assert latex.escape("\\^~") == r"\textbackslash{}\textasciicircum{}\textasciitilde{}"


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("residual(tanh, affine(d, weight_norm=frobenius), scale(c))", r"X + c\,R_F(V)\,\tanh(X)"),
        ("affine(m, bias=true)", r"A\,X + b\mathbf{1}^{\top}"),
        ("affine(m, bias=true), scale(c)", r"c\,(A\,X + b\mathbf{1}^{\top})"),
        ("batch_norm(gain=true)", r"\operatorname{diag}(g)\,\mathrm{BN}(X)"),
        ("residual(tanh, skip=1/2)", r"\frac{1}{2}\,X + \tanh(X)"),
        ("repeat(L, gelu)", r"\bigl(\operatorname{gelu}(X)\bigr)^{\circ L} "),
    ],
)
def test_a_layer_is_written_as_a_formula(spec: str, text: str) -> None:
    assert latex.formula(parse(spec)) == text


def test_the_table_of_layers_shows_infinity_zero_and_stars(entries: list[Entry]) -> None:
    table = latex.layer_table(entries)
    assert r"A\,X & $\infty{}^{\star}$" in table.replace("$A", "A").replace("X$", "X")
    assert r"$0{}^{\star}$" in table
    assert table.count(r"\begin{longtable}") == 2
    assert "all inputs and parameters" in table


def test_the_composed_table_has_the_depth_and_its_limits(landscapes: list[Landscape]) -> None:
    table = latex.composed_table(landscapes)
    assert r"q = 1 + \frac{c}{L}" in table
    assert r"\|X_0\| e^{c}" in table
    assert r"\sigma_N(X_0)^{2} e^{- 2 c}" in table
    assert r"$\le$ $\displaystyle \infty$" in table


def test_equal_layers_share_their_rows_in_the_table_of_a_certificate(certificate: Certificate) -> None:
    table = latex.certificate_table(certificate)
    assert certificate.certified
    assert table.count("layers 2-21") == 1
    assert r"\textbf{fails}" not in table


def test_the_comparison_escapes_names_and_marks_a_violation() -> None:
    table = latex.comparison_table(ROWS)
    assert r"odd \%name" in table
    assert r"\textbf{no}" in table
    assert r"$\infty$" in table


def test_a_document_compiles(
    tmp_path: Path, entries: list[Entry], landscapes: list[Landscape], certificate: Certificate
) -> None:
    pdflatex = shutil.which("pdflatex")
    if pdflatex is None:
        pytest.skip("pdflatex is not installed: the LaTeX is checked as text only")
    text = latex.document(
        "Bounds: 100% & more_",
        latex.layer_table(entries),
        latex.composed_table(landscapes),
        latex.certificate_table(certificate),
        latex.comparison_table(ROWS),
        latex.rows_table(
            [
                {"a # column": "text & more " * 20, "value": 1e-13, "large": 2, "missing": None, "holds": True}
                | {f"x_{k}": 0.5 for k in range(4)}
            ],
            "95 % intervals of a_b.",
        ),
    )
    (tmp_path / "bounds.tex").write_text(text, encoding="utf-8")
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "bounds.tex"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "bounds.pdf").stat().st_size > 10_000
    assert [float(w) for w in re.findall(r"Overfull \\hbox \(([\d.]+)pt", done.stdout) if float(w) > 12] == []
