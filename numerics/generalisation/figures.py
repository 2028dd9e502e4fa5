"""Figures of margin distributions: predicted against true gaps, histograms by layer, ratios of distances. They compute nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from numerics.generalisation.regression import Fit
from numerics.plots import COLOURS, DASHES, MARKERS, STYLE, panels


def prediction(fits: Mapping[str, Fit]) -> Figure:
    """True gap against its cross-validated prediction, one panel a fit, with the diagonal."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(fits))
        for axis, (title, fit) in zip(axes, fits.items(), strict=True):
            axis.plot(fit.predicted, fit.target, MARKERS[0], color=COLOURS[0], alpha=0.5, markersize=3)
            ends = [float(fit.target.min()), float(fit.target.max())]
            axis.plot(ends, ends, color="black", linewidth=1)
            r2 = fit.cross_validated_r2
            axis.set(
                title=f"{title}\n$R^2 = {r2.mean:.2f}$ [{r2.low:.2f}, {r2.high:.2f}]",
                xlabel="predicted gap (unseen model)",
                ylabel="generalization gap",
            )
        return figure


def distributions(values: Mapping[str, Mapping[str, Any]], xlabel: str) -> Figure:
    """Histograms on a logarithmic axis, one panel a key, one curve a series; values that are not positive and finite are left out.

    Args:
        values: panel -> series -> numbers.
        xlabel: of every panel.

    Raises:
        ValueError: naming a panel without a positive number.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(values))
        for axis, (title, series) in zip(axes, values.items(), strict=True):
            arrays = {name: np.asarray(numbers, dtype=float).ravel() for name, numbers in series.items()}
            kept = {name: array[np.isfinite(array) & (array > 0)] for name, array in arrays.items()}
            whole = np.concatenate(list(kept.values()))
            if not whole.size:
                raise ValueError(f"panel {title}: there is no positive finite number to show")
            edges = np.geomspace(whole.min() / 1.05, whole.max() * 1.05, 40).tolist()
            for index, (name, array) in enumerate(kept.items()):
                look: dict[str, Any] = {
                    "color": COLOURS[index],
                    "weights": np.full(array.size, 1 / max(1, array.size)),
                }
                axis.hist(array, edges, histtype="stepfilled", alpha=0.25, **look)
                axis.hist(array, edges, histtype="step", linestyle=DASHES[index % len(DASHES)], label=name, **look)
            axis.set(title=title, xscale="log", xlabel=xlabel, ylabel="share")
        axes[0].legend()
        return figure
