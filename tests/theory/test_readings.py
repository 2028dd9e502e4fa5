"""One pair of descriptions in five readings: closed forms in a symbolic depth agree with unrolled ones, weights of variance 1, errors."""

import numpy as np
import pytest
import sympy
from sympy import Integer, sqrt

from theory import symbols
from theory.atoms.base import Domain
from theory.kernels.recursion import kernels, least_eigenvalue
from theory.landscape import landscape
from theory.layers.affine import Affine
from theory.layers.fixed import Scaling
from theory.layers.normalisation import LayerNorm
from theory.network import Repeat, chain, residual, substitute
from theory.readings import BRANCH, PAIR, L, branch_jacobian, d, rho, small_signal_gain, unit_variance, values
from theory.signal.propagation import propagate
from theory.topology.loss import topology


@pytest.mark.parametrize("name", list(PAIR))
def test_closed_forms_in_the_depth_are_those_of_unrolled_networks(name: str) -> None:
    readings, depth = PAIR[name], 3
    unrolled = substitute(readings.network, {L: Integer(depth)})
    assert isinstance(unrolled, Repeat)
    here = landscape(unrolled.unrolled(), d, domain=Domain(rho)).regularity
    at = {L: Integer(depth), rho: sympy.Rational(1, 2)}
    for closed, single in (
        (readings.regularity.sigma_min, here.sigma_min),
        (readings.regularity.jacobian, here.jacobian),
    ):
        assert sympy.simplify(closed.expression.subs(at) - single.expression.subs(at)) == 0
    moments = propagate(unrolled.unrolled())
    assert (
        sympy.simplify(readings.moments.second_upper.expression.subs(L, depth) - moments.second_upper.expression) == 0
    )
    assert (
        sympy.simplify(readings.moments.second_lower.expression.subs(L, depth) - moments.second_lower.expression) == 0
    )
    shape = topology(unrolled.unrolled(), d, l2=True)
    assert readings.topology.parameters.subs(L, depth) == shape.parameters
    for entry in ("alpha", "beta", "length"):
        assert sympy.expand(getattr(readings.topology.format, entry).subs(L, depth) - getattr(shape.format, entry)) == 0


def test_kernels_of_variance_one_weights_are_those_written_out() -> None:
    width = Integer(5)
    net = unit_variance(chain(Affine(width), residual(BRANCH.members[1], Affine(width))), width)
    written = chain(
        chain(Affine(width), Scaling(1 / sqrt(width))),
        residual(BRANCH.members[1], chain(Affine(width), Scaling(1 / sqrt(width)))),
    )
    assert net == written
    # with variance 1/inputs affine layers keep the second moment of a feature, whatever their widths
    gram = np.array([[1.0, 0.5], [0.5, 2.0]])
    wider = unit_variance(chain(Affine(Integer(7)), Affine(Integer(3))), width)
    np.testing.assert_allclose(kernels(wider, gram, width).second, gram / 5, rtol=1e-14)
    with pytest.raises(ValueError, match="LayerNorm"):
        unit_variance(LayerNorm(symbols.eps), width)


def test_kernels_come_in_batches() -> None:
    data = np.random.default_rng(0).standard_normal((3, 6, 2))
    readings = PAIR["residual, 1/L"]
    together = readings.kernel(2, data)
    np.testing.assert_allclose(together, [readings.kernel(2, x) for x in data], rtol=1e-10)
    # with one block the last block's input is the data themselves
    width = Integer(6)
    net = unit_variance(chain(substitute(BRANCH, {d: width}), Affine(Integer(1))), width)
    direct = least_eigenvalue(kernels(net, np.swapaxes(data, 1, 2) @ data, width).tangents[0])
    np.testing.assert_allclose(readings.kernel(1, data), direct, rtol=1e-12)


def test_the_branch_and_rounding_outwards() -> None:
    assert small_signal_gain() == sympy.Rational(1, 2)
    # sqrt 2 times the largest slope of SiLU, 1.0998, times the norms of two weights
    assert float(branch_jacobian().subs(rho, 1)) == pytest.approx(1.0998 * 2**0.5, abs=1e-3)
    low, high = PAIR["residual, 1/L"].regularity.sigma_min, PAIR["residual, 1/L"].moments.second_upper
    exact = low.expression.subs({L: Integer(3), rho: sympy.Rational(1, 2)})
    assert values(low, 3, sympy.Rational(1, 2)) < sympy.N(exact, 40)
    assert values(high, 3) > sympy.N(high.expression.subs(L, 3), 40)
    assert values(high, 2) == 1.5625
