"""Pre-activation ResNet-18 on 32 x 32 images, batch 32: traced, first- and second-order bounds around its weights evaluated; seconds of each.

With ReLU the second derivative is infinite (and said to be); with softplus in its place it is finite.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from numerics.certification.local import Walk, largest
from numerics.trace import trace
from theory.network import expand, named


class Block(nn.Module):
    def __init__(self, given: int, planes: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.bn1, self.bn2, self.activation = nn.BatchNorm2d(given), nn.BatchNorm2d(planes), activation()
        self.conv1 = nn.Conv2d(given, planes, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(given, planes, 1, stride=stride, bias=False) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(inner)
        return skip + self.conv2(self.activation(self.bn2(self.conv1(inner))))


def resnet18(activation: type[nn.Module], width: int = 64) -> nn.Sequential:
    """He et al. 2016, the pre-activation form with the 3 x 3 stem for small images."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False)]
    given = width
    for stage, stride in enumerate((1, 2, 2, 2)):
        for step in (stride, 1):
            layers.append(Block(given, width * 2**stage, step, activation))
            given = width * 2**stage
    head = [nn.BatchNorm2d(given), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(given, 10)]
    return nn.Sequential(*layers, *head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--radius", type=float, default=1e-4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for activation in (nn.ReLU, nn.Softplus):
        for training in (False, True):
            torch.manual_seed(0)
            module = resnet18(activation, given.width).train(training)
            images = torch.randn(given.batch, 3, 32, 32)
            start = time.perf_counter()
            traced = trace(module, images, agreement=None)
            middle = time.perf_counter()
            atoms, _ = expand(named(traced.network), traced.shape)
            walk = Walk(traced.parameters, given.radius, third=False, measure=False)
            state, _ = walk(atoms, traced.input(images), traced.shape)
            end = time.perf_counter()
            print(
                f"{activation.__name__:>8}, batch norm {'in training' if training else 'frozen'}: traced in {middle - start:.1f} s, "
                f"bounds in {end - middle:.1f} s; |DF| <= {largest(state.jet.first):.3g}, |D^2 F| <= {largest(state.jet.second):.3g} "
                f"on the ball of radius {given.radius:g}"
            )


if __name__ == "__main__":
    main()
