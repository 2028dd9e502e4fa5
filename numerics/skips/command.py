"""`depthbound skips`: do skip connections lift singular values, and does training go faster? Predicted first, then run by the published protocols."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from numerics import device as devices
from numerics.executors import executor
from numerics.report import INTERRUPTED, rows_table, write_atomically
from numerics.skips.protocols import PROTOCOLS
from numerics.skips.runs import PRECISIONS, images_of
from numerics.skips.study import Plan, conduct, tables, write
from theory import latex

app = typer.Typer(add_completion=False)


@app.command("skips")
def command(
    protocol: Annotated[str, typer.Option(help=", ".join(PROTOCOLS))] = "digits",
    data: Annotated[Path | None, typer.Option(help="Folder of the data in their published format.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=3, help="Paired trials; the protocol's own number by default.")
    ] = None,
    lr: Annotated[list[float] | None, typer.Option(help="Learning rate; may be repeated.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps (toy, digits) or epochs instead of the protocol's.")
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Features of a ResNet's first stage instead of 64.")] = None,
    precision: Annotated[str, typer.Option(help=", ".join(PRECISIONS))] = "",
    spectra: Annotated[bool, typer.Option(help="Measure singular values along the runs.")] = True,
    executor_: Annotated[
        str, typer.Option("--executor", help="local, local:N, or the address of a Dask scheduler (tcp://host:8786).")
    ] = "local",
    seed: Annotated[int, typer.Option(min=0, help="Seed of images, initial states and batches.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for trials, prediction, metrics, figures.")] = Path("skips-out"),
) -> None:
    """Paired trials of variants that differ in their skip connections, with the prediction written down before the first step.

    Finished trials are kept; the same command goes on from there, inside a run of epochs from its last checkpoint. Exit status 0 whatever the
    verdict is, 2 on bad input, 130 when interrupted.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"--protocol {protocol}: use {', '.join(PROTOCOLS)}")
    chosen = PROTOCOLS[protocol]
    if trials is not None:
        chosen = replace(chosen, trials=trials)
    if lr:
        if any(not 0 < rate < float("inf") for rate in lr):
            raise ValueError(f"--lr {', '.join(map(str, lr))}: give positive numbers")
        chosen = replace(chosen, learning_rates=tuple(dict.fromkeys(lr)))
    if steps is not None:
        chosen = replace(chosen, epochs=steps) if chosen.epochs else replace(chosen, steps=steps)
    if width is not None:
        chosen = replace(chosen, width=width)
    kind = precision or ("double" if chosen.depth == 0 else "single")
    if kind not in PRECISIONS:
        raise ValueError(f"--precision {kind}: use {', '.join(PRECISIONS)}")
    folder = None if data is None else str(data.resolve())
    where = devices.choose(device).type  # type: ignore[arg-type]
    plan = Plan(chosen, seed, folder, out, kind, where, spectra)
    images_of(plan.tasks[0])  # bad data are named before any work is done
    stderr, stdout = Console(stderr=True), Console(width=None if sys.stdout.isatty() else 160)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with (
            executor(executor_) as pool,
            Progress(*columns, console=stderr, transient=not stderr.is_terminal) as progress,
        ):
            bar = progress.add_task("trials", total=len(plan.tasks))
            found = conduct(plan, pool, lambda done, total: progress.update(bar, completed=done, total=total))
    except KeyboardInterrupt:
        stderr.print(f"depthbound: interrupted; finished trials are in {out}, the same command goes on from there")
        raise typer.Exit(INTERRUPTED) from None
    write(plan, found)
    bodies = []
    for title, rows in tables(found).items():
        stdout.print(rows_table(rows, title))
        bodies.append(latex.rows_table(rows, f"{title}."))
    write_atomically(out / "tables.tex", latex.document(f"depthbound skips, {protocol}", *bodies))
    stdout.print(
        f"{chosen.trials} paired trials of {', '.join(chosen.variants)}; prediction.json, metrics.csv, results.json, tables.tex and figures are in {out}"
    )


if __name__ == "__main__":
    app()
