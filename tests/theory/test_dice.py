"""The soft Dice coefficient: range, where 1 is attained, and the supremum of its gradient against a search on the cube."""

import numpy as np
import pytest
import sympy
from scipy.optimize import minimize

from theory.volumetric.dice import SoftDice, a, b, m, n, q, s

CONVENTIONS = [SoftDice(power, smoothed) for power in (1, 2) for smoothed in (False, True)]
IDS = [f"power {c.power}{', smoothed numerator' * c.smoothed_numerator}" for c in CONVENTIONS]


@pytest.mark.parametrize("dice", CONVENTIONS, ids=IDS)
def test_every_step_is_an_identity_and_the_range_is_attained(dice: SoftDice) -> None:
    for bound in (dice.supremum, dice.infimum, dice.lipschitz(3, 8, 1)):
        bound.verify()
    size = 4
    ones, zeros = (sympy.S.One,) * size, (sympy.S.Zero,) * size
    values = {n: size, s: sympy.Rational(1, 3)}
    assert dice.coefficient(ones, ones).subs(values) == dice.supremum.expression.subs(values)
    half = (1, 1, 0, 0)
    other = tuple(1 - x for x in half)
    assert dice.coefficient(half, other).subs(values) == dice.infimum.expression.subs(values)
    # the empty prediction of an empty volume, 0/0 without smoothing, is 1 or 0
    assert dice.coefficient(zeros, zeros) == dice.delta


@pytest.mark.parametrize("dice", CONVENTIONS, ids=IDS)
def test_the_range_holds_on_random_volumes_and_is_open_at_one_only_without_smoothing_in_the_numerator(
    dice: SoftDice,
) -> None:
    source = np.random.default_rng(0)
    numeric = sympy.lambdify(
        [sympy.symbols("p:5"), sympy.symbols("g:5")],
        dice.coefficient(sympy.symbols("p:5"), sympy.symbols("g:5"), sympy.Rational(1, 2)),
    )
    values = {n: 5, s: sympy.Rational(1, 2)}
    low, high = (float(bound.expression.subs(values)) for bound in (dice.infimum, dice.supremum))
    drawn = numeric(source.random((5, 4000)), source.random((5, 4000)))
    binary = numeric(*(source.integers(0, 2, (5, 4000)).astype(float) for _ in range(2)))
    for found in (drawn, binary):
        assert low - 1e-12 <= found.min() <= found.max() <= high + 1e-12
    assert (high < 1) is (not dice.smoothed_numerator)


@pytest.mark.parametrize("dice", CONVENTIONS, ids=IDS)
def test_the_gradient_in_few_numbers_is_that_of_the_definition(dice: SoftDice) -> None:
    p, g = sympy.symbols("p:4"), (1, 1, 0, 0)
    gradient = [sympy.diff(dice.coefficient(p, g), x) for x in p]
    overlap, off, squares = p[0] + p[1], p[2] + p[3], sum(x**2 for x in p)
    short = dice.gradient_square().subs({a: overlap, b: off, q: squares, m: 2, n: 4})
    assert sympy.simplify(sum(d**2 for d in gradient) - short) == 0


@pytest.mark.parametrize("dice", CONVENTIONS, ids=IDS)
@pytest.mark.parametrize(("ones", "voxels"), [(3, 8), (1, 20), (4, 4)])
def test_the_gradient_never_exceeds_its_supremum_and_attains_it_where_it_claims_to(
    dice: SoftDice, ones: int, voxels: int
) -> None:
    bound = dice.lipschitz(ones, voxels, sympy.Rational(1, 2))
    value = float(bound.expression)
    # by symmetry and concentration a maximiser has one value on the support and one off it, or mass on few voxels: both are started from
    g = np.r_[np.ones(ones), np.zeros(voxels - ones)]
    k, delta = dice.power, float(dice.delta)

    def minus(p: np.ndarray) -> float:
        top, total = 2 * p @ g + delta / 2, (p**k).sum() + g.sum() + 0.5
        return -float(np.linalg.norm(2 * g / total - top * k * p ** (k - 1) / total**2))

    source = np.random.default_rng(1)
    starts = [np.zeros(voxels), 0.8 * g, *source.random((2, voxels))]
    best = max(-minimize(minus, start, bounds=[(0, 1)] * voxels).fun for start in starts)
    assert best <= value * (1 + 1e-9)
    if bound.sharp:
        assert best >= 0.9999 * value


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="power 3"):
        SoftDice(3)
    with pytest.raises(ValueError, match="9 ones among 8 voxels"):
        SoftDice().lipschitz(9, 8, 1)
