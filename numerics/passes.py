"""Mini-batch gradient descent by certified full passes (`theory.passes`), for many starts at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from numerics.compare import ALLOWANCE
from numerics.descent import Trajectory, least_split
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


def descend_by_passes(
    whole: Objective,
    batches: list[Objective],
    certificate: PassCertificate,
    theta: Tensor,
    *,
    passes: int,
    seed: int = 0,
    labels: tuple[str, ...] = (),
    progress: Callable[[int], None] | None = None,
) -> Trajectory:
    """Each pass visits all batches in a new random order, with the step `h / M` of the certificate at the loss before the pass.

    Args:
        whole: the loss on all samples.
        batches: that of each batch (`batches_of`).
        certificate: `theory.passes.certify_passes`.
        theta: `(S, P)` starting points.
        passes: how many.
        seed: of the orders.
        labels: one name a start.
        progress: called with the number of passes done.

    Returns:
        The losses before every pass and after the last, under the certified envelope; `steps` are the `h`, and what is `proven` is the envelope.
    """
    source = generator(seed)
    point = theta.detach().clone()
    losses: list[Tensor] = []
    bounds: list[Tensor] = []
    steps: list[Tensor] = []
    for step in range(passes + 1):
        loss = whole(point).detach()
        losses.append(loss)
        if not bounds:
            bounds.append(loss)
        else:
            before = bounds[-1]
            removed = certificate.recursion.domination * least_split(whole.samples, before)
            after = before - certificate.step_size(before) / 2 * certificate.kept * removed
            bounds.append(torch.where(before > SMALLEST, after * (1 + 2.0**-50), before))
        if step == passes:
            break
        h = torch.where(loss > SMALLEST, certificate.step_size(loss), torch.zeros_like(loss))
        steps.append(h)
        for index in torch.randperm(len(batches), generator=source).tolist():
            leaf = point.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(batches[index](leaf).sum(), leaf)
            point = point - (h / len(batches))[:, None] * gradient
        if progress is not None:
            progress(step + 1)
    all_losses, all_bounds = torch.stack(losses), torch.stack(bounds)
    above = (all_losses > all_bounds * (1 + ALLOWANCE)).nonzero()
    first = (int(above[0, 0]), int(above[0, 1])) if len(above) else None
    return Trajectory(all_losses, all_bounds, torch.stack(steps), all_bounds, point.detach(), "passes", labels, first)
