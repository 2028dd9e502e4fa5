"""A population of small classifiers trained in one batched program, so that their generalization gaps differ.

All are networks `d - h - h - h - K` of rectifiers (or another activation) on scikit-learn's digits; they differ in width (narrow ones are wide ones whose other units are zero and stay so, as
their gradients vanish exactly), learning rate, L2 penalty, dropout, batch norm, number of training images and part of labels drawn anew. All weights are stacked `(B, ., .)`, every
step is a few batched products, and there is no loop over networks.

In evaluation mode batch norm is an affine map with the statistics of the training set at the final weights; it is folded into the affine layer before it, so every network ends as
one description with a row of `theta`, which margins and bounds read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from numerics.datasets import DIGITS, digits
from numerics.device import DTYPE, generator
from numerics.realise import ACTIVATION_FUNCTIONS, realise
from theory.atoms.entrywise import ACTIVATIONS, z
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.network import Chain
from theory.records import Shape

HIDDEN = 3
"""Hidden layers, as in the paper's signature: input and three hidden ones."""
MOMENTUM = 0.9
BATCH = 32
"""Images in a mini-batch, drawn with replacement from each network's training set."""
EPS = 1e-5
"""Of batch norm."""


@dataclass(frozen=True)
class Ranges:
    """What the networks of a population are drawn from, uniformly and independently; a rate from the logarithms between two ends.

    Attributes:
        widths, samples, label_noise, dropout, l2: the values that occur.
        learning_rate: the two ends.
        batch_norm: part of the networks that have it.
    """

    widths: tuple[int, ...] = (16, 24, 32)
    samples: tuple[int, ...] = (64, 96, 128, 160)
    label_noise: tuple[float, ...] = (0.0, 0.05, 0.1)
    dropout: tuple[float, ...] = (0.0, 0.1)
    l2: tuple[float, ...] = (0.0, 1e-4, 1e-3)
    learning_rate: tuple[float, float] = (0.02, 0.1)
    batch_norm: float = 0.5


FIXED_DATA = Ranges(samples=(128,), label_noise=(0.0,))
"""The paper's setting: one training set with its own labels, only the network and its training differ."""


@dataclass(frozen=True, eq=False)
class Settings:
    """What each of `B` networks was drawn as; every field is `(B,)`."""

    width: Tensor
    samples: Tensor
    label_noise: Tensor
    dropout: Tensor
    l2: Tensor
    learning_rate: Tensor
    batch_norm: Tensor

    @classmethod
    def draw(cls, count: int, ranges: Ranges, source: Generator) -> Settings:
        """Draw the settings of `count` networks."""

        def among(values: tuple[float, ...]) -> Tensor:
            return torch.tensor(values)[torch.randint(len(values), (count,), generator=source)]

        low, high = (math.log(end) for end in ranges.learning_rate)
        return cls(
            among(ranges.widths),
            among(ranges.samples),
            among(ranges.label_noise).to(DTYPE),
            among(ranges.dropout).to(DTYPE),
            among(ranges.l2).to(DTYPE),
            torch.exp(low + (high - low) * torch.rand(count, generator=source, dtype=DTYPE)),
            # sorted, which changes nothing as all draws are independent: networks with batch norm are the first rows of every stack
            (torch.rand(count, generator=source) < ranges.batch_norm).sort(descending=True).values,
        )

    def __len__(self) -> int:
        return len(self.width)


@dataclass(frozen=True, eq=False)
class Population:
    """Trained networks as one description and their parameters.

    Attributes:
        network, shape: the description in evaluation mode, with the largest width, and the shape of its input, `(d, N)` with `N` the largest training set.
        theta: `(B, P)`.
        X: `(d, N)`; a network with fewer training images has the first ones.
        labels: `(B, N)`, those that were trained on.
        used: `(B, N)` bool.
        settings: what was drawn.
        train_accuracy, test_accuracy: `(B,)`, on the labels trained on, and on held-out images with their own labels.
    """

    network: Chain
    shape: Shape
    theta: Tensor = field(repr=False)
    X: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    used: Tensor = field(repr=False)
    settings: Settings = field(repr=False)
    train_accuracy: Tensor
    test_accuracy: Tensor

    @property
    def gap(self) -> Tensor:
        """Generalization gap `(B,)`: training accuracy less test accuracy."""
        return self.train_accuracy - self.test_accuracy

    def fitted(self, accuracy: float) -> Tensor:
        """`(B,)` bool: the networks whose training accuracy is at least this."""
        return self.train_accuracy >= accuracy


def description(width: int, classes: int, activation: str = "relu") -> Chain:
    """`affine, relu` (or another activation) for every hidden layer and a last affine layer, all with bias."""
    hidden = (Affine(width, bias=True), Activation(activation)) * HIDDEN
    return Chain((*hidden, Affine(classes, bias=True)))


class _Stack:
    """The stacked parameters in training: weights `(B, out, in)`, biases, and gains and shifts of batch norm, `(B, out, 1)`."""

    def __init__(
        self, settings: Settings, features: int, classes: int, source: Generator, activation: str = "relu"
    ) -> None:
        count, widest = len(settings), int(settings.width.max())
        alive = (torch.arange(widest) < settings.width.unsqueeze(1)).to(DTYPE)
        sizes = (features, *(widest,) * HIDDEN, classes)
        masks = [torch.ones(count, features, dtype=DTYPE), *[alive] * HIDDEN, torch.ones(count, classes, dtype=DTYPE)]
        self.weights, self.biases = [], []
        for rows, columns, out, into in zip(sizes[1:], sizes[:-1], masks[1:], masks[:-1], strict=True):
            drawn = torch.randn(count, rows, columns, generator=source, dtype=DTYPE)
            # He's scale at the network's own width
            drawn = drawn * out.unsqueeze(2) * into.unsqueeze(1) * (2 / into.sum(1)).sqrt().reshape(-1, 1, 1)
            self.weights.append(drawn.requires_grad_())
            self.biases.append(torch.zeros(count, rows, 1, dtype=DTYPE).requires_grad_())
        self.normed = int(settings.batch_norm.sum())
        self.gains = [alive[: self.normed].unsqueeze(2).clone().requires_grad_() for _ in range(HIDDEN)]
        self.shifts = [torch.zeros_like(gain).requires_grad_() for gain in self.gains]
        self.settings, self.source, self.phi = settings, source, ACTIVATION_FUNCTIONS[activation]

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.weights, *self.biases, *self.gains, *self.shifts]

    def train_outputs(self, x: Tensor) -> Tensor:
        """Outputs `(B, K, n)` in training mode on a mini-batch `(B, d, n)`."""
        keep = (1 - self.settings.dropout).reshape(-1, 1, 1)
        for layer in range(HIDDEN):
            z = torch.baddbmm(self.biases[layer], self.weights[layer], x)
            first = z[: self.normed]
            centred = first - first.mean(2, keepdim=True)
            scale = self.gains[layer] * (centred.square().mean(2, keepdim=True) + EPS).rsqrt()
            z = torch.cat([torch.addcmul(self.shifts[layer], scale, centred), z[self.normed :]])
            kept = (torch.rand(z.shape, generator=self.source) < keep) / keep
            x = self.phi(z) * kept
        return torch.baddbmm(self.biases[-1], self.weights[-1], x)

    def penalty(self) -> Tensor:
        """`(l2 / 2) sum |W|^2`, `(B,)`."""
        return self.settings.l2 / 2 * torch.stack([w.square().sum((1, 2)) for w in self.weights]).sum(0)

    @torch.no_grad()
    def folded(self, X: Tensor, used: Tensor) -> list[Tensor]:
        """Weights and biases in evaluation mode, in the description's order: batch norm as an affine map with the statistics of the used columns."""
        x, arrays = X.expand(len(self.settings), *X.shape), []
        part = (used.to(DTYPE) / used.sum(1, keepdim=True)).unsqueeze(2)
        for layer in range(HIDDEN):
            z = torch.baddbmm(self.biases[layer], self.weights[layer], x)
            mean = torch.bmm(z, part)
            variance = torch.bmm((z - mean).square(), part)
            factor, moved = torch.ones_like(mean), torch.zeros_like(mean)
            factor[: self.normed] = self.gains[layer] * (variance[: self.normed] + EPS).rsqrt()
            moved[: self.normed] = self.shifts[layer] - factor[: self.normed] * mean[: self.normed]
            weight, bias = factor * self.weights[layer], factor * self.biases[layer] + moved
            arrays += [weight, bias.squeeze(2)]
            x = self.phi(torch.baddbmm(bias, weight, x))
        return [*arrays, self.weights[-1].detach(), self.biases[-1].detach().squeeze(2)]


def _noisy(labels: Tensor, noise: Tensor, classes: int, source: Generator) -> Tensor:
    """Labels `(B, N)` of which a part is drawn anew among the other classes."""
    size = (len(noise), len(labels))
    drawn = torch.rand(size, generator=source, dtype=DTYPE) < noise.unsqueeze(1)
    shift = torch.randint(1, classes, size, generator=source)
    return torch.where(drawn, (labels + shift) % classes, labels)


def accuracy(outputs: Tensor, labels: Tensor, used: Tensor | None = None) -> Tensor:
    """Part of the used columns of `(*batch, K, N)` whose largest output is the labelled one, `(*batch,)`."""
    right = (outputs.argmax(-2) == labels).to(DTYPE)
    if used is None:
        return right.mean(-1)
    return (right * used).sum(-1) / used.sum(-1)


def train(
    count: int, steps: int, seed: int, ranges: Ranges | None = None, *, held_out: int = 1000, activation: str = "relu"
) -> Population:
    """Draw and train a population by stochastic gradient descent with momentum, learning rates falling to zero by a cosine.

    Args:
        count: number `B` of networks.
        steps: mini-batches each sees.
        seed: of data, settings, initial weights and mini-batches.
        ranges: what the settings are drawn from.
        held_out: test images, which no network trains on.
        activation: of the hidden layers; it has to vanish at 0, so that units beyond a network's width stay without effect.

    Raises:
        ValueError: fewer than two networks, more training and test images than there are, an activation that is unknown or does not vanish at 0.
    """
    ranges = ranges or Ranges()
    largest = max(ranges.samples)
    if count < 2 or largest + held_out > DIGITS:
        raise ValueError(
            f"{count} networks, {largest} training and {held_out} test images: give at least 2 networks and at most {DIGITS} images in all"
        )
    if activation not in ACTIVATION_FUNCTIONS or ACTIVATIONS[activation].subs(z, 0) != 0:
        vanishing = [name for name, phi in ACTIVATIONS.items() if phi.subs(z, 0) == 0]
        raise ValueError(f"activation {activation!r}: use one that vanishes at 0: {', '.join(vanishing)}")
    data, source = digits(largest + held_out, seed), generator(seed)
    X, test = data.X[:, :largest].contiguous(), data.X[:, largest:]
    settings = Settings.draw(count, ranges, source)
    labels = _noisy(data.labels[:largest], settings.label_noise, data.classes, source)
    used = torch.arange(largest) < settings.samples.unsqueeze(1)
    stack = _Stack(settings, data.features, data.classes, source, activation)
    velocity = [torch.zeros_like(p) for p in stack.parameters]
    rows = X.T.contiguous()
    for step in range(steps):
        picks = (torch.rand(count, BATCH, generator=source, dtype=DTYPE) * settings.samples.unsqueeze(1)).long()
        outputs = stack.train_outputs(rows[picks].transpose(1, 2))
        losses = torch.nn.functional.cross_entropy(outputs, labels.gather(1, picks), reduction="none").mean(1)
        gradients = torch.autograd.grad((losses + stack.penalty()).sum(), stack.parameters)
        rate = settings.learning_rate.reshape(-1, 1, 1) * (1 + math.cos(math.pi * step / steps)) / 2
        with torch.no_grad():
            for parameter, moving, gradient in zip(stack.parameters, velocity, gradients, strict=True):
                moving.mul_(MOMENTUM).add_(gradient)
                # gains and shifts belong to the first networks
                parameter.sub_(rate[: len(parameter)] * moving)
    network = description(int(settings.width.max()), data.classes, activation)
    shape = Shape(data.features, largest)
    realisation = realise(network, shape)
    theta = realisation.pack(stack.folded(X, used))
    tested = realise(network, Shape(data.features, held_out))
    with torch.no_grad():
        train_accuracy = accuracy(realisation(theta, X), labels, used)
        test_accuracy = accuracy(tested(theta, test), data.labels[largest:])
    return Population(network, shape, theta, X, labels, used, settings, train_accuracy, test_accuracy)
