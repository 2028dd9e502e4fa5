"""`depthbound verify`: derive, certify, sample, attack and descend over the whole family; tables, LaTeX, figures and a verdict."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import safetensors.numpy
import sympy
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from numerics import device as devices
from numerics import plots
from numerics.compare import Comparison
from numerics.datasets import Data, check_full_column_rank, digits
from numerics.executors import executor
from numerics.report import INTERRUPTED, write_atomically, write_results
from numerics.verification import family
from numerics.verification.family import Bounds, Configuration, configurations, derive_bounds
from numerics.verification.study import QUICK, Budget, Outcome, Task, study
from numerics.verification.tightness import TightnessTask, tightness
from theory import latex, symbols
from theory.catalogue import catalogue
from theory.landscape import landscape
from theory.spec import parse

SYMBOLIC = (
    "affine(m), repeat(L, tanh, affine(m, weight_norm=frobenius)), crop(K)",
    "affine(m), repeat(L, residual(tanh, affine(m, weight_norm=frobenius), scale(c/L))), crop(K)",
    "affine(m), repeat(L, residual(batch_norm(), tanh, affine(m, weight_norm=frobenius), scale(c*sqrt(eps)/L))), crop(K)",
)
"""Networks of the table of composed bounds in symbolic depth."""


@dataclass
class Collected:
    """What is there so far; written after every finished piece."""

    meta: dict[str, Any]
    rows: list[Comparison] = field(default_factory=list)
    descents: list[dict[str, Any]] = field(default_factory=list)
    singular_values: dict[str, np.ndarray] = field(default_factory=dict)
    witnesses: dict[str, np.ndarray] = field(default_factory=dict)
    certificates: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def violations(self) -> list[Comparison]:
        return [row for row in self.rows if not row.holds]

    def write(self, folder: Path, status: str) -> None:
        """`results.json` and the witnesses, atomically."""
        meta = {**self.meta, "status": status, "violations": len(self.violations), "certificates": self.certificates}
        ordered = sorted(self.rows, key=lambda r: (r.check, r.architecture, r.depth, r.quantity))
        write_results(folder / "results.json", meta, [row.row() for row in ordered])
        if self.witnesses:
            write_atomically(folder / "witnesses.safetensors", safetensors.numpy.save(self.witnesses))


def layer_tables() -> str:
    """LaTeX of every layer's bounds; a worker's job, as deriving the catalogue takes half a minute."""
    return latex.layer_table(list(catalogue()))


def composed_tables(specs: tuple[str, ...]) -> str:
    """LaTeX of the composed bounds in symbolic depth, with their limits."""
    found = [landscape(parse(spec), symbols.d) for spec in specs]
    return latex.composed_table(found)


def prepare(folder: Path) -> None:
    """Make the output folder and see that it can be written to, before any work is done.

    Raises:
        OSError: naming the folder and the remedy.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the output folder {folder}: {error.strerror}; give another one with --out"
        ) from None
    write_atomically(folder / "results.json", '{"meta": {"status": "started"}, "rows": []}\n')


@dataclass(frozen=True)
class Plan:
    """Everything that one call of `verify` was asked to do."""

    folder: Path
    data: Data
    device: torch.device
    seed: int
    quick: bool

    @property
    def budget(self) -> Budget:
        return QUICK if self.quick else Budget()

    @property
    def depths(self) -> tuple[int, ...]:
        return (1, 2) if self.quick else family.DEPTHS

    @property
    def tightness_tasks(self) -> Iterator[TightnessTask]:
        steps = 60 if self.quick else 250
        for shape in ("chain", "residual"):
            for depth in self.depths:
                yield TightnessTask(shape, depth, self.seed, self.device.type, steps)


def run(plan: Plan, console: Console) -> Collected:
    """All of it, in worker processes; what is finished is on disk at any time, also after Ctrl-C (raised again)."""
    found = Collected(_meta(plan))
    pieces: dict[str, str] = {}
    progress = Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=not console.is_terminal,
    )
    members = configurations(plan.depths, plan.data.classes)
    # a CUDA device is fed by one process
    where = "local" if plan.device.type == "cpu" else "local:1"
    try:
        with executor(where) as pool, progress:
            jobs: dict[Future[Any], Callable[[Any], None]] = {
                pool.submit(layer_tables): lambda text: pieces.__setitem__("layers", text),
                pool.submit(composed_tables, SYMBOLIC[1:2] if plan.quick else SYMBOLIC): lambda text: (
                    pieces.__setitem__("composed", text)
                ),
            }
            bar = progress.add_task("deriving and certifying", total=len(members))
            # deep ones first: they take longest
            for member in reversed(members):
                bounds = derive_bounds(member, plan.data)
                found.certificates[f"{member.architecture}, depth {member.depth}"] = _certificate(bounds)
                jobs[pool.submit(study, _task(plan, member, bounds))] = _keep(found, member)
                progress.advance(bar)
            for small in plan.tightness_tasks:
                jobs[pool.submit(tightness, small)] = found.rows.extend
            bar = progress.add_task("sampling, searching, descending", total=len(jobs))
            for job in as_completed(jobs):
                jobs[job](job.result())
                found.write(plan.folder, "running")
                progress.advance(bar)
    except BaseException:
        found.write(plan.folder, "interrupted")
        raise
    tables(found, pieces, plan.folder)
    figures(found, plan.folder)
    found.write(plan.folder, "complete")
    return found


def _task(plan: Plan, member: Configuration, bounds: Bounds) -> Task:
    certificate = bounds.certificate
    return Task(
        member,
        bounds.values,
        certificate.recursion,
        plan.data,
        plan.budget,
        plan.seed,
        plan.device.type,
    )


def _keep(found: Collected, member: Configuration) -> Callable[[Outcome], None]:
    def keep(outcome: Outcome) -> None:
        found.rows.extend(outcome.rows)
        found.witnesses |= outcome.witnesses
        found.singular_values[f"{member.architecture}/{member.depth}"] = outcome.singular_values
        if outcome.descent is not None:
            found.descents.append(outcome.descent)

    return keep


def _certificate(bounds: Bounds) -> dict[str, Any]:
    certificate = bounds.certificate
    return {
        "certified": certificate.certified,
        "step_size": certificate.step_size,
        "rate": certificate.rate,
        "linear_rate": certificate.linear_rate,
        "failing": [str(c) for c in certificate.failing],
    }


def _meta(plan: Plan) -> dict[str, Any]:
    data = plan.data
    return {
        "depthbound": version("depthbound") if _installed() else "uninstalled",
        "torch": torch.__version__,
        "sympy": sympy.__version__,
        "python": platform.python_version(),
        "device": devices.describe(plan.device),
        "seed": plan.seed,
        "quick": plan.quick,
        "data": {
            "name": "scikit-learn digits",
            "samples": data.samples,
            "features": data.features,
            "operator norm": data.operator_norm,
            "frobenius norm": data.frobenius_norm,
            "sigma_min": data.sigma_min,
        },
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _installed() -> bool:
    try:
        version("depthbound")
    except ModuleNotFoundError:
        return False
    return True


def _labelled(row: Comparison) -> dict[str, Any]:
    """A row as tables and figures show it: the short name of the architecture in place of the spec."""
    return {**row.row(), "network": row.architecture}


def best_rows(rows: list[Comparison]) -> list[Comparison]:
    """Of sampled and searched rows of the same bound, the one that came closest to it."""
    best: dict[tuple[str, int, str], Comparison] = {}
    for row in rows:
        if row.check not in ("sampled", "searched"):
            continue
        key = (row.architecture, row.depth, row.quantity)
        if key not in best or not row.holds or (best[key].holds and row.tightness > best[key].tightness):
            best[key] = row
    return sorted(best.values(), key=lambda r: (r.quantity, r.architecture, r.depth))


def tables(found: Collected, pieces: dict[str, str], folder: Path) -> None:
    """LaTeX: each table by itself (to be input) and in a document that compiles."""
    pieces["comparison"] = latex.comparison_table([_labelled(row) for row in best_rows(found.rows)])
    titles = {
        "layers": "Bounds of single layers",
        "composed": "Composed bounds in symbolic depth",
        "comparison": "Bounds beside measured values",
    }
    for name, text in pieces.items():
        write_atomically(folder / f"{name}.tex", text + "\n")
    ordered = [pieces[name] for name in titles if name in pieces]
    write_atomically(folder / "tables.tex", latex.document("depthbound verify", *ordered))


def figures(found: Collected, folder: Path) -> None:
    """Tightness against depth; losses under their envelopes; singular values of chain against residual."""
    shown = (family.FIRST, family.SECOND, family.SMOOTHNESS, family.KERNEL, family.TRUNK_NORM, family.TRUNK_SIGMA)
    rows = [_labelled(row) for row in best_rows(found.rows) if row.quantity in shown]
    plots.tightness_against_depth(rows, folder / "tightness")
    plots.loss_under_envelope(list(_curves(found.descents)), folder / "descent")
    spectra: dict[str, dict[int, np.ndarray]] = {"chain": {}, "residual": {}}
    for key, values in found.singular_values.items():
        architecture, depth = key.split("/")
        shape, block = architecture.split(", ")
        if block == "weight-normalised":
            spectra[shape][int(depth)] = values
    bounds = {
        row.depth: row.bound
        for row in found.rows
        if row.quantity == family.TRUNK_SIGMA and row.architecture == "residual, weight-normalised"
    }
    if spectra["residual"]:
        plots.singular_values(spectra["chain"], spectra["residual"], folder / "singular_values", bounds)


def _curves(descents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of every certified network and size of start, the start that ended nearest to its envelope."""
    for descent in sorted(descents, key=lambda d: (d["architecture"], d["depth"])):
        last = descent["losses"][-1] / descent["envelope"][-1]
        for size in ("small", "unit", "huge"):
            columns = [i for i, label in enumerate(descent["labels"]) if label == size]
            worst = max(columns, key=lambda i: float(last[i]))
            yield {
                "network": f"{descent['architecture']}, depth {descent['depth']}",
                "label": f"{size} start",
                "loss": descent["losses"][:, worst],
                "envelope": descent["envelope"][:, worst],
            }


def summary(found: Collected) -> Iterator[Table]:
    """Console tables: worst case a bound and architecture over depth, and composed tightness beside the reference."""
    depths = sorted({row.depth for row in found.rows})
    table = Table(
        title="Tightness of every bound (measured / bound; lower bounds inverted), by depth", title_justify="left"
    )
    table.add_column("quantity")
    table.add_column("architecture")
    for depth in depths:
        table.add_column(str(depth), justify="right")
    table.add_column("holds")
    groups: dict[tuple[str, str], dict[int, Comparison]] = {}
    for row in best_rows(found.rows) + [r for r in found.rows if r.check == "descent"]:
        groups.setdefault((row.quantity, row.architecture), {})[row.depth] = row
    for (quantity, architecture), by_depth in groups.items():
        holds = all(row.holds for row in by_depth.values())
        cells = [_cell(by_depth.get(depth)) for depth in depths]
        table.add_row(quantity, architecture, *cells, "yes" if holds else "[red]NO[/red]")
    yield table
    small = Table(title="Composed tightness, 3 x 3 layers, unit ball (in brackets: reference)", title_justify="left")
    small.add_column("quantity")
    small.add_column("shape")
    for depth in depths:
        small.add_column(str(depth), justify="right")
    by_name: dict[tuple[str, str], dict[int, Comparison]] = {}
    for row in found.rows:
        if row.check == "tightness":
            by_name.setdefault((row.quantity, row.architecture), {})[row.depth] = row
    for (quantity, shape), by_depth in sorted(by_name.items()):
        small.add_row(quantity, shape, *(_with_reference(by_depth.get(depth)) for depth in depths))
    yield small


def _cell(row: Comparison | None) -> str:
    if row is None:
        return ""
    if row.sense == "lower" and row.bound == 0:
        return "0 (trivial)"
    return f"{row.tightness:.3f}"


def _with_reference(row: Comparison | None) -> str:
    if row is None:
        return ""
    reference = row.witness.get("reference tightness")
    return f"{row.tightness:.2f}" + (f" ({reference:.2f})" if reference is not None else "")


app = typer.Typer(add_completion=False)


@app.command("verify")
def verify(
    out: Annotated[Path, typer.Option(help="Folder for results, tables and figures.")] = Path("depthbound-out"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of data, networks and searches.")] = 0,
    samples: Annotated[int, typer.Option(help="Data samples N; full column rank needs N <= 64.")] = 8,
    quick: Annotated[bool, typer.Option("--quick", help="Depths 1 and 2, fewer networks, shorter searches.")] = False,
) -> None:
    """Derive, certify, sample, attack and descend: bounds of chain and residual networks on scikit-learn's digits.

    Exit status 0 if every bound holds, 1 on a violation, 2 on bad input, 130 when interrupted (finished parts are kept).
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device!r} is unknown: use auto, cpu or cuda")
    chosen = devices.choose(device)  # type: ignore[arg-type]
    data = digits(samples, seed)
    check_full_column_rank(data)
    prepare(out)
    start = time.monotonic()
    stderr, stdout = Console(stderr=True), Console()
    try:
        found = run(Plan(out, data, chosen, seed, quick), stderr)
    except KeyboardInterrupt:
        stderr.print(f"depthbound: interrupted; finished parts are in {out / 'results.json'}")
        raise typer.Exit(INTERRUPTED) from None
    for table in summary(found):
        stdout.print(table)
    certified = sum(c["certified"] for c in found.certificates.values())
    sampled = max((r.networks for r in found.rows if r.check == "sampled"), default=0)
    stdout.print(
        f"{len(found.certificates)} networks derived, {certified} certified by Theorem 1; {sampled} networks sampled in each; "
        f"{len(found.rows)} comparisons, {len(found.violations)} violations; {time.monotonic() - start:.0f} s"
    )
    for row in found.violations:
        stdout.print(
            f"VIOLATION: {row.quantity} of {row.network}: bound {row.bound:.9g}, measured {row.measured:.9g}, {row.witness}"
        )
    stdout.print(f"results.json, tables.tex and figures (PNG, PDF) are in {out}")
    if found.violations:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
