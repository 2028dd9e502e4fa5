"""Records as LaTeX; the only file of theory that knows LaTeX. Everything compiles with `document`'s packages alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

import sympy
from sympy import Expr, Max, Min, Pow, S, Symbol
from sympy.printing.latex import LatexPrinter

from theory import symbols
from theory.atoms.windows import Windows
from theory.bound import Bound, Sense
from theory.catalogue import GRID, Entry, shape_of
from theory.compose import QuadraticForm
from theory.convergence import Certificate
from theory.landscape import Landscape
from theory.layers.activation import Activation, LogSoftmax, SoftmaxLayer
from theory.layers.affine import Affine
from theory.layers.attention import Attend
from theory.layers.base import Layer
from theory.layers.fixed import Cropping, FeaturePad, Scaling
from theory.layers.normalisation import FrozenBatchNorm, Normalisation
from theory.layers.spatial import (
    AveragePool,
    Convolution,
    GlobalAveragePool,
    MaxPool,
    Permute,
    Reshape,
    Selection,
    TransposedConvolution,
)
from theory.network import Branches, Chain, Network, Repeat, Residual
from theory.records import SYMBOLS_OF_QUANTITIES
from theory.spec import describe
from theory.summary import ComposedRow, composed, depth_symbol, grouped

DIGITS = 6
"""Significant digits of a decimal."""

LARGEST_DENOMINATOR = 10**6
"""Fractions beyond are ends of enclosures, not closed forms: they are printed as decimals."""

LONGEST_CELL = 10
"""Operations beyond which an expression does not fit into a column of the table of layers."""

LONGEST = 160
"""Operations beyond which a composed closed form is not written out."""

SYMBOLS: dict[Symbol, str] = {
    symbols.eps: r"\varepsilon",
    symbols.rho: r"\rho",
    symbols.x_0: r"\|X_0\|",
    symbols.x_F: r"\|X_0\|_F",
    symbols.sigma: r"\sigma_N(X_0)",
    symbols.ell: r"\ell",
    symbols.eta: r"\eta",
}

QUANTITIES = {
    "input_jacobian_norm": r"\|D_X f\|",
    "param_jacobian_norm": r"\|D_\theta f\|",
    "input_input": r"\|D^2_{XX} f\|",
    "input_param": r"\|D^2_{X\theta} f\|",
    "param_param": r"\|D^2_{\theta\theta} f\|",
    "input_jacobian_sigma_min": r"\sigma_{\min}(D_X f)",
    "tangent_kernel_lambda_min": r"\lambda_{\min}(D_\theta f\,D_\theta f^{\top})",
    "first_derivative": r"\|DF\|",
    "second_derivative": r"\|D^2F\|",
    "smoothness_constant": r"\|\nabla^2\ell\|",
    "smoothness constant of the loss": r"\|\nabla^2\ell\|",
    "sup |DF|": r"\sup\|DF\|",
    "sup |D^2 F|": r"\sup\|D^2F\|",
    "|grad ell|^2": r"\|\nabla\ell\|^2",
}

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def escape(text: str) -> str:
    """Text in which no character has a meaning to LaTeX; characters beyond ASCII become question marks."""
    return "".join(_ESCAPES.get(x, x) for x in text.encode("ascii", "replace").decode())


def code(text: str) -> str:
    """Text in typewriter letters that may break after commas, brackets and underscores."""
    out = escape(text)
    for mark in (",", "(", "=", r"\_"):
        out = out.replace(mark, mark + r"\allowbreak{}")
    return rf"\texttt{{{out}}}"


class _Printer(LatexPrinter):
    """SymPy's printer, with minima and maxima that may break at their commas."""

    def _members(self, name: str, expr: Expr) -> str:
        inside = r",\allowbreak\; ".join(self._print(a) for a in sorted(expr.args, key=sympy.default_sort_key))
        return rf"\{name}\{{{inside}\}}"

    def _print_Min(self, expr: Expr, exp: str | None = None) -> str:
        return self._members("min", expr) + (f"^{{{exp}}}" if exp else "")

    def _print_Max(self, expr: Expr, exp: str | None = None) -> str:
        return self._members("max", expr) + (f"^{{{exp}}}" if exp else "")


def decimal(value: sympy.Rational, up: bool) -> str:
    """A rational with `DIGITS` significant digits, rounded up or down."""
    context = Context(prec=DIGITS, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    rounded = context.divide(Decimal(int(value.p)), Decimal(int(value.q)))
    mantissa, _, power = f"{rounded:g}".lower().partition("e")
    return rf"{mantissa} \cdot 10^{{{int(power)}}}" if power else mantissa


def _with_decimals(expression: Any, up: bool, names: dict[Symbol, str]) -> Any:
    """Rationals of large denominator replaced by symbols that print as decimals, rounded the way the whole value is rounded."""
    if isinstance(expression, sympy.Rational):
        if expression.q <= LARGEST_DENOMINATOR:
            return expression
        text = decimal(abs(expression), up == bool(expression > 0))
        stand_in = Symbol(text, positive=True)
        names[stand_in] = text
        return sympy.sign(expression) * stand_in
    if not expression.args:
        return expression
    flip = isinstance(expression, Pow) and bool(expression.exp.is_negative)
    if isinstance(expression, sympy.Mul) and any(a.is_number and a.is_negative for a in expression.args):
        return -_with_decimals(-expression, not up, names)
    return expression.func(*(_with_decimals(a, up != flip, names) for a in expression.args))


def expression(expr: Any, sense: Sense = Sense.UPPER, names: Mapping[Symbol, str] | None = None) -> str:
    """LaTeX (for maths mode) of a bound's expression, in the project's symbols.

    Fractions with a denominator above 10^6 stand for ends of enclosures: they become decimals of 6 significant digits, rounded so that the
    value grows for an upper and falls for a lower bound. `names` adds symbols.
    """
    table = {**SYMBOLS, **(names or {})}
    readable = _with_decimals(sympy.sympify(expr), sense is Sense.UPPER, table)
    return _Printer({"symbol_names": table, "root_notation": True}).doprint(readable)


def quantity(name: str) -> str:
    """The project's name of a quantity as maths."""
    return QUANTITIES.get(name, rf"\text{{{escape(name)}}}" if name else r"\text{quantity}")


def bound(b: Bound) -> str:
    """A bound as an inequality, for maths mode; a star marks one that is attained."""
    relation = r"\le" if b.sense is Sense.UPPER else r"\ge"
    return f"{quantity(b.quantity)} {relation} {_starred(b)}"


def _starred(b: Bound) -> str:
    text = expression(b.expression, b.sense)
    return f"{text}{{}}^{{\\star}}" if b.sharp else text


_NORMALISATIONS = {
    "BatchNorm": "BN",
    "LayerNorm": "LN",
    "RMSNorm": "RMS",
    "GroupNorm": "GN",
    "InstanceNorm": "IN",
    "SetNorm": "SN",
}
_WEIGHT_NORMS = {
    "row": r"R_{\mathrm{row}}",
    "entry": r"R_{\mathrm{entry}}",
    "frobenius": "R_F",
    "spectral": r"R_{\sigma}",
}
_ACTIVATIONS = {"tanh": r"\tanh", "sin": r"\sin", "arctan": r"\arctan"}


_ON_GRIDS: dict[type[Layer], str] = {
    AveragePool: r"\operatorname{avg}",
    MaxPool: r"\max",
    GlobalAveragePool: r"\operatorname{mean}",
    Selection: r"\operatorname{select}",
    Reshape: r"\operatorname{reshape}",
    Permute: r"\operatorname{permute}",
    Attend: r"\operatorname{attend}",
    LogSoftmax: r"\log\operatorname{softmax}",
}


def _window(windows: Windows, groups: int = 1) -> str:
    """A window as a subscript: `3 x 3`, then stride, padding and groups where they are not one, nought and one."""
    parts = [r"{\times}".join(map(str, windows.kernel))]
    for letter, values in (("s", windows.stride), ("p", tuple(map(max, windows.padding)))):
        if any(v != (letter == "s") for v in values):
            parts.append(f"{letter}{values[0] if len(set(values)) == 1 else values}")
    return ",".join(parts + ([f"g{groups}"] if groups > 1 else []))


def _apply(layer: Network, x: str) -> str:
    """The formula of a network applied to `x`."""
    bracketed = x if x == "X" else f"({x})"
    if isinstance(layer, Chain):
        for member in layer.members:
            x = _apply(member, x)
        return x
    if isinstance(layer, Residual):
        skip = "" if layer.skip == 1 else expression(layer.skip) + r"\,"
        return f"{skip}{bracketed} + {_apply(layer.branch, x)}"
    if isinstance(layer, Repeat):
        return rf"\bigl({_apply(layer.block, 'X')}\bigr)^{{\circ {expression(layer.times)}}} {'' if x == 'X' else bracketed}"
    if isinstance(layer, Affine):
        matrix = "A" if layer.weight_norm is None else f"{_WEIGHT_NORMS[layer.weight_norm]}(V)"
        gain = r"\operatorname{diag}(g)\," if layer.gain else ""
        return rf"{gain}{matrix}\,{x if ' + ' not in x else bracketed}" + (
            r" + b\mathbf{1}^{\top}" if layer.bias else ""
        )
    if isinstance(layer, Normalisation):
        gain = r"\operatorname{diag}(g)\," if layer.gain else ""
        shift = r" + b\mathbf{1}^{\top}" if layer.shift else ""
        return rf"{gain}\mathrm{{{_NORMALISATIONS[type(layer).__name__]}}}({x}){shift}"
    if isinstance(layer, Activation | SoftmaxLayer):
        name = layer.name if isinstance(layer, Activation) else "softmax"
        operator = _ACTIVATIONS.get(name, rf"\operatorname{{{name}}}")
        return f"{operator}({x})"
    if isinstance(layer, Scaling):
        return rf"{expression(layer.factor)}\,{x if ' + ' not in x else bracketed}"
    if isinstance(layer, Cropping):
        return rf"{bracketed}_{{1:{expression(layer.features)}}}"
    if isinstance(layer, FeaturePad):
        return rf"\operatorname{{pad}}_{{{layer.before},{layer.after}}}({x})"
    if isinstance(layer, Convolution | TransposedConvolution):
        norm = getattr(layer, "weight_norm", None)
        matrix = "A" if norm is None else f"{_WEIGHT_NORMS[norm]}(V)"
        gain = r"\operatorname{diag}(g)\," if getattr(layer, "gain", False) else ""
        product = r"\circledast" if layer.windows.mode == "circular" else r"\ast"
        top = r"^{\top}" if isinstance(layer, TransposedConvolution) else ""
        shift = r" + b\mathbf{1}^{\top}" if layer.bias else ""
        return rf"{gain}{matrix}{top} {product}_{{{_window(layer.windows, getattr(layer, 'groups', 1))}}} {x if ' + ' not in x else bracketed}{shift}"
    for kind, operator in _ON_GRIDS.items():
        if isinstance(layer, kind):
            windows = getattr(layer, "windows", None)
            return f"{operator}_{{{_window(windows)}}}({x})" if windows else f"{operator}({x})"
    if isinstance(layer, FrozenBatchNorm):
        shift = r" + b\mathbf{1}^{\top}" if layer.shift else ""
        return (r"\operatorname{diag}(g)\," if layer.gain else "") + rf"\mathrm{{BN}}_{{\mathrm{{frozen}}}}({x}){shift}"
    if isinstance(layer, Branches):
        terms = [_apply(branch, x) for branch in layer.branches]
        return r"\bigl[" + "; ".join(terms) + r"\bigr]" if layer.stacked else " + ".join(terms)
    assert isinstance(layer, Layer)
    return rf"\text{{{escape(describe(layer))}}}({x})"


def formula(network: Network) -> str:
    """A layer or network as a formula in its input `X`, for maths mode."""
    return _apply(network, "X")


def longtable(columns: str, head: Iterable[str], rows: Iterable[str], caption: str) -> str:
    """A table that may break over pages: LaTeX columns, cells of the head, finished rows, caption."""
    title = " & ".join(head) + r" \\"
    body = "\n".join(rows)
    return (
        f"\\begin{{longtable}}{{@{{}}{columns}@{{}}}}\n\\caption{{{caption}}}\\\\\n\\toprule\n{title}\n\\midrule\n\\endfirsthead\n"
        f"\\toprule\n{title}\n\\midrule\n\\endhead\n\\bottomrule\n\\endfoot\n{body}\n\\end{{longtable}}"
    )


LEGEND = (
    r"Columns: $J=\|D_Xf\|$, $D=\|D_\theta f\|$, $XX$, $XT$, $TT$ the norms of the second derivatives by input and parameters (upper bounds); "
    r"$s=\sigma_{\min}(D_Xf)$ and $k=\lambda_{\min}(D_\theta f D_\theta f^{\top})$ (lower bounds). A star marks a bound that is claimed to be attained; "
    r"$R_\cdot(V)$ is $V$ normalised by row, by entry or by Frobenius norm."
)


def layer_table(entries: Iterable[Entry]) -> str:
    """One table a domain: layers as rows, the seven quantities as columns, a star where a bound is attained.

    An expression too long for its column is written below its table, under the number that stands in its place.
    """
    domains: dict[str, list[Entry]] = {}
    for entry in entries:
        domains.setdefault(entry.domain, []).append(entry)
    tables = "\n\n".join(_domain_table(domain, found) for domain, found in domains.items())
    return (
        "\\begingroup\\footnotesize\\setlength{\\tabcolsep}{3pt}\\renewcommand{\\arraystretch}{1.2}\n"
        f"{LEGEND}\n\n{tables}\n\\endgroup"
    )


_DOMAINS = {
    "everywhere": "all inputs and parameters",
    "bounded input": r"$\|X\|_F \le r$, all parameters",
    "ball": r"$\|X\|_F \le r$, every parameter array of norm at most $\rho$",
}
_P = r">{\raggedright\arraybackslash}p{%s\linewidth}"
"""A ragged column whose width is a share of the line."""


def _domain_table(domain: str, entries: Iterable[Entry]) -> str:
    notes: dict[str, int] = {}

    def cell(b: Bound) -> str:
        text = _starred(b)
        # cases and roots of minima cannot be broken over lines
        rigid = any(
            isinstance(e, sympy.Piecewise) or (isinstance(e, Pow) and e.base.has(Min))
            for e in sympy.preorder_traversal(b.expression)
        )
        if not rigid and sympy.count_ops(b.expression) <= LONGEST_CELL:
            return f"${text}$"
        return f"({notes.setdefault(text, len(notes) + 1)})"

    rows = [
        " & ".join([f"${formula(entry.network)}$", *(cell(b) for _, b in entry.bounds.quantities())]) + r" \\[2pt]"
        for entry in entries
    ]
    on_grid = any(shape_of(entry.network).grid for entry in entries)
    grid = (
        rf" Layers with windows, norms of a sample and branches: images of ${GRID[0]} \times {GRID[1]}$ positions."
        if on_grid
        else ""
    )
    head = ["layer", *(f"${letter}$" for letter in SYMBOLS_OF_QUANTITIES.values())]
    columns = "".join(_P % w for w in (".175", ".115", ".16", ".13", ".07", ".155", ".11", ".02"))
    table = longtable(columns, head, rows, f"Bounds of each layer: {_DOMAINS.get(domain, escape(domain))}.{grid}")
    if not notes:
        return table
    below = r";\quad{} ".join(f"({n}) ${text}$" for text, n in notes.items())
    return f"{table}\n{{\\raggedright {below}.\\par}}"


def _abbreviated(expr: Expr, depth: Symbol | None, names: dict[Expr, Symbol]) -> Expr:
    """The sums that are raised to powers of the depth (`1 + c/L`) replaced by letters `q`."""
    if depth is None:
        return expr

    def letter(power: Pow) -> Expr:
        base = power.base
        if base not in names:
            names[base] = Symbol(f"q_{len(names) + 1}" if names else "q", positive=True)
        return names[base] ** power.exp

    expr = expr.replace(
        lambda e: isinstance(e, Pow) and e.exp.has(depth) and isinstance(e.base, sympy.Add | Max), letter
    )
    return expr.subs(names)


def _eigenvalue(form: QuadraticForm, letter: str) -> tuple[str, list[tuple[str, Bound]]] | None:
    """`lambda_max` of a form on one or two indices in terms of its entries, with the entries; None for a larger one."""
    indices = sorted({i for pair in form for i in pair})
    infinite = any(b.expression is S.Infinity for b in form.values())
    if infinite or len(indices) != 2:
        return None
    i, j = indices
    entries = [(f"{letter}_{{{a}{b}}}", form[a, b]) for a, b in ((i, i), (i, j), (j, j)) if (a, b) in form]
    name = {key: f"{letter}_{{{key[0]}{key[1]}}}" if key in form else "0" for key in ((i, i), (i, j), (j, j))}
    one, mixed, two = name[i, i], name[i, j], name[j, j]
    return rf"\tfrac12\Bigl({one} + {two} + \sqrt{{({one} - {two})^2 + 4\,{mixed}^2}}\Bigr)", entries


def _composed_rows(landscape: Landscape) -> Iterable[str]:
    depth = depth_symbol(landscape.network)
    names: dict[Expr, Symbol] = {}

    def written(b: Bound) -> str:
        text = expression(_abbreviated(b.expression, depth, names), b.sense)
        return (
            rf"$\displaystyle {text}$"
            if sympy.count_ops(b.expression) <= LONGEST
            else "(too long to print: see the JSON)"
        )

    def limit(row: ComposedRow) -> str:
        return "--" if row.limit is None else rf"$\displaystyle {expression(row.limit, row.bound.sense)}$"

    rows: list[tuple[str, str, str]] = []
    found = {"second_derivative": (landscape.jet.second, "M"), "smoothness_constant": (landscape.jet.by_sample, "B")}
    for row in composed(landscape):
        relation = r"\le" if row.bound.sense is Sense.UPPER else r"\ge"
        eigenvalue = _eigenvalue(*found[row.name]) if row.name in found else None
        text = written(row.bound)
        if eigenvalue is not None:
            value, entries = eigenvalue
            rows += [(f"${name}$", f"$=$ {written(b)}", "") for name, b in entries]
            text = rf"$\displaystyle {value}$"
            if row.name == "smoothness_constant":
                outer, plain, sample = (
                    expression(b.expression)
                    for b in (
                        landscape.cost.smoothness(landscape.samples),
                        landscape.cost.gradient_norm(landscape.samples),
                        landscape.cost.sample_gradient() * (1 / landscape.samples),
                    )
                )
                text = (
                    rf"$\displaystyle {outer}\,\|DF\|^2 + \min\{{{plain}\,\lambda_{{\max}}(M),\allowbreak\; {sample}\,"
                    rf"\lambda_{{\max}}(B)\}}$, with $\lambda_{{\max}}$ as above"
                )
        name = "tangent_kernel_lambda_min" if row.name == "tangent_kernel_lambda_min" else row.name
        shown = r"\lambda_{\min}(DF\,DF^{\top})" if name == "tangent_kernel_lambda_min" else quantity(name)
        rows.append((f"${shown}$", rf"${relation}$ {text}", limit(row)))
    where = "".join(f"; ${q} = {expression(base)}$" for base, q in names.items())
    title = code(describe(landscape.network)) + where
    yield rf"\multicolumn{{3}}{{@{{}}p{{\linewidth}}@{{}}}}{{{title}}} \\* \addlinespace"
    for cells in rows:
        yield " & ".join(cells) + r" \\[6pt]"


COMPOSED_LEGEND = (
    r"Suprema and infima are over the domain of parameters. $M$ is the block matrix above the norms of $D^2F$ by pairs of parameter blocks, "
    r"$B$ the same for the sum over samples of the norms of $D^2F_i$; a repeated block counts as one parameter block."
)


def composed_table(landscapes: Iterable[Landscape]) -> str:
    """Composed bounds of networks, in the symbolic depth where they have one, with their limits as the depth grows."""
    lines: list[str] = []
    for landscape in landscapes:
        lines += [r"\midrule", *_composed_rows(landscape)] if lines else _composed_rows(landscape)
    columns = "".join(_P % w for w in (".14", ".60", ".22"))
    table = longtable(
        columns,
        ["quantity", "bound", r"limit as $L\to\infty$"],
        lines,
        r"Composed bounds over the whole depth: network $F$, loss $\ell$.",
    )
    return (
        f"\\begingroup\\footnotesize\\renewcommand{{\\arraystretch}}{{1.3}}\n{COMPOSED_LEGEND}\n\n{table}\n\\endgroup"
    )


def certificate_table(certificate: Certificate) -> str:
    """Every hypothesis of the theorems with bound, value and verdict; below, the certified constants."""
    rows: list[str] = []
    before = ""
    for item in grouped(certificate.checked):
        h = item.hypothesis
        name, before = ("" if h.name == before else code(h.name)), h.name
        value = escape(item.reason) if item.value is None else f"${number(item.value)}$"
        text = (
            f"${expression(h.bound.expression, h.bound.sense)}$"
            if sympy.count_ops(h.bound.expression) <= LONGEST // 3
            else "(long)"
        )
        rows.append(
            " & ".join([name, escape(h.statement), text, value, "holds" if item.holds else r"\textbf{fails}"]) + r" \\"
        )
    columns = "".join(_P % w for w in (".33", ".22", ".22", ".09", ".06"))
    table = longtable(
        columns, ["hypothesis", "statement", "bound", "value", ""], rows, "Hypotheses of Theorems 1 and 2."
    )
    values = (
        ("smoothness constant at most", float(certificate.constants.smoothness.upper())),
        (r"$\lambda_{\min}$ of the tangent kernel at least", float(certificate.constants.lambda_min.lower())),
        (r"Theorem 1: step size $\eta$", certificate.step_size),
        (r"Theorem 1: $\limsup_t t\,\ell_t$ at most", certificate.rate),
        (
            r"Theorem 2: part of the loss removed by a step $1/\beta(\ell_t)$ as $\ell_t \to 0$, at least",
            certificate.linear_rate,
        ),
        (r"\quad by a step from measured residuals, at least", certificate.measured_rate),
    )
    verdict = "certified" if certificate.certified else "not certified"
    lines = "\n".join(rf"{name} & ${number(value)}$ \\" for name, value in values)
    constants = f"\\begin{{tabular}}{{@{{}}lr@{{}}}}\n\\toprule\n{verdict} & \\\\\n\\midrule\n{lines}\n\\bottomrule\n\\end{{tabular}}"
    return f"\\begingroup\\footnotesize\n{table}\n\n\\begin{{center}}{constants}\\end{{center}}\n\\endgroup"


def number(value: Any) -> str:
    """A float with four significant digits, or an infinity, for maths mode."""
    found = float(value)
    if math.isnan(found):
        return r"\text{--}"
    if math.isinf(found):
        return r"\infty" if found > 0 else r"-\infty"
    mantissa, _, power = f"{found:.4g}".partition("e")
    return rf"{mantissa}\cdot10^{{{int(power)}}}" if power else mantissa


COMPARISON = ("network", "depth", "quantity", "sense", "bound", "measured", "tightness", "holds")
"""Keys of a row of `comparison_table`."""


def comparison_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Bounds beside measured values; each row is a mapping with the keys of `COMPARISON`."""
    lines = []
    for row in rows:
        relation = r"\le" if str(row["sense"]) == "upper" else r"\ge"
        name = QUANTITIES.get(str(row["quantity"]))
        cells = [
            code(str(row["network"])),
            str(row["depth"]),
            f"${name}$" if name else escape(str(row["quantity"]).replace("_", " ")),
            f"${relation}$",
            *(f"${number(row[key])}$" if row[key] is not None else "--" for key in ("bound", "measured", "tightness")),
            "yes" if row["holds"] else r"\textbf{no}",
        ]
        lines.append(" & ".join(cells) + r" \\")
    head = ["network", "depth", "quantity", "sense", "bound", "measured", "tightness", "holds"]
    columns = r">{\raggedright\arraybackslash}p{.36\linewidth}rllrrrl"
    table = longtable(
        columns, head, lines, "Bounds beside the largest (lower bounds: least) value found by sampling and search."
    )
    return f"\\begingroup\\small\n{table}\n\\endgroup"


def rows_table(rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    """Any rows with equal keys, SymPy expressions as formulas, under a caption of plain text; columns share the width by what stands in them."""
    if not rows:
        return ""
    texts = [[_plain(value) for value in row.values()] for row in rows]
    columns = zip(rows[0], *texts, strict=True)
    longest = [min(max(6, *map(len, column)), WIDEST) for column in columns]
    room = 1 - 0.016 * (len(longest) - 1)  # what the gaps between columns leave of A4 landscape
    layout = "".join(_P % f"{room * length / sum(longest):.3f}" for length in longest)
    lines = [" & ".join(map(_cell, row.values())) + r" \\" for row in rows]
    table = longtable(layout, [escape(key) for key in rows[0]], lines, escape(caption))
    return f"\\begingroup\\footnotesize\n{table}\n\\endgroup"


WIDEST = 48
"""Letters of a cell beyond which its column gets no wider."""


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    if value is None:
        return "--"
    if isinstance(value, bool):
        return "yes" if value else r"\textbf{no}"
    if isinstance(value, Expr):
        return f"${expression(value)}$"
    return f"${number(value)}$" if isinstance(value, int | float) else escape(str(value))


PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
\usepackage{amsmath,amssymb,array,booktabs,longtable,graphicx}
\setlength{\parindent}{0pt}
\setlength{\LTcapwidth}{\linewidth}
"""


def document(title: str, *bodies: str) -> str:
    """A document that compiles by itself (packages of texlive-latex-recommended only), A4 landscape."""
    body = "\n\n".join(bodies)
    return f"{PREAMBLE}\\begin{{document}}\n\\section*{{{escape(title)}}}\n{body}\n\\end{{document}}\n"
