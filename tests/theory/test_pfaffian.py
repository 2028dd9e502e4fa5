"""Pfaffian functions: every chain's equations, the two format calculi, and what is refused."""

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from sympy import S

from theory.atoms.entrywise import z
from theory.bound import Step, gap
from theory.topology.pfaffian import FORMULAS, Element, Format, Pfaffian, activation, jump_order, total_degree

EXPECTED = {
    "identity": (0, 1, 0),
    "exp": (1, 1, 1),
    "gaussian": (2, 1, 1),
    "algebraic": (4, 2, 1),
    "sigmoid": (2, 1, 1),
    "tanh": (2, 1, 1),
    "softplus": (2, 1, 2),
    "arctan": (3, 1, 2),
    "erf": (2, 1, 2),
    "silu": (2, 2, 1),
    "gelu": (2, 2, 2),
    "sin": (2, 2, 2),
}
X = sympy.symbols("x y", real=True)


@pytest.mark.parametrize("name", FORMULAS)
def test_every_chain_satisfies_its_equations(name: str) -> None:
    function = activation(name)
    assert all(step.verify() for step in function.steps())
    assert sympy.simplify(function.function - FORMULAS[name]) == 0
    f = function.format
    assert (f.alpha, f.beta, f.length) == EXPECTED[name]
    # the derivative, as a polynomial in the chain, is the derivative
    slope = function.diff(z)
    for point in (S(-1), S(1) / 3, S(2)):
        assert abs((slope.function - sympy.diff(FORMULAS[name], z)).subs(z, point).evalf(30)) < 1e-25
    assert slope.format.within(slope.rules)


def test_a_wrong_equation_is_caught() -> None:
    tanh = activation("tanh")
    (element,) = tanh.chain
    wrong = Element(element.symbol, element.function, ((z, 1 - element.symbol),))
    (step,) = Pfaffian((z,), (wrong,), wrong.symbol, tanh.rules).steps()
    assert not step.verify()
    assert not Step("a wrong formula", (gap(tanh.function, FORMULAS["sigmoid"]),)).verify()


def test_every_equation_names_only_earlier_functions_of_the_chain() -> None:
    for name in FORMULAS:
        function = activation(name)
        for i, element in enumerate(function.chain):
            allowed = {z, *(e.symbol for e in function.chain[: i + 1])}
            assert all(rule.free_symbols <= allowed for _, rule in element.gradient), name


@pytest.mark.parametrize(("name", "order"), [("relu", 1), ("leaky_relu", 1), ("elu", 2), ("softsign", 2)])
def test_what_is_not_analytic_is_refused_with_the_derivative_that_jumps(name: str, order: int) -> None:
    assert jump_order(name) == order
    with pytest.raises(ValueError, match=rf"{name}.*not analytic.*order {order}"):
        activation(name)


def test_unknown_activations_and_malformed_formats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no Pfaffian chain is known.*'mish'"):
        activation("mish")
    with pytest.raises(ValueError, match="alpha = -1"):
        Format(-1, 0, 0)
    with pytest.raises(ValueError, match="not a polynomial"):
        Pfaffian.of(sympy.exp(X[0]), X)
    with pytest.raises(ValueError, match="do not combine"):
        Pfaffian.of(X[0], X) + Pfaffian.of(X[0], (X[0],))
    with pytest.raises(ValueError, match="on the whole line"):
        activation("sin").compose(Pfaffian.of(X[0], X))


def test_the_rules_of_the_calculus() -> None:
    f, g = Format(2, 3, 4), Format(1, 5, 2)
    assert f + g == Format(2, 5, 6)
    assert f * g == Format(2, 8, 6)
    assert f.derivative() == Format(2, 4, 4)
    assert f.into(g) == Format(1 * 3 + 2 + 3 - 1, 15, 6)
    assert f.reciprocal() == Format(6, 1, 5)
    assert Format(0, 0, 0).derivative() == Format(0, 0, 0)


def test_a_union_counts_shared_functions_once() -> None:
    line = Pfaffian.of(2 * X[0] - 1, X)
    both = activation("sigmoid").compose(line) + activation("softplus").compose(line)
    assert both.format.length == 2
    assert both.rules.length == 3
    other = activation("sigmoid").compose(Pfaffian.of(X[1], X))
    assert (both + other).format.length == 3


def test_the_reciprocal_of_a_polynomial_is_the_chain_of_the_arctangent() -> None:
    u = Pfaffian.of(1 + z**2, (z,)).reciprocal()
    assert u.chain[0] == activation("arctan").chain[0]
    assert u.format == Format(3, 1, 1)
    assert u.rules == Format(3, 1, 1)


LINE = [name for name in FORMULAS if name != "sin"]


@st.composite
def functions(draw: st.DrawFn, depth: int = 2) -> Pfaffian:
    """Random expressions in two variables."""
    if depth == 0:
        a, b, c = (draw(st.integers(-2, 2)) for _ in range(3))
        return Pfaffian.of(a * X[0] + b * X[1] + c, X)
    kind = draw(st.sampled_from(("sum", "product", "derivative", "compose", "reciprocal")))
    first = draw(functions(depth=depth - 1))
    if kind in ("sum", "product"):
        second = draw(functions(depth=depth - 1))
        return first + second if kind == "sum" else first * second
    if kind == "derivative":
        return first.diff(draw(st.sampled_from(X)))
    if kind == "compose":
        return activation(draw(st.sampled_from(LINE))).compose(first)
    return (first * first + 1).reciprocal()


@given(functions())
def test_tight_is_never_above_generic(function: Pfaffian) -> None:
    assert function.format.within(function.rules)
    for v in X:
        assert total_degree(function.partial(v), function.symbols) <= function.format.gradient


@given(functions(), st.sampled_from(X))
def test_derivatives_in_the_calculus_are_derivatives(function: Pfaffian, variable: sympy.Symbol) -> None:
    point = {X[0]: sympy.Rational(3, 7), X[1]: sympy.Rational(-2, 5)}
    difference = function.diff(variable).function - sympy.diff(function.function, variable)
    assert abs(difference.subs(point).evalf(40)) < 1e-25
