"""Pictures of a small loss: level sets with its certified critical points, and the persistence diagram of its sublevel sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from numerics.plots import COLOURS, MARKERS, STYLE, panels, save
from numerics.topology.measured import Measured
from numerics.topology.sublevel import Persistence

KINDS = ("minimum", "saddle", "maximum")


def level_sets(measured: Measured, values: np.ndarray, path: str | Path) -> tuple[Path, Path]:
    """Level lines of a loss of two parameters, critical points marked by index.

    Args:
        measured: a loss of two parameters.
        values: its values on a grid over its box, `(resolution, resolution)`.
        path: file to write, without extension.

    Raises:
        ValueError: a loss of another number of parameters.
    """
    if values.ndim != 2 or len(measured.loss.box) != 2:
        raise ValueError(f"level sets are drawn for two parameters, not {len(measured.loss.box)}")
    axes_values = [
        np.linspace(low, high, size) for (low, high), size in zip(measured.loss.box, values.shape, strict=True)
    ]
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = panels(1, width=4.4, height=3.8)
        levels = np.quantile(values, np.linspace(0.002, 0.98, 18))
        filled = axis.contourf(*axes_values, values.T, np.unique(levels), cmap="Greys_r", extend="both", alpha=0.8)
        figure.colorbar(filled, ax=axis, label="loss")
        for index, kind in enumerate(KINDS):
            points = [p.at for p in measured.critical.points if p.index == index]
            if points:
                x, y = zip(*points, strict=True)
                axis.scatter(x, y, color=COLOURS[index], marker=MARKERS[index], label=kind, zorder=3)
        axis.set(xlabel=r"$\theta_1$", ylabel=r"$\theta_2$", title=measured.loss.spec)
        figure.legend(loc="outside lower center", ncols=3)
        return save(figure, path)


def persistence_diagram(found: Persistence, path: str | Path, *, title: str = "") -> tuple[Path, Path]:
    """Births and deaths by dimension; features that never die are drawn on the upper border."""
    finite = [i[np.isfinite(i)] for i in found.intervals]
    top = max([*(float(f.max()) for f in finite if f.size), found.border])
    span = max(top - found.lowest, 1e-12)
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = panels(1, width=3.8, height=3.6)
        ends = [found.lowest - 0.05 * span, top + 0.15 * span]
        axis.plot(ends, ends, color="#999999", linewidth=0.8)
        for dimension, intervals in enumerate(found.intervals):
            if len(intervals):
                deaths = np.where(np.isfinite(intervals[:, 1]), intervals[:, 1], top + 0.1 * span)
                look: dict[str, Any] = {"color": COLOURS[dimension], "marker": MARKERS[dimension]}
                axis.scatter(intervals[:, 0], deaths, label=f"dimension {dimension}", zorder=3, **look)
        axis.set(xlabel="birth", ylabel="death", xlim=ends, ylim=ends, title=title)
        figure.legend(loc="outside lower center", ncols=3)
        return save(figure, path)
