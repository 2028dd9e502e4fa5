"""Thresholds that suffice: the formula, and that the certificate changes its verdict exactly there."""

from __future__ import annotations

import pytest
import sympy
from sympy import S

from theory import symbols
from theory.convergence import certify
from theory.landscape import Landscape, landscape
from theory.spec import parse
from theory.sufficient import sufficient

NORMED = "affine(4, weight_norm=frobenius, eps=1)"
c, eps, L, m = symbols.c, symbols.eps, symbols.L, symbols.m


def deep(branch: str) -> Landscape:
    return landscape(parse(f"affine(m), repeat(L, residual({branch}, scale(c/L))), crop(K)"), symbols.d)


@pytest.mark.parametrize(
    ("branch", "symbol", "expected"),
    [
        ("batch_norm(), tanh, affine(m, weight_norm=frobenius, eps=1)", eps, c**2 / L**2),
        ("batch_norm(), affine(m, weight_norm=frobenius, eps=1)", eps, c**2 / L**2),
        ("layer_norm(), affine(m, weight_norm=row, eps=1)", eps, c**2 * m / L**2),
        ("batch_norm(), tanh, affine(m, weight_norm=frobenius, eps=1)", c, L * sympy.sqrt(eps)),
        ("tanh, affine(m, weight_norm=frobenius)", c, L),
    ],
)
def test_the_threshold_is_the_formula(branch: str, symbol: sympy.Symbol, expected: sympy.Expr) -> None:
    (found,) = sufficient(deep(branch), symbol)
    assert found.condition.left == symbol
    assert found.condition.relation == (">" if symbol == eps else "<")
    assert sympy.simplify(found.condition.right - expected) == 0
    assert "suffices for" in str(found)


@pytest.mark.parametrize("normalisation", ["batch_norm", "layer_norm", "rms_norm"])
def test_the_certificate_changes_its_verdict_at_the_variance_floor(normalisation: str) -> None:
    spec = f"affine(4), residual({normalisation}(), tanh, {NORMED}, scale(1/3)), crop(2)"
    here = landscape(parse(spec), S(4), S(3))
    (found,) = sufficient(here, eps)
    floor = found.condition.right
    assert floor == S(1) / 9
    values = {"N": 3, "x_0": 1, "x_F": 1, "sigma": S(1) / 2}
    assert certify(here, {**values, "eps": floor * S(101) / 100}).certified
    below = certify(here, {**values, "eps": floor * S(99) / 100})
    assert not below.certified
    assert "kappa < least singular value" in str(below.failing[0])


def test_what_no_value_repairs_has_no_threshold() -> None:
    assert sufficient(deep("tanh, affine(m)"), c) == ()
    assert sufficient(deep("tanh, affine(m, weight_norm=frobenius)"), eps) == ()
