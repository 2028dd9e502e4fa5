"""The smoothness constant as a function of the loss: its two rules by hand, against real Hessians, and what the sharpenings gain."""

from __future__ import annotations

import itertools
import math

import flint
import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import S

from theory import symbols
from theory.bound import Step
from theory.convergence import Certificate, certify, rate_bounds
from theory.costs import CrossEntropy, SquaredError, concavity_steps, q
from theory.curvature import CrossEntropyCurvature, SquaredErrorCurvature, Weights, chord_steps
from theory.landscape import Landscape, landscape
from theory.limits import depth_limit
from theory.proofs import envelope_steps, proportional_steps, residual_steps, sublevel_steps
from theory.recursion import POSTERIORI, PROPORTIONAL
from theory.sharpening import kernel_by_layer, plain_steps, stages
from theory.spec import parse

SPEC = "affine(4), repeat(2, residual(tanh, affine(4, weight_norm=frobenius, eps=1), scale(1/4))), crop(3)"
DATA = {"N": 8, "x_0": 2, "x_F": 5, "x_s": S(19) / 10, "sigma": S(3) / 2}


def here(spec: str = SPEC, samples: int = 8, cost: object = None) -> Landscape:
    return landscape(parse(spec), S(8), S(samples), cost)  # type: ignore[arg-type]


def certificate(spec: str = SPEC, **values: object) -> Certificate:
    return certify(here(spec), DATA | values)


@pytest.mark.parametrize(
    "steps",
    [chord_steps, concavity_steps, sublevel_steps, envelope_steps, proportional_steps, residual_steps, plain_steps],
    ids=lambda steps: steps.__name__,
)
def test_every_link_of_the_proofs_holds(steps) -> None:
    for step in steps():
        assert step.verify(), f"{step.claim}: {step.checks}"


def test_a_false_link_does_not_verify() -> None:
    x = sympy.Symbol("x", positive=True)
    assert not Step("x <= 1", (), (1 - x,)).verify()
    assert not Step("x = 1", (x - 1,)).verify()
    assert Step("x >= 0", (x - x,), (x,)).checks == "0 = 0; 0 <= x"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=2, max_size=6))
def test_the_hessian_of_a_sample_is_at_most_its_bound_in_q(logits: list[float]) -> None:
    z = np.array(logits)
    p = np.exp(z - z.max())
    p /= p.sum()
    top = np.linalg.eigvalsh(np.diag(p) - np.outer(p, p))[-1]
    bound = CrossEntropy().sample_hessian().expression
    # 1 - p[0] loses digits where p[0] is near 1: the other probabilities do not
    assert top <= float(bound.subs(q, float(p[1:].sum()))) + 1e-14


def test_the_bound_in_q_is_attained_by_two_classes_and_the_older_2q_is_up_to_four_times_it() -> None:
    bound = CrossEntropy().sample_hessian().expression
    for mass in (1e-6, 0.1, 0.4, 0.5):
        p = np.array([1 - mass, mass, 0.0])
        assert np.linalg.eigvalsh(np.diag(p) - np.outer(p, p))[-1] == pytest.approx(
            float(bound.subs(q, mass)), rel=1e-9
        )
    assert 2 * q.subs(q, 1) / bound.subs(q, 1) == 4


def test_both_rules_are_the_formulas_on_a_single_affine_layer() -> None:
    """`|DF_i| = |x_i|`, no second derivative: `beta = min(x_s^2 h(ell), x_0^2 / N h(N ell))`."""
    found = here("affine(3)").curvature(DATA)
    assert isinstance(found, CrossEntropyCurvature)
    for loss in (1e-6, 0.01, 0.05, 0.3, 2.0):

        def weight(c: float) -> float:
            mass = min(1 - math.exp(-c), 0.5)
            return 2 * mass * (1 - mass)

        expected = min(1.9**2 * weight(loss), 4 / 8 * weight(8 * loss))
        assert float(found(flint.arb(loss)).mid()) == pytest.approx(expected, rel=1e-8)
    assert found.everywhere == pytest.approx(4 / 8 / 2, rel=1e-8)


def test_without_the_norm_of_a_sample_the_operator_norm_takes_its_place() -> None:
    given_, without = here().curvature(DATA), here().curvature({k: v for k, v in DATA.items() if k != "x_s"})
    assert isinstance(given_, CrossEntropyCurvature)
    assert isinstance(without, CrossEntropyCurvature)
    assert given_.mean.at_zero < without.mean.at_zero
    assert given_.largest == without.largest


def test_the_curvature_rises_with_the_loss_up_to_the_smoothness_constant_and_below_c_times_the_loss() -> None:
    found, constants = here().curvature(DATA), here().enclose(DATA)
    assert isinstance(found, CrossEntropyCurvature)
    values = [found(flint.arb(loss)) for loss in np.geomspace(1e-12, 1e3, 80)]
    assert all(b.upper() >= a.lower() for a, b in itertools.pairwise(values))
    assert values[-1] <= constants.smoothness.upper() * (1 + 1e-8)
    for loss, value in zip(np.geomspace(1e-12, 1e3, 80), values, strict=True):
        assert value <= found.at_zero * loss * (1 + 1e-12)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(1e-4, 20), min_size=2, max_size=8),
    st.floats(0.01, 5),
    st.floats(0.0, 5),
)
def test_means_over_samples_are_at_most_the_value_at_the_mean_loss(losses, outer, slope) -> None:
    """Jensen, on the function itself."""
    c = np.array(losses)

    def rule(x: np.ndarray) -> np.ndarray:
        mass = -np.expm1(-x)
        capped = np.minimum(mass, 0.5)
        return outer * 2 * capped * (1 - capped) + slope * mass

    assert rule(c).mean() <= rule(c.mean()) * (1 + 1e-12)


def test_the_chord_lies_above_the_eigenvalue_in_between() -> None:
    a, m = np.array([1.0, 0.5, 0.2]), np.array([[0.1, 0.3, 0.0], [0.3, 0.5, 0.2], [0.0, 0.2, 0.9]])

    def top(r: float) -> float:
        return float(np.linalg.eigvalsh(r * np.outer(a, a) + m)[-1])

    chord = Weights.chord(top(0.5), top(2.0))
    for r in np.linspace(0.5, 2, 31):
        assert top(r) <= (chord.outer * r + chord.slope) * (1 + 1e-12)
    assert chord.slope >= 0
    assert chord.outer / 2 + chord.slope == pytest.approx(top(0.5), rel=1e-12)
    assert chord.at_zero == pytest.approx(top(2.0), rel=1e-12)


def test_squared_error_has_a_curvature_that_grows_with_the_root_of_the_loss() -> None:
    found, constants = here(cost=SquaredError()).curvature(DATA), here().enclose(DATA)
    assert isinstance(found, SquaredErrorCurvature)
    first, second = float(constants.first.upper()), float(constants.second.upper())
    for loss in (0.0, 0.1, 10.0):
        expected = first**2 / 8 + math.sqrt(2 * loss / 8) * second
        assert float(found(flint.arb(loss)).mid()) == pytest.approx(expected, rel=1e-8)
    assert math.isinf(found.everywhere)


def test_a_layer_that_couples_samples_uses_the_derivatives_of_all() -> None:
    spec = "affine(4), residual(batch_norm(eps=1), tanh, affine(4, weight_norm=frobenius, eps=1), scale(1/4)), crop(3)"
    found = here(spec).curvature(DATA)
    assert isinstance(found, CrossEntropyCurvature)
    assert not here(spec).sample_wise
    assert here().sample_wise
    assert found.first == pytest.approx(float(here(spec).enclose(DATA).first.upper()), rel=1e-12)


def test_an_unbounded_derivative_has_no_curvature() -> None:
    assert here("affine(4), tanh, affine(3)").curvature(DATA) is None


# Rates.


def test_the_linear_rate_is_the_formula_and_residuals_raise_it() -> None:
    found = certificate()
    recursion = found.required()
    curvature = recursion.curvature
    assert isinstance(curvature, CrossEntropyCurvature)
    lam = float(found.constants.lambda_min.lower())
    assert found.linear_rate == pytest.approx(lam * 3 / (2 * 2 * 8 * curvature.at_zero), rel=1e-12)
    assert found.measured_rate > found.linear_rate
    # never more than what the tangent kernel and the better rule allow at equal residuals
    assert found.measured_rate <= lam * 3 / (2 * 2 * 8 * curvature.largest.at_zero)


def test_the_part_removed_by_a_step_tends_to_the_linear_rate() -> None:
    found = certificate()
    envelope = found.envelope(1e-3, 400, PROPORTIONAL)
    parts = [1 - b / a for a, b in itertools.pairwise(envelope)]
    assert parts[-1] == pytest.approx(found.linear_rate, rel=1e-3)
    recursion = found.required()
    tiny = flint.arb(1e-12)
    assert float((1 - recursion.after(tiny, PROPORTIONAL, tiny) / tiny).mid()) == pytest.approx(
        found.linear_rate, rel=1e-9
    )
    with pytest.raises(ValueError, match="'posteriori' has no step of the loss alone"):
        recursion.after(tiny, POSTERIORI, tiny)


def test_the_measured_rate_is_the_least_over_all_ways_to_spread_the_residuals() -> None:
    """Against the removed part at 20,000 random residuals, in the limit of small ones."""
    recursion = certificate().required()
    curvature = recursion.curvature
    assert isinstance(curvature, CrossEntropyCurvature)
    source = np.random.default_rng(0)
    residuals = np.exp(source.normal(0, source.uniform(0, 3, (20_000, 1)), (20_000, 8)))
    squared = recursion.domination * (residuals**2).sum(1)
    mean, largest = residuals.mean(1), residuals.max(1)
    best = squared / (2 * curvature.at_zero * mean)
    for k in np.linspace(0.05, 2, 60):
        reach = k * np.sqrt(squared) / (2 * math.sqrt(2) * curvature.first)
        best = np.maximum(best, np.minimum(reach, squared / (2 * curvature.largest.at_zero * math.exp(k) * largest)))
    least = (best / mean).min()
    assert recursion.measured_rate <= least
    # the grid of growths and the pieces of [1, N] cost little
    assert recursion.measured_rate >= 0.8 * least


def test_the_rates_in_closed_form_agree_with_the_enclosed_ones_and_verify() -> None:
    fixed, proportional = rate_bounds(here())
    fixed.verify()
    proportional.verify()
    at = {symbols.N: 8, symbols.x_0: 2, symbols.x_F: 5, symbols.x_s: S(19) / 10, symbols.sigma: S(3) / 2}
    found = certificate()
    # closed forms use the sum of the parts and the Frobenius norm of the block matrix: never better, and not by much
    assert float(fixed.expression.subs(at)) >= found.rate * (1 - 1e-9)
    closed = float(proportional.expression.subs(at))
    assert 0.5 * found.linear_rate <= closed <= found.linear_rate * (1 + 1e-9)
    text = proportional.explain()
    assert "phi cannot come back to ell_t" in text
    assert "Gershgorin" in text
    assert "checked: 0 =" in text


def test_the_linear_rate_keeps_its_depth_limit() -> None:
    deep = landscape(
        parse("affine(m), repeat(L, residual(tanh, affine(m, weight_norm=frobenius, eps=1), scale(c/L))), crop(K)"),
        symbols.d,
    )
    _, proportional = rate_bounds(deep)
    c, k = symbols.c, symbols.K
    # the width is gone: only tanh'' and the data are left
    bend = 9 * sympy.exp(c) + 2 * sympy.sqrt(6) * (sympy.exp(c) - 1)
    expected = 9 * k * symbols.sigma**2 * sympy.exp(-3 * c) / (4 * symbols.N * symbols.x_s**2 * (k - 1) * bend)
    assert sympy.simplify(depth_limit(proportional, symbols.L) - expected) == 0


def test_the_certified_rate_does_not_depend_on_depth() -> None:
    """Depth 2 to 64 at branch scale c/L: the linear rate within 10 per cent; with measured residuals it rises with the depth."""
    values = {"N": 32, "x_0": 3, "x_F": 3 * math.sqrt(32), "sigma": 3}
    rates = []
    for depth in (2, 4, 8, 16, 32, 64):
        spec = f"affine(12), repeat({depth}, residual(tanh, affine(12, weight_norm=frobenius, eps=1), scale(1/{8 * depth}))), crop(10)"
        rates.append(certify(landscape(parse(spec), S(64), S(32)), values))
    linear = [found.linear_rate for found in rates]
    assert max(linear) <= 1.1 * min(linear)
    assert min(linear) > 1e-3
    assert all(b.measured_rate >= a.measured_rate for a, b in itertools.pairwise(rates))


def test_networks_without_a_finite_constant_have_no_rate() -> None:
    assert rate_bounds(here("affine(4), tanh, affine(3)")) == ()
    (part,) = rate_bounds(here(cost=SquaredError()))
    part.verify()
    at = {symbols.N: 8, symbols.x_0: 2, symbols.x_F: 5, symbols.sigma: S(3) / 2}
    exact = certify(here(cost=SquaredError()), DATA).linear_rate
    assert float(part.expression.subs(at)) == pytest.approx(exact, rel=1e-9)


# Sharpenings.


def test_every_sharpening_gains_or_says_that_it_does_not() -> None:
    found = stages(here(), DATA, certificate(), start=math.log(3), target=1e-6)
    assert [s.gain >= 1 - 1e-9 for s in found] == [True] * len(found)
    assert found[-1].part == pytest.approx(certificate().linear_rate, rel=1e-9)
    assert found[-1].part > 1.5 * found[0].part
    counts = [s.steps for s in found]
    assert all(count is not None for count in counts)
    assert all(b <= a for a, b in itertools.pairwise(counts))  # type: ignore[operator]
    # the plain step by hand: s C e^{s G^2} = 1
    constants = certificate().constants
    first, second = float(constants.first.upper()), float(constants.second.upper())
    plain, growth = 2 * first**2 + math.sqrt(2) * second, 2 * first**2
    s = 2 * found[0].part / (certificate().required().domination * 8)
    assert s * plain * math.exp(s * growth) == pytest.approx(1, rel=1e-9)


def test_only_the_first_layers_kernel_counts_everywhere() -> None:
    kernels = kernel_by_layer(here(), DATA)
    assert kernels[0] == pytest.approx(2.25)
    assert kernels[1:] == [0.0, 0.0]


def test_sharpenings_are_those_of_cross_entropy() -> None:
    cost = SquaredError()
    with pytest.raises(ValueError, match="stages are those of cross-entropy"):
        stages(here(cost=cost), DATA, certify(here(cost=cost), DATA), start=1.0)
    refused = certificate("affine(4), tanh, crop(3)")
    with pytest.raises(ValueError, match="not certified: FAILS: layer 2, tanh"):
        stages(here("affine(4), tanh, crop(3)"), DATA, refused, start=1.0)
