"""A network's loss as an expression: against the formula written out, and against the realised torch network in tests/numerics."""

import pytest
import sympy
from sympy import Rational, Symbol

from theory.expression import loss_expression
from theory.spec import parse

T = [Symbol(f"theta_{i}", real=True) for i in range(1, 8)]


def test_losses_are_what_they_say() -> None:
    found = loss_expression(
        parse("affine(1, bias=true), tanh, affine(1)"), [[2], [-1]], [1, 3], "squared_error", Rational(1, 2)
    )
    assert list(found.parameters) == T[:3]
    by_hand = sum((T[2] * sympy.tanh(T[0] * x + T[1]) - y) ** 2 for x, y in ((2, 1), (-1, 3))) / 2
    assert sympy.expand(found.value - by_hand - sum(t**2 for t in T[:3]) / 2) == 0
    logistic = loss_expression(parse("affine(1)"), [[2], [5]], [1, 0], "binary_cross_entropy")
    by_hand = (sympy.log(1 + sympy.exp(2 * T[0])) - 2 * T[0] + sympy.log(1 + sympy.exp(5 * T[0]))) / 2
    assert sympy.expand(logistic.value - by_hand) == 0
    three = loss_expression(parse("affine(3)"), [[1]], [2], "cross_entropy")
    softmax = sympy.exp(T[2]) / sum(sympy.exp(t) for t in T[:3])
    assert sympy.simplify(sympy.exp(-three.value) - softmax) == 0


def test_combinators() -> None:
    found = loss_expression(
        parse("affine(2), stacked(tanh, chain()), crop(3), added(scale(2), chain()), pad(1, 0), crop(2), affine(1)"),
        [[1]],
        [0],
        "squared_error",
    )
    assert sympy.expand(found.value - (T[3] * 3 * sympy.tanh(T[0])) ** 2) == 0
    skip = loss_expression(parse("repeat(2, residual(affine(1), skip=2))"), [[1]], [0], "squared_error")
    assert sympy.expand(skip.value - ((2 + T[0]) * (2 + T[1])) ** 2) == 0


def test_refusals() -> None:
    for spec, targets, loss, message in (
        ("affine(2), batch_norm", [1], "squared_error", "batch_norm"),
        ("affine(2, weight_norm=row)", [1], "squared_error", "normalised or shared"),
        ("affine(1)", [1, 2], "squared_error", "1 samples and 2 targets"),
        ("affine(1)", [1], "hinge", "unknown loss"),
        ("affine(2)", [1], "binary_cross_entropy", "needs one"),
        ("affine(1)", [2], "binary_cross_entropy", "target 2"),
        ("affine(2)", [2], "cross_entropy", "class 2 of 2"),
        ("residual(affine(2))", [1], "squared_error", "do not add"),
    ):
        with pytest.raises(ValueError, match=message):
            loss_expression(parse(spec), [[1]], targets, loss)
