"""Figures of volumes: middle slices of volumes and their reconstructions, retrieval by variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

from numerics.plots import COLOURS, STYLE, panels


def slices(rows: Mapping[str, Tensor], *, title: str = "") -> Figure:
    """Middle slices of volumes, one row a kind: `(k, 1, n, n, n)` each, with equal `k`.

    Errors: `ValueError` for rows of different lengths.
    """
    counts = {len(volumes) for volumes in rows.values()}
    if len(counts) != 1:
        raise ValueError(f"rows of {sorted(counts)} volumes: give each row as many")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.2 * counts.pop(), 1.35 * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), len(next(iter(rows.values()))), squeeze=False)
        for line, (name, volumes) in zip(axes, rows.items(), strict=True):
            for axis, volume in zip(line, volumes, strict=True):
                axis.imshow(
                    volume[0, volume.shape[1] // 2].detach().cpu().numpy(),
                    vmin=0,
                    vmax=1,
                    cmap="gray_r",
                    origin="lower",
                )
                axis.set(xticks=[], yticks=[])
            line[0].set_ylabel(name)
        figure.suptitle(title)
    return figure


def bars(table: Mapping[str, Sequence[float]], *, chance: float, ylabel: str, title: str = "") -> Figure:
    """Means over seeds as bars, the seeds as dots, chance as a line."""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = panels(1, width=4.5, height=2.8)
        for index, (name, values) in enumerate(table.items()):
            axis.bar(name, sum(values) / len(values), color=COLOURS[index % len(COLOURS)], alpha=0.5)
            axis.plot([index] * len(values), list(values), "o", color="black", markersize=3)
        axis.axhline(chance, linestyle="--", color="black", linewidth=0.8)
        axis.set(ylabel=ylabel, title=title)
    return figure
