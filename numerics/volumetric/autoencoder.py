r"""The volumetric autoencoder with a spatial transformer of Yu and Sabuncu (arXiv 1810.07746), at 80^3 and reduced, as torch modules.

    transformer: levels + 1 times [Conv3d(32, k3, p1), BatchNorm, ReLU, MaxPool 2], flattened, -> 9 affine parameters
    encoder:     Conv3d k3 p1, levels times [residual block, Conv3d k3 s2 p1], residual block, Conv3d k3 s4 -> code
    residual block: x + (conv k3 p1, instance norm, leaky ReLU, conv k3 p1, instance norm)(x)
    decoder:     ConvTranspose3d k4 s4 output_padding 1, levels times ConvTranspose3d k2 s2, Conv3d k3 p1, sigmoid

With 4 levels the grids are 80, 40, 20, 10, 5, 1 and back, and the transformer's last grid of 2^3 times 32 channels is the 256 of the publication. Reduced
networks have the same blocks on fewer levels: 24, 12, 6, 3, 1 with 3, 16, 8, 4, 1 with 2. The first transposed convolution has kernel and stride one less
than the coarsest grid, so that output padding 1 completes it. Reconstructed, as the source fixes neither: the widths, leaky ReLU between the decoder's transposed
convolutions, identity as the transformer's first guess, and (`Aligned`) what the transformer is trained for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from numerics.volumetric.volumes import affine_matrices, resample

COARSEST = (3, 6)
"""Grids that one convolution k3 s4 takes to a single voxel."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of the autoencoder: voxels a side, halvings, channels, length of the code, channels of the transformer.

    Errors: `ValueError` for a size that the halvings do not take to a grid of 3 to 6 voxels.
    """

    size: int = 80
    levels: int = 4
    width: int = 16
    code: int = 64
    transformer_width: int = 32

    def __post_init__(self) -> None:
        if self.size % 2**self.levels or not COARSEST[0] <= self.coarsest <= COARSEST[1]:
            raise ValueError(
                f"{self.size} voxels and {self.levels} halvings leave {self.size / 2**self.levels:g}: it must be a whole number from 3 to 6"
            )

    @property
    def coarsest(self) -> int:
        """Voxels a side after the halvings."""
        return self.size // 2**self.levels

    @property
    def grids(self) -> tuple[int, ...]:
        """The encoder's grids from the input to the code."""
        return (*(self.size // 2**level for level in range(self.levels + 1)), 1)


PUBLISHED = Architecture()
REDUCED = Architecture(size=24, levels=3, width=6, code=16, transformer_width=8)
SMALL = Architecture(size=16, levels=2, width=4, code=8, transformer_width=8)


def _convolution(given: int, out: int, stride: int = 1, padding: int = 1) -> nn.Conv3d:
    return nn.Conv3d(given, out, 3, stride=stride, padding=padding)


class ResidualBlock(nn.Module):
    """`x + (conv, instance norm, leaky ReLU, conv, instance norm)(x)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _convolution(width, width),
            nn.InstanceNorm3d(width),
            nn.LeakyReLU(),
            _convolution(width, width),
            nn.InstanceNorm3d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def encoder(of: Architecture) -> nn.Sequential:
    """`(B, 1, n, n, n) -> (B, code, 1, 1, 1)`."""
    parts: list[nn.Module] = [_convolution(1, of.width)]
    for _ in range(of.levels):
        parts += [ResidualBlock(of.width), _convolution(of.width, of.width, stride=2)]
    return nn.Sequential(*parts, ResidualBlock(of.width), _convolution(of.width, of.code, stride=4, padding=0))


def decoder(of: Architecture) -> nn.Sequential:
    """`(B, code, 1, 1, 1) -> (B, 1, n, n, n)` with entries in (0, 1)."""
    kernel = of.coarsest - 1
    parts: list[nn.Module] = [nn.ConvTranspose3d(of.code, of.width, kernel, stride=kernel, output_padding=1)]
    for _ in range(of.levels):
        parts += [nn.LeakyReLU(), nn.ConvTranspose3d(of.width, of.width, 2, stride=2)]
    return nn.Sequential(*parts, nn.LeakyReLU(), _convolution(of.width, 1), nn.Sigmoid())


class SpatialTransformer(nn.Module):
    """Nine affine parameters from a volume, and the volume resampled by that map: `(B, 1, n, n, n) -> (volumes, parameters (B, 9))`.

    Scales are exponentials, so they are positive; at the start the map is the identity.
    """

    def __init__(self, of: Architecture) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        side, channels = of.size, 1
        while side > 2 and len(parts) < 4 * (of.levels + 1):
            parts += [_convolution(channels, of.transformer_width)]
            parts += [nn.BatchNorm3d(of.transformer_width), nn.ReLU(), nn.MaxPool3d(2)]
            side, channels = side // 2, of.transformer_width
        self.features = nn.Sequential(*parts, nn.Flatten())
        self.flat = channels * side**3
        self.head = nn.Linear(self.flat, 9)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def parameters_of(self, volumes: Tensor) -> Tensor:
        """Three angles, three positive scales, three translations: `(B, 9)`."""
        raw = self.head(self.features(volumes))
        return torch.cat([raw[:, :3], raw[:, 3:6].exp(), raw[:, 6:]], 1)

    def forward(self, volumes: Tensor) -> tuple[Tensor, Tensor]:
        found = self.parameters_of(volumes)
        return resample(volumes, affine_matrices(found)), found


class Aligned(nn.Module):
    """Autoencoder behind an optional spatial transformer: `volumes -> (reconstructions, what they are to match, codes (B, code))`."""

    def __init__(self, of: Architecture, transformer: bool) -> None:
        super().__init__()
        self.transformer = SpatialTransformer(of) if transformer else None
        self.encoder, self.decoder = encoder(of), decoder(of)

    def forward(self, volumes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.transformer is not None:
            volumes, _ = self.transformer(volumes)
        code = self.encoder(volumes)
        return self.decoder(code), volumes, code.flatten(1)


def grids(module: nn.Module, example: Tensor) -> list[tuple[int, ...]]:
    """Grids after every (transposed) convolution and pooling of the module's run on the example; on the `meta` device nothing is computed."""
    found: list[tuple[int, ...]] = []
    kinds = (nn.Conv3d, nn.ConvTranspose3d, nn.MaxPool3d)
    handles = [
        part.register_forward_hook(lambda _, __, out: found.append(tuple(out.shape[2:])))
        for part in module.modules()
        if isinstance(part, kinds)
    ]
    try:
        module(example)
    finally:
        for handle in handles:
            handle.remove()
    return found
