"""Training residual networks at every branch scale at once: loss and accuracy against `beta`, and weights along the depth before and after.

    h_0 = A x,   h_{k+1} = h_k + L^-beta V_k relu(W_k h_k),   logits B h_L,   cross-entropy

All of `A, V, W, B` are trained. `V` and `W` start independent or as smooth functions of `k/L`, with entries of variance `1/d`; `A` and `B` are uniform of
variance 1/fan-in. A batch holds every network of every seed and every `beta`; networks of one seed share start and mini-batches, so that differences between
scales are paired. The published optimiser and number of steps are not known here. Two are compared, neither of which sees the scale of a gradient and both of which
step every network independently of the others: `gradient` divides each array's gradient by its root mean square, `adam` each entry's by that entry's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from numerics.device import DTYPE, generator
from numerics.images import Images, Normalisation
from numerics.scaling.processes import smooth
from numerics.scaling.weights import weights

KINDS = ("iid", "smooth")
OPTIMISERS = ("gradient", "adam")
Arrays = tuple[Tensor, Tensor, Tensor, Tensor]
LAGS = (1, 2, 4)
"""Lags in layers over which increments of the weights are compared."""
AT_ONCE = 2**27
"""Numbers that weights and activations of the networks trained at once may hold; more are trained in parts."""


@dataclass(frozen=True)
class Trained:
    """Networks of every seed and scale after training.

    Attributes:
        betas: `(scales,)`.
        loss: mean training loss before and after, `(2, seeds, scales)`; not finite where training diverged.
        accuracy: on the test images after training, `(seeds, scales)`.
        before, after: the weights `V` and `W`, each `(2, seeds, scales, L, d, d)`.
    """

    betas: Tensor
    loss: Tensor
    accuracy: Tensor
    before: Tensor
    after: Tensor

    def exponents(self, scale: int) -> tuple[Tensor, Tensor]:
        """`path_exponent` of the weights of one scale before and after, each `(seeds,)`."""
        both = (self.before, self.after)
        before, after = (path_exponent(w[:, :, scale].permute(1, 2, 0, 3, 4).flatten(2)) for w in both)
        return before, after

    def moved(self, scale: int) -> Tensor:
        """`|theta_after - theta_before| / |theta_before|` of the residual weights, `(seeds,)`."""
        before, after = (w[:, :, scale].transpose(0, 1).flatten(1) for w in (self.before, self.after))
        return (after - before).norm(dim=1) / before.norm(dim=1)


def path_exponent(paths: Tensor, lags: Sequence[int] = LAGS) -> Tensor:
    """Regularity of weights along the depth: half the slope of `log mean_k |theta_{k+m} - theta_k|^2` against `log m`, `(networks,)`.

    0 for independent weights, 1 for smooth functions of `k/L` at lags short against their variation.

    Args:
        paths: `(networks, L, entries)`.
        lags: lags `m` in layers.

    Raises:
        ValueError: fewer than two lags, or a path that is not longer than the largest.
    """
    if len(lags) < 2 or paths.shape[1] <= max(lags):
        raise ValueError(f"lags {tuple(lags)} on paths of {paths.shape[1]} layers: give at least two, below the depth")
    squares = torch.stack([(paths[:, m:] - paths[:, :-m]).square().mean((1, 2)) for m in lags], 1)
    x = torch.tensor(lags, dtype=paths.dtype).log().to(paths.device)
    x = x - x.mean()
    return squares.log() @ x / x.square().sum() / 2


def start(kind: str, seeds: int, depth: int, width: int, source: torch.Generator) -> Tensor:
    """Weights `V` and `W` before training, `(2, seeds, L, d, d)`.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "iid":
        return weights("uniform", (2, seeds, depth, width, width), width, source)
    if kind != "smooth":
        raise ValueError(f"weights {kind!r} at the start: use one of {', '.join(KINDS)}")
    found = smooth(depth, (2, seeds, width, width), source, lag=1 / depth)
    values = torch.tensordot(found.factor[:depth], found.coefficients, dims=1) / math.sqrt(width)
    return values.permute(1, 2, 0, 3, 4).contiguous()


def outputs(x: Tensor, A: Tensor, V: Tensor, W: Tensor, B: Tensor, scales: Tensor) -> Tensor:
    """Logits `(networks, classes, samples)` of inputs `(samples, features)`; the residual weights are `(networks, L, d, d)`, the scales `(networks,)`."""
    h = A @ x.T
    alpha = scales[:, None, None]
    # unbound once: the gradient of a slice would be as large as all weights
    for v, w in zip(V.unbind(1), W.unbind(1), strict=True):
        h = h + alpha * torch.bmm(v, torch.bmm(w, h).clamp(min=0))
    return B @ h


@torch.no_grad()
def _descend(arrays: Sequence[Tensor], rate: float) -> None:
    """One step along each array's gradient, for every network of root mean square `rate`."""
    for array in arrays:
        assert array.grad is not None
        size = array.grad.flatten(1).square().mean(1).sqrt().clamp(min=torch.finfo(DTYPE).tiny)
        array -= rate * array.grad / size.reshape(-1, *[1] * (array.ndim - 1))


def train(
    kind: str,
    betas: Sequence[float],
    depth: int,
    width: int,
    seeds: int,
    images: tuple[Images, Images],
    *,
    steps: int,
    batch: int = 64,
    rate: float = 3e-3,
    optimiser: str = "gradient",
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[], None] = lambda: None,
) -> Trained:
    """Train networks of one kind of weights at the start, for all seeds and scales at once.

    Args:
        kind: one of `KINDS`.
        betas: exponents of the branch scale.
        depth, width, seeds: `L`, `d`, and networks for each scale.
        images: for training and for testing, normalised by the first.
        steps, batch, rate: steps, images in each, step size.
        optimiser: one of `OPTIMISERS`.
        progress: called after every step.

    Raises:
        ValueError: an unknown kind or optimiser, no step or no scale.
    """
    if steps < 1 or not len(betas):
        raise ValueError(f"{steps} steps at {len(betas)} scales: give at least one of both")
    if optimiser not in OPTIMISERS:
        raise ValueError(f"optimiser {optimiser!r}: use one of {', '.join(OPTIMISERS)}")
    where = torch.device(device)
    normalise = Normalisation.measured(images[0])
    (x, labels), (x_test, labels_test) = (
        (normalise(i.pixels, DTYPE).flatten(1).to(where), i.labels.to(where)) for i in images
    )
    at_once = max(1, AT_ONCE // (len(betas) * depth * width * (4 * width + 3 * batch)))
    parts = []
    for first in range(0, seeds, at_once):
        count = min(at_once, seeds - first)
        source = generator(seed * 1000 + first, where)
        fresh = start(kind, count, depth, width, source)
        shape = (count, len(betas))
        A, B = (
            weights("uniform", (count, rows, columns), columns, source)
            for rows, columns in ((width, x.shape[1]), (images[0].classes, width))
        )
        # one start for all scales of a seed
        V, W, A, B = (
            w[:, None].expand(-1, len(betas), *w.shape[1:]).flatten(0, 1).clone().requires_grad_()
            for w in (*fresh, A, B)
        )
        scales = (float(depth) ** -torch.tensor(betas, dtype=DTYPE)).to(where).repeat(count)
        before = torch.stack([V.detach(), W.detach()]).unflatten(1, shape).clone()

        def losses(pixels: Tensor, targets: Tensor, every: Arrays = (A, V, W, B), scales: Tensor = scales) -> Tensor:
            logits = outputs(pixels, *every, scales)
            many = targets.expand(len(scales), -1)
            return cross_entropy(logits, many, reduction="none").mean(1)

        seen = torch.randperm(len(x), generator=source, device=where)[:1024]
        with torch.no_grad():
            at_start = losses(x[seen], labels[seen])
        arrays = [A, V, W, B]
        adam = torch.optim.Adam(arrays, lr=rate)
        for _ in range(steps):
            drawn = torch.randint(len(x), (batch,), generator=source, device=where)
            adam.zero_grad()
            losses(x[drawn], labels[drawn]).sum().backward()
            if optimiser == "adam":
                adam.step()
            else:
                _descend(arrays, rate)
            progress()
        with torch.no_grad():
            at_end = losses(x[seen], labels[seen])
            guesses = torch.cat([outputs(part, A, V, W, B, scales).argmax(1) for part in x_test.split(256)], 1)
        after = torch.stack([V.detach(), W.detach()]).unflatten(1, shape)
        accuracy = (guesses == labels_test).to(DTYPE).mean(1)
        parts.append((torch.stack([at_start, at_end]).unflatten(1, shape), accuracy.unflatten(0, shape), before, after))
    losses_, accuracies, starts, ends = zip(*parts, strict=True)
    return Trained(
        torch.tensor(betas, dtype=DTYPE),
        torch.cat(losses_, 1).cpu(),
        torch.cat(accuracies).cpu(),
        torch.cat(starts, 1).cpu(),
        torch.cat(ends, 1).cpu(),
    )
