"""Wide ReLU networks near initialisation: shapes, exact relations, refusals."""

from __future__ import annotations

import math

import pytest
import sympy
import torch

from numerics.device import DTYPE, generator
from numerics.overparameterised import (
    Networks,
    angles,
    arc,
    descend,
    flipping_change,
    gradient,
    gradient_matrix,
    initial,
    least_separation,
    next_angles,
    on_sphere,
    rank_one,
    remainder,
    remainder_bound,
    spectral_unit,
    tangent_kernel,
    wide_gradient_matrix,
    worst_norm,
    worst_remainder,
)
from theory.kernels.gaussian_relu import next_angle


@pytest.fixture(name="nets")
def _nets() -> Networks:
    return initial(5, 24, 2, 4, 3, generator(0))


X = on_sphere(torch.randn(3, 4, dtype=DTYPE, generator=generator(1)))
Y = torch.randn(3, 4, dtype=DTYPE, generator=generator(2))


def test_variances_and_shapes() -> None:
    nets = initial(40, 60, 2, 5, 3, generator(0))
    for part, variance in ((nets.A, 2 / 60), (nets.W, 2 / 60), (nets.B, 1 / 3)):
        # 7,000 entries and more: a relative standard error of sqrt(2/7,000), of which 4 are allowed
        assert float(part.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / 7000))
    assert nets.outputs(X[:, :1].new_zeros(5, 7)).shape == (40, 3, 7)
    assert (nets.width, nets.depth) == (60, 2)
    with pytest.raises(ValueError, match="each must be at least 1"):
        initial(1, 0, 1, 1, 1, generator(0))


def test_samples_lie_where_the_model_wants_them() -> None:
    x = arc(6, 0.2, 5)
    assert torch.allclose(x.norm(dim=0), torch.ones(6, dtype=DTYPE))
    assert torch.allclose(x[-1], torch.full((6,), math.sqrt(0.5), dtype=DTYPE))
    assert torch.allclose((x[:, 1:] - x[:, :-1]).norm(dim=0), torch.full((5,), 0.2, dtype=DTYPE))
    with pytest.raises(ValueError, match="take fewer, nearer ones"):
        arc(20, 0.9, 3)
    with pytest.raises(ValueError, match="3 features or more"):
        arc(2, 0.1, 2)


def test_angles_and_separation_agree_with_their_definitions(nets: Networks) -> None:
    h = nets.features(X)[-1]
    unit = h / h.norm(dim=1, keepdim=True)
    torch.testing.assert_close(angles(h).cos(), unit.mT @ unit, rtol=1e-12, atol=1e-12)
    one, other = h[..., 0], h[..., 1]
    apart = other - (other * one).sum(1, keepdim=True) * one / one.square().sum(1, keepdim=True)
    assert torch.all(least_separation(h) <= apart.norm(dim=1) + 1e-12)
    pair = least_separation(h[..., :2])
    back = one - (other * one).sum(1, keepdim=True) * other / other.square().sum(1, keepdim=True)
    torch.testing.assert_close(pair, torch.minimum(apart.norm(dim=1), back.norm(dim=1)))


def test_the_angle_map_on_doubles_is_the_derived_one() -> None:
    for start in (1e-6, 9e-3, 1.1e-2, 0.5, 1.5):
        exact = next_angle(sympy.Float(start, 40)).evalf(30)
        assert float(next_angles(torch.tensor(start, dtype=DTYPE))) == pytest.approx(float(exact), rel=1e-11)


def test_gradient_and_kernel_agree_with_the_jacobian(nets: Networks) -> None:
    v = torch.randn(5, 3, 4, dtype=DTYPE, generator=generator(3))
    whole = gradient(nets, X, v).flatten(1).square().sum(1)
    quadratic = torch.einsum("bi,bij,bj->b", v.flatten(1), tangent_kernel(nets, X), v.flatten(1))
    torch.testing.assert_close(whole, quadratic)
    slope = gradient(nets, X, nets.outputs(X) - Y)
    step = 1e-6 * torch.randn(slope.shape, dtype=DTYPE, generator=generator(4))
    difference = (nets.moved(step).loss(X, Y) - nets.moved(-step).loss(X, Y)) / 2
    torch.testing.assert_close(difference, (slope * step).sum((1, 2, 3)), rtol=1e-5, atol=1e-12)


def test_gradient_matrix_is_the_last_layers_mean_over_readouts() -> None:
    nets = initial(1, 16, 1, 4, 2, generator(5))
    many = Networks(nets.A, nets.W, torch.randn(20000, 2, 16, dtype=DTYPE, generator=generator(6)) * math.sqrt(0.5))
    v = torch.randn(2, 4, dtype=DTYPE, generator=generator(7))
    h = many.features(X)
    back = (many.B.mT @ v) * (h[-1] > 0)
    squares = (back @ h[-2].mT).square().sum((1, 2))
    derived = 16 / 2 * float(torch.einsum("ki,ij,kj->", v, gradient_matrix(nets, X)[0], v))
    assert abs(float(squares.mean()) - derived) < 4 * float(squares.std()) / math.sqrt(20000)


def test_the_wide_limit_is_that_of_wide_networks() -> None:
    found = gradient_matrix(initial(8, 600, 2, 4, 1, generator(8)), X).mean(0)
    # entries fluctuate by about sqrt(5 L / (8 m)), 0.05; four of those on entries of about 1/2
    torch.testing.assert_close(found, wide_gradient_matrix(X, 2), rtol=0, atol=0.1)
    with pytest.raises(ValueError, match="at least one is trained"):
        wide_gradient_matrix(X, 0)


def test_remainders(nets: Networks) -> None:
    change = spectral_unit(torch.randn(nets.W.shape, dtype=DTYPE, generator=generator(9)))
    torch.testing.assert_close(torch.linalg.matrix_norm(change, 2), torch.ones(5, 2, dtype=DTYPE))
    none = remainder(nets, X, Y, torch.zeros_like(change))
    assert float(none.abs().max()) == 0.0
    found = worst_remainder(nets, X, Y, 0.1, 20, generator(10))
    replayed = remainder(nets, X, Y, 0.1 * rank_one(*found.arguments))
    torch.testing.assert_close(replayed, found.value, rtol=1e-9, atol=1e-14)
    assert torch.all(found.value > remainder(nets, X, Y, 0.1 * change))
    with pytest.raises(ValueError, match="the bound is for one"):
        remainder_bound(nets, X, Y, change)


def test_the_remainder_bound_holds_and_fails_when_shrunk() -> None:
    single = initial(40, 16, 1, 4, 2, generator(11))
    y = torch.randn(2, 4, dtype=DTYPE, generator=generator(12))
    found = worst_remainder(single, X, y, 0.3, 60, generator(13))
    share = found.value / remainder_bound(single, X, y, 0.3 * rank_one(*found.arguments))
    assert 0.4 < float(share.max()) <= 1.0


def test_descent_decreases_by_the_kernel_at_small_steps() -> None:
    nets = initial(4, 200, 1, 4, 2, generator(14))
    values, vectors = torch.linalg.eigh(tangent_kernel(nets, X))
    wanted = nets.outputs(X) - 1e-3 * vectors[..., -1].reshape(4, 2, 4)  # along the top eigenvector, a small residual
    step = 0.1 / values[:, -1]
    run = descend(nets, X, wanted, step, 5)
    assert run.losses.shape == (6, 4)
    # every step multiplies the residual by 1 - 0.1 up to the change of the kernel, of the order of the residual
    torch.testing.assert_close(run.rate(), torch.full((4,), -2 * math.log(0.9), dtype=DTYPE), rtol=1e-2, atol=0)
    assert torch.all(run.slowest() > 0)
    assert torch.all(run.slowest() <= run.rate() + 1e-12)


def test_the_worst_norm_is_no_less_than_that_of_given_samples(nets: Networks) -> None:
    found = worst_norm(nets, 2, 40, 4, generator(15))
    assert torch.all(found >= nets.features(X)[-1].square().sum(1).amax(1) * (1 - 1e-2))


def test_the_constructed_change_has_its_norm_and_moves_units_across_zero() -> None:
    single = initial(6, 200, 1, 4, 2, generator(16))
    x, y = X[:, :1], 1e4 * Y[:2, :1]
    change = flipping_change(single, x, y, 0.3)
    assert torch.all(torch.linalg.matrix_norm(change[:, 0], 2) <= 0.3 * (1 + 1e-12))  # rounding
    h = single.features(x)[0]
    before, moved = (single.W[:, 0] @ h)[..., 0], (change[:, 0] @ h)[..., 0]
    active = moved != 0
    assert torch.all(active.sum(1) >= 5)
    assert torch.all((before.sign() != (before + moved).sign()) == active)
    # every moved unit raises the loss, so the remainder is what they add; random changes of that norm add far less
    other = 0.3 * spectral_unit(torch.randn(change.shape, dtype=DTYPE, generator=generator(17)))
    assert torch.all(remainder(single, x, y, change) > 3 * remainder(single, x, y, other).abs())
    with pytest.raises(ValueError, match="one layer and one sample"):
        flipping_change(single, X, Y[:2], 0.1)
