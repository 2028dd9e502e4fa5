"""Training many seeds at once trains each as it would be alone; layer values are those of the layers; named errors."""

from dataclasses import replace

import pytest
import sympy
import torch

from numerics.datasets import digits
from numerics.device import generator
from numerics.realise import realise
from numerics.separability.figures import separability
from numerics.separability.study import Training, across_depths, halves, layer_values, perceptron, start, study, train
from numerics.separability.value import discrimination_value
from theory.records import Shape

SETTING = Training(width=6, seeds=4, steps=12, batch=20)


def test_layer_values_are_those_of_the_layers() -> None:
    data = digits(40, 0)
    network = perceptron(2, 10, SETTING)
    theta = start(realise(network, Shape(sympy.Integer(64), sympy.Integer(40))), SETTING)
    values, logits = layer_values(network, theta, data)
    realised = realise(network, Shape(sympy.Integer(64), sympy.Integer(40)))
    w1, b1, w2, b2, w3, b3 = realised.split(theta)
    x, expected = data.X, [discrimination_value(data.X, data.labels).expand(4)]
    for weight, bias in ((w1, b1), (w2, b2)):
        x = (weight @ x + bias.reshape(4, -1, 1)).relu()
        expected.append(discrimination_value(x, data.labels))
    x = w3 @ x + b3.reshape(4, -1, 1)
    expected.append(discrimination_value(x, data.labels))
    torch.testing.assert_close(values, torch.stack(expected, 1))
    torch.testing.assert_close(logits, x)
    # He's variance: 4 x 6 x 64 entries, so its standard error is sqrt(2/1536) = 0.036
    assert float(w1.var()) * 64 == pytest.approx(2, rel=0.15)


def test_networks_trained_together_are_trained_as_each_alone() -> None:
    data = digits(40, 0)
    network = perceptron(1, 10, SETTING)
    together = train(network, data, SETTING)
    here = realise(network, Shape(sympy.Integer(64), sympy.Integer(20)))
    alone = start(here, SETTING)[2:3].requires_grad_()
    optimiser, source = torch.optim.Adam([alone], SETTING.learning_rate), generator(SETTING.seed + 1)
    for _ in range(SETTING.steps):
        chosen = torch.randperm(40, generator=source)[:20]
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(here(alone, data.X[:, chosen])[0].T, data.labels[chosen]).backward()
        optimiser.step()
    # Adam divides by roots of squares: roundings of gradients near 0 grow, not beyond a part in 1e8
    torch.testing.assert_close(alone.detach()[0], together[2], rtol=1e-8, atol=1e-10)


def test_study_and_figure() -> None:
    first, second = halves(digits(120, 0))
    assert first.labels.bincount().tolist() == second.labels.bincount().tolist() == [6] * 10
    found = study((1, 2), first, second, replace(SETTING, steps=30))
    assert found[2].after.shape == found[2].before.shape == (4, 4)
    assert len(found[2].changes) == 3
    assert found[1].after[:, 0].tolist() == found[2].before[:, 0].tolist()
    rows = across_depths(found)
    assert [row[:3] for row in rows] == [(1, 1, 2)]
    assert rows[0][3].mean == pytest.approx(float((found[2].after - found[1].after[:, [0, 1, 2, 2]]).mean(0)[1]))
    curves = {
        depth: {
            **{end: [getattr(i, end) for i in layers.curve()] for end in ("mean", "low", "high")},
            "before": [i.mean for i in layers.curve(trained=False)],
        }
        for depth, layers in found.items()
    }
    figure = separability({"relu": curves})
    assert figure.axes[0].lines[0].get_ydata().tolist() == curves[1]["mean"]


def test_errors_name_the_offender() -> None:
    data = digits(40, 0)
    with pytest.raises(ValueError, match="mini-batches of 50 from 40"):
        train(perceptron(1, 10, SETTING), data, replace(SETTING, batch=50))
    with pytest.raises(ValueError, match="depth 0"):
        study((0,), data, data, SETTING)
    with pytest.raises(ValueError, match="must agree"):
        study((1,), data, replace(data, classes=11), SETTING)
