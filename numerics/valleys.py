"""No bad local valleys, measured: the path of `theory.valleys.lifting` from many networks at once, and what the paper's conditions keep away.

Everything is batched over networks. `Psi` is `(networks, N, H)`: the values of the `H` units that the last affine layer reads, on `N` samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from numerics.loss import Objective
from numerics.realise import Realisation, realise
from theory.network import Network
from theory.records import Shape
from theory.valleys.conditions import split_readout

RADII = (1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5)
"""Sizes of a change of the hidden weights that is to give `Psi` full rank, the largest first."""
TRIES = 8
"""Random directions that are tried at each size."""
SEGMENT = 9
"""Points of a straight segment at which the loss is looked at."""
WELL_CONDITIONED = 1e-7
"""Ratio of the extreme singular values of `Psi` from which on the lift is exact to about 1e-9 in double precision."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A network that ends in a plain affine layer, with its cross-entropy on fixed data.

    Attributes:
        objective: the mean cross-entropy as a function of all parameters.
        hidden: the network without its last layer; its parameters come first.
    """

    objective: Objective
    hidden: Realisation

    @classmethod
    def of(
        cls, network: Network, x: Tensor, labels: Tensor, features: int | None = None, grid: tuple[int, ...] = ()
    ) -> Problem:
        """Data `x (d, N)` and classes `labels (N,)`; with a `grid` of `features` each, `d` counts features times positions.

        Raises:
            ValueError: a network that does not end in a plain affine layer, or data that do not fit.
        """
        inner, _ = split_readout(network)
        shape = Shape(x.shape[0] if features is None else features, x.shape[1], grid)
        return cls(Objective(realise(network, shape), x, labels), realise(inner, shape))

    @cached_property
    def one_hot(self) -> Tensor:
        """`E`, `(N, K)`."""
        classes = self.objective.realisation.output_shape[0]
        return torch.nn.functional.one_hot(self.objective.targets, classes).to(self.objective.x)

    def psi(self, theta: Tensor) -> Tensor:
        """`theta (networks, P)` -> `(networks, N, H)`."""
        return self.hidden(theta[..., : self.hidden.size], self.objective.x).mT

    def logits(self, theta: Tensor) -> Tensor:
        """`(networks, N, K)`."""
        return self.objective.realisation(theta, self.objective.x).mT

    def wrong_weights(self, theta: Tensor) -> Tensor:
        """`S_i = sum_{k != y_i} exp(z_ik - z_iy)`, `(networks, N)`."""
        z = self.logits(theta)
        true = (z * self.one_hot).sum(-1, keepdim=True)
        return ((z - true).exp() * (1 - self.one_hot)).sum(-1)

    def errors(self, theta: Tensor) -> Tensor:
        """Number of misclassified samples, `(networks,)`."""
        return (self.logits(theta).argmax(-1) != self.objective.targets).sum(-1)

    def output_curvature(self, theta: Tensor) -> Tensor:
        """Second derivative of the loss along the bias of each output, `mean_i p_ik (1 - p_ik)`: `(networks, K)`."""
        p = self.logits(theta).softmax(-1)
        return (p * (1 - p)).mean(-2)


def relative_sigma(psi: Tensor) -> Tensor:
    """`sigma_N / sigma_1` of `Psi`, counted by samples, `(networks,)`; 0 where `Psi` is 0 or has fewer units than samples."""
    values = torch.linalg.svdvals(psi)
    if psi.shape[-1] < psi.shape[-2]:
        return torch.zeros_like(values[..., 0])
    return torch.where(values[..., 0] > 0, values[..., -1] / values[..., 0], 0.0)


def separated(psi: Tensor) -> Tensor:
    """Least distance of two samples' rows of `Psi`, `(networks,)`. At random weights 0 (to rounding) means 0 at all weights, as analytic functions go."""
    distances = torch.cdist(psi, psi)
    return (distances + torch.diag_embed(torch.full_like(distances[..., 0], torch.inf))).flatten(-2).amin(-1)


@dataclass(frozen=True, eq=False)
class Lift:
    """The line `theta + t direction` of a batch of networks: `direction (networks, P)` changes output weights only.

    `weights` are the `S_i (networks, N)` at the start, `sigma` the ratio of the extreme singular values of `Psi`.
    """

    start: Tensor
    direction: Tensor
    weights: Tensor
    sigma: Tensor

    def at(self, t: Tensor) -> Tensor:
        """`t (networks,)` or a number -> parameters `(networks, P)`."""
        return self.start + t.reshape(-1, 1) * self.direction

    def predicted(self, t: Tensor) -> Tensor:
        """The derived loss `mean_i log(1 + e^-t S_i)`, `(networks,)`."""
        return torch.log1p(torch.exp(-t.reshape(-1, 1)) * self.weights).mean(-1)

    def below(self, level: float) -> Tensor:
        """A `t` from which on the loss is at most `level`, by `theory.valleys.lifting.lift_bound`: `log(mean S / level)`, `(networks,)`."""
        return (self.weights.mean(-1) / level).log().clamp(min=0)


def lift(problem: Problem, theta: Tensor) -> Lift:
    """The path of `theory.valleys.lifting` from each network, with the right inverse of least norm (`sigma` says how far it is to be trusted)."""
    psi = problem.psi(theta)
    right = torch.linalg.pinv(psi)  # (networks, H, N)
    change = (right @ problem.one_hot).mT  # (networks, K, H)
    direction = torch.zeros_like(theta)
    start = problem.hidden.size
    direction[:, start : start + change[0].numel()] = change.flatten(1)
    return Lift(theta, direction, problem.wrong_weights(theta), relative_sigma(psi))


@dataclass(frozen=True, eq=False)
class Escape:
    """A continuous path from each network to a loss below a level, each entry `(networks,)`.

    Attributes:
        start: loss where the path begins.
        highest: the largest loss seen on it.
        end: loss where it ends.
        segments: number of straight changes of the hidden weights before the lift; 0 where none was needed.
        path: the lift at its end.
    """

    start: Tensor
    highest: Tensor
    end: Tensor
    segments: Tensor
    path: Lift


def escape(problem: Problem, theta: Tensor, level: float, margin: float, source: Generator, points: int = 40) -> Escape:
    """From every network a path to a loss below `level` on which the loss rises by at most `margin` (and only where `Psi` is singular at the start).

    Where `Psi` is worse conditioned than `WELL_CONDITIONED` the hidden weights first move along straight segments to random neighbours, each better conditioned
    than the last and with the loss below the margin all along. Then the lift, looked at in `points` places.

    Raises:
        ValueError: a network for which no neighbour with a well conditioned `Psi` was found within the margin, by number.
    """
    count, size = len(theta), problem.hidden.size
    start, moved = problem.objective(theta), theta.clone()
    highest, segments = start.clone(), torch.zeros(count, dtype=torch.long, device=theta.device)
    sigma = relative_sigma(problem.psi(theta))
    for radius in (r for r in RADII for _ in range(TRIES)):
        waiting = sigma < WELL_CONDITIONED
        if not bool(waiting.any()):
            break
        change = torch.zeros_like(theta)
        change[:, :size] = radius * torch.randn(count, size, dtype=theta.dtype, device=theta.device, generator=source)
        seen = [problem.objective(moved + share * change) for share in torch.linspace(0, 1, SEGMENT).tolist()]
        top, there = torch.stack(seen).amax(0), relative_sigma(problem.psi(moved + change))
        good = waiting & (top <= start + margin) & (there > sigma)
        moved, sigma = torch.where(good[:, None], moved + change, moved), torch.where(good, there, sigma)
        highest, segments = torch.where(good, torch.maximum(highest, top), highest), segments + good
    if bool((sigma < WELL_CONDITIONED).any()):
        lost = (sigma < WELL_CONDITIONED).nonzero().flatten().tolist()
        raise ValueError(
            f"networks {lost}: no neighbour with a well conditioned Psi within the margin {margin}: allow a larger one"
        )
    path = lift(problem, moved)
    ends = path.below(level)
    for share in torch.linspace(0, 1, points).tolist():
        highest = torch.maximum(highest, problem.objective(path.at(share * ends)))
    return Escape(start, highest, problem.objective(path.at(ends)), segments, path)


def dead(problem: Problem, theta: Tensor, depth: float = 1.0) -> Tensor:
    """The networks with the first biases so low that no unit of the first layer is active on any sample, by at least `depth`.

    Raises:
        ValueError: a network whose first layer has no bias.
    """
    realisation = problem.objective.realisation
    arrays = realisation.split(theta)
    specs = realisation.parameters
    if len(specs) < 2 or not specs[1].path.endswith("bias"):
        raise ValueError("dead units need a first layer with a bias: write affine(m, bias=true)")
    sums = arrays[0] @ problem.objective.x
    return realisation.pack([arrays[0], -sums.amax(-1).clamp(min=0) - depth, *arrays[2:]])
