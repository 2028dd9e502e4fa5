"""Traps of the field, one test each; that of circular against zero-padded convolutions is in `test_convolution.py`."""

import math

import pytest
import sympy
import torch
from torch import Tensor

from numerics.device import DTYPE
from numerics.measure import input_jacobian_singular_values, tangent_kernel
from numerics.realise import Realisation, realise
from theory.atoms.base import EVERYWHERE, Domain
from theory.atoms.entrywise import activation_facts
from theory.atoms.windows import Windows
from theory.compose import collapse
from theory.derive import derive
from theory.evaluate import evaluate
from theory.layers.normalisation import GroupNorm, InstanceNorm, SetNorm
from theory.layers.spatial import Convolution
from theory.network import Network
from theory.records import FeatureBounds, LayerBounds, Shape
from theory.spec import parse

IMAGE = Shape(2, 2, (4, 4))


def bounds_of(network: Network, shape: Shape, domain: Domain = EVERYWHERE, radius: float | None = None) -> LayerBounds:
    known = FeatureBounds.unbounded(shape) if radius is None else FeatureBounds.ball(shape, sympy.Float(radius))
    return collapse(derive(network, known, domain).tree, shape.samples)


def spectrum(realisation: Realisation, seed: int = 0) -> Tensor:
    """Singular values of the input Jacobian at random parameters and inputs, counted on the output side."""
    source = torch.Generator().manual_seed(seed)
    theta = torch.randn(1, realisation.size, generator=source, dtype=DTYPE)
    x = torch.randn(*realisation.input_shape, generator=source, dtype=DTYPE)
    values = input_jacobian_singular_values(realisation, theta, x)[0]
    outputs = math.prod(realisation.output_shape)
    return torch.cat([values, values.new_zeros(max(0, outputs - len(values)))])


@pytest.mark.parametrize("shrink", ["scale(2), avg_pool(kernel=(2, 2), stride=(2, 2))", "select(stride=(2, 2))"])
def test_shrinking_alone_is_a_co_isometry_but_not_with_zero_channels_after_it(shrink: str) -> None:
    alone = parse(shrink)
    pad = "permute(1, 0, 2), select(kernel=(1, 1), padding=((0, 2), 0)), permute(1, 0, 2)"
    padded = parse(f"{shrink}, {pad}")
    for network, least in ((alone, 1.0), (padded, 0.0)):
        here = bounds_of(network, IMAGE)
        values = spectrum(realise(network, IMAGE))
        assert evaluate(here.input_jacobian_norm, {}) == pytest.approx(1) == float(values[0])
        assert evaluate(here.input_jacobian_sigma_min, {}) == pytest.approx(least) == pytest.approx(float(values[-1]))
    assert realise(padded, IMAGE).output_shape == (4 * 4, 2)


@pytest.mark.parametrize("norm", ["batch_norm(eps=1/10)", "layer_norm(eps=1/10)", "group_norm(groups=2, eps=1/10)"])
def test_centring_norms_on_the_trunk_lose_directions_and_a_skip_keeps_them(norm: str) -> None:
    trunk, branch = parse(norm), parse(f"residual({norm}, scale(1/10))")
    assert evaluate(bounds_of(trunk, IMAGE).input_jacobian_sigma_min, {}) == 0
    assert float(spectrum(realise(trunk, IMAGE))[-1]) < 1e-12
    kept = evaluate(bounds_of(branch, IMAGE).input_jacobian_sigma_min, {})
    assert kept == pytest.approx(1 - 0.1 / math.sqrt(0.1))
    assert float(spectrum(realise(branch, IMAGE))[-1]) >= kept


def test_rms_norm_on_the_trunk_keeps_all_directions_of_a_bounded_input() -> None:
    network = parse("rms_norm(eps=1/10)")
    least = evaluate(bounds_of(network, Shape(3, 2), radius=5.0).input_jacobian_sigma_min, {})
    assert 0 < least <= float(spectrum(realise(network, Shape(3, 2)))[-1])


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_gelu_and_silu_are_not_1_lipschitz(name: str) -> None:
    assert evaluate_number(activation_facts(name).slope.value) > 1.09


def evaluate_number(value: sympy.Expr) -> float:
    return float(sympy.N(value))


@pytest.mark.parametrize("network", ["relu", "max_pool(kernel=(2, 2), stride=(2, 2))"])
def test_kinks_have_first_order_bounds_only_and_say_why(network: str) -> None:
    here = bounds_of(parse(network), IMAGE)
    assert here.input_jacobian_norm.expression == 1
    assert here.input_input.expression is sympy.oo
    assert "jumps" in here.input_input.explain()


def test_spectral_normalisation_has_no_second_order_constant_and_offers_one_that_has() -> None:
    here = bounds_of(parse("affine(2, weight_norm=spectral)"), Shape(2, 3), radius=1.0)
    assert here.input_jacobian_norm.expression == 1
    assert here.param_param.expression is sympy.oo
    assert "frobenius" in here.param_param.explain()
    realisation = realise(parse("affine(2, weight_norm=spectral)"), Shape(2, 2))
    x = torch.eye(2, dtype=DTYPE)

    def bend(gap: float) -> float:
        """Second difference of the weight across the point where the two singular values change places."""
        step, values = gap, []
        for shift in (-step, 0.0, step):
            theta = torch.tensor([[1.0 + gap / 2, shift], [shift, 1.0 - gap / 2]], dtype=DTYPE).reshape(1, 4)
            values.append(realisation(theta, x)[0])
        return float((values[0] - 2 * values[1] + values[2]).norm()) / step**2

    assert bend(1e-3) > 50
    assert bend(1e-4) > 9 * bend(1e-3)


def test_a_convolutions_kernel_is_positive_only_with_enough_taps_for_all_positions() -> None:
    def least(channels: int, samples: int) -> float:
        shape = Shape(channels, samples, (2, 2))
        realisation = realise(Convolution(1, Windows.of((3, 3), None, (1, 1))), shape)
        source = torch.Generator().manual_seed(0)
        theta = torch.randn(1, realisation.size, generator=source, dtype=DTYPE)
        x = torch.randn(*realisation.input_shape, generator=source, dtype=DTYPE)
        return float(torch.linalg.eigvalsh(tangent_kernel(realisation, theta, x)[0])[0])

    assert abs(least(channels=1, samples=3)) < 1e-12  # 9 taps for 12 outputs
    assert least(channels=2, samples=3) > 1e-3  # 18 taps
    many = Shape(1, 3, (2, 2))
    assert (
        bounds_of(
            Convolution(1, Windows.of((3, 3), None, (1, 1))), many, radius=1.0
        ).tangent_kernel_lambda_min.expression
        == 0
    )


def test_attention_is_lipschitz_on_normalised_input_only() -> None:
    attention = parse("attend(1)")
    shape = Shape(6, 1, (3,))
    assert bounds_of(attention, shape).input_jacobian_norm.expression is sympy.oo
    normalised = parse("layer_norm(eps=1/10), attend(1)")
    assert evaluate(bounds_of(normalised, shape).input_jacobian_norm, {}) < math.inf


@pytest.mark.parametrize(
    "layer",
    [GroupNorm(sympy.Rational(1, 10), groups=2), InstanceNorm(sympy.Rational(1, 10)), SetNorm(sympy.Rational(1, 10))],
)
def test_norms_of_a_sample_have_right_second_derivatives(layer: Network) -> None:
    realisation = realise(layer, Shape(2, 2, (3,)))
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=DTYPE, requires_grad=True)
    theta = torch.zeros(0, dtype=DTYPE)
    assert torch.autograd.gradcheck(lambda z: realisation(theta, z), (x,))
    assert torch.autograd.gradgradcheck(lambda z: realisation(theta, z), (x,))


def test_circular_convolutions_attain_their_closed_forms_on_constant_images() -> None:
    windows = Windows.of((3, 3), None, (1, 1), mode="circular")
    here = bounds_of(Convolution(1, windows), Shape(1, 1, (4, 4)), Domain(sympy.S(1)), radius=1.0)
    realisation = realise(Convolution(1, windows), Shape(1, 1, (4, 4)))
    theta, x = torch.full((1, 9), 1 / 3, dtype=DTYPE), torch.full((16, 1), 1 / 4, dtype=DTYPE)
    measured = input_jacobian_singular_values(realisation, theta, x)[0, 0]
    assert float(measured) == pytest.approx(evaluate(here.input_jacobian_norm, {})) == 3
    kernel = tangent_kernel(realisation, theta, x)[0]
    assert math.sqrt(float(torch.linalg.eigvalsh(kernel)[-1])) == pytest.approx(evaluate(here.param_jacobian_norm, {}))
