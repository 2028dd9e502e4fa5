"""Certified critical points: known functions, degenerate ones that must stay undecided, and 42 small losses below their bounds."""

import math
from dataclasses import replace

import flint
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from sympy import Rational

from numerics.realise import realise
from numerics.topology.balls import FUNCTIONS, compiled, power, rewritten
from numerics.topology.critical import critical_points
from numerics.topology.measured import Measured, levels_between, measure
from numerics.topology.small import INPUTS, TARGETS, SmallLoss, small_losses
from theory.records import Shape

x, y = sympy.symbols("x y", real=True)
SQUARE = ((-3.0, 3.0), (-3.0, 3.0))


def test_nine_critical_points_of_a_double_well_in_two_variables() -> None:
    found = critical_points((x**2 - 1) ** 2 + (y**2 - 1) ** 2 + x * y / 10, (x, y), SQUARE)
    assert found.complete
    assert found.outward
    assert sorted(p.index for p in found.points) == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert found.euler == 1
    # by symmetry at x = -y: 4 x^2 = 4 + 1/10
    lowest = found.points[0]
    assert abs(abs(lowest.at[0]) - (1 + 1 / 40) ** 0.5) < 1e-12
    assert lowest.value.contains(flint.arb(flint.fmpq(-81, 800)))
    assert found.below(0.5) == 4
    with pytest.raises(ValueError, match="critical value"):
        found.below(2.0)


def test_three_variables_and_one() -> None:
    z = sympy.Symbol("z", real=True)
    found = critical_points((x**2 - 1) ** 2 + y**2 + (z - sympy.tanh(x)) ** 2, (x, y, z), ((-2, 2),) * 3)
    assert found.complete
    assert sorted(p.index for p in found.points) == [0, 0, 1]
    wave = critical_points(sympy.cos(x), (x,), ((-1.0, 10.0),))
    assert [p.index for p in wave.points].count(1) == 2
    assert len(wave.points) == 4
    assert wave.outward is False


def test_a_zero_on_the_border_of_halves_is_counted_once() -> None:
    for shift in (0, Rational(3, 4), Rational(3, 2)):
        found = critical_points((x - shift) ** 2 + (y - shift) ** 2 + x * y / 3, (x, y), SQUARE)
        assert found.complete
        assert len(found.points) == 1


def test_degenerate_points_are_not_certified() -> None:
    assert not critical_points(x**4, (x,), ((-1.0, 1.0),)).complete
    assert critical_points(x**4 + x**2, (x,), ((-1.0, 1.0),)).complete
    # a degenerate saddle between three proper ones: one small cluster around it, and the others certified
    found = critical_points(x**3 - 3 * x * y**2 + x**4 + y**4, (x, y), ((-2.0, 2.0), (-2.0, 1.75)))
    (cluster,) = found.clusters
    assert not cluster.extended
    assert all(low <= 0 <= high and high - low < 1e-6 for low, high in cluster.hull)
    assert "degenerate" in str(cluster)
    assert len(found.points) == 3


def test_critical_points_that_are_not_isolated_are_covered_and_reported() -> None:
    found = critical_points((x**2 + y**2 - 1) ** 2, (x, y), ((-2.0, 2.0), (-2.0, 1.75)), most_boxes=3000)
    assert [p.index for p in found.points] == [2]
    (circle,) = found.clusters
    assert circle.extended
    assert "not isolated" in str(circle)
    # every point of the circle lies in an undecided box
    for k in range(360):
        at = (math.cos(k), math.sin(k))
        assert any(all(a <= v <= b for v, (a, b) in zip(at, box, strict=True)) for box in found.undecided)


def test_without_an_l2_term_the_minima_of_a_network_are_not_isolated_and_with_one_they_are() -> None:
    loss = SmallLoss("affine(1), tanh, affine(1)", "squared_error", Rational(0), 3.0, INPUTS[:1], (Rational(1, 2),))
    found = critical_points(loss.expression.value, loss.expression.parameters, loss.box, most_boxes=2000)
    assert [c.extended for c in found.clusters] == [True, True]  # the two branches of v tanh(w) = 1/2
    assert [p.index for p in found.points] == [1]
    decayed = replace(loss, l2=Rational(1, 20))
    found = critical_points(decayed.expression.value, decayed.expression.parameters, decayed.box)
    assert found.complete
    assert found.clusters == ()


def test_a_border_without_outward_gradient_is_seen() -> None:
    found = critical_points((x - 5) ** 2 + y**2, (x, y), SQUARE)
    assert found.complete
    assert found.points == ()
    assert not found.outward


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no interval for y"):
        critical_points(x * y, (x,), ((0, 1),))
    with pytest.raises(ValueError, match="1 variables and 2 intervals"):
        critical_points(x, (x,), ((0, 1), (0, 1)))
    with pytest.raises(ValueError, match="empty side"):
        critical_points(x, (x,), ((1, 1),))
    with pytest.raises(ValueError, match="no whole exponent"):
        critical_points((1 + x**2) ** Rational(3, 2), (x,), ((0, 1),))


@given(st.floats(-3, 3), st.floats(0, 2), st.integers(-3, 6))
def test_powers_of_balls_contain_the_powers(middle: float, radius: float, n: int) -> None:
    ball = flint.arb(middle, radius)
    if n < 0 and ball.contains(0):
        return
    for part in (-1, -0.5, 0, 0.5, 1):
        point = flint.arb(middle) + flint.arb(part) * flint.arb(radius)
        exact = flint.arb(1)
        for _ in range(abs(n)):
            exact *= point
        assert power(ball, n).overlaps(exact if n >= 0 else 1 / exact)
    assert power(flint.arb(0, 1), 2).is_finite()  # python-flint's own is undefined here


def test_constants_enter_as_balls_and_rewriting_changes_nothing() -> None:
    expressions = [
        x / 3 + sympy.sqrt(2) * sympy.erf(x / sympy.sqrt(2)),
        sympy.log(1 + sympy.exp(2 * x)) - 1 / (1 + sympy.exp(-x)),
    ]
    for expression in expressions:
        for form in (expression, rewritten(expression)):
            for e in (form, sympy.diff(form, x), sympy.diff(form, x, 2)):
                (ball,) = compiled([e], [x])([flint.arb(flint.fmpq(2, 7))])
                reference = (sympy.diff(expression, x, 0 if e is form else 1 if e == sympy.diff(form, x) else 2)).subs(
                    x, Rational(2, 7)
                )
                assert ball.overlaps(flint.arb(str(reference.evalf(40)), 1e-30))
                assert float(ball.rad()) < 1e-12
    assert set(FUNCTIONS) >= {"tanh", "erf", "atan", "Softplus", "power"}


@pytest.fixture(scope="module")
def measured() -> list[Measured]:
    return [measure(loss) for loss in small_losses()]


def test_at_least_thirty_small_losses_have_certified_critical_points_below_the_bound(measured: list[Measured]) -> None:
    assert len(measured) >= 30
    assert {m.loss.loss for m in measured} == {"squared_error", "binary_cross_entropy"}
    for m in measured:
        assert m.critical.complete, m.loss.name
        count = len(m.critical.points)
        assert 1 <= count <= m.loss.reading.critical_points().exact()
        assert m.bound <= m.generic
        assert m.gap > 0
        # where the gradient points outwards the indices add up to the Euler characteristic of the box
        assert m.critical.euler == 1 or not m.critical.outward, m.loss.name
    assert sum(m.critical.outward for m in measured) >= 30
    assert max(len(m.critical.points) for m in measured) >= 3


def test_levels_lie_between_critical_values(measured: list[Measured]) -> None:
    for m in measured[:6]:
        levels = levels_between(m.critical)
        assert m.critical.below(levels[-1]) == len(m.critical.points)
        assert all(m.critical.below(level) > 0 for level in levels)


def test_the_expression_is_the_realised_network() -> None:
    data = torch.tensor([[float(v[0]) for v in INPUTS]], dtype=torch.float64)
    theta = torch.tensor([[0.7, -1.3]], dtype=torch.float64)
    for loss in small_losses():
        found = loss.expression
        here = theta[:, : len(found.parameters)]
        outputs = realise(loss.network, Shape(1, len(INPUTS)))(here, data)[0, 0]
        targets = torch.tensor([float(v) for v in TARGETS[loss.loss]], dtype=torch.float64)
        if loss.loss == "squared_error":
            value = ((outputs - targets) ** 2).mean()
        else:
            value = torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets)
        value = value + float(loss.l2) * (here**2).sum()
        at = dict(zip(found.parameters, map(Rational, map(str, here[0].tolist())), strict=True))
        assert abs(float(value) - float(found.value.subs(at).evalf())) < 1e-12, loss.name
