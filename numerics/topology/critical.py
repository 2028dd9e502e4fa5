"""All critical points of a small function on a box, proven by interval Newton in ball arithmetic.

A box is thrown away where a component of the gradient has no zero, shrunk by interval Gauss-Seidel on the equations `0 in g(m) + H(x)(x - m)` as they
are and preconditioned, and kept as one certified point where Krawczyk's operator maps a slightly larger box into its own interior (which proves exactly
one zero there and a nonsingular Hessian); otherwise it is cut where that matters most, the widest boxes first. What is left at the smallest width, or when
the search is given up, is reported as undecided, in connected clusters: a count is a theorem only where nothing is undecided, and every critical point that is
degenerate or not isolated lies in a cluster.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import flint
import numpy
import sympy
from sympy import Expr, Symbol

from numerics.topology.balls import Ball, compiled, rewritten
from theory.evaluate import lower_float, upper_float

Box = tuple[tuple[float, float], ...]

INFLATION = 0.125
"""Part of its width by which a box is enlarged on every side before Krawczyk's test: a zero on the border of two boxes is found by both."""
LEAST_WIDTH = 2.0**-24
"""Boxes below this width, relative to the whole, are given up as undecided."""
NARROW = 1e-25
"""Radius at which an enclosure is narrow enough."""
MOST_BOXES = 200_000
"""Boxes looked at before the search is given up."""
SHRUNK = 0.5
"""A box whose volume Gauss-Seidel brings below this part of it is tried again before it is cut."""
SLIM = 1 / 16
"""A side is cut only if it is at least this part of the longest one, whatever the Hessian says."""
EXTENDED = 16
"""A cluster of undecided boxes longer than so many of its boxes is called extended."""


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
class Cluster:
    """Connected boxes where nothing was proven: a degenerate critical point, several too close to tell, or a continuum of them may lie there.

    Attributes:
        hull: the smallest box around them.
        boxes: their number.
        widest: the longest side among them.
    """

    hull: Box
    boxes: int
    widest: float

    @property
    def extended(self) -> bool:
        """Whether the cluster is much longer than its boxes, as around critical points that are not isolated."""
        return _width(self.hull) > EXTENDED * self.widest

    def __str__(self) -> str:
        kind = "extended: not isolated, or not told apart" if self.extended else "degenerate, or not told apart"
        sides = " x ".join(f"[{low:.4g}, {high:.4g}]" for low, high in self.hull)
        return f"{kind}; {self.boxes} boxes in {sides}"


@dataclass(frozen=True)
class CriticalPoints:
    """What is proven about the critical points of a function on a box: each is one of `points` or lies in one of `undecided`.

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
    def clusters(self) -> tuple[Cluster, ...]:
        """The undecided boxes by connected component, the longest first."""
        return _clusters(self.undecided)

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


def _volume(box: Box, least: float) -> float:
    """The product of the sides, none counted below `least`."""
    return math.prod(max(high - low, least) for low, high in box)


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
        inverse = _inverse(self.hessian(middle))
        if inverse is None:
            return None
        g, hessian, size = self.gradient(middle), self.hessian(x), range(self.size)
        out = []
        for i in size:
            value = middle[i] - sum((inverse[i][j] * g[j] for j in size), flint.arb(0))
            for j in size:
                entry = sum((inverse[i][l] * hessian[l][j] for l in size), flint.arb(0))
                value += (int(i == j) - entry) * (x[j] - middle[j])
            out.append(value)
        return out

    def contracted(self, x: list[Ball]) -> tuple[list[Ball] | None, int, bool]:
        """The part of a box that can hold zeros of the gradient (None where no part can), the side to cut next, and whether a zero may be proven there.

        One sweep of interval Gauss-Seidel, `x_j <- m_j - (g_i(m) + sum_{k != j} A_ik (x_k - m_k)) / A_ij`, over every equation `i` and variable `j` with
        `0` not in `A_ij`, for `A = H(x)` and, where the middle's Hessian is invertible, for its preconditioned form. The side to cut is the one along which the
        gradient can change most. Krawczyk's test can succeed only where the preconditioned diagonal has no zero.
        """
        middle, size = [ball.mid() for ball in x], range(self.size)
        g, matrix, inverse = self.gradient(middle), self.hessian(x), _inverse(self.hessian(middle))
        reach = [float(ball.rad()) for ball in x]
        change = [_largest(row[j] for row in matrix) * reach[j] for j in size]
        change = [c if r > SLIM * max(reach) else 0.0 for c, r in zip(change, reach, strict=True)]
        axis = max(size, key=lambda j: (change[j], reach[j]))
        x = list(x)

        def sweep(right: list[Ball], left: list[list[Ball]], pairs: Iterable[tuple[int, int]]) -> bool:
            for i, j in pairs:
                if not left[i][j].contains(0):
                    rest = sum((left[i][k] * (x[k] - middle[k]) for k in size if k != j), right[i])
                    new = middle[j] - rest / left[i][j]
                    if not new.overlaps(x[j]):
                        return False
                    x[j] = x[j].intersection(new)
            return True

        if not sweep(g, matrix, itertools.product(size, size)):
            return None, axis, False
        if inverse is None:
            return x, axis, False
        columns = [_product(inverse, column) for column in zip(*matrix, strict=True)]
        if not sweep(_product(inverse, g), list(map(list, zip(*columns, strict=True))), ((i, i) for i in size)):
            return None, axis, False
        return x, axis, not any(columns[i][i].contains(0) for i in size)

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


def _inverse(matrix: list[list[Ball]]) -> list[list[Ball]] | None:
    """A rounded inverse of the middle of a matrix of balls; None where there is none."""
    middle = numpy.array([[float(v.mid()) for v in row] for row in matrix])
    if not numpy.isfinite(middle).all() or abs(numpy.linalg.det(middle)) < 1e-300:
        return None
    return [[flint.arb(float(v)) for v in row] for row in numpy.linalg.inv(middle)]


def _largest(balls: Iterable[Ball]) -> float:
    """The largest absolute value in any of the balls; infinite where one is undefined."""
    ends = [float(ball.abs_upper()) for ball in balls]
    return math.inf if any(map(math.isnan, ends)) else max(ends)


def _product(matrix: list[list[Ball]], vector: Sequence[Ball]) -> list[Ball]:
    return [sum((a * v for a, v in zip(row, vector, strict=True)), flint.arb(0)) for row in matrix]


def _halves(box: Box, axis: int | None = None) -> tuple[Box, Box]:
    if axis is None:
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
    found: list[tuple[list[Ball], list[Ball]]] = []
    undecided: list[Box] = []
    queue, looked = [(-_width(sides), sides)], 0
    while queue:
        if looked == most_boxes:
            undecided += [box for _, box in queue]
            break
        _, here = heapq.heappop(queue)
        looked += 1
        x = [_ball(*side) for side in here]
        if any(not v.contains(0) for v in system.gradient(x)):
            continue
        part, axis, promising = system.contracted(x)
        if part is None:
            continue
        if promising:
            rim = [INFLATION * max(high - low, _width(here) / 4, least / 64) for low, high in here]
            wider = [_ball(low - r, high + r) for (low, high), r in zip(here, rim, strict=True)]
            image = system.krawczyk(wider)
            if image is not None:
                if any(not a.overlaps(b) for a, b in zip(image, wider, strict=True)):
                    continue
                if all(outer.contains_interior(inner) for inner, outer in zip(image, wider, strict=True)):
                    found.append((wider, _refined(system, image)))
                    continue
        # the zeros of the box lie in the contracted part
        pairs = zip(here, part, strict=True)
        closer = tuple((max(low, lower_float(k)), min(high, upper_float(k))) for (low, high), k in pairs)
        if any(low > high for low, high in closer):
            continue
        if _width(here) < least:
            undecided.append(closer)
        elif _volume(closer, least) < SHRUNK * _volume(here, least):
            heapq.heappush(queue, (-_width(closer), closer))
        else:
            for half in _halves(closer, axis):
                heapq.heappush(queue, (-_width(half), half))
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


def _clusters(boxes: tuple[Box, ...]) -> tuple[Cluster, ...]:
    """Boxes that touch, to within a rounding of their sides, belong together."""
    if not boxes:
        return ()
    sides = numpy.array(boxes)
    slack = 1e-9 * (sides[..., 1] - sides[..., 0]).max(1)
    label = numpy.arange(len(boxes))
    for i in range(len(boxes)):
        apart = (sides[i, :, 0] > sides[:, :, 1] + slack[:, None]) | (sides[:, :, 0] > sides[i, :, 1] + slack[:, None])
        touching = numpy.unique(label[~apart.any(1)])
        label[numpy.isin(label, touching)] = touching[0]
    found = []
    for one in numpy.unique(label):
        mine = sides[label == one]
        hull = tuple(
            (float(low), float(high)) for low, high in zip(mine[..., 0].min(0), mine[..., 1].max(0), strict=True)
        )
        found.append(Cluster(hull, len(mine), float((mine[..., 1] - mine[..., 0]).max())))
    return tuple(sorted(found, key=lambda c: -_width(c.hull)))
