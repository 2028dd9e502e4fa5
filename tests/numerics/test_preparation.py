"""Whitening gives equal singular values, random features give full column rank, and what neither can mend is refused by name."""

from __future__ import annotations

import math

import pytest
import torch

from numerics.datasets import Data, check_full_column_rank, digits
from numerics.device import DTYPE, generator
from numerics.preparation import random_feature_map, random_features, whitened, whitening

WHITENED = 40
"""Samples of the digits that are still independent; their condition number is below 400."""


@pytest.mark.parametrize("scale", [1.0, 0.25, 7.0])
def test_whitened_data_have_all_singular_values_equal_to_the_scale(scale: float) -> None:
    data = digits(WHITENED, 0)
    found = whitened(data, scale)
    torch.testing.assert_close(found.singular_values, torch.full((WHITENED,), scale, dtype=DTYPE), rtol=1e-12, atol=0)
    assert torch.equal(found.labels, data.labels)
    assert found.classes == data.classes
    assert found.X.shape == data.X.shape
    assert data.operator_norm / data.sigma_min > 100  # there was something to whiten


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_whitening_is_the_linear_map_that_whitens(scale: float) -> None:
    data = digits(WHITENED, 1)
    W = whitening(data, scale)
    # the product with the map suffers from the condition of the data, below 400, times the rounding of some hundred operations
    torch.testing.assert_close(W @ data.X, whitened(data, scale).X, rtol=0, atol=1e-10)
    torch.testing.assert_close(W, W.T, rtol=0, atol=1e-10)
    # W X X^T W = scale^2 P with P the projection on the samples: W is scale ((X X^T)^(1/2))^+
    image = W @ data.X
    torch.testing.assert_close(image @ image.T @ data.X, scale**2 * data.X, rtol=0, atol=1e-8)
    # what is orthogonal to the samples goes to 0
    outside = torch.linalg.svd(data.X)[0][:, WHITENED:]
    assert (W @ outside).abs().max() < 1e-10


def test_the_singular_values_of_whitened_data_are_enclosed_at_the_scale() -> None:
    least, largest = whitened(digits(WHITENED, 0), 2.0).singular_value_enclosure
    assert least > 2 - 1e-12
    assert largest < 2 + 1e-12


@pytest.mark.parametrize("function", [whitening, whitened])
def test_data_without_full_column_rank_are_not_whitened(function) -> None:
    with pytest.raises(ValueError, match=r"X_0 of full column rank.*N = 65, d = 64.*feature map into more dimensions"):
        function(digits(65, 0))
    data = digits(8, 0)
    repeated = Data(torch.cat([data.X, data.X[:, :1]], 1), torch.cat([data.labels, data.labels[:1]]), 10)
    with pytest.raises(ValueError, match="X_0 of full column rank"):
        function(repeated)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_is_not_positive_and_finite_is_refused(scale: float) -> None:
    for function in (whitening, whitened):
        with pytest.raises(ValueError, match=f"scale = {scale}"):
            function(digits(8, 0), scale)
    with pytest.raises(ValueError, match=f"scale = {scale}"):
        random_features(digits(8, 0), 20, 0, scale=scale)


def test_256_digits_have_proven_full_column_rank_after_512_random_features() -> None:
    data = digits(256, 0)
    with pytest.raises(ValueError, match=r"X_0 of full column rank.*N = 256, d = 64, sigma_N = 0"):
        check_full_column_rank(data)
    assert data.singular_value_enclosure[0] == 0
    found = random_features(data, 512, seed=0)
    least, largest = found.singular_value_enclosure
    print(f"sigma_N of 256 digits through 512 tanh features: {least.str(12)}, sigma_1: {largest.str(12)}")
    assert least > 0
    assert float(least.mid()) == pytest.approx(found.sigma_min, rel=1e-10)
    assert found.X.shape == (512, 256)
    assert torch.equal(found.labels, data.labels)
    assert found.classes == 10


@pytest.mark.parametrize("activation", ["tanh", "sin", "erf", "gelu"])
def test_features_are_the_activation_of_a_standardised_gaussian_map(activation: str) -> None:
    data = digits(80, 3)
    source = generator(5)
    directions = torch.randn(200, 64, dtype=DTYPE, generator=source)
    offsets = torch.randn(200, 1, dtype=DTYPE, generator=source)
    centred = data.X - data.X.mean(1, keepdim=True)
    spread = (centred**2).sum(0).mean().sqrt()
    inner = 0.5 * (directions @ centred / spread + offsets)
    phi = {"tanh": torch.tanh, "sin": torch.sin, "erf": torch.erf, "gelu": torch.nn.functional.gelu}[activation]
    torch.testing.assert_close(random_features(data, 200, 5, activation, 0.5).X, phi(inner), rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("size", [1.0, 1e6])
def test_preactivations_have_mean_square_two_times_the_squared_scale_whatever_the_size_of_the_data(
    scale: float, size: float
) -> None:
    data = digits(100, 0)
    inner = random_feature_map(Data(size * data.X + size, data.labels, 10), 20_000, 0, "identity", scale)(
        size * data.X + size
    )
    # 20,000 rows: the mean square of each row is about a chi square, standard error below 2 per cent
    assert float(inner.square().mean()) == pytest.approx(2 * scale**2, rel=0.06)


def test_the_map_of_new_samples_uses_the_constants_of_the_data_it_was_made_from() -> None:
    data = digits(30, 0)
    phi = random_feature_map(data, 40, 1)
    torch.testing.assert_close(phi(data.X[:, :7]), random_features(data, 40, 1).X[:, :7], rtol=0, atol=1e-14)
    assert phi(digits(5, 9).X).shape == (40, 5)


def test_the_seed_decides_the_features() -> None:
    data = digits(10, 0)
    assert torch.equal(random_features(data, 20, 1).X, random_features(data, 20, 1).X)
    assert not torch.equal(random_features(data, 20, 1).X, random_features(data, 20, 2).X)


def test_fewer_features_than_samples_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"width = 29.*N = 30.*cannot be independent; use width >= 30 or fewer samples"
    ):
        random_features(digits(30, 0), 29, 0)
    assert random_features(digits(30, 0), 30, 0).sigma_min > 0


def test_an_unknown_activation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown activation 'cosh'.*sin.*tanh"):
        random_features(digits(8, 0), 20, 0, "cosh")


def test_samples_that_coincide_are_refused_by_the_hypothesis_they_break() -> None:
    data = digits(8, 0)
    repeated = Data(torch.cat([data.X, data.X[:, :1]], 1), torch.cat([data.labels, data.labels[:1]]), 10)
    with pytest.raises(ValueError, match="X_0 of full column rank"):
        random_features(repeated, 50, 0)
    with pytest.raises(ValueError, match="spread of the samples is 0"):
        random_features(Data(torch.ones(3, 4, dtype=DTYPE), torch.tensor([0, 1, 0, 1]), 2), 50, 0)


def test_features_that_stay_in_few_dimensions_are_refused() -> None:
    """The identity maps 64 dimensions and a constant into a space of at most 65."""
    with pytest.raises(ValueError, match="X_0 of full column rank"):
        random_features(digits(70, 0), 200, 0, "identity")
