"""Figure of class separability against layer, from the numbers of `numerics.separability.study`; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from numerics.plots import COLOURS, MARKERS, STYLE, panels


def separability(panels_by_title: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Figure:
    """Discrimination value against layer, a panel for each kind of network, a line for each depth; before training dotted.

    Args:
        panels_by_title: title -> depth -> `mean`, `low`, `high` (interval of the mean over seeds) and `before` (mean before training), each
            over the layers `0 .. depth + 1`: the input, the hidden layers, the logits.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(panels_by_title), width=4.0, height=3.0)
        depths = sorted({depth for curves in panels_by_title.values() for depth in curves})
        for axis, (title, curves) in zip(axes, panels_by_title.items(), strict=True):
            for depth, curve in curves.items():
                index = depths.index(depth)
                colour, layers = COLOURS[index % len(COLOURS)], np.arange(depth + 2)
                axis.plot(layers, curve["mean"], color=colour, marker=MARKERS[index % len(MARKERS)])
                axis.fill_between(layers, curve["low"], curve["high"], color=colour, alpha=0.2, linewidth=0)
                axis.plot(layers, curve["before"], color=colour, linestyle=":", linewidth=1.1)
            axis.set(title=title, xlabel="layer (0: input, last: logits)", ylabel="discrimination value")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = [
            Line2D(
                [], [], color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], label=f"{d} hidden layers"
            )
            for i, d in enumerate(depths)
        ]
        handles.append(Line2D([], [], color="#555555", linestyle=":", label="before training"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure
