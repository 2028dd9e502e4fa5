"""Figures are written as PNG and PDF, whole or not at all, from records with gaps as well."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from numerics import plots

PNG, PDF = b"\x89PNG", b"%PDF"


def check(written: tuple[Path, Path], folder: Path) -> None:
    png, pdf = written
    assert png.read_bytes()[:4] == PNG
    assert pdf.read_bytes()[:4] == PDF
    assert png.stat().st_size > 5_000
    assert pdf.stat().st_size > 5_000
    assert sorted(p.name for p in folder.iterdir()) == sorted([png.name, pdf.name])


def rows() -> list[dict]:
    networks = [
        "chain, plain",
        "chain, weight norm",
        "chain, batch norm",
        "residual, plain",
        "residual, weight norm",
        "residual, batch norm",
    ]
    out = []
    for i, network in enumerate(networks):
        for depth in (1, 2, 4, 8):
            for j, quantity in enumerate(
                ("first_derivative", "second_derivative", "smoothness_constant", "tangent_kernel_lambda_min")
            ):
                known = "plain" not in network and not (j == 3 and network.startswith("chain"))
                out.append(
                    {
                        "network": network,
                        "depth": depth,
                        "quantity": quantity,
                        "tightness": (0.9 - 0.05 * i) * depth ** (-0.3 * (j + 1)) if known else None,
                    }
                )
    return out


def test_tightness_against_depth(tmp_path: Path) -> None:
    check(plots.tightness_against_depth(rows(), tmp_path / "tightness"), tmp_path)


def test_tightness_without_any_row_is_an_empty_figure_not_an_error(tmp_path: Path) -> None:
    assert plots.tightness_against_depth([], tmp_path / "none")[0].exists()


def test_tightness_leaves_out_what_is_not_a_number(tmp_path: Path) -> None:
    odd = [{"network": "a", "depth": 1, "quantity": "q", "tightness": t} for t in (math.nan, math.inf, 0.0, None, 0.5)]
    check(plots.tightness_against_depth(odd, tmp_path / "odd"), tmp_path)


def test_loss_under_envelope(tmp_path: Path) -> None:
    steps = np.arange(2001)
    trajectories = [
        {
            "network": network,
            "label": label,
            "loss": start / (1 + 0.05 * start * steps * (1 + k)),
            "envelope": start / (1 + 0.002 * start * steps) if network.startswith("residual") else None,
        }
        for network in ("chain", "residual, weight norm")
        for k, (label, start) in enumerate((("small start", 2.3), ("unit start", 4.0), ("huge start", 60.0)))
    ]
    check(plots.loss_under_envelope(trajectories, tmp_path / "loss"), tmp_path)


def test_singular_values(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    depths = (1, 2, 4, 8)
    chain = {depth: np.exp(draw.normal(-depth, 0.5 + 0.3 * depth, 4000)) for depth in depths}
    residual = {depth: np.exp(draw.normal(0, 0.1 + 0.02 * depth, 4000)) for depth in depths}
    bounds = {depth: (1 - 0.5 / depth) ** depth for depth in depths}
    check(plots.singular_values(chain, residual, tmp_path / "singular", bounds), tmp_path)


def test_singular_values_that_are_not_finite_are_refused_by_depth(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chain, depth 2"):
        plots.singular_values({2: [1.0, math.nan]}, {2: [1.0]}, tmp_path / "bad")
    assert list(tmp_path.iterdir()) == []


def test_equal_records_give_equal_files(tmp_path: Path) -> None:
    first = plots.tightness_against_depth(rows(), tmp_path / "one")
    second = plots.tightness_against_depth(rows(), tmp_path / "two")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
