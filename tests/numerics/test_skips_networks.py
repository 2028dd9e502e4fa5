"""The skip networks: as published, equal in both realisations and when traced, of one initial state."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from numerics.device import DTYPE, generator
from numerics.realise import realise
from numerics.skips.modules import Described, arrays_of, as_module, theta_of
from numerics.skips.networks import BLOCKS, VARIANTS, SkipNetwork, resnet, toy
from numerics.trace import trace
from theory.layers.fixed import FeaturePad
from theory.network import Residual, walk
from theory.spec import describe, parse

SAMPLES = 4


def small(variant: str) -> SkipNetwork:
    """The toy net of 2 and 5 features: the change of 3 is odd, as in the published one."""
    return toy(variant, image=22, width=2, features=5)


NETS = {
    **{f"toy {variant}": small(variant) for variant in VARIANTS},
    **{
        f"resnet{depth} {stem} {variant}": resnet(depth, variant, stem=stem, width=2, image=image, classes=3)
        for depth in (18, 50)
        for stem, image in (("cifar", 8), ("imagenet", 32))
        for variant in VARIANTS[1:]
    },
}


def batch(net: SkipNetwork, samples: int = SAMPLES, seed: int = 5) -> Tensor:
    return torch.randn(samples, *net.image, generator=generator(seed), dtype=DTYPE)


def built(net: SkipNetwork, seed: int = 0, dtype: torch.dtype = DTYPE) -> Described:
    """With gains and shifts away from 1 and 0, so that a swap of the two would show."""
    module = as_module(net.network, net.image, seed=seed, dtype=dtype)
    source = generator(seed + 1)
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d):
                for parameter in (each.weight, each.bias):
                    parameter += 0.3 * torch.randn(parameter.shape, generator=source, dtype=DTYPE)
    return module


@pytest.mark.parametrize("name", NETS)
def test_both_realisations_agree_in_values_and_gradients(name: str) -> None:
    net = NETS[name]
    module, x = built(net), batch(net)
    outputs = module(x)
    weights = torch.randn(outputs.shape, generator=generator(6), dtype=DTYPE)
    (outputs * weights).sum().backward()
    realisation = realise(net.network, net.shape(SAMPLES))
    theta = theta_of(module, realisation).requires_grad_()
    image = realisation(theta, x.movedim(0, -1).reshape(-1, SAMPLES))
    # some hundred operations deep, entries of order one: rounding stays below 1e-11
    torch.testing.assert_close(image.mT, outputs, rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad((image.mT * weights).sum(), theta)
    own = theta_of(module, realisation, {n: p.grad for n, p in module.named_parameters() if p.grad is not None})
    assert float(own.norm()) > 1
    torch.testing.assert_close(gradient, own, rtol=1e-8, atol=1e-10 * float(own.norm()))


@pytest.mark.parametrize(
    "name", ["toy chain", "toy projection", "toy changed", "resnet18 cifar changed", "resnet18 imagenet changed"]
)
def test_tracing_the_module_gives_a_network_equal_in_value(name: str) -> None:
    net = NETS[name]
    module, x = built(net), batch(net)
    traced = trace(module, x)
    image = traced.output(traced.realise()(traced.theta(), traced.input(x)))
    torch.testing.assert_close(image, module(x), rtol=1e-10, atol=1e-10)
    assert sum(isinstance(part, FeaturePad) for part in walk(traced.network)) == net.changed_shortcuts
    assert traced.parameters.keys() == arrays_of(module).keys()


# As published: written once more by hand, on the values of the module's state


def norm(state: dict[str, Tensor], path: str, x: Tensor) -> Tensor:
    return F.relu(F.batch_norm(x, None, None, state[f"{path}.weight"], state[f"{path}.bias"], training=True))


def conv(state: dict[str, Tensor], path: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    return F.conv2d(x, state[f"{path}.weight"], state.get(f"{path}.bias"), stride, padding)


def published_toy(state: dict[str, Tensor], x: Tensor, variant: str) -> Tensor:
    x = F.avg_pool2d(conv(state, "conv", x), 2)
    branch = conv(state, "block1.conv1", norm(state, "block1.bn1", x), padding=2)
    branch = conv(state, "block1.conv2", norm(state, "block1.bn2", branch), padding=2)
    x = branch if variant == "chain" else x + branch
    z = norm(state, "block2.bn1", x)
    y = conv(state, "block2.conv2", norm(state, "block2.bn2", conv(state, "block2.conv1", z, 2, 1)))
    if variant != "chain":
        y = y + conv(state, "block2.cproj", z, 3)
    if variant == "changed":
        y = y + F.pad(3 * F.avg_pool2d(z, 3), (0, 0, 0, 0, 7, 8))
    assert y.shape[1:] == (20, 4, 4)
    return F.linear(norm(state, "bn", y.flatten(1)), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_toy_net_is_the_published_one(variant: str) -> None:
    net = toy(variant)
    module, x = built(net), batch(net)
    torch.testing.assert_close(module(x), published_toy(dict(module.named_parameters()), x, variant))
    assert [int(shape.size) for shape in net.shapes(32)] == [784 * 32, 720 * 32, 720 * 32, 320 * 32, 10 * 32]


def published_resnet(state: dict[str, Tensor], x: Tensor, depth: int, changed: bool, width: int) -> Tensor:
    x = conv(state, "conv1", x, padding=1)
    for stage, blocks in enumerate(BLOCKS[depth]):
        for index in range(blocks):
            path, stride = f"layer{stage + 1}.{index}", 2 if stage and not index else 1
            z = norm(state, f"{path}.bn1", x)
            if depth < 50:
                y = conv(state, f"{path}.conv1", z, stride, 1)
                y = conv(state, f"{path}.conv2", norm(state, f"{path}.bn2", y), padding=1)
            else:
                y = conv(state, f"{path}.conv2", norm(state, f"{path}.bn2", conv(state, f"{path}.conv1", z)), stride, 1)
                y = conv(state, f"{path}.conv3", norm(state, f"{path}.bn3", y))
            assert y.shape[1] == width * 2**stage * (1 if depth < 50 else 4)
            if stride == 1 and y.shape[1] == x.shape[1]:
                x = x + y
                continue
            y = y + conv(state, f"{path}.shortcut", z, stride)
            if changed:
                more = y.shape[1] - z.shape[1]
                ends = math.ceil(more / 2), math.floor(more / 2)
                y = y + F.pad(stride * F.avg_pool2d(z, stride, stride), (0, 0, 0, 0, *ends))
            x = y
    return F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("variant", VARIANTS[1:])
@pytest.mark.parametrize(("depth", "width"), [(18, 3), (34, 2), (50, 2)])
def test_the_resnets_are_the_published_ones(depth: int, width: int, variant: str) -> None:
    net = resnet(depth, variant, width=width, image=16)
    module, x = built(net), batch(net)
    expected = published_resnet(dict(module.named_parameters()), x, depth, variant == "changed", width)
    torch.testing.assert_close(module(x), expected, rtol=1e-8, atol=1e-10)


def count(net: SkipNetwork) -> int:
    module = as_module(net.network, net.image, seed=0)
    return sum(parameter.numel() for parameter in module.parameters())


NORMS_OF_TORCHVISION = {18: 9600, 34: 17024, 50: 53120, 101: 105344, 152: 151424}
TOTAL_OF_TORCHVISION = {18: 11689512, 34: 21797672, 50: 25557032, 101: 44549160, 152: 60192808}
"""Parameters of torchvision's ResNets, whose convolutions and linear layer are those of the pre-activation form; their norms differ."""


def norm_parameters(depth: int, width: int = 64) -> int:
    """Two for every feature that a norm acts on: the input of each convolution but the stem and the shortcuts."""
    total, given = 0, width
    for stage, blocks in enumerate(BLOCKS[depth]):
        planes = width * 2**stage
        for _ in range(blocks):
            total += 2 * (given + planes * (1 if depth < 50 else 2))
            given = planes * (1 if depth < 50 else 4)
    return total


@pytest.mark.parametrize("depth", BLOCKS)
def test_parameter_counts_are_those_of_the_published_networks(depth: int) -> None:
    net = resnet(depth, stem="imagenet", classes=1000)
    shared = TOTAL_OF_TORCHVISION[depth] - NORMS_OF_TORCHVISION[depth]
    assert count(net) == shared + norm_parameters(depth)
    small, changed = (resnet(depth, variant, width=4, image=32) for variant in VARIANTS[1:])
    assert count(changed) == count(small)


def test_preactivation_resnet18_for_cifar_has_11171146_parameters_as_there_is_no_norm_after_the_last_block() -> None:
    assert count(resnet(18)) == 11_171_146
    assert count(resnet(18, classes=100)) == 11_171_146 + 90 * 513


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("depth", BLOCKS)
def test_the_changed_shortcut_touches_three_shortcuts_or_four_of_bottlenecks(depth: int, stem: str) -> None:
    plain, changed = resnet(depth, stem=stem), resnet(depth, "changed", stem=stem)
    assert (plain.changed_shortcuts, changed.changed_shortcuts) == (0, 3 if depth < 50 else 4)
    differ = [a for (a, one), (_, other) in zip(plain.parts, changed.parts, strict=True) if one != other]
    assert differ == [f"layer{i}.0" for i in ((2, 3, 4) if depth < 50 else (1, 2, 3, 4))]
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
    assert list(plain.blocks) == [f"layer{s + 1}.{b}" for s, n in enumerate(blocks) for b in range(n)]
    identities = sum(isinstance(part, Residual) for part in walk(plain.network))
    assert identities == sum(blocks) - (3 if depth < 50 else 4)
    assert plain.shapes(2)[-1].sample_size == 10


@pytest.mark.parametrize("name", NETS)
def test_the_description_is_its_spec(name: str) -> None:
    assert parse(describe(NETS[name].network)) == NETS[name].network


# The module


def test_variants_of_one_seed_start_from_one_state_in_every_precision() -> None:
    states = {v: as_module(small(v).network, small(v).image, seed=7).state_dict() for v in VARIANTS}
    wide = as_module(small("changed").network, small("changed").image, seed=7, dtype=DTYPE).state_dict()
    assert states["projection"].keys() == states["changed"].keys() == wide.keys()
    assert states["changed"].keys() - states["chain"].keys() == {"block2.cproj.weight", "block2.cproj.bias"}
    for variant in VARIANTS:
        for name, value in states[variant].items():
            assert value.equal(states["changed"][name])
            assert value.double().equal(wide[name].double())
    other = as_module(small("chain").network, small("chain").image, seed=8).state_dict()
    assert not other["conv.weight"].equal(states["chain"]["conv.weight"])


def test_initial_values_are_torchs_own_and_the_global_stream_is_left_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    module = as_module(toy("changed").network, (1, 28, 28), seed=0)
    assert torch.rand(2).equal(wanted)
    for each in module.modules():
        if isinstance(each, nn.Conv2d | nn.Linear):
            limit = 1 / math.sqrt(each.weight[0].numel())  # torch: uniform on +- 1 / sqrt(fan in), weights and biases
            assert each.weight.abs().max() <= limit
            # of n uniform numbers the mean square is limit^2 / 3 up to a relative deviation of 0.9 / sqrt(n)
            n = each.weight.numel()
            assert float(each.weight.detach().square().mean() * 3 / limit**2) == pytest.approx(
                1, abs=4.5 / math.sqrt(n)
            )
            assert each.bias is not None
            assert 0 < each.bias.abs().max() <= limit
        if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d):
            assert bool((each.weight == 1).all())
            assert bool((each.bias == 0).all())


def test_parts_follow_one_another_and_running_statistics_are_kept() -> None:
    net = small("changed")
    module, x = built(net), batch(net)
    inside = module.part(x, 0, 2)
    torch.testing.assert_close(module.part(inside, 2), module(x))
    fresh = built(net)
    fresh(x)
    stem = fresh.part(x, 0, 1)
    running = fresh.get_submodule("block1.bn1").running_mean
    torch.testing.assert_close(running, 0.1 * stem.mean((0, 2, 3)))
    trained = fresh(x)
    assert not torch.allclose(fresh.eval()(x), trained)


def test_copies_and_states_work_as_for_any_module() -> None:
    net = small("projection")
    module, x = built(net), batch(net)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert float(module(x).detach().abs().max()) > 0
    assert float(twin(x).detach().abs().max()) == 0
    twin.load_state_dict(module.state_dict())
    assert twin(x).equal(module(x))


def test_it_trains_in_single_precision() -> None:
    net = small("changed")
    module, x = as_module(net.network, net.image, seed=0), batch(net).float()
    labels = torch.arange(SAMPLES)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        loss = F.cross_entropy(module(x), labels)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert as_module(net.network, net.image, seed=0, dtype=torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


SHARED = "conv(2, kernel=(3, 3), padding=(1, 1), path='a')"


def test_layers_of_one_path_share_their_parameters() -> None:
    module = as_module(parse(f"{SHARED}, tanh, {SHARED}"), (2, 4, 4), seed=0)
    assert len(list(module.parameters())) == 1
    x = torch.randn(3, 2, 4, 4, generator=generator(0))
    a = module.get_submodule("a")
    torch.testing.assert_close(module(x), a(torch.tanh(a(x))))


MANY = "residual(conv(2, kernel=(3, 3), padding=(1, 1)), sigmoid, skip=1/2), stacked(chain(), elu), crop(3), pad(1, 0), max_pool(kernel=(2, 2), stride=(2, 2)), reshape(16), repeat(2, affine(16, bias=true), softplus)"


def test_other_layers_and_combinators_have_modules_too() -> None:
    network = parse(MANY)
    module = as_module(network, (2, 4, 4), seed=1, dtype=DTYPE)
    x = torch.randn(3, 2, 4, 4, generator=generator(0), dtype=DTYPE)
    traced = trace(module, x)
    image = traced.output(traced.realise()(traced.theta(), traced.input(x)))
    torch.testing.assert_close(image, module(x))
    assert len(list(module.parameters())) == 5  # the repeated layer has parameters of its own each time


BAD = {
    "softmax": (TypeError, "SoftmaxLayer has no torch module"),
    "arctan": (ValueError, "'arctan' has no torch module"),
    "reshape(32), affine(3, weight_norm=row)": (ValueError, "normalised weight"),
    "affine(3)": (ValueError, "on a grid"),
    "conv(3, kernel=(3, 3), weight_norm=row)": (ValueError, "normalised weight"),
    "conv(3, kernel=(3, 3), padding=((1, 0), 1))": (ValueError, "equally on both sides"),
    "conv(3, kernel=(3, 3), padding=(1, 1), mode=circular)": (ValueError, "mode circular"),
    "avg_pool(kernel=(2, 2), dilation=(2, 2))": (ValueError, "dilation"),
    "batch_norm(eps=1, gain=true)": (ValueError, "gain and no shift"),
    "batch_norm": (ValueError, "no value for eps"),
    f"{SHARED}, conv(2, kernel=(1, 1), path='a')": (ValueError, "share the path a"),
    f"{SHARED}, conv(2, kernel=(1, 1), path='a.b'), conv(2, kernel=(1, 1), path='c.d'), conv(2, kernel=(1, 1), path='c')": (
        ValueError,
        "the path c is taken",
    ),
    "repeat(L, conv(2, kernel=(1, 1)))": (ValueError, "symbolic"),
    "residual(crop(1))": (ValueError, "does not match its skip"),
}


@pytest.mark.parametrize("spec", BAD)
def test_what_has_no_module_is_refused_by_name(spec: str) -> None:
    kind, text = BAD[spec]
    with pytest.raises(kind, match=text):
        as_module(parse(spec), (2, 4, 4), seed=0)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: toy("original"), "unknown variant 'original': use one of chain, projection, changed"),
        (lambda: toy("changed", image=30), "cannot be added"),
        (lambda: resnet(20), "unknown depth 20: use one of 18, 34"),
        (lambda: resnet(18, "chain"), "unknown variant 'chain': use one of projection, changed"),
        (lambda: resnet(18, stem="mnist"), "unknown stem 'mnist'"),
        (lambda: theta_of(built(small("chain")), realise(small("changed").network, small("changed").shape(2))), "no parameter block2.cproj.weight"),
    ],
)  # fmt: skip
def test_bad_names_and_sizes_are_refused(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
