"""Wide ReLU networks near their Gaussian initialisation, measured in batches: norms, separation, gradients, semi-smoothness, gradient descent.

Model of Allen-Zhu, Li, Song (arXiv 1811.03962), moments in `theory.kernels.gaussian_relu`: `h_0 = relu(A x)`, `h_l = relu(W_l h_{l-1})`, `y = B h_L`; only `W` is trained, on
`F = sum_i |y_i - y*_i|^2 / 2`. Every network of a batch is a seed of its own; intervals are over networks. Samples are columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from numerics.device import DTYPE
from numerics.scaling.weights import weights
from numerics.search import Found, maximise

SERIES = 1e-2
"""Angle below which `sin - theta cos` is taken from its series: both lose less than 1e-9 of it there."""

BISECTIONS = 60


@dataclass(frozen=True, eq=False)
class Networks:
    """A batch: `A (networks, m, features)`, `W (networks, L, m, m)`, `B (networks, d, m)`."""

    A: Tensor
    W: Tensor
    B: Tensor

    @property
    def depth(self) -> int:
        return self.W.shape[1]

    @property
    def width(self) -> int:
        return self.W.shape[-1]

    def moved(self, change: Tensor) -> Networks:
        """The networks with `W + change`."""
        return replace(self, W=self.W + change)

    def features(self, x: Tensor) -> list[Tensor]:
        """`h_0 .. h_L` on samples `x (features, n)` or `(networks, features, n)`, each `(networks, m, n)`."""
        h = [(self.A @ x).clamp(min=0)]
        for W in self.W.unbind(1):
            h.append((W @ h[-1]).clamp(min=0))
        return h

    def outputs(self, x: Tensor) -> Tensor:
        """`(networks, d, n)`."""
        return self.B @ self.features(x)[-1]

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """`F`, `(networks,)`."""
        return (self.outputs(x) - targets).square().sum((-2, -1)) / 2


def initial(networks: int, width: int, depth: int, features: int, outputs: int, source: Generator) -> Networks:
    """Gaussian networks: entries of `A` and `W` of variance `2/m`, of `B` of variance `1/d`.

    Raises:
        ValueError: a size below 1.
    """
    if min(networks, width, depth, features, outputs) < 1:
        raise ValueError(f"sizes {networks}, {width}, {depth}, {features}, {outputs}: each must be at least 1")
    twice = math.sqrt(2)
    return Networks(
        weights("gaussian", (networks, width, features), width, source) * twice,
        weights("gaussian", (networks, depth, width, width), width, source) * twice,
        weights("gaussian", (networks, outputs, width), outputs, source),
    )


def on_sphere(directions: Tensor) -> Tensor:
    """Samples of norm one with last coordinate `1/sqrt 2` above the given directions: `(*batch, features - 1, n)` -> `(*batch, features, n)`."""
    unit = directions / directions.norm(dim=-2, keepdim=True)
    return torch.cat([unit, torch.ones_like(unit[..., :1, :])], -2) / math.sqrt(2)


def arc(count: int, delta: float, features: int) -> Tensor:
    """`count` samples on one circle, neighbours at distance `delta` exactly: `(features, count)`.

    Raises:
        ValueError: fewer than 3 features, or an arc that closes upon itself.
    """
    step = 2 * math.asin(delta / math.sqrt(2)) if 0 < delta < math.sqrt(2) else math.inf
    if features < 3 or step * count > 2 * math.pi:
        raise ValueError(
            f"{count} samples {delta} apart on a circle of {features} features: take fewer, nearer ones, and 3 features or more"
        )
    angles = step * torch.arange(count, dtype=DTYPE)
    plane = torch.stack([angles.cos(), angles.sin()])
    return on_sphere(torch.cat([plane, torch.zeros(features - 3, count, dtype=DTYPE)]))


def angles(h: Tensor) -> Tensor:
    """Angles between the columns of `(*batch, m, n)`: `(*batch, n, n)`, exact for small ones."""
    unit = h / h.norm(dim=-2, keepdim=True)
    difference = (unit.unsqueeze(-1) - unit.unsqueeze(-2)).norm(dim=-3)
    return 2 * torch.asin((difference / 2).clamp(max=1))


def least_separation(h: Tensor) -> Tensor:
    """`min_(i != j) |(I - h_i h_i^T/|h_i|^2) h_j|`, `(networks,)`: the distance that the paper's argument uses."""
    found = angles(h).sin() * h.norm(dim=-2).unsqueeze(-2)
    diagonal = torch.eye(found.shape[-1], dtype=torch.bool, device=h.device)
    return found.masked_fill(diagonal, math.inf).flatten(-2).amin(-1)


def gradient(networks: Networks, x: Tensor, residuals: Tensor) -> Tensor:
    """`grad_W sum_i <v_i, y_i>` for residuals `v (networks, d, n)` held fixed: `(networks, L, m, m)`. With `v = y - y*` it is `grad F`."""
    W = networks.W.detach().requires_grad_()
    with torch.enable_grad():
        value = (replace(networks, W=W).outputs(x) * residuals.detach()).sum()
        (found,) = torch.autograd.grad(value, W)
    return found


def wide_gradient_matrix(x: Tensor, layers: int) -> Tensor:
    """The wide limit of `gradient_matrix` for `layers >= 1` trained layers, by the angle map of `theory.kernels.gaussian_relu`: `x (*batch, features, n)` -> `(*batch, n, n)`.

    Raises:
        ValueError: no layer.
    """
    if layers < 1:
        raise ValueError(f"{layers} layers: at least one is trained")
    theta = angles(x)
    for _ in range(layers):
        theta = next_angles(theta)
    return (math.pi - theta) / (2 * math.pi) * theta.cos()


def next_angles(theta: Tensor) -> Tensor:
    """`theory.kernels.gaussian_relu.next_angle` on doubles, without cancellation: `sin^2(theta'/2) = sin^2(theta/2) - (sin theta - theta cos theta)/(2 pi)`."""
    bend = torch.where(theta < SERIES, theta**3 / 3 - theta**5 / 30, theta.sin() - theta * theta.cos())
    return 2 * torch.asin(((theta / 2).sin().square() - bend / (2 * math.pi)).clamp(min=0).sqrt())


def gradient_matrix(networks: Networks, x: Tensor) -> Tensor:
    """`G (networks, n, n)` of the last layer, exactly: `<D_i, D_j> <h_i, h_j> / m` with the signs `D` of layer `L` and the features below it.

    For `B` drawn at random `E|grad_{W_L} sum <v_i, y_i>|^2 = (m/d) sum <v_i, v_j> G_ij`.
    """
    h = networks.features(x)
    active, below = (h[-1] > 0).to(DTYPE), h[-2]
    return (active.mT @ active) * (below.mT @ below) / networks.width


def remainder(networks: Networks, x: Tensor, targets: Tensor, change: Tensor) -> Tensor:
    """`F(W + change) - F(W) - <grad F, change>`, `(networks,)`, differentiable in `change (networks, L, m, m)`."""
    slope = gradient(networks, x, networks.outputs(x) - targets)
    linear = (slope * change).sum((-3, -2, -1))
    return networks.moved(change).loss(x, targets) - networks.loss(x, targets) - linear


def remainder_bound(networks: Networks, x: Tensor, targets: Tensor, change: Tensor) -> Tensor:
    """An upper bound of `remainder` for one trained layer, `(networks,)`, by `theory.kernels.gaussian_relu.semi_smooth_steps`.

    `sum_i |B|^2 |e_i|^2 / 2 + |v_i| |B| |e_i on units that change sign|`, with `e_i = change h_i` and residuals `v`.

    Raises:
        ValueError: more than one trained layer.
    """
    if networks.depth != 1:
        raise ValueError(f"{networks.depth} trained layers: the bound is for one")
    below = networks.features(x)[0]
    before, moved = networks.W[:, 0] @ below, change[:, 0] @ below
    flipped = torch.where((before > 0) != (before + moved > 0), moved, torch.zeros_like(moved))
    norm = torch.linalg.matrix_norm(networks.B, 2)[:, None]
    residual = (networks.outputs(x) - targets).norm(dim=-2)
    return (norm**2 * moved.square().sum(-2) / 2 + residual * norm * flipped.norm(dim=-2)).sum(-1)


def flipping_change(networks: Networks, x: Tensor, targets: Tensor, radius: float) -> Tensor:
    """The change of operator norm `radius` (from below) that makes the first-order remainder largest, for one sample and one trained layer: `(networks, 1, m, m)`.

    Units with `|z| <= tau b/2`, `b = (B^T v)_j > 0`, move across 0 by `tau b`; `tau` by bisection (`theory.kernels.gaussian_relu.first_order_remainder`).

    Raises:
        ValueError: more than one trained layer or sample.
    """
    if networks.depth != 1 or x.shape[-1] != 1:
        raise ValueError(
            f"{networks.depth} trained layers, {x.shape[-1]} samples: the change is that of one layer and one sample"
        )
    h = networks.features(x)[0][..., 0]
    z = (networks.W[:, 0] @ h.unsqueeze(-1))[..., 0]
    b = (networks.B.mT @ (networks.outputs(x) - targets))[..., 0].clamp(min=0)
    size = h.norm(dim=1, keepdim=True)

    def moves(tau: Tensor) -> Tensor:
        return torch.where(z.abs() <= tau * b / 2, -z.sign() * tau * b, 0.0)

    low, high = torch.zeros_like(size), 10 * z.abs().amax(1, keepdim=True) / b.amax(1, keepdim=True)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        over = moves(middle).norm(dim=1, keepdim=True) > radius * size
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return (moves(low).unsqueeze(-1) * (h / size**2).unsqueeze(-2)).unsqueeze(1)


def spectral_unit(change: Tensor) -> Tensor:
    """Every layer's change rescaled to operator norm one."""
    return change / torch.linalg.matrix_norm(change, 2, dim=(-2, -1), keepdim=True)


def rank_one(left: Tensor, right: Tensor) -> Tensor:
    """Changes `u v^T` of operator norm one for each layer, from `left` and `right (networks, L, m)` of any length."""
    u, v = (side / side.norm(dim=-1, keepdim=True) for side in (left, right))
    return u.unsqueeze(-1) * v.unsqueeze(-2)


def worst_remainder(
    networks: Networks, x: Tensor, targets: Tensor, radius: float, steps: int, source: Generator
) -> Found:
    """Search for the largest remainder among changes of rank one and norm `radius` in every layer, a search for each network.

    Each starts from the singular pair of the layer's gradient, and then a little off it. The arguments are the two sides, `(networks, L, m)`.
    """
    slope = gradient(networks, x, networks.outputs(x) - targets)
    u, _, vh = torch.linalg.svd(slope, full_matrices=False)
    start = [u[..., 0], vh[..., 0, :]]
    noise = [torch.randn(side.shape, dtype=DTYPE, device=side.device, generator=source) for side in start]
    start = [side + z / math.sqrt(networks.width) for side, z in zip(start, noise, strict=True)]

    def value(left: Tensor, right: Tensor) -> Tensor:
        return remainder(networks, x, targets, radius * rank_one(left, right))

    return maximise(value, start, None, steps, 0.02, source)


def tangent_kernel(networks: Networks, x: Tensor) -> Tensor:
    """`DF DF^T` of the outputs in `W`, `(networks, d n, d n)`; one pass for each output and sample."""
    W = networks.W.detach().requires_grad_()
    with torch.enable_grad():
        out = replace(networks, W=W).outputs(x).flatten(1)
        rows = [torch.autograd.grad(column.sum(), W, retain_graph=True)[0].flatten(1) for column in out.unbind(1)]
    jacobian = torch.stack(rows, 1)
    return jacobian @ jacobian.mT


@dataclass(frozen=True, eq=False)
class Descent:
    """Losses `(steps + 1, networks)` of gradient descent, and the change of the weights at its end `(networks, L, m, m)`."""

    losses: Tensor
    change: Tensor

    @property
    def distance(self) -> Tensor:
        """`max_l |W_l - W_l(0)|_2` at the end, `(networks,)`."""
        return torch.linalg.matrix_norm(self.change, 2, dim=(-2, -1)).amax(-1)

    def rate(self) -> Tensor:
        """Mean decrease of `log F` per step, `(networks,)`."""
        return -(self.losses[-1] / self.losses[0]).log() / (len(self.losses) - 1)

    def slowest(self) -> Tensor:
        """The least decrease of `log F` in any one step, `(networks,)`: positive where every step decreases the loss."""
        return -self.losses.log().diff(dim=0).amax(0)


def descend(networks: Networks, x: Tensor, targets: Tensor, step_size: Tensor, steps: int) -> Descent:
    """Gradient descent on `F` with a step size for each network, `(networks,)`."""
    now, losses = networks, [networks.loss(x, targets)]
    for _ in range(steps):
        slope = gradient(now, x, now.outputs(x) - targets)
        now = now.moved(-step_size.reshape(-1, 1, 1, 1) * slope)
        losses.append(now.loss(x, targets))
    return Descent(torch.stack(losses), now.W - networks.W)


def worst_norm(networks: Networks, layer: int, steps: int, restarts: int, source: Generator) -> Tensor:
    """The largest `|h_l|^2` of a unit input over all inputs of the sphere, searched for each network: `(networks,)`."""
    many = Networks(*(part.repeat_interleave(restarts, 0) for part in (networks.A, networks.W[:, :layer], networks.B)))
    start = torch.randn(len(many.A), networks.A.shape[-1] - 1, dtype=DTYPE, device=source.device, generator=source)

    def norm(direction: Tensor) -> Tensor:
        return many.features(on_sphere(direction.unsqueeze(-1)))[-1].square().sum((-2, -1))

    found = maximise(norm, [start], None, steps, 0.1, source)
    return found.value.reshape(-1, restarts).amax(-1)
