"""Spectrum of a pre-activation ResNet-18's input-output Jacobian without the matrix: batch norm in training mode, batch 128 of 3 x 32 x 32.

The Jacobian of the 128 x 10 logits in the images is 1,280 x 393,216. Printed: the largest singular value with its residual, the mean
one with its interval, the share of the singular values below a few multiples of the mean, seconds and the peak memory of the process.

    python -m benchmarks.resnet18_spectrum [--batch 128] [--width 64] [--threads 4] [--dtype float32] [--device cpu] [--dense]
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from torch import nn

from benchmarks.resnet18 import resnet18
from numerics.device import choose, describe, generator, synchronise
from numerics.singular_values.dense import jacobian_singular_values
from numerics.singular_values.density import Estimate, mean_singular_value, spectral_density
from numerics.singular_values.krylov import Products, extreme_singular_values, jacobian_products, miss_probability


def peak(device: torch.device) -> str:
    """Peak memory in GiB: of the process, and on CUDA of the device."""
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if device.type != "cuda":
        return f"{process:.2f} GiB"
    return f"{process:.2f} GiB, device {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB"


def share(products: Products, mean: float, probes: int) -> None:
    density = spectral_density(products, probes=probes, steps=12, generator=generator(2))
    points = torch.tensor([0.25, 0.5, 1.0, 1.5, 2.0]) * mean
    below = density.share_below(points)
    for t, low, high in zip(points.tolist(), below.low.tolist(), below.high.tolist(), strict=True):
        print(f"share of singular values below {t:8.4g}: {low:.2f} to {high:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--image", type=int, default=32)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--dense", action="store_true", help="compare with all singular values (small sizes)")
    parser.add_argument(
        "--density", type=int, default=0, help="probes for the shares of singular values; 0 leaves them out"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device, dtype = choose(given.device), getattr(torch, given.dtype)
    torch.manual_seed(0)
    module = resnet18(nn.ReLU, given.width).to(device, dtype)
    images = torch.randn(given.batch, 3, given.image, given.image).to(device, dtype)
    print(f"{describe(device)}; {given.dtype}; Jacobian {10 * given.batch:,} x {images.numel():,}")

    begin = time.perf_counter()
    products = jacobian_products(module, images)
    synchronise(device)
    print(f"graphs of the products built in {time.perf_counter() - begin:.1f} s")

    largest, _ = extreme_singular_values(products, tolerance=0.003, generator=generator(0))
    print(
        f"largest singular value {float(largest.value):.6g}, relative residual {float(largest.residual):.1e}, "
        f"{'converged' if bool(largest.converged) else 'NOT converged'}, {largest.iterations} products, "
        f"{time.perf_counter() - begin:.1f} s so far; chance of missing the largest by 1 %: "
        f"{miss_probability(products.small, largest.iterations // 2 - 1, 0.01):.1g}"
    )

    def told(so_far: Estimate) -> None:
        print(
            f"mean singular value {float(so_far.value):.6g} in [{float(so_far.low):.6g}, {float(so_far.high):.6g}], "
            f"half width {float((so_far.high - so_far.low) / 2 / so_far.value):.2%}, {so_far.probes} probes, "
            f"{time.perf_counter() - begin:.1f} s so far",
            flush=True,
        )

    mean = mean_singular_value(products, tolerance=0.02, probes=4, steps=8, generator=generator(1), progress=told)
    synchronise(device)
    print(f"all in {time.perf_counter() - begin:.1f} s, peak memory {peak(device)}, mean converged: {mean.converged}")
    if given.density:
        share(products, float(mean.value), given.density)
    if given.dense:
        values = jacobian_singular_values(module, images)
        print(
            f"dense: largest {float(values[0]):.6g} (ours off by {float(abs(largest.value / values[0] - 1)):.1e}), mean "
            f"{float(values.mean()):.6g} (off by {float(abs(mean.value / values.mean() - 1)):.1e}), "
            f"coefficient of variation {float(values.std() / values.mean()):.2f}"
        )


if __name__ == "__main__":
    main()
