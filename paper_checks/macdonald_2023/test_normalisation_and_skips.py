"""MacDonald, Valmadre, Saratchandran, Lucey (NeurIPS 2023, arXiv 2210.05371): normalisation and skips make landscapes globally good.

Claims (abstract; the formulas are re-derived for this project, the paper's own text was not at hand):

1. normalisation makes curvature bounds global: `sup |D^2 F|` over all parameters is finite with normalised weights, not without;
2. skips make regularity bounds global: `lambda_min(DF DF^T) >= sigma^2 prod (1 - kappa)^2 > 0` with them, while a chain's bound is 0, truly;
3. both together give a finite smoothness constant and a positive kernel bound everywhere; each alone lacks one;
4. the regularity inequality `lambda_min(DF DF^T) >= sum_i lambda_min(Df_i Df_i^T) prod_{j>i} lambda_min(Jf_j Jf_j^T)`.
"""

import sympy
import torch

from numerics.datasets import digits
from numerics.device import generator
from numerics.ensembles import draw
from numerics.family import data_values
from numerics.measure import input_jacobian, second_derivative_norm, tangent_kernel, tangent_kernel_lambda_min
from numerics.realise import Realisation, realise
from numerics.search import search_layer
from theory.evaluate import lower_float, upper_float
from theory.landscape import Landscape, landscape
from theory.records import Shape
from theory.spec import parse

DATA = digits(3, 0)
PLAIN = "affine(6), repeat(2, residual(tanh, affine(6), scale(1/4))), crop(3)"
NORMALISED = "affine(6), repeat(2, residual(tanh, affine(6, weight_norm=frobenius, eps=1), scale(1/4))), crop(3)"
CHAIN = "affine(6), repeat(2, tanh, affine(6, weight_norm=frobenius, eps=1)), crop(3)"


def of(spec: str) -> tuple[Landscape, Realisation]:
    return landscape(parse(spec), DATA.features), realise(parse(spec), Shape(64, 3))


def test_normalisation_makes_curvature_bounds_global(leave) -> None:
    here, realised = of(NORMALISED)
    bound = upper_float(here.enclose(data_values(DATA)).second)
    leave("normalised weights: sup |D^2 F| is finite everywhere", "derived", bound)
    plain, wild = of(PLAIN)
    assert plain.second_derivative.expression is sympy.oo
    leave("plain weights: sup |D^2 F| = oo", "derived", "oo")
    source = generator(0)
    base = draw(wild, 8, "gaussian", 1.0, source)
    divergence = [
        float(second_derivative_norm(wild, s * base, DATA.X, "all_params", iterations=10).value.max())
        for s in (1, 10, 100)
    ]
    assert divergence[2] > 10 * divergence[0]  # grows with the weights, without limit
    leave("plain weights 100 times larger: |D^2 F| grows", "measured", divergence[0], divergence[2], lower=True)
    theta = torch.cat(
        [draw(realised, 64, kind, s, source) for kind in ("gaussian", "spiked") for s in (0.1, 1.0, 10.0)]
    )
    values = second_derivative_norm(realised, theta, DATA.X, "all_params", iterations=5, starts=1).value
    leave("normalised weights: |D^2 F| below its bound", "measured", bound, float(values.max()))
    found = search_layer(realised, "param_param", fixed_input=DATA.X, restarts=16, steps=150).best
    leave("normalised weights: |D^2 F| below its bound", "searched", bound, found)


def test_skips_make_regularity_bounds_global(leave) -> None:
    here, realised = of(NORMALISED)
    bound = lower_float(here.enclose(data_values(DATA)).lambda_min)
    assert here.tangent_kernel_lambda_min.expression.equals(
        sympy.Symbol("sigma", positive=True) ** 2 * sympy.Rational(3, 4) ** 4
    )
    leave("lambda_min >= sigma^2 (1 - kappa)^{2L}", "derived", here.tangent_kernel_lambda_min.expression)
    found = search_layer(realised, "tangent_kernel_lambda_min", fixed_input=DATA.X, restarts=16, steps=300).best
    leave("residual: lambda_min above its bound, and near it", "searched", bound, found, lower=True)
    assert bound / found > 0.95
    theta = torch.cat([draw(realised, 64, "gaussian", s, generator(1)) for s in (0.1, 1.0, 10.0)])
    least = float(tangent_kernel_lambda_min(realised, theta, DATA.X).value.min())
    leave("residual: lambda_min above its bound", "measured", bound, least, lower=True)
    chain, chained = of(CHAIN)
    assert chain.tangent_kernel_lambda_min.expression == 0
    zeros = torch.zeros(1, chained.size, dtype=torch.float64)
    degenerate = float(tangent_kernel_lambda_min(chained, zeros, DATA.X).value)
    assert degenerate < 1e-12  # at zero weights the chain's later layers pass nothing back
    leave("chain: the bound 0 is attained at zero weights", "measured", 0.0, degenerate, lower=True)


def test_both_are_needed_for_a_global_certificate(leave) -> None:
    values = data_values(DATA)
    both, skip_only, norm_only = (of(spec)[0].enclose(values) for spec in (NORMALISED, PLAIN, CHAIN))
    assert both.smoothness.is_finite()
    assert both.lambda_min > 0
    assert not skip_only.smoothness.is_finite()
    assert norm_only.smoothness.is_finite()
    assert norm_only.lambda_min == 0
    leave("skips and normalised weights: smoothness finite", "derived", upper_float(both.smoothness))


def test_the_regularity_inequality(leave) -> None:
    j2 = sympy.Matrix(2, 2, sympy.symbols("j:4"))
    d1, d2 = sympy.Matrix(2, 2, sympy.symbols("a:4")), sympy.Matrix(2, 2, sympy.symbols("b:4"))
    whole = sympy.Matrix.hstack(j2 * d1, d2)
    assert (whole * whole.T - j2 * d1 * d1.T * j2.T - d2 * d2.T).expand() == sympy.zeros(2)
    leave("DF DF^T = J_2 D_1 D_1^T J_2^T + D_2 D_2^T", "derived", "identity")
    first, second = realise(parse("affine(4)"), Shape(64, 3)), realise(parse("tanh, affine(3)"), Shape(4, 3))
    network = realise(parse("affine(4), tanh, affine(3)"), Shape(64, 3))
    theta = draw(network, 256, "gaussian", 1.0, generator(2))
    one, two = theta.split([first.size, second.size], 1)
    hidden = first(one, DATA.X)
    jacobian = input_jacobian(second, two, hidden)
    low = torch.linalg.eigvalsh(jacobian @ jacobian.mT)[:, 0].clamp(min=0)
    right = torch.linalg.eigvalsh(tangent_kernel(second, two, hidden))[:, 0].clamp(min=0)
    right = right + low * torch.linalg.eigvalsh(tangent_kernel(first, one, DATA.X))[:, 0]
    left = torch.linalg.eigvalsh(tangent_kernel(network, theta, DATA.X))[:, 0]
    leave("regularity inequality, least ratio left / right", "measured", 1.0, float((left / right).min()), lower=True)
