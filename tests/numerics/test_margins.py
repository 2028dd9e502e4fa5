"""Margin distributions: exact where the network is affine, invariant under rescaling, loud about what has no margin."""

import pytest
import torch
from torch import nn

from numerics.device import DTYPE, generator
from numerics.generalisation.margins import NUMBERS, Margins, hidden_positions, margins, module_margins
from numerics.realise import realise
from theory.network import chain
from theory.records import Shape
from theory.spec import parse

RELU = parse("affine(7, bias=true), relu, affine(6, bias=true), relu, affine(4, bias=true)")


def drawn(network, features: int = 5, samples: int = 40, networks: int = 3, seed: int = 0):
    source = generator(seed)
    shape = Shape(features, samples)
    realisation = realise(network, shape)
    theta = torch.randn(networks, realisation.size, generator=source, dtype=DTYPE)
    X = torch.randn(features, samples, generator=source, dtype=DTYPE)
    labels = torch.randint(realisation.output_shape[0], (samples,), generator=source)
    return shape, realisation, theta, X, labels


def test_distances_are_those_of_the_definition_entry_by_entry() -> None:
    shape, _, theta, X, labels = drawn(RELU)
    found = margins(RELU, shape, theta, X, labels)
    assert found.positions == (0, 2, 4) == hidden_positions(RELU)
    # the definition for one network, one sample, one layer, with the tail of the network written out
    arrays = realise(RELU, shape).split(theta[1])
    x = X[:, 3].clone()
    for layer, count in ((0, 0), (1, 1), (2, 2)):
        features = x
        for k in range(count):
            features = (arrays[2 * k] @ features + arrays[2 * k + 1]).clamp(min=0)
        features = features.detach().requires_grad_()
        out: torch.Tensor = features
        for k in range(count, 3):
            out = arrays[2 * k] @ out + arrays[2 * k + 1]
            out = out.clamp(min=0) if k < 2 else out
        i = int(labels[3])
        rival = max((j for j in range(4) if j != i), key=lambda j: float(out[j].detach()))
        gap = out[i] - out[rival]
        (gradient,) = torch.autograd.grad(gap, features)
        assert float(found.distances[1, layer, 3]) == pytest.approx(float((gap / gradient.norm()).detach()), rel=1e-12)
        assert bool(found.correct[1, 3]) == bool(gap > 0)


def test_total_variation_is_the_trace_of_the_covariance() -> None:
    shape, _, theta, X, labels = drawn(RELU)
    found = margins(RELU, shape, theta, X, labels)
    expected = torch.cov(X).trace()
    torch.testing.assert_close(found.total_variation[:, 0], expected.expand(3), rtol=1e-12, atol=0)


def test_for_an_affine_classifier_moving_by_the_distance_reaches_the_boundary() -> None:
    network = chain(parse("affine(4, bias=true)"))
    shape, realisation, theta, X, labels = drawn(network)
    found = margins(network, shape, theta, X, labels, positions=(0,))
    weight, _ = realisation.split(theta)
    out = realisation(theta, X)
    own = labels.expand(3, 1, 40)
    rival = out.scatter(1, own, -torch.inf).argmax(1, keepdim=True)
    normal = weight.gather(1, own.transpose(1, 2).expand(3, 40, 5)) - weight.gather(
        1, rival.transpose(1, 2).expand(3, 40, 5)
    )
    moved = X - (found.distances[:, 0].unsqueeze(-1) * normal / normal.norm(dim=-1, keepdim=True)).transpose(1, 2)
    there = realisation(theta, moved)
    difference = there.gather(1, own) - there.gather(1, rival)
    assert float(difference.abs().max()) < 1e-12  # rounding of outputs of size about 10


def test_the_nearest_rival_is_never_farther_than_the_runner_up() -> None:
    shape, _, theta, X, labels = drawn(RELU)
    runner_up = margins(RELU, shape, theta, X, labels)
    nearest = margins(RELU, shape, theta, X, labels, rival="nearest")
    right = runner_up.correct.unsqueeze(1) & runner_up.distances.isfinite()
    assert bool((nearest.distances <= runner_up.distances * (1 + 1e-12))[right.expand_as(runner_up.distances)].all())
    assert bool((nearest.distances < runner_up.distances * 0.99)[right.expand_as(runner_up.distances)].any())


def test_rescaling_changes_distances_by_its_factor_and_normalised_ones_not_at_all() -> None:
    shape, realisation, theta, X, labels = drawn(RELU)
    arrays = realisation.split(theta)
    c = 3.7
    other = [c * arrays[0], c * arrays[1], arrays[2] / c, *arrays[3:]]
    before = margins(RELU, shape, theta, X, labels)
    after = margins(RELU, shape, realisation.pack(other), X, labels)
    factors = torch.tensor([1, c, 1], dtype=DTYPE).reshape(1, 3, 1)
    torch.testing.assert_close(after.distances, factors * before.distances, rtol=1e-12, atol=0)
    torch.testing.assert_close(after.normalised, before.normalised, rtol=1e-12, atol=0)


def test_the_signature_is_quartiles_and_fences_of_the_positive_distances() -> None:
    distances = torch.tensor([[[-5.0, 1, 2, 3, 4, 100, torch.inf, torch.nan]]], dtype=DTYPE)
    margin = Margins((0,), distances, torch.tensor([[4.0]], dtype=DTYPE), distances[:, 0] > 0, torch.tensor([[1]]))
    # of 1, 2, 3, 4, 100: quartiles 2, 3, 4; the upper fence is 4 + 1.5 * 2 = 7, the lower one the least value, as 2 - 3 < 1
    assert margin.signature(normalise=False)[0, 0].tolist() == [1, 2, 3, 4, 7]
    assert margin.signature()[0, 0].tolist() == [0.5, 1, 1.5, 2, 3.5]
    assert len(NUMBERS) == 5


def test_unused_samples_count_for_nothing() -> None:
    shape, _, theta, X, labels = drawn(RELU)
    used = torch.arange(40) < 25
    part = margins(RELU, shape, theta, X, labels, used=used)
    alone = margins(RELU, Shape(5, 25), theta, X[:, :25], labels[:25])
    torch.testing.assert_close(part.signature(), alone.signature(), rtol=1e-12, atol=0)
    assert bool(part.distances[..., 25:].isnan().all())


def test_a_vanishing_gradient_has_no_distance_and_is_counted() -> None:
    shape, realisation, theta, X, labels = drawn(RELU)
    arrays = realisation.split(theta)
    # all rectifiers of the second network's last hidden layer are off: its outputs do not depend on the input
    arrays[3] = arrays[3].clone()
    arrays[3][1] = -1e6
    found = margins(RELU, shape, realisation.pack(arrays), X, labels)
    assert bool(found.distances[1, :2].isinf().all())
    assert found.flat[1].tolist() == [40, 40, 0]
    assert bool(found.signature()[1, 0].isnan().all())
    assert bool(found.signature()[0].isfinite().all())


def test_a_traced_module_is_measured_in_evaluation_mode_and_refused_in_training_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    x, labels = torch.randn(20, 8, dtype=DTYPE), torch.randint(3, (20,))
    model(x)
    with pytest.raises(ValueError, match=r"couples samples.*model.eval"):
        module_margins(model, x, labels)
    found = module_margins(model.eval(), x, labels)
    point = x.clone().requires_grad_()
    out = model(point)
    own = out.gather(1, labels[:, None])[:, 0]
    gap = own - out.scatter(1, labels[:, None], -torch.inf).amax(1)
    (gradient,) = torch.autograd.grad(gap.sum(), point)
    torch.testing.assert_close(found.distances[0], (gap / gradient.norm(dim=1)).detach(), rtol=1e-9, atol=0)


def test_bad_input_is_named() -> None:
    shape, _, theta, X, labels = drawn(RELU)
    with pytest.raises(ValueError, match="unknown rival 'best'"):
        margins(RELU, shape, theta, X, labels, rival="best")
    with pytest.raises(ValueError, match=r"positions \(0, 9\)"):
        margins(RELU, shape, theta, X, labels, positions=(0, 9))
    with pytest.raises(ValueError, match=r"in 0 \.\. 3"):
        margins(RELU, shape, theta, X, labels + 4)
    with pytest.raises(ValueError, match="fewer than 2 used samples"):
        margins(RELU, shape, theta, X, labels, used=torch.arange(40) < 1)
