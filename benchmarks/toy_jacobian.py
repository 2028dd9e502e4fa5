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
import torch.nn.functional as F
from torch import Tensor, nn

from numerics.device import DTYPE, choose, describe, synchronise
from numerics.spectra import jacobian_singular_values, singular_values_of_states

VARIANTS = ("chain", "projection", "changed")


class Block1(nn.Module):
    """BN-ReLU-Conv-BN-ReLU-Conv, with the identity skip unless the variant is the chain."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(5), nn.BatchNorm2d(5)
        self.conv1, self.conv2 = nn.Conv2d(5, 5, 5, padding=2), nn.Conv2d(5, 5, 5, padding=2)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return inner + x if self.skip else inner


class Block2(nn.Module):
    """5 x 12 x 12 -> 20 x 4 x 4; with a 1 x 1 convolution of stride 3 beside it, or with that and a padded average pool."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(5), nn.BatchNorm2d(20)
        self.conv1, self.conv2 = nn.Conv2d(5, 20, 3, stride=2, padding=1), nn.Conv2d(20, 20, 3)
        self.projection = nn.Conv2d(5, 20, 1, stride=3)
        self.variant = variant

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        result = self.conv2(F.relu(self.bn2(self.conv1(out))))
        if self.variant != "chain":
            result = result + self.projection(out)
        if self.variant == "changed":
            result = result + F.pad(3 * F.avg_pool2d(out, 3), (0, 0, 0, 0, 7, 8))
        return result


class Toy(nn.Module):
    """The whole network: `stem` to 5 x 12 x 12, then `rest` to the logits. All variants have the same parameters."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 5, 5), nn.AvgPool2d(2))
        head = [nn.Flatten(), nn.BatchNorm1d(320), nn.ReLU(), nn.Linear(320, 10)]
        self.rest = nn.Sequential(Block1(variant != "chain"), Block2(variant), *head)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.rest(self.stem(images))
        return logits


def drawn(variant: str, networks: int, device: torch.device) -> tuple[Toy, list[dict[str, Tensor]], Tensor]:
    """An architecture, `networks` initial states of its rest, and the inputs of Block1 of each, `(networks, 32, 5, 12, 12)`."""
    toys, inputs = [], []
    for seed in range(networks):
        torch.manual_seed(seed)
        toys.append(Toy(variant).to(device, DTYPE))
        with torch.no_grad():
            inputs.append(toys[-1].stem(torch.rand(32, 1, 28, 28).to(device, DTYPE)))
    return toys[0], [toy.rest.state_dict() for toy in toys], torch.stack(inputs)


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
        toy, _, inputs = drawn(variant, 1, device)
        compared(
            f"{variant}, one",
            lambda: jacobian_singular_values(toy.rest, inputs[0]),  # noqa: B023
            lambda: published(toy.rest, inputs[0]),  # noqa: B023
            given.repetitions,
        )
    toy, states, inputs = drawn("changed", given.networks, device)
    compared(
        f"changed, {given.networks} networks",
        lambda: singular_values_of_states(toy.rest, states, inputs),
        lambda: published_of_states(toy.rest, states, inputs),
        1,
    )


if __name__ == "__main__":
    main()
