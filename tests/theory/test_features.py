"""Feature knowledge is true: random matrices inside the stated norms stay inside them after every atom, layer and repetition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sympy import S, oo

from theory import symbols
from theory.atoms.base import EVERYWHERE, Domain
from theory.atoms.bilinear import Gain, MatMul
from theory.atoms.entrywise import ACTIVATIONS, Entrywise, z
from theory.atoms.fixed_linear import Centre, Crop, Pad, Scale
from theory.atoms.radial import AXES, Radial
from theory.atoms.softmax import Softmax
from theory.bound import Assumption, Bound
from theory.compose import collapse
from theory.derive import derive
from theory.evaluate import evaluate
from theory.network import substitute
from theory.records import NORMS, FeatureBounds, Shape
from theory.repeated import geometric
from theory.spec import parse

Matrix = np.ndarray
EPS, RADIUS = S(1) / 4, S(2)
SLACK = 1e-9
"""Relative slack for norms of matrices of at most 6 x 6 entries computed in double precision (errors near 1e-15)."""


def norms_of(x: Matrix) -> dict[str, float]:
    return {
        "frobenius": float(np.linalg.norm(x)),
        "operator": float(np.linalg.norm(x, 2)),
        "sample": float(np.linalg.norm(x, axis=0).max()),
        "feature": float(np.linalg.norm(x, axis=1).max()),
        "entry": float(np.abs(x).max()),
    }


def smallest(x: Matrix, count: int) -> float:
    """The singular value number `count`, 0 where there are fewer."""
    values = np.linalg.svd(x, compute_uv=False)
    return float(values[count - 1]) if count <= len(values) else 0.0


def exactly(x: Matrix) -> FeatureBounds:
    """Everything that is true of one matrix, each norm rounded up and each singular value down by SLACK."""
    norms = {k: Bound.upper(sympy.Rational(v * (1 + SLACK)) if v else S(10) ** -30) for k, v in norms_of(x).items()}
    low = [Bound.lower(sympy.Rational(smallest(x, k) * (1 - SLACK))) for k in (x.shape[1], x.shape[0])]
    means = [np.abs(x.mean(axis=axis)).max() < 1e-12 for axis in (1, 0)]
    return FeatureBounds.of(
        Shape(*map(sympy.Integer, x.shape)),
        norms,
        sigma_min=low[0],
        row_sigma_min=low[1],
        centred=bool(means[0]),
        centred_samples=bool(means[1]),
    )


def check(known: FeatureBounds, x: Matrix, values: dict | None = None) -> None:
    """`x` satisfies all that `known` says."""
    assert (known.shape.features, known.shape.samples) == x.shape
    for name, value in norms_of(x).items():
        assert value <= evaluate(getattr(known, name), values or {}) * (1 + SLACK) + 1e-12, name
    assert smallest(x, x.shape[1]) >= evaluate(known.sigma_min, values or {}) * (1 - SLACK) - 1e-12
    assert smallest(x, x.shape[0]) >= evaluate(known.row_sigma_min, values or {}) * (1 - SLACK) - 1e-12
    if known.centred:
        assert np.abs(x.mean(axis=1)).max() < 1e-9
    if known.centred_samples:
        assert np.abs(x.mean(axis=0)).max() < 1e-9


@st.composite
def matrices(draw) -> Matrix:
    """Matrices of several kinds: generic, rank one, a single spike, centred along one axis or both, of any scale."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, columns = draw(st.integers(2, 5)), draw(st.integers(2, 5))
    kind = draw(st.sampled_from(["generic", "rank one", "spike", "ones"]))
    x = rng.standard_normal((rows, columns))
    if kind == "rank one":
        x = np.outer(x[:, 0], x[0])
    elif kind == "spike":
        x = np.zeros((rows, columns))
        x[0, 0] = 1
    elif kind == "ones":
        x = np.ones((rows, columns))
    if draw(st.booleans()):
        x = x - x.mean(axis=1, keepdims=True)
    if draw(st.booleans()):
        x = x - x.mean(axis=0, keepdims=True)
    assume(np.abs(x).max() > 1e-6)
    return x * draw(st.sampled_from([0.01, 0.7, 1.0, 3.0, 40.0]))


def in_ball(rng: np.random.Generator, shape: tuple[int, ...], radius: float) -> Matrix:
    """A matrix on the sphere, generic or of rank one: the ball's extreme points."""
    x = rng.standard_normal(shape)
    if rng.random() < 0.5 and len(shape) == 2:
        x = np.outer(x[:, 0], x[0])
    return x * (radius / np.linalg.norm(x))


def radial(x: Matrix, axis: str, eps: float) -> Matrix:
    sums = {
        "samples": (x**2).sum(axis=1, keepdims=True),
        "features": (x**2).sum(axis=0, keepdims=True),
        "entries": x**2,
        "matrix": (x**2).sum(),
        # without a grid a sample is a column, which is one group, and has one position
        "sample": (x**2).sum(axis=0, keepdims=True),
        "group": (x**2).sum(axis=0, keepdims=True),
        "instance": x**2,
    }[axis]
    return x / np.sqrt(eps + sums)


def softmax(x: Matrix) -> Matrix:
    weights = np.exp(x - x.max(axis=0))
    return weights / weights.sum(axis=0)


PHI: dict[str, Callable] = {
    name: np.vectorize(sympy.lambdify(z, phi, modules=["math"]), otypes=[float]) for name, phi in ACTIVATIONS.items()
}


def apply_activation(name: str, x: Matrix) -> Matrix:
    return PHI[name](x)


@settings(max_examples=60, deadline=None)
@given(matrices(), st.sets(st.sampled_from(NORMS), min_size=1, max_size=4))
def test_norms_filled_in_from_some_of_them_are_true(x: Matrix, names: set[str]) -> None:
    true = exactly(x)
    known = FeatureBounds.from_norms(
        true.shape,
        {name: getattr(true, name) for name in names},
        centred=true.centred,
        centred_samples=true.centred_samples,
    )
    check(known, x)


def test_filling_in_leaves_given_norms_as_they_are() -> None:
    given_norms = {"frobenius": Bound.upper(5), "entry": Bound.upper(1)}
    known = FeatureBounds.from_norms(Shape(2, 3), given_norms)
    assert (known.frobenius.expression, known.entry.expression) == (5, 1)
    assert known.sample.expression == sympy.sqrt(2)
    assert known.feature.expression == sympy.sqrt(3)
    assert known.operator.expression == 5


@pytest.mark.parametrize("grid", [(), (4,)])
@pytest.mark.parametrize("given", ["position", "feature", "entry", "operator"])
@pytest.mark.parametrize("infinite", [("frobenius",), ("frobenius", "operator"), ("frobenius", "sample", "position")])
def test_an_infinite_norm_does_not_hide_what_a_finite_one_implies(grid, given, infinite) -> None:
    finite = {given: Bound.upper(1)}
    alone = FeatureBounds.from_norms(Shape(2, 3, grid), finite)
    known = FeatureBounds.from_norms(Shape(2, 3, grid), {**dict.fromkeys(infinite, Bound.upper(S.Infinity)), **finite})
    assert {n: b.expression for n, b in known.norms().items()} == {n: b.expression for n, b in alone.norms().items()}
    assert all(bound.expression.is_finite for bound in known.norms().values())


def test_infinite_norms_alone_leave_everything_infinite() -> None:
    for grid in ((), (4,)):
        known = FeatureBounds.from_norms(Shape(2, 3, grid), {"frobenius": Bound.upper(S.Infinity)})
        assert {bound.expression for bound in known.norms().values()} == {S.Infinity}


def test_a_centred_spike_attains_the_share_of_an_entry_in_its_row() -> None:
    n = 4
    row = np.eye(n)[:1] - 1 / n  # e_1 - mean
    x = np.vstack([row, np.zeros((1, n))])
    share = np.abs(x).max() / np.linalg.norm(row)
    assert share == pytest.approx(np.sqrt(1 - 1 / n), rel=1e-14)  # one float division and root each


def test_nothing_known_is_an_error_naming_what_could_be_given() -> None:
    with pytest.raises(ValueError, match="nothing is known that bounds the frobenius norm"):
        FeatureBounds.from_norms(Shape(2, 2), {})


FIXED = [
    (Scale(S(3) / 7), lambda x: x * 3 / 7),
    (Centre("samples"), lambda x: x - x.mean(axis=1, keepdims=True)),
    (Centre("features"), lambda x: x - x.mean(axis=0, keepdims=True)),
    (Crop(2), lambda x: x[:2]),
    (Pad(1, 2), lambda x: np.pad(x, ((1, 2), (0, 0)))),
    (Pad(0, 0), lambda x: x),
    (Softmax(), softmax),
]


@settings(max_examples=60, deadline=None)
@given(matrices(), st.sampled_from(FIXED))
def test_fixed_maps_and_softmax_carry_true_knowledge_forward(x: Matrix, pair) -> None:
    atom, function = pair
    check(atom.forward(exactly(x), EVERYWHERE), function(x))


@settings(max_examples=60, deadline=None)
@given(matrices(), st.sampled_from(AXES))
def test_the_radial_map_carries_true_knowledge_forward(x: Matrix, axis: str) -> None:
    check(Radial(axis, EPS).forward(exactly(x), EVERYWHERE), radial(x, axis, float(EPS)))


@settings(max_examples=40, deadline=None)
@given(matrices(), st.sampled_from(list(ACTIVATIONS)))
def test_activations_carry_true_knowledge_forward(x: Matrix, name: str) -> None:
    check(Entrywise(name).forward(exactly(x), EVERYWHERE), apply_activation(name, x))


def test_the_operator_norm_is_not_carried_through_an_activation_by_its_slope() -> None:
    # the trap: |relu(Z)|_op <= |Z|_op is false, so the bound must not be one of that kind
    x = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 0.0, -1.0]])
    y = np.maximum(x, 0)
    assert np.linalg.norm(y, 2) > np.linalg.norm(x, 2) * 1.02
    known = Entrywise("relu").forward(exactly(x), EVERYWHERE)
    check(known, y)


@settings(max_examples=60, deadline=None)
@given(matrices(), st.booleans(), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_an_affine_layer_carries_true_knowledge_forward_for_weights_on_the_sphere(x, bias, rows, seed) -> None:
    rng = np.random.default_rng(seed)
    a = in_ball(rng, (rows, x.shape[0]), float(RADIUS))
    b = in_ball(rng, (rows,), float(RADIUS)) if bias else np.zeros(rows)
    known = MatMul(rows, bias).forward(exactly(x), Domain(RADIUS))
    check(known, a @ x + b[:, None])


@settings(max_examples=60, deadline=None)
@given(matrices(), st.sampled_from(["samples", "entries", "matrix"]), st.booleans(), st.integers(0, 2**32 - 1))
def test_normalised_weights_carry_true_knowledge_forward(x, axis, gain, seed) -> None:
    rng = np.random.default_rng(seed)
    rows = 3
    v = in_ball(rng, (rows, x.shape[0]), float(RADIUS))
    g = in_ball(rng, (rows,), float(RADIUS)) if gain else np.ones(rows)
    maps = (Radial(axis, EPS), Gain()) if gain else (Radial(axis, EPS),)
    known = MatMul(rows, False, maps).forward(exactly(x), Domain(RADIUS))
    check(known, (g[:, None] * radial(v, axis, float(EPS))) @ x)


@settings(max_examples=40, deadline=None)
@given(matrices(), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_gain_carries_true_knowledge_forward(x, shift, seed) -> None:
    rng = np.random.default_rng(seed)
    g = in_ball(rng, (x.shape[0],), float(RADIUS))
    b = in_ball(rng, (x.shape[0],), float(RADIUS)) if shift else np.zeros(x.shape[0])
    check(Gain(shift).forward(exactly(x), Domain(RADIUS)), g[:, None] * x + b[:, None])


@settings(max_examples=10, deadline=None)
@given(matrices(), st.sampled_from(["tanh", "sigmoid", "gelu"]), st.sampled_from([S(1), S(1) / 2]))
def test_a_residual_block_carries_true_knowledge_forward(x, name, skip) -> None:
    network = parse(f"residual({name}, scale(2/3), skip={skip})")
    check(derive(network, exactly(x)).output, float(skip) * x + apply_activation(name, x) * 2 / 3)


# Repetition with a symbolic depth: one knowledge for every pass, one for the output.

BLOCKS = {
    "growth below one": ("scale(1/2), tanh", lambda x, _: np.tanh(x / 2)),
    "a shift each time": ("residual(sigmoid, scale(1/3))", lambda x, _: x + 1 / (1 + np.exp(-x)) / 3),
    "growth one with a bounded branch": (
        "residual(tanh, scale(3))",
        lambda x, _: x + 3 * np.tanh(x),
    ),
    "growth above one": ("residual(softplus)", lambda x, _: x + np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)),
    "growth below one with a shift": (
        "residual(sigmoid, scale(2), skip=1/2)",
        lambda x, _: x / 2 + 2 / (1 + np.exp(-x)),
    ),
    "normalised weight": (
        "residual(tanh, affine(3, weight_norm=frobenius, eps=1/4), scale(1/2))",
        lambda x, rng: x + radial(rng.standard_normal((3, 3)) * 5, "matrix", 0.25) @ np.tanh(x) / 2,
    ),
    "reset each time": ("scale(7), layer_norm(eps=1/100)", lambda x, _: _layer_norm(7 * x)),
}


def _layer_norm(x: Matrix) -> Matrix:
    x = x - x.mean(axis=0)
    return x / np.sqrt(0.01 + (x**2).mean(axis=0))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("scale", [30.0])
def test_the_output_of_a_symbolic_repetition_is_true_at_every_depth(name: str, depth: int, scale: float) -> None:
    spec, step = BLOCKS[name]
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3, 4)) * scale
    known = derive(parse(f"repeat(L, {spec})"), exactly(x)).output
    for _ in range(depth):
        x = step(x, rng)
    check(known, x, {"L": depth})


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("depth", [1, 3])
def test_the_symbolic_repetition_bounds_the_unrolled_one_from_above(name: str, depth: int) -> None:
    spec, _ = BLOCKS[name]
    features = FeatureBounds.ball(Shape(3, 4), S(2))
    network = parse(f"repeat(L, {spec})")
    symbolic = collapse(derive(network, features).tree, S(4))
    unrolled = collapse(derive(substitute(network, {symbols.L: sympy.Integer(depth)}), features).tree, S(4))
    for quantity, bound in symbolic.quantities():
        value, other = evaluate(bound, {"L": depth}), evaluate(getattr(unrolled, quantity), {})
        # for param_param the two are different closed upper bounds of one eigenvalue, so neither need be larger
        if bound.sense == "upper" and quantity != "param_param":
            assert other <= value * (1 + 1e-12), quantity
        elif bound.sense == "lower":
            assert other >= value * (1 - 1e-12), quantity


def test_features_that_grow_at_an_unknown_rate_are_unbounded_along_the_repetition() -> None:
    network = parse("repeat(L, scale(c), gelu)")
    tree = derive(network, FeatureBounds.ball(Shape(3, 4), symbols.r)).tree
    # c may exceed 1, so the infimum of the slope of gelu along the repetition is not known to be positive
    assert collapse(tree, S(4)).input_jacobian_sigma_min.expression == 0


def test_the_geometric_sum_of_a_symbolic_growth_may_turn_out_to_be_counted_at_one() -> None:
    total = geometric(symbols.c, symbols.L)
    assert evaluate(Bound.upper(total), {"c": 1, "L": 3}) == 3


@pytest.mark.parametrize("name", ["a shift each time", "growth one with a bounded branch", "normalised weight"])
def test_the_knowledge_along_a_repeated_residual_block_is_not_empty(name: str) -> None:
    output = derive(parse(f"repeat(L, {BLOCKS[name][0]})"), FeatureBounds.ball(Shape(3, 4), S(2))).output
    assert output.frobenius.expression is not oo


def test_the_operator_norm_alone_bounds_the_others() -> None:
    known = FeatureBounds.from_norms(Shape(3, 4), {"operator": Bound.upper(1)})
    assert known.frobenius.expression <= 2


def test_an_affine_block_repeated_on_a_ball_keeps_its_norm_finite() -> None:
    known = derive(parse("repeat(L, affine(3, bias=true))"), FeatureBounds.ball(Shape(3, 4), symbols.r), Domain(S(1)))
    assert known.output.frobenius.expression is not oo


@pytest.mark.parametrize("spec", ["affine(3, bias=true), affine(3, bias=true)", "residual(affine(3), tanh, affine(3))"])
def test_growth_is_seen_inside_products_with_a_symbolic_radius(spec: str) -> None:
    # (rho y + h) rho is not expanded by SymPy: reading its coefficient of y as 0 would lose the growth
    network, features = parse(f"repeat(L, {spec})"), FeatureBounds.ball(Shape(3, 4), S(5))
    along = derive(network, features, Domain(symbols.rho)).output
    unrolled = derive(substitute(network, {symbols.L: S(3)}), features, Domain(S(2))).output
    for name in NORMS:
        # equal expressions up to the order of operations on 128-bit balls, rounded to floats
        symbolic = evaluate(getattr(along, name), {"rho": 2, "L": 3})
        assert evaluate(getattr(unrolled, name), {}) <= symbolic * (1 + 1e-15), name


def test_knowledge_along_a_repetition_keeps_its_assumptions() -> None:
    wide = Assumption(symbols.d, ">=", S(2))
    known = {name: Bound.upper(symbols.r, assumptions=(wide,)) for name in NORMS}
    output = derive(parse("repeat(L, residual(tanh))"), FeatureBounds.of(Shape(3, 4), known)).output
    assert wide in output.frobenius.assumptions


def test_a_softmax_on_a_grid_has_norm_one_at_every_position_not_in_every_sample() -> None:
    known = Softmax().forward(FeatureBounds.unbounded(Shape(3, 2, (5,))), EVERYWHERE)
    columns = np.zeros((3, 5 * 2))
    columns[0] = 1  # the limit of large logits
    assert evaluate(known.position, {}) == 1
    assert evaluate(known.sample, {}) >= np.linalg.norm(columns[:, :5])
    assert evaluate(known.frobenius, {}) >= np.linalg.norm(columns)
