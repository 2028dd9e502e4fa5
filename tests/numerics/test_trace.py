"""A traced module, realised again, computes what the module computes, with the same gradients; what cannot be described is refused by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import sympy
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from numerics.device import generator
from numerics.realise import Operation, operation
from numerics.trace import Traced, supported, trace, translates
from numerics.tracing.translate import MODULES, OPERATIONS
from theory.atoms.base import Atom, Domain
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.attention import Attend
from theory.layers.base import Layer
from theory.layers.fixed import Scaling
from theory.layers.spatial import Convolution, Permute, TransposedConvolution
from theory.network import Branches, Chain, Residual, walk
from theory.records import FeatureBounds, LayerBounds, Shape

CLOSE = 1e-10
"""Relative agreement of values and gradients: double precision leaves near 1e-13 on the deepest network here."""


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """In double precision, with no parameter or statistic left at the zeros and ones that hide a wrong gain, shift or mean."""
    module, rng = module.double(), generator(seed)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point() and "parametrizations" not in name:
                noise = torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
                tensor.add_(noise.abs() / 2 if name.endswith("running_var") else noise / 5)
    return module


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1e-12))


def placed(traced: Traced, name: str, own: Tensor, moved: Tensor) -> Tensor:
    """A tensor shaped like the module's parameter `own`, as the description's parameter `name` lays it out."""
    value, flat = traced.parameters[name], own.detach().double()
    if value.ndim < 2:
        return moved.flatten()
    straight = flat.flatten(1) if flat.ndim > 1 else flat[:, None]
    there = moved.flatten(1) if flat.ndim > 1 else moved[:, None]
    return there if value.shape == straight.shape and torch.equal(value, straight) else there.t()


def agrees(module: nn.Module, x: Tensor, sample_dimension: int = 0) -> Traced:
    """Trace, then compare values and the gradient by all parameters of a random functional of the output."""
    traced = trace(module, x, sample_dimension=sample_dimension)
    realisation, theta = traced.realise(), traced.theta().requires_grad_()
    image, own = traced.output(realisation(theta, traced.input(x))), module(x)
    assert image.shape == own.shape
    assert difference(image, own) < CLOSE
    weights = draw(*own.shape, seed=7)
    names = dict(module.named_parameters())
    if not own.requires_grad:
        assert realisation.size == 0
        return traced
    found = realisation.split(torch.autograd.grad((weights * image).sum(), theta)[0])
    grads = dict(
        zip(names, torch.autograd.grad((weights * own).sum(), list(names.values()), allow_unused=True), strict=True)
    )
    scale = max(float(g.abs().max()) for g in grads.values() if g is not None)
    for spec, gradient in zip(realisation.parameters, found, strict=True):
        origin = traced.paths[spec.name].removesuffix(" transposed")
        wanted = placed(traced, spec.name, names[origin], grads[origin])
        assert float((gradient - wanted).abs().max()) <= CLOSE * scale, spec.name
    return traced


def kinds(traced: Traced) -> list[str]:
    return [type(part).__name__ for part in walk(traced.network)]


# Networks nobody tuned the tracing for


class PreActivationBlock(nn.Module):
    def __init__(self, planes_in: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(planes_in)
        self.conv1 = nn.Conv2d(planes_in, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        if stride != 1 or planes_in != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(planes_in, planes, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = self.conv1(out)
        out = self.conv2(F.relu(self.bn2(out)))
        out += shortcut
        return out


class PreActivationResNet(nn.Module):
    """ResNet-18 for 32 x 32 images at width 64."""

    def __init__(self, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        planes, blocks = width, []
        for stage, stride in enumerate((1, 2, 2, 2)):
            for step in (stride, 1):
                blocks.append(PreActivationBlock(planes, width * 2**stage, step))
                planes = width * 2**stage
        self.layers = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(planes)
        self.linear = nn.Linear(planes, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn(self.layers(self.conv1(x))))
        out = F.avg_pool2d(out, out.shape[-1])
        return self.linear(out.view(out.size(0), -1))


@pytest.mark.parametrize("training", [pytest.param(False), True])
def test_a_narrow_pre_activation_resnet_agrees_with_its_gradients(training: bool) -> None:
    module = randomised(PreActivationResNet(width=3)).train(training)
    traced = agrees(module, draw(4, 3, 16, 16))
    parts = kinds(traced)
    assert (parts.count("Residual"), parts.count("Branches"), parts.count("Convolution")) == (5, 3, 20)
    assert parts.count("BatchNorm" if training else "FrozenBatchNorm") == 17
    assert "Permute" not in parts


def test_resnet_18_on_32_images_is_traced_in_seconds() -> None:
    module, x = PreActivationResNet(), torch.randn(32, 3, 32, 32, generator=generator(0))
    started = time.perf_counter()
    traced = trace(module, x, agreement=None)
    elapsed = time.perf_counter() - started
    assert elapsed < 60  # 3 to 4 seconds on an idle core; the limit allows for a busy machine
    assert traced.realise().size == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_torchs_transformer_layer(norm_first: bool, activation: str, batch_first: bool, training: bool) -> None:
    layer = nn.TransformerEncoderLayer(
        8, 2, 12, dropout=0.0, activation=activation, norm_first=norm_first, batch_first=batch_first
    )
    module = randomised(layer).train(training)
    traced = agrees(module, draw(3, 5, 8), sample_dimension=0 if batch_first else 1)
    assert kinds(traced).count("Residual") == 2
    assert "Permute" not in kinds(traced)
    assert str(traced.shape) == ("8 x 5 x 3" if batch_first else "8 x 3 x 5")


def test_torchs_transformer_encoder_without_gradients_does_not_hide_its_operations() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
    module = randomised(nn.TransformerEncoder(layer, 2)).eval().requires_grad_(False)
    before = torch.backends.mha.get_fastpath_enabled()
    traced = trace(module, draw(3, 5, 8))
    assert kinds(traced).count("Attend") == 2
    assert torch.backends.mha.get_fastpath_enabled() == before


class CausalSelfAttention(nn.Module):
    """Written out, as in the usual small language models."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attn, self.proj = nn.Linear(features, 3 * features), nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        n, t, e = x.size()
        q, k, v = self.attn(x).split(e, dim=2)
        q, k, v = (z.view(n, t, self.heads, e // self.heads).transpose(1, 2) for z in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).contiguous().view(n, t, e))


def test_attention_written_out_needs_no_selection() -> None:
    traced = agrees(randomised(CausalSelfAttention(6, 3)), draw(2, 4, 6))
    assert kinds(traced) == ["Chain", "Affine", "Attend", "Affine"]


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    planes = 3
    for width in (4, "M", 5, 6, "M"):
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(planes, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            planes = width
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 8),
        nn.ReLU(True),
        nn.Dropout(0.0),
        nn.Linear(8, 3),
    )


class CausalEncoder(nn.Module):
    def __init__(self, hint: bool | None) -> None:
        super().__init__()
        self.hint, layer = hint, nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.size(1)).to(x.dtype)
        return self.encoder(x, mask=mask, is_causal=self.hint)


def test_a_causal_mask_is_known_by_its_hint() -> None:
    traced = agrees(randomised(CausalEncoder(True)), draw(2, 4, 8))
    assert [part.causal for part in walk(traced.network) if isinstance(part, Attend)] == [True, True]


def test_a_mask_without_hint_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn, class MultiheadAttention: an attention mask"):
        trace(CausalEncoder(False).double(), draw(2, 4, 8))


@pytest.mark.parametrize("training", [pytest.param(False), True])
def test_a_vgg_like_chain(training: bool) -> None:
    traced = agrees(randomised(vgg()).train(training), draw(3, 3, 16, 16))
    assert isinstance(traced.network, Chain)
    assert kinds(traced).count("MaxPool") == 2


def test_a_three_dimensional_autoencoder() -> None:
    module = nn.Sequential(
        nn.Conv3d(1, 3, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv3d(3, 4, (3, 1, 2), dilation=(1, 1, 2)),
        nn.ELU(),
        nn.ConvTranspose3d(4, 3, (3, 1, 2), dilation=(1, 1, 2)),
        nn.Softplus(),
        nn.ConvTranspose3d(3, 1, 3, stride=2, padding=1, output_padding=(1, 0, 1)),
        nn.Sigmoid(),
    )
    traced = agrees(randomised(module), draw(2, 1, 6, 5, 8))
    assert sum(isinstance(part, TransposedConvolution) for part in walk(traced.network)) == 2


def test_a_weight_normalised_network() -> None:
    module = nn.Sequential(
        weight_norm(nn.Conv1d(2, 4, 3, padding=1)), nn.Tanh(), nn.Flatten(), weight_norm(nn.Linear(20, 5)), nn.GELU(),
        weight_norm(nn.Linear(5, 3, bias=False)),
    )  # fmt: skip
    module = module.double()
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.add_(draw(*p.shape, seed=len(name)) / 4)
    traced = agrees(module, draw(4, 2, 5))
    assert {"0.weight", "0.gain", "0.bias", "3.gain", "5.weight"} <= set(traced.parameters)
    affine = next(part for part in walk(traced.network) if isinstance(part, Affine))
    assert (affine.weight_norm, affine.gain) == ("row", True)


def test_spectral_normalisation_once_its_power_iteration_has_converged() -> None:
    module = nn.Sequential(spectral_norm(nn.Linear(4, 5)), nn.Tanh(), spectral_norm(nn.Linear(5, 2))).double()
    with torch.no_grad():
        for _ in range(2000):
            module(draw(2, 4))
    module.eval()
    try:
        Affine(2, weight_norm="spectral")
    except ValueError as error:
        pytest.skip(f"theory refuses a spectrally normalised weight: {error}")
    traced = agrees(module, draw(3, 4))
    assert [part.weight_norm for part in walk(traced.network) if isinstance(part, Affine)] == ["spectral"] * 2


def test_spectral_normalisation_before_convergence_is_refused() -> None:
    module = nn.Sequential(spectral_norm(nn.Linear(12, 12))).double().eval()
    with torch.no_grad():
        module[0].parametrizations.weight.original.add_(draw(12, 12))
    with pytest.raises(ValueError, match=r"module 0.*power iteration has not converged"):
        trace(module, draw(3, 12))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.leave.weight, self.leave.bias = self.middle.weight, self.middle.bias
        self.norm = nn.LayerNorm(4)
        self.again = self.norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.tanh(self.enter(x)))
        for _ in range(2):
            x = torch.sin(self.middle(x))
        return self.again(x) + self.leave(x)


def test_layers_and_parameters_used_again_share_their_paths() -> None:
    module = randomised(Shared())
    traced = agrees(module, draw(5, 3))
    assert sorted(traced.parameters) == [
        "enter.bias", "enter.weight", "middle.bias", "middle.weight", "norm.gain", "norm.shift",
    ]  # fmt: skip
    assert traced.realise().size == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (2, 2, 5, 4)),
        (nn.Conv2d(2, 4, 3, padding=(2, 1), padding_mode="reflect", stride=2), (2, 2, 5, 4)),
        (nn.Conv1d(2, 4, 4, padding=2, padding_mode="replicate"), (2, 2, 5)),
        (nn.Conv1d(2, 4, 4, padding="same", padding_mode="circular"), (2, 2, 5)),
        (nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2), (2, 4, 5, 6)),
        (nn.Conv2d(4, 8, 3, groups=4, bias=False), (2, 4, 5, 6)),
        (nn.Conv2d(3, 2, (4, 3), padding="same", dilation=(1, 2)), (2, 3, 5, 6)),
        (nn.Conv3d(1, 2, 2, stride=(1, 2, 1), padding=1), (2, 1, 3, 4, 3)),
        (nn.ConvTranspose1d(3, 2, 4, stride=3, padding=1, output_padding=2), (2, 3, 4)),
        (nn.ConvTranspose2d(3, 2, 3, stride=2, dilation=2, bias=False), (2, 3, 3, 4)),
        (nn.Sequential(nn.ConstantPad2d((1, 2, 0, 1), 0.0), nn.Conv2d(2, 3, 2)), (2, 2, 4, 4)),
        (nn.Sequential(nn.ReflectionPad2d(1), nn.MaxPool2d(3, 2)), (2, 2, 4, 4)),
        (nn.Sequential(nn.ZeroPad2d(-1), nn.Conv2d(2, 3, 2, padding=1)), (2, 2, 5, 5)),
        (nn.MaxPool2d(3, stride=2, padding=1), (2, 2, 6, 5)),
        (nn.MaxPool2d(3, stride=2, ceil_mode=True), (2, 2, 6, 5)),
        (nn.MaxPool1d(2, dilation=2), (2, 2, 6)),
        (nn.AvgPool3d(2, stride=1, padding=1), (2, 2, 3, 4, 2)),
        (nn.AvgPool1d(3), (2, 2, 7)),
        (nn.AdaptiveAvgPool2d((1, 1)), (2, 3, 4, 5)),
        (nn.AdaptiveAvgPool2d((2, 5)), (2, 3, 4, 5)),
        (nn.AdaptiveMaxPool2d((2, 1)), (2, 3, 4, 5)),
        (nn.LayerNorm([3, 4]), (2, 5, 3, 4)),
        (nn.LayerNorm(4, elementwise_affine=False), (2, 3, 4)),
        (nn.RMSNorm(4, eps=1e-3), (2, 3, 4)),
        (nn.RMSNorm(4), (2, 3, 4)),
        (nn.Softmax(dim=1), (2, 3, 4)),
        (nn.Softmax(dim=-1), (2, 3, 4)),
        (nn.BatchNorm1d(3, eps=1e-2), (4, 3)),
        (nn.BatchNorm2d(3, affine=False), (2, 3, 4, 4)),
        (nn.Linear(4, 3), (2, 5, 6, 4)),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_single_modules(module: nn.Module, shape: tuple[int, ...]) -> None:
    agrees(randomised(module), draw(*shape))


@pytest.mark.parametrize(
    ("module", "shape", "layer"),
    [
        (nn.GroupNorm(2, 4), (3, 4, 2, 3), "GroupNorm"),
        (nn.GroupNorm(2, 4, affine=False), (3, 4), "GroupNorm"),
        (nn.InstanceNorm2d(3, affine=True), (3, 3, 2, 4), "InstanceNorm"),
        (nn.InstanceNorm1d(3), (3, 3, 4), "InstanceNorm"),
        (nn.InstanceNorm1d(3, track_running_stats=True).eval(), (3, 3, 4), "FrozenBatchNorm"),
        (nn.BatchNorm1d(3).eval(), (3, 3), "FrozenBatchNorm"),
        (nn.BatchNorm3d(3, affine=False).eval(), (3, 3, 2, 2, 3), "FrozenBatchNorm"),
        (nn.LogSoftmax(dim=1), (3, 4, 2), "LogSoftmax"),
        (nn.LogSoftmax(dim=-1), (3, 4), "LogSoftmax"),
        (nn.MultiheadAttention(6, 2, bias=False, batch_first=True), (2, 3, 6), "Attend"),
    ],
    ids=str,
)
def test_single_modules_of_layers_that_came_later(module: nn.Module, shape: tuple[int, ...], layer: str) -> None:
    if isinstance(module, nn.MultiheadAttention):
        module = SelfAttention(module)
    traced = agrees(randomised(module), draw(*shape))
    assert layer in kinds(traced)


class SelfAttention(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.Tanh(), "tanh"), (nn.Sigmoid(), "sigmoid"), (nn.Softplus(), "softplus"), (torch.atan, "arctan"), (torch.erf, "erf"),
        (torch.sin, "sin"), (nn.GELU(), "gelu"), (F.silu, "silu"), (nn.ELU(), "elu"), (nn.ReLU(), "relu"), (Tensor.relu_, "relu"),
        (nn.LeakyReLU(), "leaky_relu"), (nn.LeakyReLU(inplace=True), "leaky_relu"),
    ],
    ids=[f"{i}" for i in range(13)],
)  # fmt: skip
def test_activations_as_modules_functions_and_in_place(activation: Callable[[Tensor], Tensor], name: str) -> None:
    module = randomised(Wrapped(lambda self, x: activation(self.linear(x)), linear=nn.Linear(3, 4)))
    traced = agrees(module, draw(5, 3))
    assert traced.network.members[-1] == Activation(name)  # type: ignore[union-attr]


class Wrapped(nn.Module):
    """A module with the given parts and the given forward function."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


# Graphs


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = (
            nn.Conv2d(3, 2, 1),
            nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 3, padding=1)),
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), nn.Conv2d(3, 2, 1))
        self.last = nn.Conv2d(11, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.one(x), self.three(x), self.pool(x), x], 1))


def test_concatenated_branches() -> None:
    traced = agrees(randomised(Inception()), draw(2, 3, 5, 4))
    (branches,) = [part for part in walk(traced.network) if isinstance(part, Branches)]
    assert branches.stacked
    assert len(branches.branches) == 4
    assert branches.branches[-1] == Chain(())


class DenseBlock(nn.Module):
    """Every layer sees the outputs of all before it: not series-parallel where the list is concatenated anew."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2 + 2 * i, 2) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for layer in self.layers:
            found.append(torch.tanh(layer(torch.cat(found, 1))))
        return torch.cat(found, 1)


def test_a_graph_that_is_not_series_parallel_repeats_what_its_branches_share() -> None:
    module = randomised(DenseBlock())
    traced = agrees(module, draw(3, 2))
    assert traced.realise().size == sum(p.numel() for p in module.parameters())
    assert sum(isinstance(part, Affine) for part in walk(traced.network)) == 7  # 1 + 2 + 4


def test_a_graph_far_from_series_parallel_is_refused() -> None:
    with pytest.raises(ValueError, match="far from series-parallel"):
        trace(DenseBlock(16).double(), draw(3, 2))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(4, 3, 2, stride=2), nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.tanh(self.down(x))
        lower = torch.tanh(self.inner(F.max_pool2d(kept, 2)))
        return self.last(torch.cat((kept, self.up(lower)), dim=1))


def test_a_u_net() -> None:
    agrees(randomised(UNet()), draw(2, 2, 6, 4))


@pytest.mark.parametrize(
    ("forward", "described"),
    [
        (lambda m, x: x + m.a(x), Residual),
        (lambda m, x: m.a(x).add(x), Residual),
        (lambda m, x: 0.5 * x + m.a(x) / 3, Residual),
        (lambda m, x: x + m.a(x) + m.b(torch.tanh(x)), Residual),
        (lambda m, x: m.a(x) + torch.tanh(x), Branches),
        (lambda m, x: torch.add(m.a(x), m.b(x), alpha=2), Branches),
        (lambda m, x: x + m.a(x + m.b(x)), Residual),
    ],
)
def test_sums(forward: Callable[..., Tensor], described: type) -> None:
    module = randomised(Wrapped(forward, a=nn.Linear(3, 3), b=nn.Linear(3, 3)))
    traced = agrees(module, draw(4, 3))
    (only,) = traced.network.members  # type: ignore[union-attr]
    assert isinstance(only, described)


def test_a_sum_without_identity_starts_with_the_branch_without_parameters() -> None:
    traced = agrees(randomised(Wrapped(lambda m, x: m.a(x) + F.silu(x), a=nn.Linear(3, 3))), draw(4, 3))
    (only,) = traced.network.members  # type: ignore[union-attr]
    assert isinstance(only, Branches)
    assert only.branches[0] == Activation("silu")


def test_the_factor_of_a_scaled_skip_is_exact() -> None:
    traced = agrees(randomised(Wrapped(lambda m, x: 0.1 * x + m.a(x), a=nn.Linear(3, 3))), draw(4, 3))
    (only,) = traced.network.members  # type: ignore[union-attr]
    assert isinstance(only, Residual)
    assert only.skip == sympy.Rational(1, 10)


# Layout


class Mixer(nn.Module):
    """Mixes tokens, then features, by linear maps on the last dimension."""

    def __init__(self, tokens: int, features: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.tokens, self.features = nn.Linear(tokens, tokens), nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return (x + F.gelu(self.features(self.norm2(x)))).mean(dim=1)


class ConvNeXtBlock(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(features, features, 3, padding=1, groups=features)
        self.norm, self.wide, self.narrow = nn.LayerNorm(features), nn.Linear(features, 6), nn.Linear(6, features)
        self.gamma = nn.Parameter(torch.full((features,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.narrow(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)


def test_an_mlp_mixer_permutes_only_around_its_token_map() -> None:
    traced = agrees(randomised(Mixer(4, 3)), draw(2, 4, 3))
    assert kinds(traced).count("Permute") == 2


def test_a_convnext_block_needs_no_permutation() -> None:
    traced = agrees(randomised(ConvNeXtBlock(3)), draw(2, 3, 4, 5))
    assert "Permute" not in kinds(traced)
    assert [part.groups for part in walk(traced.network) if isinstance(part, Convolution)] == [3, 3]


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: x @ m.w,
        lambda m, x: torch.addmm(m.b, x, m.w),
        lambda m, x: x @ m.w + m.b,
        lambda m, x: F.linear(x, m.w.t(), m.b),
        lambda m, x: torch.tanh(x).matmul(m.w.transpose(0, 1).t()),
    ],
)
def test_affine_maps_by_parameters_of_the_module_itself(forward: Callable[..., Tensor]) -> None:
    module = Wrapped(forward, w=nn.Parameter(draw(3, 4, seed=3)), b=nn.Parameter(draw(4, seed=4)))
    traced = agrees(module, draw(5, 3))
    assert torch.equal(traced.parameters["w.weight"], module.w.t())


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: x[:, 1:3],
        lambda m, x: x[:, :, 1:],
        lambda m, x: x[:, ::2, :, 1::2],
        lambda m, x: x[:, 1],
        lambda m, x: x[..., -1],
        lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1),
        lambda m, x: torch.cat([x[:, :, :1], x], 2),
        lambda m, x: torch.stack([x, 2 * x], 1),
        lambda m, x: torch.stack(x.unbind(2), -1),
        lambda m, x: F.pad(x, (0, 0, 0, 1, 2, 1)),
        lambda m, x: F.pad(x, (1, -1), mode="constant"),
        lambda m, x: x.flatten(2).transpose(1, 2).reshape(x.size(0), 4, 3, 5),
        lambda m, x: x.movedim(1, -1).unsqueeze(1).flatten(3).squeeze(1),
        lambda m, x: x.mean((1, 3)),
        lambda m, x: x.mean(2, keepdim=True),
        lambda m, x: x.mean((1, 2, 3)),
        lambda m, x: x.sum((1, 2)),
        lambda m, x: x.amax(-1, keepdim=True),
        lambda m, x: F.pixel_shuffle(x, 2),
        lambda m, x: F.pixel_unshuffle(x.transpose(1, 3)[:, :, 1:], 2),
        lambda m, x: torch.softmax(x.permute(0, 3, 1, 2).reshape(x.shape[0], 5, -1), 2),
    ],
)
def test_layout_operations(forward: Callable[..., Tensor]) -> None:
    """On 4 features and a grid of 3 x 5, once with plain inputs and once with features that a linear map put last."""
    agrees(Wrapped(forward), draw(2, 4, 3, 5))
    after = randomised(Wrapped(lambda m, x: torch.tanh(forward(m, m.a(x))), a=nn.Linear(5, 5)))
    agrees(after, draw(2, 4, 3, 5))


@pytest.mark.parametrize("seed", range(12))
def test_random_sequences_of_layout_changes_and_maps(seed: int) -> None:
    """Six random steps on a tensor of 2 x 3 x 4 numbers a sample: permutations, regroupings and linear maps on the last dimension."""
    rng = generator(seed)

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=rng))

    steps: list[Callable[[Wrapped, Tensor], Tensor]] = []
    parts: dict[str, nn.Module] = {}
    shape = [2, 3, 4]
    for index in range(6):
        kind = below(3)
        if kind == 0:
            order = torch.randperm(len(shape), generator=rng).tolist()
            shape = [shape[i] for i in order]
            steps.append(lambda m, x, o=tuple(order): x.permute(0, *(i + 1 for i in o)))
        elif kind == 1:
            choices = [[2, 3, 4], [6, 4], [24], [4, 6], [3, 8], [2, 12], [1, 24], [2, 2, 6], [3, 2, 1, 4]]
            shape = choices[below(len(choices))]
            steps.append(lambda m, x, s=tuple(shape): x.reshape(x.shape[0], *s))
        else:
            parts[f"map{index}"] = nn.Linear(shape[-1], shape[-1])
            steps.append(lambda m, x, name=f"map{index}": x + torch.sin(getattr(m, name)(x)))

    def forward(m: Wrapped, x: Tensor) -> Tensor:
        for step in steps:
            x = step(m, x)
        return x

    agrees(randomised(Wrapped(forward, **parts), seed), draw(3, 2, 3, 4))


class RandomGraph(nn.Module):
    """Twenty random operations on tensors of one or two dimensions a sample, each on one or two of the last five results."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = generator(seed)

        def below(n: int) -> int:
            return int(torch.randint(n, (), generator=rng))

        self.layers = nn.ModuleDict()
        self.steps: list[Callable[..., Tensor]] = []
        self.sources: list[tuple[int, int]] = []
        shapes: list[tuple[int, ...]] = [(3, 4)]
        for index in range(20):
            first = len(shapes) - 1 - below(min(5, len(shapes)))
            shape = shapes[first]
            alike = [i for i, other in enumerate(shapes) if other == shape]
            second, axis, kind = alike[below(len(alike))], below(len(shape)), below(8)
            out, name = list(shape), str(index)
            if kind == 0:
                out[-1] = 3 + below(3)
                self.layers[name] = nn.Linear(shape[-1], out[-1])
                self.steps.append(lambda a, b, layer=self.layers[name]: layer(a))
            elif kind == 1 and len(shape) == 2:
                out[0] = 2 + below(3)
                self.layers[name] = nn.Conv1d(shape[0], out[0], 3, padding=1)
                self.steps.append(lambda a, b, layer=self.layers[name]: layer(a))
            elif kind == 2 and len(shape) == 2:
                out = out[::-1]
                self.steps.append(lambda a, b: a.transpose(1, 2))
            elif kind == 3:
                self.steps.append(lambda a, b: torch.softmax(a, -1))
            elif kind == 4:
                out[axis] *= 2
                self.steps.append(lambda a, b, axis=axis: torch.cat([torch.tanh(a), b], axis + 1))
            elif kind == 5 and shape[axis] > 1:
                start = below(shape[axis] - 1)
                out[axis] = 1 + below(shape[axis] - start)
                self.steps.append(
                    lambda a, b, axis=axis, start=start, length=out[axis]: a.narrow(axis + 1, start, length)
                )
            elif kind == 6:
                size = math.prod(shape)
                out = [size // 2, 2] if size % 2 == 0 else [size]
                self.steps.append(lambda a, b, out=tuple(out): a.reshape(-1, *out))
            else:
                self.steps.append(lambda a, b: a + 0.5 * b)
            self.sources.append((first, second))
            shapes.append(tuple(out))

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for step, (first, second) in zip(self.steps, self.sources, strict=True):
            found.append(step(found[first], found[second]))
        return found[-1]


@pytest.mark.parametrize("seed", range(16))
def test_random_graphs(seed: int) -> None:
    agrees(randomised(RandomGraph(seed), seed), draw(3, 3, 4))


def test_one_sample_is_enough_where_nothing_couples_samples() -> None:
    agrees(randomised(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))), draw(1, 1, 4, 4))


def test_input_and_output_take_other_numbers_of_samples_and_batches_of_networks() -> None:
    traced = agrees(randomised(nn.Conv1d(2, 3, 2)), draw(2, 2, 4))
    x = draw(5, 2, 4)
    assert torch.equal(traced.input(x), x.flatten(1).t())
    y = draw(7, 9, 5)
    assert torch.equal(traced.output(y)[3], y[3].t().reshape(5, 3, 3))


# What tracing leaves alone


def test_tracing_changes_nothing_in_the_module() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.0), nn.LayerNorm(3))
    module.again = module[1]  # a module with two paths
    module[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    identities = [id(p) for p in module.parameters()]
    state = torch.get_rng_state()
    trace(module, torch.randn(4, 3, generator=generator(0)), agreement=1e-4)
    assert torch.equal(state, torch.get_rng_state())
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [id(p) for p in module.parameters()] == identities
    assert all(isinstance(p, nn.Parameter) and p.dtype == torch.float32 for p in module.parameters())
    assert not any(m._forward_hooks or "forward" in m.__dict__ for m in module.modules())
    assert module.training
    assert not module[0].weight.requires_grad


def test_operations_in_place_act_on_every_name_of_the_tensor() -> None:
    def forward(m: Wrapped, x: Tensor) -> Tensor:
        h = m.a(x)
        same = h.contiguous()
        F.relu_(h)
        return same + h.clone().sigmoid_() + h + m.a(x).add_(x).mul_(0.5)

    agrees(randomised(Wrapped(forward, a=nn.Linear(3, 3))), draw(4, 3))


def test_a_constant_of_the_module_is_seen_by_the_final_comparison() -> None:
    calls: list[int] = []

    def forward(m: Wrapped, x: Tensor) -> Tensor:
        calls.append(1)
        return m.a(x) * len(calls)

    with pytest.raises(ValueError, match=r"differ by .* of the largest output"):
        trace(Wrapped(forward, a=nn.Linear(3, 3)).double(), draw(4, 3))


# Refusals


def refused(
    name: str, forward: Callable[..., Tensor] | nn.Module, shape: tuple[int, ...], match: str, **parts: nn.Module
) -> tuple:
    module = forward if isinstance(forward, nn.Module) else Wrapped(forward, **parts)
    return pytest.param(module, shape, match, id=name)


def written(m: Wrapped, x: Tensor) -> Tensor:
    h = x.clone()
    h[:, 0].zero_()
    return h


@pytest.mark.parametrize(
    ("module", "shape", "match"),
    [
        refused("unknown operation", lambda m, x: torch.cumsum(x, 1), (2, 3), r"aten\.cumsum.*no layer is known"),
        refused("tanh gelu", nn.Sequential(nn.Linear(3, 3), nn.GELU("tanh")), (2, 3), r"module 1.*approximate='tanh'"),
        refused("dropout", nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.3)), (2, 3), r"module 1.*p = 0\.3 in training mode"),
        refused("data-dependent", lambda m, x: x if x.sum() > 0 else 2 * x, (2, 3), "branches on the values"),
        refused("number from the data", lambda m, x: x * x.abs().max().item(), (2, 3), r"aten\.(abs|max|item)"),
        refused("batch moved", lambda m, x: m.a(x.reshape(3, 2)).reshape(2, 3), (2, 3), "mixes the samples", a=nn.Linear(2, 2)),
        refused("tokens into samples", lambda m, x: m.a(x.view(-1, 3)).view(x.shape), (2, 4, 3), "mixes the samples", a=nn.Linear(3, 3)),
        refused("along samples", lambda m, x: torch.softmax(x, 0), (2, 3), "that of the samples"),
        refused("mean over samples", lambda m, x: x - x.mean(0), (2, 3), "that of the samples"),
        refused("product", lambda m, x: x * torch.sigmoid(x), (2, 3), "product of two computed"),
        refused("attention by hand", lambda m, x: torch.softmax(x @ x.mT, -1) @ x, (2, 4, 3), "scaled_dot_product_attention"),
        refused("difference", lambda m, x: x - m.a(x), (2, 3), "put the sign into the layer", a=nn.Linear(3, 3)),
        refused("negative factor", lambda m, x: x * -2, (2, 3), r"multiplies by -2\.0"),
        refused("constant shift", lambda m, x: x + 1, (2, 3), r"adds the constant 1\.0"),
        refused("broadcast", lambda m, x: x + x[:, :1], (2, 3), "not broadcast"),
        refused("write into a view", written, (2, 3), r"aten\.(zero_|fill_)"),
        refused("stopped gradient", lambda m, x: x + m.a(x).detach(), (2, 3), r"aten\.detach", a=nn.Linear(3, 3)),
        refused("orthogonal", nn.Sequential(orthogonal(nn.Linear(3, 3))), (2, 3), "only weight_norm and spectral_norm"),
        refused("buffer as weight", lambda m, x: F.linear(x, m.w), (2, 3), "is the buffer or constant w:", w=nn.Buffer(torch.eye(3))),
        refused("grouped transpose", nn.Sequential(nn.ConvTranspose1d(2, 2, 2, groups=2)), (2, 2, 3), "2 groups"),
        refused("ceil mode mean", nn.Sequential(nn.AvgPool1d(2, ceil_mode=True)), (2, 2, 3), "ceil_mode"),
        refused("adaptive", nn.Sequential(nn.AdaptiveAvgPool1d(2)), (2, 2, 3), "sizes must divide"),
        refused("softplus", nn.Sequential(nn.Softplus(beta=2)), (2, 3), "beta = 2"),
        refused("another leak", nn.Sequential(nn.LeakyReLU(0.2)), (2, 3), "negative_slope = 0.2"),
        refused("leaky", nn.Sequential(nn.CELU(0.5)), (2, 3), r"module 0, operation aten\.celu"),
        refused("tied transposed", lambda m, x: F.linear(m.a(x), m.a.weight.t()), (2, 3), "share all their parameters, and not transposed", a=nn.Linear(3, 4)),
        refused("written parameter", lambda m, x: F.linear(x, m.a.weight.detach().mul_(2)), (2, 3), "its weight is computed", a=nn.Linear(3, 3)),
        refused("bias of two layers", lambda m, x: F.linear(x, m.w, m.b) + F.linear(x, m.v, m.b), (2, 3), "same place in all its layers", b=nn.Parameter(torch.ones(3)), v=nn.Parameter(torch.ones(3, 3)), w=nn.Parameter(torch.ones(3, 3))),
        refused("positional", lambda m, x: x + m.p, (2, 4, 3), "bias of an affine layer", p=nn.Parameter(torch.ones(4, 3))),
        refused("constant output", lambda m, x: m.p, (2, 3), "does not depend on the input", p=nn.Parameter(torch.ones(4, 3))),
        refused("two outputs", lambda m, x: (x, x), (2, 3), "returns tuple"),
        refused("cross-attention", lambda m, x: m.a(x, 2 * x, x)[0], (2, 4, 6), "2 different tensors", a=nn.MultiheadAttention(6, 2, batch_first=True)),
        refused("random attention", SelfAttention(nn.MultiheadAttention(6, 2, dropout=0.5, batch_first=True)), (2, 4, 6), r"p = 0\.5"),
        refused("wrong sample dimension", SelfAttention(nn.MultiheadAttention(6, 2)), (2, 4, 6), "batch_first=False"),
    ],
)  # fmt: skip
def test_refusals_say_what_and_where(module: nn.Module, shape: tuple[int, ...], match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        trace(module.double(), draw(*shape))


def test_tokens_and_other_examples_are_refused() -> None:
    with pytest.raises(TypeError, match="after the embedding"):
        trace(nn.Embedding(5, 3), torch.tensor([[1, 2], [3, 4]]))
    with pytest.raises(TypeError, match="tuple"):
        trace(nn.Linear(3, 3), (draw(2, 3),))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dimension of samples"):
        trace(nn.Linear(3, 3).double(), draw(3))


def test_an_unknown_operation_shows_the_table_and_the_way_to_add_one() -> None:
    with pytest.raises(TypeError) as caught:
        trace(nn.Sequential(nn.Linear(3, 3), nn.Hardswish()).double(), draw(2, 3))
    text = str(caught.value)
    assert text.startswith("module 1, operation aten.hardswish.default")
    assert all(names in text for names, _ in supported())
    assert "@numerics.trace.translates(torch.ops.aten.hardswish)" in text


# What users add


@dataclass(frozen=True)
class Cube(Atom):
    """A test's own atom `x -> x^3`."""

    @property
    def formula(self) -> str:
        return "x -> x^3"

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        raise NotImplementedError

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        raise NotImplementedError


@dataclass(frozen=True)
class CubeLayer(Layer):
    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (Cube(),)


@operation.register
def _(atom: Cube, shape: Shape, allocator: object, path: str) -> Operation:
    return lambda parameters, x: x**3


class CubeModule(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**3 if x.abs().max() > 0 else x  # cannot be exported


class Doubling(nn.Linear):
    """A module kept whole that has a parameter and returns a tuple."""

    def forward(self, x: Tensor) -> tuple[Tensor, int]:  # type: ignore[override]
        return 2 * super().forward(x), 7


@pytest.fixture
def registry() -> object:
    before = dict(OPERATIONS), dict(MODULES)
    yield
    for known, kept in zip((OPERATIONS, MODULES), before, strict=True):
        known.clear()
        known.update(kept)


@pytest.mark.usefixtures("registry")
def test_a_users_module_is_kept_whole() -> None:
    @translates(CubeModule, note="cubes")
    def _(site, module, x):
        return x.then(CubeLayer(), site.shape)

    traced = agrees(randomised(nn.Sequential(nn.Linear(3, 4), CubeModule(), nn.Linear(4, 2))), draw(5, 3))
    assert CubeLayer() in traced.network.members  # type: ignore[union-attr]
    assert agrees(CubeModule(), draw(5, 3)).network == Chain((CubeLayer(),))
    assert (f"{CubeModule.__module__}.CubeModule", "cubes") in supported()


@pytest.mark.usefixtures("registry")
def test_a_users_module_binds_its_parameters_and_may_be_called_twice() -> None:
    @translates(Doubling, note="2 (A x + b)")
    def _(site, module, x):
        for which in ("weight", "bias"):
            site.parameter(f"{site.path}.{which}", getattr(module, which))
        affine = Affine(module.out_features, bias=True, path=site.path)
        return x.with_features(1).then(affine, site.shape).then(Scaling(2))

    module = randomised(Wrapped(lambda m, x: torch.tanh(m.a(m.a(x)[0])[0]), a=Doubling(3, 3)))
    agrees(module, draw(5, 3))


@pytest.mark.usefixtures("registry")
def test_a_users_operation_is_translated() -> None:
    @translates(torch.ops.aten.square, note="squares, wrongly as cubes")
    def _(site, x):
        return x.then(CubeLayer(), site.shape)

    module = Wrapped(lambda m, x: torch.square(x))
    assert CubeLayer() in trace(module, draw(5, 3), agreement=None).network.members  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="differ by"):
        trace(module, draw(5, 3))


def test_the_table_of_supported_operations_is_that_of_the_registry() -> None:
    rows = supported()
    listed = [name for names, _ in rows for name in names.split(", ")]
    assert len(listed) == len(set(listed)) == len(OPERATIONS) + len(MODULES)
    assert all(note for _, note in rows)
    assert "aten.conv2d" in listed
    assert "torch.nn.MultiheadAttention" in listed


def test_permutations_are_absorbed_by_the_layout_of_the_input() -> None:
    traced = agrees(randomised(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))), draw(2, 5, 4))
    assert not any(isinstance(part, Permute) for part in walk(traced.network))
    assert str(traced.shape) == "4 x 5 x 2"
