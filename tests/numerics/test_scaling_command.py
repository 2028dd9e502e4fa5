"""The command `scaling`: what it writes, its exit statuses, and that a statement that does not hold is not passed over."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from numerics import cli
from numerics.scaling import command as scaling_command
from numerics.scaling.estimates import Estimate
from numerics.scaling.sizes import QUICK, Sizes, sizes
from numerics.scaling.study import Stage, Verdict, _near, settings

SMALL = replace(
    QUICK,
    moments=200,
    moment_depths=(4, 8),
    moment_width=6,
    change=24,
    depths=(16, 64),
    histogram=(8, 16, 500),
    sde=(4, 60),
    sde_depths=(8, 16),
    ode=(6, 20),
    ode_depths=(32, 64),
    training=(6, 24, 3, 4),
    hurst=2,
    betas=14,
    heat_depths=(16, 64),
    heat_networks=24,
)


@pytest.fixture()
def small(monkeypatch: pytest.MonkeyPatch) -> Sizes:
    monkeypatch.setattr(scaling_command, "sizes", lambda device, quick: SMALL)
    return SMALL


def test_a_run_leaves_a_verdict_per_statement_tables_and_figures(small: Sizes, tmp_path) -> None:
    result = CliRunner().invoke(scaling_command.app, ["--out", str(tmp_path), "--device", "cpu"])
    results = json.loads((tmp_path / "results.json").read_text())
    rows = results["rows"]
    failed = [row for row in rows if not row["holds"]]
    assert result.exit_code == (1 if failed else 0)
    assert {row["stage"] for row in rows} == {"derived", "moments", "change", "histogram", "orders", "heat", "training"}
    measured = [row for row in rows if row["measured"] is not None]
    assert len(measured) == 24 + 6 + 2 + 2 + small.hurst + 2 * 2 * 5
    assert all(row["low"] <= row["measured"] <= row["high"] for row in measured)
    # the derived part never depends on luck
    assert all(row["holds"] for row in rows if row["stage"] == "derived")
    for name in ("change", "histogram", "orders", "heat", "training", "weights"):
        assert (tmp_path / f"scaling_{name}.png").stat().st_size > 1000
        assert (tmp_path / f"scaling_{name}.pdf").stat().st_size > 1000
    assert "\\begin{longtable}" in (tmp_path / "tables.tex").read_text()
    assert f"{len(rows)} statements, {len(failed)} that do not hold" in result.output


def _stage(holds: bool) -> Stage:
    return Stage("derived", (Verdict("two is one", "1", 2.0, 1.9, 2.1, "within 0.1", holds),), {})


def test_a_statement_that_does_not_hold_gives_status_one_and_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(scaling_command, "STAGES", {"derived": lambda *_: _stage(False)})
    result = CliRunner().invoke(scaling_command.app, ["--out", str(tmp_path), "--quick"])
    assert result.exit_code == 1
    assert "DOES NOT HOLD: two is one" in result.output


def test_an_interrupted_run_keeps_what_is_finished(tmp_path, monkeypatch) -> None:
    def interrupted(*_: object) -> Stage:
        raise KeyboardInterrupt

    monkeypatch.setattr(scaling_command, "STAGES", {"derived": lambda *_: _stage(True), "moments": interrupted})
    result = CliRunner().invoke(scaling_command.app, ["--out", str(tmp_path), "--quick"])
    assert result.exit_code == 130
    assert json.loads((tmp_path / "results.json").read_text())["meta"]["stages"] == ["derived"]


def test_an_estimate_away_from_its_target_does_not_hold() -> None:
    assert _near("a slope", Estimate(-0.45, -0.5, -0.4), -0.5).holds
    assert not _near("a slope", Estimate(-0.3, -0.35, -0.25), -0.5).holds


def test_there_are_twelve_settings_and_the_published_sizes_are_for_cuda() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert len(settings(QUICK)) == 12
    assert sizes(cpu, True) == sizes(cuda, True) == QUICK
    full = sizes(cuda, False)
    assert (full.histogram, full.hurst, full.betas, max(full.depths)) == ((100, 1000, 10_000), 51, 70, 1000)
    assert sizes(cpu, False).moments < full.moments


def test_the_command_is_in_the_table_of_lazy_commands_and_refuses_a_missing_device() -> None:
    assert "scaling" in cli.LAZY
    result = CliRunner().invoke(cli.app, ["scaling", "--device", "tpu"])
    assert result.exit_code == 2
