"""Search for the supremum (infimum) of a layer's seven quantities by batched gradient ascent from many starts.

Sampling does not refute a false bound; ascent does. All restarts are one batch: entry `b` of an objective depends
on row `b` of its arguments alone, so one backward pass differentiates all of them. Ascent is on the logarithm, and
arrays are written as `exp(scale) * direction`, so neither the quantity's size nor its maximiser's matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from numerics.device import DTYPE, generator
from numerics.ensembles import KINDS, matrices, mixture
from numerics.realise import Realisation
from theory.records import LOWER, QUANTITIES

Map = Callable[[Tensor, Tensor], Tensor]
Arguments = list[Tensor]

BETAS = (0.9, 0.99)
"""Adam's decay rates; a shorter memory of the squares than usual, because searches last a few hundred steps."""
SCALES = (1e-2, 1e-1, 1.0, 1e1, 1e2)


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found; an upper quantity is at least `value`, a lower one at most.

    Attributes:
        value: `(R,)`, the best value each restart has seen.
        arguments: where, each of shape `(R, ...)`; of `search_layer`: `theta`, `X`, then the unit directions.
        steps: number of steps taken.
        lowest: whether small values were searched for.
    """

    value: Tensor
    arguments: tuple[Tensor, ...]
    steps: int
    lowest: bool = False

    @property
    def index(self) -> int:
        """The best restart."""
        return int(self.value.argmin() if self.lowest else self.value.argmax())

    @property
    def best(self) -> float:
        return float(self.value[self.index])

    @property
    def witness(self) -> tuple[Tensor, ...]:
        """The arguments of the best restart, without the restarts' dimension: evaluating there replays `best`."""
        return tuple(a[self.index] for a in self.arguments)


def _norm(matrix: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrix, dim=(-2, -1))


def unit(direction: Tensor, dims: int) -> Tensor:
    """`direction / |direction|` over the last `dims` dimensions."""
    return direction / torch.linalg.vector_norm(direction, dim=tuple(range(-dims, 0)), keepdim=True)


# The seven quantities at one point, each (R,), for f(theta (R, P), X (R, d, N)); directions need not have norm one.
# Directional derivatives are taken by reverse mode twice (the gradient of a pullback is a pushforward): on small layers
# this is six times faster than nested forward mode, to which a test compares it.


def derivative(value: Tensor, t: Tensor) -> Tensor:
    """`d value / dt`, shape of `value (R, K, N)`, for a scalar `t (R, 1, 1)` a row; differentiable again."""
    if not value.requires_grad:
        return torch.zeros_like(value)
    weights = torch.zeros_like(value, requires_grad=True)
    (pulled,) = torch.autograd.grad(value, t, weights, create_graph=True, materialize_grads=True)
    if not pulled.requires_grad:  # value does not depend on t
        return torch.zeros_like(value)
    (pushed,) = torch.autograd.grad(pulled.sum(), weights, create_graph=True, materialize_grads=True)
    return pushed


def _zero(x: Tensor) -> Tensor:
    return x.new_zeros(len(x), 1, 1, requires_grad=True)


def input_jacobian_norm(f: Map, theta: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """`|D_X f[u]|_F` for the unit direction of `u (R, d, N)`."""
    t = _zero(x)
    return _norm(derivative(f(theta, x + t * unit(u, 2)), t))


def param_jacobian_norm(f: Map, theta: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """`|D_theta f[w]|_F` for the unit direction of `w (R, P)`."""
    t = _zero(x)
    return _norm(derivative(f(theta + t.squeeze(-1) * unit(w, 1), x), t))


def input_input(f: Map, theta: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """`|D_X^2 f[u, u]|_F`; the form is symmetric, so equal arguments reach its norm."""
    t = _zero(x)
    return _norm(derivative(derivative(f(theta, x + t * unit(u, 2)), t), t))


def input_param(f: Map, theta: Tensor, x: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """`|D_X D_theta f[u, w]|_F` for the unit directions of `u (R, d, N)` and `w (R, P)`."""
    t, s = _zero(x), _zero(x)
    value = f(theta + s.squeeze(-1) * unit(w, 1), x + t * unit(u, 2))
    return _norm(derivative(derivative(value, s), t))


def param_param(f: Map, theta: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """`|D_theta^2 f[w, w]|_F`; the form is symmetric, so equal arguments reach its norm."""
    t = _zero(x)
    return _norm(derivative(derivative(f(theta + t.squeeze(-1) * unit(w, 1), x), t), t))


def _pullback(value: Tensor, shift: Tensor, y: Tensor) -> Tensor:
    return torch.autograd.grad(value, shift, unit(y, 2), create_graph=True, materialize_grads=True)[0]


def input_jacobian_sigma_min(f: Map, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`|J^T y|_F`, `J` the input Jacobian, for the unit direction of `y (R, K, N)`; to be minimised."""
    shift = torch.zeros_like(x, requires_grad=True)
    return _norm(_pullback(f(theta, x + shift), shift, y))


def tangent_kernel_lambda_min(f: Map, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`|D^T y|^2`, `D` the parameter Jacobian, for the unit direction of `y (R, K, N)`; to be minimised."""
    shift = torch.zeros_like(theta, requires_grad=True)
    return _pullback(f(theta + shift, x), shift, y).square().sum(-1)


OBJECTIVES: dict[str, tuple[Callable[..., Tensor], str]] = {
    "input_jacobian_norm": (input_jacobian_norm, "u"),
    "param_jacobian_norm": (param_jacobian_norm, "w"),
    "input_input": (input_input, "u"),
    "input_param": (input_param, "uw"),
    "param_param": (param_param, "w"),
    "input_jacobian_sigma_min": (input_jacobian_sigma_min, "y"),
    "tangent_kernel_lambda_min": (tangent_kernel_lambda_min, "y"),
}
"""Each quantity's objective and its directions: `u` in input space, `w` in parameter space, `y` in output space."""
BY_PARAMETER = frozenset(QUANTITIES) & {
    "param_jacobian_norm",
    "input_param",
    "param_param",
    "tangent_kernel_lambda_min",
}


def maximise(
    objective: Callable[..., Tensor],
    start: Sequence[Tensor],
    project: Callable[[Arguments], Arguments] | None,
    steps: int,
    learning_rate: float,
    generator: Generator,
    *,
    lowest: bool = False,
) -> Found:
    """Ascent on `log objective` (descent with `lowest`) by Adam with a cosine schedule, all restarts at once.

    The best point that a restart has seen is kept. A lost restart (its value is not finite, or zero when large values
    are wanted, or its gradient is not finite) goes on near another's best point, which `generator` draws.

    Args:
        objective: of tensors like those of `start`, to `(R,)` non-negative values; entry `b` depends on row `b` alone.
        start: starting points, each `(R, ...)`.
        project: brings the arguments back to the domain after each step (and the start before the first).
        steps: number of steps.
        learning_rate: of Adam; about the change of an argument's entry in one early step.

    Raises:
        ValueError: no starting point, or no restart that ever has a finite value.
    """
    if not start or len({len(a) for a in start}) != 1 or len(start[0]) == 0:
        raise ValueError("start: give at least one tensor, all with the same positive number of restarts in front")
    shapes = [a.shape[1:] for a in start]
    sizes = [math.prod(shape) for shape in shapes]

    def split(flat: Tensor) -> Arguments:
        return [a.reshape(len(a), *shape) for a, shape in zip(flat.split(sizes, 1), shapes, strict=True)]

    def admissible(flat: Tensor) -> Tensor:
        return flat if project is None else torch.cat([a.flatten(1) for a in project(split(flat))], 1)

    sign = -1.0 if lowest else 1.0
    flat = admissible(torch.cat([a.flatten(1) for a in start], 1).detach())
    best, best_value = flat, torch.full_like(flat[:, 0], -sign * math.inf)
    mean, square, age = torch.zeros_like(flat), torch.zeros_like(flat), torch.zeros_like(flat[:, :1])
    taken = 0
    for step in range(steps + 1):
        point = flat.detach().requires_grad_()
        with torch.enable_grad():
            value = objective(*split(point))
            total = value.sum()
        result = value.detach()
        better = result.isfinite() & (sign * result > sign * best_value)
        best_value = torch.where(better, result, best_value)
        best = torch.where(better.unsqueeze(1), flat, best)
        if step == steps or not value.requires_grad:  # done, or constant
            break
        # the gradient of the logarithm; written out because its value is not needed
        (gradient,) = torch.autograd.grad(total, point, materialize_grads=True)
        gradient = sign * gradient / result.unsqueeze(1)
        lost = ~(gradient.isfinite().all(1) & result.isfinite() & (lowest | (result > 0)))
        gradient = torch.where(lost.unsqueeze(1), 0.0, gradient)
        age = age + 1
        mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
        square = BETAS[1] * square + (1 - BETAS[1]) * gradient.square()
        rate = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        root = (square / (1 - BETAS[1] ** age)).sqrt() + 1e-12
        flat = flat + rate * mean / (1 - BETAS[0] ** age) / root
        if bool(lost.any()):
            found = best_value.isfinite() & (lowest | (best_value > 0))
            choice = torch.multinomial(found.to(DTYPE) + 1e-12, len(flat), replacement=True, generator=generator)
            noise = torch.randn(flat.shape, generator=generator, dtype=flat.dtype, device=flat.device)
            fresh = best[choice] + rate * noise
            flat = torch.where(lost.unsqueeze(1), fresh, flat)
            mean, square, age = (torch.where(lost.unsqueeze(1), 0.0, a) for a in (mean, square, age))
        flat = admissible(flat)
        taken = step + 1
    if not bool(best_value.isfinite().any()):
        raise ValueError(
            f"no finite value at any of {len(flat)} restarts: check the objective, or start at smaller scales"
        )
    return Found(best_value, tuple(split(best)), taken, lowest)


def _rms(direction: Tensor, dims: int) -> Tensor:
    """Rescaled to entries of mean square one: a step of the learning rate is then an angle in every dimension."""
    return unit(direction, dims) * math.sqrt(math.prod(direction.shape[-dims:]))


@dataclass(frozen=True, eq=False)
class _Arrays:
    """A search's arguments as `exp(scale) * unit direction`, a scale for each parameter array and one for `X`."""

    realisation: Realisation
    parameter_radius: float
    input_radius: float
    fixed_input: Tensor | None

    def theta(self, directions: Tensor, scales: Tensor) -> Tensor:
        specs = self.realisation.parameters
        if not specs:
            return directions
        arrays = self.realisation.split(directions)
        units = [unit(a, len(spec.shape)) for a, spec in zip(arrays, specs, strict=True)]
        sizes = scales.exp().unbind(1)
        return self.realisation.pack(
            [s.reshape(-1, *[1] * (a.ndim - 1)) * a for s, a in zip(sizes, units, strict=True)]
        )

    def decode(self, arguments: Sequence[Tensor]) -> Arguments:
        """`theta, X` and the remaining directions."""
        directions, scales, x, size, *rest = arguments
        if self.fixed_input is not None:
            inputs = self.fixed_input.expand(len(directions), *self.fixed_input.shape)
        else:
            inputs = size.exp().unsqueeze(-1) * unit(x, 2)
        return [self.theta(directions, scales), inputs, *rest]

    def project(self, arguments: Arguments) -> Arguments:
        directions, scales, x, size, *rest = arguments
        scales = scales.clamp_max(math.log(self.parameter_radius))
        size = size.clamp_max(math.log(self.input_radius))
        roots = [scales.new_full((len(scales),), math.log(spec.size) / 2) for spec in self.realisation.parameters]
        directions = self.theta(directions, torch.stack(roots, 1)) if roots else directions
        return [directions, scales, _rms(x, 2), size, *(_rms(a, a.ndim - 1) for a in rest)]


def search_layer(
    realisation: Realisation,
    quantity: str,
    *,
    parameter_radius: float | None = None,
    input_radius: float | None = None,
    restarts: int = 16,
    steps: int = 400,
    learning_rate: float = 0.1,
    seed: int = 0,
    fixed_input: Tensor | None = None,
    input_scales: Sequence[float] = SCALES,
    parameter_scales: Sequence[float] = SCALES,
    device: torch.device | str = "cpu",
) -> Found:
    """Search for the supremum (infimum for the last two) of one of the seven quantities.

    Args:
        quantity: a name in `theory.records.QUANTITIES`.
        parameter_radius: largest Euclidean norm of each parameter array (None: no limit).
        input_radius: largest Frobenius norm of `X` (None: no limit).
        restarts: number of starts, of all kinds of `numerics.ensembles` and of all scales.
        fixed_input: a fixed `X (d, N)`, which is then not searched.
        input_scales, parameter_scales: norms of the arrays at the start, cut to the radius.

    Returns:
        `Found` with arguments `theta (R, P)`, `X (R, d, N)` and the unit directions. Without parameters the quantities
        of the parameters are 0.

    Raises:
        ValueError: an unknown quantity, a radius that is not positive, or a fixed input of the wrong shape.
    """
    if quantity not in OBJECTIVES:
        raise ValueError(f"unknown quantity {quantity!r}: use one of {', '.join(OBJECTIVES)}")
    parameter_limit = math.inf if parameter_radius is None else float(parameter_radius)
    input_limit = math.inf if input_radius is None else float(input_radius)
    if not min(parameter_limit, input_limit) > 0:
        raise ValueError(f"radii {parameter_limit}, {input_limit}: a ball needs a positive radius")
    if fixed_input is not None and fixed_input.shape != realisation.input_shape:
        raise ValueError(f"fixed_input has shape {tuple(fixed_input.shape)}: the layer takes {realisation.input_shape}")
    objective, letters = OBJECTIVES[quantity]
    lowest = quantity in LOWER
    source = generator(seed, device)
    fixed = None if fixed_input is None else fixed_input.to(device)
    arrays = _Arrays(realisation, parameter_limit, input_limit, fixed)
    theta = mixture(realisation, restarts, source, scales=(1.0,))[0]
    inputs = _directions(realisation.input_shape, restarts, source)
    scales = _log_scales(parameter_scales, restarts, source, len(realisation.parameters))
    start = [theta, scales, inputs, _log_scales(input_scales, restarts, source, 1)]
    if quantity in BY_PARAMETER and not realisation.parameters:
        return Found(theta.new_zeros(restarts), tuple(arrays.decode(start)), 0, lowest)
    spaces = {"u": realisation.input_shape, "w": (1, realisation.size), "y": realisation.output_shape}
    for letter in letters:
        direction = _directions(spaces[letter], restarts, source)
        start.append(direction.squeeze(1) if letter == "w" else direction)
    found = maximise(
        lambda *arguments: objective(realisation, *arrays.decode(arguments)),
        start, arrays.project, steps, learning_rate, source, lowest=lowest,
    )  # fmt: skip
    point, x, *directions = arrays.decode(found.arguments)
    return Found(found.value, (point, x, *(unit(a, a.ndim - 1) for a in directions)), found.steps, lowest)


def _directions(shape: tuple[int, int], count: int, source: Generator) -> Tensor:
    """`(count, *shape)`, of the kinds of `numerics.ensembles` in turn and shuffled."""
    pieces = [matrices(source, 1 + count // len(KINDS), *shape, kind, 1.0) for kind in KINDS]
    return torch.cat(pieces)[torch.randperm(sum(map(len, pieces)), generator=source, device=source.device)[:count]]


def _log_scales(scales: Sequence[float], count: int, source: Generator, arrays: int) -> Tensor:
    """`(count, arrays)` logarithms, every scale as often as the others for each array, shuffled."""
    logs = torch.tensor(scales, dtype=DTYPE, device=source.device).log()
    order = (
        torch.stack([torch.randperm(count, generator=source, device=source.device) for _ in range(arrays)], 1)
        if arrays
        else None
    )
    return logs.new_zeros(count, 0) if order is None else logs[order % len(logs)]
