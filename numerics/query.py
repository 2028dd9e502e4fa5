"""A question put to the theory in words (spec, sizes, values) and its answer as records: what `depthbound bounds` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sympy
from sympy import Expr, Symbol

from theory import symbols
from theory.atoms.base import EVERYWHERE, Domain
from theory.bound import Bound
from theory.compose import leaves
from theory.convergence import Certificate, certify, rate_bounds
from theory.evaluate import lower_float, upper_float
from theory.hypotheses import CheckedHypothesis, hypotheses
from theory.landscape import Landscape, landscape
from theory.network import Chain, Network, Repeat, Residual, substitute, walk
from theory.spec import describe, read
from theory.sufficient import Sufficient, sufficient
from theory.summary import ComposedRow, composed, grouped, unchecked

UNROLLED = 2
"""A block repeated more often than this is not unrolled in closed forms: they are taken in a symbolic depth, then substituted."""

DEEPEST = 64
"""A depth beyond is not put into closed forms, which stay in `L`: SymPy would expand powers of that degree to simplify them."""

Values = Mapping[Symbol, Expr]


@dataclass(frozen=True)
class Answer:
    """Composed bounds of a network, in closed form and as numbers, and Theorem 1's hypotheses.

    Attributes:
        network: the description that was asked about.
        closed: the landscape of the closed forms, every long repetition in a symbolic depth.
        landscape: that of the values, with every known value put in.
        rows: closed forms, with limits where the depth is symbolic.
        at: values of symbols of the closed forms that are too large to be put into them.
        values: the rigorous value of each row, by name; empty where a symbol has no value.
        missing: the names of those symbols.
        checked: the hypotheses, with values where all symbols have one.
        certificate: None where a symbol has no value.
    """

    network: Network
    closed: Landscape
    landscape: Landscape
    rows: tuple[ComposedRow, ...]
    at: Mapping[str, int]
    values: Mapping[str, float]
    missing: tuple[str, ...]
    checked: tuple[CheckedHypothesis, ...]
    certificate: Certificate | None

    def bounds(self) -> Iterable[Bound]:
        """The composed bounds, and the rates of the theorems where there are any."""
        return (*(row.bound for row in self.rows), *rate_bounds(self.closed))

    def sufficient(self) -> tuple[Sufficient, ...]:
        """For each symbol of the description that decides hypotheses: on which side of which threshold they hold."""
        described = sorted(_free(self.closed.network) - {symbols.L}, key=str)
        return tuple(one for symbol in described for one in sufficient(self.closed, symbol))

    def as_record(self) -> dict[str, Any]:
        """The answer as plain data; expressions are SymPy text (read with `sympify(text, locals=theory.symbols.KNOWN)`)."""
        certificate = self.certificate
        return {
            "network": describe(self.network),
            "features": str(self.closed.features),
            "samples": str(self.closed.samples),
            "domain": str(self.closed.domain),
            "at": dict(self.at),
            "missing": list(self.missing),
            "bounds": {
                row.name: {
                    **bound_record(row.bound),
                    "limit": None if row.limit is None else str(row.limit),
                    "value": self.values.get(row.name),
                }
                for row in self.rows
            },
            "certificate": {
                "certified": None if certificate is None else certificate.certified,
                "step_size": None if certificate is None else certificate.step_size,
                "decrease": None if certificate is None else certificate.decrease,
                "rate": None if certificate is None else certificate.rate,
                "linear_rate": None if certificate is None else certificate.linear_rate,
                "measured_rate": None if certificate is None else certificate.measured_rate,
                "sufficient": [str(item.condition) for item in self.sufficient()],
                "hypotheses": [hypothesis_record(item) for item in grouped(self.checked)],
            },
        }


def bound_record(bound: Bound) -> dict[str, Any]:
    """A bound as plain data."""
    return {
        "expression": str(bound.expression),
        "sense": str(bound.sense),
        "sharp": bound.sharp,
        "assumptions": [str(a) for a in bound.assumptions],
        "attained": bound.attained,
        "source": bound.source,
    }


def hypothesis_record(item: CheckedHypothesis) -> dict[str, Any]:
    """A hypothesis as plain data; `holds` is null where that takes values."""
    hypothesis = item.hypothesis
    undecided = item.value is None and hypothesis.symbolic_status() is None
    return {
        "name": hypothesis.name,
        "statement": hypothesis.statement,
        "quantity": hypothesis.bound.quantity,
        "sense": str(hypothesis.bound.sense),
        "expression": str(hypothesis.bound.expression),
        "value": item.value,
        "holds": None if undecided else item.holds,
        "reason": item.reason,
    }


def ask(
    source: str,
    *,
    depth: int | None = None,
    features: int | None = None,
    samples: int | None = None,
    settings: Iterable[str] = (),
    radius: str | None = None,
) -> Answer:
    """The composed bounds and the certificate of a network.

    Args:
        source: a spec on one line, or the name of a file that holds one.
        depth: value of `L`.
        features, samples: shape of the data; the symbols `d` and `N` where they are not given.
        settings: texts `name=value` with exact values (`1/3`, `0.1`): of the description (`eps`, `c`) and of the data (`x_0`, `x_F`, `sigma`).
        radius: parameters are taken in the ball of this radius, a number or the symbol `rho`; everywhere where it is not given.

    Raises:
        ValueError, FileNotFoundError: naming the offending option, layer or file.
    """
    network = network_from(source)
    known = _settings(settings, network)
    for name, value, symbol in (("--depth", depth, symbols.L), ("--samples", samples, symbols.N)):
        if value is not None:
            if value < 1:
                raise ValueError(f"{name} {value}: give a positive whole number")
            if known.setdefault(symbol, sympy.Integer(value)) != value:
                raise ValueError(f"{name} {value} and --set {symbol}={known[symbol]} disagree: give one of them")
    if depth is not None and symbols.L not in _free(network):
        raise ValueError(f"--depth {depth}: the network has no symbolic depth; write repeat(L, ...)")
    width: Expr = symbols.d if features is None else sympy.Integer(features)
    count = known.get(symbols.N, symbols.N)
    domain = EVERYWHERE if radius is None else Domain(_radius(radius))
    _check_data(known, width, count)

    symbolic, times = _symbolic_times(network)
    closed = landscape(symbolic, width, count, domain=domain)
    depths = {**times, **({symbols.L: known[symbols.L]} if symbols.L in known else {})}
    put_in = {symbol: value for symbol, value in depths.items() if value <= DEEPEST}
    rows = composed(closed, limits=not depths)
    rows = [replace(row, bound=_substituted(row.bound, put_in)) for row in rows]
    at = {symbol.name: int(value) for symbol, value in depths.items() if symbol not in put_in}
    here = landscape(substitute(network, known), width, count, domain=domain)
    missing = tuple(sorted(s.name for s in _needed(here) - set(known)))
    if missing:
        return Answer(network, closed, here, tuple(rows), at, {}, missing, tuple(unchecked(hypotheses(here))), None)
    certificate = certify(here, {**known, symbols.N: count})
    constants = certificate.constants
    values = {
        "first_derivative": upper_float(constants.first),
        "second_derivative": upper_float(constants.second),
        "smoothness_constant": upper_float(constants.smoothness),
        "tangent_kernel_lambda_min": max(0.0, lower_float(constants.lambda_min)),
    }
    return Answer(network, closed, here, tuple(rows), at, values, (), certificate.checked, certificate)


def network_from(source: str) -> Network:
    """The network of a spec or of a file; a text that can only be a file name must name one."""
    path = Path(source)
    if "(" not in source and "," not in source and ("/" in source or path.suffix) and not path.is_file():
        raise FileNotFoundError(
            f"network file {source} does not exist: give a file or a spec such as `affine(12), tanh, affine(10)`"
        )
    try:
        return read(source)
    except UnicodeDecodeError:
        raise ValueError(f"network file {source} is not text in UTF-8: write a spec into it") from None


def _substituted(bound: Bound, values: Values) -> Bound:
    """The bound at given values; its history is kept, the substitution is its last step."""
    return bound.substitute(values) if any(bound.expression.has(s) for s in values) else bound


def _free(network: Network) -> set[Symbol]:
    """The symbols of a description."""
    found: set[Symbol] = set()
    for part in walk(network):
        for value in vars(part).values():
            if isinstance(value, Expr):
                found |= value.free_symbols
    return found


def _needed(here: Landscape) -> set[Symbol]:
    """The symbols whose values the constants and the hypotheses of a landscape take."""
    found = {symbols.sigma} | here.samples.free_symbols | here.features.free_symbols | _free(here.network)
    for leaf in {id(leaf): leaf for leaf in leaves(here.derived.tree)}.values():
        for _, bound in leaf.quantities():
            found |= bound.expression.free_symbols
    return found


def _settings(texts: Iterable[str], network: Network) -> dict[Symbol, Expr]:
    known: dict[Symbol, Expr] = {}
    allowed = {s.name: s for s in _free(network)} | {s.name: s for s in symbols.KNOWN.values()}
    for text in texts:
        name, equals, number = (part.strip() for part in text.partition("="))
        if not equals:
            raise ValueError(f"--set {text}: write name=value, for example eps=1/100")
        if name not in allowed:
            raise ValueError(f"--set {text}: no symbol {name} here; known: {', '.join(sorted(allowed))}")
        symbol = allowed[name]
        value = _exact(f"--set {text}", number)
        if symbol.is_integer and not (value.is_Integer and value > 0):
            raise ValueError(f"--set {text}: {name} is a positive whole number")
        if value < 0 or (value == 0 and symbol != symbols.sigma):
            raise ValueError(f"--set {text}: {name} must be {'at least 0' if symbol == symbols.sigma else 'positive'}")
        if known.setdefault(symbol, value) != value:
            raise ValueError(f"--set {text}: {name} was given as {known[symbol]} before; give one value")
    return known


def _exact(option: str, number: str) -> Expr:
    try:
        value = sympy.Rational(number)
    except (TypeError, ValueError, ZeroDivisionError):
        value = sympy.nan
    if not value.is_finite:
        raise ValueError(f"{option}: {number!r} is not an exact number; write it like 3, 1/3, 0.25 or 1e-5")
    return value


def _radius(text: str) -> Expr:
    if text.strip() == symbols.rho.name:
        return symbols.rho
    value = _exact(f"--radius {text}", text)
    if not value.is_positive:
        raise ValueError(f"--radius {text}: a ball of parameters has a positive radius")
    return value


def _check_data(known: Values, features: Expr, samples: Expr) -> None:
    """Norms of one matrix: `sigma_N <= x_0 <= x_F <= sqrt(min(features, samples)) x_0`, and `sigma_N > 0` needs `N <= features`."""
    low, top, total = (known.get(s) for s in (symbols.sigma, symbols.x_0, symbols.x_F))
    for smaller, name, larger, other in (
        (low, "sigma", top, "x_0"),
        (top, "x_0", total, "x_F"),
        (low, "sigma", total, "x_F"),
    ):
        if smaller is not None and larger is not None and smaller > larger:
            raise ValueError(
                f"data: {name} = {smaller} exceeds {other} = {larger}; no matrix has sigma <= x_0 <= x_F violated"
            )
    if features.is_Integer and samples.is_Integer:
        rank = sympy.Min(features, samples)
        if top is not None and total is not None and total**2 > rank * top**2:
            raise ValueError(
                f"data: x_F = {total} exceeds sqrt({rank}) x_0 = {sympy.sqrt(rank) * top}; no matrix of rank {rank} has such norms"
            )
        if low is not None and low > 0 and samples > features:
            raise ValueError(
                f"data: sigma = {low} > 0 with {samples} samples of {features} features: full column rank needs samples <= features"
            )


def _symbolic_times(network: Network) -> tuple[Network, dict[Symbol, Expr]]:
    """The description with long concrete repetitions in a symbol each, and the values of those symbols."""
    times: dict[Symbol, Expr] = {}
    used = _free(network)

    def visit(part: Network) -> Network:
        if isinstance(part, Chain):
            return Chain(tuple(map(visit, part.members)))
        if isinstance(part, Residual):
            return Residual(visit(part.branch), part.skip)
        if isinstance(part, Repeat):
            count = part.times
            if count.is_Integer and count > UNROLLED:
                plain = symbols.L not in used and symbols.L not in times
                count = symbols.L if plain else Symbol(f"L_{len(times) + 1}", integer=True, positive=True)
                times[count] = part.times
            return Repeat(visit(part.block), count)
        return part

    return visit(network), times
