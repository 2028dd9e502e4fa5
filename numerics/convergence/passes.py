"""Mini-batch gradient descent by certified full passes (`theory.passes`), for many starts at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from numerics.compare import ALLOWANCE
from numerics.convergence.descent import CHUNK, Records, Trajectory, least_split
from numerics.device import generator
from numerics.loss import SMALLEST, Objective
from numerics.realise import realise
from theory.network import Network
from theory.passes import PassCertificate
from theory.records import Shape


def batches_of(network: Network, x: Tensor, targets: Tensor, count: int) -> list[Objective]:
    """The data in `count` equal batches of consecutive samples, each with the network realised at its size.

    Raises:
        ValueError: a number of batches that does not divide that of the samples.
    """
    features, samples = x.shape
    if not 1 <= count <= samples or samples % count:
        whole = ", ".join(str(k) for k in range(1, samples + 1) if samples % k == 0)
        raise ValueError(f"{samples} samples do not split into {count} equal batches: use one of {whole}")
    size = samples // count
    realisation = realise(network, Shape(features, size))  # type: ignore[arg-type]
    return [
        Objective(realisation, x[:, start : start + size], targets[start : start + size])
        for start in range(0, samples, size)
    ]


class PassDescent:
    """Full passes over mini-batches that can be run on: each visits all batches in a new random order, with the step `h / M` of the certificate at the loss before it.

    Args:
        whole: the loss on all samples.
        batches: that of each batch (`batches_of`).
        certificate: `theory.passes.certify_passes`.
        theta: `(S, P)` starting points (or the points reached so far, with their `records`).
        seed: of the orders; the order of a pass depends on it and on the number of the pass alone.
        records: of the passes so far.
    """

    rule = "passes"

    def __init__(
        self,
        whole: Objective,
        batches: list[Objective],
        certificate: PassCertificate,
        theta: Tensor,
        seed: int = 0,
        records: Records | None = None,
    ) -> None:
        self.whole, self.batches, self.certificate, self.seed = whole, batches, certificate, seed
        self.done = (theta.detach().clone(), Records.empty(len(theta)) if records is None else records)

    @property
    def records(self) -> Records:
        """What has happened."""
        return self.done[1]

    @property
    def taken(self) -> int:
        """Passes so far."""
        return len(self.records.losses)

    def run(self, steps: int, progress: Callable[[int], None] | None = None) -> None:
        """Make `steps` more passes; `progress` is told the number made in all after every chunk."""
        end = self.taken + steps
        while self.taken < end:
            point, rows = self.done[0], []
            for number in range(self.taken, min(end, self.taken + CHUNK)):
                loss = self.whole(point).detach()
                h = torch.where(loss > SMALLEST, self.certificate.step_size(loss), torch.zeros_like(loss))
                order = torch.randperm(len(self.batches), generator=generator(_mixed(self.seed, number)))
                for index in order.tolist():
                    leaf = point.detach().requires_grad_(True)
                    (gradient,) = torch.autograd.grad(self.batches[index](leaf).sum(), leaf)
                    point = point - (h / len(self.batches))[:, None] * gradient
                rows.append(torch.stack([loss, h, torch.zeros_like(loss)]).cpu())
            self.done = (point, self.records + Records(*torch.stack(rows, 1)))
            if progress is not None:
                progress(self.taken)

    def trajectory(self, labels: tuple[str, ...] = ()) -> Trajectory:
        """Everything so far under the certified envelope, known before the first pass; it is also what is `proven`."""
        reached, _ = self.done
        last = self.whole(reached).detach().cpu()[None]
        losses = torch.cat([self.records.losses, last])
        bounds = [losses[0]]
        for _ in range(self.taken):
            before = bounds[-1]
            removed = self.certificate.recursion.domination * least_split(self.whole.samples, before)
            after = before - self.certificate.step_size(before) / 2 * self.certificate.kept * removed
            bounds.append(torch.where(before > SMALLEST, after * (1 + 2.0**-50), before))
        known = torch.stack(bounds)
        above = (losses > known * (1 + ALLOWANCE) + SMALLEST).nonzero()
        first = (int(above[0, 0]), int(above[0, 1])) if len(above) else None
        return Trajectory(losses, known, self.records.steps, known, reached.cpu(), self.rule, labels, first)


def _mixed(seed: int, number: int) -> int:
    """A seed for each pass: consecutive numbers lie far apart."""
    return (seed * 1_000_003 + number * 7_919) % 2**63
