"""Pictures of small losses (level sets, persistence diagrams, bound beside truth) and of how the bound grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from numerics.plots import COLOURS, MARKERS, STYLE, panels, save
from numerics.topology.measured import Measured
from numerics.topology.sublevel import Persistence
from theory.topology.perceptrons import Shaped

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
    """Births and deaths by dimension; features that never die are drawn on the upper border, and those on one point are counted."""
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
                # features that lie on one another to within what can be seen
                cells = np.round(np.stack([intervals[:, 0], deaths], 1) / (0.01 * span))
                for cell, times in zip(*np.unique(cells, axis=0, return_counts=True), strict=True):
                    if times > 1:
                        axis.annotate(f"{times} times", cell * 0.01 * span, (6, -3), textcoords="offset points")
        axis.set(xlabel="birth", ylabel="death", xlim=ends, ylim=ends, title=title)
        figure.legend(loc="outside lower center", ncols=3)
        return save(figure, path)


def bound_beside_truth(measured: Sequence[Measured], path: str | Path) -> tuple[Path, Path]:
    """Decimal logarithms, loss by loss: the bound by generic rules, the tight one, certified critical points, and the largest sum of Betti numbers measured."""
    rows = sorted(measured, key=lambda m: (len(m.loss.box), m.bound))
    x = np.arange(1, len(rows) + 1)
    lines: dict[str, Sequence[float]] = {
        "bound, generic rules": [m.generic for m in rows],
        "bound, tight": [m.bound for m in rows],
        "critical points, certified": [np.log10(max(1, len(m.critical.points))) for m in rows],
    }
    if all(m.studies for m in rows):
        lines["sum of Betti numbers, measured"] = [np.log10(max(1, m.largest_betti_sum)) for m in rows]
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = panels(1, width=5.6, height=3.4)
        for index, (label, values) in enumerate(lines.items()):
            look: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": "none"}
            axis.plot(x, values, label=label, **look)
        for k in (2, 3):
            first = sum(len(m.loss.box) < k for m in rows)
            if 0 < first < len(rows):
                axis.axvline(first + 0.5, color="#999999", linewidth=0.8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set(xlabel="small loss, by number of parameters and bound", ylabel=r"$\log_{10}$ of the count")
        figure.legend(loc="outside lower center", ncols=2)
        return save(figure, path)


def growth(
    curves: Mapping[str, Mapping[str, Sequence[Shaped]]],
    shallow: Mapping[str, Sequence[Shaped]],
    budget: int,
    path: str | Path,
) -> tuple[Path, Path]:
    """Binary logarithm of the bound: a panel for each size that varies, and one for networks of equal parameter count by depth.

    Args:
        curves: `samples`, `width`, `hidden` -> name of the activation -> rows; the share `l (l-1) / 2` of the chain is drawn dashed.
        shallow: name of the activation -> rows of one budget.
        budget: the parameters that those may have.
        path: file to write, without extension.
    """
    labels = {"samples": "samples $m$", "width": "width $h$", "hidden": "hidden layers $H$"}
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(curves) + 1, width=3.3, height=2.8)
        for axis, (varied, by_name) in zip(axes, curves.items(), strict=False):
            for index, (name, rows) in enumerate(by_name.items()):
                x = [getattr(row, varied) for row in rows]
                axis.plot(x, [row.log2 for row in rows], color=COLOURS[index], marker=MARKERS[index], label=name)
                axis.plot(
                    x, [max(row.chain_part, 0.5) for row in rows], color=COLOURS[index], linestyle="--", linewidth=0.8
                )
            axis.set(xscale="log", yscale="log", xlabel=labels[varied], ylabel=r"$\log_2$ of the bound")
        axis = axes[-1]
        for index, rows in enumerate(shallow.values()):
            axis.plot([r.hidden for r in rows], [r.log2 for r in rows], color=COLOURS[index], marker=MARKERS[index])
        axis.set(xscale="log", yscale="log", xlabel=labels["hidden"], ylabel=r"$\log_2$ of the bound")
        axis.set_title(f"at most {budget} parameters, widest network")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))
        return save(figure, path)
