"""`depthbound scaling`: how the branch scale decides what depth does to a residual network (paper C): derived, measured, judged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from numerics import device as devices
from numerics.report import INTERRUPTED, rows_table, write_atomically, write_results
from numerics.scaling import figures
from numerics.scaling.sizes import FULL, sizes
from numerics.scaling.study import STAGES, Stage, training
from theory import latex

TITLES = {
    "derived": "Derived: laws, limits, and published constants beside ours",
    "moments": "Second moments in depth, 12 settings, activations and gradients",
    "change": "Relative change against depth",
    "histogram": "Law of the logarithm at beta = 1/2",
    "orders": "Orders of convergence",
    "heat": "Critical scale over the Hurst index",
    "training": "Training: accuracy by branch scale, weights along the depth before and after",
}

app = typer.Typer(add_completion=False)


def draw(stage: Stage, out: Path) -> None:
    """The figure of a stage, where it has one."""
    drawn: dict[str, Callable[[dict[str, Any], Path], object]] = {
        "change": figures.change,
        "histogram": lambda shown, path: figures.histogram(**shown, path=path),
        "orders": figures.orders,
        "heat": figures.heat,
        "training": lambda shown, path: (
            figures.training(shown["curves"], path),
            figures.weights(shown["paths"], path.with_name("scaling_weights")),
        ),
    }
    if stage.name in drawn:
        drawn[stage.name](stage.shown, out / f"scaling_{stage.name}")


def record(stages: Sequence[Stage], meta: dict[str, Any], out: Path) -> None:
    """`results.json` and `tables.tex` of the stages done so far."""
    rows = [{"stage": stage.name, **verdict.row()} for stage in stages for verdict in stage.verdicts]
    shown = {stage.name: stage.shown for stage in stages if stage.shown}
    write_results(out / "results.json", {**meta, "stages": [s.name for s in stages], "shown": shown}, rows)
    tables = [latex.rows_table([v.row() for v in s.verdicts], f"{TITLES[s.name]}.") for s in stages]
    write_atomically(out / "tables.tex", latex.document("depthbound scaling", *tables))


@app.command("scaling")
def command(
    out: Annotated[Path, typer.Option(help="Folder for results, tables and figures.")] = Path("scaling-out"),
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: half a minute on one core.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and inputs.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda (the published sizes).")] = "auto",
    data: Annotated[
        Path | None, typer.Option(help="Folder of MNIST in its published format, to train on instead of the digits.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"Only these parts: {', '.join(STAGES)}.")] = None,
    published: Annotated[
        bool, typer.Option("--published", help="The published sizes on any device: hours on a CPU.")
    ] = False,
) -> None:
    """Second moments, regimes, laws and convergence orders of deep residual networks: a verdict for every statement, with its interval.

    What is finished is kept when interrupted. Exit status 0 if every statement holds, 1 if one does not, 2 on bad input, 130 when interrupted.
    """
    where = devices.choose(device)  # type: ignore[arg-type]
    if unknown := set(only or ()) - set(STAGES):
        raise ValueError(f"--only {' '.join(sorted(unknown))}: the parts are {', '.join(STAGES)}")
    if quick and published:
        raise ValueError("--quick and --published exclude each other: give one of them")
    chosen = FULL if published else sizes(where, quick)
    stderr, stdout = Console(stderr=True), Console(width=None if sys.stdout.isatty() else 170)
    meta = {"paper": "arXiv 2206.06929", "seed": seed, "device": devices.describe(where), "quick": quick}
    meta["sizes"] = vars(chosen)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    stages: list[Stage] = []
    try:
        with Progress(*columns, console=stderr, transient=not stderr.is_terminal) as progress:
            parts = {name: stage for name, stage in STAGES.items() if not only or name in only}
            bar = progress.add_task("scaling", total=len(parts))
            for name, stage in parts.items():
                progress.update(bar, description=name)
                stages.append(training(chosen, seed, where, data) if name == "training" else stage(chosen, seed, where))
                draw(stages[-1], out)
                record(stages, meta, out)
                progress.advance(bar)
    except KeyboardInterrupt:
        stderr.print(f"depthbound: interrupted; {', '.join(s.name for s in stages) or 'nothing'} is finished, in {out}")
        raise typer.Exit(INTERRUPTED) from None
    for stage_done in stages:
        stdout.print(rows_table([v.row() for v in stage_done.verdicts], TITLES[stage_done.name]))
    failed = [v for stage_done in stages for v in stage_done.verdicts if not v.holds]
    for verdict in failed:
        stdout.print(f"DOES NOT HOLD: {verdict.statement}: measured {verdict.measured}, derived {verdict.derived}")
    total = sum(len(s.verdicts) for s in stages)
    if chosen != FULL:
        stdout.print(
            "Sizes are reduced (results.json lists them): the published ones run with --device cuda, or --published."
        )
    stdout.print(
        f"{total} statements, {len(failed)} that do not hold; results.json, tables.tex and figures are in {out}"
    )
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
