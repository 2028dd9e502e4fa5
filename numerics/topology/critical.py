"""All critical points of a small function on a box, proven by interval Newton (Krawczyk's operator) in ball arithmetic.

A box is thrown away where a component of the gradient has no zero, kept as one certified point where Krawczyk's operator maps a slightly larger
box into its own interior (which proves exactly one zero there and a nonsingular Hessian), and halved otherwise. What is
left at the smallest width is reported as undecided: a count is a theorem only where nothing is undecided.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flint
import numpy
import sympy
from sympy import Expr, Symbol

from theory.evaluate import lower_float, upper_float

Box = tuple[tuple[float, float], ...]
Ball = flint.arb

INFLATION = 0.125
"""Part of its width by which a box is enlarged on every side before Krawczyk's test: a zero on the border of two boxes is found by both."""
LEAST_WIDTH = 2.0**-24
"""Boxes below this width, relative to the whole, are given up as undecided."""
NARROW = 1e-25
"""Radius at which an enclosure is narrow enough."""
MOST_BOXES = 200_000
"""Boxes looked at before the search is given up."""


def _method(name: str) -> Callable[..., Any]:
    return lambda x: getattr(flint.arb(x), name)()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: _method(name) for name in ("tanh", "exp", "log", "erf", "sin", "cos", "tan", "atan", "sqrt")
}
"""Elementary functions on balls, by SymPy's names."""


def power(x: Any, n: int) -> Ball:
    """`x^n` for a whole number `n`; python-flint's own is undefined on a ball around 0, and a product forgets that even powers are not negative."""
    ball = flint.arb(x)
    if n < 0:
        return 1 / power(ball, -n)
    if n % 2:
        return ball * power(ball, n - 1)
    low, high = ball.abs_lower(), ball.abs_upper()
    ends = [math.prod([end] * n, start=flint.arb(1)) for end in (low, high)]
    return ends[0].union(ends[1])


_POWER = sympy.Function("power")
FUNCTIONS["power"] = power


class Softplus(sympy.Function):
    """`log(1 + exp(u))`, kept whole: its derivative `(1 + tanh(u/2)) / 2` names `u` once, so that it is enclosed tightly."""

    def fdiff(self, argindex: int = 1) -> Expr:
        return (1 + sympy.tanh(self.args[0] / 2)) / 2


FUNCTIONS["Softplus"] = lambda x: flint.arb(x).exp().log1p()


def _exponent(e: Expr) -> Expr | None:
    """`u` where the expression is `1 + exp(u)`."""
    if isinstance(e, sympy.Add) and len(e.args) == 2 and e.args[0] == 1 and isinstance(e.args[1], sympy.exp):
        return e.args[1].args[0]
    return None


def rewritten(expression: Expr) -> Expr:
    """The same function with every `log(1 + e^u)` as `Softplus(u)` and every `1 / (1 + e^u)` as `(1 - tanh(u/2)) / 2`."""

    def whole(e: Expr) -> bool:
        return (isinstance(e, sympy.log) or (isinstance(e, sympy.Pow) and e.exp == -1)) and _exponent(
            e.args[0]
        ) is not None

    def new(e: Expr) -> Expr:
        u = sympy.sympify(_exponent(e.args[0]))
        return Softplus(u) if isinstance(e, sympy.log) else (1 - sympy.tanh(u / 2)) / 2

    return sympy.sympify(expression).replace(whole, new)


def compiled(expressions: Sequence[Expr], variables: Sequence[Symbol]) -> Callable[[Sequence[Any]], list[Ball]]:
    """A function from balls to balls that encloses every expression; all constants enter as balls, none as a rounded number."""
    constants: dict[Expr, Symbol] = {}

    def ready(e: Expr) -> Expr:
        if e.is_Integer or e.is_Symbol:
            return e
        if e.is_number:
            return constants.setdefault(e, sympy.Dummy("c", real=True))
        if isinstance(e, sympy.Pow):
            if not e.exp.is_Integer:
                raise ValueError(f"critical points: the power {e} has no whole exponent: rewrite it")
            return _POWER(ready(e.base), e.exp)
        return e.func(*map(ready, e.args))

    forms = [ready(sympy.sympify(e)) for e in expressions]
    code = sympy.lambdify([*variables, *constants.values()], forms, modules=[FUNCTIONS], cse=True)
    balls = [_constant(c) for c in constants]
    return lambda point: [flint.arb(value) for value in code(*point, *balls)]


def _constant(value: Expr) -> Ball:
    """A ball around a real constant."""
    if value.is_Rational:
        return flint.arb(flint.fmpq(int(value.p), int(value.q)))
    if value is sympy.pi:
        return flint.arb.pi()
    if isinstance(value, sympy.Add | sympy.Mul):
        start = flint.arb(0 if isinstance(value, sympy.Add) else 1)
        for part in map(_constant, value.args):
            start = start + part if isinstance(value, sympy.Add) else start * part
        return start
    if isinstance(value, sympy.Pow):
        return _constant(value.base) ** _constant(value.exp)
    if value.func.__name__ in FUNCTIONS:
        return FUNCTIONS[value.func.__name__](_constant(value.args[0]))
    raise ValueError(f"critical points: no enclosure is known for the constant {value}")


@dataclass(frozen=True)
class CriticalPoint:
    """One nondegenerate critical point.

    Attributes:
        enclosure: one ball a coordinate, which together hold exactly this critical point.
        value: a ball around the function's value.
        index: number of negative eigenvalues of the Hessian, 0 for a minimum.
    """

    enclosure: tuple[Ball, ...]
    value: Ball
    index: int

    @property
    def at(self) -> tuple[float, ...]:
        """The middle of the enclosure."""
        return tuple(float(ball.mid()) for ball in self.enclosure)


@dataclass(frozen=True)
class CriticalPoints:
    """What is proven about the critical points of a function on a box.

    Attributes:
        points: certified ones, each nondegenerate.
        undecided: boxes where nothing was proven.
        outward: whether the gradient was proven to point outwards everywhere on the border.
        boxes: how many boxes were looked at.
    """

    box: Box
    points: tuple[CriticalPoint, ...]
    undecided: tuple[Box, ...]
    outward: bool
    boxes: int

    @property
    def complete(self) -> bool:
        """Whether `points` are proven to be all critical points on the box, hence the function Morse there."""
        return not self.undecided

    @property
    def euler(self) -> int:
        """`sum (-1)^index`; 1 where the points are complete and the gradient points outwards (Poincare and Hopf)."""
        return sum((-1) ** point.index for point in self.points)

    def below(self, level: float) -> int:
        """Number of points of value at most the level.

        Raises:
            ValueError: a level inside the enclosure of a critical value.
        """
        if any(point.value.contains(flint.arb(level)) for point in self.points):
            raise ValueError(f"level {level} is a critical value as far as the enclosures tell: choose another")
        return sum(bool(point.value < level) for point in self.points)


def _width(box: Box) -> float:
    return max(high - low for low, high in box)


def _ball(low: float, high: float) -> Ball:
    # the union of two numbers contains both whatever is rounded
    return flint.arb(low).union(flint.arb(high))


class _System:
    """Value, gradient and Hessian of a function, on balls."""

    def __init__(self, expression: Expr, variables: Sequence[Symbol]) -> None:
        self.size = len(variables)
        expression = rewritten(expression)
        slopes = [sympy.diff(expression, v) for v in variables]
        self.value = compiled([expression], variables)
        self.gradient = compiled(slopes, variables)
        self._hessian = compiled([sympy.diff(s, v) for s in slopes for v in variables], variables)

    def hessian(self, x: Sequence[Ball]) -> list[list[Ball]]:
        flat = self._hessian(x)
        return [flat[i * self.size : (i + 1) * self.size] for i in range(self.size)]

    def krawczyk(self, x: list[Ball]) -> list[Ball] | None:
        """`m - Y g(m) + (1 - Y H(x)) (x - m)`, `Y` a rounded inverse of the Hessian at the middle; None where there is none."""
        middle = [ball.mid() for ball in x]
        there = self.hessian(middle)
        matrix = numpy.array([[float(v.mid()) for v in row] for row in there])
        if not numpy.isfinite(matrix).all() or abs(numpy.linalg.det(matrix)) < 1e-300:
            return None
        inverse = [[flint.arb(float(v)) for v in row] for row in numpy.linalg.inv(matrix)]
        g, hessian, size = self.gradient(middle), self.hessian(x), range(self.size)
        out = []
        for i in size:
            value = middle[i] - sum((inverse[i][j] * g[j] for j in size), flint.arb(0))
            for j in size:
                entry = sum((inverse[i][l] * hessian[l][j] for l in size), flint.arb(0))
                value += (int(i == j) - entry) * (x[j] - middle[j])
            out.append(value)
        return out

    def excluded(self, x: list[Ball]) -> bool:
        """Whether some component of the gradient has no zero on the box, by itself or in the mean value form."""
        if any(not v.contains(0) for v in self.gradient(x)):
            return True
        middle = [ball.mid() for ball in x]
        g, hessian = self.gradient(middle), self.hessian(x)
        for i in range(self.size):
            mean = g[i] + sum((hessian[i][j] * (x[j] - middle[j]) for j in range(self.size)), flint.arb(0))
            if not mean.contains(0):
                return True
        return False

    def index(self, x: Sequence[Ball]) -> int | None:
        """Negative eigenvalues of the Hessian; None where the balls do not tell."""
        hessian = self.hessian(x)
        # pivots of the symmetric elimination, in every order until one works
        for order in itertools.permutations(range(self.size)):
            rows = [[hessian[i][j] for j in order] for i in order]
            signs = []
            for p in range(self.size):
                pivot = rows[p][p]
                if pivot.contains(0):
                    break
                signs.append(bool(pivot < 0))
                for i in range(p + 1, self.size):
                    factor = rows[i][p] / pivot
                    rows[i] = [a - factor * b for a, b in zip(rows[i], rows[p], strict=True)]
            else:
                return sum(signs)
        if self.size == 2 and hessian[0][0] * hessian[1][1] - hessian[0][1] ** 2 < 0:
            return 1
        return None


def _halves(box: Box) -> tuple[Box, Box]:
    axis = max(range(len(box)), key=lambda i: box[i][1] - box[i][0])
    low, high = box[axis]
    middle = (low + high) / 2
    return (
        (*box[:axis], (low, middle), *box[axis + 1 :]),
        (*box[:axis], (middle, high), *box[axis + 1 :]),
    )


def _outward(system: _System, box: Box) -> bool:
    """Whether the outward component of the gradient is positive on every face, proven by halving the faces."""
    for axis, (low, high) in enumerate(box):
        for end, sign in ((low, -1), (high, 1)):
            faces: list[Box] = [(*box[:axis], (end, end), *box[axis + 1 :])]
            while faces:
                face = faces.pop()
                slope = sign * system.gradient([_ball(*side) for side in face])[axis]
                if slope > 0:
                    continue
                if slope < 0 or len(box) == 1 or _width(face) < LEAST_WIDTH * _width(box):
                    return False
                faces += _halves(face)
    return True


def critical_points(
    expression: Expr,
    variables: Sequence[Symbol],
    box: Sequence[tuple[float, float]],
    *,
    most_boxes: int = MOST_BOXES,
) -> CriticalPoints:
    """All critical points of a twice differentiable expression on a closed box.

    Args:
        expression: in elementary functions that python-flint encloses, twice differentiable on the box.
        variables: one to three.
        box: one interval a variable.
        most_boxes: how many boxes are looked at before the rest is given up as undecided.

    Raises:
        ValueError: a box or variables that do not fit, or a symbol without interval.
    """
    variables = tuple(variables)
    sides: Box = tuple((float(low), float(high)) for low, high in box)
    if not 1 <= len(variables) <= 3 or len(sides) != len(variables):
        raise ValueError(f"critical points: {len(variables)} variables and {len(sides)} intervals: give 1 to 3 of both")
    if any(not low < high for low, high in sides):
        raise ValueError(f"critical points: the box {sides} has an empty side")
    missing = sympy.sympify(expression).free_symbols - set(variables)
    if missing:
        raise ValueError(f"critical points: no interval for {', '.join(sorted(map(str, missing)))}")
    system = _System(expression, variables)
    whole, least = [_ball(*side) for side in sides], LEAST_WIDTH * _width(sides)
    queue, found, undecided, looked = [sides], [], [], 0
    while queue:
        here = queue.pop()
        looked += 1
        if looked > most_boxes:
            undecided += [here, *queue]
            break
        if system.excluded([_ball(*side) for side in here]):
            continue
        rim = [INFLATION * max(high - low, _width(here) / 4, least / 64) for low, high in here]
        x = [_ball(low - r, high + r) for (low, high), r in zip(here, rim, strict=True)]
        image = system.krawczyk(x)
        if image is not None:
            if any(not a.overlaps(b) for a, b in zip(image, x, strict=True)):
                continue
            if all(outer.contains_interior(inner) for inner, outer in zip(image, x, strict=True)):
                found.append((x, _refined(system, image)))
                continue
            # the zeros of the box lie in the image, which may be much the smaller of the two
            pairs = zip(here, image, strict=True)
            closer = tuple((max(low, lower_float(k)), min(high, upper_float(k))) for (low, high), k in pairs)
            if any(low > high for low, high in closer):
                continue
            if _width(closer) < 0.5 * _width(here) and _width(here) >= least:
                queue.append(closer)
                continue
        if _width(here) < least:
            undecided.append(here)
        else:
            queue += _halves(here)
    points, doubtful = _distinct(system, found, whole)
    outward = _outward(system, sides)
    return CriticalPoints(sides, tuple(points), (*undecided, *doubtful), outward, looked)


def _refined(system: _System, x: list[Ball]) -> list[Ball]:
    for _ in range(20):
        image = system.krawczyk(x)
        if image is None:
            return x
        if max(float(ball.rad()) for ball in x) < NARROW:
            return x
        x = [a.intersection(b) for a, b in zip(image, x, strict=True)]
    return x


def _distinct(
    system: _System, found: list[tuple[list[Ball], list[Ball]]], whole: list[Ball]
) -> tuple[list[CriticalPoint], list[Box]]:
    """One point for every zero on the box: two enclosures that both lie in a region with exactly one zero are the same zero."""
    kept: list[tuple[list[Ball], list[Ball]]] = []
    points, doubtful = [], []

    def inside(inner: list[Ball], outer: list[Ball]) -> bool:
        return all(b.contains(a) for a, b in zip(inner, outer, strict=True))

    for region, zero in found:
        if any(not a.overlaps(b) for a, b in zip(zero, whole, strict=True)):
            continue
        twins = [other for other in kept if all(a.overlaps(b) for a, b in zip(zero, other[1], strict=True))]
        if any(inside(zero, other[0]) or inside(other[1], region) for other in twins):
            continue
        index = system.index(zero)
        if twins or index is None or not inside(zero, whole):
            doubtful.append(tuple((float(a.lower()), float(a.upper())) for a in zero))
            continue
        kept.append((region, zero))
        points.append(CriticalPoint(tuple(zero), system.value(zero)[0], index))
    return sorted(points, key=lambda p: float(p.value.mid())), doubtful
