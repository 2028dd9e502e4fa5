"""`depthbound converge`: gradient descent from hundreds of starts under its certified envelope; curves, rates, and where the certified rate loses."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from numerics import device as devices
from numerics import plots
from numerics.convergence.exhibit import exhibits
from numerics.convergence.problem import (
    PASSES,
    Outcome,
    Problem,
    curves,
    descend,
    factor_rows,
    judged,
    rate_rows,
    record,
    sharpened,
    stage_rows,
)
from numerics.datasets import Data, digits
from numerics.preparation import random_features, whitened
from numerics.query import network_from
from numerics.realise import realise
from numerics.report import INTERRUPTED, certificate_table, hypotheses_table, rows_table, write_atomically
from theory import latex
from theory.costs import CrossEntropy, SquaredError
from theory.records import Shape
from theory.recursion import POSTERIORI, RULES
from theory.sharpening import Stage
from theory.spec import describe, parse

COSTS = {"cross-entropy": CrossEntropy.name, "squared-error": SquaredError.name}


def prepared(data: str, samples: int, seed: int, features: int | None, whiten: float) -> Data:
    """The data by name, through random features and whitening where asked for.

    Raises:
        ValueError: unknown data, or a preparation that they do not admit; the option is named.
    """
    if data != "digits":
        raise ValueError(f"--data {data}: unknown data; known: digits")
    found = digits(samples, seed)
    if features is not None:
        found = random_features(found, features, seed)
    if whiten < 0:
        raise ValueError(f"--whiten {whiten}: give the scale of the whitened data, or 0 for data as they are")
    if not whiten:
        return found
    try:
        return whitened(found, whiten)
    except ValueError as error:
        remedy = f"; --features {2 * samples} maps them by fixed random features" if samples > found.features else ""
        raise ValueError(f"--whiten {whiten}: {error}{remedy}") from None


def _tables(problem: Problem, outcomes: list[Outcome], found: tuple[Stage, ...]) -> dict[str, list[dict]]:  # type: ignore[type-arg]
    return {
        "Certified against observed rates: part of the loss removed by a step (observed where the loss was below 1/N halfway)": rate_rows(
            outcomes
        ),
        "What each sharpening of Theorem 2 gains (counted from a loss of log 10)": stage_rows(
            found, problem.certificate.measured_rate
        ),
        "Which factor loses how much (at the end of the run, medians)": factor_rows(outcomes),
    }


def _check(problem: Problem) -> None:
    """Refuse a spec with symbols, or with fewer outputs than classes, before anything is certified."""
    network = parse(problem.settings.spec)
    try:
        realisation = realise(network, Shape(problem.data.features, problem.data.samples))  # type: ignore[arg-type]
    except ValueError as error:
        if "has no value" not in str(error) and "is symbolic" not in str(error):
            raise
        what = str(error).split(": pass")[0].split(": give")[0]
        raise ValueError(f"{problem.settings.spec}: {what}; write numbers, for example eps=1 or scale(1/32)") from None
    outputs, classes = realisation.output_shape[0], problem.data.classes
    if outputs < classes:
        raise ValueError(
            f"{problem.settings.spec} has {outputs} outputs for {classes} classes: end it with crop({classes})"
        )


def _refuse(problem: Problem, console: Console) -> None:
    """Every hypothesis with its value, and for each that fails a network on which its constant is seen to be zero or to grow.

    Raises:
        ValueError: naming the first hypothesis that fails.
    """
    checked = problem.certificate.checked
    console.print(hypotheses_table(checked))
    for reason in exhibits(problem.landscape, checked, problem.values):
        console.print(f"exhibited: {reason}", highlight=False, soft_wrap=True)
    failing = problem.certificate.failing[0]
    own = "; --rule posteriori descends with the run's own proof" if problem.certificate.ledger else ""
    raise ValueError(f"{problem.settings.spec} is not certified: {failing}{own}")


app = typer.Typer(add_completion=False)


@app.command("converge")
def command(
    spec: Annotated[str, typer.Argument(help="A network on one line, or a file that holds one.", metavar="SPEC")],
    data: Annotated[str, typer.Option(help="digits (scikit-learn's).")] = "digits",
    samples: Annotated[int, typer.Option(min=2, help="Number of samples N.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Steps in all; a saved run is continued up to there.")] = 2000,
    rule: Annotated[list[str] | None, typer.Option(help=f"{', '.join(RULES)}; may be repeated. Default: all.")] = None,
    cost: Annotated[str, typer.Option(help=" or ".join(COSTS))] = "cross-entropy",
    starts: Annotated[int, typer.Option(min=1, help="Starts, norms 1e-3 to 1e3; an eighth found by search.")] = 256,
    whiten: Annotated[
        float, typer.Option(help="Whiten the data to singular values of this size; 0: as they are.")
    ] = 3.0,
    features: Annotated[
        int | None, typer.Option(help="Map the data by so many fixed random features first (N > 64).")
    ] = None,
    batches: Annotated[int, typer.Option(min=1, help="Also run full passes over so many mini-batches.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data, starts and orders.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin again, whatever the folder holds.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for states, results, tables and figures.")] = Path("converge-out"),
) -> None:
    """Certify, descend from many starts by every rule, and compare losses with envelopes and observed with certified rates.

    Example: depthbound converge "affine(12), repeat(4, residual(tanh, affine(12, weight_norm=frobenius, eps=1), scale(1/32))), crop(10)"

    Interrupted runs continue where they were. Exit status 0 if no loss lies above its envelope, 1 if one does, 2 on bad input or where
    the network is not certified (the failing hypothesis is named; where all derivatives are bounded, --rule posteriori alone still runs, with the run's own
    proof and no envelope beforehand), 130 when interrupted.
    """
    if cost not in COSTS:
        raise ValueError(f"--cost {cost}: use {' or '.join(COSTS)}")
    rules = list(dict.fromkeys(rule or RULES))
    for each in rules:
        if each not in RULES:
            raise ValueError(f"--rule {each}: use {', '.join(RULES)}")
    if batches > 1:
        rules.append(PASSES)
    text = describe(network_from(spec))
    found = prepared(data, samples, seed, features, whiten)
    chosen = devices.choose(device)  # type: ignore[arg-type]
    problem = Problem.of(text, found, chosen, cost=COSTS[cost], starts=starts, seed=seed, batches=batches)
    stderr, stdout = Console(stderr=True), Console(width=None if sys.stdout.isatty() else 180)
    _check(problem)
    with stderr.status("certifying"):
        certificate = problem.certificate
    if not certificate.certified and (certificate.ledger is None or rules != [POSTERIORI]):
        _refuse(problem, stdout)
    if batches > 1:
        _ = problem.pass_certificate  # refuses by name, before any work
    stdout.print(certificate_table(problem.certificate))
    outcomes: list[Outcome] = []
    drawn = []
    try:
        with _progress(stderr) as progress:
            for each in rules:
                bar = progress.add_task(each, total=steps)
                begun = monotonic()
                run, kernels = descend(problem, each, steps, out, fresh=fresh, progress=_advance(progress, bar))
                outcomes.append(judged(problem, run, kernels, monotonic() - begun))
                drawn.append(curves(run))
    except KeyboardInterrupt:
        stderr.print(f"depthbound: interrupted; what was done is in {out}, the same command goes on from there")
        raise typer.Exit(INTERRUPTED) from None
    stages = sharpened(problem, math.log(problem.data.classes))
    write_atomically(out / "results.json", record(problem, outcomes, stages, "complete"))
    title = f"{text}; {data}, N = {samples}, {starts} starts of norm 1e-3 to 1e3"
    name = "cross-entropy (nats)" if COSTS[cost] == CrossEntropy.name else "squared error"
    plots.convergence(drawn, title, out / "converge", ylabel=rf"{name} $\ell_t$")
    tables = {title: rows for title, rows in _tables(problem, outcomes, stages).items() if rows}
    for title, rows in tables.items():
        stdout.print(rows_table(rows, title))
    bodies = [latex.certificate_table(problem.certificate), *(latex.rows_table(r, f"{t}.") for t, r in tables.items())]
    write_atomically(out / "tables.tex", latex.document("depthbound converge", *bodies))
    violations = [o for o in outcomes if not o.row.holds]
    for outcome in violations:
        stdout.print(f"VIOLATION by {outcome.rule}: {outcome.row.witness}")
    stdout.print(
        f"{starts} starts, {len(rules)} rules, {steps} steps: {len(violations)} violations; results.json, tables.tex and converge.png/.pdf are in {out}"
    )
    if violations:
        raise typer.Exit(1)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=not console.is_terminal,
    )


def _advance(progress: Progress, bar: object) -> Callable[[int], None]:
    return lambda taken: progress.update(bar, completed=taken)  # type: ignore[arg-type]


if __name__ == "__main__":
    app()
