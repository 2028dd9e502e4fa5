"""Modules that certificates are tried on: small, smooth, and tuned for nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class Residual(nn.Module):
    """`x + inner(x)`."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Shared(nn.Module):
    """One layer used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.layer, self.out = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        for _ in range(3):
            x = torch.tanh(self.layer(x))
        return self.out(x)


class Projected(nn.Module):
    """A projection skip beside a branch, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.skip, self.one, self.two = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.out = nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.skip(x) + self.two(torch.sin(self.one(x)))
        return self.out(torch.cat([torch.tanh(y), y], 1).flatten(1))


class PreActivation(nn.Module):
    """Norm, activation, convolution, twice, beside an identity or a projection."""

    def __init__(self, given: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(given), nn.BatchNorm2d(planes)
        self.conv1 = nn.Conv2d(given, planes, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(given, planes, 1, stride=stride, bias=False) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.softplus(self.bn1(x))
        skip = x if self.skip is None else self.skip(inner)
        return skip + self.conv2(nn.functional.softplus(self.bn2(self.conv1(inner))))


class Encoder(nn.Module):
    """torch's own encoder layer on three tokens, read out from all of them."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            4, 2, dim_feedforward=6, dropout=0.0, activation="gelu", norm_first=norm_first, batch_first=True
        )
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x).flatten(1))


MODULES = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Sigmoid(), nn.Linear(5, 3)), (6,)),
    "residual layer norm": (
        lambda: nn.Sequential(Residual(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU()), nn.Linear(6, 3)),
        (6,),
    ),
    "batch norm": (lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)), (6,)),
    "frozen batch norm": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5).eval(), nn.Tanh(), nn.Linear(5, 3)).eval(),
        (6,),
    ),
    "weight norm": (
        lambda: nn.Sequential(weight_norm(nn.Linear(6, 5)), nn.Tanh(), weight_norm(nn.Linear(5, 3))),
        (6,),
    ),
    "shared": (Shared, (6,)),
    "vgg": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), nn.Softplus(), nn.AvgPool2d(2),
            nn.Conv2d(2, 3, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3),
        ),
        (1, 4, 4),
    ),
    "projected": (Projected, (1, 4, 4)),
    "pre-activation resnet": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1, bias=False), PreActivation(2, 2, 1), PreActivation(2, 3, 2),
            nn.BatchNorm2d(3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3),
        ),
        (1, 4, 4),
    ),
    "autoencoder": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 2, 2, stride=2), nn.Tanh(), nn.ConvTranspose3d(2, 1, 2, stride=2), nn.Flatten()
        ),
        (1, 2, 2, 4),
    ),
    "group norm": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(16, 3)),
        (2, 4),
    ),
    "pre-norm encoder": (lambda: Encoder(True), (3, 4)),
    "post-norm encoder": (lambda: Encoder(False), (3, 4)),
}  # fmt: skip
"""Name -> (factory, shape of one sample)."""


def built(name: str, samples: int = 4, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """The module in double precision, inputs and labels (the inputs themselves for the autoencoder)."""
    factory, shape = MODULES[name]
    torch.manual_seed(seed)
    module = factory().double()
    X = torch.randn(samples, *shape, dtype=torch.float64)
    labels = torch.arange(samples) % 3
    return module, X, X.flatten(1) if name == "autoencoder" else labels
