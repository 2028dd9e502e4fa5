"""The networks on which skip connections are studied, described once: the toy net in three variants, pre-activation ResNets.

After the published code of MacDonald, Valmadre, Saratchandran and Lucey (arXiv 2210.05371). What differs between variants is a shortcut:

* `chain`: none (toy only);
* `projection`: the identity where shapes agree, else a 1x1 convolution of stride `s` of the block's normalised and rectified input `z`;
* `changed`: that convolution plus `pad(s AvgPool_s(z))`, channels of zeros before and after. It adds no parameters.

Layers carry the same path in every variant, so variants of one seed share their initial state (`numerics.skips.modules`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sympy

from theory.atoms.windows import Windows
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.fixed import FeaturePad, Scaling
from theory.layers.normalisation import BatchNorm
from theory.layers.spatial import AveragePool, Convolution, GlobalAveragePool, MaxPool, Reshape
from theory.network import Chain, Network, added, chain, residual, walk
from theory.records import Shape

VARIANTS = ("chain", "projection", "changed")
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of each of the four stages by the depth of the ResNet; bottleneck blocks from 50 layers on."""
BOTTLENECK = 50
STEMS = {"cifar": 32, "imagenet": 224}
"""The stems and the images that they are made for: a 3x3 convolution; a 7x7 one of stride 2 and max-pooling 3x3 of stride 2."""
EPS = sympy.Rational(1, 100000)
"""The `eps` of torch's batch normalisation."""


@dataclass(frozen=True)
class SkipNetwork:
    """A network in parts: a stem, blocks, a head.

    Attributes:
        name: for reports.
        variant: one of `VARIANTS`.
        parts: name and description of each part, in order.
        image: features and grid of one sample, `(channels, height, width)`.
    """

    name: str
    variant: str
    parts: tuple[tuple[str, Network], ...]
    image: tuple[int, ...]

    @property
    def network(self) -> Chain:
        """The description: its members are the parts."""
        return Chain(tuple(part for _, part in self.parts))

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the parts between stem and head."""
        return tuple(name for name, _ in self.parts[1:-1])

    def shape(self, samples: int) -> Shape:
        """The shape of a batch of inputs."""
        return Shape(self.image[0], samples, self.image[1:])

    def shapes(self, samples: int) -> tuple[Shape, ...]:
        """The shape of the input of every part, and of the output.

        Raises:
            ValueError: the shapes inside do not fit, as for an image of another size.
        """
        shapes = [self.shape(samples)]
        for _, part in self.parts:
            shapes.append(part.output_shape(shapes[-1]))
        return tuple(shapes)

    @property
    def changed_shortcuts(self) -> int:
        """How many shortcuts have the fixed part `pad(s AvgPool_s)`."""
        return sum(isinstance(part, FeaturePad) for part in walk(self.network))


def _known(variant: str, variants: Sequence[str]) -> None:
    if variant not in variants:
        raise ValueError(f"unknown variant {variant!r}: use one of {', '.join(variants)}")


def _conv(features: int, path: str, kernel: int, stride: int = 1, padding: int = 0, bias: bool = False) -> Convolution:
    windows = Windows.of((kernel, kernel), (stride, stride), (padding, padding))
    return Convolution(features, windows, bias=bias, path=path)


def _norm(path: str) -> tuple[BatchNorm, Activation]:
    return BatchNorm(EPS, gain=True, shift=True, path=path), Activation("relu")


def fixed_shortcut(stride: int, before: int, after: int) -> Chain:
    """`pad(s AvgPool_s)`: means over disjoint windows `s x s` times `s`, `before` and `after` features of zeros around them.

    Its pooling part is a co-isometry and its padding an isometry, so it is a partial isometry: singular values 0 and 1 only.
    """
    padding = FeaturePad(before, after)
    if stride == 1:
        return chain(padding)
    return chain(AveragePool(Windows.of((stride, stride), (stride, stride))), Scaling(stride), padding)


def toy(variant: str, *, image: int = 28, width: int = 5, features: int = 20, classes: int = 10) -> SkipNetwork:
    """The toy net for grey images of 28 x 28.

    Conv(1 -> 5, k5), AvgPool 2; block 1: twice BN, ReLU, Conv(5 -> 5, k5, pad 2), with identity skip but for the chain; block 2: BN, ReLU,
    and of that Conv(5 -> 20, k3, s2, p1), BN, ReLU, Conv(20 -> 20, k3), with a shortcut of stride 3 but for the chain; BN, ReLU, Linear.
    All convolutions have a bias. Of the 15 channels that the changed shortcut adds 7 come before and 8 after.

    Args:
        variant: one of `VARIANTS`.
        image, width, features, classes: for smaller copies; images of 22 pixels fit as well.

    Raises:
        ValueError: an unknown variant, or an image whose size does not fit the shortcut.
    """
    _known(variant, VARIANTS)
    stem = chain(_conv(width, "conv", 5, bias=True), AveragePool(Windows.of((2, 2), (2, 2))))
    inner = (
        *_norm("block1.bn1"),
        _conv(width, "block1.conv1", 5, padding=2, bias=True),
        *_norm("block1.bn2"),
        _conv(width, "block1.conv2", 5, padding=2, bias=True),
    )
    block1 = chain(*inner) if variant == "chain" else residual(*inner)
    branch = chain(
        _conv(features, "block2.conv1", 3, 2, 1, bias=True),
        *_norm("block2.bn2"),
        _conv(features, "block2.conv2", 3, bias=True),
    )
    shortcut: tuple[Network, ...] = ()
    if variant != "chain":
        shortcut = (_conv(features, "block2.cproj", 1, 3, bias=True),)
    if variant == "changed":
        before = (features - width) // 2
        shortcut = (fixed_shortcut(3, before, features - width - before), *shortcut)
    block2 = chain(*_norm("block2.bn1"), added(*shortcut, branch) if shortcut else branch)
    parts = [("stem", stem), ("block1", block1), ("block2", block2)]
    shape = Chain(tuple(part for _, part in parts)).output_shape(Shape(1, 2, (image, image)))
    head = chain(Reshape(shape.sample_size), *_norm("bn"), Affine(classes, bias=True, path="linear"))
    return SkipNetwork(f"toy, {variant}", variant, (*parts, ("head", head)), (1, image, image))


def resnet(
    depth: int,
    variant: str = "projection",
    *,
    stem: str = "cifar",
    classes: int = 10,
    image: int | None = None,
    width: int = 64,
) -> SkipNetwork:
    """Pre-activation ResNet for colour images; the blocks' convolutions have no bias, and no norm follows the last block.

    Block: of `z = ReLU(BN(x))` the branch, two convolutions 3x3 (from 50 layers on 1x1, 3x3, 1x1 to four times the features) with BN, ReLU
    between; beside it `x`, or where the shape changes the shortcut of `z`. The head is the mean over the grid and a linear layer.

    Args:
        depth: 18, 34, 50, 101 or 152.
        variant: `projection` (the original) or `changed`.
        stem: `cifar` or `imagenet`.
        image: height and width, by default 32 and 224.
        width: features of the first stage.

    Raises:
        ValueError: an unknown depth, variant or stem.
    """
    if depth not in BLOCKS:
        raise ValueError(f"unknown depth {depth}: use one of {', '.join(map(str, BLOCKS))}")
    if stem not in STEMS:
        raise ValueError(f"unknown stem {stem!r}: use one of {', '.join(STEMS)}")
    _known(variant, VARIANTS[1:])
    first: tuple[Network, ...] = (_conv(width, "conv1", 3, 1, 1),)
    if stem == "imagenet":
        pool = MaxPool(Windows.of((3, 3), (2, 2), (1, 1), mode="lowest"))
        first = (_conv(width, "conv1", 7, 2, 3), pool)
    parts: list[tuple[str, Network]] = [("stem", chain(*first))]
    given = width
    for stage, blocks in enumerate(BLOCKS[depth]):
        for index in range(blocks):
            path, stride = f"layer{stage + 1}.{index}", 2 if stage and not index else 1
            planes = width * 2**stage
            out = planes * 4 if depth >= BOTTLENECK else planes
            parts.append((path, _block(path, given, planes, out, stride, variant)))
            given = out
    parts.append(("head", chain(GlobalAveragePool(), Affine(classes, bias=True, path="linear"))))
    size = image or STEMS[stem]
    return SkipNetwork(f"resnet{depth} {stem}, {variant}", variant, tuple(parts), (3, size, size))


def _block(path: str, given: int, planes: int, out: int, stride: int, variant: str) -> Network:
    """A basic block, or with `out` beyond `planes` a bottleneck."""
    rectified = _norm(f"{path}.bn1")
    if out == planes:
        convolutions = [_conv(planes, f"{path}.conv1", 3, stride, 1), _conv(out, f"{path}.conv2", 3, 1, 1)]
    else:
        convolutions = [
            _conv(planes, f"{path}.conv1", 1),
            _conv(planes, f"{path}.conv2", 3, stride, 1),
            _conv(out, f"{path}.conv3", 1),
        ]
    branch: list[Network] = [convolutions[0]]
    for number, convolution in enumerate(convolutions[1:], 2):
        branch += [*_norm(f"{path}.bn{number}"), convolution]
    if stride == 1 and given == out:
        return residual(*rectified, *branch)
    shortcut: tuple[Network, ...] = (_conv(out, f"{path}.shortcut", 1, stride),)
    if variant == "changed":
        after = (out - given) // 2
        shortcut = (fixed_shortcut(stride, out - given - after, after), *shortcut)
    return chain(*rectified, added(*shortcut, chain(*branch)))
