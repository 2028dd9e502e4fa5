r"""Synthetic volumes: ellipsoids and superquadrics under affine poses, soft Dice, resampling by affine maps. Seeded and batched.

Coordinates are normalised: the cube of a grid is `[-1, 1]^3`, voxel centres at `(2 i + 1)/n - 1`; the first coordinate runs along the last dimension of a
tensor, as in `torch.nn.functional.affine_grid`. A pose is nine numbers in the order of `theory.volumetric.affine_maps.PARAMETERS`; it takes the shape's own coordinates to
those of the grid, so the volume at `y` is that of the shape at `M^-1 (y - t)`, and sampling the volume at `M x + t` puts the shape back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import sympy
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from numerics.device import DTYPE
from theory.volumetric.dice import SoftDice

GRID = 24
"""Voxels a side, unless said otherwise."""
RADIUS = 0.55
"""Half axes of a shape in its own coordinates: a pose of the default ranges keeps most of it inside the cube."""


def coordinates(size: int, device: torch.device | str = "cpu") -> Tensor:
    """Voxel centres `(size^3, 3)` in the order of a flattened volume; the first coordinate is fastest.

    Errors: `ValueError` for a size below 2.
    """
    if size < 2:
        raise ValueError(f"size {size}: a volume has at least 2 voxels a side")
    line = (2 * torch.arange(size, dtype=DTYPE, device=device) + 1) / size - 1
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    return torch.stack([x, y, z], -1).reshape(-1, 3)


def affine_matrices(parameters: Tensor) -> Tensor:
    """`(M | t)` of shape `(*batch, 3, 4)` from nine parameters `(*batch, 9)`: `M = R_z R_y R_x diag(s)`, as `theory.volumetric.affine_maps` derives.

    Errors: `ValueError` for another number of parameters.
    """
    if parameters.shape[-1] != 9:
        raise ValueError(f"{parameters.shape[-1]} parameters: give 3 angles, 3 scales and 3 translations")
    angles, scales, shifts = parameters.split(3, -1)
    (ca, cb, cc), (sa, sb, sc) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    rotation = torch.stack(
        [
            torch.stack([cb * cc, sa * sb * cc - ca * sc, ca * sb * cc + sa * sc], -1),
            torch.stack([cb * sc, sa * sb * sc + ca * cc, ca * sb * sc - sa * cc], -1),
            torch.stack([-sb, sa * cb, ca * cb], -1),
        ],
        -2,
    )
    return torch.cat([rotation * scales.unsqueeze(-2), shifts.unsqueeze(-1)], -1)


def inverse(matrices: Tensor) -> Tensor:
    """`(M^-1 | -M^-1 t)` of `(*batch, 3, 4)`."""
    linear = torch.linalg.inv(matrices[..., :3])
    return torch.cat([linear, -linear @ matrices[..., 3:]], -1)


@dataclass(frozen=True)
class Poses:
    """Ranges of random poses: angles in `[-angle, angle]` radians, scales log-uniform in `[low, high]`, translations in `[-shift, shift]` (half sides)."""

    angle: float = math.pi / 4
    low: float = 0.75
    high: float = 1.3
    shift: float = 0.1

    def __post_init__(self) -> None:
        if not (self.angle >= 0 and 0 < self.low <= self.high and self.shift >= 0):
            raise ValueError(f"{self}: give angle >= 0, 0 < low <= high, shift >= 0")

    def draw(self, count: int, source: Generator) -> Tensor:
        """`(count, 9)` parameters."""
        u = torch.rand(count, 9, dtype=DTYPE, generator=source, device=source.device)
        angles, shifts = (2 * u[:, :3] - 1) * self.angle, (2 * u[:, 6:] - 1) * self.shift
        return torch.cat([angles, self.low * (self.high / self.low) ** u[:, 3:6], shifts], 1)


def superquadrics(
    exponents: Tensor, matrices: Tensor, size: int = GRID, *, radius: float = RADIUS, edge: float | None = None
) -> Tensor:
    """Volumes `(B, 1, size, size, size)` of `(|x|^(2/e2) + |y|^(2/e2))^(e2/e1) + |z|^(2/e1) <= 1`, `(x, y, z)` the pose's own coordinates over the radius.

    Args:
        exponents: `(B, 2)`, the two `(e1, e2)` of each shape, positive; (1, 1) is an ellipsoid, towards 0 a box, (2, 2) an octahedron, (0.1, 1) a cylinder.
        matrices: poses `(B, 3, 4)`.
        edge: None for a binary volume; else the width of a soft edge in the level set's `e1/2`-th power (about a distance).

    Errors: `ValueError` for exponents that are not positive, or numbers of shapes and poses that differ.
    """
    if len(exponents) != len(matrices):
        raise ValueError(f"{len(exponents)} shapes and {len(matrices)} poses: give one pose a shape")
    if not bool((exponents > 0).all()):
        raise ValueError("exponents must be positive")
    back = inverse(matrices)
    points = coordinates(size, matrices.device)
    x, y, z = ((points @ back[..., :3].mT + back[..., None, :, 3]).abs() / radius).unbind(-1)
    e1, e2 = exponents[:, :1], exponents[:, 1:]
    level = ((x ** (2 / e2) + y ** (2 / e2)) ** (e2 / e1) + z ** (2 / e1)) ** (e1 / 2)
    inside = (level <= 1).to(DTYPE) if edge is None else torch.sigmoid((1 - level) / edge)
    return inside.reshape(-1, 1, size, size, size)


FORMS = torch.tensor(
    [(1.0, 1.0), (0.2, 0.2), (2.0, 2.0), (0.2, 1.0), (2.0, 1.0), (0.2, 2.0), (2.0, 0.2), (1.0, 0.2)], dtype=DTYPE
)
"""Exponents of eight forms: ellipsoid, box, octahedron, cylinder, double cone, diamond prism, double pyramid, pillow. Affine maps with nine parameters
turn none of them into another, as they keep planes, lines and corners (the diamond prism is a box turned by 45 degrees only for equal scales)."""


def resample(volumes: Tensor, matrices: Tensor) -> Tensor:
    """`out(x) = volume(M x + t)`, trilinear, zero beyond the grid: `(B, C, n, n, n)` by maps `(B, 3, 4)`, differentiable in both."""
    grid = F.affine_grid(matrices, list(volumes.shape), align_corners=False)
    return F.grid_sample(volumes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def soft_dice(p: Tensor, g: Tensor, convention: SoftDice | None = None, smoothing: float = 1.0) -> Tensor:
    """The soft Dice coefficient of `theory.volumetric.dice` of volumes `(*batch, C, n, n, n)`, one number each: `(*batch,)`.

    Errors: `ValueError` for shapes that differ.
    """
    if p.shape[-4:] != g.shape[-4:]:
        raise ValueError(f"volumes of shapes {tuple(p.shape)} and {tuple(g.shape)}: they must agree")
    convention = convention or SoftDice()
    dims = (-4, -3, -2, -1)
    overlap = 2 * (p * g).sum(dims) + float(convention.delta) * smoothing
    return overlap / ((p**convention.power).sum(dims) + (g**convention.power).sum(dims) + smoothing)


def column_sums(matrices: Tensor, size: int = GRID) -> Tensor:
    """How often each voxel is used by the sampler of a map: the column sums `(B, size^3)` of the weights of `theory.volumetric.trilinear`."""
    ones = torch.ones(len(matrices), 1, size, size, size, dtype=matrices.dtype, device=matrices.device)
    image = torch.zeros_like(ones, requires_grad=True)
    with torch.enable_grad():
        (sums,) = torch.autograd.grad(resample(image, matrices.detach()), image, ones)
    return sums.flatten(1)


def sampler_norm_bound(matrices: Tensor, size: int = GRID) -> Tensor:
    """Upper bound `(B,)` of the sampler's operator norm as a map of images: `sqrt(max row sum * max column sum)`, row sums at most 1 (Schur's test)."""
    return column_sums(matrices, size).amax(1).sqrt()


def theory_parameters(values: Sequence[float]) -> tuple[sympy.Expr, ...]:
    """Nine floats as exact rationals, as `theory.volumetric.affine_maps` takes them."""
    return tuple(sympy.Rational(repr(float(value))) for value in values)
