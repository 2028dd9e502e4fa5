"""Figures of the scaling study, from the numbers of its stages: relative change, histogram with its law, orders, heat map with the critical line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from numerics.plots import COLOURS, MARKERS, STYLE, panels, save


def change(curves: Mapping[str, Mapping[str, Any]], path: str | Path) -> tuple[Path, Path]:
    """Relative change against depth, a panel a kind of weights and `beta`: geometric mean, and the band of 95 per cent of the networks.

    Where the mean square is known exactly, its root is drawn dashed; it lies above the geometric mean.

    Args:
        curves: title -> `depth`, `mean`, `low`, `high` and, where it is known, `derived`; natural logarithms.
        path: file to write, without extension.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(curves))
        for index, (axis, (title, curve)) in enumerate(zip(axes, curves.items(), strict=False)):
            look: dict[str, Any] = {"color": COLOURS[index // 3], "marker": MARKERS[index % 3]}
            # common logarithms on a plain axis: an explosion leaves the range of floating-point numbers
            mean, low, high = (np.asarray(curve[key]) / np.log(10) for key in ("mean", "low", "high"))
            axis.plot(curve["depth"], mean, **look)
            axis.fill_between(curve["depth"], low, high, color=COLOURS[index // 3], alpha=0.15, linewidth=0)
            if curve.get("derived"):
                derived = np.asarray(curve["derived"]) / np.log(10)
                axis.plot(curve["depth"], derived, color="#555555", linestyle="--", label="derived (root mean square)")
                axis.legend()
            kind, beta = title.split(", ")
            axis.set(title=rf"{kind} weights, $\beta = {beta}$", xscale="log", xlabel="depth $L$ (layers)")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_ylabel(r"$\log_{10}\,\|h_L - h_0\|/\|h_0\|$")
        return save(figure, path)


def histogram(values: Any, mean: float, variance: float, path: str | Path) -> tuple[Path, Path]:
    """Histogram of `log(|h_L|^2/|h_0|^2)` with the density of its normal law."""
    values = np.asarray(values, dtype=float)
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = panels(1, width=4.6, height=3.0)
        axis.hist(values, 60, density=True, color=COLOURS[0], alpha=0.35)
        x = np.linspace(values.min(), values.max(), 400)
        axis.plot(
            x,
            np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance),
            color=COLOURS[1],
            label=f"N({mean:.4f}, {variance:.4f}), derived",
        )
        axis.set(xlabel=r"$\log(\|h_L\|^2/\|h_0\|^2)$", ylabel="density")
        axis.legend()
        return save(figure, path)


def orders(curves: Mapping[str, Mapping[str, Any]], path: str | Path) -> tuple[Path, Path]:
    """Root-mean-square of `|h_L - h_2L|/|h_0|` against depth, with lines of the derived slopes (dashed)."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(curves), width=3.4)
        for index, (axis, (title, curve)) in enumerate(zip(axes, curves.items(), strict=False)):
            depth, error = np.asarray(curve["depth"], dtype=float), np.asarray(curve["error"], dtype=float)
            axis.plot(depth, error, color=COLOURS[index], marker=MARKERS[index])
            line = error[-1] * (depth / depth[-1]) ** -curve["order"]
            axis.plot(depth, line, color="#555555", linestyle="--", label=f"slope -{curve['order']:g}")
            axis.set(title=title, xscale="log", yscale="log", xlabel="depth $L$ (layers)")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_ylabel(r"rms of $\|h_L - h_{2L}\|/\|h_0\|$")
            axis.legend()
        return save(figure, path)


def heat(shown: Mapping[str, Any], path: str | Path) -> tuple[Path, Path]:
    """Common logarithm of the relative difference over Hurst index and `beta`, with the measured critical line and `max(H, 1/2)`.

    Args:
        shown: `hurst`, `betas`, `log10` (`(hurst, betas)`), `line` and `depth`.
        path: file to write, without extension.
    """
    hurst, betas = np.asarray(shown["hurst"]), np.asarray(shown["betas"])
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure, (axis,) = panels(1, width=4.8, height=3.6)
        image = axis.pcolormesh(
            hurst, betas, np.asarray(shown["log10"]).T, cmap="PuOr_r", vmin=-1, vmax=1, shading="nearest"
        )
        figure.colorbar(image, ax=axis, label=r"$\log_{10}\,\|h_L - h_0\|/\|h_0\|$ (cut at $\pm 1$)", extend="both")
        axis.plot(hurst, shown["line"], color="black", marker="o", markersize=3, linewidth=0.8)
        axis.plot(hurst, np.maximum(hurst, 0.5), color="black", linestyle="--", linewidth=1.2)
        handles = [
            Line2D([], [], color="black", marker="o", markersize=3, linewidth=0.8, label="measured critical line"),
            Line2D([], [], color="black", linestyle="--", label=r"$\max(H, 1/2)$, derived"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        axis.set(xlabel="Hurst index $H$", ylabel=r"$\beta$", title=f"depth {shown['depth']}")
        return save(figure, path)


def training(curves: Mapping[str, Mapping[str, Any]], path: str | Path) -> tuple[Path, Path]:
    """Accuracy on test images and training loss after training against `beta`: the mean, and the band from the worst to the best network.

    Args:
        curves: "kind, optimiser" -> `betas`, `critical`, `accuracy` and `log_loss`, the last two `(seeds, scales)`.
        path: file to write, without extension.
    """
    kinds = list(dict.fromkeys(title.partition(", ")[0] for title in curves))
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(2 * len(kinds), width=3.4)
        for row, kind in enumerate(kinds):
            mine = {t.partition(", ")[2]: c for t, c in curves.items() if t.startswith(kind)}
            for column, (key, label) in enumerate(
                (("accuracy", "accuracy on test images"), ("log_loss", r"$\log_{10}$ training loss"))
            ):
                axis = axes[2 * row + column]
                for index, (optimiser, curve) in enumerate(mine.items()):
                    values = np.asarray(curve[key])
                    look: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index]}
                    axis.plot(curve["betas"], values.mean(0), label=optimiser if row + column == 0 else None, **look)
                    axis.fill_between(
                        curve["betas"], values.min(0), values.max(0), color=COLOURS[index], alpha=0.15, linewidth=0
                    )
                    axis.axvline(curve["critical"], color="#555555", linestyle="--", linewidth=0.8)
                axis.set(title=f"{kind} weights at the start", xlabel=r"$\beta$", ylabel=label)
        figure.legend(loc="outside lower center", ncols=2)
        return save(figure, path)


def weights(paths: Mapping[str, Mapping[str, Any]], path: str | Path) -> tuple[Path, Path]:
    """One entry of `V_k` and one of `W_k` against `k/L`, before and after training, a row a kind of weights at the start."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(2 * len(paths), width=3.4)
        for row, (kind, found) in enumerate(paths.items()):
            for column, when in enumerate(("before", "after")):
                axis = axes[2 * row + column]
                for index, values in enumerate(found[when]):
                    x = np.arange(len(values)) / len(values)
                    label = rf"${'VW'[index]}_k[1, 1]$" if row + column == 0 else None
                    axis.plot(x, values, color=COLOURS[index], linestyle=("-", "--")[index], linewidth=1.0, label=label)
                axis.set(title=rf"{kind}, $\beta = {found['beta']:g}$, {when} training", xlabel="$k/L$")
        figure.legend(loc="outside lower center", ncols=2)
        return save(figure, path)
