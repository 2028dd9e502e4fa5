"""The topology reading: against the polynomials of small networks, in closed form against unrolled, and its theorems with their conditions."""

from itertools import count

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from sympy import Integer, S

from theory import symbols
from theory.bound import Step
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.fixed import Cropping, Scaling
from theory.network import Branches, Chain, Network, Repeat, Residual, added, chain, repeat, residual, stacked
from theory.spec import parse
from theory.topology.formats import State, fold
from theory.topology.loss import LOSSES, Reading, l2_invariance, loss_of_one_sample, skip_invariance, topology
from theory.topology.perceptrons import H, d_0, deep_against_shallow, growth, h, perceptron
from theory.topology.pfaffian import Pfaffian, activation, total_degree

NAMES = ("tanh", "sigmoid", "softplus", "arctan", "erf", "silu", "gelu")
N = symbols.N


def of(spec: str, features: int = 2, samples: int = 3, loss: str = "squared_error", *, l2: bool = False) -> Reading:
    return topology(parse(spec), Integer(features), Integer(samples), loss, l2=l2)


class Referee:
    """Networks as Pfaffian functions of all their parameters, built with the operations of the calculus; nothing of the fold is used."""

    def __init__(self, names: tuple[sympy.Symbol, ...]) -> None:
        self.variables = names
        self.fresh = iter(names)

    def apply(self, network: Network, x: list[list[Pfaffian]]) -> list[list[Pfaffian]]:
        """The network on samples, each a list of features."""
        if isinstance(network, Affine):
            rows = [
                ([next(self.fresh) for _ in x[0]], next(self.fresh) if network.bias else 0)
                for _ in range(int(network.features))
            ]
            return [
                [
                    sum(
                        (Pfaffian.of(w, self.variables) * v for w, v in zip(row, sample, strict=True)),
                        Pfaffian.of(b, self.variables),
                    )
                    for row, b in rows
                ]
                for sample in x
            ]
        if isinstance(network, Activation):
            return [[activation(network.name).compose(v) for v in sample] for sample in x]
        if isinstance(network, Scaling):
            return [[network.factor * v for v in sample] for sample in x]
        if isinstance(network, Cropping):
            return [sample[: int(network.features)] for sample in x]
        if isinstance(network, Chain | Repeat):
            for member in (network if isinstance(network, Chain) else network.unrolled()).members:
                x = self.apply(member, x)
            return x
        branches = (Chain(()), network.branch) if isinstance(network, Residual) else network.branches
        ends = [self.apply(branch, x) for branch in branches]
        if isinstance(network, Branches) and network.stacked:
            return [[v for end in ends for v in end[i]] for i in range(len(x))]
        return [
            [sum(entries[1:], entries[0]) for entries in zip(*(end[i] for end in ends), strict=True)]
            for i in range(len(x))
        ]


def loss_in_parameters(network: Network, data: list[list[int]], loss: str, parameters: int) -> Pfaffian:
    names = sympy.symbols(f"t_1:{parameters + 1}", real=True)
    referee = Referee(names)
    outputs = referee.apply(network, [[Pfaffian.of(S(v), names) for v in sample] for sample in data])
    assert next(referee.fresh, None) is None  # the reading's number of parameters
    total = Pfaffian.of(S.Zero, names)
    for number, sample in zip(count(1), outputs, strict=False):
        if loss == "squared_error":
            for v in sample:
                total = total + (v - number) * (v - number)
        else:
            total = total + activation("softplus").compose(sample[0]) - (number % 2) * sample[0]
    return total


SMALL = [
    ("affine(1), tanh, affine(1)", 1),
    ("affine(1, bias=true), tanh, affine(1, bias=true)", 1),
    ("affine(1), softplus, affine(1), softplus, affine(1)", 2),
    ("affine(1), silu, affine(1), tanh, affine(1)", 2),
    ("affine(1), gelu, affine(1)", 2),
    ("affine(1), arctan, affine(1)", 2),
    ("affine(2), tanh, affine(2, bias=true), sigmoid, affine(1)", 1),
    ("affine(1), residual(tanh, affine(1)), residual(erf, affine(1))", 2),
    ("affine(1), tanh, affine(1), residual(tanh), affine(1)", 1),
    ("affine(1), stacked(tanh, sigmoid, chain()), affine(1)", 1),
    ("affine(2), tanh, scale(1/2), crop(1), affine(1)", 1),
    ("affine(1), added(chain(affine(1), tanh), chain(silu, affine(1)))", 1),
    ("affine(1), repeat(3, tanh, affine(1))", 1),
    ("tanh, affine(1), tanh, affine(1)", 2),
]


@pytest.mark.parametrize("loss", ["squared_error", "binary_cross_entropy"])
@pytest.mark.parametrize(("spec", "samples"), SMALL)
def test_the_fold_finds_the_degrees_of_the_polynomials_themselves(spec: str, samples: int, loss: str) -> None:
    reading = of(spec, 1, samples, loss)
    # several inputs and no equal ones: no cancellation that the description does not know of
    function = loss_in_parameters(parse(spec), [[2 + 3 * i] for i in range(samples)], loss, int(reading.parameters))
    found = function.format
    assert (found.alpha, found.beta) == (reading.format.alpha, reading.format.beta)
    # a cropped neuron is in the chain of the description, not in that of the loss; an activation of the data is a number
    assert found.length <= reading.format.length
    if "crop" not in spec:
        assert found.length == reading.format.length
    assert max(total_degree(function.partial(v), function.symbols) for v in function.variables) == reading.gradient


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_the_chain_of_cross_entropy(classes: int) -> None:
    loss = loss_of_one_sample("cross_entropy", classes)
    assert len(loss.chain) == classes + 1
    for element in loss.chain:
        for v, rule in element.gradient:
            values = {e.symbol: e.function for e in loss.chain}
            assert sympy.simplify(sympy.diff(element.function, v) - rule.subs(values)) == 0
    assert (loss.format.alpha, loss.format.beta) == (3, 1)
    assert of(f"affine({classes})", loss="cross_entropy", samples=1).format.length == classes + 1


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NAMES)
def test_closed_forms_are_proven_and_equal_to_unrolled_networks(name: str, loss: str) -> None:
    outputs = 3 if loss == "cross_entropy" else 1
    reading = topology(perceptron(name, outputs=outputs), d_0, loss=loss)
    assert len(reading.steps) == 2
    reading.verify()
    assert reading.tight_within_rules()
    for depth in (1, 2, 3, 6):
        if any((a.substitute({H: depth}).difference < 0) for a in reading.assumptions):
            continue
        deep = topology(perceptron(name, depth, outputs=outputs), d_0, loss=loss)
        for one, two in (
            *((getattr(reading.format, n), getattr(deep.format, n)) for n in ("alpha", "beta", "length")),
            *((getattr(reading.rules, n), getattr(deep.rules, n)) for n in ("alpha", "beta", "length")),
            (reading.gradient, deep.gradient),
            (reading.parameters, deep.parameters),
        ):
            assert sympy.expand(one.subs(H, depth) - two) == 0


FORMATS = {
    # squared error: alpha, beta, l / (N h), degree of the gradient
    "tanh": (3 * H - 1, 4, H, 3 * H + 2),
    "sigmoid": (3 * H - 1, 4, H, 3 * H + 2),
    "softplus": (2 * H, 4, 2 * H, 2 * H + 2),
    "arctan": (2 * H + 2, 4, 2 * H, 2 * H + 2),
    "erf": (2 * H + 1, 4, 2 * H, 2 * H + 2),
    "silu": (H**2 + H, 4 * H + 2, H, H**2 + 5 * H + 1),
    "gelu": (H**2 + 2 * H - 1, 4 * H + 2, 2 * H, H**2 + 4 * H + 1),
}


@pytest.mark.parametrize("name", NAMES)
def test_formats_in_width_depth_and_samples(name: str) -> None:
    reading = topology(perceptron(name), d_0)
    alpha, beta, copies, gradient = FORMATS[name]
    assert (reading.format.alpha, reading.format.beta, reading.gradient) == (alpha, beta, gradient)
    assert sympy.expand(reading.format.length - copies * N * h) == 0
    assert sympy.expand(reading.parameters - (h**2 * (H - 1) + h * (d_0 + H + 1) + 1)) == 0


def test_a_corrupted_induction_is_caught() -> None:
    reading = topology(perceptron("tanh"), d_0)
    broken = Reading(**{**vars(reading), "steps": (Step("false", (H,)),)})
    with pytest.raises(AssertionError, match="false"):
        broken.verify()


@st.composite
def networks(draw: st.DrawFn, width: int, depth: int = 3) -> Network:
    """Random networks that keep their width."""
    members: list[Network] = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(("affine", "activation", "residual", "added", "repeat", "scale", "stacked")))
        if kind == "activation":
            members.append(Activation(draw(st.sampled_from((*NAMES, "identity")))))
        elif kind == "scale":
            members.append(Scaling(S.Half))
        elif kind == "affine" or depth == 0:
            members.append(Affine(Integer(width), bias=draw(st.booleans())))
        elif kind == "residual":
            members.append(residual(draw(networks(width, depth - 1))))
        elif kind == "repeat":
            members.append(repeat(Integer(draw(st.integers(1, 3))), draw(networks(width, depth - 1))))
        elif kind == "added":
            members.append(added(draw(networks(width, depth - 1)), draw(networks(width, depth - 1))))
        else:
            members.append(chain(stacked(Chain(()), draw(networks(width, depth - 1))), Cropping(Integer(width))))
    return Chain(tuple(members))


WITH_WIDTH = st.integers(1, 3).flatmap(lambda width: st.tuples(st.just(width), networks(width)))


@given(WITH_WIDTH, st.sampled_from(LOSSES), st.booleans())
def test_tight_is_never_above_generic_on_random_networks(drawn: tuple[int, Network], loss: str, l2: bool) -> None:
    outputs = 2 if loss == "cross_entropy" else 1
    width, network = drawn
    whole = chain(network, Affine(Integer(outputs)))
    reading = topology(whole, Integer(width), Integer(3), loss, l2=l2)
    assert reading.format.within(reading.rules)
    assert reading.gradient <= reading.rules.gradient
    assert reading.gradient <= reading.format.gradient
    assert reading.critical_points().log2 <= reading.critical_points(generic=True).log2


# skips and L2


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "arctan", "erf", "silu", "gelu"])
def test_equal_width_skips_leave_the_format_unchanged_at_every_depth(name: str) -> None:
    plain, skipped = (topology(perceptron(name, skip=skip), d_0) for skip in (False, True))
    assert (plain.format, plain.gradient, plain.parameters) == (skipped.format, skipped.gradient, skipped.parameters)
    skipped.verify()
    assert plain.sublevel_betti().factors == skipped.sublevel_betti().factors


def test_a_skip_changes_the_format_where_its_condition_fails() -> None:
    # behind an affine layer features are of degree 2; a bare tanh brings them back to 1, the skip does not
    before = fold(parse("affine(2), tanh, affine(2)"), State.data(Integer(1), Integer(1)))
    assert not skip_invariance(Activation("tanh"), before).verify()
    assert skip_invariance(parse("tanh, affine(2)"), before).verify()
    head = "affine(2), tanh, affine(2), {}, affine(1)"
    plain, skipped = (of(head.format(part)) for part in ("tanh", "residual(tanh)"))
    assert (plain.format.beta, skipped.format.beta) == (4, 6)
    with pytest.raises(ValueError, match="give its branches one width"):
        of("affine(2), residual(affine(3)), affine(1)")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("spec", ["affine(2), tanh, affine({})", "affine({})"])
def test_l2_changes_the_format_exactly_where_beta_is_one(spec: str, loss: str) -> None:
    text = spec.format(2 if loss == "cross_entropy" else 1)
    plain, decayed = (of(text, loss=loss, l2=l2) for l2 in (False, True))
    changed = plain.format != decayed.format
    assert changed == (plain.format.beta == 1)
    assert l2_invariance(plain).verify() is not changed
    # cross-entropy is one element of its own chain; logistic regression is of degree 1
    assert changed == (loss == "cross_entropy" or (loss == "binary_cross_entropy" and "tanh" not in spec))
    # the gradient of the L2 term is linear, so the tight bound stays even there, the one from (alpha, beta, l) does not
    assert plain.critical_points().factors == decayed.critical_points().factors
    assert (decayed.format.gradient > plain.format.gradient) == changed


# bounds


def test_the_published_exponent() -> None:
    """Squared error, sigmoid units, `L - 1` hidden layers: `n + l = h^2 (L-2) + h (L + n_0 + m (L-1)) + 1`, `l = m h (L-1)`."""
    reading = topology(perceptron("sigmoid"), d_0)
    L = H + 1
    published = h**2 * (L - 2) + h * (L + d_0 + N * (L - 1)) + 1
    assert sympy.expand(reading.parameters + reading.format.length - published) == 0


def test_more_depth_at_equal_parameters() -> None:
    rows = deep_against_shallow("tanh", 500, (1, 2, 4, 8), 2, 5)
    assert [r.hidden for r in rows] == [1, 2, 4, 8]
    for r in rows:
        assert r.parameters <= 500
        assert r.length == 5 * r.hidden * r.width
        wider = of(", ".join([f"affine({r.width + 1}, bias=true), tanh"] * r.hidden + ["affine(1, bias=true)"]), 2, 5)
        assert wider.parameters > 500
        exact = topology(perceptron("tanh", r.hidden, r.width), Integer(2), Integer(5)).critical_points()
        assert r.log2 == exact.log2
    # at an equal budget one wide layer has the longest chain, hence the largest bound; beyond two layers it grows with depth again
    assert rows[0].log2 > rows[3].log2 > rows[2].log2 > rows[1].log2
    with pytest.raises(ValueError, match="above the budget 5"):
        deep_against_shallow("tanh", 5, (1, 3), 2, 5)


def test_growth_of_the_bound_follows_the_closed_form() -> None:
    symbolic = topology(perceptron("tanh"), d_0, l2=True)
    for varied, symbol, others in (
        ("hidden", H, {h: 4, N: 4}),
        ("width", h, {H: 2, N: 4}),
        ("samples", N, {H: 2, h: 4}),
    ):
        rows = growth("tanh", varied, (1, 2, 3, 5), 2)
        for row in rows:
            at = {d_0: 2, **others, symbol: getattr(row, varied)}
            assert row.log2 == symbolic.critical_points().at(at).log2
            assert row.length == symbolic.format.length.subs(at)
            assert row.log2 > row.chain_part
        assert [r.log2 for r in rows] == sorted(r.log2 for r in rows)
    with pytest.raises(ValueError, match="growth in 'loss'"):
        growth("tanh", "loss", (1,), 2)


def test_refusals_name_layer_and_reason() -> None:
    for spec, message in (
        ("affine(2), relu, affine(1)", "layer relu: activation 'relu' is not analytic"),
        ("affine(2), elu, affine(1)", "layer elu: .*order 2"),
        ("affine(2), batch_norm, affine(1)", "does not know the layer batch_norm"),
        ("affine(2), softmax, affine(1)", "does not know the layer softmax"),
        ("affine(2, weight_norm=frobenius)", "normalised weights in affine"),
        ("tanh, crop(1)", "has no parameters"),
        ("affine(2), repeat(2, affine(3)), affine(1)", "adds|one width"),
    ):
        with pytest.raises(ValueError, match=message):
            of(spec)
    with pytest.raises(ValueError, match="unknown loss 'hinge'"):
        of("affine(1)", loss="hinge")
    with pytest.raises(ValueError, match="needs at least 2 outputs"):
        of("affine(1)", loss="cross_entropy")
    with pytest.raises(ValueError, match="needs 1 output"):
        of("affine(2)", loss="binary_cross_entropy")
    with pytest.raises(ValueError, match="without paths"):
        of("affine(1, path='shared')")


def test_the_sine_has_a_format_on_a_period_and_no_bound() -> None:
    reading = of("affine(2), sin, affine(1)")
    assert reading.domain == ("every input of sin in (-pi, pi)",)
    assert (reading.format.alpha, reading.format.beta) == (2, 6)
    for bound in (reading.critical_points, reading.sublevel_betti, reading.zell):
        with pytest.raises(ValueError, match=r"not where every input of sin in \(-pi, pi\) only"):
            bound()


def test_a_spec_with_symbols_reads_as_numbers_do() -> None:
    symbolic = topology(parse("affine(w), repeat(L, residual(tanh, affine(w), scale(c/L))), crop(1)"), d_0)
    symbolic.verify()
    w, L = (sympy.Symbol(s, integer=True, positive=True) for s in ("w", "L"))
    for depth in (1, 2, 5):
        values = {w: 3, L: depth, d_0: 2, N: 4}
        there = of(f"affine(3), repeat({depth}, residual(tanh, affine(3))), crop(1)", 2, 4)
        for name in ("alpha", "beta", "length"):
            assert getattr(symbolic.format, name).subs(values) == getattr(there.format, name)
        assert symbolic.parameters.subs(values) == there.parameters
