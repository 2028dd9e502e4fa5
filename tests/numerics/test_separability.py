"""The generalized discrimination value: a naive twin, exact values, invariances, what plausible wrong variants give, and named errors."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Matrix

from numerics.device import generator
from numerics.separability.value import class_distances, discrimination_value, standardised
from theory import separability as theory

ROUNDING = 1e-12
"""A few hundred roundings of numbers of order 1."""


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def naive(features, labels, *, correction=0, half=True, mean=True, root=True) -> float:
    """The definition by loops; each keyword is one plausible mistake."""
    samples = features.T
    scores = (samples - samples.mean(0)) / samples.std(0, correction=correction) / (2 if half else 1)
    within, between = [], []
    classes = labels.unique().tolist()
    for c in classes:
        mine = scores[labels == c]
        pairs = [float((a - b).norm()) for a, b in itertools.combinations(mine, 2)]
        within.append(sum(pairs) / (len(pairs) if mean else 1))
    for c, d in itertools.combinations(classes, 2):
        pairs = [float((a - b).norm()) for a in scores[labels == c] for b in scores[labels == d]]
        between.append(sum(pairs) / (len(pairs) if mean else 1))
    value = sum(within) / len(within) - sum(between) / len(between)
    return value / (math.sqrt(samples.shape[1]) if root else 1)


LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])


def test_it_equals_the_definition_by_loops_and_batches_equal_single_ones() -> None:
    features = drawn(0, 2, 3, 5, 10) * torch.tensor([1.0, 3.0, 0.1, 7.0, 2.0]).unsqueeze(-1) + LABELS
    values = discrimination_value(features, LABELS)
    assert values.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        assert float(values[i, j]) == pytest.approx(naive(features[i, j], LABELS), abs=ROUNDING)
    dealt = torch.stack([LABELS, LABELS.flip(0)])
    by_labels = discrimination_value(features[0, 0], dealt)
    assert float(by_labels[1]) == pytest.approx(naive(features[0, 0], dealt[1]), abs=ROUNDING)


def test_wrong_variants_give_other_numbers() -> None:
    """Where the value is known exactly, at two collapsed classes (-1), each mistake shows; so do they on random data."""
    collapsed = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    assert float(discrimination_value(collapsed, labels)) == pytest.approx(-1, abs=ROUNDING)
    wrong = {
        "sample std": ({"correction": 1}, -math.sqrt(3) / 2),
        "no halving": ({"half": False}, -2.0),
        "sums, not means": ({"mean": False}, -4.0),
        "no D^{-1/2}": ({"root": False}, -math.sqrt(2)),
    }
    features = drawn(1, 5, 10) + LABELS
    right = naive(features, LABELS)
    for name, (mistake, at_collapse) in wrong.items():
        assert naive(collapsed, labels, **mistake) == pytest.approx(at_collapse, abs=ROUNDING), name
        assert abs(naive(features, LABELS, **mistake) - right) > 0.01 * abs(right), name


@pytest.mark.parametrize(("classes", "size"), [(2, 2), (3, 2), (4, 3), (10, 5)])
def test_both_ends_are_attained(classes: int, size: int) -> None:
    ends = theory.balanced()
    for (samples, labels), bound, sign in (
        (theory.collapsed_simplex([size] * classes), ends.separated, -1),
        (theory.repeated_simplex(classes, size), ends.mixed, 1),
    ):
        exact = float(bound.expression.subs({theory.K: classes, theory.n: size}))
        features = torch.tensor(samples.tolist(), dtype=torch.float64)
        assert float(discrimination_value(features, torch.tensor(labels))) == pytest.approx(sign * exact, abs=ROUNDING)


SEEDS = st.integers(0, 10_000)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_invariances_are_exact(seed: int) -> None:
    features = drawn(seed, 4, 10) + 0.5 * LABELS
    value = float(discrimination_value(features, LABELS))
    source = generator(seed + 1)
    scale = drawn(seed + 2, 4, 1).exp() * torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    dimensions, samples = torch.randperm(4, generator=source), torch.randperm(10, generator=source)
    same = {
        "translation": (features + drawn(seed + 3, 4, 1), LABELS),
        "scale per dimension, sign included": (features * scale, LABELS),
        "order of dimensions": (features[dimensions], LABELS),
        "order of samples": (features[:, samples], LABELS[samples]),
        "duplicated dimensions": (features.repeat(3, 1), LABELS),
        "names of classes": (features, (LABELS + 1) % 3),
    }
    for name, (other, labels) in same.items():
        # scales of e^4 and shifts of 4 leave a hundredth of the digits of a coordinate
        assert float(discrimination_value(other, labels)) == pytest.approx(value, abs=1e-10), name


def test_rotation_changes_it() -> None:
    """Exactly: two classes along a diagonal, turned by 45 degrees."""
    samples = Matrix([[-2, -1, 1, 2], [-1, -2, 2, 1]])
    labels = [0, 0, 1, 1]
    turned = Matrix([[1, 1], [1, -1]]) * samples
    before, after = (theory.discrimination_value(m, labels) for m in (samples, turned))
    assert (before - after).is_zero is False
    for exact, features in ((before, samples), (after, turned)):
        measured = discrimination_value(torch.tensor(features.tolist(), dtype=torch.float64), torch.tensor(labels))
        assert float(measured) == pytest.approx(float(exact), abs=ROUNDING)
    assert abs(float(before) - float(after)) > 0.1


def test_repeating_every_sample_changes_it() -> None:
    """Not an invariance: the mean within a class leaves out pairs of equal index, but not pairs of equal samples."""
    features = drawn(0, 4, 10)
    value = discrimination_value(features, LABELS)
    assert abs(float(discrimination_value(features.repeat(1, 2), LABELS.repeat(2)) - value)) > 0.05


@pytest.mark.parametrize("sizes", [(3, 3), (2, 4), (2, 2, 2)])
def test_its_mean_over_all_dealings_of_the_labels_is_zero(sizes: tuple[int, ...]) -> None:
    labels = [c for c, size in enumerate(sizes) for _ in range(size)]
    dealt = torch.tensor(sorted(set(itertools.permutations(labels))))
    values = discrimination_value(drawn(3, 5, 6), dealt)
    assert len(values) > 10
    assert float(values.mean()) == pytest.approx(0, abs=ROUNDING)
    assert float(values.abs().max()) > 0.01


def test_constant_dimensions_become_zero_and_count() -> None:
    features = drawn(4, 3, 10)
    with_constant = torch.cat([features, torch.full((1, 10), 0.1, dtype=torch.float64)])
    assert bool((standardised(with_constant)[3] == 0).all())
    expected = float(discrimination_value(features, LABELS)) * math.sqrt(3 / 4)
    assert float(discrimination_value(with_constant, LABELS)) == pytest.approx(expected, abs=ROUNDING)
    point = with_constant.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(discrimination_value(point, LABELS), point)
    assert bool(gradient.isfinite().all())


def test_small_distances_keep_their_digits() -> None:
    """Two tight classes far apart: distances by inner products would be off by 1e-8 here."""
    noise = drawn(5, 2, 40) * 1e-9
    labels = torch.arange(40) % 2
    within = class_distances(noise + labels, labels).diagonal()
    scores = standardised(noise + labels)
    scale = float(scores[0, 1] - scores[0, 0])
    first = noise[:, labels == 0]
    pairs = torch.stack([(a - b).norm() for a, b in itertools.combinations(first.T, 2)])
    # adding 1 leaves 1e-16 of a coordinate of 1e-9
    assert float(within[0]) == pytest.approx(float(pairs.mean()) * scale, rel=1e-6)


def test_errors_name_the_offender() -> None:
    features = drawn(6, 2, 3, 4)
    with pytest.raises(ValueError, match="class 1 has 1 sample"):
        discrimination_value(features, torch.tensor([0, 0, 1, 0]))
    with pytest.raises(ValueError, match=r"class 1 of batch entry \(1,\) has 1 sample"):
        discrimination_value(features, torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1]]))
    with pytest.raises(ValueError, match="class 1 has 0 samples"):
        discrimination_value(features, torch.tensor([0, 0, 2, 2]))
    with pytest.raises(ValueError, match="all 4 samples are of class 0"):
        discrimination_value(features, torch.tensor([0, 0, 0, 0]))
    with pytest.raises(ValueError, match="label -1 is negative"):
        discrimination_value(features, torch.tensor([0, 0, -1, -1]))
    with pytest.raises(ValueError, match=r"float64 of shape \(4,\)"):
        discrimination_value(features, torch.zeros(4, dtype=torch.float64))
    features[1, 2, 3] = math.nan
    with pytest.raises(ValueError, match=r"dimension 2 of sample 3 of batch entry \(1,\) is nan"):
        discrimination_value(features, torch.tensor([0, 0, 1, 1]))
