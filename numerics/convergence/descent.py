"""Batched gradient descent from many starts beside its certified envelope, with every step's own proof.

Each step is at most `1 / beta` for a bound `beta` of the Hessian along it, so whatever the rule, the measured gradient proves
`ell_{t+1} <= ell_t - (eta_t / 2) |grad ell_t|^2` (the run's own ledger, `Trajectory.proven`); the envelope is what was known before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from numerics.compare import ALLOWANCE
from numerics.device import replayed
from numerics.loss import SMALLEST, Objective
from theory.costs import CrossEntropy
from theory.curvature import CrossEntropyCurvature, hessian_weight, wrong_mass
from theory.recursion import FIXED, ODDS_GROWTH, POSTERIORI, PROPORTIONAL, RULES, Recursion

BISECTIONS = 80
"""Halvings of the interval of a root in `least_split`: the relative width left is 2^-80 of it, below rounding."""
SAFETY = 1e-12
"""Relative amount by which computed bounds are moved to their safe side, so that rounding errors (a few 2^-52) cannot turn them."""
CHUNK = 25
"""Steps between two copies of the results; on CUDA as many are replayed as one graph."""


def least_split(samples: int, value: Tensor) -> Tensor:
    """`m_N(gamma) = inf { sum (1 - e^{-c_i})^2 : c_i >= 0, mean gamma }`, from below, for a tensor of values of `gamma`.

    The vectorised twin of `theory.costs.exact_least_split`: equal split, or one sample at `b` and the rest at `a` with
    `e^{-b} = t`, `e^{-a} = 1 - t`, `-(N-1) log(1-t) - log t = N gamma`.
    """
    best = samples * torch.expm1(-value) ** 2
    exists = samples * value >= _constraint(samples) if samples > 1 else torch.zeros_like(value, dtype=torch.bool)
    if not bool(exists.any()):
        return best * (1 - SAFETY)
    # both roots at once: log t on the falling branch (t may be e^{-N gamma}), log(1 - t) on the rising one
    rest = value.new_full((2, *[1] * value.ndim), samples - 1.0)
    own = torch.ones_like(rest)
    own[1], rest[1] = rest[1].clone(), own[1].clone()
    low = -samples * value / own - 1.0
    ends = value.new_tensor([math.log(1.0 / samples), math.log1p(-1.0 / samples)])
    high = ends.reshape(rest.shape).expand(low.shape)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = -(own * middle + rest * torch.log(-torch.expm1(middle))) > samples * value
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    for t in (low[0].exp(), -torch.expm1(low[1])):
        candidate = (1 - t) ** 2 + (samples - 1) * t**2
        best = torch.where(exists, torch.minimum(best, candidate), best)
    return best * (1 - SAFETY)


def _constraint(samples: int) -> float:
    """`-(N-1) log(1-t) - log t` at its minimum `t = 1/N`."""
    t = torch.tensor(1.0 / samples, dtype=torch.float64)
    return float(-(samples - 1) * torch.log1p(-t) - torch.log(t))


def envelope(recursion: Recursion, start: Tensor, steps: int, rule: str) -> Tensor:
    """Certified upper bounds `(steps + 1, S)` of the losses of runs that start at the losses `start (S,)`, known before the first step.

    The batched twin of `theory.convergence.Certificate.envelope`. A posteriori steps are never shorter than proportional ones, whose
    envelope is theirs.
    """
    known = FIXED if rule == FIXED else PROPORTIONAL
    bounds = [start]
    for _ in range(steps):
        value = bounds[-1]
        m = least_split(recursion.samples, value) if recursion.cost == CrossEntropy.name else value
        after = value - recursion.step_size(value, known, start) / 2 * recursion.domination * m
        # rounding of one step of the recursion is at most a few units in the last place
        bounds.append(torch.where(value > SMALLEST, after * (1 + 2.0**-50), value))
    return torch.stack(bounds)


def measured_step(curvature: CrossEntropyCurvature, losses: Tensor, gradient: Tensor) -> Tensor:
    """The longest certified step from what is measured: the losses of the samples `(S, N)` and the norm of the gradient `(S,)`.

    Along a step of length `eta |g|` the odds `e^{c_i} - 1 = q_i / (1 - q_i)` of a sample grow at most by `e^{k}`, `k = sqrt2 |DF_i| eta |g|`, as
    `|d c_i| <= sqrt2 q_i |DF_i| |g|`. So for each `k` the Hessian along the step is at most `beta` by the largest `q_i`, and by the mean of the
    samples' own bounds, at the grown odds; `eta = min(k / (sqrt2 |DF_i| |g|), 1 / beta)`. The proportional step is among the choices.
    """
    best = (1 - SAFETY) / curvature(losses.mean(-1))
    speed = 2**0.5 * curvature.first * gradient
    for growth in ODDS_GROWTH:
        # q' = e^k o / (1 + e^k o) with the odds o = e^c - 1, written so that neither end overflows
        q = wrong_mass(losses)
        grown = q / (q + (1 - q) * torch.exp(torch.full_like(q, -growth)))
        by_largest = curvature.by_largest(grown.amax(-1))
        by_mean = (curvature.mean.outer * hessian_weight(grown) + curvature.mean.slope * grown).mean(-1)
        eta = torch.minimum(growth / speed, 1 / torch.minimum(by_largest, by_mean))
        best = torch.maximum(best, (1 - SAFETY) * eta)
    return best


def chosen_step(recursion: Recursion, rule: str, losses: Tensor, gradient: Tensor, start: Tensor) -> Tensor:
    """The step `(S,)` of a rule at the samples' losses `(S, N)` and gradients `(S, P)` of runs that started at the losses `start (S,)`.

    Under squared error the residuals enter the curvature by their norm, which is the loss: a posteriori steps are the proportional ones. Where
    the loss is too small to be told from 0 the step is 0.
    """
    loss = losses.mean(-1)
    if rule == POSTERIORI and isinstance(recursion.curvature, CrossEntropyCurvature):
        eta = measured_step(recursion.curvature, losses, gradient.square().sum(-1).sqrt())
    else:
        eta = recursion.step_size(loss, PROPORTIONAL if rule == POSTERIORI else rule, start)
    return torch.where(loss > SMALLEST, eta, torch.zeros_like(eta))


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Gradient descent from several starts at once.

    Attributes:
        losses: `(T + 1, S)`, the loss before every step and after the last.
        envelope: `(T + 1, S)`, certified upper bounds from each start's first loss, known beforehand.
        steps: `(T, S)`, the steps taken.
        proven: `(T + 1, S)`, the run's own proof: `ell_0 prod_t (1 - (eta_t/2) |grad ell_t|^2 / ell_t)`, from measured gradients.
        theta: `(S, P)`, where the runs ended.
        rule: how the steps were chosen.
        labels: one name a start.
        first_violation: `(step, start)` of the first loss above its envelope, or above what its last step proved; None where there is none.
    """

    losses: Tensor
    envelope: Tensor
    steps: Tensor
    proven: Tensor
    theta: Tensor
    rule: str
    labels: tuple[str, ...]
    first_violation: tuple[int, int] | None

    @property
    def holds(self) -> bool:
        return self.first_violation is None and bool(self.losses.isfinite().all())

    def until(self, steps: int) -> Trajectory:
        """The first `steps` steps of a run that went further; `theta` stays the point it reached."""
        if steps >= len(self.steps):
            return self
        first = self.first_violation if self.first_violation and self.first_violation[0] <= steps else None
        cut = steps + 1
        return replace(
            self,
            losses=self.losses[:cut],
            envelope=self.envelope[:cut],
            steps=self.steps[:steps],
            proven=self.proven[:cut],
            first_violation=first,
        )

    @property
    def tightness(self) -> float:
        """Largest loss / envelope after the start."""
        return float((self.losses[1:] / self.envelope[1:]).nan_to_num(1.0).max())


@dataclass(frozen=True, eq=False)
class Records:
    """What a run leaves behind at every step: the loss before it, its length, and the part `(eta/2) |grad ell|^2` that it provably removes; each `(T, S)`."""

    losses: Tensor
    steps: Tensor
    removed: Tensor

    def __add__(self, other: Records) -> Records:
        pairs = ((self.losses, other.losses), (self.steps, other.steps), (self.removed, other.removed))
        return Records(*(torch.cat(pair) for pair in pairs))

    @classmethod
    def empty(cls, starts: int) -> Records:
        return cls(*(torch.zeros(0, starts, dtype=torch.float64) for _ in range(3)))


class Descent:
    """Gradient descent that can be run on, in chunks: `done` is what has been reached and recorded, and stays whole when a run is interrupted.

    Args:
        objective: the loss.
        recursion: of the certificate.
        theta: `(S, P)` starting points (or the points reached so far, with their `records`).
        rule: `fixed`, `proportional` or `posteriori`.
        records: of the steps taken so far.

    Raises:
        ValueError: an unknown rule, or a recursion of another cost or number of samples.
    """

    def __init__(
        self,
        objective: Objective,
        recursion: Recursion,
        theta: Tensor,
        rule: str = FIXED,
        records: Records | None = None,
    ) -> None:
        if rule not in RULES:
            raise ValueError(f"unknown rule {rule!r}: use {', '.join(RULES)}")
        if (recursion.cost, recursion.samples) != (objective.cost, objective.samples):
            raise ValueError(
                f"the certificate speaks of {recursion.cost} on {recursion.samples} samples, the run of {objective.cost} on {objective.samples}"
            )
        self.objective, self.recursion, self.rule = objective, recursion, rule
        self.theta = theta.detach().clone()
        self.done = (self.theta.clone(), Records.empty(len(theta)) if records is None else records)
        first = self.objective(self.theta).detach() if self.taken == 0 else self.records.losses[0].to(theta.device)
        self._first = first
        self._rows = torch.zeros(CHUNK, 3, len(theta), dtype=theta.dtype, device=theta.device)
        self._chunk = replayed(self._advance_chunk, theta.device, (self.theta,))

    @property
    def records(self) -> Records:
        """What has happened."""
        return self.done[1]

    @property
    def taken(self) -> int:
        """Steps taken so far."""
        return len(self.records.losses)

    def _advance(self, row: Tensor) -> None:
        """One step in place; writes loss, step and what the step provably removes into `row (3, S)`."""
        point = self.theta.detach().requires_grad_(True)
        losses = self.objective.of_samples(point)
        loss = losses.mean(-1)
        (gradient,) = torch.autograd.grad(loss.sum(), point)
        loss, squared = loss.detach(), gradient.square().sum(-1)
        eta = chosen_step(self.recursion, self.rule, losses.detach(), gradient, self._first)
        self.theta -= eta[:, None] * gradient
        row[0], row[1], row[2] = loss, eta, eta * squared * (0.5 * (1 - SAFETY))

    def _advance_chunk(self) -> None:
        for row in self._rows:
            self._advance(row)

    def run(self, steps: int, progress: Callable[[int], None] | None = None) -> None:
        """Take `steps` more steps; `progress` is told the number taken in all after every chunk."""
        done = 0
        while done < steps:
            count = min(CHUNK, steps - done)
            if count == CHUNK:
                self._chunk()
            else:
                for row in self._rows[:count]:
                    self._advance(row)
            rows = self._rows[:count].detach().clone().cpu()
            # one assignment, so that an interrupt finds the point and the records of the same step
            self.done = (self.theta.clone(), self.records + Records(rows[:, 0], rows[:, 1], rows[:, 2]))
            done += count
            if progress is not None:
                progress(self.taken)

    def trajectory(self, labels: tuple[str, ...] = ()) -> Trajectory:
        """Everything so far, judged: losses against the envelope and against what each step proved."""
        reached, _ = self.done
        last = self.objective(reached).detach().cpu()[None]
        losses = torch.cat([self.records.losses, last])
        bounds = envelope(self.recursion, losses[0], self.taken, self.rule)
        part = torch.where(losses[:-1] > 0, self.records.removed / losses[:-1], torch.zeros_like(self.records.removed))
        proven = torch.cat([losses[:1], losses[:1] * torch.cumprod((1 - part) * (1 + 2.0**-50), 0)])
        promised = torch.cat([losses[:1], losses[:-1] - self.records.removed])
        # losses are compared by their roots, in which the rounding of a residual is an absolute error
        allowed = torch.minimum(bounds, promised).clamp(min=0).sqrt() + self.objective.rounding**0.5
        above = (losses > allowed.square() * (1 + ALLOWANCE)).nonzero()
        first = (int(above[0, 0]), int(above[0, 1])) if len(above) else None
        return Trajectory(losses, bounds, self.records.steps, proven, reached.cpu(), self.rule, labels, first)


def descend(
    objective: Objective,
    recursion: Recursion,
    theta: Tensor,
    *,
    steps: int,
    rule: str = FIXED,
    labels: tuple[str, ...] = (),
    progress: Callable[[int], None] | None = None,
) -> Trajectory:
    """`theta_{t+1} = theta_t - eta_t grad ell(theta_t)` for all starts at once, judged against the certificate.

    Args:
        objective: the loss on the data of the certificate.
        recursion: `theory.convergence.Certificate.required()`.
        theta: `(S, P)` starting points.
        steps, rule: how many steps, and how their lengths are chosen.
        labels: one name a start.
        progress: called with the number of steps done.

    Raises:
        ValueError: an unknown rule, or a recursion of another cost or number of samples.
    """
    run = Descent(objective, recursion, theta, rule)
    run.run(steps, progress)
    return run.trajectory(labels)
