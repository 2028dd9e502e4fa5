"""Gradient descent reaches a global optimum from every start: with a fixed step, and linearly with a loss-proportional one.

Let `lambda_min(DF DF^T) >= lambda > 0` and `|hess ell(theta)| <= beta(ell(theta))` everywhere, with `beta` non-decreasing
(`theory.curvature`), and `|grad gamma|^2 >= m(gamma)` at outputs of cost `gamma`. If `eta_t <= 1 / beta(ell_t)`, the loss never exceeds
`ell_t` along the step, and

    ell_{t+1} <= ell_t - (eta_t / 2) lambda m(ell_t).

Cross-entropy has `m = K/((K-1) N^2) m_N`, of second order at 0, and its optimum at infinity. Theorem 1, fixed step `eta = 1 / sup beta`:
`limsup t ell_t <= 2 (K-1) N / (eta lambda K)`. Theorem 2, loss-proportional step `eta_t = 1 / beta(ell_t) ~ 1 / (C ell_t)`:
`limsup ell_{t+1} / ell_t <= 1 - lambda K / (2 (K-1) N C)`, a linear rate. Squared error has `m = 2 gamma / N`, and a linear rate with
either step: `1 - lambda / (N beta(ell_t))`; its fixed step is `1 / beta(ell_0)`.

Every hypothesis is an entry of the certificate with its value; one that fails is named.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import flint
import sympy
from sympy import S

from theory import symbols
from theory.bound import Bound
from theory.costs import CrossEntropy, SquaredError, equal_split, gamma
from theory.curvature import CrossEntropyCurvature, curvature_steps, squared_error_steps
from theory.evaluate import Values, check_declarations, enclose_expression, exact_ball, lower_float, upper_float
from theory.hypotheses import WITHOUT_KERNEL, CheckedHypothesis, Hypothesis, hypotheses
from theory.landscape import Enclosures, Landscape
from theory.proofs import descent_steps, proportional_steps, sublevel_steps
from theory.recursion import FIXED, Recursion


def rate_bounds(landscape: Landscape) -> tuple[Bound, ...]:
    """The theorems' rates in closed form, with the steps of their proofs; empty where a constant is infinite or zero.

    Cross-entropy: `limsup t ell_t` from above (Theorem 1), and from below the part of the loss that one loss-proportional step removes
    in the limit (Theorem 2). Squared error: that part, in the limit of small loss.
    """
    lam, n = landscape.tangent_kernel_lambda_min, landscape.samples
    first, second = landscape.first_derivative, landscape.second_derivative
    if lam.expression == 0 or S.Infinity in (first.expression, second.expression):
        return ()
    shared = {"domain": str(landscape.domain)}
    if isinstance(landscape.cost, SquaredError):
        part = Bound.lower(
            lam.expression * landscape.cost.domination(n) / 2 * n / first.expression**2,
            quantity="part of the loss that one step removes, as ell -> 0",
            source="eta = 1/beta(ell), beta -> |a|^2 / N, |grad gamma|^2 = 2 gamma / N",
            assumptions=tuple(dict.fromkeys(lam.assumptions + first.assumptions)),
            steps=(*squared_error_steps(), *sublevel_steps()),
            parents=(lam, first, landscape.cost.gradient_domination(n)),
            **shared,
        )
        return (part,)
    assert isinstance(landscape.cost, CrossEntropy)
    beta, dominated = landscape.smoothness_constant, landscape.cost.gradient_domination(n)
    # near 0 the loss obeys ell_{t+1} <= ell_t - (eta/2) order ell_t^2
    order = lam.expression * landscape.cost.domination(n) * sympy.limit(equal_split(n, gamma) / gamma**2, gamma, 0)
    fixed = Bound.upper(
        2 * beta.expression / order,
        quantity="limsup t ell_t",
        source="Theorem 1: eta = 1/beta",
        assumptions=tuple(dict.fromkeys(beta.assumptions + lam.assumptions + dominated.assumptions)),
        steps=descent_steps(),
        parents=(lam, beta, dominated),
        **shared,
    )
    if landscape.sample_wise:
        alone, norms = landscape.of_one_sample, {symbols.x_0: symbols.x_s, symbols.x_F: symbols.x_s}
        first, second = (b.substitute(norms) for b in (alone.first_derivative, alone.second_derivative))
    hessian, gradient = landscape.cost.small_losses()
    curvature = hessian * first.expression**2 + gradient * second.expression
    proportional = Bound.lower(
        order / (2 * curvature),
        quantity="part of the loss that one loss-proportional step removes, as ell -> 0",
        source="Theorem 2: eta_t = 1/beta(ell_t), beta(ell) <= C ell with C = 2 |a|^2 + sqrt2 lambda_max(M) of one sample",
        assumptions=tuple(
            dict.fromkeys(first.assumptions + second.assumptions + lam.assumptions + dominated.assumptions)
        ),
        steps=(*curvature_steps(), *proportional_steps()),
        parents=(lam, first, second, landscape.cost.sample_hessian(), dominated),
        **shared,
    )
    return fixed, proportional


@dataclass(frozen=True)
class Certificate:
    """The theorems for one network on one set of data: hypotheses with values, constants as balls, steps, rates and envelopes.

    Attributes:
        checked: every hypothesis with its value.
        certified: whether all hold.
        constants: enclosures of the landscape's constants.
        recursion: the certified recursion, None where not certified.
        ledger: where all derivatives are bounded everywhere, whether or not the network is certified: the recursion with no domination known beforehand. Its
            steps still descend, and a run proves its own loss with it from measured gradients (rule `posteriori`).
        step_size: Theorem 1's step, the largest float `eta` that certainly is at most `1 / sup beta`; 0 where not certified, and under squared
            error, whose fixed step depends on the start.
        decrease: lower float of `(eta/2) lambda K / ((K-1) N^2)`, the factor of `m_N` in the recursion of Theorem 1.
        rate: upper float of `2 (K-1) N / (eta lambda K)`, the limit superior of `t ell_t`.
        linear_rate: lower float of the part of the loss that a loss-proportional step removes, as the loss goes to 0 (Theorem 2).
        measured_rate: the same for steps chosen from the samples' residuals as well (Theorem 2 with residuals, the rule `posteriori`).
        samples: `N`.
    """

    checked: tuple[CheckedHypothesis, ...]
    constants: Enclosures
    recursion: Recursion | None
    step_size: float
    decrease: float
    rate: float
    samples: int
    ledger: Recursion | None = None

    @property
    def certified(self) -> bool:
        return all(c.holds for c in self.checked)

    @property
    def failing(self) -> tuple[CheckedHypothesis, ...]:
        return tuple(c for c in self.checked if not c.holds)

    @property
    def linear_rate(self) -> float:
        return 0.0 if self.recursion is None else self.recursion.linear_rate

    @property
    def measured_rate(self) -> float:
        return 0.0 if self.recursion is None else self.recursion.measured_rate

    def required(self) -> Recursion:
        """The recursion of a certificate that holds.

        Raises:
            ValueError: where the network is not certified, naming the first hypothesis that fails.
        """
        if self.recursion is None:
            raise ValueError(f"not certified: {self.failing[0]}")
        return self.recursion

    def envelope(self, start: float, steps: int, rule: str = FIXED) -> list[float]:
        """Certified upper bounds of `ell_0 .. ell_steps` from `ell_0 <= start`, each rounded up.

        The recursion maps bounds to bounds: its map is non-decreasing (the hypothesis "envelope").

        Raises:
            ValueError: where the network is not certified, naming the first hypothesis that fails.
        """
        if not self.certified:
            raise ValueError(f"no envelope: {self.failing[0]}")
        if not 0 <= start < float("inf"):
            raise ValueError(f"the start of an envelope, {start}, is no loss: give a finite number, at least 0")
        recursion = self.required()
        first = value = flint.arb(start)
        out = [start]
        for _ in range(steps):
            value = recursion.after(value, rule, first)
            out.append(upper_float(value))
        return out


def _check_data(values: Values) -> None:
    """Refuse values that no matrix of data has; only what is certain, as values may be balls.

    Raises:
        ValueError: naming the symbol.
    """
    check_declarations(values)
    given = {str(key): exact_ball(value) for key, value in values.items()}
    for small, large in (
        (symbols.sigma, symbols.x_0),
        (symbols.x_0, symbols.x_F),
        (symbols.sigma, symbols.x_s),
        (symbols.x_s, symbols.x_0),
    ):
        if small.name in given and large.name in given and given[small.name] > given[large.name]:
            raise ValueError(f"{small} > {large}: no data have a {_OF_DATA[small]} above their {_OF_DATA[large]}")


_OF_DATA = {
    symbols.sigma: "least singular value",
    symbols.x_0: "operator norm",
    symbols.x_F: "Frobenius norm",
    symbols.x_s: "largest norm of a sample",
}


def certify(landscape: Landscape, values: Values) -> Certificate:
    """Check every hypothesis of the theorems at concrete values and evaluate their constants rigorously.

    `values` gives every symbol: `N`, `x_0`, `x_F`, `sigma` of the data, and those of the description (`eps`, `c`, ...). Optional:
    `x_s`, the largest norm of a sample (`x_0` where it is not given).

    Raises:
        ValueError: naming a symbol without value or with one that no data have, or an assumption of a bound that fails.
    """
    _check_data(values)
    checked = tuple(h.check(values) for h in hypotheses(landscape))
    constants = landscape.enclose(values)
    samples = enclose_expression(landscape.samples, values)
    number = int(float(samples.mid()))
    holds = all(c.holds for c in checked) and bool(constants.lambda_min > 0)
    bounded = all(c.holds for c in checked if c.hypothesis.needs == "finite" or c.hypothesis.name in WITHOUT_KERNEL)
    curvature = landscape.curvature(values) if bounded else None
    if curvature is None:
        return Certificate(checked, constants, None, 0.0, 0.0, float("inf"), number)
    smoothness = constants.smoothness.upper().min(flint.arb(curvature.everywhere))
    eta = lower_float(1 / smoothness) if smoothness.is_finite() else 0.0
    ledger = Recursion(landscape.cost.name, number, curvature, 0.0, 0.0, eta)
    if not holds:
        return Certificate(checked, constants, None, 0.0, 0.0, float("inf"), number, ledger)
    lam = constants.lambda_min.lower()
    per_kernel = enclose_expression(landscape.cost.domination(landscape.samples), values)
    domination = lam * per_kernel
    if isinstance(landscape.cost, SquaredError):
        monotone = domination / 2 <= curvature(flint.arb(0))
        steps = sublevel_steps()
    else:
        assert isinstance(landscape.cost, CrossEntropy)
        assert isinstance(curvature, CrossEntropyCurvature)
        least = min(curvature.mean.at_zero, curvature.largest.at_zero)
        monotone = domination * samples <= min(least, 4 * curvature.everywhere)
        steps = descent_steps()
    recursion = replace(ledger, domination=lower_float(domination), lambda_min=lower_float(lam))
    envelope = Bound.lower(
        1 if monotone else 0, quantity="the recursion maps bounds to bounds", source="0 <= m_N' <= N h", steps=steps
    )
    last = Hypothesis("envelope", "the recursion map is non-decreasing", envelope).check({})
    checked = (*checked, last)
    if not last.holds:
        return Certificate(checked, constants, None, 0.0, 0.0, float("inf"), number, ledger)
    if isinstance(landscape.cost, SquaredError):
        return Certificate(checked, constants, recursion, 0.0, 0.0, float("inf"), number, ledger)
    decrease = flint.arb(eta) / 2 * domination
    rate = 1 / (decrease.lower() * samples)
    return Certificate(checked, constants, recursion, eta, lower_float(decrease), upper_float(rate), number, ledger)
