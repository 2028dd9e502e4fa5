"""Selections on the grid: windows (the first half of every convolution and pooling), padding, cropping and striding.

Every row of the map `W` picks one position or none (zero padding), so `W^T W` is the diagonal matrix of coverage counts, and
along several axes the counts multiply: `|W|^2` is the largest count, exactly. `W W^T` is the identity where the picked positions
are distinct; else two rows are equal, or one is zero, and the least singular value on the output side is 0.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import sympy
from sympy import Expr, S

from theory.atoms.base import Atom, Domain
from theory.atoms.fixed_linear import FixedLinear
from theory.bound import Bound, Step, minimum
from theory.records import FeatureBounds, LayerBounds, Shape

MODES = ("zeros", "circular", "reflect", "replicate", "lowest")
"""How positions beyond the grid are filled; `lowest` (max-pooling) with minus infinity."""


@dataclass(frozen=True)
class Windows(Atom):
    """Positions of each window below one another: `(d, grid) -> (d taps, smaller grid)`, the taps row by row within a feature.

    With windows of one position it is a selection: padding, cropping (negative padding) or keeping every `stride`-th position.

    Attributes:
        kernel, stride, dilation: one number an axis of the grid.
        padding: one pair (before, after) an axis.
        mode: one of `MODES`.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    mode: str = "zeros"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown padding mode {self.mode!r}: use one of {', '.join(MODES)}")
        if len({len(self.kernel), len(self.stride), len(self.padding), len(self.dilation)}) != 1:
            raise ValueError("kernel, stride, padding and dilation: give one entry for each axis of the grid")
        if min(*self.kernel, *self.stride, *self.dilation, 1) < 1:
            raise ValueError("kernel, stride and dilation must be positive whole numbers")

    @classmethod
    def of(
        cls,
        kernel: tuple[int, ...],
        stride: tuple[int, ...] | None = None,
        padding: tuple[int | tuple[int, int], ...] | None = None,
        dilation: tuple[int, ...] | None = None,
        mode: str = "zeros",
    ) -> Windows:
        """Windows with the defaults of every axis filled in; a single padding counts on both sides."""
        ones, none = (1,) * len(kernel), (0,) * len(kernel)
        pairs = tuple((int(p), int(p)) if not isinstance(p, tuple) else (int(p[0]), int(p[1])) for p in padding or none)
        sizes = (tuple(map(int, given or ones)) for given in (kernel, stride, dilation))
        kernel, stride, dilation = sizes
        return cls(kernel, stride, pairs, dilation, mode)

    @property
    def formula(self) -> str:
        return f"windows of {' x '.join(map(str, self.kernel))}"

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    def output_length(self, axis: int, length: Expr) -> Expr:
        """`floor((length + padding - dilation (kernel - 1) - 1) / stride) + 1`."""
        reach = length + sum(self.padding[axis]) - self.dilation[axis] * (self.kernel[axis] - 1) - 1
        if reach.is_negative:
            raise ValueError(
                f"window of {self.kernel[axis]} positions (dilation {self.dilation[axis]}) on a padded axis of "
                f"{length + sum(self.padding[axis])}: the grid is too small"
            )
        return sympy.floor(reach / self.stride[axis]) + 1

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape.grid) != len(self.kernel):
            raise ValueError(
                f"windows over {len(self.kernel)} axes on features of shape {shape}: its grid has {len(shape.grid)} axes"
            )
        grid = tuple(self.output_length(axis, length) for axis, length in enumerate(shape.grid))
        return replace(shape, features=shape.features * self.taps, grid=grid)

    def source(self, axis: int, length: int) -> list[list[int | None]]:
        """For every tap and every output position along an axis the position it picks, None for a filled one."""
        outputs = int(self.output_length(axis, sympy.Integer(length)))
        before = self.padding[axis][0]
        starts = [output * self.stride[axis] - before for output in range(outputs)]
        return [
            [self._inside(start + tap * self.dilation[axis], length) for start in starts]
            for tap in range(self.kernel[axis])
        ]

    def _inside(self, position: int, length: int) -> int | None:
        if 0 <= position < length:
            return position
        if self.mode == "circular":
            return position % length
        if self.mode == "replicate":
            return min(max(position, 0), length - 1)
        if self.mode == "reflect":
            period = max(2 * (length - 1), 1)
            folded = position % period
            return min(folded, period - folded)
        return None

    def coverage(self, axis: int, length: Expr) -> tuple[Expr, Expr, bool]:
        """Largest and least number of picks of one position along an axis, and whether the picks are distinct positions.

        Exact for a number of positions; for a symbolic one `ceil(kernel gcd(stride, dilation) / stride)` bounds the largest from above
        (taps `t` that can meet one position have `t dilation` in one residue class modulo `stride`).
        """
        if length.is_Integer:
            picks = [p for row in self.source(axis, int(length)) for p in row]
            counts = Counter(p for p in picks if p is not None)
            most, least = max(counts.values(), default=0), min((counts[p] for p in range(int(length))), default=0)
            # what is filled with minus infinity is never picked by the maximum that follows
            return sympy.Integer(most), sympy.Integer(least), (None not in picks or self.mode == "lowest") and most <= 1
        if self.mode in ("reflect", "replicate") and any(map(any, self.padding)):
            raise ValueError(f"{self.mode} padding on a grid of symbolic length {length}: give the length as a number")
        kernel, stride = self.kernel[axis], self.stride[axis]
        most = -(-kernel * math.gcd(stride, self.dilation[axis]) // stride)
        return sympy.Integer(most), S.Zero, kernel == 1 and max(self.padding[axis]) <= 0

    def _counts(self, shape: Shape) -> tuple[Expr, Expr, bool]:
        axes = [self.coverage(axis, length) for axis, length in enumerate(shape.grid)]
        return (
            sympy.Mul(*(most for most, _, _ in axes)),
            sympy.Mul(*(least for _, least, _ in axes)),
            all(distinct for _, _, distinct in axes),
        )

    def adjoint_sigma_min(self, shape: Shape) -> Bound:
        """`inf |W x| / |x|`, the least singular value of `W^T` on its output side: root of the least coverage count."""
        _, least, _ = self._counts(shape)
        return Bound.lower(sympy.sqrt(least), source="W^T W is the diagonal of coverage counts", sharp=True)

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        self.output_shape(features.shape)
        most, _, distinct = self._counts(features.shape)
        exact = all(length.is_Integer for length in features.shape.grid)
        facts = {
            "source": f"{self.formula}: W^T W is the diagonal of coverage counts",
            "steps": WINDOW_STEPS,
            "sharp": exact,
        }
        return LayerBounds.without_parameters(
            Bound.upper(sympy.sqrt(most), attained="a position covered most often", **facts),
            Bound.upper(0, **{**facts, "source": "a linear map has no second derivative", "sharp": True}),
            Bound.lower(
                S.One if distinct else S.Zero, attained="two equal rows, or a zero row" * (not distinct), **facts
            ),
            sample_wise=True,
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        most, _, _ = self._counts(features.shape)
        root, taps = sympy.sqrt(most), sympy.sqrt(self.taps)
        norms = {
            "frobenius": features.frobenius * root,
            "sample": features.sample * root,
            "position": minimum(features.position * taps, features.sample * root),
            "feature": features.feature * (S.One if self._picks_once() else root),
            "entry": features.entry,
            "operator": minimum(
                features.operator * (taps if self._picks_once() else taps * root), features.frobenius * root
            ),
        }
        return FeatureBounds.of(self.output_shape(features.shape), norms)

    def _picks_once(self) -> bool:
        """Whether a single tap never picks a position twice (always but for filled borders)."""
        return self.mode in ("zeros", "lowest") or not any(map(any, self.padding))


@dataclass(frozen=True)
class TapMean(FixedLinear):
    """The mean over the taps of every window: `taps` rows become one, `S S^T = I / taps`."""

    taps: Expr

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", sympy.sympify(self.taps))

    @property
    def formula(self) -> str:
        return f"mean over {self.taps} taps"

    def output_shape(self, shape: Shape) -> Shape:
        return replace(shape, features=shape.features / self.taps)

    def gram(self, shape: Shape) -> tuple[Expr, Expr]:
        return S.One / self.taps, S.Zero

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        shrink = 1 / sympy.sqrt(self.taps)
        norms = {name: bound * shrink for name, bound in features.norms().items()}
        norms["entry"], norms["feature"] = features.entry, minimum(features.feature, features.frobenius * shrink)
        return FeatureBounds.of(self.output_shape(features.shape), norms, centred=features.centred)


@dataclass(frozen=True)
class TapMax(Atom):
    """The largest tap of every window. It picks one tap each, so it is a co-isometry where it has a derivative; that derivative jumps."""

    taps: Expr

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", sympy.sympify(self.taps))

    @property
    def formula(self) -> str:
        return f"maximum over {self.taps} taps"

    def output_shape(self, shape: Shape) -> Shape:
        return replace(shape, features=shape.features / self.taps)

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        source = "the maximum picks one tap"
        jumps = Bound.upper(
            S.Zero if self.taps == 1 else S.Infinity,
            source="the first derivative jumps where two taps are equal, so it has no Lipschitz constant",
            sharp=True,
        )
        return LayerBounds.without_parameters(
            Bound.upper(1, source=source, sharp=True),
            jumps,
            Bound.lower(1, source=source, sharp=True),
            sample_wise=True,
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        norms = {name: getattr(features, name) for name in ("frobenius", "sample", "position", "entry")}
        norms["feature"] = features.frobenius
        norms["operator"] = features.frobenius
        return FeatureBounds.of(self.output_shape(features.shape), norms)


def _window_steps() -> tuple[Step, ...]:
    """Three windows of two positions on four: `W^T W` against the counts."""
    rows = [[int(p == start + tap) for p in range(4)] for tap in range(2) for start in range(3)]
    w = sympy.Matrix(rows)
    counts = Windows.of((2,)).source(0, 4)
    seen = Counter(p for row in counts for p in row)
    return (Step("W^T W = diag(coverage counts)", tuple(w.T * w - sympy.diag(*(seen[p] for p in range(4))))),)


WINDOW_STEPS = _window_steps()
__all__ = ["MODES", "TapMax", "TapMean", "Windows"]
