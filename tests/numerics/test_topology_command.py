"""The command `topology`: formats as derived, small losses beside their bounds, refusals by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from numerics import cli
from theory.spec import parse
from theory.topology import topology

NETWORK = "affine(3, bias=true), tanh, affine(1, bias=true)"
runner = CliRunner()


def test_the_format_is_that_of_the_reading(tmp_path: Path) -> None:
    result = runner.invoke(
        cli.app, ["topology", NETWORK, "--features", "2", "--samples", "3", "--l2", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    reading = topology(parse(NETWORK), 2, 3, l2=True)  # type: ignore[arg-type]
    rows = {row["quantity"]: row for row in json.loads((tmp_path / "results.json").read_text())["format"]}
    assert rows["alpha"]["tight"] == str(reading.format.alpha)
    assert rows["length"]["tight"] == "9"
    assert rows["critical_points, at most"]["tight"] == f"2^{reading.critical_points().log2:.6g}"
    assert (tmp_path / "tables.tex").read_text().startswith(r"\documentclass")


def test_a_symbolic_depth_is_proven_by_induction_and_may_be_given_a_value() -> None:
    spec = "affine(8, bias=true), tanh, repeat(L, affine(8, bias=true), tanh), affine(1, bias=true)"
    symbolic = runner.invoke(cli.app, ["topology", spec, "--features", "4"])
    assert "3*L + 2" in symbolic.output
    assert "proven: step: " in symbolic.output
    concrete = runner.invoke(cli.app, ["topology", spec, "--features", "4", "--samples", "2", "--depth", "5"])
    assert concrete.exit_code == 0
    assert "17" in concrete.output


def test_small_losses_lie_below_their_bounds(tmp_path: Path) -> None:
    result = runner.invoke(
        cli.app, ["topology", NETWORK, "--samples", "3", "--features", "2", "--small", "3", "--out", str(tmp_path)]
    )
    assert result.exit_code == 0, result.output
    small = json.loads((tmp_path / "results.json").read_text())["small"]
    assert len(small) == 3
    assert all(row["complete"] and row["gap, decades"] > 0 for row in small)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["affine(3), relu, affine(1)"], "relu"),
        (["affine(3), layer_norm, affine(1)"], "does not know the layer"),
        ([NETWORK, "--loss", "hinge"], "unknown loss 'hinge'"),
        (["tanh"], "no parameters"),
    ],
)
def test_what_it_does_not_know_is_refused_by_name(arguments: list[str], text: str) -> None:
    result = runner.invoke(cli.app, ["topology", *arguments, "--samples", "2", "--features", "2"])
    assert result.exit_code == 2
    assert text in result.stderr
