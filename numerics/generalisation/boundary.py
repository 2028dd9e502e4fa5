"""The distance of samples to the decision boundary: enclosed by composed bounds of the network, and searched from above.

`certified` evaluates the closed forms of `theory.margins` for a batch of networks; `search` finds points across the boundary, so that
`certified <= true distance <= searched`, and the first-order distance can be judged against both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy
import torch
from torch import Tensor

from numerics.certification.local import ALLOWANCE
from numerics.device import generator
from numerics.realise import Realisation, realise
from theory.layers.affine import Affine
from theory.margins import (
    InputDerivatives,
    K,
    beta,
    g,
    input_derivatives,
    lower_by_curvature,
    lower_by_lipschitz,
    m,
    norm_symbol,
    upper_by_curvature,
)
from theory.network import Chain, chain, named, walk
from theory.records import Shape

BISECTIONS = 30
"""Halvings of the piece of a ray that crosses the boundary: what is left is 2^-30 of it, about 1e-9."""
VANISHING = 1e-20
"""Squared norm of a gradient below which a column of the search does not move."""
GRID = 16
"""Points of a ray that are tried for a first crossing, up to twice the length of the step."""


@dataclass(frozen=True, eq=False)
class Enclosed:
    """What is certified of the distances of a batch of networks, every tensor `(*batch, N)`; 0 for misclassified samples.

    Attributes:
        lipschitz: lower bounds by `m / K`.
        curvature: lower bounds by the second-order form; 0 where the curvature is not bounded.
        upper: upper bounds by the second-order form; infinite where it says nothing.
        first_order: the least first-order distance over the other classes.
    """

    lipschitz: Tensor
    curvature: Tensor
    upper: Tensor
    first_order: Tensor

    @property
    def lower(self) -> Tensor:
        """The better lower bound of each sample."""
        return torch.maximum(self.lipschitz, self.curvature)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """For every sample and other class: the gap `m` and the norm of its gradient in the input, `(*batch, K, N)`; infinite gaps at the own class."""

    gap: Tensor
    gradient: Tensor


def _pairs(realisation: Realisation, theta: Tensor, X: Tensor, labels: Tensor) -> _Pairs:
    classes, _ = realisation.output_shape
    point = X.expand(*theta.shape[:-1], *X.shape[-2:]).detach().requires_grad_(True)
    outputs = realisation(theta, point)
    labels = labels.expand(*outputs.shape[:-2], outputs.shape[-1])
    gaps = outputs.gather(-2, labels.unsqueeze(-2)) - outputs
    rows = [torch.autograd.grad(gaps[..., j, :].sum(), point, retain_graph=True)[0] for j in range(classes)]
    norms = torch.stack([torch.linalg.vector_norm(row, dim=-2) for row in rows], -2)
    return _Pairs(gaps.detach().scatter(-2, labels.unsqueeze(-2), torch.inf), norms)


def _evaluated(expression: sympy.Expr, values: dict[sympy.Symbol, Tensor], like: Tensor) -> Tensor:
    names = sorted(values, key=str)
    modules = [{"sqrt": torch.sqrt, "Max": torch.maximum, "Min": torch.minimum}, "math"]
    value = sympy.lambdify(names, expression.evalf(20), modules=modules)(*(values[name] for name in names))
    return torch.as_tensor(value, dtype=like.dtype).expand(like.shape)


def derivatives(network: Chain, shape: Shape, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds over all inputs of the gradient and of the Hessian of `f_i - f_j`, each `(*batch, K, K)`.

    The norms of the weights enter the composed bounds; where the last layer is a plain affine one, `f_i - f_j` has the difference of two of its rows in the place of its matrix,
    elsewhere `|f_i - f_j| <= sqrt(2) |f|`.

    Raises:
        ValueError: a symbol of the description that has no number.
    """
    network = named(network)  # type: ignore[assignment]
    bounds: InputDerivatives = input_derivatives(network, shape.features, shape.grid)
    if bounds.others:
        raise ValueError(f"the bound depends on {', '.join(map(str, bounds.others))}: give the description numbers")
    realisation = realise(network, shape)
    arrays = dict(zip((spec.name for spec in realisation.parameters), realisation.split(theta.detach()), strict=True))
    classes = realisation.output_shape[0]
    values = {}
    lengths = {spec.name: len(spec.shape) for spec in realisation.parameters}
    for name in bounds.names:
        array = arrays[name]
        # a gain is a vector: its Euclidean norm is at least its largest entry
        is_vector = lengths[name] == 1
        norm = torch.linalg.vector_norm(array, dim=-1) if is_vector else torch.linalg.matrix_norm(array, 2)
        norm = norm * (1 + ALLOWANCE)
        values[norm_symbol(name)] = norm.reshape(*norm.shape, 1, 1)
    factor = 2**0.5
    last = network.members[-1]
    # one symbol stands for every layer of a path: rows can take the place of a matrix that is used once
    uses = sum(getattr(part, "path", "") == getattr(last, "path", "") for part in walk(network))
    if isinstance(last, Affine) and last.weight_norm is None and uses == 1:
        rows = arrays[f"{last.path}.weight"]
        gaps = torch.linalg.vector_norm(rows.unsqueeze(-2) - rows.unsqueeze(-3), dim=-1) * (1 + ALLOWANCE)
        values[norm_symbol(f"{last.path}.weight")], factor = gaps, 1.0
    like = theta.new_zeros(*theta.shape[:-1], classes, classes)
    found = []
    for bound in (bounds.lipschitz, bounds.curvature):
        infinite = bound.expression is sympy.S.Infinity
        value = torch.full_like(like, torch.inf) if infinite else _evaluated(bound.expression, values, like)
        found.append(value * factor * (1 + ALLOWANCE))
    return found[0], found[1]


def certified(network: Chain, shape: Shape, theta: Tensor, X: Tensor, labels: Tensor) -> Enclosed:
    """Lower and upper bounds of the Euclidean distance of every sample to the nearest input that is not classified as labelled.

    Args:
        network: a chain without layers that couple samples.
        shape: of the input.
        theta: `(*batch, P)`.
        X: `(*batch, d, N)` or `(d, N)`.
        labels: `(*batch, N)` or `(N,)`.
    """
    network = chain(*network.members)
    here = _pairs(realise(network, shape), theta, X, labels)
    lipschitz, curvature = derivatives(network, shape, theta)
    classes, samples = here.gap.shape[-2:]
    picked = labels.expand(*here.gap.shape[:-2], samples).unsqueeze(-1).expand(*here.gap.shape[:-2], samples, classes)
    slope, bend = (
        t.expand(*here.gap.shape[:-2], classes, classes).gather(-2, picked).transpose(-1, -2)
        for t in (lipschitz, curvature)
    )
    right = (here.gap > 0).all(-2)
    values = {m: here.gap, g: here.gradient, K: slope, beta: bend}

    def least(expression: sympy.Expr, otherwise: float) -> Tensor:
        used = {s: values[s] for s in expression.free_symbols}
        # the own class has an infinite gap: it bounds nothing, as do undefined forms (no curvature, no gradient, a negative root)
        value = _evaluated(expression, used, here.gap)
        value = torch.where(here.gap.isinf(), torch.inf, value.nan_to_num(nan=otherwise))
        return torch.where(right, value.amin(-2), 0.0)

    return Enclosed(
        least(lower_by_lipschitz().expression, 0.0) * (1 - ALLOWANCE),
        least(lower_by_curvature().expression, 0.0) * (1 - ALLOWANCE),
        least(upper_by_curvature().expression, torch.inf) * (1 + ALLOWANCE),
        torch.where(right, (here.gap / here.gradient).nan_to_num(nan=torch.inf).amin(-2), 0.0),
    )


def search(
    network: Chain,
    shape: Shape,
    theta: Tensor,
    X: Tensor,
    labels: Tensor,
    *,
    rivals: int = 3,
    steps: int = 24,
    starts: int = 8,
    seed: int = 0,
) -> Tensor:
    """Distances `(*batch, N)` of the nearest points found that are not classified as labelled: upper bounds of the true distance.

    Towards each of the `rivals` classes with the least first-order distances, from the sample, from the nearest other sample taken for that class, and from random
    points at the first-order distance. First `d <- (g . d - m(x + d)) g / |g|^2` with `g` the gradient at `x + d`, whose fixed points are points of the boundary
    at which `d` is normal to it; then the same from the best crossing so far, by a part of the way that is halved where it does not come nearer. After every step the
    ray along `d` is tried for its first crossing, which bisection locates: what counts is the distance of a point at which the rival is at least as large.

    Returns 0 for misclassified samples, infinity where no crossing was found.

    Raises:
        ValueError: no rival, no step or no start.
    """
    if min(rivals, steps, starts) < 1:
        raise ValueError(f"{rivals} rivals, {steps} steps, {starts} starts: give at least one of each")
    realisation = realise(network, shape)
    here = _pairs(realisation, theta, X, labels)
    classes, samples = here.gap.shape[-2:]
    batch = here.gap.shape[:-2]
    distances = (here.gap / here.gradient).nan_to_num(nan=torch.inf)
    order = distances.argsort(-2)[..., : min(rivals, classes - 1), :].repeat_interleave(starts, -2)
    tries = order.shape[-2]
    # every rival and start of a sample is a column of its own
    wide = realise(network, Shape(shape.features, samples * tries, shape.grid))
    x = X.expand(*batch, *X.shape[-2:])
    start = x.repeat_interleave(tries, -1)
    own = labels.expand(*batch, samples).repeat_interleave(tries, -1).unsqueeze(-2)
    rival = order.transpose(-1, -2).reshape(*batch, 1, samples * tries)

    def gap(point: Tensor) -> Tensor:
        outputs = wide(theta, point)
        return (outputs.gather(-2, own) - outputs.gather(-2, rival)).squeeze(-2)

    def towards(move: Tensor) -> Tensor:
        """Where the linearisation at `x + move` has its zero nearest to `x`."""
        point = (start + move).detach().requires_grad_(True)
        value = gap(point)
        (slope,) = torch.autograd.grad(value.sum(), point)
        square = slope.square().sum(-2)
        lost = square < VANISHING
        part = ((slope * move).sum(-2) - value.detach()) / torch.where(lost, 1.0, square)
        # where the gap is flat there is no direction: such a column stays where it is
        return torch.where(lost.unsqueeze(-2), move, part.unsqueeze(-2) * slope)

    first = distances.gather(-2, order).transpose(-1, -2).reshape(*batch, 1, samples * tries)
    move = torch.randn(start.shape, generator=generator(seed), dtype=start.dtype)
    move = move / torch.linalg.vector_norm(move, dim=-2, keepdim=True) * torch.where(first.isfinite(), first, 1.0)
    number = torch.arange(samples * tries) % starts
    move = torch.where(number == 0, 0.0, torch.where(number == 1, _to_neighbour(realisation, theta, x, rival), move))
    crossing, best = _nearer(gap, start, move, move, torch.full_like(start[..., 0, :], torch.inf))
    for _ in range(steps // 2):
        move = towards(move)
        crossing, best = _nearer(gap, start, move, crossing, best)
    part = torch.ones_like(best)
    for _ in range(steps - steps // 2):
        moved = crossing + part.unsqueeze(-2) * (towards(crossing) - crossing)
        before = best
        crossing, best = _nearer(gap, start, moved, crossing, best)
        part = torch.where(best < before, part, part / 2)
    best = best.reshape(*batch, samples, tries).amin(-1)
    return torch.where((here.gap > 0).all(-2), best, 0.0)


def _to_neighbour(realisation: Realisation, theta: Tensor, x: Tensor, rival: Tensor) -> Tensor:
    """From each column's sample to the nearest sample that is taken for the column's rival; arbitrary where there is none."""
    samples, columns = x.shape[-1], rival.shape[-1]
    taken = realisation(theta, x).argmax(-2)
    apart = torch.cdist(x.transpose(-1, -2), x.transpose(-1, -2)).repeat_interleave(columns // samples, -2)
    nearest = torch.where(taken.unsqueeze(-2) == rival.transpose(-1, -2), apart, torch.inf).argmin(-1)
    chosen = x.gather(-1, nearest.unsqueeze(-2).expand(*x.shape[:-1], columns))
    return chosen - x.repeat_interleave(columns // samples, -1)


def _nearer(
    gap: Callable[[Tensor], Tensor], start: Tensor, move: Tensor, crossing: Tensor, best: Tensor
) -> tuple[Tensor, Tensor]:
    """The nearer of the known crossing and the one along a new ray, as displacement and distance."""
    length = torch.linalg.vector_norm(move, dim=-2)
    found = _crossing(gap, start, move)
    better = found < best
    scaled = move * (found / length).nan_to_num(nan=0.0, posinf=0.0).unsqueeze(-2)
    return torch.where(better.unsqueeze(-2), scaled, crossing), torch.where(better, found, best)


@torch.no_grad()
def _crossing(gap: Callable[[Tensor], Tensor], start: Tensor, move: Tensor) -> Tensor:
    """The least distance found along each ray at which the gap is not positive, infinite where there is none."""
    length = torch.linalg.vector_norm(move, dim=-2)
    parts = torch.linspace(0, 2, GRID + 1, dtype=start.dtype)[1:]
    first = torch.full_like(length, torch.inf)
    for part in parts.flip(0):
        first = torch.where(gap(start + part * move) <= 0, part, first)
    found = first.isfinite() & (length > 0)
    high = torch.where(found, first, 1.0)
    low = high - 2 / GRID
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        across = gap(start + middle.unsqueeze(-2) * move) <= 0
        low, high = torch.where(across, low, middle), torch.where(across, middle, high)
    return torch.where(found, high * length, torch.inf)
