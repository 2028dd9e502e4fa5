"""How tight are certificates around given weights? Certified over true largest Hessian eigenvalue, for R from 1e-6 to 1.

MLP of the given widths with tanh, torch's default initialisation, Gaussian samples, mean cross-entropy; beside it the plain recursion of
norms (nothing measured but norms of weights and features, no bound of the cost at the centre) and the Wolkowicz-Styan bound
`mean + sqrt(P - 1) deviation` of the eigenvalues, from traces, at R = 0 only.
"""

from __future__ import annotations

import argparse
import math
from itertools import pairwise

import torch
from torch import nn

from numerics.certify import certify, problem

RADII = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def mlp(widths: list[int], seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for one, other in pairwise(widths):
        layers += [nn.Linear(one, other), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 32, 32, 32, 10])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = mlp(given.widths, given.seed)
    X = torch.randn(given.samples, given.widths[0], dtype=torch.float64)
    labels = torch.randint(0, given.widths[-1], (given.samples,))
    here = problem(model, "cross_entropy", None, (X, labels))
    theta = here.theta.requires_grad_()
    hessian = torch.autograd.functional.hessian(lambda t: here.value(t.unsqueeze(0)).sum(), theta)
    size, mean = len(hessian), float(hessian.trace()) / len(hessian)
    deviation = math.sqrt(float(hessian.square().sum()) / size - mean**2)
    top = float(torch.linalg.eigvalsh(hessian)[-1])
    print(
        f"{'-'.join(map(str, given.widths))}, {given.samples} samples, {size} parameters: largest Hessian eigenvalue {top:.4f}"
    )
    print(f"Wolkowicz-Styan at R = 0: {(mean + math.sqrt(size - 1) * deviation) / top:.1f} times the truth")
    print(
        f"{'R':>8}  {'certified':>10} {'route':>12}  {'composition':>12}  {'centre + R L':>12}  {'norms only':>11}   (all over the truth at the centre)"
    )
    for radius in RADII:
        sharp = certify(model, "cross_entropy", None, (X, labels), radius=radius)
        plain = certify(model, "cross_entropy", None, (X, labels), radius=radius, measure=False)
        numbers = (sharp.routes["composition"], sharp.routes["centre"], plain.routes["norms"])
        cells = "  ".join(f"{value / top:12.4g}" for value in numbers)
        print(f"{radius:8g}  {sharp.smoothness_constant / top:10.4f} {sharp.route:>12}  {cells}")


if __name__ == "__main__":
    main()
