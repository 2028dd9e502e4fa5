"""The worst-case rate of PEPit beside ours: never above the descent lemma, never below a member of the class, and how much is between."""

import math
import runpy
import sys

import numpy as np
import pytest
import sympy
import torch
from sympy import S
from torch import nn

from numerics.certify import certify
from numerics.convergence import performance
from numerics.convergence.performance import worst_case_rate
from theory.costs import SquaredError
from theory.landscape import Landscape, landscape
from theory.spec import parse

TOLERANCE = 1e-5
"""Absolute, on rates: ten times the accuracy that `worst_case_rate` accepts of the solver."""
RATIOS = (0.01, 0.2, 0.5, 0.9, 1.0)
"""`mu / beta`."""
RELATIVE_STEPS = (0.1, 0.5, 1.0, 1.5, 1.75, 1.95)
"""`eta beta`."""


@pytest.fixture
def pepit() -> None:
    """The tests that need the optional extra."""
    pytest.importorskip("PEPit", reason='PEPit is not installed: pip install "depthbound[pep]"')


def descent_lemma(smoothness: float, pl_constant: float, step_size: float) -> float:
    """`1 - mu eta (2 - beta eta)`, what a certificate of this project says of one step."""
    return 1 - pl_constant * step_size * (2 - smoothness * step_size)


def attained_by_a_quadratic(smoothness: float, pl_constant: float, step_size: float) -> float:
    """The factor of `x^2` with second derivative `mu` or `beta`, whichever is worse; both belong to the class."""
    return max((1 - step_size * pl_constant) ** 2, (1 - step_size * smoothness) ** 2)


def analytic(k: float, e: float) -> float:
    """Theorem 3 of Abbaszadehpeivasti, de Klerk and Zamani (arXiv 2204.00647) at `beta = 1`, `mu = k`, `eta = e`.

    The statement as PEPit's example of gradient descent under the Lojasiewicz inequality quotes it, lower curvature `-beta`, except that
    the square of the first case is taken of the whole quotient (which makes the first two cases agree at `e = 1`).
    """
    if e <= 1:
        return ((k * (1 - e) + math.sqrt(4 - 2 * (1 + k) * (2 - e) * k * e)) / (2 + k)) ** 2
    if e <= math.sqrt(3):
        return 1 - (4 - e**2) * k * e / (2 + k * e)
    return (e - 1) ** 2 / ((e - 1) ** 2 + k * e * (2 - e))


@pytest.mark.usefixtures("pepit")
@pytest.mark.parametrize("k", RATIOS)
@pytest.mark.parametrize("e", RELATIVE_STEPS)
def test_the_worst_case_lies_between_a_quadratic_and_the_descent_lemma(
    k: float, e: float, capsys: pytest.CaptureFixture
) -> None:
    beta = 7.0
    mu, eta = k * beta, e / beta
    rate = worst_case_rate(beta, mu, eta)
    assert rate <= descent_lemma(beta, mu, eta) + TOLERANCE
    assert rate >= attained_by_a_quadratic(beta, mu, eta) - TOLERANCE
    assert rate <= analytic(k, e) + TOLERANCE
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("pepit")
@pytest.mark.parametrize("k", RATIOS)
def test_for_long_steps_the_worst_case_is_the_analytic_rate(k: float) -> None:
    for e in (1.75, 1.95):
        assert worst_case_rate(1.0, k, e) == pytest.approx(analytic(k, e), abs=TOLERANCE)


@pytest.mark.usefixtures("pepit")
@pytest.mark.parametrize("k", [k for k in RATIOS if k < 1])
def test_at_the_certified_step_the_worst_case_is_better_than_the_analytic_rate(k: float) -> None:
    assert worst_case_rate(1.0, k, 1.0) < analytic(k, 1.0) - 10 * TOLERANCE


@pytest.mark.usefixtures("pepit")
def test_several_steps_contract_at_least_as_much_as_the_power_of_one() -> None:
    one = worst_case_rate(2.0, 0.4, 0.5)
    three = worst_case_rate(2.0, 0.4, 0.5, steps=3)
    assert attained_by_a_quadratic(2.0, 0.4, 0.5) ** 3 - TOLERANCE <= three <= one**3 + TOLERANCE


@pytest.mark.usefixtures("pepit")
def test_a_function_that_is_not_convex_obeys_the_rate() -> None:
    # ell = x^2 + 3 sin^2 x: second derivative 2 + 6 cos 2x in [-4, 8], infimum 0 at 0. Beyond the grid |ell'| >= 2 |x| - 3 and
    # ell <= x^2 + 3, so |ell'|^2 / (2 ell) is above 1.7 there; below it the quotient is near ell''(0) = 8
    x = np.linspace(1e-3, 30, 300_001)
    value, slope = x**2 + 3 * np.sin(x) ** 2, 2 * x + 3 * np.sin(2 * x)
    mu = float((slope**2 / (2 * value)).min())
    assert mu == pytest.approx(0.1755, abs=1e-4)
    after = x - slope / 8
    factor = float(((after**2 + 3 * np.sin(after) ** 2) / value).max())
    assert 0.95 < factor <= worst_case_rate(8.0, mu, 1 / 8) + TOLERANCE


def constants(spec: str, loss: float) -> tuple[float, float]:
    """`(beta, mu)` of a network under squared error on three whitened samples, on the set where the loss is at most `loss`.

    `hess ell = DF^T DF / N + <F - Y, D^2 F> / N` with `|F - Y| = sqrt(2 N ell)`; `|grad ell|^2 >= lambda |F - Y|^2 / N^2 = 2 (lambda / N) ell`.
    """
    here: Landscape = landscape(parse(spec), S(4), S(3), cost=SquaredError())
    found = here.enclose({"N": 3, "x_F": sympy.sqrt(3), "x_0": 1, "sigma": 1})
    beta = float(found.first.upper()) ** 2 / 3 + math.sqrt(2 * loss / 3) * float(found.second.upper())
    return beta, float(found.lambda_min.lower()) / 3


def compared(ours: float, worst: float) -> float:
    """How many of our steps one step in the worst case is worth: the quotient of the logarithms of the rates."""
    return math.log(worst) / math.log(ours)


@pytest.mark.usefixtures("pepit")
@pytest.mark.parametrize("scale", ["1/4", "1/8"])
@pytest.mark.parametrize("loss", [0.01, 1.0])
def test_the_rate_of_a_residual_network_loses_at_most_a_factor_two_against_the_worst_case(
    scale: str, loss: float
) -> None:
    spec = f"affine(4), residual(tanh, affine(4, weight_norm=frobenius, eps=1), scale({scale})), crop(2)"
    beta, mu = constants(spec, loss)
    assert 0 < mu < beta
    ours, worst = descent_lemma(beta, mu, 1 / beta), worst_case_rate(beta, mu, 1 / beta)
    lost = compared(ours, worst)
    message = f"beta {beta:.4g}, mu {mu:.4g}: ours {ours:.6f}, PEPit {worst:.6f}, ratio of the logarithms {lost:.4f}"
    # at eta = 1 / beta ours is 1 - mu/beta and a quadratic attains its square; the analytic rate is 2 (1 - k) / (2 + k)
    slack = TOLERANCE / (worst * -math.log(ours))
    assert worst <= ours + TOLERANCE, message
    assert lost <= 2 + slack, message
    assert lost >= compared(ours, analytic(mu / beta, 1.0)) - slack, message


@pytest.mark.usefixtures("pepit")
def test_a_linear_network_on_whitened_data_is_a_quadratic_and_nothing_is_lost() -> None:
    beta, mu = constants("affine(4), crop(2)", 1.0)
    assert beta == pytest.approx(mu)
    for relative in (0.5, 1.5):
        ours = descent_lemma(beta, mu, relative / beta)
        assert worst_case_rate(beta, min(mu, beta), relative / beta) == pytest.approx(ours, abs=TOLERANCE)


@pytest.mark.usefixtures("pepit")
def test_the_certificate_of_a_module_is_handed_over_as_it_is() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 1024), nn.Tanh(), nn.Linear(1024, 2)).double()
    for parameter in model[2].parameters():
        nn.init.zeros_(parameter)
    data = 8 * torch.eye(3, 8, dtype=torch.float64), torch.tensor([0, 1, 0])
    certificate = certify(model, "squared_error", None, data, radius=0.5)
    assert certificate.rate is not None, certificate.reason
    worst = worst_case_rate(
        certificate.smoothness_constant, certificate.tangent_kernel_ball / certificate.samples, certificate.step_size
    )
    lost = compared(certificate.rate, worst)
    assert 1 < lost <= 2, f"ours {certificate.rate:.6f}, PEPit {worst:.6f}, ratio of the logarithms {lost:.4f}"


GOOD = {"smoothness": 2.0, "pl_constant": 0.5, "step_size": 0.5, "steps": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"smoothness": 0.0}, "smoothness = 0.0"),
        ({"smoothness": math.inf}, "smoothness = inf"),
        ({"pl_constant": -0.5}, "pl_constant = -0.5"),
        ({"pl_constant": 0.0}, "pl_constant = 0.0"),
        ({"pl_constant": math.nan}, "pl_constant = nan"),
        ({"pl_constant": 2.5}, r"pl_constant = 2.5: .* at most the smoothness constant 2.0"),
        ({"step_size": 0.0}, "step_size = 0.0"),
        ({"step_size": -0.1}, "step_size = -0.1"),
        ({"step_size": 1.0}, "step_size = 1.0: .* 2 / smoothness = 1.0"),
        ({"steps": 0}, "steps = 0"),
        ({"steps": 1.5}, "steps = 1.5"),
    ],
    ids=str,
)
def test_bad_input_is_refused_by_name(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        worst_case_rate(**GOOD | change)


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PEPit", None)
    without = runpy.run_path(performance.__file__)
    with pytest.raises(ImportError, match=r'pip install "depthbound\[pep\]"'):
        without["worst_case_rate"](**GOOD)


@pytest.mark.usefixtures("pepit")
def test_a_solution_less_accurate_than_demanded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance, "ACCURACY", 1e-16)
    with pytest.raises(ArithmeticError, match=r"must agree to 1e-16.*mu / beta = 0.25"):
        worst_case_rate(**GOOD)


@pytest.mark.usefixtures("pepit")
@pytest.mark.parametrize(
    ("value", "words"), [(1.2, "no rate lies outside"), (0.1, "no rate lies outside"), (None, "dual value None")]
)
def test_what_no_rate_can_be_is_not_returned(value: float | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(performance.PEP):
        def solve(self, **options: object) -> float | None:
            super().solve(**options)
            self.objective.eval = lambda: value
            return value

    monkeypatch.setattr(performance, "PEP", Broken)
    with pytest.raises(ArithmeticError, match=words):
        worst_case_rate(**GOOD)


@pytest.mark.usefixtures("pepit")
def test_a_solver_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise performance.SolverError("no")

    monkeypatch.setattr(performance.PEP, "solve", fail)
    with pytest.raises(ArithmeticError, match="the solver failed"):
        worst_case_rate(**GOOD)
