"""Why a hypothesis fails: a concrete network, found by machine, where the constant of a layer is zero or grows without limit.

The values along a family of networks are exact (singular values of dense Jacobians) or attained (second derivatives), so what is
shown is really there; that growth goes on for ever, or decay ends at zero, is read off the last decades and is evidence, not proof.
A derived bound is never asked: a constant that is bounded or positive gives an exhibit of the kind `none`, whatever the theory says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from numerics.convergence.rays import (
    DOWNWARDS,
    UPWARDS,
    Ray,
    along,
    around,
    closing_gaps,
    crossings,
    kinks,
    rays,
    scattered,
    singular_values,
    special_points,
    unit_points,
    value_at,
)
from numerics.device import DTYPE, generator
from numerics.measure import input_jacobian, param_jacobian
from numerics.realise import Realisation, realise
from numerics.search import OBJECTIVES, search_layer
from theory.derive import derive
from theory.evaluate import enclose, upper_float
from theory.hypotheses import CheckedHypothesis
from theory.landscape import Landscape, data_features
from theory.network import Chain, Network, walk
from theory.records import LOWER, Shape
from theory.spec import describe

ZERO = 1e-8
"""A least singular value below this share of the layer's Jacobian norm at parameters and inputs of norm one counts as zero ..."""
ROUNDING = 1e-12
"""... if it is below this share, or still falls where it was last measured."""
SLOPE = 0.2
"""Least slope, in logarithms, of the last two steps of a growing (falling) family."""
STEADY = 0.2
"""Most by which the last slope of a growing family falls behind the one before, beyond which growth is ending."""
SECOND = ("input_input", "input_param", "param_param")
UP_POWERS = ((1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (1, -1), (-1, 1))
DOWN_POWERS = ((-1, 0), (1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1))
"""Powers of `r` that parameters and input scale with, the plainest first."""
STARTS = 6

Kind = Literal["zero", "unbounded", "none"]


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A family of networks on which one constant of a layer is seen to be zero or unbounded, or the failure to find one.

    Attributes:
        spec: the layer.
        quantity: one of `theory.records.QUANTITIES`.
        kind: `zero`, `unbounded`, or `none` where neither was found, which is no proof of the contrary.
        shape: the layer's input.
        label: what the family scales, with the letter `r`.
        scales: the `r` at which it was measured; `inf` is the limit itself.
        values: the quantity there, exact or attained; of kind `none` for an upper quantity the largest found with arrays and input in
            balls of radius `r`, for a lower one the smallest found.
        exponent: of an unbounded one, the slope of `log value` against `log r` between the last two scales.
        theta, X: the networks `(T, P)` and inputs `(T, d, N)`, one for each value.
        other: of a jump, the points `(theta, X)` on its other side; the value is `r` times the change of the Jacobian.
        direction: of a lower quantity, the unit `y (K, N)` with `J^T y` least, at the last point.
        note: where the family comes from, or an empty text.
    """

    spec: str
    quantity: str
    kind: Kind
    shape: str
    label: str
    scales: tuple[float, ...]
    values: tuple[float, ...]
    exponent: float | None
    theta: Tensor
    X: Tensor
    other: tuple[Tensor, Tensor] | None = None
    direction: Tensor | None = None
    note: str = ""

    @property
    def found(self) -> bool:
        return self.kind != "none"

    @property
    def witness(self) -> dict[str, Tensor]:
        """The tensors of the last point, by name: `theta`, `X`, and `direction` where there is one."""
        last = {"theta": self.theta[-1], "X": self.X[-1]}
        return last if self.direction is None else last | {"direction": self.direction}

    @property
    def sentence(self) -> str:
        """The exhibit in one sentence."""
        values = ", ".join(f"{value:.3g}" for value in self.values)
        scales = ", ".join("oo" if math.isinf(r) else f"{r:g}" for r in self.scales)
        what, note = f"{self.quantity} of {self.spec}", f" ({self.note})" if self.note else ""
        where = f"{values} at {self.label}" + (f", r = {scales}" if scales else "")
        if self.kind == "unbounded":
            return f"{what} is unbounded: {where} (grows like r^{self.exponent:.2f}){note}"
        if self.kind == "zero":
            return f"{what} has infimum zero: {where}{note}"
        sought = "was not seen to fall to zero" if self.quantity in LOWER else "was not seen to grow without limit"
        return f"{what} {sought}: {where} (that is no proof){note}"

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, eq=False)
class _Task:
    """One quantity of one layer on its domain, and where its randomness comes from."""

    network: Network
    f: Realisation
    quantity: str
    input_radius: float
    fixed_input: Tensor | None
    positions: int
    seed: int
    source: Generator

    def starts(self, count: int = STARTS) -> tuple[Tensor, Tensor]:
        random = unit_points(self.f, count, self.source, self.input_radius, self.fixed_input)
        special = special_points(self.f, self.source, self.input_radius, self.fixed_input, self.positions)
        return torch.cat([random[0], special[0]]), torch.cat([random[1], special[1]])

    def rays(self, theta: Tensor, X: Tensor, lowest: bool) -> list[Ray]:
        """All families of scales from the given starts."""
        powers, scales, arrays = (DOWN_POWERS, DOWNWARDS, (-1, 1)) if lowest else (UP_POWERS, UPWARDS, (1, -1))
        fixed = self.fixed_input is not None
        return rays(self.f, theta, X, powers, scales, self.input_radius, fixed=fixed, arrays=arrays)

    def searched(self, radius: float | None, steps: int, best: int) -> tuple[Tensor, Tensor]:
        """The best networks of a search in balls of that radius (None: in the whole domain)."""
        domain = min(self.input_radius, math.inf if radius is None else radius)
        scale = 1.0 if radius is None else radius
        scales = tuple(scale * share for share in (1e-2, 1e-1, 1.0, *((1e1, 1e2) if radius is None else ())))
        found = search_layer(
            self.f,
            self.quantity,
            parameter_radius=radius,
            input_radius=None if math.isinf(domain) else domain,
            steps=steps,
            seed=self.seed,
            fixed_input=self.fixed_input,
            input_scales=scales,
            parameter_scales=scales,
        )
        order = found.value.nan_to_num(nan=math.inf if found.lowest else -math.inf).argsort(
            descending=not found.lowest
        )[:best]
        return found.arguments[0][order], found.arguments[1][order]

    def exhibit(self, kind: Kind, ray: Ray, values: Tensor, note: str = "", exponent: float | None = None) -> Exhibit:
        return Exhibit(
            describe(self.network),
            self.quantity,
            kind,
            " x ".join(map(str, self.f.input_shape)),
            ray.label,
            ray.scales,
            tuple(map(float, values)),
            exponent,
            ray.theta.detach(),
            ray.X.detach(),
            ray.other,
            self._direction(ray) if self.quantity in LOWER else None,
            note,
        )

    def _direction(self, ray: Ray) -> Tensor | None:
        """The left singular vector of the least singular value at the ray's last point."""
        f, theta, x = self.f, ray.theta[-1:], ray.X[-1:]
        jacobian = _dense(f, self.quantity, theta, x)
        if jacobian is None or not bool(jacobian.isfinite().all()):
            return None
        return torch.linalg.svd(jacobian[0], full_matrices=True).U[:, -1].reshape(f.output_shape)


def _dense(f: Realisation, quantity: str, theta: Tensor, X: Tensor) -> Tensor | None:
    if quantity == "input_jacobian_sigma_min":
        return input_jacobian(f, theta, X)
    return param_jacobian(f, theta, X) if f.size else None


def slopes(values: Tensor, scales: Sequence[float]) -> list[float]:
    """Slopes of `log value` against `log r` between neighbours at finite scales; not a number where a value is not positive."""
    finite = [(r, float(v)) for r, v in zip(scales, values, strict=True) if math.isfinite(r)]
    return [
        math.log(b / a) / math.log(s / r) if 0 < a < math.inf and 0 < b < math.inf else math.nan
        for (r, a), (s, b) in pairwise(finite)
    ]


def _growth(values: Tensor, scales: Sequence[float]) -> float | None:
    """The last slope of a family that grows over its last three steps, by `SLOPE` at least in the last two."""
    found = slopes(values, scales)[-3:]
    grows = len(found) == 3 and found[0] > 0 and all(slope >= SLOPE for slope in found[1:])
    return found[-1] if grows and found[2] >= found[1] - STEADY else None


def _unbounded(task: _Task) -> Exhibit:
    spectral = any(getattr(part, "weight_norm", None) == "spectral" for part in walk(task.network))
    if spectral and task.quantity == "param_param":
        exhibit = _steepest(task, closing_gaps(task.f, *task.starts()))
        if exhibit:
            return exhibit
    starts = [task.starts()]
    exhibit = _steepest(task, task.rays(*starts[0], lowest=False))
    if exhibit:
        return exhibit
    if task.quantity in SECOND:
        jump = kinks(task.f, task.quantity, task.source, task.input_radius, task.fixed_input)
        exponent = _growth(jump[1], jump[0].scales) if jump else None
        if jump and exponent is not None:
            return task.exhibit("unbounded", *jump, "the first derivative jumps", exponent)
    balls = _balls(task)
    ray, values = balls
    exponent = _growth(values, ray.scales)
    if exponent is not None:
        return task.exhibit("unbounded", ray, values, "by search", exponent)
    # a search within the unit ball may have found a direction that random starts miss
    return _steepest(task, task.rays(ray.theta[:2], ray.X[:2], lowest=False)) or task.exhibit("none", *balls)


def _steepest(task: _Task, found: Sequence[Ray]) -> Exhibit | None:
    """Of the rays along which the quantity grows, those of the plainest family, and the one with the largest values among them."""
    values = along(task.f, task.quantity, found)
    growing = [(ray, v) for ray, v in zip(found, values, strict=True) if _growth(v, ray.scales) is not None]
    if not growing:
        return None
    plainest = [g for g in growing if g[0].label == growing[0][0].label]
    # the limit of a shrinking family may not exist
    kept = [g[1].isfinite().nonzero().flatten().tolist() for g in plainest]
    ray, best = max(
        ((_part_of(ray, k), values[k]) for (ray, values), k in zip(plainest, kept, strict=True)),
        key=lambda g: float(g[1].max()),
    )
    return task.exhibit("unbounded", ray, best, exponent=_growth(best, ray.scales))


def _balls(task: _Task) -> tuple[Ray, Tensor]:
    """The largest value found with every parameter array and the input in a ball of radius `r`; balls are nested, so it never falls."""
    points: list[tuple[Tensor, Tensor]] = []
    values: list[float] = []
    for radius in UPWARDS:
        theta, X = task.searched(radius, 120, 4)
        here = value_at(task.f, task.quantity, theta, X).nan_to_num(nan=-1.0)
        index = int(here.argmax())
        if values and values[-1] >= float(here[index]):
            points.append(points[-1])
            values.append(values[-1])
        else:
            points.append((theta[index], X[index]))
            values.append(float(here[index]))
    ray = Ray(
        "arrays and an input of norm at most r" if math.isinf(task.input_radius) else "arrays of norm at most r",
        UPWARDS,
        torch.stack([p[0] for p in points]),
        torch.stack([p[1] for p in points]),
    )
    return ray, torch.tensor(values, dtype=DTYPE)


def _zero(task: _Task) -> Exhibit:
    by_input = task.quantity == "input_jacobian_sigma_min"
    power = 1 if by_input else 2

    theta, X = task.starts()
    here = singular_values(task.f, theta, X, by_input=by_input)
    reference = float(here[:STARTS, 0].nanmedian())
    if bool((here[:, -1] <= ROUNDING * reference).all()):
        drawn = Ray(f"each of {STARTS} points drawn", (), theta[:STARTS], X[:STARTS])
        return task.exhibit("zero", drawn, here[:STARTS, -1] ** power)
    smallest: tuple[Ray, Tensor] | None = None
    for stage in range(3):
        if stage == 0:
            points = [Ray("a single network", (), theta[i : i + 1], X[i : i + 1]) for i in range(len(X))]
            found, note = [*task.rays(theta, X, lowest=True), *points], ""
        elif stage == 1:
            if not by_input:
                continue
            cloud = scattered(task.f, task.source, task.input_radius, task.fixed_input)
            found, note = crossings(task.f, *cloud), "by bisection"
        else:
            ends = task.searched(None, 300, 4)
            found = [Ray("a single network", (), ends[0][:1], ends[1][:1]), *task.rays(*ends, lowest=True)]
            if by_input:
                fixed = task.fixed_input is not None
                cloud = around(*ends, task.source, task.input_radius, fixed=fixed)
                found += crossings(task.f, *cloud)
            note = "by descent"
        if not found:
            continue
        batch = torch.cat([ray.theta for ray in found]), torch.cat([ray.X for ray in found])
        sizes = [len(ray.X) for ray in found]
        spectra = singular_values(task.f, *batch, by_input=by_input).split(sizes)
        kept = [_falling(ray, s[:, -1], s[:, 0], reference) for ray, s in zip(found, spectra, strict=True)]
        good = [(_part_of(ray, k), s[k, -1] ** power) for ray, s, k in zip(found, spectra, kept, strict=True) if k]
        if good:
            plainest = [g for g in good if g[0].label == good[0][0].label]
            ray, values = min(plainest, key=lambda g: float(g[1][-1]))
            if float(values[0]) <= (ROUNDING * reference) ** power:  # the scale has nothing to do with it
                ray, values = Ray("a single network", (), ray.theta[:1], ray.X[:1]), values[:1]
            return task.exhibit("zero", ray, values, note)
        for ray, spectrum in zip(found, spectra, strict=True):
            candidate = (spectrum[:, -1] ** power).nan_to_num(nan=math.inf)
            if smallest is None or float(candidate.min()) < float(smallest[1].min()):
                index = int(candidate.argmin())
                at = Ray("the smallest found", (), ray.theta[index:][:1], ray.X[index:][:1])
                smallest = at, candidate[index : index + 1]
    assert smallest is not None
    return task.exhibit("none", *smallest)


def _falling(ray: Ray, values: Tensor, steepness: Tensor, reference: float) -> list[int]:
    """The points of a ray along which least singular values end at zero: at rounding level, or small and still falling; else none.

    Where the Jacobian's norm is so large that rounding hides a small singular value nothing is decided, and the point is left out.
    """
    known = values.isfinite() & (1e-14 * steepness <= ROUNDING * reference)
    kept = known.nonzero().flatten().tolist()
    last = float(values[kept[-1]]) if kept else math.inf
    if last > ZERO * reference:
        return []
    steps = slopes(values[kept], [ray.scales[i] for i in kept])[-2:] if ray.scales else []
    still = len(steps) == 2 and max(steps) <= -SLOPE
    return kept if last <= ROUNDING * reference or still else []


def _part_of(ray: Ray, kept: list[int]) -> Ray:
    return Ray(ray.label, tuple(ray.scales[i] for i in kept if ray.scales), ray.theta[kept], ray.X[kept])


def exhibit(
    network_member: Network,
    quantity: str,
    input_shape: Shape,
    *,
    seed: int = 0,
    values: Mapping[Any, Any] | None = None,
    input_radius: float = math.inf,
    fixed_input: Tensor | None = None,
) -> Exhibit:
    """Look for networks on which one constant of a layer is zero (the last two of `QUANTITIES`) or grows without limit (the others).

    Upper quantities: families that scale parameters, single arrays and the input up and down from random and special points, pairs of
    singular values that meet (spectral normalisation), points on either side of a kink (second derivatives), and searches in growing balls.
    Lower quantities: the same families, bisection towards a singular Jacobian, and gradient descent with all families from where it ends.

    Args:
        network_member: a layer or block; dense Jacobians of its size are formed.
        input_shape: the shape `d x N` of its input, as numbers or with symbols that `values` gives.
        values: numbers for its symbols (`eps`, `c`, ...).
        input_radius: the input is free within this Frobenius norm.
        fixed_input: a fixed `X (d, N)` instead.

    Raises:
        ValueError: an unknown quantity, a radius that is not positive, a fixed input of the wrong shape, a symbol without value.
    """
    if quantity not in OBJECTIVES:
        raise ValueError(f"unknown quantity {quantity!r}: use one of {', '.join(OBJECTIVES)}")
    if not input_radius > 0:
        raise ValueError(f"input_radius = {input_radius}: a ball needs a positive radius")
    f = realise(network_member, input_shape, values)
    if fixed_input is not None and tuple(fixed_input.shape) != f.input_shape:
        raise ValueError(f"fixed_input has shape {tuple(fixed_input.shape)}: the layer takes {f.input_shape}")
    positions = math.prod(int(length) for length in input_shape.grid if length.is_Integer)
    task = _Task(network_member, f, quantity, float(input_radius), fixed_input, positions, seed, generator(seed))
    return _zero(task) if quantity in LOWER else _unbounded(task)


# The hypotheses of the theorem


def exhibits(
    landscape: Landscape,
    checked: Sequence[CheckedHypothesis],
    values: Mapping[Any, Any] | None = None,
    *,
    data: Tensor | None = None,
    samples: int = 3,
    seed: int = 0,
) -> list[Exhibit | str]:
    """An exhibit for every hypothesis that fails and speaks of a layer; a sentence with the reason for every other one that fails.

    A layer is exhibited by itself: the first one with parameters on the data, a later one on inputs that are free within the norm that
    the layers before are known to keep. Whether those layers produce just that input is not asked.

    Args:
        landscape, values: as given to `theory.convergence.certify`.
        checked: for instance `certificate.failing`; entries that hold are passed over.
        data: `X_0 (d, N)`; without it a matrix with the norms `x_0`, `x_F` and least singular value `sigma` of `values`, as far as given.
        samples: at most so many samples are used.

    Raises:
        ValueError: a symbol without value, or data of another number of features.
    """
    given = {str(key): value for key, value in (values or {}).items()}
    known = data_features(landscape.features, landscape.samples)
    known_samples = landscape.samples.subs(
        {s: given[str(s)] for s in landscape.samples.free_symbols if str(s) in given}
    )
    count = min(samples, int(known_samples)) if known_samples.is_Integer else samples
    features = int(landscape.features.subs({s: given[str(s)] for s in landscape.features.free_symbols}))
    if data is not None and data.shape[0] != features:
        raise ValueError(f"data have {data.shape[0]} features, the network takes {features}: give data of shape (d, N)")
    used = example_data(features, count, given, generator(seed)) if data is None else data[:, :count].to(DTYPE)
    given["N"] = used.shape[1]
    done: dict[tuple[Any, ...], Exhibit] = {}
    out: list[Exhibit | str] = []
    for item in checked:
        hypothesis = item.hypothesis
        if item.holds:
            continue
        if hypothesis.member is None or hypothesis.shape is None:
            out.append(_reason(item, landscape, used if data is None else data))
            continue
        before = Chain(hypothesis.before)
        fixed, radius = None, math.inf
        if hypothesis.name.startswith("first layer"):
            fixed = realise(before, Shape(*used.shape), given)(torch.zeros(0, dtype=DTYPE), used)
        else:
            norm = derive(before, known, landscape.domain).output.frobenius
            radius = _radius(norm, values or {})
        key = (hypothesis.member, hypothesis.quantity, hypothesis.shape, radius, fixed is None)
        if key not in done:
            shape = replace(hypothesis.shape, samples=Shape(1, used.shape[1]).samples)
            done[key] = exhibit(
                hypothesis.member,
                hypothesis.quantity,
                shape,
                seed=seed,
                values=given,
                input_radius=radius,
                fixed_input=fixed,
            )
        out.append(done[key])
    return out


def _radius(norm: Any, values: Mapping[Any, Any]) -> float:
    """The value of a norm of features, rounded up; infinite where it is not bounded."""
    radius = upper_float(enclose(norm, values))
    return radius if 0 < radius < math.inf else math.inf


def example_data(features: int, samples: int, values: Mapping[str, Any], source: Generator) -> Tensor:
    """A random `X_0 (features, samples)` of operator norm `x_0` and least singular value `sigma`, as near to Frobenius norm `x_F` as these allow."""
    number = {name: float(value) for name, value in values.items() if name in ("x_0", "x_F", "sigma")}
    rank = min(features, samples)
    least, largest = number.get("sigma", 1.0), number.get("x_0", max(1.0, number.get("sigma", 1.0)))
    sizes = torch.full((rank,), least, dtype=DTYPE)
    if rank > 1:
        sizes[0] = largest
    if rank > 2:
        left = number.get("x_F", math.inf) ** 2 - largest**2 - least**2
        sizes[1:-1] = min(max(math.sqrt(max(left, 0.0) / (rank - 2)), least), largest)
    gaussian = torch.randn(features, samples, generator=source, dtype=DTYPE, device=source.device)
    left_vectors, _, right_vectors = torch.linalg.svd(gaussian, full_matrices=False)
    return left_vectors * sizes @ right_vectors


def _reason(item: CheckedHypothesis, landscape: Landscape, data: Tensor) -> str:
    """Why a hypothesis of the data, the labels or the domain fails."""
    name, bound = item.hypothesis.name, item.hypothesis.bound
    fails = f"{name}: {item.hypothesis.statement} does not hold"
    if name == "labels":
        return f"{fails}: the cost is {type(landscape.cost).__name__}, K - 1 is {bound.expression}"
    if not name.startswith("X_0"):
        return f"{fails}: {item.reason or bound.source}"
    features, samples = data.shape
    vector = torch.linalg.svd(data, full_matrices=True).Vh[-1]
    why = f"{samples} samples of {features} features are dependent; " if samples > features else ""
    residual, largest = float((data @ vector).norm()), float(torch.linalg.matrix_norm(data, 2))
    return f"{fails}: {why}a unit v has |X v| = {residual:.3g}, where |X| = {largest:.3g}"
