"""MacDonald et al. (NeurIPS 2023, arXiv 2210.05371): global convergence under cross-entropy, independent of depth.

Claim (abstract): a class of deep networks is trained by gradient descent to global optima even where these exist only at infinity. The
statement checked is Theorem 1 of this project (re-derived: fixed step `eta <= 1/beta`, from every start
`ell_{t+1} <= ell_t - (eta/2) lambda K/((K-1)N^2) m_N(ell_t)`); that the paper states the same constants is not claimed. Also its non-uniform
step lemma (reconstructed): `ell_{t+1} - inf <= (1 - mu eta (2 - beta eta)) (ell_t - inf)` where `|grad|^2 >= 2 mu (ell - inf)`.
"""

import sympy
import torch

from numerics.convergence.descent import descend
from numerics.datasets import data_values, digits
from numerics.device import generator
from numerics.ensembles import draw
from numerics.loss import Objective
from numerics.realise import realise
from numerics.search import maximise
from theory import symbols
from theory.convergence import certify
from theory.evaluate import lower_float
from theory.landscape import landscape
from theory.limits import depth_limit
from theory.proofs import descent_steps
from theory.records import Shape
from theory.spec import parse

DATA = digits(4, 0)
OPTIMA, LEMMA = "global-optima", "step-lemma"
BLOCK = "residual(tanh, affine(12, weight_norm=frobenius, eps=1), scale(1/{}))"


def spec(depth: int) -> str:
    return f"affine(12), repeat({depth}, {BLOCK.format(2 * depth)}), crop(10)"


def test_gradient_descent_stays_below_the_certified_envelope_from_every_start(evidence) -> None:
    certificate = certify(landscape(parse(spec(3)), DATA.features), data_values(DATA))
    assert certificate.certified
    assert all(step.verify() for step in descent_steps())
    evidence(OPTIMA, "derived", "limsup t ell_t, fixed step, 3 blocks of width 12 on 4 digits", certificate.rate)
    realised = realise(parse(spec(3)), Shape(64, 4))
    theta = torch.cat([draw(realised, 16, "gaussian", s, generator(0)) for s in (1e-2, 1.0, 1e2)])

    def run(start, steps):
        return descend(Objective(realised, DATA.X, DATA.labels), certificate.required(), start, steps=steps)

    measured = run(theta, 150)
    assert measured.holds
    evidence(OPTIMA, "measured", "loss / envelope from small, unit and huge starts", 1.0, measured.tightness)

    # search: the start whose loss after one certified step decreases least against what is certified
    def ratio(start):
        return run_one(realised, start, certificate.step_size)

    found = maximise(ratio, [theta], None, 30, 0.05, generator(1)).best
    evidence(OPTIMA, "searched", "one step's loss / start's loss, worst start found", 1.0, found)


def run_one(realised, start, eta):
    """`ell(theta - eta grad ell) / ell(theta)`, differentiable in `theta`."""
    from_loss = loss_of(realised, start)
    (gradient,) = torch.autograd.grad(from_loss.sum(), start, create_graph=True)
    return loss_of(realised, start - eta * gradient) / from_loss


def loss_of(realised, theta):
    outputs = realised(theta, DATA.X)
    return (outputs.logsumexp(-2) - outputs[:, DATA.labels, torch.arange(4)]).mean(-1)


def test_a_chain_is_not_certified_and_says_why(evidence) -> None:
    certificate = certify(landscape(parse("affine(12), tanh, affine(12), crop(10)"), DATA.features), data_values(DATA))
    assert not certificate.certified
    names = " ".join(str(c) for c in certificate.failing)
    assert "least singular value" in names
    assert "input_jacobian_norm is bounded" in names
    evidence(OPTIMA, "derived", "a plain chain fails this hypothesis", certificate.failing[0].hypothesis.statement)


def test_nothing_is_lost_with_depth_at_branch_scale_c_over_depth(evidence) -> None:
    deep = landscape(
        parse("affine(m), repeat(L, residual(tanh, affine(m, weight_norm=frobenius), scale(c/L))), crop(K)"), symbols.d
    )
    limit = depth_limit(deep.tangent_kernel_lambda_min, symbols.L)
    assert sympy.simplify(limit - symbols.sigma**2 * sympy.exp(-2 * symbols.c)) == 0
    evidence(OPTIMA, "derived", "lambda_min at branch scale c/L, limit in the depth", limit)
    values = data_values(DATA)
    kernels = {n: lower_float(landscape(parse(spec(n)), 64).enclose(values).lambda_min) for n in (2, 8, 32, 64)}
    at_limit = DATA.sigma_min**2 * float(sympy.exp(-1))
    assert abs(kernels[64] / at_limit - 1) < 0.01
    evidence(OPTIMA, "measured", "certified lambda at depth 64 / its limit", 1.0, kernels[64] / at_limit)


def test_order_one_over_t_is_attained_by_plain_logistic_regression(evidence) -> None:
    network = "affine(10)"
    certificate = certify(landscape(parse(network), DATA.features), data_values(DATA))
    assert certificate.certified
    realised = realise(parse(network), Shape(64, 4))
    start = torch.zeros(1, realised.size, dtype=torch.float64)
    run = descend(Objective(realised, DATA.X, DATA.labels), certificate.required(), start, steps=4000)
    product = [float(t * run.losses[t, 0]) for t in (1000, 2000, 4000)]
    assert product[2] > 0.5 * product[1] > 0  # t * loss neither explodes nor vanishes
    evidence(OPTIMA, "measured", "logistic regression: t * loss at t = 4000", certificate.rate, product[2])


def test_the_step_lemma_under_a_pl_inequality(evidence) -> None:
    eta, beta, mu, gap = sympy.symbols("eta beta mu gap", positive=True)
    squared_gradient = 2 * mu * gap
    after = gap - eta * squared_gradient + beta * eta**2 * squared_gradient / 2
    assert sympy.expand(after - (1 - mu * eta * (2 - beta * eta)) * gap) == 0
    evidence(LEMMA, "derived", "gap after one step / gap before", "1 - mu*eta*(2 - beta*eta)")


def test_no_quadratic_breaks_the_step_lemma_and_it_is_attained(evidence) -> None:
    """Diagonal quadratics: curvatures in `[mu, beta]`, a point, a step in `(0, 2/beta)`, sampled and then searched."""

    def ratio(curvature: torch.Tensor, point: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Measured part of the gap that a step leaves, over the part that the lemma allows."""
        h = 1e-3 + curvature.square()
        mu, beta = h.amin(1), h.amax(1)
        eta = 2 / beta * torch.sigmoid(step[:, 0])
        before = (h * point.square()).sum(1)
        after = (h * ((1 - eta[:, None] * h) * point).square()).sum(1)
        return after / before / (1 - mu * eta * (2 - beta * eta))

    source = generator(2)
    start = [torch.randn(512, *shape, dtype=torch.float64, generator=source) for shape in ((3,), (3,), (1,))]
    evidence(LEMMA, "measured", "gap left / gap allowed, largest of 512 quadratics", 1.0, float(ratio(*start).max()))
    found = maximise(ratio, start, None, 200, 0.05, generator(3)).best
    evidence(LEMMA, "searched", "gap left / gap allowed, largest found", 1.0, found)
    assert found > 0.99  # attained where all curvatures are equal
