"""A population trained in one batched program: narrow networks inside wide ones, batch norm folded, gaps from held-out images."""

import pytest
import torch

from numerics.datasets import digits
from numerics.device import generator
from numerics.generalisation.population import FIXED_DATA, HIDDEN, Ranges, Settings, _Stack, description, train
from numerics.realise import realise
from theory.records import Shape

SMALL = Ranges(widths=(6, 12), samples=(40, 64))


@pytest.fixture(scope="module")
def population():
    return train(12, 120, 0, SMALL)


def test_shapes_and_accuracies(population) -> None:
    assert population.theta.shape == (12, realise(population.network, population.shape).size)
    assert population.network == description(12, 10)
    assert population.used.sum(1).tolist() == population.settings.samples.tolist()
    outputs = realise(population.network, population.shape)(population.theta, population.X)
    right = (outputs.argmax(1) == population.labels) & population.used
    torch.testing.assert_close(
        population.train_accuracy, right.sum(1) / population.used.sum(1).double(), rtol=1e-12, atol=0
    )
    assert bool((population.gap == population.train_accuracy - population.test_accuracy).all())


def test_training_lowers_the_error(population) -> None:
    untrained = train(12, 0, 0, SMALL)
    # chance is 0.1 with a standard error of about 0.03 for the mean of twelve; 120 steps of a working optimiser reach several times that
    assert float(untrained.train_accuracy.mean()) < 0.3
    assert float(population.train_accuracy.mean()) > 0.6
    assert float(population.test_accuracy.mean()) > 0.3


def test_units_beyond_a_networks_width_stay_zero(population) -> None:
    arrays = realise(population.network, population.shape).split(population.theta)
    narrow = population.settings.width == 6
    assert bool(narrow.any())
    for layer in range(HIDDEN):
        weight, bias = arrays[2 * layer], arrays[2 * layer + 1]
        assert float(weight[narrow, 6:].abs().max()) == 0
        assert float(bias[narrow, 6:].abs().max()) == 0
        assert float(weight[narrow, :6].abs().min(1).values.max()) > 0


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_folded_batch_norm_gives_the_outputs_of_training_mode_on_the_whole_training_set(activation: str) -> None:
    # without dropout, and with all images in one batch, training mode uses the statistics that are folded in
    ranges = Ranges(widths=(6,), samples=(50,), dropout=(0.0,), batch_norm=0.5)
    source = generator(3)
    settings = Settings.draw(6, ranges, source)
    assert 0 < int(settings.batch_norm.sum()) < 6
    X = digits(50, 0).X
    stack = _Stack(settings, 64, 10, source, activation)
    network, shape = description(6, 10, activation), Shape(64, 50)
    realisation = realise(network, shape)
    theta = realisation.pack(stack.folded(X, torch.ones(6, 50, dtype=torch.bool)))
    expected = stack.train_outputs(X.expand(6, 64, 50)).detach()
    torch.testing.assert_close(realisation(theta, X), expected, rtol=1e-9, atol=1e-10)


def test_equal_seeds_give_equal_populations_and_labels_are_noisy_only_where_asked(population) -> None:
    again = train(12, 120, 0, SMALL)
    assert torch.equal(again.theta, population.theta)
    own = digits(64 + 1000, 0).labels[:64]
    changed = (population.labels != own).double().mean(1)
    assert bool((changed[population.settings.label_noise == 0] == 0).all())
    assert float(changed.max()) > 0
    assert FIXED_DATA.label_noise == (0.0,)


def test_more_images_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 1797 images"):
        train(4, 1, 0, Ranges(samples=(900,)))
    with pytest.raises(ValueError, match="at least 2 networks"):
        train(1, 1, 0, SMALL)


def test_an_activation_that_does_not_vanish_at_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'softplus': use one that vanishes at 0: identity, tanh"):
        train(4, 1, 0, SMALL, activation="softplus")
