"""Margin distributions of a classifier at its input and hidden layers (Jiang, Krishnan, Mobahi and Bengio, arXiv 1810.00113).

With `x^l` the features of a sample after `l` members of the description (`x^0` the input), `i` its label and `j` another class, the first-order
distance to the boundary between the two at layer `l` is

    d^l = (f_i - f_j) / |grad_{x^l} (f_i - f_j)|_2,      normalised: d^l / sqrt(tr Cov(x^l)),

signed: negative where the sample is taken for `j`. It is the distance itself where `f` is affine in `x^l` (`theory.margins`). The signature of a layer is five
numbers of its positive distances: quartiles, and fences `max(min, Q1 - 1.5 IQR)` and `min(max, Q3 + 1.5 IQR)`.

What is left out, and counted: misclassified samples (no positive distance), and samples whose gradient vanishes exactly (dead rectifiers: no first-order distance, kept as
`+-inf`, in no signature). Samples must not be coupled: a batch norm over the samples is refused, one in evaluation mode is fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from numerics.certify import problem
from numerics.realise import Realisation, realise
from theory.compose import leaves
from theory.derive import derive
from theory.layers.activation import Activation
from theory.network import Chain, Network, Repeat, Residual, chain, expand
from theory.records import FeatureBounds, Shape

NUMBERS = ("lower fence", "first quartile", "median", "third quartile", "upper fence")
"""The five numbers of a signature, in this order."""
WHISKER = 1.5
"""Fences lie this many interquartile ranges outside the quartiles (Tukey's boxplot, as in the paper)."""
RIVALS = ("runner-up", "nearest")
"""The other class `j`: the one with the largest output (the paper's), or the one with the least first-order distance."""


@dataclass(frozen=True, eq=False)
class Margins:
    """First-order distances of a batch of networks on one sample each column.

    Attributes:
        positions: `l` of every row of `distances`, as numbers of members that come before.
        distances: `(*batch, L, N)`, signed; `+-inf` where the gradient vanishes, NaN for samples that are not used.
        total_variation: `(*batch, L)`, `tr Cov(x^l)` over the used samples (divided by their number less one).
        correct: `(*batch, N)`, whether a used sample is classified as labelled.
        flat: `(*batch, L)`, used samples whose gradient vanishes.
    """

    positions: tuple[int, ...]
    distances: Tensor
    total_variation: Tensor
    correct: Tensor
    flat: Tensor

    @property
    def normalised(self) -> Tensor:
        """`distances / sqrt(total_variation)`; NaN where a layer does not vary."""
        scale = torch.where(self.total_variation > 0, self.total_variation, torch.nan)
        return self.distances / scale.sqrt().unsqueeze(-1)

    def signature(self, *, normalise: bool = True) -> Tensor:
        """`(*batch, L, 5)`: the numbers named in `NUMBERS` of the positive finite distances; NaN where there is none."""
        values = self.normalised if normalise else self.distances
        positive = torch.where((values > 0) & values.isfinite(), values, torch.nan)
        levels = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=values.dtype, device=values.device)
        least, first, median, third, most = torch.nanquantile(positive, levels, dim=-1)
        reach = WHISKER * (third - first)
        return torch.stack(
            [torch.maximum(least, first - reach), first, median, third, torch.minimum(most, third + reach)], -1
        )


def hidden_positions(network: Network) -> tuple[int, ...]:
    """The input and every hidden layer: after each activation, residual block or repetition of the chain, the last member excepted."""
    members = _members(network)
    ends = (
        k + 1 for k, member in enumerate(members[:-1]) if isinstance(member, Activation | Chain | Residual | Repeat)
    )
    return (0, *ends)


def _members(network: Network) -> tuple[Network, ...]:
    return network.members if isinstance(network, Chain) else (network,)


@lru_cache(maxsize=64)
def _check_samples_apart(network: Network, shape: Shape) -> None:
    # the derivation knows of every atom whether it couples samples; nothing here lists layers
    tree = derive(network, FeatureBounds.unbounded(shape)).tree
    if not all(leaf.sample_wise for leaf in leaves(tree)):
        raise ValueError(
            "a layer couples samples (a batch norm in training mode), so a sample has no margin of its own: "
            "call model.eval() before tracing, or describe it with its running statistics (frozen_batch_norm)"
        )


def _cuts(network: Network, shape: Shape, positions: Sequence[int]) -> list[int]:
    """For each position the number of top-level operations of the realisation that come before it."""
    counts = [0]
    for member in _members(network):
        atoms, shape = expand(member, shape)
        counts.append(counts[-1] + len(atoms))
    wrong = [p for p in positions if not 0 <= p < len(counts)]
    if wrong or not positions or list(positions) != sorted(set(positions)):
        raise ValueError(
            f"positions {tuple(positions)}: give increasing numbers of members from 0 (the input) to {len(counts) - 1} (the output)"
        )
    return [counts[p] for p in positions]


def features_at(realisation: Realisation, cuts: Sequence[int], theta: Tensor, X: Tensor) -> tuple[list[Tensor], Tensor]:
    """Features after the given numbers of operations, each a node of the graph that the outputs `(*batch, K, N)` are computed from."""
    batch = torch.broadcast_shapes(theta.shape[:-1], X.shape[:-2])
    parameters = realisation.split(theta)
    image, found = X.expand(*batch, *X.shape[-2:]), []
    for done in range(len(realisation.operations) + 1):
        if done in cuts:
            image = image if image.requires_grad else image.detach().requires_grad_(True)
            found.append(image)
        if done < len(realisation.operations):
            image = realisation.operations[done](parameters, image)
    return found, image


def margins(
    network: Network,
    shape: Shape,
    theta: Tensor,
    X: Tensor,
    labels: Tensor,
    *,
    positions: Sequence[int] | None = None,
    rival: str = "runner-up",
    used: Tensor | None = None,
) -> Margins:
    """First-order distances at the chosen layers, for a batch of networks at once.

    Args:
        network: a description; a chain can be cut after each of its members.
        shape: of the input, `(d, N)` with its grid.
        theta: `(*batch, P)`.
        X: `(*batch, d, N)` or `(d, N)`, columns are samples.
        labels: `(*batch, N)` or `(N,)`, int64.
        positions: where to measure, as numbers of members that come before; `hidden_positions(network)` by default.
        rival: one of `RIVALS`.
        used: bool, `(*batch, N)`; the samples that count (all by default), where networks of one batch have training sets of different sizes.

    Raises:
        ValueError: layers that couple samples, an unknown rival, positions that do not exist, labels out of range, fewer than two used samples.
    """
    network = network if isinstance(network, Chain) else chain(network)
    if rival not in RIVALS:
        raise ValueError(f"unknown rival {rival!r}: use one of {', '.join(RIVALS)}")
    _check_samples_apart(network, shape)
    positions = hidden_positions(network) if positions is None else tuple(positions)
    cuts = _cuts(network, shape, positions)
    realisation = realise(network, shape)
    classes, samples = realisation.output_shape
    if labels.shape[-1] != samples or not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels of shape {tuple(labels.shape)}: give {samples} of them in 0 .. {classes - 1}")
    # without a graph through the parameters: only the features are differentiated by
    features, outputs = features_at(realisation, cuts, theta.detach(), X.detach())
    batch = outputs.shape[:-2]
    labels = labels.expand(*batch, samples)
    counted = torch.ones_like(labels, dtype=torch.bool) if used is None else used.expand(*batch, samples)
    if int(counted.sum(-1).min()) < 2:
        raise ValueError("a network has fewer than 2 used samples: a covariance needs two")
    own = outputs.gather(-2, labels.unsqueeze(-2)).squeeze(-2)
    others = outputs.scatter(-2, labels.unsqueeze(-2), -torch.inf)
    correct = (own > others.amax(-2)).detach() & counted
    if rival == "runner-up":
        gaps = own - others.amax(-2)
        norms = [_norm(g) for g in torch.autograd.grad(gaps.sum(), features)]
        distances = torch.stack([gaps.detach() / norm for norm in norms], -2)
    else:
        distances = _nearest(own, others, labels, features)
    flat = (distances.isinf() & counted.unsqueeze(-2)).sum(-1)
    distances = torch.where(counted.unsqueeze(-2), distances, torch.nan)
    variation = torch.stack([_total_variation(x.detach(), counted) for x in features], -1)
    return Margins(tuple(positions), distances, variation, correct, flat)


def _norm(gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(gradient, dim=-2)


def _nearest(own: Tensor, others: Tensor, labels: Tensor, features: list[Tensor]) -> Tensor:
    """The least first-order distance over all other classes, `(*batch, L, N)`."""
    classes = others.shape[-2]
    best: Tensor | None = None
    for j in range(classes):
        gaps = own - others[..., j, :]
        is_own = (labels == j).unsqueeze(-2)
        gradients = torch.autograd.grad(torch.where(labels == j, 0.0, gaps).sum(), features, retain_graph=True)
        here = torch.stack([gaps.detach() / _norm(g) for g in gradients], -2)
        here = torch.where(is_own, torch.inf, here)
        best = here if best is None else torch.minimum(best, here)
    assert best is not None
    return best


def _total_variation(x: Tensor, counted: Tensor) -> Tensor:
    """`tr Cov(x)` over the counted samples, `(*batch, d, N)` -> `(*batch,)`."""
    weights = counted.to(x.dtype).unsqueeze(-2)
    number = weights.sum(-1)
    mean = (x * weights).sum(-1) / number
    squares = (((x - mean.unsqueeze(-1)) * weights) ** 2).sum((-2, -1))
    return squares / (number.squeeze(-1) - 1)


def module_margins(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    positions: Sequence[int] | None = None,
    rival: str = "runner-up",
) -> Margins:
    """`margins` of a module as it is (`numerics.trace`): bring it into evaluation mode first.

    Positions count the members of the traced description (`theory.spec.describe(numerics.trace.trace(model, inputs).network)` prints it).

    Raises:
        ValueError: as `margins`; TypeError as `numerics.trace.trace`.
    """
    given = problem(model, "cross_entropy", None, (inputs, labels))
    return margins(given.network, given.shape, given.theta, given.X, given.targets, positions=positions, rival=rival)
