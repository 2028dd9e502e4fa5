"""Largest Hessian eigenvalue of the mean cross-entropy of many small networks: ours against loops over networks.

Problem: `--networks` MLPs 32-32-32-32-10, tanh, biases, torch's default initialisation, 16 Gaussian samples, float64.
Each method must bring every relative residual `|H v - value v| / |value|` below 1e-5.

    ours        numerics.measure.hessian_lambda_max: all networks in one tensor program
    loop        a Python loop over networks: autograd double backward with a kept graph on nn.Sequential, and Lanczos
    curvlinops  a Python loop over networks: curvlinops.HessianLinearOperator in scipy.sparse.linalg.eigsh
    dense       the dense Hessian and eigvalsh on a few networks; referee, not a competitor

The methods take turns in every repetition, in one process on one machine; medians are compared. The loops are timed
with the same number of threads as ours and, in the rows marked "1 thread", with the number that suits them best. One
common function recomputes every residual, and all values must agree to 1e-6. On a CUDA machine `ours` runs there and
the loops run on the CPU, where they are fastest for networks of this size.

Leave a core free on a shared machine: OpenMP's barriers spin, and as many threads as cores beside any other work made
every method up to 50 times slower.

    python -m benchmarks.hessian_lambda_max --threads 2 --repetitions 5 --json hessian_lambda_max.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from numerics.device import choose
from numerics.measure import cross_entropy, dense_hessian_lambda_max, hessian_lambda_max, hessian_vector_product

try:
    import curvlinops
except ImportError:  # reported as absent
    curvlinops = None
try:
    import threadpoolctl
except ImportError:  # then NumPy and SciPy keep their own number of threads
    threadpoolctl = None

WIDTHS = (32, 32, 32, 32, 10)
SAMPLES = 16
TOLERANCE = 1e-5
AGREEMENT = 1e-6


@dataclass(frozen=True)
class Problem:
    """The same networks twice, as modules (CPU) and as the rows of `theta (B, P)`; inputs `X (d, N)`, labels `(N,)`."""

    modules: list[nn.Sequential]
    theta: Tensor
    X: Tensor
    labels: Tensor


Method = Callable[[Problem], tuple[Tensor, Tensor]]
"""Values `(B,)` and vectors `(B, P)` of the largest eigenvalues."""


def problem(networks: int, seed: int) -> Problem:
    """Networks with torch's default initialisation; the seed is the process's, since nn.Linear takes no generator."""
    torch.manual_seed(seed)
    modules = []
    for _ in range(networks):
        layers: list[nn.Module] = []
        for columns, rows in pairwise(WIDTHS):
            layers += [nn.Linear(columns, rows, dtype=torch.float64), nn.Tanh()]
        modules.append(nn.Sequential(*layers[:-1]))
    theta = torch.stack([torch.cat([p.detach().flatten() for p in m.parameters()]) for m in modules])
    X = torch.randn(WIDTHS[0], SAMPLES, dtype=torch.float64)
    return Problem(modules, theta, X, torch.randint(WIDTHS[-1], (SAMPLES,)))


def batched_loss(X: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """`theta (B, P) -> (B,)`, the mean cross-entropy of the networks which the rows of `theta` hold."""
    shapes = list(pairwise(WIDTHS))
    sizes = [size for columns, rows in shapes for size in (rows * columns, rows)]

    def loss(theta: Tensor) -> Tensor:
        parts = torch.split(theta, sizes, dim=1)
        h = X.expand(theta.shape[0], -1, -1)
        for layer, (columns, rows) in enumerate(shapes):
            weight = parts[2 * layer].reshape(-1, rows, columns)
            h = torch.baddbmm(parts[2 * layer + 1].unsqueeze(-1), weight, h)
            if layer < len(shapes) - 1:
                h = h.tanh()
        return cross_entropy(h, labels)

    return loss


def ours(given: Problem, device: torch.device) -> tuple[Tensor, Tensor]:
    """Values `(B,)` and vectors `(B, P)`, all networks at once; the transfers to and from the device count."""
    loss = batched_loss(given.X.to(device), given.labels.to(device))
    measured = hessian_lambda_max(loss, given.theta.to(device), tolerance=TOLERANCE)
    return measured.value.cpu(), measured.vectors[0].cpu()


def loop(given: Problem) -> tuple[Tensor, Tensor]:
    """Values and vectors, one network after the other: a double-backward graph kept for all products, and Lanczos."""
    found = [autograd_lanczos(m, given.X.T.contiguous(), given.labels) for m in given.modules]
    return torch.stack([value for value, _ in found]), torch.stack([vector for _, vector in found])


def autograd_lanczos(module: nn.Sequential, X: Tensor, labels: Tensor, most: int = 300) -> tuple[Tensor, Tensor]:
    """Lanczos with full reorthogonalisation on one module; the tridiagonal's top pair is looked at in every step."""
    parameters = list(module.parameters())
    loss = nn.functional.cross_entropy(module(X), labels)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])

    def product(v: Tensor) -> Tensor:
        return torch.cat([h.reshape(-1) for h in torch.autograd.grad(flat, parameters, v, retain_graph=True)])

    n = flat.numel()
    basis = torch.empty(most, n, dtype=torch.float64)
    start = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    basis[0] = start / start.norm()
    alpha: list[float] = []
    beta: list[float] = []
    for j in range(most - 1):
        w = product(basis[j])
        alpha.append(float(basis[j] @ w))
        for _ in range(2):
            w = w - basis[: j + 1].T @ (basis[: j + 1] @ w)
        norm = float(w.norm())
        if j > 0:
            (value,), vector = eigh_tridiagonal(np.array(alpha), np.array(beta), select="i", select_range=(j, j))
            if norm * abs(vector[-1, 0]) <= 0.9 * TOLERANCE * abs(value):
                break
        beta.append(norm)
        basis[j + 1] = w / norm
    ritz = torch.from_numpy(vector[:, 0]) @ basis[: len(alpha)]
    return torch.tensor(value, dtype=torch.float64), ritz / ritz.norm()


def with_curvlinops(given: Problem) -> tuple[Tensor, Tensor]:
    """Values and vectors, one network after the other, by curvlinops and ARPACK.

    ARPACK's `tol` is relative to the eigenvalue and bounds its estimate of the same residual: 0.9e-5 is asked for.
    """
    values, vectors = [], []
    for module in given.modules:
        operator = curvlinops.HessianLinearOperator(
            module,
            nn.CrossEntropyLoss(),
            list(module.parameters()),
            [(given.X.T.contiguous(), given.labels)],
            check_deterministic=False,  # would add products
        )
        start = torch.randn(operator.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        value, vector = eigsh(operator.to_scipy(), k=1, which="LA", tol=0.9 * TOLERANCE, v0=start.numpy())
        values.append(torch.tensor(value[0], dtype=torch.float64))
        vectors.append(torch.from_numpy(vector[:, 0]).double())
    return torch.stack(values), torch.stack(vectors)


def dense(given: Problem, networks: int) -> Tensor:
    """The largest eigenvalues of the first few networks, from the dense Hessian."""
    return dense_hessian_lambda_max(batched_loss(given.X, given.labels), given.theta[:networks]).value


def residuals(given: Problem, values: Tensor, vectors: Tensor) -> Tensor:
    """`|H v - value v| / (|value| |v|)` for every network, by one function for all methods."""
    image = hessian_vector_product(batched_loss(given.X, given.labels), given.theta, vectors)
    error: Tensor = torch.linalg.vector_norm(image - values.unsqueeze(-1) * vectors, dim=-1)
    scale: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return error / (values.abs() * scale)


def use_threads(threads: int) -> None:
    """The number of threads of PyTorch and, where threadpoolctl can set it, of the BLAS of NumPy and SciPy."""
    if threadpoolctl is not None:
        threadpoolctl.threadpool_limits(threads, user_api="blas")
    torch.set_num_threads(threads)


def compare(given: Problem, methods: dict[str, tuple[int, Method]], repetitions: int, referee: int) -> dict[str, Any]:
    """Time the methods in turns and check them; `methods` is name -> (threads, method), "ours" among them."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    few = Problem(given.modules[:2], given.theta[:2], given.X, given.labels)
    for threads, method in methods.values():
        use_threads(threads)
        method(few)  # warm up
    for _ in range(repetitions):
        for name, (threads, method) in methods.items():
            use_threads(threads)
            began = time.perf_counter()
            found[name] = method(given)
            seconds[name].append(time.perf_counter() - began)
    reference = found["ours"][0]
    rows: dict[str, dict[str, Any]] = {}
    for name, (values, vectors) in found.items():
        median = statistics.median(seconds[name])
        rows[name] = {
            "threads": methods[name][0],
            "seconds": seconds[name],
            "median": median,
            "ratio": median / statistics.median(seconds["ours"]),
            "worst_residual": float(residuals(given, values, vectors).max()),
            "difference": float((values / reference - 1).abs().max()),
        }
    off = float((reference[:referee] / dense(given, referee) - 1).abs().max()) if referee else 0.0
    sound = all(r["worst_residual"] < TOLERANCE and r["difference"] < AGREEMENT for r in rows.values())
    return {"methods": rows, "referee_networks": referee, "referee_difference": off, "sound": sound and off < AGREEMENT}


def show(result: dict[str, Any]) -> None:
    print(
        ", ".join(f"{name} {result[name]}" for name in ("networks", "parameters", "device", "torch", "cores", "load"))
    )
    heads = ("threads", "median s", "least s", "most s", "ratio", "worst residual", "difference")
    print(f"{'method':<22}" + "".join(f"{head:>16}" for head in heads))
    for name, row in result["methods"].items():
        times = (row["median"], min(row["seconds"]), max(row["seconds"]))
        cells = [f"{row['threads']}", *(f"{t:.3f}" for t in times), f"{row['ratio']:.2f}"]
        cells += [f"{row['worst_residual']:.1e}", f"{row['difference']:.1e}"]
        print(f"{name:<22}" + "".join(f"{cell:>16}" for cell in cells))
    if curvlinops is None:
        print("curvlinops            absent: pip install curvlinops-for-pytorch")
    print(f"dense referee on {result['referee_networks']} networks: difference {result['referee_difference']:.1e}")
    sound = "every residual is below 1e-5 and every value agrees to 1e-6"
    print(sound if result["sound"] else "UNSOUND: a residual or a value is off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--referee", type=int, default=2, help="networks to check against the dense Hessian")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where ours runs")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    device = choose(arguments.device)
    use_threads(arguments.threads)
    given = problem(arguments.networks, arguments.seed)

    methods: dict[str, tuple[int, Method]] = {"ours": (arguments.threads, lambda p: ours(p, device))}
    competitors: dict[str, Method] = {"loop": loop}
    if curvlinops is not None:
        competitors["curvlinops"] = with_curvlinops
    for name, method in competitors.items():
        methods[name] = (arguments.threads, method)
        if arguments.threads > 1:
            methods[f"{name}, 1 thread"] = (1, method)
    result = {
        "networks": arguments.networks,
        "parameters": given.theta.shape[1],
        "device": str(device),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        **compare(given, methods, arguments.repetitions, arguments.referee),
        "load": round(os.getloadavg()[0], 1),
    }
    show(result)
    if arguments.json is not None:
        partial = arguments.json.with_suffix(".part")
        partial.write_text(json.dumps(result, indent=2))
        partial.replace(arguments.json)
    if not result["sound"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
