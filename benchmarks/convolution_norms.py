"""How loose every bound of a convolution's norm is, and how long it takes: `python benchmarks/convolution_norms.py [--device cpu]`.

First table: bound over exact norm (Lanczos on the layer itself), the largest over a few kernels: Gaussian ones, and ones with the
marks of training (singular values of the channels that decay, taps that are smooth or oriented edges). Second table: seconds for
the symbol's norm, for full singular values of all blocks, for a dense SVD of the whole map (where it is small enough) and for Lanczos
to a residual of 1e-6, in one run on one device.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from numerics.convolution import Symbol, convolution_norm, dense_matrix, exact_norm, kernel_of, looseness
from numerics.device import DTYPE, choose, describe, generator, synchronise
from theory.atoms.bilinear import MatMul
from theory.atoms.windows import Windows
from theory.records import Shape

KERNELS = 3
LOOSENESS = ((8, 16, 1), (16, 8, 1), (32, 8, 2), (64, 8, 1), (64, 4, 1), (64, 2, 1))
TIMES = ((8, 8, 1), (16, 8, 1), (32, 8, 1), (64, 32, 1), (128, 16, 1), (256, 8, 1), (512, 4, 1))
DENSE = 2100
"""Largest number of inputs for which the whole map is decomposed: 2,100 takes a few seconds."""


def gaussian(channels: int, seed: int) -> Tensor:
    return torch.randn(KERNELS, channels, 9 * channels, dtype=DTYPE, generator=generator(seed)) / (3 * channels**0.5)


def trained_like(channels: int, seed: int) -> Tensor:
    """`sum_r (1/r) u_r v_r^T (x) taps_r`: taps a blur, an edge or a second difference in a random mix, plus a tenth of noise."""
    draws = generator(seed)
    left, _ = torch.linalg.qr(torch.randn(KERNELS, channels, channels, dtype=DTYPE, generator=draws))
    right, _ = torch.linalg.qr(torch.randn(KERNELS, channels, channels, dtype=DTYPE, generator=draws))
    line = torch.tensor([[1, 2, 1], [-1, 0, 1], [-1, 2, -1]], dtype=DTYPE)
    line = line / line.norm(dim=-1, keepdim=True)
    patterns = torch.einsum("ai,bj->abij", line, line).reshape(9, 9)
    share = torch.tensor([4, 2, 1, 2, 1, 0.5, 1, 0.5, 0.25], dtype=DTYPE)
    mixed = (torch.randn(KERNELS, channels, 9, dtype=DTYPE, generator=draws) * share) @ patterns
    decay = 1 / torch.arange(1, channels + 1, dtype=DTYPE)
    kernels = torch.einsum("nor,nir,nrt,r->noit", left, right, mixed, decay).reshape(KERNELS, channels, -1)
    noise = gaussian(channels, seed + 1)
    return kernels / kernels.norm() + 0.1 * noise / noise.norm()


def layer(channels: int, length: int, stride: int) -> tuple[MatMul, Shape]:
    windows = Windows.of((3, 3), (stride, stride), (1, 1))
    return MatMul(channels, windows=windows), Shape(channels, 1, (length, length))


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def all_singular_values(matrix: Tensor, atom: MatMul, shape: Shape) -> None:
    symbol = Symbol.of(kernel_of(matrix, atom, shape))
    for rows, frequencies in symbol.chunks(symbol.half((False, False)), 2**28):
        torch.linalg.svdvals(symbol.at(frequencies, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    device = choose(parser.parse_args().device)
    print(f"{describe(device)}; 3 x 3 kernels, zero padding 1")

    print(f"\nbound / exact norm, the largest of {KERNELS} kernels")
    names: tuple[str, ...] = ()
    for name, draw in (("gaussian", gaussian), ("trained-like", trained_like)):
        for channels, length, stride in LOOSENESS:
            ratios = looseness(draw(channels, 0).to(device), *layer(channels, length, stride))
            if not names:
                names = tuple(ratios)
                print(f"{'':44}" + "".join(f"{one:>17}" for one in names))
            what = f"{name}, {channels} channels, {length} x {length}, stride {stride}"
            print(f"{what:44}" + "".join(f"{float(ratios[one].max()):17.4f}" for one in names))

    print("\nseconds for one kernel, and dense SVD / circle")
    columns = ("circle", "twisted", "all SVDs", "Lanczos 1e-6", "dense SVD", "dense / circle")
    print(f"{'':32}" + "".join(f"{one:>17}" for one in columns))
    torch.linalg.eigvalsh(torch.eye(8, dtype=DTYPE, device=device))  # the first call loads the solver
    for channels, length, stride in TIMES:
        case, matrix = layer(channels, length, stride), gaussian(channels, 0)[0].to(device)
        times = [
            seconds(device, lambda: convolution_norm(matrix, *case, dense=0, twists=False)),  # noqa: B023
            seconds(device, lambda: convolution_norm(matrix, *case, dense=0)),  # noqa: B023
            seconds(device, lambda: all_singular_values(matrix, *case)),  # noqa: B023
            seconds(device, lambda: exact_norm(matrix[None], *case, tolerance=1e-6, starts=1)),  # noqa: B023
        ]
        if channels * length**2 <= DENSE:
            times.append(seconds(device, lambda: torch.linalg.svdvals(dense_matrix(matrix, *case))))  # noqa: B023
        line = "".join(f"{one:17.4f}" for one in times)
        ratio = f"{times[4] / times[0]:17.1f}" if len(times) > 4 else ""
        print(f"{f'{channels} channels, {length} x {length}':32}{line}{ratio}")


if __name__ == "__main__":
    main()
