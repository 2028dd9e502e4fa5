"""The verdict on one measured value: on the safe side, with a stated allowance, and nothing lost counts as holding."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch

from numerics.compare import ALLOWANCE, Comparison, extreme, verdict
from theory.bound import Sense

SENSES = (Sense.UPPER, Sense.LOWER)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("sense", "measured", "holds"),
    [
        (Sense.UPPER, 2.0, True),
        (Sense.UPPER, 2.0 * (1 + 0.5 * ALLOWANCE), True),
        (Sense.UPPER, 2.0 * (1 + 2 * ALLOWANCE), False),
        (Sense.UPPER, 2.0 * (1 + 1e-6), False),
        (Sense.LOWER, 2.0, True),
        (Sense.LOWER, 2.0 * (1 - 0.5 * ALLOWANCE), True),
        (Sense.LOWER, 2.0 * (1 - 2 * ALLOWANCE), False),
        (Sense.LOWER, 2.0 * (1 - 1e-6), False),
    ],
)
def test_a_bound_of_two_holds_within_the_allowance_and_not_beyond(sense: Sense, measured: float, holds: bool) -> None:
    tightness, verdict_holds, allowance = verdict(2.0, sense, measured)
    assert verdict_holds is holds
    assert allowance == ALLOWANCE * measured
    assert tightness == (measured / 2 if sense is Sense.UPPER else 2 / measured)


def test_the_allowance_is_relative_to_the_given_scale() -> None:
    """A least eigenvalue of 0 beside a largest of 100 may be measured as -5e-8, rounding of the largest; not as -5e-7."""
    assert verdict(0.0, Sense.LOWER, -5e-8, scale=100.0)[1:] == (True, ALLOWANCE * 100)
    assert not verdict(0.0, Sense.LOWER, -5e-7, scale=100.0)[1]
    assert not verdict(0.0, Sense.LOWER, -1e-30, scale=0.0)[1]


def test_a_wider_scale_never_turns_a_bound_that_holds_into_a_violation() -> None:
    for sense in SENSES:
        for measured in (0.0, 0.5, 1.0, 1.0 + 1e-8, 3.0):
            narrow, wide = (verdict(1.0, sense, measured, scale)[1] for scale in (1e-3, 1e3))
            assert wide >= narrow


@pytest.mark.parametrize("sense", SENSES)
@pytest.mark.parametrize("bound", [0.0, 1.0, math.inf])
def test_not_a_number_never_holds(sense: Sense, bound: float) -> None:
    tightness, holds, _ = verdict(bound, sense, math.nan)
    assert not holds
    assert math.isnan(tightness)


@pytest.mark.parametrize("sense", SENSES)
def test_a_bound_that_is_not_a_number_never_holds(sense: Sense) -> None:
    assert not verdict(math.nan, sense, 1.0)[1]


def test_an_infinite_bound_holds_of_everything_and_is_not_tight() -> None:
    for measured in (0.0, 1.0, 1e300):
        assert verdict(math.inf, Sense.UPPER, measured)[:2] == (0.0, True)


def test_an_infinite_measured_value_breaks_a_finite_bound() -> None:
    assert not verdict(1.0, Sense.UPPER, math.inf)[1]


def test_a_zero_that_is_measured_as_zero_is_attained() -> None:
    for sense in SENSES:
        assert verdict(0.0, sense, 0.0) == (1.0, True, 0.0)


def test_a_value_above_a_bound_of_zero_is_infinitely_beyond_it() -> None:
    assert verdict(0.0, Sense.UPPER, 1e-3)[:2] == (math.inf, False)


def test_a_lower_bound_of_zero_says_nothing_and_has_no_tightness() -> None:
    assert verdict(0.0, Sense.LOWER, 3.0)[:2] == (0.0, True)


def test_a_positive_lower_bound_on_a_measured_zero_is_infinitely_beyond_it() -> None:
    assert verdict(1e-3, Sense.LOWER, 0.0)[:2] == (math.inf, False)


def test_the_sense_may_be_given_by_its_name() -> None:
    for sense in SENSES:
        assert verdict(2.0, str(sense), 1.5) == verdict(2.0, sense, 1.5)


def test_the_extreme_is_the_largest_for_an_upper_and_the_smallest_for_a_lower_bound() -> None:
    values = tensor(2.0, -1.0, 7.0, 3.0)
    assert extreme(values, Sense.UPPER) == (7.0, 2)
    assert extreme(values, Sense.LOWER) == (-1.0, 1)


@pytest.mark.parametrize("sense", SENSES)
def test_a_lost_measurement_is_the_extreme(sense: Sense) -> None:
    """One value that is not a number among good ones must not be passed over."""
    value, index = extreme(tensor(2.0, math.nan, 9.0, math.nan), sense)
    assert math.isnan(value)
    assert index == 1
    assert not verdict(10.0 if sense is Sense.UPPER else 0.0, sense, value)[1]


def test_the_extreme_of_a_batch_counts_in_the_flattened_order_and_carries_no_gradient() -> None:
    values = torch.arange(6.0, dtype=torch.float64, requires_grad=True).reshape(2, 3)
    assert extreme(values, Sense.UPPER) == (5.0, 5)


def test_a_row_names_every_field() -> None:
    row = Comparison(
        "searched", "", "affine(2)", "chain, plain", 1, "J", "upper", 2.0, 1.0, 0.5, True, 3, 16, 0, "cpu"
    ).row()
    assert list(row) == [field.name for field in fields(Comparison)]
    assert row["witness"] == {}
    assert row["converged"] is True
