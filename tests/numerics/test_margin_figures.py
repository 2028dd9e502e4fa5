"""Figures of margin distributions show what they are given, and refuse what they cannot show."""

import numpy as np
import pytest

from numerics.generalisation.figures import distributions, prediction
from numerics.generalisation.regression import fit
from numerics.plots import save


def test_a_prediction_has_one_point_a_model(tmp_path) -> None:
    source = np.random.default_rng(0)
    found = fit(source.lognormal(size=(40, 2)), source.normal(size=40))
    figure = prediction({"first": found, "second": found})
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [len(axis.lines[0].get_xdata()) for axis in shown] == [40, 40]
    assert all(path.stat().st_size > 1000 for path in save(figure, tmp_path / "prediction"))


def test_histograms_leave_out_what_a_logarithm_does_not_have(tmp_path) -> None:
    figure = distributions({"input": {"a": [1.0, 2.0, -1.0, np.nan, np.inf], "b": [0.5]}}, "distance")
    (axis,) = [axis for axis in figure.axes if axis.get_visible()]
    low, high = axis.get_xlim()
    assert 0 < low < 0.5
    assert 2.0 < high < 10
    with pytest.raises(ValueError, match="panel input"):
        distributions({"input": {"a": [-1.0]}}, "distance")
