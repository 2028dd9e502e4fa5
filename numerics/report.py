"""Records to the console (rich tables) and to disk (atomically); computes nothing and never imports torch."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from theory.bound import Bound
from theory.catalogue import Entry
from theory.convergence import Certificate
from theory.hypotheses import CheckedHypothesis
from theory.records import SYMBOLS_OF_QUANTITIES
from theory.summary import ComposedRow, grouped

COMPARISON = ("network", "depth", "quantity", "sense", "bound", "measured", "tightness", "holds")
"""Keys of a row of `comparison_table`."""

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended (128 + SIGINT)."""

NOTATION = (
    "J = |D_X f|, D = |D_theta f|; XX, XT, TT: norms of the second derivatives (upper bounds); s = sigma_min(D_X f), "
    "k = lambda_min(D_theta f D_theta f^T) (lower bounds); * attained"
)


def _starred(bound: Bound) -> Text:
    """A bound's expression; `oo` and `0` coloured, as they say what a layer lacks."""
    text = str(bound.expression)
    colour = {"oo": "red", "0": "dim"}.get(text, "")
    return Text(text + (" *" if bound.sharp else ""), style=colour)


def layers_table(entries: Iterable[Entry], domain: str) -> Table:
    """The layers of one domain as rows, the seven quantities as columns."""
    table = Table(title=f"Layers, domain: {domain}", caption=NOTATION, show_lines=True, title_justify="left")
    table.add_column("layer", overflow="fold", min_width=16)
    for letter in SYMBOLS_OF_QUANTITIES.values():
        table.add_column(letter, overflow="fold")
    for entry in entries:
        if entry.domain == domain:
            table.add_row(Text(entry.name), *(_starred(b) for _, b in entry.bounds.quantities()))
    return table


def bounds_table(rows: Iterable[ComposedRow], values: Mapping[str, float], title: str) -> Table:
    """Composed bounds: closed form, rigorous value where there is one, limit in the depth where there is one."""
    table = Table(title=title, show_lines=True, title_justify="left")
    table.add_column("quantity", no_wrap=True)
    table.add_column("closed form", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("limit in the depth", overflow="fold")
    for row in rows:
        value = f"{values[row.name]:.6g}" if row.name in values else "needs values"
        limit = "" if row.limit is None else str(row.limit)
        table.add_row(row.name, f"{row.bound.sense.relation} {row.bound.expression}", value, limit)
    return table


def _value(item: CheckedHypothesis) -> str:
    return item.reason if item.value is None else f"{item.value:.6g}"


def hypotheses_table(checked: Sequence[CheckedHypothesis]) -> Table:
    """Hypotheses of the theorems with bound, value and verdict; equal layers share their rows."""
    table = Table(title="Hypotheses of Theorems 1 and 2", title_justify="left")
    table.add_column("hypothesis", overflow="fold")
    table.add_column("statement", overflow="fold")
    table.add_column("bound", overflow="fold")
    table.add_column("value", overflow="fold")
    table.add_column("", no_wrap=True)
    before = ""
    for item in grouped(checked):
        hypothesis = item.hypothesis
        # an open hypothesis is neither: it waits for values
        is_open = item.value is None and item.reason.startswith("open")
        verdict = Text("open", style="yellow") if is_open else Text(*_VERDICT[item.holds])
        name = "" if hypothesis.name == before else hypothesis.name
        before = hypothesis.name
        expression = f"{hypothesis.bound.sense.relation} {hypothesis.bound.expression}"
        table.add_row(Text(name), Text(hypothesis.statement), expression, _value(item), verdict)
    return table


_VERDICT = {True: ("holds", "green"), False: ("FAILS", "bold red")}


def certificate_table(certificate: Certificate) -> Table:
    """Constants, step size and rate of a certificate."""
    verdict = "certified" if certificate.certified else f"not certified: {certificate.failing[0].hypothesis.name}"
    table = Table(title=f"Certificate: {verdict}", show_header=False, title_justify="left")
    table.add_row("smoothness constant, at most", f"{float(certificate.constants.smoothness.upper()):.6g}")
    table.add_row(
        "lambda_min of the tangent kernel, at least", f"{float(certificate.constants.lambda_min.lower()):.6g}"
    )
    table.add_row("Theorem 1, fixed step eta", f"{certificate.step_size:.6g}")
    table.add_row("Theorem 1, limsup t ell_t at most", f"{certificate.rate:.6g}")
    table.add_row(
        "Theorem 2, part of the loss removed by a loss-proportional step, as ell -> 0", f"{certificate.linear_rate:.6g}"
    )
    table.add_row("... by a step from the samples' measured residuals", f"{certificate.measured_rate:.6g}")
    return table


def comparison_table(rows: Iterable[Mapping[str, Any]], title: str = "Bounds beside measured values") -> Table:
    """Rows with the keys of `COMPARISON`; numbers with four digits, violations in red."""
    table = Table(title=title, title_justify="left")
    for key in COMPARISON:
        table.add_column(key, justify="right" if key in ("depth", "bound", "measured", "tightness") else "left")
    for row in rows:
        cells = ["" if row[k] is None else f"{row[k]:.4g}" for k in ("bound", "measured", "tightness")]
        verdict = Text("yes", style="green") if row["holds"] else Text("NO", style="bold red")
        labels = (Text(str(row[k])) for k in ("network", "depth", "quantity", "sense"))
        table.add_row(*labels, *cells, verdict)
    return table


def rows_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Any rows with equal keys: numbers with four digits, nothing where there is none, verdicts in colour."""
    table = Table(title=title, title_justify="left")
    for key in rows[0] if rows else ():
        number = any(isinstance(row[key], int | float) and not isinstance(row[key], bool) for row in rows)
        table.add_column(key, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    return table


def _cell(value: Any) -> Text:
    if isinstance(value, bool):
        return Text("yes", style="green") if value else Text("NO", style="bold red")
    if value is None:
        return Text("")
    return Text(f"{value:.4g}" if isinstance(value, float) else str(value))


def plain(value: Any) -> Any:
    """A value as strict JSON can hold it: infinities as the strings `"oo"` and `"-oo"`, NaN as null, others that JSON lacks as text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return str(value) if isinstance(value, str) else value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    if math.isnan(number):
        return None
    if math.isinf(number):
        return "oo" if number > 0 else "-oo"
    return number


def to_json(value: Any) -> str:
    """Strict JSON text, encoded by `plain`."""
    return json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False)


def write_atomically(path: str | Path, content: str | bytes) -> Path:
    """Write a file so that a reader sees the old one or the new one, never a part; missing folders are made.

    Raises:
        OSError: naming the folder that cannot be written to (the original error's kind is kept); nothing is left behind.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(
            f"cannot write {path.name} into the folder {path.parent}: {reason}; choose a folder that you may write to"
        ) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise type(error)(
                f"cannot write {path.name} into the folder {path.parent}: {error.strerror or error}"
            ) from None
        raise
    return path


def _umask() -> int:
    """The process's file mode mask (which can be read only by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_results(path: str | Path, meta: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write `{"meta": ..., "rows": [...]}` as strict JSON, atomically.

    JSON has no infinities and no NaN: `inf` is written as the string `"oo"`, `-inf` as `"-oo"`, NaN as null. Numbers of NumPy,
    SymPy and torch scalars become floats, anything else text.
    """
    return write_atomically(path, to_json({"meta": meta, "rows": list(rows)}) + "\n")
