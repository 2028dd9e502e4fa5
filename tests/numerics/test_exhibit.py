"""Each way in which a layer falls out of Theorem 1 is exhibited on a concrete network, and nothing is exhibited where a constant is fine."""

from __future__ import annotations

import math

import pytest
import torch
from sympy import S

from numerics.convergence.exhibit import Exhibit, example_data, exhibit, exhibits, slopes
from numerics.device import DTYPE, generator
from numerics.measure import (
    input_jacobian,
    input_jacobian_norm,
    input_jacobian_sigma_min,
    param_jacobian,
    param_jacobian_norm,
    tangent_kernel_lambda_min,
)
from numerics.realise import realise
from theory.atoms.base import Domain
from theory.convergence import certify
from theory.costs import SquaredError
from theory.landscape import landscape
from theory.records import Shape
from theory.spec import parse

SHAPE = Shape(4, 3)
NORMALISED = "affine(4, weight_norm=frobenius, eps=1)"
GOOD = f"residual(tanh, {NORMALISED}, scale(1/2))"
DATA = {"x_F": 2, "x_0": S(3) / 2, "sigma": S(1) / 2, "eps": 1}
MEASURES = {
    "input_jacobian_norm": input_jacobian_norm,
    "param_jacobian_norm": param_jacobian_norm,
    "input_jacobian_sigma_min": input_jacobian_sigma_min,
    "tangent_kernel_lambda_min": tangent_kernel_lambda_min,
}


def show(spec: str, quantity: str, shape: Shape = SHAPE, **options) -> Exhibit:
    return exhibit(parse(spec), quantity, shape, **options)


def replayed(found: Exhibit, spec: str, shape: Shape = SHAPE) -> torch.Tensor:
    """First-order values of the witnesses, measured by `numerics.measure` from the tensors alone."""
    return MEASURES[found.quantity](realise(parse(spec), shape), found.theta, found.X).value


UNBOUNDED = [
    # plain weights: |I + A| grows with A, and so does the second derivative |A| sup|tanh''|
    ("residual(tanh, affine(4))", "input_jacobian_norm", 1.0),
    ("residual(tanh, affine(4))", "input_input", 1.0),
    ("residual(softmax, affine(4))", "input_jacobian_norm", 1.0),
    # A^2 tanh''(A x) needs an input that shrinks as the weight grows
    ("chain(affine(4), tanh)", "input_input", 2.0),
    # an activation that grows hands its input to the parameter's derivative
    (f"residual(gelu, {NORMALISED})", "param_jacobian_norm", 1.0),
    (f"residual(silu, {NORMALISED})", "param_jacobian_norm", 1.0),
    (f"residual({NORMALISED})", "param_jacobian_norm", 1.0),
    # spectral normalisation: 1 / sigma_max and 1 / gap
    ("residual(tanh, affine(4, weight_norm=spectral))", "param_jacobian_norm", 1.0),
    ("residual(tanh, affine(4, weight_norm=spectral))", "param_param", 1.0),
]


@pytest.mark.parametrize(("spec", "quantity", "exponent"), UNBOUNDED)
def test_what_grows_without_limit_is_exhibited_with_its_rate(spec: str, quantity: str, exponent: float) -> None:
    found = show(spec, quantity)
    assert found.kind == "unbounded"
    assert found.exponent is not None
    # the rates are whole numbers; maxima over random starts that trade places disturb a slope by a few per cent
    assert found.exponent == pytest.approx(exponent, abs=0.1)
    # it does grow, up to ten decades out: by at least a factor 2 from every scale to the next after the second
    assert all(b > 2 * a for a, b in zip(found.values[1:], found.values[2:], strict=False))
    assert (
        f"{quantity} of {spec.removeprefix('chain(').removesuffix(')') if spec.startswith('chain') else spec}"
        in str(found)
    )
    assert f"unbounded: {found.values[0]:.3g}" in found.sentence
    assert f"(grows like r^{found.exponent:.2f})" in found.sentence
    if quantity in MEASURES:
        torch.testing.assert_close(
            replayed(found, spec), torch.tensor(found.values, dtype=DTYPE), rtol=1e-6, atol=0, check_dtype=False
        )


def test_a_family_has_the_norms_that_its_label_says() -> None:
    found = show("residual(tanh, affine(4))", "input_jacobian_norm")
    assert found.label == "parameters of norm r"
    assert found.scales[:4] == (1.0, 10.0, 100.0, 1000.0)
    torch.testing.assert_close(found.theta.norm(dim=1), torch.tensor(found.scales, dtype=DTYPE))
    assert bool((found.X[0] == found.X).all())


def test_the_gap_of_spectral_normalisation_closes_as_its_label_says() -> None:
    found = show("residual(tanh, affine(4, weight_norm=spectral))", "param_param")
    assert "1 and 1 - 1/r" in found.label
    values = torch.linalg.svdvals(found.theta.reshape(-1, 4, 4))
    torch.testing.assert_close(values[:, 0], torch.ones_like(values[:, 0]))
    gaps = values[1:, 0] - values[1:, 1]  # at r = 1 the second one is zero and sorted away
    torch.testing.assert_close(gaps[:4], 1 / torch.tensor(found.scales[1:5], dtype=DTYPE), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("spec", "quantity"),
    [
        (f"residual(relu, tanh, {NORMALISED}, scale(1/2))", "input_input"),
        ("affine(4), relu", "param_param"),
        ("affine(4), relu", "input_param"),
    ],
)
def test_the_second_derivative_of_a_kinked_activation_is_a_jump_over_ever_smaller_distances(
    spec: str, quantity: str
) -> None:
    found = show(spec, quantity)
    assert found.kind == "unbounded"
    assert found.exponent == pytest.approx(1, abs=1e-3)
    assert found.note == "the first derivative jumps"
    assert found.other is not None
    f = realise(parse(spec), SHAPE)
    jacobian = input_jacobian if quantity == "input_input" else param_jacobian
    change = torch.linalg.matrix_norm(jacobian(f, *found.other) - jacobian(f, found.theta, found.X), 2)
    moved = torch.cat([found.other[0] - found.theta, (found.other[1] - found.X).flatten(1)], 1).norm(dim=1)
    # the points lie at distance 1/r, so the quotient |J(x + h u) - J(x)| / h is what was reported
    torch.testing.assert_close(moved, 1 / torch.tensor(found.scales, dtype=DTYPE), rtol=1e-5, atol=1e-15)
    torch.testing.assert_close(
        change * torch.tensor(found.scales, dtype=DTYPE), torch.tensor(found.values, dtype=DTYPE)
    )


def test_max_pooling_has_a_kink_as_well() -> None:
    found = show("max_pool(kernel=2)", "input_input", Shape(1, 2, (S(4),)))
    # of a window of two tied entries the gradient jumps from one unit vector to the other: sqrt 2
    assert found.values[0] / found.scales[0] == pytest.approx(math.sqrt(2), rel=1e-9)
    assert found.kind == "unbounded"


def test_self_attention_is_unbounded_quadratically_at_a_token_without_query() -> None:
    found = show("attend(1)", "input_jacobian_norm", Shape(12, 1, (S(3),)))
    assert found.kind == "unbounded"
    assert found.exponent == pytest.approx(2, abs=1e-3)


ZERO = [
    ("affine(4)", "input_jacobian_sigma_min"),
    (NORMALISED, "input_jacobian_sigma_min"),
    ("tanh", "input_jacobian_sigma_min"),
    ("softplus", "input_jacobian_sigma_min"),
    ("relu", "input_jacobian_sigma_min"),
    ("softmax", "input_jacobian_sigma_min"),
    ("layer_norm(eps=1/100)", "input_jacobian_sigma_min"),
    ("batch_norm(eps=1/100)", "input_jacobian_sigma_min"),
    # x - tanh-like cancellation
    ("residual(tanh, affine(4))", "input_jacobian_sigma_min"),
    (f"residual(tanh, {NORMALISED})", "input_jacobian_sigma_min"),
    # gelu has slope 1.129: a weight of norm below one makes the branch as steep as the skip
    (f"residual(gelu, {NORMALISED})", "input_jacobian_sigma_min"),
    # batch norm has slope 1 / sqrt(eps) = 10
    (f"residual(batch_norm(eps=1/100), tanh, {NORMALISED})", "input_jacobian_sigma_min"),
]


@pytest.mark.parametrize(("spec", "quantity"), ZERO)
def test_a_least_singular_value_of_zero_is_exhibited(spec: str, quantity: str) -> None:
    found = show(spec, quantity)
    assert found.kind == "zero"
    f = realise(parse(spec), SHAPE)
    theta, X = found.theta[-1:], found.X[-1:]
    # relative to the norm that this layer's Jacobian has at unit scale, which is above 0.1 for all of these
    assert found.values[-1] <= 1e-9
    assert float(input_jacobian_sigma_min(f, theta, X).value) <= 1e-9
    assert found.direction is not None
    y = found.direction.flatten()
    assert float(y.norm()) == pytest.approx(1, rel=1e-12)
    assert float((input_jacobian(f, theta, X)[0].T @ y).norm()) <= 1e-9
    assert "has infimum zero" in str(found)


def test_a_chain_layer_without_skip_is_exhibited_at_the_zero_weight() -> None:
    found = show("affine(4)", "input_jacobian_sigma_min")
    assert math.isinf(found.scales[-1])
    assert found.values[-1] == 0.0
    assert float(found.witness["theta"].abs().max()) == 0.0
    # sigma_min(W) falls in proportion to the weight
    assert slopes(torch.tensor(found.values, dtype=DTYPE), found.scales)[0] == pytest.approx(-1, abs=1e-9)


def test_batch_norm_on_the_trunk_has_the_constants_in_its_kernel() -> None:
    found = show("batch_norm(eps=1/100)", "input_jacobian_sigma_min")
    assert found.label == "each of 6 points drawn"
    assert found.direction is not None
    # every feature of y is constant over the samples, to the rounding of a singular vector
    torch.testing.assert_close(found.direction, found.direction[:, :1].expand(4, 3), rtol=0, atol=1e-12)


def test_a_first_layer_with_normalised_weights_has_no_kernel_on_good_data() -> None:
    data = example_data(4, 3, {"x_0": 1.5, "x_F": 2, "sigma": 0.5}, generator(3))
    found = show("affine(4, weight_norm=row, eps=1)", "tangent_kernel_lambda_min", fixed_input=data)
    assert found.kind == "zero"
    assert found.label == "parameters of norm r"
    assert bool((data == found.X).all())
    # the derivative of a row, (I - v v^T) / r far out, is of order 1 / r across the row: its square falls like r^-2
    assert slopes(torch.tensor(found.values, dtype=DTYPE), found.scales)[-1] == pytest.approx(-2, abs=1e-3)
    plain = show("affine(4)", "tangent_kernel_lambda_min", fixed_input=data)
    assert plain.kind == "none"
    assert plain.values[0] == pytest.approx(0.25, rel=1e-9)  # sigma^2


def test_more_outputs_than_parameters_or_inputs_leave_nothing() -> None:
    assert show("affine(5)", "input_jacobian_sigma_min").values == (0.0,) * 6
    assert show("tanh", "tangent_kernel_lambda_min").kind == "zero"


def test_where_nothing_has_to_be_scaled_a_single_network_is_shown() -> None:
    found = show("affine(4)", "tangent_kernel_lambda_min")  # on an input that is free: X = 0
    assert (found.label, found.scales, len(found.values)) == ("a single network", (), 1)
    assert float(torch.linalg.svdvals(found.X[0])[-1]) < 1e-12


# Nothing is exhibited that is not there


@pytest.mark.parametrize(
    ("spec", "quantity", "least"),
    [
        (GOOD, "input_jacobian_sigma_min", 1 / 2),
        # above the threshold's share of the Jacobian's norm or below it: a small constant is not zero
        (f"residual(tanh, {NORMALISED}, scale(999999999/1000000000))", "input_jacobian_sigma_min", 1e-9),
        ("scale(1/1000000000)", "input_jacobian_sigma_min", 1e-9),
        (f"residual(batch_norm(eps=1/100), tanh, {NORMALISED}, scale(1/20))", "input_jacobian_sigma_min", 1 / 2),
    ],
)
def test_a_positive_constant_is_not_exhibited_as_zero(spec: str, quantity: str, least: float) -> None:
    found = show(spec, quantity)
    assert found.kind == "none"
    assert not found.found
    # 1 - (1 - 1e-9) is known to 1e-16, that is to 1e-7 of itself
    assert least * (1 - 1e-6) <= found.values[0] <= least * (1 + 1e-6)
    assert "was not seen to fall to zero" in str(found)
    assert "no proof" in str(found)


@pytest.mark.parametrize(
    ("spec", "quantity", "most"),
    [
        (GOOD, "input_jacobian_norm", 3 / 2),
        (GOOD, "input_input", 2 * math.sqrt(3) / 9),
        # steep, but no steeper than 1 / sqrt(eps), which is reached in the ball of radius 1 already
        ("batch_norm(eps=1/10000000000)", "input_jacobian_norm", 1e5),
        # grows over the first thousand and then no more: sqrt(rows) = 2
        ("affine(4, weight_norm=row, eps=1000000)", "input_jacobian_norm", 2.0),
    ],
)
def test_a_bounded_constant_is_not_exhibited_as_unbounded(spec: str, quantity: str, most: float) -> None:
    found = show(spec, quantity)
    assert found.kind == "none"
    assert found.exponent is None
    assert max(found.values) == pytest.approx(most, rel=1e-3)
    assert max(found.values) <= most * (1 + 1e-12)
    assert list(found.values) == sorted(found.values)
    assert "was not seen to grow without limit" in str(found)


def test_the_input_radius_is_kept_and_decides() -> None:
    spec = f"residual(gelu, {NORMALISED})"
    assert show(spec, "param_jacobian_norm").kind == "unbounded"
    kept = show(spec, "param_jacobian_norm", input_radius=2.0)
    assert kept.kind == "none"
    assert float(kept.X.flatten(1).norm(dim=1).max()) <= 2 * (1 + 1e-12)


def test_bad_requests_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown quantity 'jacobian'"):
        show("tanh", "jacobian")
    with pytest.raises(ValueError, match=r"input_radius = 0\.0"):
        show("tanh", "input_jacobian_norm", input_radius=0.0)
    with pytest.raises(ValueError, match=r"takes \(4, 3\)"):
        show("tanh", "input_jacobian_norm", fixed_input=torch.zeros(2, 2, dtype=DTYPE))
    with pytest.raises(ValueError, match="eps"):
        show("batch_norm", "input_jacobian_norm")


# Certificates


def failing_of(spec: str, values: dict | None = None, data: torch.Tensor | None = None, **options):
    given = landscape(parse(spec), S(4), S(3), **options)
    values = DATA | (values or {})
    certificate = certify(given, values)
    return certificate.failing, exhibits(given, certificate.checked, values, data=data)


@pytest.mark.parametrize(
    "spec",
    [
        "affine(4), residual(tanh, affine(4), scale(1/2)), crop(2)",
        "affine(4), layer_norm, crop(2)",
        "affine(4), residual(tanh, affine(4, weight_norm=frobenius)), crop(2)",
        "affine(4, weight_norm=row), crop(2)",
        "affine(4), residual(gelu, affine(4, weight_norm=frobenius)), crop(2)",
        "affine(4), residual(relu, tanh, affine(4, weight_norm=frobenius), scale(1/2)), crop(2)",
        "affine(4), residual(tanh, affine(4, weight_norm=spectral), scale(1/2)), crop(2)",
        "affine(4), batch_norm, residual(tanh, affine(4)), crop(2)",
    ],
)
def test_every_failing_hypothesis_of_a_layer_has_its_exhibit(spec: str) -> None:
    failing, found = failing_of(spec)
    assert failing
    assert len(found) == len(failing)
    for item, shown in zip(failing, found, strict=True):
        assert isinstance(shown, Exhibit)
        assert shown.quantity == item.hypothesis.quantity
        assert shown.spec in item.hypothesis.name
        assert shown.kind == ("zero" if item.hypothesis.needs == "positive" else "unbounded"), str(shown)


def test_a_certificate_that_holds_has_nothing_to_exhibit() -> None:
    failing, found = failing_of("affine(4), residual(tanh, affine(4, weight_norm=frobenius), scale(1/2)), crop(2)")
    assert failing == ()
    assert found == []


def test_a_block_that_meets_bounded_features_only_is_exhibited_within_them() -> None:
    _, found = failing_of("affine(4), softmax, residual(tanh, affine(4)), crop(2)")
    inputs = [shown.X for shown in found if isinstance(shown, Exhibit) and "residual" in shown.spec]
    assert inputs
    # columns of probabilities have norm at most 1, three of them Frobenius norm at most sqrt 3
    assert max(float(X.flatten(1).norm(dim=1).max()) for X in inputs) <= math.sqrt(3) * (1 + 1e-9)


def test_hypotheses_of_data_labels_and_domain_get_their_reason() -> None:
    spec = "affine(4), residual(tanh, affine(4, weight_norm=frobenius), scale(1/2)), crop(2)"
    dependent = torch.tensor([[1.0, 2, 3], [0, 1, 1], [2, 0, 2], [1, 1, 2]], dtype=DTYPE)  # the third is the sum
    _, found = failing_of(spec, {"sigma": 0}, data=dependent)
    assert isinstance(found[0], str)
    assert "X_0 of full column rank" in found[0]
    assert "a unit v has |X v| = " in found[0]
    assert float(found[0].split("|X v| = ")[1].split(",")[0]) < 1e-14
    assert isinstance(found[1], Exhibit)  # the kernel of the first layer on these very data
    assert bool((dependent == found[1].X).all())
    assert failing_of(spec, cost=SquaredError())[1] == []  # squared error is certified as well
    assert "parameters in the ball of radius 1" in failing_of(spec, domain=Domain(S(1)))[1][0]
    assert any("the network has parameters" in str(text) for text in failing_of("tanh, crop(2)")[1])


def test_data_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="5 features"):
        failing_of("affine(4), tanh, crop(2)", data=torch.zeros(5, 3, dtype=DTYPE))


def test_example_data_have_the_norms_asked_for() -> None:
    values = torch.linalg.svdvals(example_data(6, 4, {"x_0": 3, "x_F": 4, "sigma": S(1) / 2}, generator(0)))
    assert float(values[0]) == pytest.approx(3)
    assert float(values[-1]) == pytest.approx(0.5)
    assert float(values.norm()) == pytest.approx(4)
