"""Trilinear resampling: sums of weights and gradients against brute force."""

import numpy as np
import pytest
import sympy
from sympy import Rational

from theory.volumetric.trilinear import columns, gradient_norm, hat, image_norm, map_norm, n, rows


def test_every_step_is_an_identity() -> None:
    for bound in (
        rows(),
        columns(Rational(3, 10)),
        columns(2),
        image_norm((1, Rational(1, 2), 3)),
        gradient_norm(),
        map_norm(),
    ):
        bound.verify()
        assert any(step.zeros for step in bound.steps) or bound.parents


@pytest.mark.parametrize("scale", [Rational(3, 10), Rational(1, 2), Rational(7, 10), 1, Rational(5, 2)])
def test_column_sums_are_largest_with_a_sample_on_the_voxel(scale: sympy.Expr) -> None:
    u = np.linspace(0, float(scale), 2001)
    k = np.arange(-40, 41)
    sums = np.maximum(0, 1 - np.abs(float(scale) * k[:, None] + u)).sum(0)
    assert sums.max() == pytest.approx(float(columns(scale).expression), rel=1e-12)
    assert sums[0] == pytest.approx(sums.max(), rel=1e-12)


def test_hat_and_the_gradient_at_its_worst_corner() -> None:
    x = sympy.Symbol("x", real=True)
    assert [hat(x).subs(x, v) for v in (-2, 0, Rational(1, 4), 1)] == [0, 1, Rational(3, 4), 0]
    # 1 - (1-x)(1-y)(1-z) has value 0 at the corner, 1 at its neighbours
    point = np.zeros(3)
    gradient = [np.prod([1 - c for j, c in enumerate(point) if j != i]) for i in range(3)]
    assert np.linalg.norm(gradient) == pytest.approx(float(gradient_norm().expression), rel=1e-15)


def test_the_sum_over_voxels_is_what_the_closed_form_says() -> None:
    for size in (2, 5, 24):
        line = (2 * np.arange(size) + 1) / size - 1
        total = sum(1 + x * x + y * y + z * z for x in line for y in line for z in line)
        assert float(map_norm(size).expression) == pytest.approx(np.sqrt(3 * total) * size / 2, rel=1e-12)
    assert map_norm().expression.free_symbols == {n}


def test_a_scale_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="scale 0"):
        columns(0)
