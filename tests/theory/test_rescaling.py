"""Rescaling as a reading: which maps pass a factor on, and that normalised margins do not see it."""

import pytest
import sympy
from sympy import S, Symbol

from theory import symbols
from theory.atoms.entrywise import ACTIVATIONS
from theory.layers.activation import Activation, SoftmaxLayer
from theory.layers.affine import Affine
from theory.layers.fixed import Cropping
from theory.network import added, chain, repeat, residual
from theory.rescaling import LayerFactors, positive_homogeneity, proof, rescaled

c, k = Symbol("c", positive=True), Symbol("k", positive=True)


def test_of_all_activations_only_rectifiers_and_identity_are_positively_homogeneous() -> None:
    assert {name for name in ACTIVATIONS if positive_homogeneity(name).holds} == {"relu", "leaky_relu", "identity"}


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"relu", "leaky_relu", "identity"}))
def test_the_witness_of_every_other_activation_refutes_the_identity(name: str) -> None:
    witness = positive_homogeneity(name).witness
    assert witness is not None
    z = next(iter(ACTIVATIONS[name].free_symbols))
    scale, at = witness
    assert abs(sympy.N(ACTIVATIONS[name].subs(z, scale * at) - scale * ACTIVATIONS[name].subs(z, at))) > 0.01


def test_every_link_of_the_proof_recomputes() -> None:
    assert all(step.verify() for step in proof())
    assert sum(bool(step.zeros) for step in proof()) == 4


def test_a_pair_of_layers_scales_the_distance_between_them_and_nothing_else_at_any_depth() -> None:
    before, after = Symbol("a", integer=True, positive=True), Symbol("b", integer=True, positive=True)
    network = chain(
        repeat(before, Affine(5, bias=True), Activation("relu")),
        Affine(5, bias=True, path="first"),
        Activation("relu"),
        Affine(5, bias=True, path="second"),
        # a later activation sees the factor 1, so it may be any
        Activation("tanh"),
        repeat(after, Affine(5), Activation("tanh")),
        Affine(3),
    )
    unchanged, between = LayerFactors(S.One, S.One, S.One, S.One), LayerFactors(c, 1 / c, c, S.One)
    expected = [unchanged, unchanged, between, between, *[unchanged] * 4]
    assert list(rescaled(network, {"first": c, "second": 1 / c})) == expected


def test_any_positive_factors_leave_normalised_margins_even_where_the_outputs_change() -> None:
    network = chain(Affine(4, path="u"), Activation("relu"), Affine(4, path="v"), Activation("relu"), Affine(3))
    found = rescaled(network, {"u": c, "v": k})
    assert found[-1].features == c * k
    assert [f.normalised for f in found] == [S.One] * 6
    assert [f.distance for f in found] == [1, c, c, c * k, c * k, c * k]


def test_a_repeated_homogeneous_block_passes_a_factor_on_at_a_symbolic_depth() -> None:
    block = repeat(symbols.L, residual(Activation("relu"), Affine(4)))
    found = rescaled(chain(Affine(4, path="u"), block, Affine(3)), {"u": c})
    assert [f.features for f in found] == [1, c, c, c]


def test_what_does_not_pass_a_factor_on_is_refused_by_name() -> None:
    tanh = chain(Affine(4, path="u"), Activation("tanh"), Affine(3, path="v"))
    with pytest.raises(ValueError, match="tanh is not positively homogeneous"):
        rescaled(tanh, {"u": c, "v": 1 / c})
    skip = chain(residual(Affine(4, path="u"), Activation("relu")))
    with pytest.raises(ValueError, match="adds features multiplied by 1 and by c"):
        rescaled(skip, {"u": c})
    with pytest.raises(ValueError, match="adds features multiplied by 1 and by c"):
        rescaled(chain(added(chain(), Affine(4, path="u"))), {"u": c})
    with pytest.raises(ValueError, match="does not know softmax"):
        rescaled(chain(Affine(4, path="u"), SoftmaxLayer()), {"u": c})
    with pytest.raises(ValueError, match="is normalised"):
        rescaled(chain(Affine(4, path="u", weight_norm="row")), {"u": c})


def test_names_and_factors_are_checked() -> None:
    network = chain(Affine(4, path="u"), Cropping(2))
    with pytest.raises(ValueError, match="no layer is called v"):
        rescaled(network, {"v": c})
    with pytest.raises(ValueError, match="not known to be positive"):
        rescaled(network, {"u": -c})
