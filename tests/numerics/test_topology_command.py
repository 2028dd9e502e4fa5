"""The command `topology`: formats as derived, small losses beside their bounds, refusals by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from numerics import cli
from numerics.topology import command as topology_command
from numerics.topology.small import small_losses, wells
from theory.spec import parse
from theory.topology.loss import topology

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


def test_growth_is_written_as_tables_and_a_figure(tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["topology", NETWORK, "--growth", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "results.json").read_text())
    for key in ("samples", "width", "hidden"):
        column = [row["log2, tanh"] for row in found[key]]
        assert column == sorted(column)
    # at equal parameter count the shallowest network has the largest bound
    shallow = found["shallow"]
    assert all(row["parameters"] <= 1000 for row in shallow)
    assert max(row["log2, tanh"] for row in shallow) == shallow[0]["log2, tanh"]
    assert {path.name for path in tmp_path.glob("growth.*")} == {"growth.png", "growth.pdf"}
    assert "base & exponent" in (tmp_path / "tables.tex").read_text()


def test_pictures_are_of_the_losses_with_most_critical_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gudhi", reason='GUDHI is not installed: pip install "depthbound[topology]"')
    monkeypatch.setattr(topology_command, "all_losses", lambda: (small_losses()[0], small_losses()[5], wells(2)))
    result = runner.invoke(cli.app, ["topology", NETWORK, "--small", "3", "--betti", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    small = json.loads((tmp_path / "results.json").read_text())["small"]
    assert small[2]["Betti numbers between critical values"] == "4 0, 1 1, 1 0"
    assert all(row["grids agree"] and row["undecided"] is None for row in small)
    assert "9" in result.output
    assert {p.stem for p in tmp_path.glob("*.png")} == {
        "bound_beside_truth",
        "level_sets_1",
        "level_sets_2",
        "persistence_1",
        "persistence_2",
    }


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
