r"""Resampling a volume by trilinear interpolation, the sampler of a spatial transformer: its norms by the image and by the affine map.

    out(o) = sum_v image(v) prod_axis hat(c(o)_axis - v_axis),      hat(x) = max(0, 1 - |x|)

`c(o)` is where output voxel `o` samples, in voxels; beyond the grid the image is zero. On a cube of `n` voxels a side a normalised coordinate `x` stands for
`(n/2) x` voxels, voxel centres are at `(2 i + 1)/n - 1` (`align_corners=False`), and `c = (n/2)(M x_o + t)` up to a constant.

The sampler is linear in the image. It is piecewise smooth in the map: its derivative jumps where a sample crosses a plane of voxel centres, so its second
derivative has no bound. It is no layer of a description: its window moves with its input.

Source: M. Jaderberg et al., Spatial transformer networks, NeurIPS 2015 (the sampler). The bounds are derived here.
"""

from __future__ import annotations

import itertools

import sympy
from sympy import Expr, Integer, S, Symbol

from theory.bound import Bound, Step, gap

n = Symbol("n", integer=True, positive=True)
"""Voxels a side."""


def hat(x: Expr) -> Expr:
    """`max(0, 1 - |x|)`."""
    return sympy.Max(0, 1 - sympy.Abs(x))


def rows() -> Bound:
    """Upper bound of `sum_v |weight|` of one output voxel: the eight weights are products of `u` and `1 - u` and sum to 1; beyond the grid some are lost."""
    u = sympy.symbols("u1:4", nonnegative=True)
    weights = [
        sympy.Mul(*(x if bit else 1 - x for x, bit in zip(u, bits, strict=True)))
        for bits in itertools.product((0, 1), repeat=3)
    ]
    step = Step("the eight weights sum to 1", (gap(sympy.Add(*weights), 1),))
    return Bound.upper(
        1, quantity="row sum of the sampler", source="partition of unity", steps=(step,), sharp=True, attained="inside"
    )


def columns(scale: Expr) -> Bound:
    """`sup_u sum_k hat(scale k + u)` over whole `k`: how often one voxel is used along an axis that is sampled at steps of `scale` voxels.

    The sum is piecewise linear in `u`, its concave kinks are where a sample hits the voxel, so its maximum is at `u = 0`:
    `1 + 2 sum_{k >= 1} max(0, 1 - k scale)`; 1 for `scale >= 1`.

    Errors: `ValueError` for a scale that is not a positive number.
    """
    scale = sympy.nsimplify(scale)
    if not scale.is_positive:
        raise ValueError(f"scale {scale}: give a positive number of voxels")
    last = int(sympy.floor(1 / scale))
    value = 1 + 2 * sum((1 - k * scale for k in range(1, last + 1)), S.Zero)
    k = Symbol("k", integer=True, positive=True)
    step = Step(
        "sum_{k=1}^{K} (1 - k h) = K - h K (K + 1)/2",
        (gap(sympy.summation(1 - k * scale, (k, 1, last)) if last else S.Zero, (value - 1) / 2),),
    )
    return Bound.upper(
        value,
        quantity="column sum of the sampler along one axis",
        source="piecewise linear, largest at a concave kink",
        steps=(step,),
        sharp=True,
        attained="a sample on the voxel, far from the border",
    )


def image_norm(scales: tuple[Expr, Expr, Expr]) -> Bound:
    """Operator norm of the sampler as a map of images (Euclidean norms) for a map `x -> diag(scales) x + t`: `sqrt(|rows| |columns|)`.

    Of a map with rotation the column sums are no products; `numerics.volumetric.volumes.column_sums` computes them exactly, and the same inequality applies.
    """
    bounds = [columns(scale) for scale in scales]
    product = bounds[0] * bounds[1] * bounds[2] * rows()
    schur = Step("Schur's test: |A|_2^2 <= max row sum times max column sum, for entries >= 0")
    return (product**S.Half).named("operator norm of the sampler", source="Schur's test", steps=(schur,))


def gradient_norm() -> Bound:
    """`sup |grad I|` of the interpolation `I` of values in `[0, 1]`, by coordinates in voxels: `sqrt 3`.

    A partial derivative is a convex combination of four differences of neighbours, each in `[-1, 1]`.
    """
    corner = dict(zip(itertools.product((0, 1), repeat=3), sympy.symbols("I0:8"), strict=True))
    u = sympy.symbols("u1:4", nonnegative=True)
    value = sum(
        corner[bits] * sympy.Mul(*(x if bit else 1 - x for x, bit in zip(u, bits, strict=True))) for bits in corner
    )
    weights = [
        sympy.Mul(*(x if bit else 1 - x for x, bit in zip(u[1:], bits, strict=True)))
        for bits in itertools.product((0, 1), repeat=2)
    ]
    differences = sum(
        w * (corner[1, *bits] - corner[0, *bits])
        for w, bits in zip(weights, itertools.product((0, 1), repeat=2), strict=True)
    )
    step = Step(
        "dI/du_1 is a convex combination of differences of neighbours",
        (gap(sympy.diff(value, u[0]), differences), gap(sympy.Add(*weights), 1)),
    )
    return Bound.upper(
        sympy.sqrt(3),
        quantity="gradient of an interpolated volume",
        source="each of three partial derivatives is at most 1",
        steps=(step,),
        sharp=True,
        attained="a corner of value 0 whose three neighbours are 1",
    )


def map_norm(size: Expr = n) -> Bound:
    """`sup |d out|_2 / |d(M | t)|_F` for values in `[0, 1]` on a cube of `size` voxels a side, wherever the derivative exists.

    `|d out(o)| <= |grad I| (n/2) |dM x_o + dt| <= sqrt 3 (n/2) sqrt(1 + |x_o|^2) |d(M | t)|`, and `sum_o (1 + |x_o|^2) = n^3 + 3 n^2 sum_i x_i^2`.
    """
    i = Symbol("i", integer=True, nonnegative=True)
    squares = sympy.summation(((2 * i + 1) / n - 1) ** 2, (i, 0, n - 1))
    total = n**3 + 3 * n**2 * squares
    step = Step("sum_o (1 + |x_o|^2) = n (2 n^2 - 1)", (gap(sympy.expand(total), sympy.expand(n * (2 * n**2 - 1))),))
    gradient = gradient_norm()
    value = (gradient.expression * n / 2 * sympy.sqrt(n * (2 * n**2 - 1))).subs(
        n, Integer(size) if not isinstance(size, Expr) else size
    )
    return Bound.upper(
        value,
        quantity="sampler by the affine map",
        source="chain rule at every output voxel, Cauchy-Schwarz",
        parents=(gradient,),
        steps=(step,),
    )
