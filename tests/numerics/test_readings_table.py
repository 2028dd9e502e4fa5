"""The table of five readings: every reading of every network, measured values within the derived bounds, kernels near their limit, the figure."""

import pytest
import torch

from numerics.device import generator
from numerics.readings.figure import readings
from numerics.readings.table import (
    READINGS,
    Setting,
    growth,
    inputs,
    realised,
    singular_values,
    table,
    weights,
)
from numerics.tangent_kernels import finite_kernels
from theory.readings import LAYER, PAIR

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


def test_finite_kernels_tend_to_their_limit() -> None:
    """At one block and width 64: the mean over 400 networks, within what is left of order 1/width."""
    x = inputs(SETTING.samples)
    for name, readings_ in PAIR.items():
        finite = finite_kernels(readings_.wide(1, 64), x, 400, generator(0)).tangents[LAYER].mean(0)
        limit = float(readings_.kernel(1, x.numpy()))
        assert float(torch.linalg.eigvalsh(finite)[0]) == pytest.approx(limit, rel=0.1), name


def test_weights_and_inputs_are_scaled_as_said() -> None:
    x = inputs(4)
    torch.testing.assert_close(x.norm(dim=0), torch.full((4,), 8.0, dtype=torch.float64))
    network = realised(PAIR["chain"], 1, 64, 4)
    # 200 x 8192 entries of variance 1/64: a standard error of 0.1 per cent
    assert float(weights(network, 200, 0).var()) * 64 == pytest.approx(1, rel=5e-3)
    assert growth(PAIR["chain"], 1, SETTING).shape == (4,)
    clean = singular_values(PAIR["residual, 1/L"], 3, SETTING, 0.0)
    assert bool((clean == 1).all())
