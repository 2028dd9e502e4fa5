"""Batched certified gradient descent against a plain loop over networks: network-steps a second, in one run.

Width 32, depth 4, 32 samples, the loss-proportional step. The batched side is `numerics.convergence.descent.Descent` (one CUDA graph a chunk of steps where there
is a GPU). The plain side is what one would write without it: a `torch.nn.Module` a network, `loss.backward()`, a step by hand, on the same device.

    python benchmarks/descent.py [--networks 256] [--steps 50] [--device auto]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from numerics import device as devices
from numerics.convergence.descent import CHUNK, Descent
from numerics.datasets import data_values, digits
from numerics.ensembles import draw
from numerics.loss import Objective
from numerics.measure import cross_entropy
from numerics.preparation import whitened
from numerics.realise import Realisation, realise
from theory.convergence import certify
from theory.landscape import landscape
from theory.records import Shape
from theory.recursion import PROPORTIONAL, Recursion
from theory.spec import parse

WIDTH, DEPTH, SAMPLES, CLASSES = 32, 4, 32, 10
SPEC = (
    f"affine({WIDTH}), repeat({DEPTH}, residual(tanh, affine({WIDTH}, weight_norm=frobenius, eps=1), "
    f"scale(1/{8 * DEPTH}))), crop({CLASSES})"
)
ROUNDS = 5


class Plain(nn.Module):
    """The same network, one at a time."""

    def __init__(self, arrays: list[Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(array.clone()) for array in arrays])

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.weights
        x = first @ x
        for weight in others:
            x = x + weight / (1 + weight.square().sum()).sqrt() @ torch.tanh(x) / (8 * DEPTH)
        return x[:CLASSES]


def plain_steps(model: Plain, x: Tensor, labels: Tensor, recursion: Recursion, steps: int) -> None:
    start = None
    for _ in range(steps):
        model.zero_grad()
        loss = cross_entropy(model(x)[None], labels).sum()
        loss.backward()
        start = loss.detach() if start is None else start
        eta = recursion.step_size(loss.detach(), PROPORTIONAL, start)
        with torch.no_grad():
            for weight in model.weights:
                weight -= eta * weight.grad


def seconds(work, device: torch.device) -> float:
    devices.synchronise(device)
    begun = time.perf_counter()
    work()
    devices.synchronise(device)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=0, help="networks in a batch (256 on the CPU, 16,384 on CUDA)")
    parser.add_argument("--steps", type=int, default=2 * CHUNK)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = devices.choose(given.device)
    networks = given.networks or (256 if device.type == "cpu" else 16_384)
    torch.set_num_threads(1)
    data = whitened(digits(SAMPLES, 0), 3.0)
    recursion = certify(landscape(parse(SPEC), data.features, SAMPLES), data_values(data)).required()  # type: ignore[arg-type]
    realisation: Realisation = realise(parse(SPEC), Shape(data.features, SAMPLES))  # type: ignore[arg-type]
    there = data.to(device)
    theta = draw(realisation, networks, "gaussian", 1.0, devices.generator(0)).to(device)
    objective = Objective(realisation, there.X, there.labels)
    run = Descent(objective, recursion, theta, PROPORTIONAL)
    run.run(CHUNK)  # warm, and on CUDA the graph is recorded
    models = [Plain([a[i] for a in realisation.split(theta)]).to(device) for i in range(min(4, networks))]
    check = objective(theta[:1]).item()
    alone = cross_entropy(models[0](there.X)[None], there.labels).item()
    assert abs(check - alone) <= 1e-12 * abs(check), (check, alone)
    batched, plain = [], []
    for _ in range(ROUNDS):
        batched.append(networks * given.steps / seconds(lambda: run.run(given.steps), device))
        work = lambda: [plain_steps(m, there.X, there.labels, recursion, given.steps) for m in models]  # noqa: E731
        plain.append(len(models) * given.steps / seconds(work, device))
    print(f"{devices.describe(device)}; width {WIDTH}, depth {DEPTH}, {SAMPLES} samples, {networks} networks")
    ratio = statistics.median(b / p for b, p in zip(batched, plain, strict=True))
    print(
        f"batched {statistics.median(batched):,.0f} network-steps/s; plain loop {statistics.median(plain):,.0f}; ratio {ratio:.1f}"
    )


if __name__ == "__main__":
    main()
