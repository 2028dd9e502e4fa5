"""The loss of a realised network as a map, so that every measurement and search of a map serves the loss as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from numerics.measure import cross_entropy
from numerics.realise import ParameterSpec, Realisation


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
