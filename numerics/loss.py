"""The loss of a realised network as a map, so that every measurement and search of a map serves the loss as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from numerics.measure import cross_entropies, cross_entropy, squared_errors
from numerics.realise import ParameterSpec, Realisation
from theory.costs import CrossEntropy, SquaredError

OF_SAMPLES = {CrossEntropy.name: cross_entropies, SquaredError.name: squared_errors}
"""The cost of each sample by the name of the cost."""
SMALLEST = 1e-280
"""Cross-entropy below is taken for 0: one over it would overflow."""


@dataclass(frozen=True, eq=False)
class LossMap:
    """`(theta, X) -> ell(theta)` as a `1 x 1` output: mean cross-entropy of a realisation under fixed labels.

    Its `param_param` norm is `sup |D^2 ell[w, w]|`, the quantity that the smoothness constant bounds.
    """

    realisation: Realisation
    labels: Tensor

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        return self.realisation.parameters

    @property
    def size(self) -> int:
        return self.realisation.size

    @property
    def input_shape(self) -> tuple[int, int]:
        return self.realisation.input_shape

    @property
    def output_shape(self) -> tuple[int, int]:
        return (1, 1)

    def split(self, theta: Tensor) -> list[Tensor]:
        return self.realisation.split(theta)

    def pack(self, arrays: Sequence[Tensor]) -> Tensor:
        return self.realisation.pack(arrays)

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        """`theta (*batch, P)`, `X (*batch, d, N)` or `(d, N)` -> `(*batch, 1, 1)`."""
        return cross_entropy(self.realisation(theta, x), self.labels)[..., None, None]


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of a realisation on fixed data as a function of the parameters alone.

    Attributes:
        realisation: the network.
        x: `(d, N)`.
        targets: classes `(N,)` under cross-entropy, `(K, N)` under squared error.
        cost: its name.

    Raises:
        ValueError: an unknown cost, or targets whose shape does not match.
    """

    realisation: Realisation
    x: Tensor
    targets: Tensor
    cost: str = CrossEntropy.name

    def __post_init__(self) -> None:
        if self.cost not in OF_SAMPLES:
            raise ValueError(f"unknown cost {self.cost!r}: use {' or '.join(OF_SAMPLES)}")
        samples = self.x.shape[-1]
        wanted = (samples,) if self.cost == CrossEntropy.name else (self.realisation.output_shape[0], samples)
        if tuple(self.targets.shape) != wanted:
            raise ValueError(
                f"targets have shape {tuple(self.targets.shape)}: {self.cost} of {samples} samples needs {wanted}"
            )

    @property
    def samples(self) -> int:
        return int(self.x.shape[-1])

    @property
    def rounding(self) -> float:
        """The loss of outputs that are off by rounding alone: what a loss cannot be told from 0 by.

        Cross-entropy is computed from `log1p` and keeps its digits down to the smallest doubles. A residual does not: its entries are off by a
        few `2^-52` of the outputs', which near the optimum are the targets; `2^-44 |Y|_F` covers that.
        """
        if self.cost == CrossEntropy.name:
            return SMALLEST
        return float((2.0**-44 * self.targets.norm()) ** 2 / (2 * self.samples)) + SMALLEST

    def of_samples(self, theta: Tensor) -> Tensor:
        """`theta (*batch, P)` -> the cost of each sample, `(*batch, N)`."""
        return OF_SAMPLES[self.cost](self.realisation(theta, self.x), self.targets)

    def __call__(self, theta: Tensor) -> Tensor:
        """`theta (*batch, P)` -> the mean cost, `(*batch,)`."""
        return self.of_samples(theta).mean(-1)
