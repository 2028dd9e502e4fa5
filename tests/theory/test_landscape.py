"""The landscape's closed forms lie above their enclosures, and everything grows with the domain."""

from __future__ import annotations

import itertools

import pytest
import sympy
from sympy import S, oo

from theory import symbols
from theory.atoms.base import Domain
from theory.costs import CrossEntropy, SquaredError
from theory.evaluate import evaluate
from theory.landscape import Landscape, landscape
from theory.spec import parse

DATA = {"x_F": 2, "x_0": S(3) / 2, "sigma": S(1) / 2, "eps": S(1) / 2}
CERTIFIABLE = [
    "affine(4), crop(2)",
    "affine(4), residual(tanh, affine(4, weight_norm=frobenius), scale(1/2)), crop(2)",
    "affine(4, bias=true), repeat(3, residual(sigmoid, affine(4, weight_norm=row, gain=false), scale(1/3))), crop(2)",
    "affine(4), residual(rms_norm, tanh, affine(4, weight_norm=entry), scale(1/4)), crop(2)",
    "affine(4), residual(batch_norm, tanh, affine(4, weight_norm=frobenius), scale(1/4)), crop(2)",
]
PLAIN = ["affine(3), tanh, affine(2)", "affine(3, bias=true), gelu, layer_norm(gain=true, shift=true), affine(2)"]
ROUNDING = 1e-9
"""Relative width at which the eigenvalue's enclosure stops (`theory.spectrum.NARROW`)."""


def built(spec: str, radius=None, **options) -> Landscape:
    domain = {} if radius is None else {"domain": Domain(sympy.sympify(radius))}
    return landscape(parse(spec), S(4), S(3), **domain, **options)


@pytest.mark.parametrize(("spec", "radius"), [(s, None) for s in CERTIFIABLE] + [(s, 1) for s in PLAIN])
def test_every_closed_form_is_on_the_safe_side_of_its_enclosure(spec: str, radius) -> None:
    found = built(spec, radius)
    balls = found.enclose(DATA)
    for bound, ball in (
        (found.first_derivative, balls.first),
        (found.second_derivative, balls.second),
        (found.smoothness_constant, balls.smoothness),
    ):
        value = evaluate(bound, DATA)
        assert value < float("inf")
        assert float(ball.lower()) <= value * (1 + ROUNDING), bound.quantity
    assert evaluate(found.tangent_kernel_lambda_min, DATA) <= float(balls.lambda_min.upper()) * (1 + ROUNDING)


@pytest.mark.parametrize("spec", PLAIN)
def test_all_upper_bounds_grow_with_the_radius_of_the_domain(spec: str) -> None:
    balls = [built(spec, radius).enclose(DATA) for radius in (S(1) / 4, S(1), S(3))]
    for small, large in itertools.pairwise(balls):
        assert float(small.first.lower()) <= float(large.first.upper())
        assert float(small.second.lower()) <= float(large.second.upper())
        assert float(small.smoothness.lower()) <= float(large.smoothness.upper())
        assert float(small.lambda_min.upper()) >= float(large.lambda_min.lower())


def test_the_whole_space_gives_a_chain_of_free_weights_no_finite_constant() -> None:
    found = built(PLAIN[0])
    assert found.second_derivative.expression is oo
    assert found.smoothness_constant.expression is oo
    assert not found.enclose(DATA).smoothness.is_finite()


def test_the_two_rules_for_the_loss_agree_for_one_sample() -> None:
    balls = landscape(parse(CERTIFIABLE[1]), S(4), S(1)).enclose(DATA)
    assert balls.smoothness_plain.overlaps(balls.smoothness_by_sample)


def test_the_rule_by_samples_wins_for_many_of_them_where_no_layer_couples_samples() -> None:
    values = DATA | {"x_F": 10, "x_0": 3}
    found = landscape(
        parse("affine(64), residual(tanh, affine(64, weight_norm=frobenius), scale(1/2)), crop(2)"), 64, 32
    )
    balls = found.enclose(values)
    assert balls.smoothness_by_sample < balls.smoothness_plain


def test_a_linear_network_has_the_smoothness_constant_of_logistic_regression() -> None:
    # f = A X: hess <= smooth |X|^2 = x_0^2 / (2 N), no second derivative
    balls = built("affine(2)").enclose(DATA)
    assert balls.second == 0
    assert float(balls.smoothness.upper()) == pytest.approx((3 / 2) ** 2 / 2 / 3, rel=1e-14)


def test_squared_error_has_a_smoothness_constant_only_where_the_network_is_linear() -> None:
    linear = built("affine(2)", cost=SquaredError())
    assert evaluate(linear.smoothness_constant, DATA) == pytest.approx((3 / 2) ** 2 / 3, rel=1e-14)
    assert built(CERTIFIABLE[1], cost=SquaredError()).smoothness_constant.expression is oo


def test_classes_and_outputs_must_agree() -> None:
    with pytest.raises(ValueError, match="2 outputs but the cost 5 classes"):
        built("affine(4), crop(2)", cost=CrossEntropy(5))


def test_the_pl_inequality_speaks_of_the_loss_and_needs_two_classes() -> None:
    found = landscape(parse("affine(4), crop(K)"), S(4), S(3), CrossEntropy(symbols.K))
    assert gamma_free(found.pl_inequality.expression)
    assert evaluate(found.pl_inequality, DATA | {"K": 2, "ell": S(1) / 10}) > 0
    with pytest.raises(ValueError, match="K >= 2"):
        evaluate(found.pl_inequality, DATA | {"K": 1, "ell": S(1) / 10})


def gamma_free(expression) -> bool:
    return "gamma" not in {s.name for s in expression.free_symbols}


@pytest.mark.parametrize("spec", CERTIFIABLE)
def test_all_composed_bounds_verify_and_can_be_explained(spec: str) -> None:
    found = built(spec)
    for bound in (found.first_derivative, found.second_derivative, found.smoothness_constant, found.pl_inequality):
        bound.verify()
        text = bound.explain()
        # every ancestor is written out exactly once, and referred to by its number afterwards
        written = [line for line in text.splitlines() if line.lstrip().startswith("[") and not line.endswith("(above)")]
        assert len(written) == sum(1 for _ in bound.ancestors())


def test_a_closed_form_refuses_a_crop_to_more_features_than_there_are() -> None:
    found = landscape(parse("affine(d), crop(m)"), symbols.d, S(3))
    with pytest.raises(ValueError, match="crop"):
        evaluate(found.tangent_kernel_lambda_min, DATA | {"d": 3, "m": 5})
