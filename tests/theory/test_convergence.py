"""Theorem 1: a certificate holds where every hypothesis does, and each hypothesis violated on purpose is the one that is named."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import flint
import pytest
import sympy
from sympy import S

from theory import symbols
from theory.atoms.base import Domain
from theory.convergence import Certificate, certify
from theory.costs import CrossEntropy, SquaredError, exact_least_split
from theory.evaluate import evaluate, exact_ball
from theory.hypotheses import hypotheses
from theory.landscape import landscape
from theory.network import Chain, substitute
from theory.proofs import descent_steps
from theory.records import LOWER, QUANTITIES, Shape
from theory.spec import parse

WIDTH, SAMPLES, CLASSES = 4, 3, 2
DATA = {"x_F": 2, "x_0": S(3) / 2, "sigma": S(1) / 2, "eps": 1}
BRANCH = "tanh, affine(4, weight_norm=frobenius)"
GOOD = f"affine(4), repeat(2, residual({BRANCH}, scale(1/2))), crop(2)"


def certificate(spec: str = GOOD, values: dict | None = None, **options) -> Certificate:
    return certify(landscape(parse(spec), S(WIDTH), S(SAMPLES), **options), DATA | (values or {}))


def failing(found: Certificate) -> list[str]:
    assert not found.certified
    assert found.step_size == 0.0
    return [str(c) for c in found.failing]


def test_the_network_of_the_theorem_is_certified_with_every_hypothesis_and_its_value() -> None:
    found = certificate()
    assert found.certified
    assert found.failing == ()
    # kappa = 1/2 * sup|tanh'| * |A|, |A| <= 1: s - kappa = 1/2 for both blocks, sigma^2 = 1/4
    assert float(found.constants.lambda_min.lower()) == pytest.approx(1 / 4 * (1 / 2) ** 4, rel=1e-14)
    names = {c.hypothesis.name for c in found.checked}
    assert {"labels", "unbounded domain", "X_0 of full column rank", "envelope"} <= names
    for item in found.checked:
        assert item.value is not None
        assert str(item).startswith("holds")


def test_data_of_deficient_rank_is_named() -> None:
    assert "X_0 of full column rank" in failing(certificate(values={"sigma": 0}))[0]


def test_unbounded_weights_are_named_with_their_layer() -> None:
    texts = failing(certificate("affine(4), residual(tanh, affine(4), scale(1/2)), crop(2)"))
    assert all("layer 2, residual(tanh, affine(4), scale(1/2))" in text for text in texts)
    assert any("kappa < least singular value s" in text for text in texts)
    assert any("input_jacobian_norm is bounded" in text for text in texts)


@pytest.mark.parametrize("layer", ["layer_norm", "affine(4, weight_norm=frobenius)", "relu", "tanh", "softmax"])
def test_a_chain_layer_without_a_least_singular_value_is_named(layer: str) -> None:
    texts = failing(certificate(f"affine(4), {layer}, crop(2)"))
    assert any(f"layer 2, {layer}" in text and "least singular value s > 0" in text for text in texts)


def test_a_branch_as_steep_as_its_skip_is_named() -> None:
    texts = failing(certificate(f"affine(4), residual({BRANCH}), crop(2)"))
    assert len(texts) == 1
    assert "kappa < least singular value s of the skip" in texts[0]
    assert certificate(f"affine(4), residual({BRANCH}, scale(999/1000)), crop(2)").certified


def test_a_branch_without_second_derivative_is_named() -> None:
    texts = failing(
        certificate("affine(4), residual(relu, tanh, affine(4, weight_norm=frobenius), scale(1/2)), crop(2)")
    )
    assert any("input_input is bounded" in text for text in texts)


def test_a_bounded_domain_is_named() -> None:
    texts = failing(certificate(domain=Domain(S(1))))
    assert any("unbounded domain" in text and "all of parameter space" in text for text in texts)


def test_squared_error_is_certified_with_a_linear_rate() -> None:
    found = certificate(cost=SquaredError())
    assert found.certified
    constants, recursion = found.constants, found.required()
    # 2 lambda / N of gamma, and in the limit a step 1 / beta(0) = N / |a|^2
    assert recursion.domination == pytest.approx(2 * float(constants.lambda_min.lower()) / SAMPLES, rel=1e-12)
    assert found.linear_rate == pytest.approx(float(constants.lambda_min / constants.first**2), rel=1e-12)
    # beta(ell) = |a|^2 / N + sqrt(2 ell / N) lambda_max(M) by hand, the fixed step from the start's loss
    beta = float(constants.first**2 / SAMPLES + (flint.arb(2) * 3 / SAMPLES).sqrt() * constants.second.upper())
    assert float(recursion.step_size(flint.arb(3), "proportional", flint.arb(9))) == pytest.approx(1 / beta, rel=1e-12)
    assert float(recursion.step_size(flint.arb(1), "fixed", flint.arb(3))) == pytest.approx(1 / beta, rel=1e-12)
    envelope = found.envelope(3.0, 400, "proportional")
    ratios = [after / before for before, after in itertools.pairwise(envelope)]
    assert all(a >= b for a, b in itertools.pairwise(ratios))  # the step grows as the loss falls
    assert ratios[0] == pytest.approx(1 - recursion.domination / 2 / beta, rel=1e-12)
    assert all(ratio < 1 - recursion.domination / 2 / beta * (1 - 1e-9) for ratio in ratios)


def test_one_class_is_refused_by_number_or_named_where_it_is_a_symbol() -> None:
    with pytest.raises(ValueError, match="cross-entropy with 1 classes"):
        certificate("affine(4), crop(1)")
    # the assumption of the crop, d >= K, holds; K = 1 fails
    assert "labels" in failing(certificate("affine(4), crop(K)", {"K": 1}, cost=CrossEntropy(symbols.K)))[0]


def test_a_network_without_parameters_is_named() -> None:
    assert any("the network has parameters" in text for text in failing(certificate("tanh, crop(2)")))


def test_a_network_whose_first_layer_has_no_kernel_is_named() -> None:
    texts = failing(certificate("affine(4, weight_norm=row), crop(2)"))
    assert any("first layer: layer 1" in text and "tangent kernel is positive definite" in text for text in texts)


def test_an_uncertified_network_gives_no_envelope_but_the_name_of_the_hypothesis() -> None:
    with pytest.raises(ValueError, match="no envelope: FAILS: X_0 of full column rank"):
        certificate(values={"sigma": 0}).envelope(1.0, 3)


def test_a_missing_value_is_named() -> None:
    network = landscape(parse(GOOD), S(WIDTH), S(SAMPLES))
    with pytest.raises(ValueError, match="symbol eps"):
        certify(network, {k: v for k, v in DATA.items() if k != "eps"})


def test_the_step_size_is_the_largest_float_below_one_over_the_smoothness_constant() -> None:
    found = certificate()
    beta = found.constants.smoothness.upper()
    assert exact_ball(found.step_size) * beta <= 1
    assert exact_ball(math.nextafter(math.nextafter(found.step_size, 1), 1)) * beta > 1


def test_the_envelope_decreases_and_is_the_recursion_computed_by_hand() -> None:
    found = certificate("affine(2), crop(2)")
    envelope = found.envelope(2.0, 50)
    assert all(a > b for a, b in itertools.pairwise(envelope))
    # decrease = (eta / 2) lambda K / ((K-1) N^2), with lambda = sigma^2 = 1/4
    decrease = found.step_size / 2 * (1 / 4) * 2 / (1 * SAMPLES**2)
    assert found.decrease == pytest.approx(decrease, rel=1e-14)
    value = 2.0
    for bound in envelope[1:]:
        value -= decrease * float(exact_least_split(SAMPLES, exact_ball(value)).mid())
        assert bound == pytest.approx(value, rel=1e-12)
        assert bound >= value * (1 - 1e-14)


def test_the_envelope_obeys_the_rate_of_the_theorem_in_the_end() -> None:
    found = certificate("affine(2), crop(2)")
    steps = 3000
    end = found.envelope(0.3, steps)[-1]
    # ell_t <= 1 / (1/ell_0 + t / rate) up to the cubic term of m_N: within 20 % once the loss is below 0.2
    assert end == pytest.approx(1 / (1 / 0.3 + steps / found.rate), rel=0.2)
    expected = 2 * (CLASSES - 1) * SAMPLES / (found.step_size * 0.25 * CLASSES)
    assert found.rate == pytest.approx(expected, rel=1e-13)
    assert Fraction(found.rate) >= Fraction(2 * SAMPLES * (CLASSES - 1) * 4, CLASSES) / Fraction(found.step_size)


def test_a_symbolic_depth_is_certified_no_better_than_the_same_depth_unrolled() -> None:
    network = parse(f"affine(4), repeat(L, residual({BRANCH}, scale(c/L))), crop(2)")
    for depth in (1, 2, 6):
        values = DATA | {"L": depth, "c": S(1) / 2}
        symbolic = certify(landscape(network, S(WIDTH), S(SAMPLES)), values)
        concrete = certify(
            landscape(substitute(network, {symbols.L: sympy.Integer(depth)}), S(WIDTH), S(SAMPLES)), values
        )
        assert symbolic.certified
        assert concrete.certified
        # one record for all blocks is coarser, and exact for lambda: sigma^2 (1 - c/L)^{2 L}
        assert symbolic.step_size <= concrete.step_size * (1 + 1e-9)
        expected = 0.25 * (1 - 0.5 / depth) ** (2 * depth)
        assert float(symbolic.constants.lambda_min.lower()) == pytest.approx(expected, rel=1e-12)
        assert float(concrete.constants.lambda_min.lower()) == pytest.approx(expected, rel=1e-12)


def test_the_kernel_bound_is_the_same_in_closed_form_and_enclosed() -> None:
    network = landscape(parse(GOOD), S(WIDTH), S(SAMPLES))
    closed = evaluate(network.tangent_kernel_lambda_min, DATA)
    assert closed == pytest.approx(float(certify(network, DATA).constants.lambda_min.lower()), rel=1e-14)


def test_the_links_of_the_proof_are_identities() -> None:
    assert all(step.verify() for step in descent_steps())


def test_more_samples_than_features_are_refused() -> None:
    network = landscape(parse("affine(4), crop(2)"), S(2), S(5))
    try:
        found = certify(network, DATA)
    except ValueError as error:
        assert "samples" in str(error)  # noqa: PT017  (a refusal by name is as good as a failing hypothesis)
        return
    assert not found.certified


@pytest.mark.parametrize(
    "values",
    [
        {"N": 0},
        {"N": 2.5},
        {"x_F": -1},
        {"x_0": 3, "x_F": 2},
        {"sigma": 2},
    ],
    ids=str,
)
def test_impossible_data_are_refused_by_name(values: dict) -> None:
    network = landscape(parse("affine(4), crop(2)"), S(WIDTH))
    with pytest.raises(ValueError, match=next(iter(values))):
        certify(network, DATA | {"N": 3} | values)


@pytest.mark.parametrize("start", [-1.0, math.nan, math.inf])
def test_an_envelope_starts_at_a_loss(start: float) -> None:
    with pytest.raises(ValueError, match="start"):
        certificate("affine(2), crop(2)").envelope(start, 2)


def test_a_hypothesis_of_a_layer_knows_the_layer_its_quantity_and_what_stands_before() -> None:
    spec = "tanh, affine(4), residual(tanh, affine(4), scale(1/2)), stacked(chain(), tanh), crop(2)"
    found = hypotheses(landscape(parse(spec), S(WIDTH), S(SAMPLES)))
    whole = parse(spec)
    for item in found:
        if item.member is None:
            assert (item.quantity, item.shape) == ("", None)
            continue
        number = len(item.before)
        assert item.member == whole.members[number]  # type: ignore[union-attr]
        assert f"layer {number + 1}, " in item.name
        assert item.shape == Chain(item.before).output_shape(Shape(S(WIDTH), S(SAMPLES)))
        assert item.quantity in QUANTITIES
        assert (item.quantity in LOWER) == (item.needs == "positive")
    of_layers = [item.quantity for item in found if item.member is not None]
    # three of the first layer, six of each of the three that follow
    assert of_layers[:3] == ["tangent_kernel_lambda_min", "param_jacobian_norm", "param_param"]
    assert set(of_layers[3:]) == set(QUANTITIES) - {"tangent_kernel_lambda_min"}
    assert len(of_layers) == 3 + 3 * 6


NORMED = "affine(4, weight_norm=frobenius, eps=1)"


@pytest.mark.parametrize(
    ("violated", "spec"),
    [
        ("first layer: layer 1, affine(4, weight_norm=spectral): param_jacobian_norm is bounded", "affine(4, weight_norm=spectral), crop(2)"),
        ("first layer: layer 1, affine(4, weight_norm=spectral): param_param is bounded", "affine(4, weight_norm=spectral), crop(2)"),
        ("its tangent kernel is positive definite on the data", "affine(4, weight_norm=frobenius, eps=1), crop(2)"),
        ("branch slope kappa < least singular value s of the skip", f"affine(4), residual({NORMED}), crop(2)"),
        ("layer 2, tanh: least singular value s > 0", "affine(4), tanh, crop(2)"),
        ("input_jacobian_norm is bounded", "affine(4), residual(tanh, affine(4), scale(1/2)), crop(2)"),
        ("param_jacobian_norm is bounded", f"affine(4), residual(gelu, {NORMED}, scale(1/4)), crop(2)"),
        ("input_input is bounded", f"affine(4), residual(relu, {NORMED}, scale(1/4)), crop(2)"),
        ("input_param is bounded", f"affine(4), residual(sin, affine(4), tanh, {NORMED}, scale(1/4)), crop(2)"),
        ("param_param is bounded", f"affine(4), residual(tanh, affine(4), sin, {NORMED}, relu, scale(1/4)), crop(2)"),
    ],
)  # fmt: skip
def test_each_hypothesis_of_a_layer_that_is_violated_is_named(violated: str, spec: str) -> None:
    """The one hypothesis without a case is "envelope": that the recursion maps bounds to bounds follows from the others."""
    found = certificate(spec)
    texts = failing(found)
    assert any(violated in text for text in texts), texts
    with pytest.raises(ValueError, match="not certified: FAILS"):
        found.required()
    # what the failing hypothesis leaves: a run with its own proof where, and only where, all derivatives are bounded
    unbounded = any("is bounded" in text for text in texts)
    assert (found.ledger is None) == unbounded


def test_the_steps_of_an_uncertified_network_are_those_of_its_curvature_alone() -> None:
    found = certificate(f"affine(4), tanh, {NORMED}, crop(2)")
    assert not found.certified
    ledger = found.ledger
    assert ledger is not None
    assert (ledger.domination, ledger.lambda_min, ledger.linear_rate, ledger.measured_rate) == (0.0, 0.0, 0.0, 0.0)
    assert 0 < ledger.fixed <= 1 / float(found.constants.smoothness.lower())
