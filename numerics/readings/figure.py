"""Figure of one pair of descriptions in five readings, from the rows of `numerics.readings.table`; computes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from numerics.plots import COLOURS, DASHES, MARKERS, STYLE, depth_axis, panels
from numerics.readings.table import READINGS, Row

AXES = {
    "regularity": (r"$\sigma_{\min}(D_X F)$, lower bound", "linear"),
    "topology": (r"$\log_2$ of the bound on critical points", "log"),
    "moments": (r"$E\|F(x)\|^2/\|x\|^2$", "log"),
    "kernels": (r"$\lambda_{\min}$ of the tangent kernel", "log"),
    "clean path": (r"singular values of $D_X F$ at weights 0", "linear"),
}


def readings(rows: Iterable[Row]) -> Figure:
    """A panel a reading over depth, a colour a network: derived values as lines (bands between two bounds), measured ones as markers with their intervals."""
    rows = list(rows)
    networks = list(dict.fromkeys(row.network for row in rows))
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(READINGS), width=3.3, height=2.8)
        for axis, reading in zip(axes, READINGS, strict=True):
            for index, network in enumerate(networks):
                mine = sorted((r for r in rows if (r.reading, r.network) == (reading, network)), key=lambda r: r.depth)
                _series(axis, mine, index)
            label, scale = AXES[reading]
            axis.set(title=reading, ylabel=label, yscale=scale)
            depth_axis(axis, [row.depth for row in rows])
            axis.set_xlabel("depth $L$ (blocks)")
        handles: list[Any] = [
            Line2D([], [], **_look(index), marker=MARKERS[index], label=name) for index, name in enumerate(networks)
        ]
        handles += [
            Line2D([], [], color="#555555", label="derived"),
            Patch(color="#bbbbbb", label="between derived bounds"),
            Line2D([], [], color="#555555", linestyle="none", marker="o", label="measured"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _look(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}


def _series(axis: Axes, rows: list[Row], index: int) -> None:
    depths = [row.depth for row in rows]
    lower, upper = [row.lower for row in rows], [row.upper for row in rows]
    axis.plot(depths, lower, **_look(index))
    # the upper bound of a least singular value is no bound of it
    if lower != upper and rows[0].reading != "regularity":
        axis.plot(depths, upper, **_look(index))
        axis.fill_between(depths, lower, upper, color=COLOURS[index], alpha=0.15, linewidth=0)
    seen = [(row.depth, row.measured, row.low, row.high) for row in rows if row.measured is not None]
    if seen:
        depths_seen, middle, low, high = (np.array(column, dtype=float) for column in zip(*seen, strict=True))
        # the range of all singular values is no error of the least
        ends = None if rows[0].reading == "regularity" else [middle - low, high - middle]
        look: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": "none", "elinewidth": 1}
        axis.errorbar(depths_seen, middle, yerr=ends, **look)
