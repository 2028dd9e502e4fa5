"""The values that a certificate takes from data are proven ones, and deficient data fail the hypothesis by name."""

from __future__ import annotations

import flint
import pytest
import torch

from numerics.datasets import Data, data_values, digits
from numerics.device import DTYPE
from theory import symbols
from theory.convergence import certify
from theory.landscape import landscape
from theory.spec import parse


def test_values_known_in_closed_form_are_in_their_balls() -> None:
    data = Data(torch.tensor([[3, 0], [4, 5]], dtype=DTYPE), torch.tensor([0, 1]), 2)
    values = data_values(data)
    assert set(values) == {symbols.N, symbols.x_0, symbols.x_F, symbols.x_s, symbols.sigma}
    assert values[symbols.N] == 2
    exact = {symbols.sigma: 5, symbols.x_0: 45, symbols.x_F: 50, symbols.x_s: 25}
    for symbol, square in exact.items():
        ball = values[symbol]
        assert isinstance(ball, flint.arb)
        assert ball.overlaps(flint.arb(square).sqrt())
        assert ball.rad() < 1e-14


@pytest.mark.parametrize("samples", [2, 8, 40])
def test_balls_of_digits_agree_with_the_floats(samples: int) -> None:
    data = digits(samples, 0)
    values = data_values(data)
    floats = {
        symbols.sigma: data.sigma_min,
        symbols.x_0: data.operator_norm,
        symbols.x_F: data.frobenius_norm,
    }
    for symbol, value in floats.items():
        assert abs(float(values[symbol].mid()) - value) < 1e-13 * data.operator_norm * samples
        assert values[symbol] > 0


def test_a_repeated_sample_is_not_certified_and_the_hypothesis_is_named() -> None:
    data = digits(4, 0)
    repeated = Data(torch.cat([data.X, data.X[:, :1]], 1), torch.cat([data.labels, data.labels[:1]]), 10)
    values = data_values(repeated)
    assert values[symbols.sigma].lower() == 0
    assert values[symbols.sigma].upper() < 1e-14
    network = parse("affine(10)")
    assert certify(landscape(network, 64), data_values(data)).certified
    certificate = certify(landscape(network, 64), values)
    assert not certificate.certified
    assert "X_0 of full column rank" in " ".join(str(c) for c in certificate.failing)
