"""MacDonald, Valmadre, Saratchandran, Lucey (NeurIPS 2023, arXiv 2210.05371): normalisation and skips make landscapes globally good.

Claims (abstract; the formulas are re-derived for this project, the paper's own text was not at hand):

1. normalisation makes curvature bounds global: `sup |D^2 F|` over all parameters is finite with normalised weights, not without;
2. skips make regularity bounds global: `lambda_min(DF DF^T) >= sigma^2 prod (1 - kappa)^2 > 0` with them, while a chain's bound is 0, truly;
3. both together give a finite smoothness constant and a positive kernel bound everywhere; each alone lacks one;
4. the regularity inequality `lambda_min(DF DF^T) >= sum_i lambda_min(Df_i Df_i^T) prod_{j>i} lambda_min(Jf_j Jf_j^T)`;
5. all critical points are global minima where the tangent kernel is positive definite and the cost convex: `|grad ell|^2 >= lambda |grad c|^2`.
"""

import sympy
import torch

from numerics.datasets import data_values, digits
from numerics.device import generator
from numerics.ensembles import draw
from numerics.measure import (
    cross_entropy,
    input_jacobian,
    second_derivative_norm,
    tangent_kernel,
    tangent_kernel_lambda_min,
)
from numerics.realise import Realisation, realise
from numerics.search import maximise, search_layer
from theory.evaluate import lower_float, upper_float
from theory.landscape import Landscape, landscape
from theory.records import Shape
from theory.spec import parse

DATA = digits(3, 0)
CURVATURE, REGULARITY, INEQUALITY = "global-curvature", "global-regularity", "regularity-inequality"
CRITICAL = "critical-points"
PLAIN = "affine(6), repeat(2, residual(tanh, affine(6), scale(1/4))), crop(3)"
NORMALISED = "affine(6), repeat(2, residual(tanh, affine(6, weight_norm=frobenius, eps=1), scale(1/4))), crop(3)"
CHAIN = "affine(6), repeat(2, tanh, affine(6, weight_norm=frobenius, eps=1)), crop(3)"


def of(spec: str) -> tuple[Landscape, Realisation]:
    return landscape(parse(spec), DATA.features), realise(parse(spec), Shape(64, 3))


def test_normalisation_makes_curvature_bounds_global(evidence) -> None:
    here, realised = of(NORMALISED)
    bound = upper_float(here.enclose(data_values(DATA)).second)
    evidence(CURVATURE, "derived", "sup |D^2 F|, normalised weights, finite everywhere", bound)
    plain, wild = of(PLAIN)
    assert plain.second_derivative.expression is sympy.oo
    evidence(CURVATURE, "derived", "sup |D^2 F|, plain weights", "oo")
    source = generator(0)
    base = draw(wild, 8, "gaussian", 1.0, source)
    divergence = [
        float(second_derivative_norm(wild, s * base, DATA.X, "all_params", iterations=10).value.max())
        for s in (1, 10, 100)
    ]
    assert divergence[2] > 10 * divergence[0]  # grows with the weights, without limit
    evidence(
        CURVATURE,
        "measured",
        "|D^2 F|, plain weights, 100 times larger",
        10 * divergence[0],
        divergence[2],
        sense="lower",
    )
    theta = torch.cat(
        [draw(realised, 64, kind, s, source) for kind in ("gaussian", "spiked") for s in (0.1, 1.0, 10.0)]
    )
    values = second_derivative_norm(realised, theta, DATA.X, "all_params", iterations=5, starts=1).value
    evidence(CURVATURE, "measured", "|D^2 F|, normalised weights", bound, float(values.max()))
    found = search_layer(realised, "param_param", fixed_input=DATA.X, restarts=16, steps=150).best
    evidence(CURVATURE, "searched", "|D^2 F|, normalised weights", bound, found)


def test_skips_make_regularity_bounds_global(evidence) -> None:
    here, realised = of(NORMALISED)
    bound = lower_float(here.enclose(data_values(DATA)).lambda_min)
    assert here.tangent_kernel_lambda_min.expression.equals(
        sympy.Symbol("sigma", positive=True) ** 2 * sympy.Rational(3, 4) ** 4
    )
    evidence(REGULARITY, "derived", "lambda_min, residual", here.tangent_kernel_lambda_min.expression)
    found = search_layer(realised, "tangent_kernel_lambda_min", fixed_input=DATA.X, restarts=16, steps=300).best
    evidence(REGULARITY, "searched", "lambda_min, residual: above its bound, and near it", bound, found, sense="lower")
    assert bound / found > 0.95
    theta = torch.cat([draw(realised, 64, "gaussian", s, generator(1)) for s in (0.1, 1.0, 10.0)])
    least = float(tangent_kernel_lambda_min(realised, theta, DATA.X).value.min())
    evidence(REGULARITY, "measured", "lambda_min, residual", bound, least, sense="lower")
    chain, chained = of(CHAIN)
    assert chain.tangent_kernel_lambda_min.expression == 0
    zeros = torch.zeros(1, chained.size, dtype=torch.float64)
    degenerate = float(tangent_kernel_lambda_min(chained, zeros, DATA.X).value)
    assert degenerate < 1e-12  # at zero weights the chain's later layers pass nothing back
    evidence(
        REGULARITY,
        "measured",
        "lambda_min, chain at zero weights: the bound 0 is attained",
        0.0,
        degenerate,
        sense="equal",
        tolerance=1e-12,
    )


def test_both_are_needed_for_a_global_certificate(evidence) -> None:
    values = data_values(DATA)
    both, skip_only, norm_only = (of(spec)[0].enclose(values) for spec in (NORMALISED, PLAIN, CHAIN))
    assert both.smoothness.is_finite()
    assert both.lambda_min > 0
    assert not skip_only.smoothness.is_finite()
    assert norm_only.smoothness.is_finite()
    assert norm_only.lambda_min == 0
    evidence(
        CURVATURE,
        "derived",
        "smoothness constant, skips and normalised weights together",
        upper_float(both.smoothness),
        note="With skips alone it is infinite; with normalised weights alone it is finite, but the tangent kernel's bound is 0.",
    )


def test_the_regularity_inequality(evidence) -> None:
    j2 = sympy.Matrix(2, 2, sympy.symbols("j:4"))
    d1, d2 = sympy.Matrix(2, 2, sympy.symbols("a:4")), sympy.Matrix(2, 2, sympy.symbols("b:4"))
    whole = sympy.Matrix.hstack(j2 * d1, d2)
    assert (whole * whole.T - j2 * d1 * d1.T * j2.T - d2 * d2.T).expand() == sympy.zeros(2)
    evidence(INEQUALITY, "derived", "DF DF^T", "J_2 D_1 D_1^T J_2^T + D_2 D_2^T")
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
    evidence(
        INEQUALITY, "measured", "left / right, least of 256 networks", 1.0, float((left / right).min()), sense="lower"
    )


def test_no_network_is_found_that_breaks_the_regularity_inequality(evidence) -> None:
    """Ascent on right / left over the three matrices of the identity themselves, which any layers' Jacobians may be."""

    def ratio(j2: torch.Tensor, d1: torch.Tensor, d2: torch.Tensor) -> torch.Tensor:
        whole = torch.cat([j2 @ d1, d2], -1)
        one, two, through = (least(a) for a in (d1, d2, j2))
        return (two + one * through) / least(whole)

    def least(a: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(a @ a.mT)[:, 0]

    source = generator(3)
    start = [torch.randn(32, 3, columns, dtype=torch.float64, generator=source) for columns in (3, 4, 4)]
    found = maximise(ratio, start, None, 400, 0.05, generator(4)).best
    evidence(INEQUALITY, "searched", "right / left, largest found", 1.0, found)
    assert found > 0.99  # sharp: attained where one vector is least for every factor


def test_every_critical_point_is_a_global_minimum_where_the_kernel_is_positive_definite(evidence) -> None:
    here, realised = of(NORMALISED)
    here.pl_inequality.verify()
    evidence(CRITICAL, "derived", "|grad ell|^2 >=", here.pl_inequality.expression)
    bound = lower_float(here.enclose(data_values(DATA)).lambda_min)
    labels = torch.arange(3)

    def parts(theta: torch.Tensor) -> torch.Tensor:
        """`|grad ell|^2 / |grad c|^2`, with the gradient of the cost by the outputs below."""
        outputs = realised(theta, DATA.X)
        loss = cross_entropy(outputs, labels).sum()
        inner, outer = torch.autograd.grad(loss, (theta, outputs), create_graph=True)
        return inner.square().sum(1) / outer.square().sum((1, 2))

    theta = torch.cat([draw(realised, 64, "gaussian", s, generator(5)) for s in (0.1, 1.0, 10.0)]).requires_grad_()
    least = float(parts(theta).detach().min())
    evidence(CRITICAL, "measured", "|grad ell|^2 / |grad c|^2 at 192 networks", bound, least, sense="lower")
    found = maximise(lambda t: 1 / parts(t), [theta.detach()], None, 100, 0.05, generator(6)).best
    evidence(CRITICAL, "searched", "|grad ell|^2 / |grad c|^2, least found", bound, 1 / found, sense="lower")
