"""An attack on a local certificate: weights inside its ball, random and searched, whose curvature or kernel might break it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from numerics.certify import KERNEL, LocalCertificate, Problem
from numerics.device import generator
from numerics.measure import draw, hessian_lambda_max, normalised, tangent_kernel_lambda_min
from numerics.search import maximise

ROUNDING = 1e-6
"""Relative allowance of a comparison: residuals of Lanczos, rounding of second derivatives."""


@dataclass(frozen=True)
class Attack:
    """The worst that was found inside a ball.

    Attributes:
        curvature: largest Hessian eigenvalue found; `tightness` is its ratio to the certified constant.
        kernel: smallest `lambda_min(DF DF^T)` found (nan where the kernel is too large to form).
        networks: weights tried, random and searched together.
        holds: whether the certificate stands.
        theta: the weights `(P,)` of the largest curvature.
    """

    curvature: float
    tightness: float
    kernel: float
    networks: int
    holds: bool
    theta: Tensor


def in_ball(centre: Tensor, radius: float, offsets: Tensor) -> Tensor:
    """`centre + offset`, every offset cut to the radius."""
    norm = torch.linalg.vector_norm(offsets, dim=-1, keepdim=True)
    return centre + offsets * (radius / norm.clamp_min(1e-300)).clamp_max(1.0)


def attack(
    certificate: LocalCertificate,
    given: Problem,
    *,
    random: int = 8,
    restarts: int = 4,
    steps: int = 30,
    seed: int = 0,
) -> Attack:
    """Look for weights in the ball with a larger curvature (or a smaller kernel) than certified.

    Random ones lie on the sphere; the search ascends `<v, H(theta) v>` in `theta` and `v` together, from random starts and from the
    centre with its top eigenvector. All curvatures are measured again by Lanczos at the end.
    """
    source, radius = generator(seed), certificate.radius
    centre = given.theta.unsqueeze(0)
    offsets = normalised(draw((random, centre.shape[1]), centre, source)) * radius
    top = hessian_lambda_max(given.value, centre, tolerance=1e-4, generator=source)
    found = [centre, in_ball(centre, radius, offsets)]
    if radius > 0 and steps > 0:
        found.append(_searched(given, centre, radius, top.vectors[0], restarts, steps, source))
    theta = torch.cat(found)
    measured = hessian_lambda_max(given.value, theta, tolerance=1e-5, generator=source)
    curvature, where = float(measured.value.max()), int(measured.value.argmax())
    classes, samples = given.realisation.output_shape
    kernel = float("nan")
    if classes * samples <= KERNEL and given.loss == "squared_error":
        kernel = float(tangent_kernel_lambda_min(given.realisation, theta, given.X).value.min())
    smooth = curvature <= certificate.smoothness_constant * (1 + ROUNDING)
    regular = not kernel < certificate.tangent_kernel_ball * (1 - ROUNDING) - 1e-12
    tightness = curvature / certificate.smoothness_constant if certificate.smoothness_constant > 0 else float("nan")
    return Attack(curvature, tightness, kernel, len(theta), smooth and regular, theta[where])


def _searched(
    given: Problem, centre: Tensor, radius: float, vector: Tensor, restarts: int, steps: int, source: torch.Generator
) -> Tensor:
    size = centre.shape[1]
    vectors = torch.cat(
        [vector.reshape(1, size).expand(max(1, restarts // 2), size), draw((restarts, size), centre, source)]
    )[:restarts]

    def curvature(offset: Tensor, direction: Tensor) -> Tensor:
        theta = in_ball(centre, radius, offset * radius)
        unit = normalised(direction)
        (gradient,) = torch.autograd.grad(given.value(theta).sum(), theta, create_graph=True)
        (product,) = torch.autograd.grad((gradient * unit).sum(), theta, create_graph=True)
        return (product * unit).sum(1)

    def project(arguments: Sequence[Tensor]) -> list[Tensor]:
        offset, direction = arguments
        return [in_ball(torch.zeros_like(offset), 1.0, offset), normalised(direction) * size**0.5]

    start = [normalised(draw((restarts, size), centre, source)) * 0.5, normalised(vectors) * size**0.5]
    best = maximise(curvature, start, project, steps, 0.02, source)
    return in_ball(centre, radius, best.arguments[0] * radius).detach()
