"""MacDonald et al. (NeurIPS 2023, arXiv 2210.05371): global convergence under cross-entropy, independent of depth.

Claim (abstract): a class of deep networks is trained by gradient descent to global optima even where these exist only at infinity. The
statement checked is Theorem 1 of this project (re-derived: fixed step `eta <= 1/beta`, from every start
`ell_{t+1} <= ell_t - (eta/2) lambda K/((K-1)N^2) m_N(ell_t)`); that the paper states the same constants is not claimed. Also its non-uniform
step lemma (reconstructed): `ell_{t+1} - inf <= (1 - mu eta (2 - beta eta)) (ell_t - inf)` where `|grad|^2 >= 2 mu (ell - inf)`.
"""

import sympy
import torch

from numerics.datasets import digits
from numerics.descent import descend
from numerics.device import generator
from numerics.ensembles import draw
from numerics.family import data_values
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
BLOCK = "residual(tanh, affine(12, weight_norm=frobenius, eps=1), scale(1/{}))"


def spec(depth: int) -> str:
    return f"affine(12), repeat({depth}, {BLOCK.format(2 * depth)}), crop(10)"


def test_gradient_descent_stays_below_the_certified_envelope_from_every_start(leave) -> None:
    certificate = certify(landscape(parse(spec(3)), DATA.features), data_values(DATA))
    assert certificate.certified
    assert all(step.verify() for step in descent_steps())
    leave("Theorem 1: limsup t ell_t", "derived", certificate.rate)
    realised = realise(parse(spec(3)), Shape(64, 4))
    theta = torch.cat([draw(realised, 16, "gaussian", s, generator(0)) for s in (1e-2, 1.0, 1e2)])

    def run(start, steps):
        return descend(Objective(realised, DATA.X, DATA.labels), certificate.required(), start, steps=steps)

    measured = run(theta, 150)
    assert measured.holds
    leave("loss / envelope from small, unit and huge starts", "measured", 1.0, measured.tightness)

    # search: the start whose loss after one certified step decreases least against what is certified
    def ratio(start):
        return run_one(realised, start, certificate.step_size)

    found = maximise(ratio, [theta], None, 30, 0.05, generator(1)).best
    leave("one step's loss / start's loss, worst start found", "searched", 1.0, found)


def run_one(realised, start, eta):
    """`ell(theta - eta grad ell) / ell(theta)`, differentiable in `theta`."""
    from_loss = loss_of(realised, start)
    (gradient,) = torch.autograd.grad(from_loss.sum(), start, create_graph=True)
    return loss_of(realised, start - eta * gradient) / from_loss


def loss_of(realised, theta):
    outputs = realised(theta, DATA.X)
    return (outputs.logsumexp(-2) - outputs[:, DATA.labels, torch.arange(4)]).mean(-1)


def test_a_chain_is_not_certified_and_says_why(leave) -> None:
    certificate = certify(landscape(parse("affine(12), tanh, affine(12), crop(10)"), DATA.features), data_values(DATA))
    assert not certificate.certified
    names = " ".join(str(c) for c in certificate.failing)
    assert "least singular value" in names
    assert "input_jacobian_norm is bounded" in names
    leave("a plain chain fails its hypotheses by name", "derived", certificate.failing[0].hypothesis.statement)


def test_nothing_is_lost_with_depth_at_branch_scale_c_over_depth(leave) -> None:
    deep = landscape(
        parse("affine(m), repeat(L, residual(tanh, affine(m, weight_norm=frobenius), scale(c/L))), crop(K)"), symbols.d
    )
    limit = depth_limit(deep.tangent_kernel_lambda_min, symbols.L)
    assert sympy.simplify(limit - symbols.sigma**2 * sympy.exp(-2 * symbols.c)) == 0
    leave("lambda -> sigma^2 e^{-2c}", "derived", limit)
    values = data_values(DATA)
    kernels = {n: lower_float(landscape(parse(spec(n)), 64).enclose(values).lambda_min) for n in (2, 8, 32, 64)}
    at_limit = DATA.sigma_min**2 * float(sympy.exp(-1))
    assert abs(kernels[64] / at_limit - 1) < 0.01
    leave("certified lambda at depth 64 / its limit", "measured", 1.0, kernels[64] / at_limit)


def test_order_one_over_t_is_attained_by_plain_logistic_regression(leave) -> None:
    network = "affine(10)"
    certificate = certify(landscape(parse(network), DATA.features), data_values(DATA))
    assert certificate.certified
    realised = realise(parse(network), Shape(64, 4))
    start = torch.zeros(1, realised.size, dtype=torch.float64)
    run = descend(Objective(realised, DATA.X, DATA.labels), certificate.required(), start, steps=4000)
    product = [float(t * run.losses[t, 0]) for t in (1000, 2000, 4000)]
    assert product[2] > 0.5 * product[1] > 0  # t * loss neither explodes nor vanishes
    leave("logistic regression: t * loss below the certified rate", "measured", certificate.rate, product[2])


def test_the_step_lemma_under_a_pl_inequality(leave) -> None:
    eta, beta, mu, gap = sympy.symbols("eta beta mu gap", positive=True)
    squared_gradient = 2 * mu * gap
    after = gap - eta * squared_gradient + beta * eta**2 * squared_gradient / 2
    assert sympy.expand(after - (1 - mu * eta * (2 - beta * eta)) * gap) == 0
    leave("step lemma: (1 - mu eta (2 - beta eta))", "derived", "identity")
