"""Batched gradient descent under cross-entropy beside its certified envelope."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from numerics.compare import ALLOWANCE
from numerics.measure import cross_entropy
from numerics.realise import Realisation

BISECTIONS = 80
"""Halvings of the interval of a root in `least_split`: the relative width left is 2^-80 of it, below rounding."""
SAFETY = 1e-12
"""Relative amount by which `least_split` is lowered, so that its rounding errors (a few 2^-52) cannot raise the true value."""


def least_split(samples: int, value: Tensor) -> Tensor:
    """`m_N(gamma) = inf { sum (1 - e^{-c_i})^2 : c_i >= 0, mean gamma }`, from below, for a tensor of values of `gamma`.

    The vectorised twin of `theory.costs.exact_least_split`: equal split, or one sample at `b` and the rest at `a` with
    `e^{-b} = t`, `e^{-a} = 1 - t`, `-(N-1) log(1-t) - log t = N gamma`.
    """
    best = samples * torch.expm1(-value) ** 2
    if samples > 1:
        for falling in (True, False):
            # work with log t on the falling branch (t may be e^{-N gamma}) and with log(1 - t) on the rising one
            low = torch.full_like(value, 0.0) - samples * value - 1.0
            high = torch.full_like(value, 0.0) - torch.log(torch.full_like(value, float(samples)))
            if not falling:
                high = torch.log1p(torch.full_like(value, -1.0 / samples))
                low = -samples * value / (samples - 1) - 1.0
            for _ in range(BISECTIONS):
                middle = (low + high) / 2
                other = torch.log(-torch.expm1(middle))
                log_t, log_rest = (middle, other) if falling else (other, middle)
                above = -(samples - 1) * log_rest - log_t > samples * value
                low, high = torch.where(above, middle, low), torch.where(above, high, middle)
            t = low.exp() if falling else -torch.expm1(low)
            exists = _constraint(samples, 1.0 / samples) <= samples * value
            candidate = (1 - t) ** 2 + (samples - 1) * t**2
            best = torch.where(exists, torch.minimum(best, candidate), best)
    return best * (1 - SAFETY)


def _constraint(samples: int, t: float) -> float:
    rest = torch.tensor(1 - t, dtype=torch.float64)
    return float(-(samples - 1) * torch.log(rest) - torch.log(torch.tensor(t, dtype=torch.float64)))


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Gradient descent from several starts at once.

    Attributes:
        losses: `(T + 1, S)`, the loss before every step and after the last.
        envelope: `(T + 1, S)`, certified upper bounds from each start's first loss.
        step_size: the certified step.
        labels: one name a start.
        first_violation: `(step, start)` of the first loss above its envelope, None where there is none.
    """

    losses: Tensor
    envelope: Tensor
    step_size: float
    labels: tuple[str, ...]
    first_violation: tuple[int, int] | None

    @property
    def holds(self) -> bool:
        return self.first_violation is None and bool(self.losses.isfinite().all())

    @property
    def tightness(self) -> float:
        """Largest loss / envelope after the start."""
        return float((self.losses[1:] / self.envelope[1:]).max())


def descend(
    realisation: Realisation,
    theta: Tensor,
    x: Tensor,
    labels: Tensor,
    *,
    step_size: float,
    decrease: float,
    steps: int,
    names: tuple[str, ...],
    progress: Callable[[int], None] | None = None,
) -> Trajectory:
    """`theta_{t+1} = theta_t - eta grad ell(theta_t)` for all starts at once, with Theorem 1's envelope beside every step.

    Args:
        theta: `(S, P)` starting points.
        x, labels: `(d, N)` data and `(N,)` classes.
        step_size, decrease: `eta` and the factor of `m_N` in the recursion, from `theory.convergence.Certificate`.
        progress: called with the number of steps done.

    Raises:
        ValueError: a step size that is not positive (the network is not certified).
    """
    if not step_size > 0 or not decrease > 0:
        raise ValueError(f"step size {step_size}, decrease {decrease}: descent needs a certificate that holds")
    point = theta.clone()
    losses: list[Tensor] = []
    envelope: list[Tensor] = []
    for step in range(steps + 1):
        point.requires_grad_(True)
        loss = cross_entropy(realisation(point, x), labels)
        (gradient,) = torch.autograd.grad(loss.sum(), point)
        loss = loss.detach()
        losses.append(loss)
        bound = loss if step == 0 else envelope[-1] - decrease * least_split(x.shape[-1], envelope[-1])
        # rounding of one step of the recursion is at most a few units in the last place
        envelope.append(bound if step == 0 else bound * (1 + 2.0**-50))
        point = (point - step_size * gradient).detach()
        if progress is not None:
            progress(step)
    all_losses, all_bounds = torch.stack(losses), torch.stack(envelope)
    above = (all_losses > all_bounds * (1 + ALLOWANCE)).nonzero()
    first = (int(above[0, 0]), int(above[0, 1])) if len(above) else None
    return Trajectory(all_losses, all_bounds, step_size, names, first)
