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
from numerics.topology.small import all_losses
from numerics.topology.sublevel import persistence, values_on_grid
from theory import latex, symbols
from theory.network import Network, substitute
from theory.spec import describe
from theory.topology.loss import LOSSES, Reading, topology
from theory.topology.perceptrons import Shaped, deep_against_shallow, growth

RESOLUTIONS = {1: (129, 257), 2: (65, 129), 3: (49, 65)}
"""Vertices a side of the grids on which Betti numbers are compared, by number of parameters."""
DRAWN = 129
"""Vertices a side of the grid of a picture."""
PICTURES = 4
"""Losses of two parameters that are drawn, those with most critical points."""
GROWN = ("tanh", "softplus", "silu", "gelu")
"""Activations whose bounds are drawn as they grow."""
GROWTH = {"samples": (1, 2, 4, 8, 16, 32, 64), "width": (1, 2, 4, 8, 16, 32), "hidden": (1, 2, 4, 8, 16)}
FEATURES, SAMPLES, BUDGET = 2, 4, 1000
"""Features and samples of the data, and the parameters that deep and shallow networks may have, in the study of growth."""
TITLES = {
    "samples": "Bound against samples",
    "width": "Bound against width",
    "hidden": "Bound against depth",
    "shallow": f"Deep against shallow: widest network of at most {BUDGET} parameters",
}

FACTORS = (
    "Critical points, and Betti numbers of a sublevel set under L2: at most the product of base to the exponent (%s)."
)
KEYS = {"Small losses: bound beside truth": "small", **{title: key for key, title in TITLES.items()}}
"""Keys of the tables in `results.json`."""

app = typer.Typer(add_completion=False)


def format_rows(reading: Reading) -> list[dict[str, Any]]:
    """The format by both calculi, and the bounds it gives where everything is a number."""
    rows: list[dict[str, Any]] = []
    for name in ("alpha", "beta", "length"):
        tight, rules = (getattr(f, name) for f in (reading.format, reading.rules))
        rows.append({"quantity": name, "tight": tight, "generic rules": rules})
    rows.append(
        {
            "quantity": "degree of the gradient",
            "tight": reading.gradient,
            "generic rules": reading.rules.gradient,
        }
    )
    rows.append({"quantity": "parameters n", "tight": reading.parameters, "generic rules": reading.parameters})
    for name in ("critical_points", "sublevel_betti"):
        counts = [getattr(reading, name)(generic=generic) for generic in (False, True)]
        known = not any(side.free_symbols for count in counts for factor in count.factors for side in factor)
        cells = [f"2^{count.log2:.6g}" if known else count.expression for count in counts]
        rows.append({"quantity": f"{counts[0].quantity}, at most", "tight": cells[0], "generic rules": cells[1]})
    return rows


def factors(reading: Reading, generic: bool) -> list[dict[str, Any]]:
    """The bound on critical points factor by factor: it is the product of `base^exponent`."""
    return [{"base": b, "exponent": e} for b, e in reading.critical_points(generic=generic).factors]


def measured_row(found: Measured) -> dict[str, Any]:
    """One small loss beside its bound."""
    return {
        "loss": found.loss.name,
        "parameters": len(found.loss.box),
        "critical points (certified)": len(found.critical.points),
        "complete": found.critical.complete,
        "undecided": "; ".join(map(str, found.critical.clusters)) or None,
        "Betti numbers between critical values": _betti(found),
        "grids agree": all(study.stable for study in found.studies) if found.studies else None,
        "bound, decades": found.bound,
        "gap, decades": found.gap,
    }


def _betti(found: Measured) -> str | None:
    """`b_0 b_1 ..` of every sublevel set looked at, from low to high."""
    return ", ".join(" ".join(map(str, study.betti)) for study in found.studies) or None


def growth_tables() -> tuple[dict[str, dict[str, list[Shaped]]], dict[str, list[Shaped]]]:
    """How the bound grows in samples, width and depth, and at equal parameter count by depth, for every activation of `GROWN`."""
    curves = {
        varied: {name: growth(name, varied, GROWTH[varied], FEATURES) for name in GROWN}
        for varied in ("samples", "width", "hidden")
    }
    return curves, {name: deep_against_shallow(name, BUDGET, GROWTH["hidden"], FEATURES, SAMPLES) for name in GROWN}


def growth_rows(by_name: dict[str, list[Shaped]]) -> list[dict[str, Any]]:
    """One row a network: its sizes, and for each activation the binary logarithm of the bound."""
    first = next(iter(by_name.values()))
    return [
        {
            "hidden layers": row.hidden,
            "width": row.width,
            "samples": row.samples,
            "parameters": row.parameters,
            **{f"log2, {name}": by_name[name][i].log2 for name in by_name},
        }
        for i, row in enumerate(first)
    ]


def draw(found: Measured, out: Path, number: int) -> list[Path]:
    """Level sets of a loss of two parameters, and its persistence diagram; the pictures' names."""
    expression = found.loss.expression
    values = values_on_grid(expression.value, expression.parameters, found.loss.box, DRAWN)
    level_sets, _ = figures.level_sets(found, values, out / f"level_sets_{number}")
    diagram, _ = figures.persistence_diagram(persistence(values), out / f"persistence_{number}", title=found.loss.spec)
    return [level_sets, diagram]


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
        int, typer.Option("--small", min=0, help="Also certify the critical points of so many small losses (of 48).")
    ] = 0,
    betti: Annotated[bool, typer.Option("--betti", help="And their Betti numbers (extra topology, GUDHI).")] = False,
    grown: Annotated[
        bool, typer.Option("--growth", help="How the bound grows in samples, width, depth; deep against shallow.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for results.json, tables.tex and figures.")] = None,
) -> None:
    """The loss as a Pfaffian function of the parameters: format, bounds on critical points and on Betti numbers of sublevel sets.

    Example: depthbound topology "affine(h, bias=true), tanh, affine(1, bias=true)" --samples 3
    """
    reading = topology(_numbers(network_from(spec), depth), symbols.d if features is None else features, symbols.N if samples is None else samples, loss, l2=l2)  # type: ignore[arg-type]  # fmt: skip
    reading.verify()
    stderr, stdout = Console(stderr=True), Console(width=None if sys.stdout.isatty() else 160)
    title = f"{describe(reading.network)}; {loss}{' + L2' if l2 else ''}"
    tables: dict[str, list[dict[str, Any]]] = {title: format_rows(reading)}
    measured = []
    if small:
        with stderr.status("certifying critical points"):
            measured = [measure(each, RESOLUTIONS[len(each.box)] if betti else ()) for each in all_losses()[:small]]
        tables["Small losses: bound beside truth"] = [measured_row(each) for each in measured]
    if grown:
        curves, shallow = growth_tables()
        tables |= {TITLES[key]: growth_rows(by_name) for key, by_name in curves.items()}
        tables[TITLES["shallow"]] = growth_rows(shallow)
    for name, rows in tables.items():
        stdout.print(rows_table(rows, name))
    for step in reading.steps:
        stdout.print(f"proven: {step.claim}", highlight=False, soft_wrap=True)
    if out is not None:
        written = ["results.json", "tables.tex"]
        record: dict[str, Any] = {"network": title, **{KEYS.get(name, name): rows for name, rows in tables.items()}}
        record["format"] = [{key: str(cell) for key, cell in row.items()} for row in record.pop(title)]
        write_atomically(out / "results.json", to_json(record) + "\n")
        format_table, *others = tables.items()
        calculi = enumerate(("tight", "generic rules"))
        bodies = [
            latex.rows_table(format_table[1][:-2], f"{title}."),
            *(latex.rows_table(factors(reading, bool(i)), FACTORS % words) for i, words in calculi),
            *(latex.rows_table(rows, f"{name}.") for name, rows in others),
        ]
        write_atomically(out / "tables.tex", latex.document("depthbound topology", *bodies))
        if grown:
            written.append(figures.growth(curves, shallow, BUDGET, out / "growth")[0].name)
        if measured:
            written.append(figures.bound_beside_truth(measured, out / "bound_beside_truth")[0].name)
        if betti:
            two = [each for each in measured if len(each.loss.box) == 2]
            two.sort(key=lambda each: -len(each.critical.points))
            for number, each in enumerate(two[:PICTURES], start=1):
                written += [path.name for path in draw(each, out, number)]
        stdout.print(f"{', '.join(written)} are in {out}")
    above = [each for each in measured if each.gap < 0]
    if above:
        stdout.print(f"VIOLATION: {above[0].loss.name} has more critical points than its bound")
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
