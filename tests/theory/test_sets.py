"""The exact image of a set agrees with the formulas of the normalisations, and refuses what it does not know."""

import pytest
import sympy
from sympy import Matrix, Rational

from theory.atoms.bilinear import Gain
from theory.layers.normalisation import InstanceNorm, LayerNorm, RMSNorm, SetNorm
from theory.sets import image, kept_directions, merged_sets, normalised, set_norm_steps

X = Matrix([[1, 2, 4], [3, 5, -3]])
EPS = Rational(1, 10)


def test_images_are_the_formulas() -> None:
    mean = Rational(2)
    variance = sum((x - mean) ** 2 for x in X) / 6
    expected = X.applyfunc(lambda x: (x - mean) / sympy.sqrt(variance + EPS))
    assert (normalised(SetNorm(EPS), X) - expected).applyfunc(sympy.simplify) == sympy.zeros(2, 3)
    each = normalised(LayerNorm(EPS), X)
    assert sympy.simplify(each[0, 0] + 1 / sympy.sqrt(1 + EPS)) == 0  # member (1, 3): mean 2, variance 1
    assert sympy.simplify(normalised(RMSNorm(EPS), X)[1, 0] - 3 / sympy.sqrt(5 + EPS)) == 0
    by_feature = normalised(InstanceNorm(EPS), X)
    assert sympy.simplify(by_feature.row(0)[0] + by_feature.row(0)[1] + by_feature.row(0)[2]) == 0
    with pytest.raises(ValueError, match="Gain"):
        image(Gain(), X)


def test_steps_hold_and_what_is_lost_is_counted() -> None:
    assert all(step.verify() for step in set_norm_steps())
    first, second = merged_sets()
    assert first != second
    assert normalised(LayerNorm(EPS), first) == normalised(LayerNorm(EPS), second)
    assert normalised(SetNorm(EPS), first) != normalised(SetNorm(EPS), second)
    assert (kept_directions(SetNorm(EPS), first, EPS), kept_directions(LayerNorm(EPS), first, EPS)) == (5, 4)
