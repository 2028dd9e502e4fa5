"""Pfaffian chains and functions as objects, and the calculus of their formats.

A chain of length `l` and degree `alpha` on an open set of `R^n`: real-analytic `f_1 .. f_l` with `df_j = sum_i P_ij(x, f_1 .. f_j) dx_i` and
polynomials `P_ij` of total degree at most `alpha`. A function `Q(x, f_1 .. f_l)` with a polynomial `Q` of total degree at most `beta` has the
format `(alpha, beta, l)`. Every operation here builds the polynomials themselves (`Pfaffian.format`, their total degrees) and at
the same time applies the generic rules, which know formats only (`Pfaffian.rules`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

import sympy
from sympy import Expr, S, Symbol, exp

from theory.atoms.entrywise import ACTIVATIONS, z
from theory.bound import Step, gap
from theory.induction import at_least, largest


@dataclass(frozen=True)
class Format:
    """`(alpha, beta, l)`: degree of the chain's equations, degree of the function in the chain, length of the chain.

    The methods are the generic rules; chains are taken to have no member in common. Entries are whole numbers or expressions.
    """

    alpha: Expr
    beta: Expr
    length: Expr

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "length"):
            value = sympy.sympify(getattr(self, name))
            if value.is_number and not (value.is_integer and value.is_nonnegative):
                raise ValueError(f"format: {name} = {value} is not a whole number >= 0")
            object.__setattr__(self, name, value)

    @property
    def gradient(self) -> Expr:
        """Degree of any partial derivative, `alpha + beta - 1`, and 0 for a constant."""
        return S.Zero if self.beta == 0 else self.alpha + self.beta - 1

    def __add__(self, other: Format) -> Format:
        """Sum: `(max alpha, max beta, l_1 + l_2)`."""
        return Format(largest(self.alpha, other.alpha), largest(self.beta, other.beta), self.length + other.length)

    def __mul__(self, other: Format) -> Format:
        """Product: `(max alpha, beta_1 + beta_2, l_1 + l_2)`."""
        return Format(largest(self.alpha, other.alpha), self.beta + other.beta, self.length + other.length)

    def derivative(self) -> Format:
        """Any partial derivative: `(alpha, alpha + beta - 1, l)` on the same chain."""
        return Format(self.alpha, self.gradient, self.length)

    def into(self, outer: Format) -> Format:
        """`g o f`, `g = outer` of one variable: `(max(alpha_f, alpha_g beta_f + alpha_f + beta_f - 1), beta_g beta_f, l_f + l_g)`."""
        alpha = largest(self.alpha, outer.alpha * self.beta + self.gradient)
        return Format(alpha, outer.beta * self.beta, self.length + outer.length)

    def reciprocal(self) -> Format:
        """`u = 1/f` joins the chain, `du = -u^2 df`: `(max(alpha, alpha + beta + 1), 1, l + 1)`."""
        return Format(largest(self.alpha, 2 + self.gradient), S.One, self.length + 1)

    def within(self, other: Format) -> bool:
        """Whether no entry certainly exceeds the other format's: each is at most the other's for all values of the symbols."""
        pairs = ((self.alpha, other.alpha), (self.beta, other.beta), (self.length, other.length))
        return all(at_least(theirs, ours) for ours, theirs in pairs)

    def __str__(self) -> str:
        return f"(alpha, beta, l) = ({self.alpha}, {self.beta}, {self.length})"


@dataclass(frozen=True)
class Element:
    """One function of a chain: its name in polynomials, the function itself, and its partial derivatives as polynomials."""

    symbol: Symbol
    function: Expr
    gradient: tuple[tuple[Symbol, Expr], ...]


@cache
def _name(function: Expr) -> Symbol:
    """One name for one function, so that the union of two chains sees what they share."""
    return sympy.Dummy("f", real=True)


def total_degree(polynomial: Expr, over: tuple[Symbol, ...]) -> int:
    """Total degree in the given symbols; 0 for constants, zero included."""
    polynomial = sympy.sympify(polynomial)
    if polynomial == 0 or not over:
        return 0
    return int(max(map(sum, sympy.Poly(polynomial, *over).monoms())))


@dataclass(frozen=True)
class Pfaffian:
    """The function `polynomial` of `variables` and of a chain; `rules` is its format by the generic rules alone.

    `+`, `-`, `*` with numbers and other functions of the same variables, `diff`, `reciprocal` and `compose` build new ones; chains are united, and a
    function that both contain counts once. `interval` is where a function of one variable is defined.
    """

    variables: tuple[Symbol, ...]
    chain: tuple[Element, ...]
    polynomial: Expr
    rules: Format = field(compare=False)
    interval: tuple[Expr, Expr] = (-S.Infinity, S.Infinity)

    @classmethod
    def of(cls, polynomial: Expr, variables: tuple[Symbol, ...]) -> Pfaffian:
        """A polynomial of degree `d`: format `(0, d, 0)`."""
        polynomial = sympy.expand(sympy.sympify(polynomial))
        if not polynomial.is_polynomial(*variables):
            raise ValueError(
                f"{polynomial} is not a polynomial in {', '.join(map(str, variables))}: compose it instead"
            )
        return cls(variables, (), polynomial, Format(0, total_degree(polynomial, variables), 0))

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        return (*self.variables, *(e.symbol for e in self.chain))

    @property
    def format(self) -> Format:
        """The format of the polynomials as they are."""
        degrees = [total_degree(p, self.symbols) for e in self.chain for _, p in e.gradient]
        return Format(max(degrees, default=0), total_degree(self.polynomial, self.symbols), len(self.chain))

    @property
    def function(self) -> Expr:
        """The function itself, without names for the chain."""
        return self.polynomial.subs({e.symbol: e.function for e in self.chain}, simultaneous=True)

    def _lift(self, other: Pfaffian | Expr | int) -> Pfaffian:
        if not isinstance(other, Pfaffian):
            return Pfaffian.of(sympy.sympify(other), self.variables)
        if other.variables != self.variables:
            raise ValueError(
                f"functions of {self.variables} and of {other.variables} do not combine: use equal variables"
            )
        return other

    def _join(self, other: Pfaffian, polynomial: Expr, rules: Format) -> Pfaffian:
        interval = (sympy.Max(self.interval[0], other.interval[0]), sympy.Min(self.interval[1], other.interval[1]))
        chain = tuple(dict.fromkeys((*self.chain, *other.chain)))
        return Pfaffian(self.variables, chain, sympy.expand(polynomial), rules, interval)

    def __add__(self, other: Pfaffian | Expr | int) -> Pfaffian:
        other = self._lift(other)
        return self._join(other, self.polynomial + other.polynomial, self.rules + other.rules)

    def __sub__(self, other: Pfaffian | Expr | int) -> Pfaffian:
        return self + (-1) * self._lift(other)

    def __mul__(self, other: Pfaffian | Expr | int) -> Pfaffian:
        other = self._lift(other)
        return self._join(other, self.polynomial * other.polynomial, self.rules * other.rules)

    __radd__ = __add__
    __rmul__ = __mul__

    def partial(self, variable: Symbol) -> Expr:
        """The partial derivative as a polynomial in the variables and the chain."""
        out = sympy.diff(self.polynomial, variable)
        for e in self.chain:
            out += sympy.diff(self.polynomial, e.symbol) * dict(e.gradient)[variable]
        return sympy.expand(out)

    def diff(self, variable: Symbol) -> Pfaffian:
        """The partial derivative, on the same chain."""
        return replace(self, polynomial=self.partial(variable), rules=self.rules.derivative())

    def _adjoin(self, function: Expr, factors: dict[Symbol, Expr]) -> Element:
        return Element(_name(function), function, tuple((v, sympy.expand(p)) for v, p in factors.items()))

    def reciprocal(self) -> Pfaffian:
        """`u = 1/f` as a new element of the chain; the caller answers for `f` having no zero."""
        function = 1 / self.function
        if not self.polynomial.free_symbols & set(self.symbols):
            return replace(self, polynomial=function, rules=self.rules.reciprocal())
        u = _name(function)
        new = self._adjoin(function, {v: -(u**2) * self.partial(v) for v in self.variables})
        return Pfaffian(self.variables, (*self.chain, new), u, self.rules.reciprocal(), self.interval)

    def compose(self, inner: Pfaffian) -> Pfaffian:
        """`self o inner` for a function of one variable: the chain of `self` at the inner function joins the inner chain.

        Raises:
            ValueError: several variables, or a function that is defined on an interval only.
        """
        if len(self.variables) != 1 or self.interval != (-S.Infinity, S.Infinity):
            raise ValueError(
                f"composition needs an outer function of one variable on the whole line, not of {self.variables} on {self.interval}"
            )
        (own,) = self.variables
        rules = inner.rules.into(self.rules)
        if not inner.polynomial.free_symbols & set(inner.symbols):
            return replace(inner, polynomial=self.function.subs(own, inner.polynomial), rules=rules)
        names: dict[Symbol, Expr] = {own: inner.polynomial}
        chain = list(inner.chain)
        slopes = {v: inner.partial(v) for v in inner.variables}
        for e in self.chain:
            function = e.function.subs(own, inner.function)
            names[e.symbol] = _name(function)
            rule = dict(e.gradient)[own].subs(names, simultaneous=True)
            new = inner._adjoin(function, {v: rule * slope for v, slope in slopes.items()})
            if new.symbol not in [c.symbol for c in chain]:
                chain.append(new)
        polynomial = sympy.expand(self.polynomial.subs(names, simultaneous=True))
        return Pfaffian(inner.variables, tuple(chain), polynomial, rules, inner.interval)

    def steps(self) -> tuple[Step, ...]:
        """The chain's equations as identities: derivative minus polynomial, with the functions put in, is zero."""
        values = {e.symbol: e.function for e in self.chain}
        return tuple(
            Step(
                f"d/d{v} of {e.function} is a polynomial in {v} and the chain up to it",
                (gap(sympy.Derivative(e.function, v), p.subs(values, simultaneous=True)),),
            )
            for e in self.chain
            for v, p in e.gradient
        )


_F, _G = sympy.symbols("f_1 f_2", real=True)
_SIGMOID = 1 / (1 + exp(-z))
FORMULAS: dict[str, Expr] = {
    "exp": exp(z),
    "gaussian": exp(-(z**2)),
    "algebraic": z / sympy.sqrt(1 + z**2),
    **{name: formula for name, formula in ACTIVATIONS.items() if not formula.has(sympy.Piecewise)},
}
"""Formulas of the analytic activations; `algebraic` is `z / sqrt(1 + z^2)`."""
_CHAINS: dict[str, tuple[tuple[tuple[Expr, Expr], ...], Expr]] = {
    # name: (function, its derivative in z, f_1, f_2) ..., and the activation in z, f_1, f_2
    "identity": ((), z),
    "exp": (((exp(z), _F),), _F),
    "gaussian": (((exp(-(z**2)), -2 * z * _F),), _F),
    "algebraic": (((1 / sympy.sqrt(1 + z**2), -z * _F**3),), z * _F),
    "sigmoid": (((_SIGMOID, _F - _F**2),), _F),
    "tanh": (((sympy.tanh(z), 1 - _F**2),), _F),
    "softplus": (((_SIGMOID, _F - _F**2), (sympy.log(1 + exp(z)), _F)), _G),
    "arctan": (((1 / (1 + z**2), -2 * z * _F**2), (sympy.atan(z), _F)), _G),
    "erf": (((exp(-(z**2)), -2 * z * _F), (sympy.erf(z), 2 / sympy.sqrt(sympy.pi) * _F)), _G),
    "silu": (((_SIGMOID, _F - _F**2),), z * _F),
    "gelu": (
        ((exp(-(z**2) / 2), -z * _F), (sympy.erf(z / sympy.sqrt(2)), sympy.sqrt(2 / sympy.pi) * _F)),
        z * (1 + _G) / 2,
    ),
    "sin": (((sympy.tan(z / 2), (1 + _F**2) / 2), (sympy.cos(z / 2) ** 2, -_F * _G)), 2 * _F * _G),
}
INTERVALS: dict[str, tuple[Expr, Expr]] = {"sin": (-sympy.pi, sympy.pi)}
"""Where a chain exists, for those without one on the whole line: a sine has infinitely many zeros, so no global chain."""

_PIECES: dict[str, tuple[Expr, Expr]] = {
    # formulas for z < 0 and for z > 0; the order of the first derivative that jumps at 0 is derived from them
    "relu": (S.Zero, z),
    "leaky_relu": (Symbol("a", real=True) * z, z),
    "elu": (exp(z) - 1, z),
    "softsign": (z / (1 - z), z / (1 + z)),
}


def jump_order(name: str) -> int:
    """Order of the first derivative that jumps at 0, for an activation in two pieces."""
    left, right = _PIECES[name]
    order = 0
    while sympy.simplify((left - right).subs(z, 0)) == 0:
        left, right, order = sympy.diff(left, z), sympy.diff(right, z), order + 1
    return order


@cache
def activation(name: str) -> Pfaffian:
    """The chain of one activation, its equations and its formula verified by SymPy on first use.

    Raises:
        ValueError: an activation that is not analytic, with the derivative that jumps, or unknown.
    """
    if name in _PIECES:
        raise ValueError(
            f"activation {name!r} is not analytic, hence not Pfaffian: its derivative of order {jump_order(name)} jumps at 0; "
            f"use one of {', '.join(FORMULAS)}"
        )
    if name not in FORMULAS:
        raise ValueError(f"no Pfaffian chain is known for the activation {name!r}: use one of {', '.join(FORMULAS)}")
    members, polynomial = _CHAINS[name]
    names = dict(zip((_F, _G), (_name(function) for function, _ in members), strict=False))
    chain = tuple(Element(_name(f), f, ((z, rule.subs(names, simultaneous=True)),)) for f, rule in members)
    value = polynomial.subs(names, simultaneous=True)
    whole = (-S.Infinity, S.Infinity)
    out = Pfaffian((z,), chain, sympy.expand(value), Format(0, 0, 0), INTERVALS.get(name, whole))
    for step in (
        *out.steps(),
        Step(f"{name} is this polynomial in z and the chain", (gap(out.function, FORMULAS[name]),)),
    ):
        if not step.verify():
            raise AssertionError(f"activation {name!r}: the step {step.claim!r} does not hold: {step.checks}")
    return replace(out, rules=out.format)
