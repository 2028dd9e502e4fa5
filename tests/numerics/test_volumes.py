"""Synthetic volumes, their poses, exact resampling and soft Dice against brute force and against the derivations."""

import math

import pytest
import sympy
import torch

from numerics.device import DTYPE, generator
from numerics.volumetric.volumes import (
    FORMS,
    RADIUS,
    Poses,
    affine_matrices,
    column_sums,
    coordinates,
    inverse,
    resample,
    sampler_norm_bound,
    soft_dice,
    superquadrics,
    theory_parameters,
)
from theory.volumetric import affine_maps, trilinear
from theory.volumetric.dice import SoftDice

IDENTITY = torch.eye(3, 4, dtype=DTYPE)[None]


def test_the_matrices_are_those_of_the_derivation() -> None:
    parameters = Poses(angle=math.pi).draw(6, generator(0))
    for row, matrix in zip(parameters, affine_matrices(parameters), strict=True):
        exact = affine_maps.factors(theory_parameters(row.tolist())).matrix.evalf(20)
        torch.testing.assert_close(matrix, torch.tensor(exact.tolist(), dtype=DTYPE), rtol=1e-14, atol=1e-15)
    product = affine_matrices(parameters)
    back = inverse(product)
    eye = back[..., :3] @ product[..., :3]
    torch.testing.assert_close(eye, torch.eye(3, dtype=DTYPE).expand(6, 3, 3), rtol=0, atol=1e-12)


def test_an_ellipsoid_has_its_volume_and_a_box_its_own() -> None:
    pose = torch.tensor([[0.3, -0.2, 0.5, 0.8, 1.1, 1.3, 0.05, -0.1, 0.0]], dtype=DTYPE)
    maps = affine_matrices(pose)
    determinant = float(torch.linalg.det(maps[0, :, :3]))
    ball, box = superquadrics(torch.tensor([[1.0, 1.0], [0.01, 0.01]], dtype=DTYPE), maps.expand(2, 3, 4), 48).mean(
        (1, 2, 3, 4)
    )
    # midpoint sums over 48^3 voxels: the surface layer is half a voxel, about 1 per cent
    assert float(ball) == pytest.approx(4 / 3 * math.pi * RADIUS**3 * determinant / 8, rel=0.01)
    assert float(box) == pytest.approx(RADIUS**3 * determinant, rel=0.02)


def test_draws_are_seeded_and_any_grid_will_do() -> None:
    maps = affine_matrices(Poses().draw(8, generator(3)))
    assert torch.equal(maps, affine_matrices(Poses().draw(8, generator(3))))
    for size in (12, 80):
        volumes = superquadrics(FORMS[:2], maps[:2], size)
        assert volumes.shape == (2, 1, size, size, size)
        assert set(volumes.unique().tolist()) == {0.0, 1.0}
    soft = superquadrics(FORMS, maps, 12, edge=0.1)
    assert 0 <= float(soft.min()) < float(soft.max()) <= 1


def test_sampling_at_the_pose_puts_the_shape_back() -> None:
    maps = affine_matrices(Poses().draw(8, generator(1)))
    base = superquadrics(FORMS, IDENTITY.expand(8, 3, 4))
    posed = superquadrics(FORMS, maps)
    assert float(soft_dice(resample(posed, maps), base).min()) > 0.9  # what interpolating a binary edge leaves
    assert float(soft_dice(posed, base).max()) < float(soft_dice(resample(posed, maps), base).min())


def test_resampling_is_trilinear_interpolation_with_zeros_beyond_the_grid() -> None:
    size, source = 5, generator(2)
    volume = torch.rand(1, 1, size, size, size, dtype=DTYPE, generator=source)
    matrix = affine_matrices(Poses(angle=1.0).draw(1, source))
    wanted = torch.zeros(size**3, dtype=DTYPE)
    points = coordinates(size) @ matrix[0, :, :3].T + matrix[0, :, 3]
    places = (points + 1) * size / 2 - 0.5
    for z in range(size):
        for y in range(size):
            for x in range(size):
                weight = (1 - (places - torch.tensor([x, y, z])).abs()).clamp(min=0).prod(1)
                wanted += weight * volume[0, 0, z, y, x]
    torch.testing.assert_close(resample(volume, matrix).flatten(), wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("scales", [(1.0, 0.5, 0.7), (0.4, 0.4, 1.5)])
def test_column_sums_of_an_axis_parallel_map_are_those_of_the_closed_form_or_less(scales: tuple[float, ...]) -> None:
    matrix = affine_matrices(torch.tensor([[0.0, 0, 0, *scales, 0, 0, 0]], dtype=DTYPE))
    bound = trilinear.image_norm(tuple(map(sympy.Rational, map(str, scales))))
    found = float(column_sums(matrix, 15).max())
    # an odd grid samples its middle voxel exactly, so the closed form is attained
    assert found == pytest.approx(float(bound.expression) ** 2, rel=1e-12)
    assert float(sampler_norm_bound(matrix, 15)) == pytest.approx(float(bound.expression), rel=1e-12)


@pytest.mark.parametrize("convention", [SoftDice(k, d) for k in (1, 2) for d in (False, True)], ids=str)
def test_soft_dice_is_the_derived_formula(convention: SoftDice) -> None:
    source = generator(4)
    p, g = torch.rand(2, 1, 1, 2, 2, 2, dtype=DTYPE, generator=source)
    exact = convention.coefficient(
        *(tuple(map(sympy.Float, v.flatten().tolist())) for v in (p, g)), sympy.Rational(1, 2)
    )
    assert float(soft_dice(p, g, convention, 0.5)) == pytest.approx(float(exact), rel=1e-13)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="size 1"):
        coordinates(1)
    with pytest.raises(ValueError, match="8 parameters"):
        affine_matrices(torch.zeros(8))
    with pytest.raises(ValueError, match="8 shapes and 1 poses"):
        superquadrics(FORMS, IDENTITY)
    with pytest.raises(ValueError, match="positive"):
        superquadrics(-FORMS[:1], IDENTITY)
    with pytest.raises(ValueError, match="low=2"):
        Poses(low=2.0, high=1.0)
    with pytest.raises(ValueError, match="must agree"):
        soft_dice(torch.zeros(1, 2, 2, 2), torch.zeros(1, 3, 3, 3))
