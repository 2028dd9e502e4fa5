"""The reading that decides the conditions of networks without bad local valleys, and the steps of the lift to zero loss."""

from __future__ import annotations

import pytest
import sympy

from theory.atoms.entrywise import ACTIVATIONS, z
from theory.bound import Step
from theory.network import Network, chain
from theory.records import Shape
from theory.spec import parse
from theory.valleys.activations import activation_conditions, independence_steps, not_analytic, not_increasing
from theory.valleys.conditions import conditions, failures, split_readout
from theory.valleys.lifting import (
    duplicate_bound,
    level,
    lift_bound,
    lift_steps,
    lifted_loss,
    linear_rank_bound,
    maximum_steps,
    t,
    total,
    valley_steps,
    zero_error_lift,
)

SHAPE = Shape(2, 8)
GOOD = "affine(8, bias=true), tanh, affine(8, bias=true), softplus, affine(3)"


def names(spec: str, shape: Shape = SHAPE) -> set[str]:
    return {condition.name for condition in failures(parse(spec), shape)}


@pytest.mark.parametrize(
    ("name", "failing"),
    [
        ("tanh", set()),
        ("sigmoid", set()),
        ("softplus", set()),
        ("arctan", set()),
        ("erf", set()),
        ("identity", {"growth"}),
        ("sin", {"5"}),
        ("gelu", {"5"}),
        ("silu", {"5"}),
        ("elu", {"5"}),
        ("relu", {"5"}),
    ],
)
def test_activations_are_decided_from_their_formulas(name: str, failing: set[str]) -> None:
    assert {condition for condition, holds, _ in activation_conditions(name) if not holds} == failing


def test_every_known_activation_is_decided() -> None:
    for name in ACTIVATIONS:
        assert len(activation_conditions(name)) == 3
    with pytest.raises(ValueError, match="unknown activation 'swish'"):
        activation_conditions("swish")


def test_the_reason_of_a_failure_is_mathematics() -> None:
    assert "order 1 jumps" in not_analytic(ACTIVATIONS["relu"])
    assert "order 2 jumps" in not_analytic(ACTIVATIONS["elu"])
    assert "may vanish" in not_analytic(1 / z)
    assert "may vanish" in not_analytic(sympy.log(z))
    assert "not known to be analytic" in not_analytic(sympy.Abs(z))
    assert not_analytic(z**3 + sympy.exp(-(z**2)) / (1 + z**2)) == ""
    assert "interval" in not_increasing(ACTIVATIONS["relu"])
    assert "-1.0000" in not_increasing(ACTIVATIONS["sin"])
    assert not_increasing(ACTIVATIONS["elu"]) == ""
    assert not_increasing(z**3) == ""  # its slope vanishes at one point only


def test_a_cubic_increases_but_is_a_polynomial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACTIVATIONS, "cubic", z**3 + z)
    found = {condition: holds for condition, holds, _ in activation_conditions("cubic")}
    assert found == {"5": True, "growth": False}


@pytest.mark.parametrize(
    "spec",
    [
        GOOD,
        "crop(1), affine(8, bias=true), tanh, affine(3, bias=true)",
        "affine(4, bias=true), tanh, stacked(chain(), chain(affine(4, bias=true), sigmoid)), affine(3)",
        "affine(4, bias=true), tanh, added(affine(3), chain(affine(4, bias=true), sigmoid, affine(3)))",
        "stacked(chain(), chain(affine(8, bias=true), tanh)), affine(3)",
        "repeat(3, affine(8, bias=true), tanh), scale(1/2), affine(3)",
        "stacked(chain(crop(1), affine(4, bias=true), tanh), chain(affine(4, bias=true), erf)), affine(2)",
    ],
)
def test_networks_of_the_class(spec: str) -> None:
    assert failures(parse(spec), SHAPE) == ()


def test_convolutions_share_weights_with_equal_fan_in_unless_they_pad_with_zeros() -> None:
    grid = Shape(1, 8, (6,))
    tail = "tanh, reshape({}), affine(2)"
    assert names("conv(2, kernel=(3,), bias=true), " + tail.format(8), grid) == set()
    assert names("conv(2, kernel=(3,), padding=(1,), mode=circular, bias=true), " + tail.format(12), grid) == set()
    assert names("conv(2, kernel=(3,), padding=(1,), bias=true), " + tail.format(12), grid) == {"3"}
    assert names("conv(2, kernel=(3,), padding=(1,), mode=reflect, bias=true), " + tail.format(12), grid) == {"3"}
    assert names("affine(2, bias=true), " + tail.format(12), grid) == set()  # one matrix at every position
    reasons = [c.reason for c in conditions(parse("affine(2, bias=true), tanh, reshape(12), affine(2)"), grid)]
    assert "units at all positions share weights, with equal fan-in" in reasons
    stacked_on_grid = "stacked(chain(conv(2, kernel=(1,), bias=true), tanh), chain(conv(1, kernel=(1,), bias=true), tanh)), reshape(18), affine(2)"
    assert names(stacked_on_grid, grid) == set()
    assert names("select(stride=(2,)), conv(4, kernel=(1,), bias=true), " + tail.format(12), grid) == set()


@pytest.mark.parametrize(
    ("spec", "failing", "layer"),
    [
        ("affine(8, bias=true, weight_norm=row), tanh, affine(3)", {"1"}, "layer 1, affine"),
        (
            "affine(8, bias=true), tanh, affine(8, bias=true, weight_norm=row), tanh, affine(3)",
            {"2"},
            "layer 3, affine",
        ),
        ("affine(8, bias=true), tanh, residual(affine(8, bias=true), tanh), affine(3)", {"2", "4"}, "residual"),
        ("affine(8, bias=true), tanh, tanh, affine(3)", {"2"}, "layer 3, tanh"),
        ("affine(8, bias=true), tanh, batch_norm, affine(3)", {"2", "4"}, "layer 3, batch_norm"),
        ("affine(8, bias=true), tanh, softmax, affine(3)", {"2", "4"}, "layer 3, softmax"),
        ("affine(8, bias=true, path=a), tanh, affine(8, bias=true, path=a), tanh, affine(3)", {"3"}, "layer 1, affine"),
        ("affine(7, bias=true), tanh, affine(3)", {"4"}, "output"),
        ("affine(8, bias=true), tanh, added(affine(3), affine(3))", set(), ""),
        ("affine(4, bias=true), tanh, added(affine(3), affine(3))", {"4"}, "output"),
        ("affine(16, bias=true), tanh, crop(7), affine(3)", {"4"}, "output"),
        ("affine(8, bias=true), tanh, affine(3, weight_norm=row)", {"2", "4"}, "layer 3, affine"),
        ("affine(8, bias=true), tanh", {"4"}, "output"),
        ("affine(8, bias=true), tanh, affine(3), log_softmax", {"4"}, "layer 4, log_softmax"),
        ("affine(8, bias=true), tanh, affine(8, bias=true), affine(3)", {"5"}, "layer 4, affine"),
        ("affine(8, bias=true), relu, affine(3)", {"5"}, "layer 2, relu"),
        ("affine(8, bias=true), identity, affine(3)", {"growth"}, "layer 2, identity"),
        ("affine(8), tanh, affine(3)", {"bias"}, "layer 2, tanh"),
    ],
)
def test_failures_name_the_condition_and_the_layer(spec: str, failing: set[str], layer: str) -> None:
    assert names(spec) == failing
    found = failures(parse(spec), SHAPE)
    assert not failing or layer in found[0].layer
    assert all("FAILS" in str(condition) for condition in found)


def test_what_the_reading_does_not_know_is_refused() -> None:
    class Unknown:
        pass

    with pytest.raises(ValueError, match="does not know the layer Unknown"):
        failures(chain(Unknown()), SHAPE)  # type: ignore[arg-type]
    symbolic = parse("affine(m, bias=true), tanh, affine(3)")
    with pytest.raises(ValueError, match="cannot compare m units with 8 samples"):
        failures(symbolic, SHAPE)
    mixed = parse("stacked(chain(), chain(conv(1, kernel=(1,), bias=true), tanh)), permute(1, 0), affine(2)")
    with pytest.raises(ValueError, match="mixes features of several origins"):
        failures(mixed, Shape(1, 8, (6,)))


def test_the_readout_is_split_off() -> None:
    inner, last = split_readout(parse(GOOD))
    assert len(inner.members) == 4
    assert last.features == 3
    networks: list[Network] = [
        parse("affine(3)"),
        parse("affine(8), tanh"),
        parse("affine(8), tanh, affine(3, weight_norm=row)"),
    ]
    for network in networks:
        with pytest.raises(ValueError, match="does not end in a plain affine layer"):
            split_readout(network)


@pytest.mark.parametrize("steps", [lift_steps, valley_steps, maximum_steps, independence_steps])
def test_every_step_of_the_derivations_is_recomputed(steps) -> None:
    found: tuple[Step, ...] = steps()
    assert all(step.verify() for step in found)
    assert any(step.checks for step in found)


def test_bounds_of_the_path_and_of_the_controls() -> None:
    for bound in (lift_bound(), linear_rank_bound(), duplicate_bound()):
        bound.verify()
    at = {total: sympy.Rational(7, 2), t: 3}
    assert lifted_loss().subs(at).evalf() < lift_bound().expression.subs(at).evalf()
    reached = lift_bound().expression.subs(t, sympy.log(total / level))
    assert sympy.simplify(reached - level) == 0
    assert zero_error_lift(sympy.Integer(-2)) == 0
    assert zero_error_lift(sympy.Integer(2)) == 2


def test_a_wrong_lift_is_not_verified() -> None:
    loss = lifted_loss()
    assert not Step(
        "twice as fast", (sympy.diff(loss, t) + 2 * sympy.exp(-t) * total / (1 + sympy.exp(-t) * total),)
    ).verify()
