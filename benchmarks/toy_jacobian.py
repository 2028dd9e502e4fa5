"""All 320 singular values of the toy network's Jacobian: ours against `torch.autograd.functional.jacobian` + `torch.linalg.svdvals`.

The network of the MNIST protocol (MacDonald et al. 2023) in its three variants, batch norm in training mode, 32 images, float64; the
Jacobian of the 32 x 10 logits in Block1's input, 32 x 5 x 12 x 12: 320 x 23,040. Both ways take turns in one process on one thread;
medians are compared, and the largest difference of a singular value relative to the largest one is printed.

    python -m benchmarks.toy_jacobian [--networks 64] [--repetitions 5] [--threads 1] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from numerics.device import DTYPE, choose, describe, generator, synchronise
from numerics.singular_values.dense import jacobian_singular_values, singular_values_of_states
from numerics.skips.modules import Described, as_module
from numerics.skips.networks import VARIANTS, toy


class Rest(nn.Module):
    """The network from Block1's input on, as a module of its own."""

    def __init__(self, module: Described) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module.part(x, 1)


def drawn(variant: str, networks: int, device: torch.device) -> tuple[Rest, list[dict[str, Tensor]], Tensor]:
    """An architecture, `networks` initial states of it, and the inputs of Block1 of each, `(networks, 32, 5, 12, 12)`."""
    net = toy(variant)
    modules = [as_module(net.network, net.image, seed=s, dtype=DTYPE, device=device) for s in range(networks)]
    images = torch.rand(networks, 32, *net.image, generator=generator(0), dtype=DTYPE).to(device)
    with torch.no_grad():
        inputs = torch.stack([m.part(x, 0, 1) for m, x in zip(modules, images, strict=True)])
    rests = [Rest(module) for module in modules]
    return rests[0], [rest.state_dict() for rest in rests], inputs


def published(module: nn.Module, x: Tensor) -> Tensor:
    jacobian = torch.autograd.functional.jacobian(module, x)
    values: Tensor = torch.linalg.svdvals(jacobian.reshape(320, -1))  # type: ignore[union-attr]
    return values


def published_of_states(module: nn.Module, states: list[dict[str, Tensor]], inputs: Tensor) -> Tensor:
    rows = []
    for state, x in zip(states, inputs, strict=True):
        module.load_state_dict(state)
        rows.append(published(module, x))
    return torch.stack(rows)


def compared(title: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor], repetitions: int) -> None:
    seconds: tuple[list[float], list[float]] = ([], [])
    found = [ours(), theirs()] if repetitions > 1 else []  # the first calls load libraries
    for _ in range(repetitions):
        found = []
        for way, times in zip((ours, theirs), seconds, strict=True):
            begin = time.perf_counter()
            values = way()
            synchronise(values.device)
            times.append(time.perf_counter() - begin)
            found.append(values)
    error = float(((found[0] - found[1]).abs() / found[1][..., :1]).max())
    a, b = (statistics.median(times) for times in seconds)
    least = min(seconds[1]) / min(seconds[0])
    print(
        f"{title:22} ours {a:8.3f} s, published {b:8.3f} s, ratio {b / a:5.2f} (of least times {least:5.2f}), "
        f"largest error {error:.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = choose(given.device)
    print(describe(device))
    for variant in VARIANTS:
        rest, _, inputs = drawn(variant, 1, device)
        compared(
            f"{variant}, one",
            lambda: jacobian_singular_values(rest, inputs[0]),  # noqa: B023
            lambda: published(rest, inputs[0]),  # noqa: B023
            given.repetitions,
        )
    rest, states, inputs = drawn("changed", given.networks, device)
    compared(
        f"changed, {given.networks} networks",
        lambda: singular_values_of_states(rest, states, inputs),
        lambda: published_of_states(rest, states, inputs),
        1,
    )


if __name__ == "__main__":
    main()
