"""Which variant will train faster, said before training: from the initial states of paired trials.

With `ell = cost(F(theta))` the mean cost of a batch, `g = grad ell` by the parameters and `q` the gradient of the cost by the outputs:

* `decrease`: a step `eta` of gradient descent lowers the loss by `eta |g|^2` to first order, so the log-ratio of two variants is that of
  their `|g|^2`, at every step size;
* `regularity`: `|g|^2 / |q|^2`, the tangent kernel `DF DF^T` along the direction that the cost asks for; what the PL constant bounds below;
* `singular_values`: the mean singular value of the Jacobian of the outputs by the first block's input, in training mode.

Each variant of a trial starts from one initial state. The mean of the log-ratios over trials comes with a bootstrap confidence interval; a pair
whose interval holds 0 is undecided. First order says nothing of steps so long that it would take the loss below 0; the record says which.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from numerics.device import DTYPE
from numerics.report import plain, write_atomically
from numerics.skips.blocks import BlockBounds, block_bounds
from numerics.skips.modules import Described, arrays_of, as_module
from numerics.skips.networks import SkipNetwork
from numerics.skips.paired import LEVEL, RESAMPLES, Interval, interval, resampled_means

QUANTITIES: dict[str, tuple[str, str]] = {
    "decrease": ("faster", "slower"),
    "regularity": ("faster", "slower"),
    "singular_values": ("larger", "smaller"),
}
"""What is compared, and what is said of a variant where it is above or below another."""

Spectrum = Callable[[Described, Tensor], Tensor]
"""`(module, images) -> singular values (n,)`, descending, of the Jacobian of the outputs by the first block's input."""


def dense_spectrum(module: Described, images: Tensor) -> Tensor:
    """All singular values, descending, `(min(K N, d N),)`, of the Jacobian of the outputs by the input of part 1, formed whole.

    The simple way, for small networks; in training mode batch norm couples the samples, and the Jacobian counts that.
    """
    with torch.no_grad():
        inputs = module.part(images, 0, 1)
    inputs.requires_grad_()
    outputs = module.part(inputs, 1).flatten()
    rows = [torch.autograd.grad(each, inputs, retain_graph=True)[0].flatten() for each in outputs]
    values: Tensor = torch.linalg.svdvals(torch.stack(rows))
    return values


@dataclass(frozen=True)
class Start:
    """One variant at its initial state in one trial.

    Attributes:
        variant, seed: which.
        loss: mean cross-entropy of the batch.
        squared_gradient: `|g|^2` by all parameters.
        squared_cost_gradient: `|q|^2` by the outputs.
        singular_values: descending; empty where they were not measured.
    """

    variant: str
    seed: int
    loss: float
    squared_gradient: float
    squared_cost_gradient: float
    singular_values: tuple[float, ...] = ()

    def decrease(self, step_size: float) -> float:
        """`eta |g|^2`."""
        return step_size * self.squared_gradient

    def value(self, quantity: str) -> float:
        """The quantity by its name in `QUANTITIES`; a mean over no singular values is not a number."""
        if quantity == "decrease":
            return self.squared_gradient
        if quantity == "regularity":
            return self.squared_gradient / self.squared_cost_gradient
        values = self.singular_values
        return sum(values) / len(values) if values else math.nan


def start(
    net: SkipNetwork,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    dtype: torch.dtype = DTYPE,
    spectrum: Spectrum | None = dense_spectrum,
) -> Start:
    """Measure one variant at the initial state of a seed, in training mode.

    Args:
        images: `(N, channels, height, width)`.
        labels: `(N,)`.
        spectrum: how singular values are measured; None: they are not.
    """
    module = as_module(net.network, net.image, seed=seed, dtype=dtype, device=images.device)
    images = images.to(dtype)
    outputs = module(images)
    loss = torch.nn.functional.cross_entropy(outputs, labels)
    outer, *gradients = torch.autograd.grad(loss, (outputs, *module.parameters()))
    values = spectrum(module, images) if spectrum is not None else images.new_zeros(0)
    return Start(
        net.variant,
        seed,
        float(loss.detach()),
        float(sum(gradient.double().square().sum() for gradient in gradients)),
        float(outer.double().square().sum()),
        tuple(values.double().tolist()),
    )


@dataclass(frozen=True)
class Pair:
    """One variant against another: the mean over trials of the log-ratio first / second, and what it says of the first."""

    quantity: str
    first: str
    second: str
    log_ratio: Interval
    statement: str


@dataclass(frozen=True)
class Order:
    """Variants by the mean over trials of a quantity's logarithm, the largest first.

    Attributes:
        support: the share of resampled sets of trials that give the same order.
    """

    quantity: str
    variants: tuple[str, ...]
    support: float


@dataclass(frozen=True)
class Prediction:
    """What is predicted, with all that it rests on.

    Attributes:
        network: the networks' name.
        variants: names in the order given.
        data: number and shape of the images and a digest of images and labels, by name.
        step_sizes: learning rates that the prediction is meant for; to first order its pairs do not depend on them.
        too_long: for each of them the share of starts whose first-order decrease exceeds the loss itself, which cannot come true: there
            `decrease` is no prediction of the first step.
        starts: every variant of every trial.
        bounds: for each variant the bounds of its blocks at the first trial's initial state; empty where not asked for.
        pairs: every pair of variants in every quantity.
        orders: the predicted order in every quantity.
    """

    network: str
    variants: tuple[str, ...]
    data: Mapping[str, Any]
    step_sizes: tuple[float, ...]
    too_long: tuple[float, ...]
    starts: tuple[Start, ...]
    bounds: Mapping[str, tuple[BlockBounds, ...]]
    pairs: tuple[Pair, ...]
    orders: tuple[Order, ...]

    def pair(self, quantity: str, first: str, second: str) -> Pair:
        """The comparison of two variants, in either order.

        Raises:
            ValueError: there is none of that name.
        """
        for pair in self.pairs:
            if pair.quantity == quantity and {pair.first, pair.second} == {first, second}:
                return pair if pair.first == first else _turned(pair)
        known = ", ".join(dict.fromkeys(pair.quantity for pair in self.pairs))
        raise ValueError(f"no {quantity} of {first} against {second}: known are {known} of {', '.join(self.variants)}")

    def write(self, path: str | Path) -> Path:
        """The record as JSON, written atomically. What is written stays: another prediction in its place is refused.

        Raises:
            ValueError: the file exists and holds something else.
        """
        path, text = Path(path), json.dumps(plain(asdict(self)), indent=1)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{path} holds another prediction, which a run may rest on: choose another file")
        return write_atomically(path, text)

    @classmethod
    def read(cls, path: str | Path) -> Prediction:
        """What `write` wrote.

        Raises:
            ValueError: the file is no prediction.
        """
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(
                raw["network"],
                tuple(raw["variants"]),
                raw["data"],
                tuple(raw["step_sizes"]),
                tuple(raw["too_long"]),
                tuple(Start(**{**s, "singular_values": tuple(s["singular_values"])}) for s in raw["starts"]),
                {name: tuple(map(_block, blocks)) for name, blocks in raw["bounds"].items()},
                tuple(Pair(**{**p, "log_ratio": Interval(**p["log_ratio"])}) for p in raw["pairs"]),
                tuple(Order(**{**o, "variants": tuple(o["variants"])}) for o in raw["orders"]),
            )
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no prediction ({error}): write one with Prediction.write") from None


def _block(raw: Mapping[str, Any]) -> BlockBounds:
    values: dict[str, Any] = {name: math.inf if value == "oo" else value for name, value in raw.items()}
    return BlockBounds(**values)


def _turned(pair: Pair) -> Pair:
    known = pair.log_ratio
    ratio = Interval(-known.mean, -known.high, -known.low, known.level, known.trials)
    return Pair(pair.quantity, pair.second, pair.first, ratio, ratio.says(*QUANTITIES[pair.quantity]))


def predict(
    networks: Sequence[SkipNetwork],
    images: Tensor,
    labels: Tensor,
    *,
    seeds: Sequence[int],
    step_sizes: Sequence[float] = (0.1,),
    spectrum: Spectrum | None = dense_spectrum,
    bounds: bool = True,
    dtype: torch.dtype = DTYPE,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Prediction:
    """The prediction for variants of one network on one batch; each seed is a trial, whose variants share its initial state.

    Args:
        networks: the variants.
        images, labels: `(N, channels, height, width)` and `(N,)`.
        seeds: of the trials, at least 3.
        spectrum: how singular values are measured; None leaves them out.
        bounds: whether the blocks' bounds are derived, at the first seed's initial state; they take a realisation in double precision.

    Raises:
        ValueError: fewer than two variants, equal ones or ones with different images, fewer than 3 or repeated seeds, or a quantity that is
            zero or not finite.
    """
    variants = tuple(net.variant for net in networks)
    if len(variants) < 2 or len(set(variants)) < len(variants):
        raise ValueError(f"variants {', '.join(variants) or 'none'}: give at least two, each of them once")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {tuple(seeds)}: a trial that is counted twice is not a second one")
    if any(net.image != tuple(images.shape[1:]) for net in networks):
        raise ValueError(f"images of shape {tuple(images.shape[1:])} for networks on {networks[0].image}: resize them")
    starts = tuple(
        start(net, images, labels, seed=seed, dtype=dtype, spectrum=spectrum) for seed in seeds for net in networks
    )
    table = {
        quantity: _logarithms(starts, variants, quantity)
        for quantity in QUANTITIES
        if spectrum is not None or quantity != "singular_values"
    }
    pairs, orders = [], []
    for quantity, logs in table.items():
        for i, j in itertools.combinations(range(len(variants)), 2):
            ratio = interval(logs[:, i] - logs[:, j], level=level, resamples=resamples)
            pairs.append(Pair(quantity, variants[i], variants[j], ratio, ratio.says(*QUANTITIES[quantity])))
        ranks = logs.mean(0).argsort(stable=True, descending=True)
        resampled = resampled_means(logs, resamples=resamples).argsort(stable=True, dim=1, descending=True)
        support = float((resampled == ranks).all(1).double().mean())
        orders.append(Order(quantity, tuple(variants[i] for i in ranks.tolist()), support))
    return Prediction(
        networks[0].name.rsplit(", ", 1)[0],
        variants,
        _facts(images, labels),
        tuple(step_sizes),
        tuple(sum(each.decrease(eta) > each.loss for each in starts) / len(starts) for eta in step_sizes),
        starts,
        {net.variant: _bounds(net, images, seeds[0]) for net in networks} if bounds else {},
        tuple(pairs),
        tuple(orders),
    )


def _logarithms(starts: Sequence[Start], variants: Sequence[str], quantity: str) -> Tensor:
    """`(trials, variants)`."""
    values = torch.tensor([each.value(quantity) for each in starts], dtype=DTYPE).reshape(-1, len(variants))
    if not bool((values.isfinite() & (values > 0)).all()):
        at = next(each for each in starts if not 0 < each.value(quantity) < math.inf)
        raise ValueError(
            f"{quantity} of {at.variant} at seed {at.seed} is {at.value(quantity)}: a log-ratio needs positive finite values"
        )
    return values.log()


def _facts(images: Tensor, labels: Tensor) -> dict[str, Any]:
    digest = hashlib.sha256()
    for each in (images.double(), labels.long()):
        digest.update(each.cpu().contiguous().numpy().tobytes())
    return {"samples": len(images), "image": list(images.shape[1:]), "sha256": digest.hexdigest()}


def _bounds(net: SkipNetwork, images: Tensor, seed: int) -> tuple[BlockBounds, ...]:
    arrays = arrays_of(as_module(net.network, net.image, seed=seed))
    return block_bounds(net, arrays, images.cpu().double().movedim(0, -1).reshape(-1, len(images)))
