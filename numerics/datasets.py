"""Data in the project's layout (columns are samples), with the facts a certificate asks of it.

The default is scikit-learn's copy of the UCI handwritten digits (1797 images of 8 x 8 pixels), which comes with the
package: nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import flint
import sympy
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor

from numerics.device import DTYPE, generator
from numerics.enclosures import frobenius_norm, largest_column_norm, singular_value_enclosure
from theory import symbols

DIGITS = 1797
PIXEL_MAXIMUM = 16.0


@dataclass(frozen=True, eq=False)
class Data:
    """A fixed matrix of data with its labels.

    Attributes:
        X: `(d, N)` float64, one column a sample.
        labels: `(N,)` int64 in `0 .. classes - 1`.
        classes: number `K` of classes.

    Raises:
        ValueError: fewer than two samples or classes, mismatching shapes or types, a label out of range, or an entry
            that is not finite (the first one is named).
    """

    X: Tensor
    labels: Tensor
    classes: int

    def __post_init__(self) -> None:
        if self.X.ndim != 2 or self.X.dtype != DTYPE:
            raise ValueError(
                f"X is {self.X.dtype} of shape {tuple(self.X.shape)}: give a float64 matrix, columns are samples"
            )
        if self.samples < 2:
            raise ValueError(f"N = {self.samples} samples: at least 2 are needed")
        if self.classes < 2:
            raise ValueError(f"{self.classes} classes: at least 2 are needed")
        if self.labels.shape != (self.samples,) or self.labels.dtype != torch.int64:
            shape = tuple(self.labels.shape)
            raise ValueError(f"labels are {self.labels.dtype} of shape {shape}: give int64 of shape ({self.samples},)")
        if not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.classes:
            found = f"{int(self.labels.min())} .. {int(self.labels.max())}"
            raise ValueError(f"labels range over {found}: they must lie in 0 .. {self.classes - 1}")
        wrong = (~self.X.isfinite()).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            value = float(self.X[row, column])
            raise ValueError(f"X[{row}, {column}] = {value} (feature {row} of sample {column}): remove or impute it")

    @property
    def samples(self) -> int:
        """Number `N` of columns."""
        return self.X.shape[1]

    @property
    def features(self) -> int:
        """Number `d` of rows."""
        return self.X.shape[0]

    @cached_property
    def singular_values(self) -> Tensor:
        """All `min(d, N)` singular values, decreasing."""
        return torch.linalg.svdvals(self.X)

    @cached_property
    def singular_value_enclosure(self) -> tuple[flint.arb, flint.arb]:
        """Proven balls around `sigma_N(X)` and `sigma_1(X)`; the first reaches down to 0 where a positive value cannot be proven."""
        return singular_value_enclosure(self.X)

    @property
    def sigma_min(self) -> float:
        """`sigma_N(X)`, the least of the singular values counted by columns: 0 where `N > d`."""
        return float(self.singular_values[-1]) if self.samples <= self.features else 0.0

    @property
    def operator_norm(self) -> float:
        """`sigma_1(X)`."""
        return float(self.singular_values[0])

    @property
    def frobenius_norm(self) -> float:
        return float(self.X.norm())

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what is cached holds balls, which cannot be sent to another process."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str) -> Data:
        """The same data on another device."""
        return replace(self, X=self.X.to(device), labels=self.labels.to(device))


def digits(samples: int, seed: int) -> Data:
    """`samples` distinct images of digits, chosen by the seed and spread over the ten classes as evenly as possible.

    `X` is `(64, N)` with entries in [0, 1] (pixels / 16). The seed also chooses which classes get one image more.

    Raises:
        ValueError: fewer than 2 or more than 1797 samples.
    """
    if not 2 <= samples <= DIGITS:
        raise ValueError(f"samples = {samples}: the digits hold between 2 and {DIGITS}")
    pixels, targets = load_digits(return_X_y=True)
    images, labels = torch.as_tensor(pixels, dtype=DTYPE), torch.as_tensor(targets, dtype=torch.int64)
    source = generator(seed)
    # deal the images in rounds over the classes: sort by (rank within the class, shuffled order of the classes)
    order = torch.randperm(DIGITS, generator=source)
    classes = torch.randperm(10, generator=source)
    same = torch.nn.functional.one_hot(labels[order], 10)
    rank = (same.cumsum(0) * same).sum(1)
    chosen = order[(10 * rank + classes[labels[order]]).argsort()[:samples]]
    return Data((images[chosen] / PIXEL_MAXIMUM).T.contiguous(), labels[chosen].clone(), 10)


def check_full_column_rank(data: Data, tolerance: float | None = None) -> None:
    """Check the hypothesis "X_0 of full column rank": `sigma_N > tolerance`.

    The default tolerance is the rounding of the singular values, `max(d, N) 2^-52 sigma_1`.

    Raises:
        ValueError: naming the hypothesis, the numbers and the remedy.
    """
    rounding = max(data.features, data.samples) * torch.finfo(DTYPE).eps * data.operator_norm
    limit = rounding if tolerance is None else tolerance
    if data.sigma_min <= limit:
        numbers = f"N = {data.samples}, d = {data.features}, sigma_N = {data.sigma_min:.3g}, tolerance {limit:.3g}"
        raise ValueError(
            f"the hypothesis 'X_0 of full column rank' does not hold: {numbers}; "
            "use fewer samples, or a feature map into more dimensions"
        )


def data_values(data: Data) -> dict[sympy.Symbol, object]:
    """Values of `N, x_0, x_F, x_s, sigma` for a data matrix: the count, and balls that certainly contain the matrix's own norms.

    See `numerics.enclosures`: the ball of `sigma` reaches down to 0 where full column rank cannot be proven.
    """
    least, largest = data.singular_value_enclosure
    return {
        symbols.N: data.samples,
        symbols.x_0: largest,
        symbols.x_F: frobenius_norm(data.X),
        symbols.x_s: largest_column_norm(data.X),
        symbols.sigma: least,
    }
