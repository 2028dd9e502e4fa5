"""The table of five readings: measured beside derived, the tangent kernel against finite differences of the definition, the figure."""

import pytest
import torch

from numerics.readings import (
    FEATURES,
    READINGS,
    Setting,
    finite_kernels,
    growth,
    inputs,
    realised,
    singular_values,
    table,
    weights,
)
from numerics.readings_figure import readings
from theory.readings import PAIR

SETTING = Setting(depths=(1, 2), networks=4, width=5, samples=3)


def test_the_table_holds_every_reading_and_measured_values_obey_the_bounds() -> None:
    rows = table(SETTING)
    assert {(r.reading, r.network, r.depth) for r in rows} == {
        (a, b, c) for a in READINGS for b in PAIR for c in (1, 2)
    }
    for row in rows:
        assert row.lower <= row.upper
        if row.reading in ("regularity", "clean path"):
            assert row.lower <= row.low <= row.measured <= row.high <= row.upper
        if row.reading == "topology":
            assert row.measured is None
    # one block is the same network at both branch scales
    once = {(r.reading, r.network): r for r in rows if r.depth == 1}
    for reading in READINGS:
        slow, fast = once[reading, "residual, 1/L"], once[reading, "residual, 1/sqrt L"]
        assert (slow.lower, slow.measured) == (fast.lower, fast.measured)
    figure = readings(rows)
    assert [axis.get_title() for axis in figure.axes[:5]] == list(READINGS)


def test_tangent_kernels_are_products_of_derivatives() -> None:
    x = inputs(SETTING.samples)
    network = realised(PAIR["residual, 1/L"], 2, 64, SETTING.samples)
    theta = weights(network, SETTING.networks, SETTING.seed)
    kernel = finite_kernels(PAIR["residual, 1/L"], 2, SETTING)
    assert kernel.shape == (4, 3, 3)
    group = network.groups[-2]
    jacobian = torch.func.jacrev(lambda t: network(t, x)[:FEATURES])(theta[1])[..., group].flatten(2)
    expected = torch.einsum("fnp,fmp->nm", jacobian, jacobian) / (64 * FEATURES)
    torch.testing.assert_close(kernel[1], expected)


def test_weights_and_inputs_are_scaled_as_said() -> None:
    x = inputs(4)
    torch.testing.assert_close(x.norm(dim=0), torch.full((4,), 8.0, dtype=torch.float64))
    network = realised(PAIR["chain"], 1, 64, 4)
    # 200 x 8192 entries of variance 1/64: a standard error of 0.1 per cent
    assert float(weights(network, 200, 0).var()) * 64 == pytest.approx(1, rel=5e-3)
    assert growth(PAIR["chain"], 1, SETTING).shape == (4,)
    clean = singular_values(PAIR["residual, 1/L"], 3, SETTING, 0.0)
    assert bool((clean == 1).all())
