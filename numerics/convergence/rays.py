"""One-parameter families of networks along which a quantity is followed to infinity or to zero, and its exact value at every point.

A family scales parameter arrays and the input to the norms `r` or `1/r`, brings two singular values of a weight together, closes in on a
kink, or bisects a segment on which a determinant changes sign. All families of all starts are one batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from numerics.device import DTYPE
from numerics.ensembles import clip, mixture, random_inputs
from numerics.measure import input_jacobian, param_jacobian, second_derivative_norm
from numerics.realise import Realisation

UPWARDS = (1.0, 10.0, 100.0, 1000.0, 1e6, 1e10)
"""Scales `r` at which growth is measured; the last two lie far out, so that growth that ends after 1000 is seen to end."""
DOWNWARDS = (1.0, 10.0, 100.0, 1000.0, 1e6, 1e10)
"""Scales `r` at which decay is measured."""
KINK = (1e1, 1e2, 1e3, 1e4, 1e5, 1e9)
"""One over the distance at which a jump of a derivative is measured."""
BISECTIONS = 60
BUDGET = 2**28
"""Bytes of the largest batch of Jacobians."""


@dataclass(frozen=True, eq=False)
class Ray:
    """A one-parameter family: networks `theta (T, P)` and inputs `X (T, d, N)` at the scales `r`.

    Attributes:
        label: what is scaled, in words with the letter `r`.
        other: for a jump, the points on its other side.
    """

    label: str
    scales: tuple[float, ...]
    theta: Tensor
    X: Tensor
    other: tuple[Tensor, Tensor] | None = None


# Exact values


def singular_values(f: Realisation, theta: Tensor, X: Tensor, *, by_input: bool) -> Tensor:
    """Of the input (parameter) Jacobian, descending, `(B, K N)`: zeros are filled in where it has fewer columns than rows.

    Rows whose Jacobian is not finite are not-a-number.
    """
    rows = math.prod(f.output_shape)
    if not by_input and f.size == 0:
        return theta.new_zeros(len(theta), rows)
    columns = math.prod(f.input_shape) if by_input else f.size
    chunk = max(1, BUDGET // (8 * rows * columns))
    found = []
    for t, x in zip(theta.split(chunk), X.split(chunk), strict=True):
        jacobian = input_jacobian(f, t, x) if by_input else param_jacobian(f, t, x)
        lost = ~jacobian.isfinite().flatten(1).all(1)
        values = torch.linalg.svdvals(jacobian.masked_fill(lost[:, None, None], 0.0))
        values = torch.nn.functional.pad(values, (0, rows - values.shape[1]))
        found.append(values.masked_fill(lost.unsqueeze(1), math.nan))
    return torch.cat(found)


def value_at(f: Realisation, quantity: str, theta: Tensor, X: Tensor) -> Tensor:
    """The quantity of every row, `(B,)`: first order from the dense Jacobian, second order by ascent over its unit directions.

    The ascent's value is attained, so it is never above the norm of the second derivative.
    """
    if quantity in ("input_input", "input_param", "param_param"):
        if f.size == 0 and quantity != "input_input":
            return theta.new_zeros(len(theta))
        pieces = [
            second_derivative_norm(f, t, x, quantity, tolerance=1e-3, iterations=30, starts=2).value  # type: ignore[arg-type]
            for t, x in zip(theta.split(512), X.split(512), strict=True)
        ]
        return torch.cat(pieces)
    values = singular_values(f, theta, X, by_input=quantity.startswith("input"))
    if quantity.endswith("norm"):
        return values[:, 0]
    return values[:, -1] if quantity == "input_jacobian_sigma_min" else values[:, -1].square()


# Points to start from


def unit_points(
    f: Realisation, count: int, source: Generator, input_radius: float, fixed_input: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Random networks with arrays of norm about one, on Gaussian inputs of norm one (or the fixed one)."""
    theta = mixture(f, count, source, scales=(1.0,))[0]
    if fixed_input is not None:
        return theta, fixed_input.expand(count, *f.input_shape)
    return theta, clip(random_inputs(f.input_shape, count, "gaussian", 1.0, source), input_radius, 2)


def special_points(
    f: Realisation, source: Generator, input_radius: float, fixed_input: Tensor | None, positions: int = 1
) -> tuple[Tensor, Tensor]:
    """Points where much cancels.

    Inputs: none at all; constant over the samples, over the features; zero at the first position of the grid (ties of attention), in the
    first third of the features (its queries). Weights, without input as well: of rank one, `+- v_m v_n^T` with one unit vector for each
    size, which add up where they are multiplied and point against an identity: all negative, and the last one negative. Vectors among
    the parameters are ones there, biases zero.
    """
    theta, X = unit_points(f, 5, source, input_radius, fixed_input)
    theta = torch.cat([theta, *(_aligned(f, source, first) for first in (-1.0, 1.0))])
    if fixed_input is not None:
        return theta, fixed_input.expand(len(theta), *f.input_shape)
    nothing, by_sample, by_feature, at_position, in_features = X.clone()
    nothing[:] = 0
    if positions > 1:
        at_position[::positions] = 0
    in_features[: len(in_features) // 3] = 0
    constant = (
        by_sample.mean(-1, keepdim=True).expand_as(nothing),
        by_feature.mean(-2, keepdim=True).expand_as(nothing),
    )
    return theta, torch.stack([nothing, *constant, at_position, in_features, nothing, nothing])


def _aligned(f: Realisation, source: Generator, first: float) -> Tensor:
    """`(1, P)`: matrices `first v_m v_n^T`, the last one with a minus sign; ones for gains, zero for biases."""
    if not f.parameters:
        return torch.zeros(1, 0, dtype=DTYPE, device=source.device)
    sizes = {size for spec in f.parameters for size in spec.shape}
    vectors = {n: torch.randn(n, generator=source, dtype=DTYPE, device=source.device) for n in sorted(sizes)}
    vectors = {n: v / v.norm() for n, v in vectors.items()}
    matrices = [index for index, spec in enumerate(f.parameters) if len(spec.shape) == 2]
    arrays = []
    for index, spec in enumerate(f.parameters):
        if index in matrices:
            sign = -1.0 if index == matrices[-1] else first
            arrays.append(sign * torch.outer(*(vectors[size] for size in spec.shape)))
        else:
            gain = spec.path.endswith("gain")
            arrays.append(torch.full(spec.shape, 1.0 if gain else 0.0, dtype=DTYPE, device=source.device))
    return f.pack([array.unsqueeze(0) for array in arrays])


# Rays


def _of_norm(array: Tensor, norms: Tensor, dims: int) -> Tensor:
    """`array (S, 1, ...)` at every norm `(T,)`: `(S, T, ...)`; zero stays zero."""
    size = torch.linalg.vector_norm(array, dim=tuple(range(-dims, 0)), keepdim=True)
    direction = array / size.where(size > 0, torch.ones_like(size))
    return direction * norms.reshape(-1, *[1] * dims)


def rays(
    f: Realisation,
    theta: Tensor,
    X: Tensor,
    powers: Sequence[tuple[int, int]],
    scales: tuple[float, ...],
    input_radius: float,
    *,
    fixed: bool,
    arrays: tuple[int, ...] = (),
) -> list[Ray]:
    """From every start, for each `(p, q)`, the parameters at norm `r^p` and the input at norm `r^q`; 0 leaves it as it is.

    `arrays` also scales every parameter array by itself to `r^p`. Scaled inputs stay within the radius; rays that scale what is fixed or
    missing are left out. Where something shrinks, its limit `r = oo`, exactly zero, comes last.
    """
    out: list[Ray] = []
    there = X.flatten(1).norm(dim=1) > 0
    every = (theta, X)
    for p, q in powers:
        theta, X = (a[there] for a in every) if q else every  # an input of zero has no norm to change
        starts, count = X.unsqueeze(1), len(X)
        if (p and f.size == 0) or (q and fixed) or (q > 0 and math.isfinite(input_radius)):
            continue
        limit = (math.inf,) if p < 0 or q < 0 else ()
        here = scales + limit * (p <= 0 and q <= 0)
        r = torch.tensor(here, dtype=DTYPE)
        thetas = theta.unsqueeze(1).expand(-1, len(r), -1) if p == 0 else _of_norm(theta.unsqueeze(1), r**p, 1)
        inputs = starts.expand(-1, len(r), -1, -1) if q == 0 else clip(_of_norm(starts, r**q, 2), input_radius, 2)
        words = [("parameters", p), ("an input", q)]
        label = " and ".join(f"{name} of norm {'r' if power > 0 else '1/r'}" for name, power in words if power)
        if p == q:
            label = f"parameters and an input of norm {'r' if p > 0 else '1/r'}"
        out += [Ray(label, here, thetas[i], inputs[i]) for i in range(count)]
    theta, X = every
    for p in arrays if len(f.parameters) > 1 else ():
        here = scales + ((math.inf,) if p < 0 else ())
        r = torch.tensor(here, dtype=DTYPE)
        for index, spec in enumerate(f.parameters):
            pieces = [a.unsqueeze(1).expand(-1, len(r), *a.shape[1:]) for a in f.split(theta)]
            pieces[index] = _of_norm(pieces[index][:, :1], r**p, len(spec.shape))
            packed = f.pack(pieces)
            label = f"parameter array {spec.path} of norm {'r' if p > 0 else '1/r'}"
            out += [Ray(label, here, packed[i], X[i].expand(len(r), *X[i].shape)) for i in range(len(X))]
    return out


def closing_gaps(f: Realisation, theta: Tensor, X: Tensor) -> list[Ray]:
    """Every matrix among the parameters at singular values `1, 1 - 1/r, ...`, the others as they are in relation to the first."""
    r = torch.tensor(UPWARDS, dtype=DTYPE)
    pieces = []
    for array in f.split(theta):
        if array.ndim < 3 or min(array.shape[-2:]) < 2:
            pieces.append(array.unsqueeze(1).expand(-1, len(r), *array.shape[1:]))
            continue
        left, values, right = torch.linalg.svd(array, full_matrices=False)
        values = (values / values[:, :1] / 2).unsqueeze(1).repeat(1, len(r), 1)
        values[..., 0], values[..., 1] = 1.0, 1 - 1 / r
        pieces.append(left.unsqueeze(1) * values.unsqueeze(-2) @ right.unsqueeze(1))
    packed = f.pack(pieces)
    label = "weights whose largest singular values are 1 and 1 - 1/r"
    return [Ray(label, UPWARDS, packed[i], X[i].expand(len(r), *X[i].shape)) for i in range(len(X))]


def along(f: Realisation, quantity: str, found: Sequence[Ray]) -> list[Tensor]:
    """The quantity at every point of every ray."""
    if not found:
        return []
    theta, X = torch.cat([ray.theta for ray in found]), torch.cat([ray.X for ray in found])
    return list(value_at(f, quantity, theta, X).split([len(ray.scales) for ray in found]))


# Kinks


def _jacobian(f: Realisation, quantity: str, theta: Tensor, X: Tensor) -> Tensor:
    return input_jacobian(f, theta, X) if quantity == "input_input" else param_jacobian(f, theta, X)


def kinks(
    f: Realisation, quantity: str, source: Generator, input_radius: float, fixed_input: Tensor | None, count: int = 32
) -> tuple[Ray, Tensor] | None:
    """Two points at distance `1/r` on either side of a jump of the first derivative, and `r |J - J'|` there.

    `J` is the input Jacobian and moves with the input for `input_input`; the parameter Jacobian, with the input for `input_param` and
    with the parameters for `param_param`. Segments between random points are bisected towards the larger change of `J`.
    None where there is nothing to move.
    """
    by_input = quantity != "param_param"
    if (by_input and fixed_input is not None) or (quantity != "input_input" and f.size == 0):
        return None
    theta, X = unit_points(f, count, source, input_radius, fixed_input)
    other_theta, other_X = unit_points(f, count, source, input_radius, fixed_input)
    low, high = (X, other_X) if by_input else (theta, other_theta)

    def jacobian(point: Tensor) -> Tensor:
        return _jacobian(f, quantity, theta, point) if by_input else _jacobian(f, quantity, point, X)

    def row(mask: Tensor) -> Tensor:
        return mask.reshape(-1, *[1] * (low.ndim - 1))

    at_low, at_high = jacobian(low), jacobian(high)
    direction = high - low
    for _ in range(BISECTIONS - 15):
        middle = (low + high) / 2
        at_middle = jacobian(middle)
        first = (at_middle - at_low).flatten(1).norm(dim=1) >= (at_high - at_middle).flatten(1).norm(dim=1)
        low, high = torch.where(row(first), low, middle), torch.where(row(first), middle, high)
        chosen = first.reshape(-1, 1, 1)
        at_low, at_high = torch.where(chosen, at_low, at_middle), torch.where(chosen, at_middle, at_high)
    best = int((at_high - at_low).flatten(1).norm(dim=1).nan_to_num().argmax())
    centre = ((low + high) / 2)[best]
    step = (direction / direction.flatten(1).norm(dim=1).reshape(row(first).shape))[best]
    r = torch.tensor(KINK, dtype=DTYPE).reshape(-1, *[1] * centre.ndim)
    before, after = centre - step / (2 * r), centre + step / (2 * r)
    theta, X = (a[best].expand(len(KINK), *a.shape[1:]) for a in (theta, X))
    ends = [(theta, end) if by_input else (end, X) for end in (before, after)]
    change = _jacobian(f, quantity, *ends[1]) - _jacobian(f, quantity, *ends[0])
    values = torch.linalg.matrix_norm(change, 2) * torch.tensor(KINK, dtype=DTYPE)
    (theta, X), other = ends
    return Ray("points at distance 1/r across a kink", KINK, theta, X, other), values


# Changes of sign


def scattered(
    f: Realisation, source: Generator, input_radius: float, fixed_input: Tensor | None, count: int = 64
) -> tuple[Tensor, Tensor]:
    """Random networks of norms 1 to 1000 on random inputs."""
    theta, X = unit_points(f, count, source, input_radius, fixed_input)
    return theta * torch.tensor((1.0, 10.0, 100.0, 1000.0), dtype=DTYPE).repeat(count // 4).unsqueeze(1), X


def around(
    theta: Tensor, X: Tensor, source: Generator, input_radius: float, *, fixed: bool, count: int = 64
) -> tuple[Tensor, Tensor]:
    """Points near the given ones, at relative distances 1e-4 to 1e-1."""
    copies = count // len(X)
    size = torch.logspace(-4, -1, copies, dtype=DTYPE).repeat_interleave(len(X))

    def moved(array: Tensor) -> Tensor:
        many = array.repeat(copies, *[1] * (array.ndim - 1))
        noise = torch.randn(many.shape, generator=source, dtype=DTYPE)
        scale = many.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1).clamp_min(1e-300) * size
        return many + noise * scale.reshape(-1, *[1] * (array.ndim - 1))

    return moved(theta), X.repeat(copies, 1, 1) if fixed else clip(moved(X), input_radius, 2)


def crossings(f: Realisation, theta: Tensor, X: Tensor) -> list[Ray]:
    """Bisections of segments between the given points at whose ends the determinant of a square input Jacobian has opposite signs.

    The determinant is continuous where the Jacobian is, so it vanishes in between. The scale `r` is one over the share of the segment left.
    """
    if f.input_shape != f.output_shape:
        return []

    def sign(theta: Tensor, X: Tensor) -> Tensor:
        return torch.linalg.slogdet(input_jacobian(f, theta, X).nan_to_num()).sign

    signs = sign(theta, X)
    positive, negative = (signs > 0).nonzero().flatten(), (signs < 0).nonzero().flatten()
    pairs = min(8, len(positive), len(negative))
    if pairs == 0:
        return []
    low, high = ((theta[i[:pairs]], X[i[:pairs]]) for i in (positive, negative))
    kept: list[tuple[Tensor, Tensor]] = []
    for step in range(BISECTIONS + 1):
        middle = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2)
        if step % 10 == 0:
            kept.append(middle)
        up = sign(*middle) > 0
        wide = (up.unsqueeze(1), up[:, None, None])
        low, high = (
            (torch.where(wide[0], middle[0], low[0]), torch.where(wide[1], middle[1], low[1])),
            (torch.where(wide[0], high[0], middle[0]), torch.where(wide[1], high[1], middle[1])),
        )
    scales = tuple(float(2**step) for step in range(0, BISECTIONS + 1, 10))
    thetas, inputs = (torch.stack([point[i] for point in kept], 1) for i in (0, 1))
    label = "the middle of 1/r of a segment on which the determinant of the Jacobian changes sign"
    return [Ray(label, scales, thetas[i], inputs[i]) for i in range(pairs)]
