"""The attention atom: its derivation verifies, its record is well formed, and shapes that do not fit are refused."""

from __future__ import annotations

import pytest
import sympy
from sympy import S, oo

from theory import symbols
from theory.atoms.attention import (
    ScaledDotProduct,
    cubic_norm,
    cumulant_steps,
    largest_product,
    mixing_steps,
    quadratic_norm,
)
from theory.atoms.base import EVERYWHERE, Domain
from theory.atoms.softmax import cumulant_constants
from theory.bound import Bound
from theory.compose import CubicForm, QuadraticForm
from theory.derive import derive
from theory.evaluate import evaluate
from theory.layers.attention import Attend, self_attention
from theory.network import chain
from theory.records import QUANTITIES, THIRD, FeatureBounds, Shape

T = sympy.Symbol("T", integer=True, positive=True)
SHAPE = Shape(6, 2, (4,))
ORDERS = ("input_jacobian_norm", "input_input", "input_input_input")


def known(shape: Shape, **norms: object) -> FeatureBounds:
    return FeatureBounds.from_norms(shape, {name: Bound.upper(S(value)) for name, value in norms.items()})


def test_every_step_of_the_derivation_verifies() -> None:
    for step in (*cumulant_steps(), *mixing_steps(), *cumulant_constants().steps):
        assert step.verify(), step.claim
    record = ScaledDotProduct(1).bounds(known(SHAPE, position=2), Domain(third=True))
    for name in ORDERS:
        bound = getattr(record, name)
        bound.verify()
        assert bound.steps


def test_the_first_steps_check_something() -> None:
    assert sum(len(step.zeros) for step in (*cumulant_steps(), *mixing_steps(), *cumulant_constants().steps)) >= 12


def test_the_record_has_no_parameters_and_keeps_samples_apart() -> None:
    record = ScaledDotProduct(2).bounds(known(Shape(12, 3, (4,)), position=1), EVERYWHERE)
    assert record.sample_wise
    assert not record.has_parameters
    assert all(getattr(record, name).expression == 0 for name in ("param_jacobian_norm", "input_param", "param_param"))
    assert record.input_jacobian_sigma_min.expression == record.tangent_kernel_lambda_min.expression == 0
    assert record.input_input_input.expression is oo  # not asked for
    assert all(getattr(record, name).expression == 0 for name in THIRD[1:])


def test_bounds_only_improve_with_what_is_known() -> None:
    sizes = [
        known(SHAPE, position=2),
        known(SHAPE, position=2, sample=3),
        known(SHAPE, position=1, sample=2, operator=S(3) / 2),
    ]
    for causal in (False, True):
        records = [
            ScaledDotProduct(1, causal).bounds(size, Domain(third=True))
            for size in (FeatureBounds.unbounded(SHAPE), *sizes)
        ]
        for name in ORDERS:
            values = [evaluate(getattr(record, name), {}) for record in records]
            assert values == sorted(values, reverse=True)
            assert values[0] == float("inf")


def test_bounds_and_knowledge_are_written_in_symbols() -> None:
    shape = Shape(3 * symbols.d, symbols.N, (T,))
    attend = Attend()
    tree = derive(attend, known(shape, position=symbols.r), Domain(third=True))
    for name in ORDERS:
        bound = getattr(tree.tree, name)
        assert bound.expression.free_symbols <= {symbols.d, symbols.r, T}
        assert evaluate(bound, {"d": 4, "r": 2, "T": 5}) > 0
    assert (tree.output.shape.features, tree.output.shape.grid) == (symbols.d, (T,))
    assert tree.output.position.expression == symbols.r


def test_one_head_keeps_the_norm_of_tokens_and_several_multiply_it_by_at_most_the_root_of_their_number() -> None:
    features = known(Shape(12, 2, (9,)), position=2)
    assert evaluate(ScaledDotProduct(1).forward(features, EVERYWHERE).position, {}) == 2
    assert evaluate(ScaledDotProduct(4).forward(features, EVERYWHERE).position, {}) == 4
    assert evaluate(ScaledDotProduct(4).forward(features, EVERYWHERE).entry, {}) == 2


def test_scores_that_cannot_differ_mix_without_growth() -> None:
    for causal in (False, True):
        small = ScaledDotProduct(1, causal).mixing(known(SHAPE, position=S(1) / 1000))
        large = ScaledDotProduct(1, causal).mixing(known(SHAPE, position=1000))
        assert evaluate(large, {}) == 2
        assert evaluate(small, {}) == pytest.approx(1.0 if not causal else 1.5447, abs=1e-3)  # sqrt(1 + log 4)


def test_the_norm_of_a_quadratic_form_is_that_of_its_matrix_or_above() -> None:
    form = QuadraticForm({(0, 0): 3, (0, 1): 2, (1, 1): 1, (2, 0): 5, (1, 2): 4})
    norm = float(quadratic_norm(QuadraticForm({k: Bound.upper(v) for k, v in form.items()})).expression)
    matrix = sympy.Matrix([[3, 1, S(5) / 2], [1, 1, 2], [S(5) / 2, 2, 0]])
    top = max(float(sympy.re(v)) for v in matrix.evalf().eigenvals(multiple=True))
    assert top <= norm <= 1.05 * top


def test_the_norm_of_a_cubic_form_counts_every_order_of_its_indices() -> None:
    # x y z on the unit sphere is at most 1 / (3 sqrt 3); its symmetric tensor has six entries 1/6
    assert cubic_norm(CubicForm({(0, 1, 2): Bound.upper(1)})).expression == 1 / sympy.sqrt(6)
    assert cubic_norm(CubicForm({(1, 0, 0): Bound.upper(1), (0, 0, 1): Bound.upper(2)})).expression == sympy.sqrt(3)
    assert cubic_norm(CubicForm({(2, 2, 2): Bound.upper(5)})).expression == 5


def test_the_largest_products_on_the_circle() -> None:
    assert largest_product(1) == S.Half
    assert sympy.simplify(largest_product(2) - 2 / (3 * sympy.sqrt(3))) == 0
    assert sympy.simplify(largest_product(3) - 3 * sympy.sqrt(3) / 16) == 0


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="grid of tokens"):
        Attend().output_shape(Shape(6, 2))
    with pytest.raises(ValueError, match="multiple of the heads"):
        Attend(2).output_shape(Shape(9, 2, (4,)))
    with pytest.raises(ValueError, match="positive whole number"):
        Attend(0)
    with pytest.raises(ValueError, match="divide the features"):
        self_attention(S(6), 4)


def test_self_attention_keeps_its_shape_and_names_its_parameters() -> None:
    block = self_attention(S(6), 2, bias=True, path="block.attn")
    shape = Shape(6, 2, (4,))
    assert block.output_shape(shape) == shape
    assert [member.path for member in (block.members[0], block.members[2])] == [
        "block.attn.in_proj",
        "block.attn.out_proj",
    ]
    derived = derive(chain(block, block), known(shape, sample=1), Domain(S(1)))
    names = {name for member in derived.tree.members for name in member.names}
    assert names == {"block.attn.in_proj", "block.attn.out_proj"}
    assert {bound.sense for _, bound in derived.tree.members[0].quantities()} == {"upper", "lower"}
    assert len(QUANTITIES) == 7
