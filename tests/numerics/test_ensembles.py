"""Random networks and inputs are what their names say."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from numerics.device import DTYPE, generator
from numerics.ensembles import KINDS, SPIKE, clip, draw, matrices, mixture, project, random_inputs
from numerics.realise import realise
from theory.layers.affine import Affine
from theory.layers.normalisation import LayerNorm, RMSNorm
from theory.network import chain
from theory.records import Shape

REALISATION = realise(
    chain(Affine(6, bias=True), LayerNorm(0.1, gain=True), Affine(2, weight_norm="row", eps=1)), Shape(4, 5)
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_the_draw(kind: str) -> None:
    first, again, other = (draw(REALISATION, 7, kind, 2.0, generator(seed)) for seed in (3, 3, 4))
    assert first.shape == (7, REALISATION.size)
    assert first.dtype == DTYPE
    assert first.isfinite().all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_a_batch_differ(kind: str) -> None:
    theta = draw(REALISATION, 5, kind, 1.0, generator(0))
    assert len({tuple(row) for row in theta.tolist()}) == 5


@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (3, 5), (4, 4), (1, 6)])
def test_orthogonal_matrices_have_all_singular_values_equal_to_the_scale(rows: int, columns: int) -> None:
    a = matrices(generator(0), 8, rows, columns, "orthogonal", 2.5)
    values = torch.linalg.svdvals(a)
    torch.testing.assert_close(values, torch.full_like(values, 2.5), rtol=1e-13, atol=0)


def test_orthogonal_matrices_have_no_preferred_sign() -> None:
    """QR alone leaves diagonal entries of one sign; the mean over 4000 draws has standard deviation 0.01."""
    a = matrices(generator(0), 4000, 3, 3, "orthogonal", 1.0)
    assert a.diagonal(dim1=-2, dim2=-1).mean(0).abs().max() < 0.05


def test_low_rank_matrices_have_half_the_rank() -> None:
    a = matrices(generator(0), 8, 6, 7, "low_rank", 1.0)
    assert torch.linalg.matrix_rank(a).tolist() == [3] * 8


def test_spiked_matrices_have_one_large_singular_value() -> None:
    values = torch.linalg.svdvals(matrices(generator(0), 8, 6, 7, "spiked", 1.0))
    assert (values[:, 0] > 0.8 * SPIKE).all()
    assert (values[:, 1] < 3).all()


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal"])
def test_the_scale_is_about_the_operator_norm(kind: str) -> None:
    values = torch.linalg.svdvals(matrices(generator(0), 64, 30, 20, kind, 3.0))[:, 0]
    assert 0.8 * 3 < values.mean() < 1.2 * 3


def test_a_mixture_splits_evenly_over_kinds_and_scales() -> None:
    theta, labels = mixture(REALISATION, 30, generator(0))
    counts = Counter(labels)
    assert theta.shape == (30, REALISATION.size)
    assert len(labels) == 30
    assert len(counts) == 3 * len(KINDS)
    assert set(counts.values()) == {2, 3}
    assert "spiked x 0.1" in counts


def test_a_small_mixture_takes_the_first_combinations() -> None:
    theta, labels = mixture(REALISATION, 3, generator(0))
    assert theta.shape[0] == 3
    assert labels == ["gaussian x 0.1", "orthogonal x 0.1", "low_rank x 0.1"]


def test_projection_brings_every_array_into_the_ball_and_leaves_the_inside_alone() -> None:
    theta, _ = mixture(REALISATION, 24, generator(0))
    inside = project(REALISATION, theta, 1.5)
    for before, after, spec in zip(
        REALISATION.split(theta), REALISATION.split(inside), REALISATION.parameters, strict=True
    ):
        norm, new = (a.flatten(-len(spec.shape)).norm(dim=-1) for a in (before, after))
        torch.testing.assert_close(new, norm.clamp_max(1.5), rtol=1e-14, atol=0)
        torch.testing.assert_close(
            after / new.reshape(-1, *[1] * len(spec.shape)), before / norm.reshape(-1, *[1] * len(spec.shape))
        )
    torch.testing.assert_close(project(REALISATION, inside, 1.5), inside, rtol=1e-15, atol=0)
    assert torch.equal(project(REALISATION, theta, float("inf")), theta)


def test_projection_has_a_gradient_at_zero() -> None:
    theta = torch.zeros(2, REALISATION.size, dtype=DTYPE, requires_grad=True)
    project(REALISATION, theta, 1.0).sum().backward()
    assert theta.grad is not None
    assert torch.equal(theta.grad, torch.ones_like(theta))


def test_inputs_have_the_shape_asked_for() -> None:
    assert random_inputs((4, 5), 3, "low_rank", 1.0, generator(0)).shape == (3, 4, 5)


def test_a_map_without_parameters_has_empty_parameters() -> None:
    realisation = realise(RMSNorm(1), Shape(4, 5))
    theta, labels = mixture(realisation, 13, generator(0))
    assert theta.shape == (13, 0)
    assert len(labels) == 13
    assert project(realisation, theta, 1.0).shape == (13, 0)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="'uniform'"):
        draw(REALISATION, 2, "uniform", 1.0, generator(0))
    with pytest.raises(ValueError, match="count = 0"):
        mixture(REALISATION, 0, generator(0))
    with pytest.raises(ValueError, match="radius = 0"):
        clip(torch.ones(3, dtype=DTYPE), 0.0, 1)
