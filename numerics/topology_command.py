"""`depthbound topology`: the Pfaffian format of a network's loss in its parameters, what it bounds, and small losses measured beside the bound."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from numerics.query import network_from
from numerics.report import rows_table, to_json, write_atomically
from numerics.topology import figures
from numerics.topology.measured import Measured, measure
from numerics.topology.small import small_losses
from numerics.topology.sublevel import persistence, values_on_grid
from theory import latex, symbols
from theory.network import Network, substitute
from theory.spec import describe
from theory.topology import LOSSES, Reading, topology

RESOLUTIONS = (33, 65)
"""Vertices a side of the grids on which Betti numbers are compared."""
DRAWN = 129
"""Vertices a side of the grid of a picture."""

app = typer.Typer(add_completion=False)


def format_rows(reading: Reading) -> list[dict[str, Any]]:
    """The format by both calculi, and the bounds it gives where everything is a number."""
    rows: list[dict[str, Any]] = []
    for name in ("alpha", "beta", "length"):
        tight, rules = (getattr(f, name) for f in (reading.format, reading.rules))
        rows.append({"quantity": name, "tight": str(tight), "generic rules": str(rules)})
    rows.append(
        {
            "quantity": "degree of the gradient",
            "tight": str(reading.gradient),
            "generic rules": str(reading.rules.gradient),
        }
    )
    rows.append(
        {"quantity": "parameters n", "tight": str(reading.parameters), "generic rules": str(reading.parameters)}
    )
    for name in ("critical_points", "sublevel_betti"):
        counts = [getattr(reading, name)(generic=generic) for generic in (False, True)]
        known = not any(side.free_symbols for count in counts for factor in count.factors for side in factor)
        cells = [f"2^{count.log2:.6g}" if known else str(count.expression) for count in counts]
        rows.append({"quantity": f"{counts[0].quantity}, at most", "tight": cells[0], "generic rules": cells[1]})
    return rows


def measured_row(found: Measured) -> dict[str, Any]:
    """One small loss beside its bound."""
    return {
        "loss": found.loss.name,
        "parameters": len(found.loss.box),
        "critical points (certified)": len(found.critical.points),
        "complete": found.critical.complete,
        "Betti numbers, largest sum": found.largest_betti_sum if found.studies else None,
        "bound, decades": found.bound,
        "gap, decades": found.gap,
    }


def draw(found: Measured, out: Path, number: int) -> None:
    """Level sets of a loss of two parameters, and its persistence diagram."""
    expression = found.loss.expression
    values = values_on_grid(expression.value, expression.parameters, found.loss.box, DRAWN)
    figures.level_sets(found, values, out / f"level_sets_{number}")
    figures.persistence_diagram(persistence(values), out / f"persistence_{number}", title=found.loss.spec)


def _numbers(network: Network, depth: int | None) -> Network:
    return network if depth is None else substitute(network, {symbols.L: depth})


@app.command("topology")
def command(
    spec: Annotated[str, typer.Argument(help="A network on one line, or a file that holds one.", metavar="SPEC")],
    features: Annotated[int | None, typer.Option(min=1, help="Features of the data (symbol d).")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples of the data (symbol N).")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Value of the symbol L.")] = None,
    loss: Annotated[str, typer.Option(help=", ".join(LOSSES))] = "squared_error",
    l2: Annotated[bool, typer.Option("--l2", help="Add lambda |theta|^2: the loss is coercive.")] = False,
    small: Annotated[
        int, typer.Option("--small", min=0, help="Also certify the critical points of so many small losses (of 42).")
    ] = 0,
    betti: Annotated[bool, typer.Option("--betti", help="And their Betti numbers (extra topology, GUDHI).")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for results.json, tables.tex and figures.")] = None,
) -> None:
    """The loss as a Pfaffian function of the parameters: format, bounds on critical points and on Betti numbers of sublevel sets.

    Example: depthbound topology "affine(h, bias=true), tanh, affine(1, bias=true)" --samples 3
    """
    reading = topology(_numbers(network_from(spec), depth), symbols.d if features is None else features, symbols.N if samples is None else samples, loss, l2=l2)  # type: ignore[arg-type]  # fmt: skip
    reading.verify()
    stderr, stdout = Console(stderr=True), Console(width=None if sys.stdout.isatty() else 160)
    title = f"{describe(reading.network)}; {loss}{' + L2' if l2 else ''}"
    tables = {title: format_rows(reading)}
    measured = []
    if small:
        with stderr.status("certifying critical points"):
            measured = [measure(each, RESOLUTIONS if betti else ()) for each in small_losses()[:small]]
        tables["Small losses: bound beside truth"] = [measured_row(each) for each in measured]
    for name, rows in tables.items():
        stdout.print(rows_table(rows, name))
    for step in reading.steps:
        stdout.print(f"proven: {step.claim}", highlight=False, soft_wrap=True)
    if out is not None:
        write_atomically(
            out / "results.json",
            to_json({"network": title, "format": tables[title], "small": list(map(measured_row, measured))}) + "\n",
        )
        bodies = [latex.rows_table(rows, f"{name}.") for name, rows in tables.items()]
        write_atomically(out / "tables.tex", latex.document("depthbound topology", *bodies))
        if betti:
            two = [each for each in measured if len(each.loss.box) == 2]
            for number, each in enumerate(two[:4], start=1):
                draw(each, out, number)
        stdout.print(f"results.json, tables.tex{' and figures' if betti else ''} are in {out}")
    above = [each for each in measured if each.gap < 0]
    if above:
        stdout.print(f"VIOLATION: {above[0].loss.name} has more critical points than its bound")
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
