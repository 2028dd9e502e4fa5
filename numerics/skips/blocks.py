"""What is derived of the singular values of each block's input Jacobian, at given weights and a given batch.

The bounds hold at these weights only: over all weights the largest singular value has no bound, as a convolution's has none. The
smallest one counts on the output side, `inf |J^T y| / |y|`; for most blocks its bound is 0, and `reason` says whether 0 is the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from numerics.certification.local import ALLOWANCE, FLOATS, Walk
from numerics.device import DTYPE, generator
from numerics.measure import jacobian_operators, operator_norm
from numerics.realise import realise
from numerics.skips.networks import SkipNetwork
from theory.compose import Parallel, Series, collapse, regularity
from theory.derive import derive
from theory.layers.fixed import FeaturePad
from theory.layers.normalisation import BatchNorm
from theory.network import Branches, Chain, Network, Residual, expand, walk
from theory.records import FeatureBounds, Shape


@dataclass(frozen=True)
class FixedSpectrum:
    """The spectrum of `pad(s AvgPool_s)` on a batch: it is a partial isometry.

    Attributes:
        ones: how many singular values are 1; all others are 0.
        inputs, outputs: numbers in its input and output.
    """

    ones: int
    inputs: int
    outputs: int

    @property
    def injective(self) -> bool:
        """Whether `inf |S x| / |x|` is 1, not 0: it does not pool."""
        return self.ones == self.inputs

    @property
    def onto(self) -> bool:
        """Whether `inf |S^T y| / |y|` is 1, not 0: it does not pad."""
        return self.ones == self.outputs


def fixed_spectrum(shortcut: Network, shape: Shape) -> FixedSpectrum:
    """The spectrum of a fixed shortcut, derived: all singular values of its pooling part on the output side lie between `s` and `J`,
    which are both 1, and the padding after it is an isometry.

    Args:
        shortcut: maps without parameters, at most the last of them a padding of features.
        shape: of the batch, in numbers.

    Raises:
        ValueError: the part before the padding is not shown to be a co-isometry.
    """
    members = shortcut.members if isinstance(shortcut, Chain) else (shortcut,)
    pooling = Chain(members[:-1] if members and isinstance(members[-1], FeaturePad) else members)
    bounds = collapse(derive(pooling, FeatureBounds.unbounded(shape)).tree, shape.samples)
    ends = bounds.input_jacobian_sigma_min.expression, bounds.input_jacobian_norm.expression
    if bounds.has_parameters or ends != (1, 1):
        raise ValueError(f"the shortcut's singular values are only known to lie in [{ends[0]}, {ends[1]}], not to be 1")
    sizes = [int(each.size) for each in (pooling.output_shape(shape), shape, shortcut.output_shape(shape))]
    return FixedSpectrum(*sizes)


@dataclass(frozen=True)
class BlockBounds:
    """The singular values of one block's input Jacobian, numbers of a whole batch to numbers of a whole batch.

    Attributes:
        block: its name.
        inputs, outputs: numbers in its input and output.
        largest: upper bound of the largest singular value.
        smallest: lower bound of the smallest one on the output side.
        smallest_is_zero: whether that one is shown to be 0, so that no other bound is possible.
        branch: upper bound of the largest singular value of the branch beside the skip; of a chain, of all of it.
        reason: where `smallest` comes from.
        measured_largest: the largest singular value measured, from below; None where it was not asked for.
    """

    block: str
    inputs: int
    outputs: int
    largest: float
    smallest: float
    smallest_is_zero: bool
    branch: float
    reason: str
    measured_largest: float | None


def block_bounds(
    net: SkipNetwork, arrays: Mapping[str, Tensor], x: Tensor, *, measure: bool = True
) -> tuple[BlockBounds, ...]:
    """Bounds for every part between stem and head at the given weights and batch.

    Args:
        arrays: the parameters by their names in the description (`numerics.skips.modules.arrays_of`).
        x: `(d, N)` float64, the batch as `numerics.realise` takes it.
        measure: whether the largest singular values are measured as well, matrix-free.
    """
    shapes = net.shapes(x.shape[-1])
    members = [expand(part, shape)[0] for (_, part), shape in zip(net.parts, shapes, strict=False)]
    walked = Walk(arrays, 0.0, third=False, measure=False)
    _, tree = walked([atom for part in members for atom in part], x, shapes[0])
    found, place = [], len(members[0])
    inputs = list(_inputs(net, arrays, x, shapes))
    for index in range(1, len(net.parts) - 1):
        name, part = net.parts[index]
        leaves = Series(tree.members[place : place + len(members[index])])
        place += len(members[index])
        fold = regularity(leaves, FLOATS)
        smallest = float(fold.sigma_min) * (1 - ALLOWANCE)
        branch = _branch(leaves) * (1 + ALLOWANCE)
        zero, reason = _reason(part, shapes[index], branch)
        found.append(
            BlockBounds(
                name,
                int(shapes[index].size),
                int(shapes[index + 1].size),
                float(fold.jacobian) * (1 + ALLOWANCE),
                smallest,
                zero,
                branch,
                reason,
                _largest(part, shapes[index], arrays, inputs[index]) if measure else None,
            )
        )
    return tuple(found)


def _inputs(net: SkipNetwork, arrays: Mapping[str, Tensor], x: Tensor, shapes: tuple[Shape, ...]) -> Iterator[Tensor]:
    """The input of every part."""
    for (_, part), shape in zip(net.parts, shapes, strict=False):
        yield x
        function = realise(part, shape)
        x = function(function.pack([arrays[spec.name] for spec in function.parameters]), x)


def _largest(part: Network, shape: Shape, arrays: Mapping[str, Tensor], x: Tensor) -> float:
    function = realise(part, shape)
    theta = function.pack([arrays[spec.name] for spec in function.parameters])
    jvp, vjp = jacobian_operators(function, theta.unsqueeze(0), x.unsqueeze(0), "input")
    source = generator(0)
    start = torch.randn(1, x.numel(), generator=source, dtype=DTYPE)
    return float(operator_norm(jvp, vjp, start, generator=source, tolerance=1e-4).value)


def _branch(leaves: Series) -> float:
    """`J` of the last of added branches, through which the weights act, with what comes before; of a chain, of all of it."""
    before = [1.0]
    for member in leaves.members:
        parallel = isinstance(member, Parallel)
        before.append(float(regularity(member.branches[-1] if parallel else member, FLOATS).jacobian))
    return math.prod(before)


def _reason(part: Network, shape: Shape, branch: float) -> tuple[bool, str]:
    """Whether the smallest singular value is shown to be 0, and where its bound comes from."""
    if isinstance(part, Residual):
        return False, f"identity skip: at least 1 - |branch| where |branch| < 1, and |branch| <= {branch:.4g}"
    outputs, rank = int(part.output_shape(shape).size), int(shape.size)
    members = part.members if isinstance(part, Chain) else (part,)
    normed = bool(members) and isinstance(members[0], BatchNorm)
    if normed:
        rank -= int(shape.features)
    if zero := rank < outputs:
        text = (
            f"rank at most {rank} of {outputs}"
            + (", as batch norm takes constants to 0" if normed else "")
            + ": it is 0"
        )
    else:
        text = "0 is all that is known: batch norm takes constants to 0, ReLU's slope may be 0"
    for each in walk(part):
        if isinstance(each, Branches):
            for shortcut in each.branches[:-1]:
                text += "; " + _of_shortcut(shortcut, shape)
    return zero, text


def _of_shortcut(shortcut: Network, shape: Shape) -> str:
    if any(isinstance(each, FeaturePad) for each in walk(shortcut)):
        known = fixed_spectrum(shortcut, shape)
        sides = [name for name, holds in (("injective", known.injective), ("onto", known.onto)) if not holds]
        what = f"pad(s AvgPool_s) has {known.ones} singular values 1, all others 0"
        return f"{what}: not {' and not '.join(sides)}, its bound is 0" if sides else what
    out = shortcut.output_shape(shape)
    rank = int(shape.features * out.columns)
    return f"the 1x1 projection has rank at most {min(rank, int(out.size))} of {int(out.size)}"
