"""The derivation of the denoising minimiser can fail where a rule is missing, and refuses what is not determined."""

import pytest
import sympy
from sympy import Matrix, Rational

from theory.denoising import Population, isotropic_steps, losses, matrix_identity, minimiser_steps, row_projection

T, TT, P, Q = sympy.symbols("T T' P Q", commutative=False)


def test_every_step_is_recomputed_and_a_false_identity_is_not_zero() -> None:
    assert all(step.verify() for step in (*minimiser_steps(), *isotropic_steps()))
    assert matrix_identity((T - T * P) * P * TT) == 0
    assert matrix_identity((T - T * P) * TT) != 0
    assert matrix_identity(Q * T * TT - T * TT * Q) != 0
    assert matrix_identity(Q * T * TT - T * TT * Q, trace=True) == 0


def test_losses_agree_where_the_bottleneck_does_not_bind() -> None:
    X, A = Matrix([[1, 2, 0], [0, 1, -1]]), Matrix([[1, 0, 1], [Rational(1, 2), -1, 1]])
    Y = X + A
    inside = row_projection(Y)
    assert sympy.simplify(inside * inside - inside) == sympy.zeros(3, 3)
    at = losses(X, Y, 2)
    assert at.least == at.unprojected == sympy.simplify((X * X.T - X * inside * X.T).trace())
    assert losses(X, Y, 0).least == (X * X.T).trace()
    bound = losses(X, Y, 1)
    assert bound.least.evalf() < bound.unprojected.evalf()


def test_what_is_not_determined_is_refused() -> None:
    two = sympy.eye(2)
    with pytest.raises(ValueError, match="eigenvalues 1 and 2"):
        losses(two, two, 1)
    with pytest.raises(ValueError, match="bottleneck 3"):
        losses(two, two, 3)
    with pytest.raises(ValueError, match="one shape"):
        losses(two, sympy.ones(2, 3), 1)
    with pytest.raises(ValueError, match="1 signal and 2 noise"):
        Population((sympy.S.One,), (sympy.S.One, sympy.S.One))


def test_the_population_at_full_bottleneck_is_the_wiener_filter() -> None:
    signal, noise = (Rational(3), Rational(1)), (Rational(1, 2), Rational(2))
    wiener = sum(s * a / (s + a) for s, a in zip(signal, noise, strict=True))
    for skip in (False, True):
        assert Population(signal, noise).risk(2, skip) == wiener == Population(signal, noise).unprojected_risk(2, skip)
