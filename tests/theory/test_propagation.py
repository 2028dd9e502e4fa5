"""Second moments in depth: derived laws against exact enumeration of all sign patterns, their limits, and what the reading refuses."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import sympy
from sympy import Rational, S

from theory.bound import Sense, Step, gap
from theory.signal.depth_scaling import OFFSET, growth_limit, improvements, log_normal, regimes, tie, verify
from theory.signal.propagation import alpha, propagate, recursion_step, res1, res3
from theory.signal.shares import shares
from theory.spec import parse
from theory.symbols import L, c, d, sigma, x_0

LAW = (1 + alpha**2 / 2) ** L


def test_res3_has_one_exact_law_for_activations_and_gradients() -> None:
    moments = propagate(res3())
    assert moments.exact
    assert moments.growth() == LAW
    for sense in Sense:
        assert moments.gradient(sense).expression == LAW
        assert moments.change(sense).expression == LAW - 1
        assert moments.gradient_change(sense).expression == LAW - 1
    moments.verify()
    assert "1/2" in moments.second_upper.explain()


def matrices(size: int):
    """All matrices of signs, times `1/sqrt(size)` left out."""
    for signs in itertools.product((-1, 1), repeat=size * size):
        yield [signs[i * size : (i + 1) * size] for i in range(size)]


def test_the_law_of_one_block_is_the_mean_over_all_sign_matrices() -> None:
    # weights +-1/sqrt 2: all 2^8 pairs (V, W), in rational numbers; V relu(W h) has the factor 1/2 = (1/sqrt 2)^2 in all
    h, scale = (Fraction(2), Fraction(-7, 5)), Fraction(3, 4)
    forward = Fraction(0)
    gram = [[Fraction(0)] * 2 for _ in range(2)]
    count = 0
    for V, W in itertools.product(list(matrices(2)), repeat=2):
        z = [sum(w * x for w, x in zip(row, h, strict=True)) for row in W]
        assert all(z)  # no ties, so that the Jacobian exists
        s = [max(x, Fraction(0)) for x in z]
        out = [x + scale * sum(v * y for v, y in zip(row, s, strict=True)) / 2 for x, row in zip(h, V, strict=True)]
        forward += sum(x * x for x in out)
        J = [
            [(i == j) + scale * sum(V[i][k] * (z[k] > 0) * W[k][j] for k in range(2)) / 2 for j in range(2)]
            for i in range(2)
        ]
        for i, j in itertools.product(range(2), repeat=2):
            gram[i][j] += sum(J[i][k] * J[j][k] for k in range(2))
        count += 1
    factor = propagate(res3(depth=S.One, features=S(2)), S(2)).growth().subs(alpha, Rational(3, 4))
    assert Fraction(int(factor.p), int(factor.q)) == forward / count / sum(x * x for x in h)
    assert [[g / count for g in row] for row in gram] == [[factor, 0], [0, factor]]


@pytest.mark.parametrize(
    ("spec", "second", "gradient"),
    [
        ("affine(d), relu, affine(d)", Rational(1, 2), Rational(1, 2)),
        ("affine(8)", 8 / d, 1),
        ("affine(8), relu, affine(3)", Rational(3, 2) / d, Rational(1, 2)),
        ("repeat(L, residual(affine(d), scale(c/L)))", (1 + c**2 / L**2) ** L, (1 + c**2 / L**2) ** L),
        ("residual(residual(affine(d)), skip=2)", 10, 10),
        ("repeat(L, affine(d), relu), affine(d)", Rational(1, 2) ** L, Rational(1, 2) ** L),
    ],
)
def test_exact_laws_of_other_descriptions(spec: str, second: sympy.Expr, gradient: sympy.Expr) -> None:
    moments = propagate(parse(spec))
    assert sympy.simplify(moments.growth() - second) == 0
    for sense in Sense:
        assert sympy.simplify(moments.gradient(sense).expression - gradient) == 0
    moments.verify()


@pytest.mark.parametrize("activation", ["relu", "arctan"])
def test_res1_is_enclosed_between_the_identity_and_the_linear_network(activation: str) -> None:
    moments, linear = propagate(res1(activation)), propagate(res1("identity"))
    assert moments.second_lower.expression == 1
    assert moments.second_upper.expression == linear.growth() == (1 + alpha**2) ** L
    assert not moments.exact
    with pytest.raises(ValueError, match="only known between 1 and"):
        moments.growth()


def test_a_symmetric_law_halves_relu_but_not_arctan() -> None:
    assert shares("relu", True).second == (S.Half, S.Half)
    assert shares("relu", False).second == (0, 1)
    assert shares("arctan", True).second == shares("arctan", False).second == (0, 1)


@pytest.mark.slow
def test_a_symmetric_law_narrows_silu() -> None:
    assert shares("silu", True).second == (Rational(1, 4), S.Half)
    low, high = shares("silu", False).second
    assert low == 0
    assert high >= 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("residual(affine(d), relu)", r"branch of residual\(affine\(d\), relu\) has no known mean"),
        ("residual(arctan)", "has no known mean"),
        ("batch_norm", "batch_norm"),
        ("sigmoid", "sigmoid has phi"),
        ("affine(4, bias=true)", "has a bias"),
        ("affine(4, weight_norm=row, eps=1)", "normalised by row"),
        ("affine(4, path=shared)", "shared parameters"),
        ("added(chain(), affine(d))", "not known to this reading"),
        ("residual(affine(4))", "does not match its skip"),
    ],
)
def test_what_the_reading_does_not_know_is_refused_by_name(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        propagate(parse(spec))


def test_gradients_and_changes_are_refused_where_they_are_not_known() -> None:
    with pytest.raises(ValueError, match="end the network in one"):
        propagate(parse("affine(d), relu")).gradient()
    with pytest.raises(ValueError, match="no known multiple"):
        propagate(parse("affine(3)")).change()


def test_the_limits_in_the_depth_for_every_exponent() -> None:
    found = {regime.name: regime for regime in regimes()}
    assert found["identity"].growth == 1
    assert found["identity"].beta == S.Half + OFFSET
    assert found["critical"].growth == sympy.exp(S.Half)
    assert found["explosion"].growth is S.Infinity
    # the limits at given exponents come out of theory.limits, by another route
    moments = propagate(res3())
    by_exponent = {1: 1, Rational(3, 4): 1, S.Half: sympy.exp(S.Half), Rational(1, 4): sympy.oo}
    for beta, expected in by_exponent.items():
        assert growth_limit(moments, L ** (-sympy.sympify(beta))) == expected


def test_every_step_of_the_depth_scaling_verifies_and_a_false_one_does_not() -> None:
    verify()
    assert recursion_step(1 + alpha**2 / 2, L).verify()
    assert not Step("a wrong closed form", (gap(LAW, 1 + L * alpha**2 / 2),)).verify()


def test_the_log_normal_law() -> None:
    law = log_normal()
    assert sympy.simplify(law.mean - (S.Half - 1 / d)) == 0
    assert sympy.simplify(law.variance - 2 / d) == 0
    # the mean of the log-normal law with these moments is the limit of the mean growth, at every width
    assert sympy.simplify(law.mean + law.variance / 2) == S.Half


@pytest.mark.parametrize("width", [1, 3, 10])
def test_the_terms_in_one_over_depth_agree_with_the_moments_of_one_step(width: int) -> None:
    # the mean of |h_1|^2/|h_0|^2 to order alpha^4, from the law of its logarithm: E e^X = 1 + E X + E X^2/2 + E X^3/6 + E X^4/24
    # is exactly 1 + alpha^2/2, so E X + E X^2/2 at order alpha^4 must cancel the third and fourth cumulants' share
    law = log_normal()
    at = {d: width}
    r2 = Rational(1, 4) + Rational(5, 4) / width
    a4, a2b = 3 * r2 / width**2, r2 * (width + 2) / width**2
    third = 3 * 4 * (a2b - 2 * a4)  # E X^3 at alpha^4: 3 (2a)^2 (b - 2a^2)
    fourth = 16 * a4
    mean_two = law.mean.subs(at)
    second_four = law.variance_correction.subs(at) + mean_two**2
    assert sympy.simplify(law.mean_correction.subs(at) + second_four / 2 + third / 6 + fourth / 24) == 0


def test_published_constants_are_improved_by_what_is_derived() -> None:
    markov, upper, lower = improvements()
    assert markov.gain > 3
    assert upper.gain == 2
    assert lower.gain == 1
    assert all(step.verify() for item in (markov, upper, lower) for step in item.steps)
    for value in (Rational(1, 10), Rational(1, 2), 1):
        u = next(iter(markov.published.free_symbols - {sympy.Symbol("delta", positive=True)}))
        assert sympy.N((markov.derived / markov.published).subs(u, value)) < 1


def test_branch_scale_c_over_depth_bounds_the_worst_case_and_one_over_root_depth_only_the_mean() -> None:
    safe, random = tie(c / L), tie(c / sympy.sqrt(L))
    assert (safe.first_derivative, safe.kernel, safe.mean_growth) == (
        x_0 * sympy.exp(c),
        sigma**2 * sympy.exp(-2 * c),
        1,
    )
    assert (random.first_derivative, random.kernel) == (sympy.oo, 0)
    assert random.mean_growth == sympy.exp(c**2 / 2)
