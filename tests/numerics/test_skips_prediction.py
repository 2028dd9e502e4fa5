"""The prediction made before training: what it measures is right, what it derives holds, and what it says follows from its numbers."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from numerics.datasets import digits
from numerics.device import DTYPE, generator
from numerics.measure import input_jacobian, tangent_kernel
from numerics.realise import realise
from numerics.skips.blocks import BlockBounds, block_bounds, fixed_spectrum
from numerics.skips.modules import Described, PadFeatures, arrays_of, as_module, theta_of
from numerics.skips.networks import VARIANTS, SkipNetwork, fixed_shortcut, resnet, toy
from numerics.skips.paired import Interval, interval, resampled_means
from numerics.skips.prediction import Prediction, dense_spectrum, predict, start
from theory.network import Chain
from theory.records import Shape
from theory.spec import parse

SAMPLES = 5


def small(variant: str) -> SkipNetwork:
    return toy(variant, image=22, width=2, features=5, classes=4)


def batch(net: SkipNetwork, samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, *net.image, generator=generator(4), dtype=DTYPE), torch.arange(samples) % 4


@cache
def images(samples: int) -> tuple[Tensor, Tensor]:
    """Digits of 8 x 8 pixels resized to the 28 x 28 of the protocol."""
    data = digits(samples, 0)
    pictures = data.X.T.reshape(samples, 1, 8, 8)
    return F.interpolate(pictures, size=(28, 28), mode="bilinear", align_corners=False), data.labels


@cache
def prediction() -> Prediction:
    return predict([toy(variant) for variant in VARIANTS], *images(8), seeds=range(3), step_sizes=(1e-6, 0.1))


# Intervals


def test_the_interval_of_equal_differences_is_their_value() -> None:
    found = interval(torch.full((4,), 0.25, dtype=DTYPE))
    assert (found.mean, found.low, found.high, found.trials) == (0.25, 0.25, 0.25, 4)


@pytest.mark.parametrize(
    ("values", "said"), [((1.0, 2.0, 0.5), "above"), ((-1.0, -2.0, -0.5), "below"), ((1.0, -1.0, 1.0), "undecided")]
)
def test_a_statement_is_made_where_the_interval_excludes_zero(values: tuple[float, ...], said: str) -> None:
    found = interval(torch.tensor(values, dtype=DTYPE))
    assert found.low <= found.mean <= found.high
    assert found.says("above", "below") == said


def test_intervals_of_twenty_trials_cover_the_mean_about_as_often_as_they_say() -> None:
    # 2000 sets of 20 normal numbers: the percentile bootstrap's coverage is 0.92 to 0.95 there, its standard error 0.006
    sets = torch.randn(20, 2000, generator=generator(1), dtype=DTYPE)
    means = resampled_means(sets, resamples=1000)
    low, high = means.quantile(0.025, 0), means.quantile(0.975, 0)
    covered = float(((low < 0) & (high > 0)).double().mean())
    assert 0.90 < covered < 0.965


@pytest.mark.parametrize(
    ("values", "level", "text"),
    [((1.0, 2.0), 0.95, "2 trials: at least 3"), ((1.0, math.nan, 2.0), 0.95, "trial 1 is not finite"), ((1.0,) * 3, 95, "level 95")],
)  # fmt: skip
def test_too_few_trials_or_bad_numbers_are_refused(values: tuple[float, ...], level: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        interval(torch.tensor(values, dtype=DTYPE), level=level)


# Measurements at the start


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_spectrum_is_that_of_the_exact_realisation(variant: str) -> None:
    net = small(variant)
    (x, _), module = batch(net), as_module(net.network, net.image, seed=2, dtype=DTYPE)
    found = dense_spectrum(module, x)
    rest = Chain(tuple(part for _, part in net.parts[1:]))
    realisation = realise(rest, net.shapes(SAMPLES)[1])
    inputs = module.part(x, 0, 1).detach().movedim(0, -1).reshape(-1, SAMPLES)
    jacobian = input_jacobian(realisation, theta_of(module, realisation)[None], inputs)
    assert found.shape == (4 * SAMPLES,)
    torch.testing.assert_close(found, torch.linalg.svdvals(jacobian)[0], rtol=1e-9, atol=1e-11)


def test_the_full_protocol_has_320_singular_values() -> None:
    found = start(toy("changed"), *images(32), seed=0)
    assert len(found.singular_values) == 320
    assert list(found.singular_values) == sorted(found.singular_values, reverse=True)
    assert found.singular_values[-1] > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_give_the_first_order_decrease_and_a_value_of_the_tangent_kernel(variant: str) -> None:
    net = small(variant)
    x, labels = batch(net)
    found = start(net, x, labels, seed=3, spectrum=None)
    module = as_module(net.network, net.image, seed=3, dtype=DTYPE)
    loss = F.cross_entropy(module(x), labels)
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    eta = 1e-7
    with torch.no_grad():
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter -= eta * gradient
        fallen = found.loss - float(F.cross_entropy(module(x), labels))
    # the second order is eta kappa / 2 of the first, kappa a few hundred at most
    assert fallen == pytest.approx(found.decrease(eta), rel=1e-3)
    fresh = as_module(net.network, net.image, seed=3, dtype=DTYPE)
    realisation = realise(net.network, net.shape(SAMPLES))
    kernel = tangent_kernel(realisation, theta_of(fresh, realisation)[None], x.movedim(0, -1).reshape(-1, SAMPLES))[0]
    # F(theta) as the realisation gives it: output (k, n) has index k N + n
    q = (F.softmax(fresh(x).detach(), 1) - F.one_hot(labels, 4)).T.flatten() / SAMPLES
    assert found.squared_cost_gradient == pytest.approx(float(q @ q), rel=1e-10)
    assert found.value("regularity") == pytest.approx(float(q @ kernel @ q / (q @ q)), rel=1e-9)
    assert math.isnan(found.value("singular_values"))


# Bounds of the blocks


FIXED = [(2, 2, 3), (3, 1, 2), (2, 0, 0), (1, 1, 1), (1, 0, 0), (3, 0, 2)]


@pytest.mark.parametrize(("stride", "before", "after"), FIXED)
def test_the_fixed_shortcut_has_the_derived_spectrum(stride: int, before: int, after: int) -> None:
    shape = Shape(2, 2, (6, 6))
    known = fixed_spectrum(fixed_shortcut(stride, before, after), shape)
    realisation = realise(fixed_shortcut(stride, before, after), shape)
    x = torch.zeros(realisation.input_shape, dtype=DTYPE)
    matrix = input_jacobian(realisation, torch.zeros(1, 0, dtype=DTYPE), x[None])[0]
    assert matrix.shape == (known.outputs, known.inputs)
    values = torch.linalg.svdvals(matrix)
    torch.testing.assert_close(values[: known.ones], torch.ones(known.ones, dtype=DTYPE), rtol=1e-12, atol=0)
    assert float(values[known.ones :].sum()) <= 1e-12
    assert known.injective == (stride == 1)
    assert known.onto == (before + after == 0)


def test_the_scale_is_what_makes_it_an_isometry() -> None:
    unscaled = Chain(tuple(m for m in fixed_shortcut(3, 1, 1).members if not hasattr(m, "factor")))
    with pytest.raises(ValueError, match=r"only known to lie in \[1/3, 1/3\]"):
        fixed_spectrum(unscaled, Shape(2, 2, (6, 6)))
    with pytest.raises(ValueError, match="not to be 1"):
        fixed_spectrum(parse("avg_pool(kernel=(3, 3), stride=(2, 2)), scale(3)"), Shape(2, 2, (7, 7)))


def dense_blocks(net: SkipNetwork, arrays: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """All singular values of every block on the output side, from its dense Jacobian."""
    found = []
    for index, (_, part) in enumerate(net.parts[:-1]):
        function = realise(part, net.shapes(x.shape[-1])[index])
        theta = function.pack([arrays[spec.name] for spec in function.parameters])
        if index:
            jacobian = input_jacobian(function, theta[None], x[None])[0]
            values = torch.linalg.svdvals(jacobian)
            found.append(F.pad(values, (0, max(0, len(jacobian) - len(values)))))
        x = function(theta, x)
    return found


def shortened(net: SkipNetwork, blocks: int) -> SkipNetwork:
    """The first blocks only, the head after them."""
    return dataclasses.replace(net, parts=(*net.parts[: 1 + blocks], net.parts[-1]))


SMALL_NETS = {
    **{f"toy {variant}": small(variant) for variant in VARIANTS},
    **{f"resnet18 {v}": shortened(resnet(18, v, width=2, image=8, classes=4), 4) for v in VARIANTS[1:]},
    "resnet50 changed": shortened(resnet(50, "changed", width=1, image=8, classes=4), 4),
}


@pytest.mark.parametrize("shrunk", [False, True], ids=["as drawn", "branches shrunk"])
@pytest.mark.parametrize("name", SMALL_NETS)
def test_derived_bounds_hold_for_every_block(name: str, shrunk: bool) -> None:
    net = SMALL_NETS[name]
    x = batch(net, 3)[0].movedim(0, -1).reshape(-1, 3)
    arrays = arrays_of(as_module(net.network, net.image, seed=1))
    if shrunk:
        last = ".conv3.weight" if "resnet50" in name else ".conv2.weight"
        arrays = {path: array * (1e-6 if path.endswith(last) else 1) for path, array in arrays.items()}
    bounds = block_bounds(net, arrays, x)
    assert [each.block for each in bounds] == list(net.blocks)
    for bound, values in zip(bounds, dense_blocks(net, arrays, x), strict=True):
        assert len(values) == bound.outputs
        assert float(values[0]) <= bound.largest
        # a measured largest value is attained, so it is one from below; its residual of 1e-4 is squared in the value
        assert bound.measured_largest == pytest.approx(float(values[0]), rel=1e-3)
        assert float(values[-1]) >= bound.smallest - 1e-10
        if bound.smallest_is_zero:
            assert float(values[-1]) <= 1e-10 * float(values[0])
            assert bound.smallest == 0
        if "identity skip" in bound.reason:
            assert bound.smallest == pytest.approx(max(0.0, 1 - bound.branch), abs=1e-8)
            assert bound.largest == pytest.approx(1 + bound.branch, rel=1e-8)
            assert bound.smallest > 0 or not shrunk
        else:
            assert bound.smallest == 0
            assert "0" in bound.reason


def test_the_reasons_name_what_each_shortcut_is() -> None:
    arrays = {v: arrays_of(as_module(toy(v).network, (1, 28, 28), seed=0)) for v in VARIANTS}
    x = images(8)[0].movedim(0, -1).reshape(-1, 8)
    chain, projection, changed = (block_bounds(toy(v), arrays[v], x, measure=False) for v in VARIANTS)
    assert [each.block for each in chain] == ["block1", "block2"]
    assert chain[0].smallest_is_zero
    assert "it is 0" in chain[0].reason
    assert "|branch| <=" in projection[0].reason
    assert "projection has rank at most 640 of 2560" in projection[1].reason
    assert "pad(s AvgPool_s) has 640 singular values 1, all others 0: not injective and not onto" in changed[1].reason
    assert changed[1].largest > projection[1].largest > projection[1].branch
    assert {each.measured_largest for each in (*chain, *projection, *changed)} == {None}


# The prediction


def test_statements_follow_from_the_intervals() -> None:
    found = prediction()
    assert len(found.pairs) == 9
    assert {order.quantity for order in found.orders} == {"decrease", "regularity", "singular_values"}
    for pair in found.pairs:
        above, below = ("larger", "smaller") if pair.quantity == "singular_values" else ("faster", "slower")
        mean, low, high = pair.log_ratio.mean, pair.log_ratio.low, pair.log_ratio.high
        assert low <= mean <= high
        assert pair.statement == (above if low > 0 else below if high < 0 else "undecided")
        turned = found.pair(pair.quantity, pair.second, pair.first)
        assert turned.log_ratio == Interval(-mean, -high, -low, 0.95, 3)
        swapped = {above: below, below: above, "undecided": "undecided"}
        assert turned.statement == swapped[pair.statement]
        assert found.pair(pair.quantity, pair.first, pair.second) == pair
        logs = {v: [math.log(s.value(pair.quantity)) for s in found.starts if s.variant == v] for v in VARIANTS}
        ratios = [a - b for a, b in zip(logs[pair.first], logs[pair.second], strict=True)]
        assert mean == pytest.approx(sum(ratios) / 3, rel=1e-9)
    for order in found.orders:
        means = [sum(math.log(s.value(order.quantity)) for s in found.starts if s.variant == v) for v in order.variants]
        assert means == sorted(means, reverse=True)
        assert 0 < order.support <= 1


def test_the_first_step_comes_out_as_predicted_where_it_is_short() -> None:
    found, (x, labels) = prediction(), images(8)
    eta = found.step_sizes[0]
    for each in found.starts:
        net = toy(each.variant)
        module = as_module(net.network, net.image, seed=each.seed, dtype=DTYPE)
        loss = F.cross_entropy(module(x), labels)
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter -= eta * gradient
            fallen = each.loss - float(F.cross_entropy(module(x), labels))
        # second order: eta kappa / 2, with kappa of up to some thousands between kinks; the loss's rounding is 1e-10 of the decrease
        assert fallen == pytest.approx(each.decrease(eta), rel=0.01)


def test_a_step_that_first_order_takes_below_zero_loss_is_named() -> None:
    found = prediction()
    assert found.too_long[0] == 0
    shares = [each.decrease(0.1) > each.loss for each in found.starts]
    assert found.too_long[1] == sum(shares) / 9
    assert found.too_long[1] > 0


def test_variants_of_a_trial_are_paired_and_a_prediction_is_the_same_twice() -> None:
    nets = [small(variant) for variant in VARIANTS]
    x, labels = batch(nets[0])
    one, other = (predict(nets, x, labels, seeds=(0, 1, 2), bounds=False) for _ in range(2))
    assert one == other
    more = predict(nets, x + 1e-3, labels, seeds=(0, 1, 2), spectrum=None, bounds=False)
    assert more.data["sha256"] != one.data["sha256"]
    assert more.bounds == {}
    assert prediction().bounds.keys() == set(VARIANTS)
    assert {pair.quantity for pair in more.pairs} == {"decrease", "regularity"}


def raised_by_half(module: Described, x: Tensor) -> Tensor:
    """Planted: the changed shortcut raises the mean by half, the projection changes it by turns."""
    changed = any(isinstance(each, PadFeatures) for each in module.modules())
    projected = "block2.cproj.weight" in dict(module.named_parameters())
    sign = 1 if float(module.get_parameter("conv.bias").detach()[0]) > 0 else -1
    mean = 1.5 if changed else 1 + 0.1 * sign if projected else 1.0
    return torch.tensor([mean + 0.5, mean - 0.5], dtype=DTYPE)


def test_a_planted_difference_is_found_and_planted_noise_is_undecided() -> None:
    nets = [small(variant) for variant in VARIANTS]
    found = predict(nets, *batch(nets[0]), seeds=range(8), spectrum=raised_by_half, bounds=False)
    ratio = found.pair("singular_values", "changed", "chain")
    assert ratio.statement == "larger"
    assert ratio.log_ratio.mean == pytest.approx(math.log(1.5))
    assert found.pair("singular_values", "chain", "changed").statement == "smaller"
    assert found.pair("singular_values", "projection", "chain").statement == "undecided"
    order = next(each for each in found.orders if each.quantity == "singular_values")
    assert order.variants[0] == "changed"
    assert order.support < 1


def test_the_record_is_frozen_written_once_and_read_back(tmp_path: Path) -> None:
    found = prediction()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.network = "other"  # type: ignore[misc]
    path = found.write(tmp_path / "prediction.json")
    assert Prediction.read(path) == found
    assert found.write(path) == path
    with pytest.raises(ValueError, match="holds another prediction"):
        dataclasses.replace(found, network="other").write(path)
    assert Prediction.read(path) == found
    assert json.loads(path.read_text())["data"]["samples"] == 8


def test_an_infinite_bound_is_written_and_read_as_one(tmp_path: Path) -> None:
    bound = BlockBounds("block1", 4, 4, math.inf, 0.0, False, math.inf, "oo", None)
    found = dataclasses.replace(prediction(), bounds={"chain": (bound,)})
    back = Prediction.read(found.write(tmp_path / "prediction.json")).bounds["chain"][0]
    assert (back.largest, back.branch, back.measured_largest) == (math.inf, math.inf, None)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"network": "toy", "variants": 3}'])
def test_a_file_that_is_no_prediction_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prediction.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is no prediction"):
        Prediction.read(path)


def test_bad_arguments_are_refused_by_name() -> None:
    nets = [small(variant) for variant in VARIANTS]
    x, labels = batch(nets[0])
    with pytest.raises(ValueError, match="give at least two"):
        predict(nets[:1], x, labels, seeds=range(3))
    with pytest.raises(ValueError, match="chain, chain: give at least two, each of them once"):
        predict([nets[0], nets[0]], x, labels, seeds=range(3))
    with pytest.raises(ValueError, match="counted twice"):
        predict(nets, x, labels, seeds=(0, 1, 1))
    with pytest.raises(ValueError, match="resize them"):
        predict(nets, x[..., :20], labels, seeds=range(3))
    with pytest.raises(ValueError, match="2 trials: at least 3"):
        predict(nets, x, labels, seeds=range(2), spectrum=None, bounds=False)
    with pytest.raises(ValueError, match=r"singular_values of chain at seed 0 is 0\.0"):
        predict(nets, x, labels, seeds=range(3), spectrum=lambda m, x: torch.zeros(1, dtype=DTYPE))
    with pytest.raises(ValueError, match="no speed of chain against changed"):
        prediction().pair("speed", "chain", "changed")
