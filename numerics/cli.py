"""The command `depthbound`; bad input of any kind ends in one line on stderr and exit status 2, with no traceback.

`layers` and `bounds` need SymPy only. Commands that need torch are named in `LAZY` and imported when they are called.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from typer.core import TyperCommand, TyperGroup

from numerics import query, report
from theory import catalogue, latex
from theory.spec import describe, parse

WIDTH = 180
"""Columns of a table that is not shown on a terminal."""


class Lazy(NamedTuple):
    """Where a command's `typer.Typer` app (with that one command) lives, and its line in the help."""

    module: str
    app: str
    summary: str


LAZY: dict[str, Lazy] = {
    "topology": Lazy(
        "numerics.topology.command",
        "app",
        "Pfaffian format of the loss, bounds on critical points and Betti numbers, small losses measured.",
    ),
    "report": Lazy(
        "numerics.paper_report.command",
        "app",
        "Run the checks of the papers: one page of every claim, its evidence and verdict.",
    ),
    "skips": Lazy(
        "numerics.skips.command",
        "app",
        "Do skip connections lift singular values and speed up training? Predicted, then run.",
    ),
    "scaling": Lazy(
        "numerics.scaling.command",
        "app",
        "Residual networks in depth: second moments, regimes of the branch scale, SDE and ODE limits.",
    ),
    "converge": Lazy(
        "numerics.convergence.command",
        "app",
        "Descend from many starts under certified envelopes; certified against observed rates.",
    ),
    "verify": Lazy(
        "numerics.verification.command",
        "app",
        "Derive, certify, sample, attack and descend: tables, figures and a verdict.",
    ),
    "certify": Lazy(
        "numerics.certification.command",
        "app",
        "A torch.nn.Module as it is: what is certified around its present weights.",
    ),
}
"""Commands imported only when they are called."""


class _LazyCommand(TyperCommand):
    """Stands for a command in the help; loads it when it is called (the one place where a module is imported late)."""

    target: Lazy

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        module = importlib.import_module(self.target.module)
        command = typer.main.get_command(getattr(module, self.target.app))
        return command.make_context(info_name, args, parent=parent, **extra)


class Commands(TyperGroup):
    """The command group: turns errors into one line and status 2, and knows the lazy commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted({*super().list_commands(ctx), *LAZY})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in LAZY:
            return super().get_command(ctx, cmd_name)
        command = _LazyCommand(cmd_name, help=LAZY[cmd_name].summary)
        command.target = LAZY[cmd_name]
        return command

    def invoke(self, ctx: Any) -> Any:
        with one_line_errors():
            return super().invoke(ctx)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input becomes `depthbound: error: ...` on stderr and exit status 2; the messages name offender and remedy themselves."""
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        sys.stderr.write(f"depthbound: error: {text}\n")
        raise typer.Exit(2) from None


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def depthbound() -> None:
    """Closed-form curvature and regularity bounds of deep networks, certified gradient descent, and attempts to refute both."""


def _emit(out: Path | None, *parts: RenderableType) -> None:
    """Print text or tables to stdout, or write them to a file atomically."""
    text = all(isinstance(part, str) for part in parts)
    if out is None and not text:
        width = None if sys.stdout.isatty() else WIDTH
        Console(width=width).print(*parts, sep="\n")
        return
    if text:
        content = "\n".join(str(part).rstrip("\n") for part in parts) + "\n"
    else:
        buffer = io.StringIO()
        Console(file=buffer, width=WIDTH).print(*parts, sep="\n")
        content = buffer.getvalue()
    if out is None:
        sys.stdout.write(content)
    else:
        report.write_atomically(out, content)


JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
LatexFlag = Annotated[bool, typer.Option("--latex", help="Print a LaTeX document and nothing else.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Write to this file instead of stdout.", metavar="FILE")]


def _one_format(**chosen: bool) -> None:
    given = [f"--{name}" for name, value in chosen.items() if value]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other: give one of them")


def _entries(domains: list[str], only: list[str]) -> list[catalogue.Entry]:
    """The catalogue on the given domains, derived with a progress bar on stderr."""
    networks = [n for n in catalogue.layers() if not only or any(text in describe(n) for text in only)]
    if not networks:
        names = "; ".join(describe(n) for n in catalogue.layers())
        raise ValueError(f"--only {' '.join(only)}: no layer's name contains this; layers: {names}")
    columns = (TextColumn("deriving {task.description}"), BarColumn(), TimeElapsedColumn())
    found = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("layers", total=len(networks) * len(domains))
        for network in networks:
            for domain in domains:
                progress.update(task, description=f"{describe(network)}, {domain}")
                found.append(catalogue.entry(network, domain))
                progress.advance(task)
    # tables go domain by domain
    return sorted(found, key=lambda e: domains.index(e.domain))


@app.command()
def layers(
    json: JsonFlag = False,
    latex_: LatexFlag = False,
    domain: Annotated[
        str, typer.Option(help='"everywhere", "bounded input" (|X| <= r), "ball" (and parameters <= rho) or "all".')
    ] = "everywhere",
    explain: Annotated[
        str | None, typer.Option(help="Print the proof of every bound of this layer instead.", metavar="LAYER")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only layers whose name contains this text.")] = None,
    out: OutOption = None,
) -> None:
    """Every layer with every bound: expression, sense, sharp or not, assumptions, where attained.

    Expressions are SymPy text in eps, N, d, m, r, rho, c; read them with sympify(text, locals=theory.symbols.KNOWN).
    """
    _one_format(json=json, latex=latex_, explain=explain is not None)
    if domain not in (*catalogue.DOMAINS, "all"):
        known = ", ".join(f'"{name}"' for name in (*catalogue.DOMAINS, "all"))
        raise ValueError(f"--domain {domain}: unknown domain; known: {known}")
    domains = list(catalogue.DOMAINS) if domain == "all" else [domain]
    if explain is not None:
        entries = [catalogue.entry(parse(explain), name) for name in domains]
        _emit(out, *(f"# {e.name}, {e.domain}\n{b.explain()}\n" for e in entries for _, b in e.bounds.quantities()))
        return
    entries = _entries(domains, only or [])
    if json:
        _emit(out, report.to_json([_layer_record(e) for e in entries]))
    elif latex_:
        _emit(out, latex.document("Bounds of each layer", latex.layer_table(entries)))
    else:
        _emit(out, *(report.layers_table(entries, name) for name in domains))


def _layer_record(entry: catalogue.Entry) -> dict[str, Any]:
    quantities = {name: query.bound_record(b) for name, b in entry.bounds.quantities()}
    return {"layer": entry.name, "domain": entry.domain, "quantities": quantities}


@app.command()
def bounds(
    spec: Annotated[str, typer.Argument(help="A network on one line, or a file that holds one.", metavar="SPEC")],
    depth: Annotated[int | None, typer.Option(help="Value of the symbol L.", metavar="L")] = None,
    features: Annotated[int | None, typer.Option(help="Features of the data (symbol d).", metavar="D")] = None,
    samples: Annotated[int | None, typer.Option(help="Samples of the data (symbol N).", metavar="N")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Value of a symbol: eps, c; x_0, x_F, sigma of the data.", metavar="NAME=VALUE"),
    ] = None,
    radius: Annotated[
        str | None, typer.Option(help="Parameters in the ball of this radius (or rho).", metavar="RHO")
    ] = None,
    json: JsonFlag = False,
    latex_: LatexFlag = False,
    explain: Annotated[bool, typer.Option("--explain", help="Print the proof of every bound instead.")] = False,
    out: OutOption = None,
) -> None:
    """Composed bounds of a network and its certificate of convergence (Theorem 1), hypothesis by hypothesis.

    Closed forms always; rigorous values and the certificate's constants where every symbol has a value.
    Example: depthbound bounds "affine(12), repeat(L, residual(tanh, affine(12, weight_norm=frobenius), scale(c/L))), crop(10)"
    """
    _one_format(json=json, latex=latex_, explain=explain)
    with Console(stderr=True).status("deriving the bounds"):
        found = query.ask(spec, depth=depth, features=features, samples=samples, settings=set_ or (), radius=radius)
        if json:
            parts: list[RenderableType] = [report.to_json(found.as_record())]
        elif latex_:
            parts = [_bounds_document(found)]
        elif explain:
            parts = [b.explain() + "\n" for b in found.bounds()]
        else:
            parts = _bounds_tables(found)
    _emit(out, *parts)


def _bounds_document(found: query.Answer) -> str:
    bodies = [latex.composed_table([found.closed])]
    if found.certificate is not None:
        bodies.append(latex.certificate_table(found.certificate))
    return latex.document("Composed bounds", *bodies)


def _bounds_tables(found: query.Answer) -> list[RenderableType]:
    at = "".join(f"; values at {name} = {value}" for name, value in found.at.items())
    title = (
        f"{describe(found.network)}; data {found.closed.features} x {found.closed.samples}; {found.closed.domain}{at}"
    )
    parts: list[RenderableType] = [
        report.bounds_table(found.rows, found.values, title),
        report.hypotheses_table(found.checked),
        *map(str, found.sufficient()),
    ]
    if found.certificate is None:
        return [
            *parts,
            f"Values and certificate need: {', '.join(found.missing)} (give them by --set, --samples or --features).",
        ]
    return [*parts, report.certificate_table(found.certificate)]


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="depthbound")


if __name__ == "__main__":
    main()
