"""Class separability against layer: networks of several depths, many seeds each trained at once, and the discrimination value of every layer."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import sympy
import torch
from torch import Tensor

from numerics.datasets import Data
from numerics.device import DTYPE, generator
from numerics.measure import cross_entropies
from numerics.realise import Realisation, realise
from numerics.separability.value import discrimination_value
from numerics.skips.paired import Interval, interval
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.network import Chain, chain
from theory.records import Shape


@dataclass(frozen=True)
class Training:
    """How networks are trained: by Adam on mini-batches that all networks share.

    Attributes:
        width: of every hidden layer.
        activation: of every hidden layer; the weights start with variance `gain / inputs`, biases at 0.
        gain: 2 for ReLU (He), 1 for tanh (LeCun).
        seeds: number of networks.
        steps, batch, learning_rate: of Adam.
        seed: of the starts and of the mini-batches.
    """

    width: int = 32
    activation: str = "relu"
    gain: float = 2.0
    seeds: int = 8
    steps: int = 150
    batch: int = 128
    learning_rate: float = 3e-3
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Layers:
    """Discrimination values of the layers of networks of one depth.

    Attributes:
        depth: number of hidden layers.
        before, after: `(seeds, depth + 2)` before and after training: the input, each hidden layer after its activation, the logits.
        accuracy: `(seeds,)`, share of the measured samples that are classified right after training.
    """

    depth: int
    before: Tensor
    after: Tensor
    accuracy: Tensor

    @cached_property
    def changes(self) -> list[Interval]:
        """For each layer the mean over seeds of its value less that of the layer before, with its interval; negative is better separated."""
        return [interval(step) for step in self.after.diff(dim=1).T]

    def curve(self, trained: bool = True) -> list[Interval]:
        """For each layer the mean over seeds, with its interval."""
        return [interval(values) for values in (self.after if trained else self.before).T]


def start(network: Realisation, training: Training) -> Tensor:
    """Starting parameters `(seeds, P)`: weights of variance `gain / inputs`, biases 0."""
    source = generator(training.seed)
    arrays = []
    for spec in network.parameters:
        if len(spec.shape) == 2:
            drawn = torch.randn(training.seeds, *spec.shape, generator=source, dtype=DTYPE)
            arrays.append(drawn * math.sqrt(training.gain / spec.shape[1]))
        else:
            arrays.append(torch.zeros(training.seeds, *spec.shape, dtype=DTYPE))
    return network.pack(arrays)


def train(network: Chain, data: Data, training: Training) -> Tensor:
    """Parameters `(seeds, P)` after training; networks do not mix, as Adam acts entry by entry and the losses are added.

    Raises:
        ValueError: a mini-batch larger than the data.
    """
    if training.batch > data.samples:
        raise ValueError(f"mini-batches of {training.batch} from {data.samples} samples: take smaller ones")
    here = realise(network, Shape(sympy.Integer(data.features), sympy.Integer(training.batch)))
    theta = start(here, training).requires_grad_()
    optimiser = torch.optim.Adam([theta], training.learning_rate)
    source = generator(training.seed + 1)
    for _ in range(training.steps):
        chosen = torch.randperm(data.samples, generator=source)[: training.batch]
        optimiser.zero_grad()
        losses = cross_entropies(here(theta, data.X[:, chosen]), data.labels[chosen])
        torch.autograd.backward(losses.mean(-1).sum())
        optimiser.step()
    return theta.detach()


def layer_values(network: Chain, theta: Tensor, data: Data) -> tuple[Tensor, Tensor]:
    """Discrimination values `(seeds, layers)` of the input, of the output of every activation and of the network, and the logits.

    A network's first members have the first of its parameters, so each layer is a network of its own.
    """
    shape = Shape(sympy.Integer(data.features), sympy.Integer(data.samples))
    members = network.members
    ends = [i for i, member in enumerate(members, 1) if isinstance(member, Activation) or i == len(members)]
    value = discrimination_value(data.X, data.labels)
    values, outputs = [value.expand(len(theta))], data.X
    for end in ends:
        part = realise(Chain(members[:end]), shape)
        outputs = part(theta[:, : part.size], data.X)
        values.append(discrimination_value(outputs, data.labels))
    return torch.stack(values, 1), outputs


def perceptron(depth: int, classes: int, training: Training) -> Chain:
    """`depth` hidden layers `affine, activation` with biases and an affine readout."""
    layer = (Affine(sympy.Integer(training.width), bias=True), Activation(training.activation))
    return chain(*layer * depth, Affine(sympy.Integer(classes), bias=True))


def study(depths: tuple[int, ...], data: Data, measured: Data, training: Training) -> dict[int, Layers]:
    """Depth -> discrimination values of every layer on `measured`, of networks trained on `data`.

    Raises:
        ValueError: a depth below 1, or data of another shape.
    """
    if min(depths) < 1:
        raise ValueError(f"depth {min(depths)}: a network needs a hidden layer")
    if (data.features, data.classes) != (measured.features, measured.classes):
        shapes = f"{(data.features, data.classes)} and {(measured.features, measured.classes)}"
        raise ValueError(f"training and measured data have (features, classes) {shapes}: they must agree")
    found = {}
    for depth in depths:
        network = perceptron(depth, data.classes, training)
        here = realise(network, Shape(sympy.Integer(data.features), sympy.Integer(training.batch)))
        before, _ = layer_values(network, start(here, training), measured)
        after, logits = layer_values(network, train(network, data, training), measured)
        right = (logits.argmax(-2) == measured.labels).to(DTYPE).mean(-1)
        found[depth] = Layers(depth, before, after, right)
    return found


def halves(data: Data) -> tuple[Data, Data]:
    """The first half of the samples and the rest; `digits` deals its samples in rounds over the classes, so both are as even as the whole."""
    middle = data.samples // 2
    first, second = (
        Data(data.X[:, part].contiguous(), data.labels[part], data.classes)
        for part in (slice(None, middle), slice(middle, None))
    )
    return first, second


def across_depths(found: dict[int, Layers]) -> list[tuple[int, int, int, Interval]]:
    """`(hidden layer, shallower, deeper, difference)` for neighbouring depths: the value of the same hidden layer in the deeper less the shallower networks.

    One master curve for all depths would have all differences 0.
    """
    depths = sorted(found)
    return [
        (layer, low, high, interval(found[high].after[:, layer] - found[low].after[:, layer]))
        for low, high in itertools.pairwise(depths)
        for layer in range(1, low + 1)
    ]
