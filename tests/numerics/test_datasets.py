"""The digits are read, spread and described rightly, and bad data is refused by name."""

from __future__ import annotations

import pickle

import pytest
import torch

from numerics.datasets import Data, check_full_column_rank, digits
from numerics.device import DTYPE


@pytest.mark.parametrize("samples", [2, 10, 37, 400, 1797])
def test_digits_are_distinct_and_spread_evenly(samples: int) -> None:
    data = digits(samples, seed=0)
    assert data.X.shape == (64, samples)
    assert data.X.dtype == DTYPE
    assert data.classes == 10
    assert data.X.min() == 0
    assert data.X.max() == 1
    assert len({tuple(column) for column in data.X.T.tolist()}) == samples
    counts = torch.bincount(data.labels, minlength=10)
    if samples < 1740:  # ten times the smallest class
        assert counts.max() - counts.min() <= 1
    assert counts.sum() == samples


def test_the_seed_decides_the_choice() -> None:
    assert torch.equal(digits(20, 1).X, digits(20, 1).X)
    assert not torch.equal(digits(20, 1).X, digits(20, 2).X)


def test_a_label_belongs_to_its_image() -> None:
    """The mean images of the classes classify nine digits in ten; shuffled labels would leave one in ten."""
    data = digits(1000, 0)
    means = torch.stack([data.X[:, data.labels == k].mean(1) for k in range(10)])
    assert (torch.cdist(data.X.T, means).argmin(1) == data.labels).double().mean() > 0.85


def test_norms_are_those_of_the_singular_values() -> None:
    u = torch.linalg.qr(torch.randn(5, 3, dtype=DTYPE, generator=torch.Generator().manual_seed(0)))[0]
    data = Data(u * torch.tensor([4.0, 2.0, 0.5], dtype=DTYPE), torch.tensor([0, 1, 1]), 2)
    found = (data.operator_norm, data.sigma_min, data.frobenius_norm)
    assert found == pytest.approx((4, 0.5, (16 + 4 + 0.25) ** 0.5), rel=1e-13)
    check_full_column_rank(data)
    assert data.to("cpu").sigma_min == data.sigma_min


def test_data_travel_to_another_process_after_their_enclosure_was_taken() -> None:
    data = digits(10, 0)
    least, largest = data.singular_value_enclosure
    assert data.singular_value_enclosure[0] is least  # taken once
    copied = pickle.loads(pickle.dumps(data))
    assert torch.equal(copied.X, data.X)
    assert torch.equal(copied.labels, data.labels)
    assert copied.classes == 10
    assert copied.singular_value_enclosure[1].overlaps(largest)


def test_more_samples_than_features_have_no_full_column_rank() -> None:
    data = digits(65, 0)
    assert data.sigma_min == 0
    with pytest.raises(
        ValueError, match=r"X_0 of full column rank.*N = 65, d = 64, sigma_N = 0.*fewer samples.*feature map"
    ):
        check_full_column_rank(data)


def test_a_repeated_sample_is_caught_within_rounding() -> None:
    data = digits(10, 0)
    check_full_column_rank(data)
    repeated = torch.cat([data.X, data.X[:, :1]], 1)
    with pytest.raises(ValueError, match="X_0 of full column rank"):
        check_full_column_rank(Data(repeated, torch.cat([data.labels, data.labels[:1]]), 10))
    with pytest.raises(ValueError, match="tolerance 100"):
        check_full_column_rank(data, tolerance=100.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_entry_that_is_not_finite_is_named(value: float) -> None:
    x = torch.ones(3, 4, dtype=DTYPE)
    x[1, 2] = x[2, 0] = value
    with pytest.raises(ValueError, match=r"X\[1, 2\] = (nan|inf)"):
        Data(x, torch.zeros(4, dtype=torch.int64), 2)


@pytest.mark.parametrize("samples", [0, 1, 1798])
def test_too_few_or_too_many_digits_are_refused(samples: int) -> None:
    with pytest.raises(ValueError, match=f"samples = {samples}.*between 2 and 1797"):
        digits(samples, 0)


@pytest.mark.parametrize(
    ("x", "labels", "classes", "words"),
    [
        (torch.ones(3, 4), torch.zeros(4, dtype=torch.int64), 2, "float64"),
        (torch.ones(3, 1, dtype=DTYPE), torch.zeros(1, dtype=torch.int64), 2, "at least 2"),
        (torch.ones(3, 4, dtype=DTYPE), torch.zeros(3, dtype=torch.int64), 2, r"shape \(4,\)"),
        (torch.ones(3, 4, dtype=DTYPE), torch.zeros(4, dtype=DTYPE), 2, "int64"),
        (torch.ones(3, 4, dtype=DTYPE), torch.tensor([0, 1, 2, 1]), 2, r"0 \.\. 1"),
        (torch.ones(3, 4, dtype=DTYPE), torch.zeros(4, dtype=torch.int64), 1, "1 classes"),
    ],
)
def test_malformed_data_is_refused(x: torch.Tensor, labels: torch.Tensor, classes: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Data(x, labels, classes)
