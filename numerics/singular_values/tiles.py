"""The transpose of a 2-d convolution as products with dense matrices, for many small images in double precision on a CPU.

PyTorch unfolds such a convolution image by image, at a quarter of the speed of a matrix product. Here the result is cut into
tiles of a few rows and columns; each depends on a rectangle of the argument, by a matrix that all images share. Larger tiles
multiply more zeros, smaller ones have matrices too narrow to be fast.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

NARROW = 48
"""Columns that a matrix needs to be multiplied at full speed."""
LANES = 12
"""Columns of a matrix that a processor takes at a time."""
COPIED = 20
"""Multiplications in the time of copying one number."""
WASTE = 3.0
"""Tiles are worth their while where they take at most so many times the multiplications of the convolution itself."""


@dataclass(frozen=True)
class _Part:
    """Entries `first` to `last` (excluded) of one axis of the result, and `low` to `high` of the argument, on which they depend."""

    first: int
    last: int
    low: int
    high: int


class Tiles:
    """`g (N, O, H', W') -> (N, I, H, W)`, the transpose of `F.conv2d` with `weight (O, I, k, l)`.

    Args:
        weight: of the convolution, without groups or dilation.
        stride, padding: of the convolution.
        size: `(H, W)`, of the convolution's argument.
    """

    def __init__(
        self, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], size: tuple[int, int]
    ) -> None:
        self.channels, self.size = weight.shape[1], size
        axes = tuple(zip(size, weight.shape[-2:], stride, padding, strict=True))
        self.worthwhile, self.rows, self.columns = _plan(axes, weight.shape[0], weight.shape[1])
        self.matrices: list[list[Tensor]] = []
        if self.worthwhile:
            heights = [_picks(row, *axes[0][1:]).to(weight) for row in self.rows]
            for column in self.columns:
                widths = _picks(column, *axes[1][1:]).to(weight)
                self.matrices.append([_matrix(weight, picks, widths) for picks in heights])

    def __call__(self, g: Tensor) -> Tensor:
        samples, (height, width) = g.shape[0], self.size
        result = g.new_empty(samples, self.channels, height, width)
        for column, matrices in zip(self.columns, self.matrices, strict=True):
            across, wide = (column.high - column.low) * g.shape[1], (column.last - column.first) * self.channels
            given = g[..., column.low : column.high].transpose(1, 2).reshape(samples, -1)  # by row, channel, column
            strip = g.new_empty(samples, height * wide)
            for row, matrix in zip(self.rows, matrices, strict=True):
                out = strip[:, row.first * wide : row.last * wide]
                torch.mm(given[:, row.low * across : row.high * across], matrix, out=out)
            shape = (samples, height, self.channels, column.last - column.first)
            result[..., column.first : column.last] = strip.view(shape).transpose(1, 2)
        return result


@cache
def _plan(
    axes: tuple[tuple[int, int, int, int], ...], outputs: int, inputs: int
) -> tuple[bool, list[_Part], list[_Part]]:
    """Whether tiles are worth their while, and the cheapest ones; an axis is `(size, taps, stride, padding)`."""
    sizes = tuple(axis[0] for axis in axes)
    given = [(n + 2 * p - k) // s + 1 for n, k, s, p in axes]
    best = math.inf
    chosen: tuple[list[_Part], list[_Part]] = ([], [])
    for lengths in itertools.product(range(1, min(sizes[0], 6) + 1), range(1, sizes[1] + 1)):
        if math.prod(lengths) * inputs < NARROW and lengths != sizes:
            continue
        down, across = (_cut(*axis, length) for axis, length in zip(axes, lengths, strict=True))
        work = sum(COPIED * outputs * given[0] * (column.high - column.low) for column in across)
        for row, column in itertools.product(down, across):
            wide = inputs * (row.last - row.first) * (column.last - column.first)
            work += outputs * (row.high - row.low) * (column.high - column.low) * -(-wide // LANES) * LANES
        if work < best:
            best, chosen = work, (down, across)
    direct = math.prod(given) * outputs * inputs * axes[0][1] * axes[1][1]
    return best <= WASTE * direct, *chosen


def _cut(size: int, taps: int, stride: int, padding: int, length: int) -> list[_Part]:
    """One axis in parts of `length` (the last may be shorter)."""
    given = (size + 2 * padding - taps) // stride + 1
    parts = []
    for first in range(0, size, length):
        last = min(first + length, size)
        low = max(0, -((taps - 1 - first - padding) // stride))
        high = min(given, (last - 1 + padding) // stride + 1)
        parts.append(_Part(first, last, min(low, given), max(high, min(low, given))))
    return parts


def _picks(part: _Part, taps: int, stride: int, padding: int) -> Tensor:
    """`(given, result, tap)`: whether that entry of the argument reaches that one of the result through that tap."""
    given = torch.arange(part.low, part.high)[:, None, None]
    result = torch.arange(part.first, part.last)[:, None]
    return result + padding - given * stride == torch.arange(taps)


def _matrix(weight: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """`(given row, output channel, given column) x (row, input channel, column)`."""
    whole = torch.einsum("oitk,vht,wxk->vowhix", weight, down, across)
    return whole.reshape(math.prod(whole.shape[:3]), -1)
