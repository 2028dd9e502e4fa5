"""Figures of the skip study, as in the paper: histograms of singular values by variant, loss curves with bands, and A against I + A."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.lines import Line2D

from numerics.plots import COLOURS, DASHES, STYLE, panels, save


def histograms(spectra: Mapping[str, np.ndarray], path: str | Path, *, title: str = "") -> tuple[Path, Path]:
    """Singular values by variant on a logarithmic axis, mean counts a Jacobian.

    Args:
        spectra: variant -> `(Jacobians, n)`.
        path: file to write, without extension.
    """
    positive = np.concatenate([v[v > 0].ravel() for v in spectra.values()])
    edges = np.geomspace(max(positive.min(), 1e-12 * positive.max()) / 1.1, positive.max() * 1.1, 60).tolist()
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = panels(1, width=5.0, height=3.2)
        for index, values in enumerate(spectra.values()):
            weights = np.full(values.size, 1 / len(values))
            look: dict[str, Any] = {"color": COLOURS[index], "weights": weights}
            axis.hist(np.clip(values.ravel(), edges[0], edges[-1]), edges, histtype="stepfilled", alpha=0.2, **look)
            axis.hist(
                np.clip(values.ravel(), edges[0], edges[-1]),
                edges,
                histtype="step",
                linestyle=DASHES[index],
                linewidth=1.3,
                **look,
            )
            axis.axvline(float(values.mean()), color=COLOURS[index], linestyle=DASHES[index], linewidth=0.9)
        axis.set(xscale="log", xlabel="singular value (line: mean)", ylabel="mean count", title=title)
        handles = [Line2D([], [], color=COLOURS[i], linestyle=DASHES[i], label=v) for i, v in enumerate(spectra)]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        return save(figure, path)


def losses(
    curves: Mapping[str, Mapping[str, np.ndarray]], path: str | Path, *, xlabel: str = "step"
) -> tuple[Path, Path]:
    """Loss by variant: mean over trials with a band of one standard deviation, a panel a learning rate.

    Args:
        curves: title of the panel -> variant -> `(trials, steps)`.
        path: file to write, without extension.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(curves), width=3.6, height=3.0)
        names: list[str] = []
        for axis, (title, by_variant) in zip(axes, curves.items(), strict=False):
            for index, (variant, values) in enumerate(by_variant.items()):
                mean, deviation, steps = values.mean(0), values.std(0), np.arange(values.shape[1])
                axis.plot(steps, mean, color=COLOURS[index], linestyle=DASHES[index])
                axis.fill_between(
                    steps, mean - deviation, mean + deviation, color=COLOURS[index], alpha=0.18, linewidth=0
                )
                if variant not in names:
                    names.append(variant)
            axis.set(title=title, xlabel=xlabel, ylabel="training loss (nats)")
        handles = [Line2D([], [], color=COLOURS[i], linestyle=DASHES[i], label=v) for i, v in enumerate(names)]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        return save(figure, path)


def identity_plus(size: int, seed: int, path: str | Path) -> tuple[Path, Path]:
    """Singular values of `A` with entries uniform on [-1, 1] over `sqrt(size)`, and of `I + A` (the paper uses size 500)."""
    matrix = np.random.default_rng(seed).uniform(-1, 1, (size, size)) / np.sqrt(size)
    values = {
        "A": np.linalg.svd(matrix, compute_uv=False)[None],
        "I + A": np.linalg.svd(np.eye(size) + matrix, compute_uv=False)[None],
    }
    return histograms(values, path, title=f"{size} x {size}, entries uniform on [-1, 1] / sqrt({size})")
