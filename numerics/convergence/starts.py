"""Starting points of gradient descent: of every kind and size, and adversarial ones found by search."""

from __future__ import annotations

import torch
from torch import Tensor

from numerics.convergence.descent import chosen_step
from numerics.device import generator
from numerics.ensembles import draw
from numerics.loss import SMALLEST, Objective
from numerics.realise import Realisation
from numerics.search import maximise
from theory.recursion import Recursion

KINDS = ("gaussian", "orthogonal", "low_rank", "spiked")
NORMS = (1e-3, 1e3)
"""Norms of the starting parameters: the smallest and the largest, between them evenly on a logarithmic scale."""
AHEAD = 4
"""Steps of descent that the search for adversarial starts looks ahead."""


def spread(
    realisation: Realisation, count: int, seed: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, tuple[str, ...]]:
    """`count` starts `(count, P)` of norms from 1e-3 to 1e3, every kind of weights at every size, and a label for each.

    Raises:
        ValueError: fewer than one start.
    """
    if count < 1:
        raise ValueError(f"{count} starts: give at least one")
    source = generator(seed, device)
    each = -(-count // len(KINDS))
    low, high = (torch.tensor(norm, dtype=torch.float64).log10() for norm in NORMS)
    norms = torch.logspace(float(low), float(high), each, dtype=torch.float64, device=device)
    theta, labels = [], []
    for kind in KINDS:
        drawn = draw(realisation, each, kind, 1.0, source)
        theta.append(drawn / drawn.norm(dim=1, keepdim=True) * norms[:, None])
        labels += [f"{kind}, norm {float(norm):.2g}" for norm in norms]
    # the kinds in turn, so that the first `count` hold all of them
    order = torch.arange(each * len(KINDS)).reshape(len(KINDS), each).T.flatten()[:count]
    return torch.cat(theta)[order.to(device)], tuple(labels[i] for i in order.tolist())


def remaining(objective: Objective, recursion: Recursion, theta: Tensor, rule: str, ahead: int = AHEAD) -> Tensor:
    """`ell_ahead / ell_0` after `ahead` steps of descent by the rule, `(S,)`, differentiable in the starts `theta (S, P)`."""
    start, point = objective(theta), theta
    for _ in range(ahead):
        losses = objective.of_samples(point)
        (gradient,) = torch.autograd.grad(losses.mean(-1).sum(), point, create_graph=True)
        point = point - chosen_step(recursion, rule, losses, gradient, start)[:, None] * gradient
    return objective(point) / start.clamp(min=SMALLEST)


def adversarial(
    objective: Objective,
    recursion: Recursion,
    theta: Tensor,
    rule: str,
    *,
    steps: int = 20,
    ahead: int = AHEAD,
    seed: int = 0,
) -> Tensor:
    """Starts `(S, P)` found by gradient ascent from `theta` that keep most of their loss after `ahead` steps; their norms stay those of `theta`.

    The part that remains is what a rate is refuted by: from one start the envelope depends on its loss alone.
    """
    size, typical = theta.norm(dim=1, keepdim=True), theta.shape[1] ** 0.5

    def project(arguments: list[Tensor]) -> list[Tensor]:
        (point,) = arguments
        return [point / point.norm(dim=1, keepdim=True).clamp(min=SMALLEST) * typical]

    def part(point: Tensor) -> Tensor:
        return remaining(objective, recursion, point * (size / typical), rule, ahead)

    # entries of order one, of which an early step of Adam moves each by a tenth
    found = maximise(part, [theta / size * typical], project, steps, 0.1, generator(seed, theta.device))
    return (found.arguments[0] * (size / typical)).detach()
