"""Every layer of the catalogue, attacked: bounds hold, sharp ones are attained to 0.999 and fall when shrunk by 1 per cent."""

import functools
import importlib
import pkgutil

import pytest
import sympy

import theory.layers
from numerics.realise import realise
from numerics.search import Found, search_layer
from theory import symbols
from theory.bound import Bound, Sense
from theory.catalogue import entry, grid_layers, layers, shape_of
from theory.evaluate import evaluate
from theory.layers import activation, affine, normalisation, spatial
from theory.layers.base import Layer
from theory.network import Network, substitute, walk
from theory.records import LOWER
from theory.spec import describe

# small enough for half a second a search, large enough that centring leaves two dimensions
VALUES = {
    symbols.d: 3,
    symbols.m: 2,
    symbols.N: 3,
    symbols.eps: 1,
    symbols.r: 2,
    symbols.rho: 3,
    symbols.c: sympy.Rational(1, 2),
}
ATTAINED, SHRUNK = 0.999, 0.99
ROUNDING = 1e-9  # relative: a search evaluates derivatives in double precision, a few hundred operations deep
UNBOUNDED = 1e3  # beyond this a supremum claimed infinite counts as shown
APPROACHED = 1e-4  # an infimum of 0 that is only approached in a limit: how near a search of this length must come


@functools.cache
def found(network: Network, quantity: str, domain: str) -> Found:
    concrete = substitute(network, {k: sympy.sympify(v) for k, v in VALUES.items()})
    realisation = realise(concrete, shape_of(network), VALUES)
    return search_layer(
        realisation,
        quantity,
        parameter_radius=3.0 if domain == "ball" else None,
        input_radius=None if domain == "everywhere" else 2.0,
        restarts=16,
        # a supremum that is a one-sided limit (elu at 0) is neared slowly; entries are cheap
        steps=500 if isinstance(network, activation.Activation) else 200,
        parameter_scales=(1e-2, 1e-1, 1.0, 1e1, 1e3),
        input_scales=(1e-2, 1e-1, 1.0, 1e1, 1e3),
    )


def is_kink(network: Network, quantity: str) -> bool:
    """The second derivatives of (leaky) ReLU and of the maximum are infinite at their kinks only, where no derivative can be taken."""
    return quantity == "input_input" and any(
        describe(part) in ("relu", "leaky_relu") or isinstance(part, spatial.MaxPool) for part in walk(network)
    )


def judge(network: Network, quantity: str, domain: str, bound: Bound) -> None:
    """One bound: not violated; attained and refuted when shrunk, where it claims to be sharp."""
    value = evaluate(bound, VALUES)
    best = found(network, quantity, domain).best
    if bound.sense is Sense.UPPER:
        assert best <= value * (1 + ROUNDING) + 1e-12, f"{quantity}: {best} above the bound {value}"
        if bound.sharp and value == float("inf"):
            assert best > UNBOUNDED, f"{quantity}: claimed infinite, found {best}"
        elif bound.sharp:
            assert best >= ATTAINED * value, f"{quantity}: claimed sharp at {value}, found {best}"
            assert value == 0 or best > SHRUNK * value * (1 + ROUNDING)
    else:
        assert best >= value * (1 - ROUNDING) - 1e-12, f"{quantity}: {best} below the bound {value}"
        if bound.sharp:
            assert best <= value / ATTAINED + APPROACHED, f"{quantity}: claimed sharp at {value}, found {best}"


PLAIN = [network for network in layers() if network not in grid_layers()]
CASES = [(network, domain) for network in PLAIN for domain in ("everywhere", "bounded input")]
CASES += [(network, "bounded input") for network in grid_layers()]
BALLS = [(network, "ball") for network in layers()] + [(network, "everywhere") for network in grid_layers()]


@pytest.mark.parametrize(("network", "domain"), CASES, ids=lambda x: x if isinstance(x, str) else describe(x))
def test_bounds_hold_and_sharp_ones_are_attained(network: Network, domain: str) -> None:
    for quantity, bound in entry(network, domain).bounds.quantities():
        vacuous = (not bound.sharp) and bound.expression in (sympy.oo, 0)
        trivial = bound.expression == 0 and bound.sense is Sense.UPPER and not has_work(network, quantity)
        if not (vacuous or trivial or is_kink(network, quantity)):
            judge(network, quantity, domain, bound)


def has_work(network: Network, quantity: str) -> bool:
    """False for quantities of parameters where there are none."""
    weights = (affine.Affine, spatial.Convolution, spatial.TransposedConvolution)
    parameters = any(isinstance(p, weights) or getattr(p, "gain", False) for p in walk(network))
    return parameters or quantity in ("input_jacobian_norm", "input_input", "input_jacobian_sigma_min")


@pytest.mark.slow
@pytest.mark.parametrize(("network", "domain"), BALLS, ids=lambda x: x if isinstance(x, str) else describe(x))
def test_bounds_hold_on_balls(network: Network, domain: str) -> None:
    for quantity, bound in entry(network, domain).bounds.quantities():
        if has_work(network, quantity) and not is_kink(network, quantity):
            judge(network, quantity, domain, bound)


def test_the_kink_of_relu_makes_difference_quotients_of_its_slope_diverge() -> None:
    slopes = [float(sympy.diff(sympy.Max(0, symbols.r - 1), symbols.r).subs(symbols.r, 1 + h)) for h in (-1e-9, 1e-9)]
    assert (slopes[1] - slopes[0]) / 2e-9 > 1e8
    assert (
        dict(entry(next(n for n in layers() if describe(n) == "relu"), "everywhere").bounds.quantities())[
            "input_input"
        ].expression
        is sympy.oo
    )


def test_no_layer_is_missing_from_the_catalogue() -> None:
    here = {type(part) for network in layers() for part in walk(network)}
    defined = set()
    for info in pkgutil.iter_modules(theory.layers.__path__, "theory.layers."):
        module = importlib.import_module(info.name)
        kinds = (kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Layer))
        defined |= {kind for kind in kinds if not kind.__abstractmethods__ and kind is not normalisation.Normalisation}
    assert len(defined) > 20
    assert defined <= here, defined - here


def test_the_lower_quantities_are_the_last_two() -> None:
    assert {"input_jacobian_sigma_min", "tangent_kernel_lambda_min"} == LOWER
