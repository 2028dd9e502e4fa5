"""One inequality on one non-negative quantity, with everything needed to ask where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import sympy
from sympy import Expr, S


class Sense(StrEnum):
    """Whether a bound lies above (`quantity <= expression`) or below (`quantity >= expression`) its quantity."""

    UPPER = "upper"
    LOWER = "lower"

    @property
    def relation(self) -> str:
        return "<=" if self is Sense.UPPER else ">="


@dataclass(frozen=True)
class Assumption:
    """A predicate `left relation right` over named quantities, checked whenever a bound is evaluated.

    `relation` is one of `<`, `<=`, `>`, `>=`; `reason` says in a few words what breaks without it.
    """

    left: Expr
    relation: str
    right: Expr
    reason: str = ""

    def __post_init__(self) -> None:
        if self.relation not in ("<", "<=", ">", ">="):
            raise ValueError(f"assumption relation {self.relation!r} is unknown: use one of <, <=, >, >=")
        object.__setattr__(self, "left", sympy.sympify(self.left))
        object.__setattr__(self, "right", sympy.sympify(self.right))

    @property
    def difference(self) -> Expr:
        """The expression whose sign decides: positive (or zero, where equality is allowed) exactly when the assumption holds."""
        return self.left - self.right if ">" in self.relation else self.right - self.left

    def substitute(self, values: Mapping[Any, Any]) -> Assumption:
        left, right = (side.subs(values, simultaneous=True) for side in (self.left, self.right))
        return replace(self, left=left, right=right)

    def __str__(self) -> str:
        return f"{self.left} {self.relation} {self.right}" + (f"  ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class Step:
    """One link of a proof: a claim in words, expressions that it asserts to be identically zero, and expressions that it asserts to be non-negative.

    `verify` recomputes every identity from scratch and has SymPy deduce every sign from the declared signs of the symbols. A step
    without either quotes a named classical fact or draws the conclusion of those before it.
    """

    claim: str
    zeros: tuple[Expr, ...] = ()
    non_negative: tuple[Expr, ...] = ()

    def verify(self) -> bool:
        return all(sympy.simplify(sympy.sympify(zero).doit()) == 0 for zero in self.zeros) and all(
            sympy.sympify(sign).is_nonnegative for sign in self.non_negative
        )

    @property
    def checks(self) -> str:
        """What `verify` recomputes, in one line; empty where there is nothing."""
        return "; ".join(
            f"{relation} {', '.join(map(str, what))}"
            for relation, what in (("0 =", self.zeros), ("0 <=", self.non_negative))
            if what
        )


def gap(left: Any, right: Any) -> Expr:
    """`left - right`, left as it is written: what a step asserts to be zero, readable in `explain` and evaluated by `verify` only."""
    return sympy.Add(left, sympy.Mul(-1, right, evaluate=False), evaluate=False)


def _union(*groups: tuple[Assumption, ...]) -> tuple[Assumption, ...]:
    return tuple(dict.fromkeys(item for group in groups for item in group))


@dataclass(frozen=True)
class Bound:
    """`quantity <= expression` or `quantity >= expression`, for a non-negative quantity, under stated assumptions.

    Attributes:
        expression: SymPy expression; `oo` is an honest upper bound and `0` an honest lower one.
        sense: upper or lower.
        quantity: what is bounded, in the project's words (`input_jacobian_norm`, ...).
        assumptions: predicates that evaluation checks.
        source: where the inequality comes from (an atom's derivation, a rule, a definition).
        parents: the bounds it was computed from.
        steps: the links of the derivation, each re-checkable by `Step.verify`.
        sharp: True where the bound is claimed to be attained (or approached) by some instance; tested, never assumed.
        attained: where, in words.
        domain: the set over which the supremum or infimum is taken.

    Adding or multiplying mixes equal senses only. Plain SymPy expressions and numbers count as exact and take either sense.
    """

    expression: Expr
    sense: Sense
    quantity: str = ""
    assumptions: tuple[Assumption, ...] = ()
    source: str = ""
    parents: tuple[Bound, ...] = field(default=(), compare=False, repr=False)
    steps: tuple[Step, ...] = field(default=(), compare=False, repr=False)
    sharp: bool = False
    attained: str = ""
    domain: str = ""

    def __post_init__(self) -> None:
        expression = sympy.sympify(self.expression)
        if expression.has(S.NaN, S.ComplexInfinity, S.NegativeInfinity) or expression.is_negative:
            raise ValueError(
                f"bound on {self.quantity or 'a quantity'}: expression {expression} is not a non-negative number; "
                "bounds speak of norms, singular values and eigenvalues of Gram matrices only"
            )
        object.__setattr__(self, "expression", expression)

    @classmethod
    def upper(cls, expression: Any, **facts: Any) -> Bound:
        return cls(expression, Sense.UPPER, **facts)

    @classmethod
    def lower(cls, expression: Any, **facts: Any) -> Bound:
        return cls(expression, Sense.LOWER, **facts)

    def named(self, quantity: str, **facts: Any) -> Bound:
        """The same inequality read as a bound on `quantity`, keeping its history."""
        return replace(self, quantity=quantity, **facts)

    def _lift(self, other: Any) -> Bound:
        if isinstance(other, Bound):
            if other.sense is not self.sense:
                raise ValueError(
                    f"cannot combine {self.sense} bound {self} with {other.sense} bound {other}: "
                    "only equal senses add or multiply"
                )
            return other
        return Bound(other, self.sense, quantity="exact")

    def _combine(self, other: Bound, expression: Expr, word: str) -> Bound:
        parents = tuple(p for p in (self, other) if p.quantity != "exact")
        return Bound(
            expression,
            self.sense,
            assumptions=_union(self.assumptions, other.assumptions),
            source=word,
            parents=parents,
        )

    def _assuming(self, other: Bound) -> Bound:
        """This bound, under the assumptions of `other` as well."""
        assumptions = _union(self.assumptions, other.assumptions)
        return self if assumptions == self.assumptions else replace(self, assumptions=assumptions)

    def __add__(self, other: Any) -> Bound:
        other = self._lift(other)
        if other.expression == 0:
            return self._assuming(other)
        if self.expression == 0:
            return other._assuming(self)
        infinite = S.Infinity in (self.expression, other.expression)
        return self._combine(other, S.Infinity if infinite else self.expression + other.expression, "sum")

    def __mul__(self, other: Any) -> Bound:
        if not isinstance(other, Bound | Expr | int):
            return NotImplemented
        other = self._lift(other)
        if other.expression == 1:
            return self._assuming(other)
        if self.expression == 1 and other.quantity != "exact":
            return other._assuming(self)
        # a factor that is zero is zero whatever the other one is, an unbounded one included
        if self.expression == 0 or other.expression == 0:
            return self._combine(other, S.Zero, "product")
        infinite = S.Infinity in (self.expression, other.expression)
        return self._combine(other, S.Infinity if infinite else _product(self.expression, other.expression), "product")

    __radd__ = __add__
    __rmul__ = __mul__

    def __pow__(self, exponent: Any) -> Bound:
        exponent = sympy.sympify(exponent)
        if not exponent.is_positive:
            raise ValueError(
                f"a bound may be raised to a positive power only, not {exponent}: other powers reverse its sense"
            )
        return Bound(
            self.expression**exponent,
            self.sense,
            assumptions=self.assumptions,
            source=f"power {exponent}",
            parents=(self,),
        )

    def __str__(self) -> str:
        return f"{self.quantity or 'quantity'} {self.sense.relation} {self.expression}"

    def substitute(self, values: Mapping[Any, Any]) -> Bound:
        """The bound at given values of its symbols (exact numbers or expressions); assumptions are substituted with it."""
        return replace(
            self,
            expression=self.expression.subs(values, simultaneous=True),
            assumptions=tuple(a.substitute(values) for a in self.assumptions),
            source=f"{self.source} at {', '.join(f'{k} = {v}' for k, v in values.items())}",
            parents=(self,),
        )

    def ancestors(self) -> Iterator[Bound]:
        """The bound and all bounds it rests on, each once, nearest first."""
        seen: set[int] = set()
        queue: list[Bound] = [self]
        for bound in queue:
            if id(bound) not in seen:
                seen.add(id(bound))
                yield bound
                queue.extend(bound.parents)

    def verify(self) -> None:
        """Recompute every identity on which the bound rests.

        Raises:
            AssertionError: naming the first step whose identity does not simplify to zero.
        """
        for bound in self.ancestors():
            for step in bound.steps:
                if not step.verify():
                    raise AssertionError(f"{bound}: the step {step.claim!r} does not hold: {step.checks}")

    def explain(self) -> str:
        """The proof tree in plain text: inequality, source, where attained, steps and assumptions, parents indented.

        A bound that is used several times is written out once and referred to by its number afterwards.
        """
        lines: list[str] = []
        numbers: dict[int, int] = {}
        stack: list[tuple[Bound, int]] = [(self, 0)]
        while stack:
            bound, depth = stack.pop()
            pad = "  " * depth
            if id(bound) in numbers:
                lines.append(f"{pad}[{numbers[id(bound)]}] {bound}  (above)")
                continue
            numbers[id(bound)] = len(numbers) + 1
            where = f" on {bound.domain}" if bound.domain else ""
            sharp = "  [sharp]" if bound.sharp else ""
            lines.append(f"{pad}[{numbers[id(bound)]}] {bound}{where}{sharp}")
            details = [bound.source and f"from: {bound.source}", bound.attained and f"attained: {bound.attained}"]
            details += [f"step: {s.claim}" + (f"; checked: {s.checks}" if s.checks else "") for s in bound.steps]
            details += [f"assumes: {a}" for a in bound.assumptions]
            lines += [f"{pad}    {text}" for text in details if text]
            stack.extend((parent, depth + 1) for parent in reversed(bound.parents))
        return "\n".join(lines)


def _at_least_one(ratio: Expr) -> bool:
    """Whether a ratio is certainly at least 1: numbers >= 1, positive powers of positive integers `n`, and shares `1 - 1/n`.

    A share only appears where a mean over `n >= 2` entries was removed, so `n (1 - 1/n) = n - 1 >= 1` there.
    """
    integers: dict[Expr, Expr] = {}
    shares: dict[Expr, Expr] = {}
    number = S.One
    for factor in sympy.Mul.make_args(ratio):
        base, exponent = factor.as_base_exp()
        share = 1 / (1 - base) if isinstance(base, sympy.Add) else None
        if factor.is_number and factor.is_real:
            number = number * factor
        elif base.is_number and base.is_real:
            above = (base >= 1 and exponent.is_nonnegative) or (
                base.is_positive and base <= 1 and exponent.is_nonpositive
            )
            if not above:
                return False
        elif share is not None and share.is_Symbol and share.is_integer and share.is_positive:
            shares[share] = exponent
        elif base.is_integer and base.is_positive:
            integers[base] = exponent
        else:
            return False
    return (
        bool(number >= 1)
        and all(integers.get(n, S.Zero) >= sympy.Max(0, b) for n, b in shares.items())
        and all(a.is_nonnegative for a in integers.values())
    )


def _exceeds(one: Expr, other: Expr) -> bool:
    """Whether `one >= other` for certain: every term of `other` has a term of `one` of its own that is at least as large, and no negative term is left over."""
    if _at_least_one(one / other):
        return True
    if not (one.is_Add or other.is_Add) or one.has(sympy.Min) or other.has(sympy.Min):
        return False
    terms = list(sympy.Add.make_args(sympy.expand(one)))
    for needed in sympy.Add.make_args(sympy.expand(other)):
        match = next((t for t in terms if _at_least_one(t / needed)), None)
        if match is None:
            return False
        terms.remove(match)
    return not any(t.could_extract_minus_sign() for t in terms)


def _best(expressions: list[Expr]) -> list[Expr]:
    """Drop every expression that is certainly no better than another one (`sqrt(N) r` against `r`, as `N >= 1`)."""
    kept: list[Expr] = []
    for one in expressions:
        if any(_exceeds(one, other) for other in kept):
            continue
        kept = [other for other in kept if not _exceeds(other, one)] + [one]
    return kept


def _product(first: Expr, second: Expr) -> Expr:
    """The product of non-negative expressions, carried into a minimum so that its members stay comparable."""
    for one, other in ((first, second), (second, first)):
        if isinstance(one, sympy.Min) and not other.has(sympy.Min):
            return sympy.Min(*(member * other for member in one.args), evaluate=False)
    return first * second


def minimum(*bounds: Bound) -> Bound:
    """The best of several upper bounds of one quantity, in closed form; those that another one certainly beats are dropped."""
    first = bounds[0]
    if any(b.sense is not Sense.UPPER for b in bounds):
        raise ValueError(f"minimum is for upper bounds: {', '.join(map(str, bounds))}")
    options: dict[Expr, Bound] = {}
    for bound in bounds:
        options.setdefault(bound.expression, bound)
    kept = options if 0 in options or len(options) == 1 else _best(list(options))
    if S.Zero in options:
        return options[S.Zero]
    if len(kept) == 1:
        return options[next(iter(kept))]
    # flatten nested minima first, so that dominated members of those go as well
    members = _best([e for k in kept for e in (k.args if isinstance(k, sympy.Min) else (k,))])
    return Bound(
        # unevaluated: SymPy would compare all pairs again, which takes minutes for nested sums
        members[0] if len(members) == 1 else sympy.Min(*members, evaluate=False),
        first.sense,
        assumptions=_union(*(options[k].assumptions for k in kept)),
        source="the best of several bounds",
        parents=tuple(options[k] for k in kept),
    )
