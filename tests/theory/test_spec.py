"""The one-line language: what is described is parsed back, and what cannot be read is refused in one line naming the offender."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sympy import S, sqrt

from theory import symbols
from theory.atoms.entrywise import ACTIVATIONS
from theory.derive import derive
from theory.layers.activation import Activation, SoftmaxLayer
from theory.layers.affine import Affine
from theory.layers.fixed import Cropping, FeaturePad, Scaling
from theory.layers.normalisation import BatchNorm, LayerNorm, RMSNorm
from theory.network import Chain, Repeat, Residual
from theory.records import FeatureBounds, Shape
from theory.spec import describe, parse, read

sizes = st.one_of(
    st.integers(1, 99).map(sympy.Integer), st.sampled_from([symbols.d, symbols.m, 2 * symbols.m, symbols.K])
)
factors = st.one_of(
    st.fractions("1/50", 50).map(lambda f: sympy.Rational(f.numerator, f.denominator)),
    st.sampled_from(
        [symbols.c, symbols.c / symbols.L, sqrt(S(2)), 3 * symbols.c**2, 1 / sqrt(symbols.L), S(2) ** (S(1) / 3)]
    ),
)
flags = st.booleans()


@st.composite
def layers(draw: Any):
    kind = draw(st.sampled_from(["affine", "normalisation", "activation", "softmax", "crop", "scale", "pad"]))
    if kind == "affine":
        norm = draw(st.sampled_from([None, "row", "entry", "frobenius"]))
        eps = draw(factors) if norm and draw(flags) else symbols.eps
        return Affine(draw(sizes), draw(flags), norm, bool(norm) and draw(flags), eps)
    if kind == "normalisation":
        gain = draw(flags)
        eps = draw(factors) if draw(flags) else symbols.eps
        return draw(st.sampled_from([BatchNorm, LayerNorm, RMSNorm]))(eps, gain, gain and draw(flags))
    if kind == "activation":
        return Activation(draw(st.sampled_from(list(ACTIVATIONS))))
    if kind == "softmax":
        return SoftmaxLayer()
    if kind == "pad":
        return FeaturePad(draw(st.integers(0, 9)), draw(st.integers(0, 9)))
    return Cropping(draw(sizes)) if kind == "crop" else Scaling(draw(factors))


def combined(inner):
    # chains of at least two members: a single one and the empty one are findings below
    chains = st.lists(inner, min_size=2, max_size=3).map(lambda m: Chain(tuple(m)))
    return st.one_of(
        chains,
        st.builds(Residual, inner, factors),
        st.builds(Repeat, inner, st.one_of(st.integers(1, 9).map(sympy.Integer), st.just(symbols.L))),
    )


networks = st.recursive(layers(), combined, max_leaves=6)


@settings(max_examples=200, deadline=None)
@given(networks)
def test_parsing_what_was_described_gives_the_same_network(network) -> None:
    text = describe(network)
    assert "\n" not in text
    assert parse(text) == network


@settings(max_examples=50, deadline=None)
@given(networks)
def test_the_description_is_free_of_chance_and_stable(network) -> None:
    assert describe(parse(describe(network))) == describe(network)


BAD = {
    "": "empty|cannot read",
    "blah": "unknown layer 'blah'",
    "tanh(3)": "tanh takes no arguments",
    "tanh relu": "separate layers by commas",
    "affine": "affine",
    "affine(3, 4)": "affine",
    "affine(3": "cannot read",
    "affine(3, foo=2)": "unknown option 'foo'",
    "affine(3, bias=1)": "true or false",
    "affine(0)": "features = 0",
    "affine(-2)": "features = -2",
    "affine(5/2)": "features = 5/2",
    "affine(1/0)": "a finite number is needed",
    "affine(3, gain=true)": "gain",
    "affine(3, weight_norm=blah)": "'blah'",
    "affine(m.n)": "number",
    "affine(exp(1))": "sqrt",
    "affine(__import__('os').system('true'))": "only function|number",
    "batch_norm(eps=0)": "eps = 0",
    "batch_norm(shift=true)": "shift without gain",
    "scale(0)": "scale factor 0",
    "pad(2)": "pad\\(features before, features after\\) is needed",
    "pad(2, -1)": "not negative",
    "pad(1/2, 1)": "a whole number",
    "pad(1, 2, mode=circular)": "unknown option 'mode'",
    "scale(c - 1)": "c - 1",
    "residual()": "residual needs",
    "residual(tanh, skip=-1)": "-1",
    "repeat(0, tanh)": "repeat 0 times",
    "repeat(3/2, tanh)": "3/2",
    "repeat(2)": "repeat needs",
    "chain(tanh, a=2)": "unknown option 'a'",
    "tanh.x": "unknown layer",
    "lambda: 3": "unknown layer",
    "tanh,, relu": "cannot read",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_spec_gives_one_line_that_names_the_offender(text: str) -> None:
    with pytest.raises(ValueError, match=BAD[text]) as caught:
        parse(text)
    assert len(str(caught.value).splitlines()) == 1


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="tanhreluscp()=,.[]{}'* \n#1:/", max_size=20))
def test_no_text_makes_the_parser_fail_in_another_way(text: str) -> None:
    depths = itertools.accumulate(text, lambda depth, letter: depth + (letter == "(") - (letter == ")"), initial=0)
    assume(min(depths) >= 0)  # a bracket closed before it was opened is a finding below
    try:
        network = parse(text)
    except ValueError as error:
        assert str(error)  # noqa: PT017  (text that is a network is fine too)
    else:
        assert parse(describe(network)) == network or isinstance(network, Chain)


def test_shapes_that_do_not_match_are_named() -> None:
    features = FeatureBounds.ball(Shape(3, 2), S(1))
    with pytest.raises(ValueError, match="turns 3 x 2 into 5 x 2"):
        derive(parse("residual(affine(5))"), features)
    with pytest.raises(ValueError, match="must keep its shape: 3 x 2 becomes 5 x 2"):
        derive(parse("repeat(L, affine(5))"), features)
    with pytest.raises(ValueError, match="crop to 5 features: the input has only 3"):
        derive(parse("crop(5)"), features)
    with pytest.raises(ValueError, match="BatchNorm over a single entry of the samples"):
        derive(parse("batch_norm"), FeatureBounds.ball(Shape(3, 1), S(1)))


def test_a_file_is_read_with_line_breaks_and_comments(tmp_path) -> None:
    path = tmp_path / "network.txt"
    path.write_text("affine(12),  # trunk\ntanh,\n# readout\ncrop(3)\n", encoding="utf-8")
    assert read(str(path)) == parse("affine(12), tanh, crop(3)") == read("affine(12), tanh, crop(3)")


def test_decimals_are_read_as_the_fractions_they_are_written_as() -> None:
    assert parse("scale(0.1)") == Scaling(S(1) / 10)
    assert parse("batch_norm(eps=1e-5)") == BatchNorm(S(10) ** -5)


# Findings.


@pytest.mark.parametrize(
    "network",
    [
        Chain((Activation("tanh"),)),
        Repeat(Chain((Activation("tanh"),)), S(2)),
        Residual(Chain((Chain((Activation("tanh"), Activation("relu"))),))),
        Chain(()),
    ],
    ids=repr,
)
def test_chains_of_one_or_no_members_are_described_and_parsed_back(network) -> None:
    try:
        parsed = parse(describe(network))
    except ValueError:
        parsed = None
    assert parsed == network


@pytest.mark.parametrize(
    "text",
    [
        "scale(oo)",
        "scale(nan)",
        "repeat(-L, tanh)",
        "affine(not 3)",
        "affine(True)",
        "affine('3')",
        "affine(sqrt(9, 2))",
    ],
)
def test_numbers_that_are_none_are_refused(text: str) -> None:
    # `oo` and `nan` are symbols by the rule of names: refuse the names, or `repeat(-L)` and its like by sign
    with pytest.raises(ValueError, match=r"number|positive|name"):
        parse(text)


@pytest.mark.parametrize("text", ["affine(None)", "affine(b'3')", "affine(sqrt)", ")(1", "scale(" + "-" * 400 + "1)"])
def test_what_is_no_number_is_refused_as_such_whatever_it_is(text: str) -> None:
    with pytest.raises(ValueError, match="network spec"):
        parse(text)


@pytest.mark.parametrize("text", ["affine(12), affine(0)", "tanh, scale(-1)", "affine(3), batch_norm(eps=0)"])
def test_an_error_of_a_layer_names_the_part_of_the_spec(text: str) -> None:
    with pytest.raises(ValueError, match=r"network spec: .*\(at `"):
        parse(text)
