"""Figures from records: plain mappings and arrays in, a PNG and a PDF out; computes nothing.

Colours are Okabe and Ito's, told apart with any colour vision; every series has a marker or a dash of its own as well.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from numerics.report import write_atomically

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: Any = ("-", "--", "-.", ":")

LABELS = {
    "input_jacobian_norm": r"$\|D_X f\|$",
    "param_jacobian_norm": r"$\|D_\theta f\|$",
    "input_input": r"$\|D^2_{XX} f\|$",
    "input_param": r"$\|D^2_{X\theta} f\|$",
    "param_param": r"$\|D^2_{\theta\theta} f\|$",
    "input_jacobian_sigma_min": r"$\sigma_{\min}(D_X f)$",
    "tangent_kernel_lambda_min": r"$\lambda_{\min}(DF\,DF^\top)$",
    "first_derivative": r"$\|DF\|$",
    "second_derivative": r"$\|D^2F\|$",
    "smoothness_constant": r"$\|\nabla^2\ell\|$",
}
"""Axis labels of quantities by name; any other name is shown as it is, with blanks for underscores."""

STYLE: Any = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.titlesize": 10.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "figure.dpi": 150,
    "pdf.fonttype": 42,
}


def _label(quantity: str) -> str:
    return LABELS.get(quantity, quantity.replace("_", " "))


def save(figure: Figure, path: str | Path) -> tuple[Path, Path]:
    """Write a figure as PNG and PDF beside each other, each atomically; `path` is taken without its extension.

    Raises:
        OSError: naming the folder that cannot be written to.
    """
    written = []
    for kind in ("png", "pdf"):
        buffer = io.BytesIO()
        # no creation date: equal records give equal files
        metadata = {"CreationDate": None} if kind == "pdf" else None
        figure.savefig(buffer, format=kind, metadata=metadata, bbox_inches="tight")
        written.append(write_atomically(Path(path).with_suffix(f".{kind}"), buffer.getvalue()))
    return written[0], written[1]


def panels(count: int, width: float = 3.0, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    """A figure (not registered with pyplot) of `count` panels in rows of at most three (four: two by two)."""
    columns = 2 if count == 4 else min(3, max(1, count))
    rows = -(-max(1, count) // columns)
    figure = Figure(figsize=(width * columns + 0.4, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[: max(1, count)]


def depth_axis(axis: Axes, depths: Iterable[float]) -> None:
    """A logarithmic axis of depths, ticked at the depths that occur."""
    ticks = sorted({float(x) for x in depths})
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("depth $L$ (layers)")


def tightness_against_depth(rows: Iterable[Mapping[str, Any]], path: str | Path) -> tuple[Path, Path]:
    """One panel a quantity, one line an architecture: tightness against depth on logarithmic axes.

    Args:
        rows: mappings with the keys `network` (name of the architecture, the legend), `depth`, `quantity` and `tightness` (measured supremum / bound,
            for a lower bound its inverse; in [0, 1] where the bound holds). Rows whose tightness is None, NaN or 0 (bound infinite or trivial)
            are left out of the lines and named in the panel.
        path: file to write, without extension.

    Returns:
        The paths of the PNG and of the PDF.
    """
    rows = list(rows)
    quantities = list(dict.fromkeys(str(r["quantity"]) for r in rows))
    networks = list(dict.fromkeys(str(r["network"]) for r in rows))
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(quantities))
        for axis, quantity in zip(axes, quantities, strict=False):
            here = [r for r in rows if r["quantity"] == quantity]
            missing = []
            for index, network in enumerate(networks):
                mine = [r for r in here if r["network"] == network]
                points = sorted((float(r["depth"]), float(r["tightness"])) for r in mine if _positive(r["tightness"]))
                if points:
                    axis.plot(*zip(*points, strict=True), **_series(index))
                elif mine:
                    missing.append(network)
            _tightness_panel(axis, quantity, [float(r["depth"]) for r in here], missing)
        handles = [Line2D([], [], **_series(i), label=name) for i, name in enumerate(networks)]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(3, max(1, len(networks))))
        return save(figure, path)


def _positive(value: Any) -> bool:
    return value is not None and bool(np.isfinite(float(value))) and float(value) > 0


def _series(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[(index // len(COLOURS)) % len(DASHES)],
    }


def _tightness_panel(axis: Axes, quantity: str, depths: Sequence[float], missing: Sequence[str]) -> None:
    axis.set_title(_label(quantity))
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, 0.08), max(high, 1.6))
    axis.axhline(1.0, color="#555555", linewidth=0.9, linestyle=(0, (4, 3)))
    axis.annotate("attained", (1.0, 1.0), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    axis.set_ylabel("tightness")
    if depths:
        depth_axis(axis, depths)
    if missing:
        text = "no finite, non-zero bound:\n" + "\n".join(missing)
        axis.text(0.03, 0.04, text, transform=axis.transAxes, fontsize=6.5, color="#555555", va="bottom")


def loss_under_envelope(trajectories: Iterable[Mapping[str, Any]], path: str | Path) -> tuple[Path, Path]:
    """Losses of gradient descent (solid) under their certified envelopes (dashed of the same colour), on log-log axes.

    Args:
        trajectories: mappings with the keys `label` (the start, the legend), `loss` (`T + 1` values at steps `0 .. T`) and `envelope` (as many,
            or None where the network is not certified). Optional: `network`; each network gets a panel of its own. Step `t` is drawn at `t + 1`.
        path: file to write, without extension.

    Returns:
        The paths of the PNG and of the PDF.
    """
    found = list(trajectories)
    networks = list(dict.fromkeys(str(t.get("network", "")) for t in found))
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(networks), width=4.2, height=3.3)
        labels = list(dict.fromkeys(str(t["label"]) for t in found))
        for axis, network in zip(axes, networks, strict=False):
            for trajectory in found:
                if str(trajectory.get("network", "")) != network:
                    continue
                colour = COLOURS[labels.index(str(trajectory["label"])) % len(COLOURS)]
                loss = np.asarray(trajectory["loss"], dtype=float)
                axis.plot(np.arange(1, len(loss) + 1), loss, color=colour)
                if trajectory.get("envelope") is not None:
                    envelope = np.asarray(trajectory["envelope"], dtype=float)
                    axis.plot(np.arange(1, len(envelope) + 1), envelope, color=colour, linestyle=(0, (5, 2)))
            axis.set(
                xscale="log",
                yscale="log",
                title=network,
                xlabel="step $t + 1$",
                ylabel=r"cross-entropy $\ell_t$ (nats)",
            )
            axis.xaxis.set_major_locator(LogLocator(numticks=8))
        handles = [Line2D([], [], color=COLOURS[i % len(COLOURS)], label=name) for i, name in enumerate(labels)]
        handles.append(Line2D([], [], color="#555555", label="loss"))
        handles.append(Line2D([], [], color="#555555", linestyle=(0, (5, 2)), label="certified envelope"))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
        return save(figure, path)


LEAST_SHOWN = 1e-20
"""Losses below are left out of a figure: they would press all others together."""


def convergence(curves: Iterable[Mapping[str, Any]], title: str, path: str | Path, *, ylabel: str) -> tuple[Path, Path]:
    """Losses by rule under their envelopes, on log-log (left) and semi-logarithmic axes (right), a row of panels for each start shown.

    Args:
        curves: mappings with the keys `rule` (the legend), `step`, `low` and `high` (the band of the losses of all starts at those steps) and `starts`: name ->
            `loss`, `envelope` (the certified bound known beforehand; dashed) and `proven` (that proven along the run; dotted). Values below `LEAST_SHOWN` are left out.
        title: of the figure.
        path: file to write, without extension.
        ylabel: name and unit of the loss.

    Returns:
        The paths of the PNG and of the PDF.
    """
    found = list(curves)
    shown = list(found[0]["starts"]) if found else []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.1 * max(1, len(shown)) + 1.0), layout="constrained")
        axes = figure.subplots(max(1, len(shown)), 2, squeeze=False)
        for row, start in zip(axes, shown, strict=True):
            for axis, scale in zip(row, ("log", "linear"), strict=True):
                for index, curve in enumerate(found):
                    _convergence_curve(axis, curve, start, COLOURS[index % len(COLOURS)], shift=int(scale == "log"))
                axis.set(xscale=scale, yscale="log", title=start, ylabel=ylabel)
                axis.set_xlabel("step $t + 1$" if scale == "log" else "step $t$")
                axis.set_ylim(bottom=max(axis.get_ylim()[0], LEAST_SHOWN))
        figure.suptitle(textwrap.fill(title, 110), fontsize=8.5)
        handles = [Line2D([], [], color=COLOURS[i % len(COLOURS)], label=str(c["rule"])) for i, c in enumerate(found)]
        handles += [
            Line2D([], [], color="#555555", label="loss (shaded: all starts)"),
            Line2D([], [], color="#555555", linestyle=(0, (5, 2)), label="certified envelope"),
            Line2D([], [], color="#555555", linestyle=(0, (1, 1.5)), label="proven by the run"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        return save(figure, path)


def _convergence_curve(axis: Axes, curve: Mapping[str, Any], start: str, colour: str, shift: int) -> None:
    step = np.asarray(curve["step"], dtype=float) + shift
    mine = curve["starts"][start]
    axis.fill_between(
        step, _above_zero(curve["low"]), _above_zero(curve["high"]), color=colour, alpha=0.08, linewidth=0
    )
    axis.plot(step, _above_zero(mine["loss"]), color=colour)
    axis.plot(step, _above_zero(mine["envelope"]), color=colour, linestyle=(0, (5, 2)), linewidth=1.2)
    axis.plot(step, _above_zero(mine["proven"]), color=colour, linestyle=(0, (1, 1.5)), linewidth=1.2)


def _above_zero(values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return np.where(array > 0, array, np.nan)


def singular_values(
    chain: Mapping[int, Any],
    residual: Mapping[int, Any],
    path: str | Path,
    bounds: Mapping[int, float] | None = None,
) -> tuple[Path, Path]:
    """Singular values of the input Jacobian of chains beside those of residual networks, by depth, with the derived lower bound.

    Args:
        chain, residual: depth -> the sampled singular values (an array of any shape; infinities and NaN are refused).
        path: file to write, without extension.
        bounds: depth -> derived lower bound of the residual network's least singular value; drawn as bars. (A chain's bound is 0.)

    Returns:
        The paths of the PNG and of the PDF.

    Raises:
        ValueError: naming a depth whose values are empty or not finite.
    """
    depths = sorted({*chain, *residual})
    samples = {
        (name, depth): _finite(values[depth], f"{name}, depth {depth}")
        for name, values in (("chain", chain), ("residual", residual))
        for depth in values
    }
    positive = [v[v > 0] for v in samples.values()]
    floor = min((float(v.min()) for v in positive if v.size), default=1e-12)
    top = max((float(v.max()) for v in positive if v.size), default=1.0)
    floor = max(floor, 1e-12 * top)
    if bounds:
        floor = min(floor, *(b for b in bounds.values() if b > 0), top)
    edges = np.geomspace(floor / 1.5, top * 1.5, 70).tolist()
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(len(depths), width=2.9, height=2.5)
        for axis, depth in zip(axes, depths, strict=False):
            for index, name in enumerate(("chain", "residual")):
                if (name, depth) in samples:
                    values = np.clip(samples[name, depth], edges[0], edges[-1])
                    weights = np.full(values.size, 1 / values.size)
                    look: dict[str, Any] = {"color": COLOURS[1 - index], "weights": weights}
                    axis.hist(values, edges, histtype="stepfilled", alpha=0.3, **look)
                    axis.hist(values, edges, histtype="step", linestyle=("--", "-")[index], linewidth=1.2, **look)
            if bounds and bounds.get(depth, 0) > 0:
                axis.axvline(bounds[depth], color="black", linewidth=1.4)
            axis.set(
                xscale="log", title=f"depth {depth}", xlabel=r"singular value of $D_X F$", ylabel="share of values"
            )
        handles = [
            Line2D([], [], color=COLOURS[1], linestyle="--", label="chain (derived bound: 0)"),
            Line2D([], [], color=COLOURS[0], label="residual"),
            Line2D([], [], color="black", label=r"derived lower bound of $\sigma_{\min}$ (residual)"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        return save(figure, path)


def _finite(values: Any, where: str) -> np.ndarray:
    array = np.asarray(values, dtype=float).ravel()
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"singular values of {where}: give at least one, all finite")
    return array
