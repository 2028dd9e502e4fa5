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

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import flint
import sympy
from sympy import S, Symbol

from theory import symbols
from theory.atoms.base import EVERYWHERE
from theory.bound import Assumption, Bound, Step, gap
from theory.compose import Parallel, collapse, leaves, regularity
from theory.costs import CrossEntropy, SquaredError, exact_least_split
from theory.curvature import CrossEntropyCurvature, Curvature, Weights
from theory.derive import derive
from theory.evaluate import (
    Values,
    check_declarations,
    enclose,
    enclose_expression,
    exact_ball,
    lower_float,
    upper_float,
)
from theory.landscape import Enclosures, Landscape, data_features
from theory.network import Chain, Network, Repeat
from theory.records import Shape
from theory.spec import describe


@dataclass(frozen=True)
class Hypothesis:
    """One condition of the theorem, as a bound that must be positive (a lower one) or finite (an upper one).

    Attributes:
        name: short name by which a failure is reported.
        statement: the condition in words.
        bound: what decides.
        member, quantity, shape: the part of the network it speaks of, which of its quantities, and the shape of that part's input;
            None and empty for a hypothesis of the data, the labels or the domain.
        before: the members in front of that part (of the first layer: without parameters).
    """

    name: str
    statement: str
    bound: Bound
    member: Network | None = None
    quantity: str = ""
    shape: Shape | None = None
    before: tuple[Network, ...] = ()

    @property
    def needs(self) -> str:
        return "finite" if self.bound.sense == "upper" else "positive"

    def symbolic_status(self) -> bool | None:
        """True or False where the expression decides by itself, None where it takes values."""
        if self.needs == "finite":
            return self.bound.expression is not S.Infinity
        if self.bound.expression == 0:
            return False
        return True if self.bound.expression.is_positive else None

    def check(self, values: Values) -> CheckedHypothesis:
        """Decide the hypothesis at given values."""
        try:
            ball = enclose(self.bound, values)
        except ValueError as error:
            return CheckedHypothesis(self, None, False, str(error))
        holds = bool(ball.is_finite()) if self.needs == "finite" else bool(ball > 0)
        # adding zero turns -0.0 into 0.0
        value = upper_float(ball) if self.needs == "finite" else lower_float(ball) + 0.0
        return CheckedHypothesis(self, value, holds, "")


@dataclass(frozen=True)
class CheckedHypothesis:
    """A hypothesis with its value and verdict; `reason` says why no value could be had."""

    hypothesis: Hypothesis
    value: float | None
    holds: bool
    reason: str

    def __str__(self) -> str:
        value = self.reason if self.value is None else f"{self.value:.6g}"
        return f"{'holds' if self.holds else 'FAILS'}: {self.hypothesis.name}: {self.hypothesis.statement} ({value})"


def _members(network: Network) -> Iterator[Network]:
    """Top-level members in order, concrete repetitions unrolled."""
    if isinstance(network, Chain):
        for member in network.members:
            yield from _members(member)
    elif isinstance(network, Repeat) and network.times.is_Integer:
        for member in network.unrolled().members:
            yield from _members(member)
    else:
        yield network


WITHOUT_KERNEL = ("labels", "unbounded domain")
"""Hypotheses, beside those of bounded derivatives, that a run's own proof rests on as well."""


def hypotheses(landscape: Landscape) -> tuple[Hypothesis, ...]:
    """The conditions of the theorems for a network, each as a bound that must be positive or finite."""
    found: list[Hypothesis] = [
        Hypothesis(
            "labels", "the cost is squared error, or cross-entropy with at least two classes", _classes(landscape)
        ),
        Hypothesis("unbounded domain", "bounds hold on all of parameter space", _everywhere(landscape)),
        Hypothesis(
            "X_0 of full column rank",
            "sigma = sigma_N(X_0) > 0",
            Bound.lower(
                symbols.sigma,
                quantity="sigma_N(X_0)",
                source="data",
                assumptions=(
                    Assumption(landscape.samples, "<=", landscape.features, "more samples than features: sigma_N = 0"),
                ),
            ),
        ),
    ]
    known = data_features(landscape.features, landscape.samples)
    first = True
    before: tuple[Network, ...] = ()
    for number, member in enumerate(_members(landscape.network), start=1):
        here, start = derive(member, known, landscape.domain), len(found)
        where = f"layer {number}, {describe(member)}"
        if first and any(leaf.has_parameters for leaf in leaves(here.tree)):
            first = False
            kernel = regularity(here.tree).lambda_min.named("tangent_kernel_lambda_min")
            found.append(
                Hypothesis(f"first layer: {where}", "its tangent kernel is positive definite on the data", kernel)
            )
            record = collapse(here.tree, landscape.samples)
            for bound in (record.param_jacobian_norm, record.param_param):
                found.append(Hypothesis(f"first layer: {where}", f"{bound.quantity} is bounded", bound))
        elif not first:
            low, record = regularity(here.tree), collapse(here.tree, landscape.samples)
            statement = (
                "branch slope kappa < least singular value s of the skip"
                if isinstance(here.tree, Parallel)
                else "least singular value s > 0"
            )
            found.append(Hypothesis(where, statement, low.sigma_min.named("input_jacobian_sigma_min")))
            for name in ("input_jacobian_norm", "param_jacobian_norm", "input_input", "input_param", "param_param"):
                found.append(Hypothesis(where, f"{name} is bounded", getattr(record, name)))
        found[start:] = [
            replace(h, member=member, quantity=h.bound.quantity, shape=known.shape, before=before)
            for h in found[start:]
        ]
        known, before = here.output, (*before, member)
    if first:
        zero = Bound.lower(0, quantity="tangent_kernel_lambda_min", source="no parameters")
        found.append(Hypothesis("parameters", "the network has parameters", zero))
    return tuple(found)


def _classes(landscape: Landscape) -> Bound:
    if isinstance(landscape.cost, SquaredError):
        return Bound.lower(1, quantity="targets of any kind", source="cost")
    value = landscape.cost.classes - 1 if isinstance(landscape.cost, CrossEntropy) else S.Zero
    return Bound.lower(value if not value.is_negative else S.Zero, quantity="K - 1", source="cost")


def _everywhere(landscape: Landscape) -> Bound:
    everywhere = landscape.domain == EVERYWHERE
    return Bound.lower(
        1 if everywhere else 0, quantity="domain is all of parameter space", source=str(landscape.domain)
    )


@lru_cache(maxsize=1)
def sublevel_steps() -> tuple[Step, ...]:
    """A step of at most `1 / beta(ell_t)` stays in the sublevel set of its start, so that no growth factor is needed."""
    eta, beta, g = Symbol("eta", positive=True), Symbol("beta", positive=True), Symbol("g", nonnegative=True)
    tau, spare = Symbol("tau", positive=True), Symbol("s", nonnegative=True)
    along = -tau * g**2 + beta * tau**2 * g**2 / 2
    decrease = eta * g**2 - beta * eta**2 * g**2 / 2
    return (
        Step(
            "phi(tau) = ell(theta - tau grad ell) has phi'(0) = -|grad ell|^2, and phi'' <= beta(ell_t) |grad ell|^2 as long as phi <= ell_t "
            "(beta is non-decreasing), so phi(tau) - ell_t <= -tau |g|^2 + beta tau^2 |g|^2 / 2 there",
            (gap(sympy.diff(along, tau).subs(tau, 0), -(g**2)), gap(sympy.Derivative(along, tau, 2), beta * g**2)),
        ),
        Step(
            "that is -(tau/2) (2 - beta tau) |g|^2, negative for 0 < tau < 2 / beta: phi cannot come back to ell_t before, so phi <= ell_t up to there",
            (gap(along, -(tau / 2 * (2 - beta * tau) * g**2)),),
        ),
        Step(
            "at tau = eta with beta eta = 1 - s, s >= 0, the decrease is at least (eta/2) |g|^2",
            (gap(decrease.subs(beta, (1 - spare) / eta) - eta / 2 * g**2, spare * eta * g**2 / 2),),
            (spare * eta * g**2 / 2,),
        ),
    )


@lru_cache(maxsize=1)
def envelope_steps() -> tuple[Step, ...]:
    """Upper bounds of the loss map to upper bounds: `ell <= E` gives `ell_{t+1} <= E - (eta(E)/2) lambda m(E)`."""
    x, gamma, n = Symbol("x", positive=True), Symbol("gamma", positive=True), Symbol("N", positive=True)
    mass = 1 - sympy.exp(-gamma)
    q, y = sympy.symbols("q y", nonnegative=True)
    return (
        Step(
            "m_N' <= N h: equal split has N d/dgamma (1 - e^{-gamma})^2 = 2 N q (1 - q), at most N/2",
            (
                (gap(sympy.Derivative(n * mass**2, gamma), 2 * n * mass * (1 - mass))),
                (gap(n / 2 - 2 * n * x * (1 - x), n / 2 * (1 - 2 * x) ** 2)),
            ),
        ),
        Step(
            "the other candidate has m_N' = N 2 x (1 - x) with x = e^{-a} >= 1/2, a <= gamma, which is N h(a) <= N h(gamma)",
            # Lagrange: all samples share the slope h' = 2 x (1 - x) of (1 - e^{-c})^2, and sum c_i = N gamma
            (gap(sympy.diff((1 - sympy.exp(-gamma)) ** 2, gamma).subs(gamma, -sympy.log(x)), 2 * x * (1 - x)),),
        ),
        Step(
            "beta(E) >= (outer + slope / 2) h(E), as q >= h / 2: q - q (1 - q) = q^2, and 1/2 - 1/4 >= 0 beyond q = 1/2",
            (gap(q - q * (1 - q), q**2),),
            (q**2, y + S.Half - sympy.Rational(1, 4)),
        ),
        Step(
            "so where lambda K / ((K-1) N) <= 2 outer + slope, ell - (lambda m(ell)) / (2 beta(E)) is non-decreasing in ell <= E, and largest at E; "
            "beta(ell) <= beta(E) only lowers it"
        ),
    )


@lru_cache(maxsize=1)
def descent_steps() -> tuple[Step, ...]:
    """Theorem 1's links: the descent inequality at `eta <= 1/beta`, and the asymptotic rate from `m_N ~ N gamma^2`."""
    n, value = Symbol("N", positive=True), Symbol("gamma", positive=True)
    series = sympy.Limit(n * (1 - sympy.exp(-value)) ** 2 / value**2, value, 0)
    t, slope, start = sympy.symbols("t a ell_0", positive=True)
    return (
        *sublevel_steps(),
        *envelope_steps(),
        Step(
            "m_N(gamma) / gamma^2 -> N as gamma -> 0 (equal split is the least there)",
            (gap(series, n),),
        ),
        Step(
            "ell_{t+1} <= ell_t - a ell_t^2 gives 1/ell_{t+1} >= 1/ell_t + a, hence limsup t ell_t <= 1 / a with a = (eta/2) lambda K / ((K-1) N)",
            (
                (gap(1 / (start - slope * start**2) - 1 / start, slope / (1 - slope * start))),
                gap(sympy.Limit(t / (1 / start + slope * t), t, sympy.oo), 1 / slope),
            ),
        ),
    )


@lru_cache(maxsize=1)
def proportional_steps() -> tuple[Step, ...]:
    """Theorem 2's links: `beta(ell) / ell -> C = 2 outer + slope`, so that one step removes a fixed part of the loss."""
    value, outer, slope, n = sympy.symbols("gamma outer slope N", positive=True)
    q = 1 - sympy.exp(-value)
    weight = outer * 2 * q * (1 - q) + slope * q
    lam, k = Symbol("lambda", positive=True), Symbol("K", positive=True)
    removed = lam * k / ((k - 1) * n**2) * n * q**2 / (2 * weight) / value
    return (
        *sublevel_steps(),
        *envelope_steps(),
        Step(
            "(outer h + slope q) / ell -> 2 outer + slope = C as ell -> 0",
            (gap(sympy.Limit(weight / value, value, 0), (2 * outer + slope)),),
        ),
        Step(
            "(eta/2) lambda m(ell) / ell with eta = 1 / beta(ell) tends to lambda K / (2 (K-1) N C)",
            (gap(sympy.Limit(removed, value, 0), lam * k / (2 * (k - 1) * n * (2 * outer + slope))),),
        ),
    )


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
            lam.expression / first.expression**2,
            quantity="part of the loss that one step removes, as ell -> 0",
            source="eta = 1/beta(ell), beta -> |a|^2 / N, |grad gamma|^2 = 2 gamma / N",
            assumptions=tuple(dict.fromkeys(lam.assumptions + first.assumptions)),
            steps=sublevel_steps(),
            parents=(lam, first, landscape.cost.gradient_domination(n)),
            **shared,
        )
        return (part,)
    assert isinstance(landscape.cost, CrossEntropy)
    k, beta = landscape.cost.classes, landscape.smoothness_constant
    dominated = landscape.cost.gradient_domination(n)
    fixed = Bound.upper(
        2 * (k - 1) * n * beta.expression / (k * lam.expression),
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
    curvature = 2 * first.expression**2 + sympy.sqrt(2) * second.expression
    proportional = Bound.lower(
        lam.expression * k / (2 * (k - 1) * n * curvature),
        quantity="part of the loss that one loss-proportional step removes, as ell -> 0",
        source="Theorem 2: eta_t = 1/beta(ell_t), beta(ell) <= C ell with C = 2 |a|^2 + sqrt2 lambda_max(M) of one sample",
        assumptions=tuple(
            dict.fromkeys(first.assumptions + second.assumptions + lam.assumptions + dominated.assumptions)
        ),
        steps=(*_curvature_steps(), *proportional_steps()),
        parents=(lam, first, second, landscape.cost.sample_hessian(), dominated),
        **shared,
    )
    return fixed, proportional


def _curvature_steps() -> tuple[Step, ...]:
    from_nothing = Weights(0.0, 0.0)
    return CrossEntropyCurvature(from_nothing, from_nothing, 1, 0.0).steps()


@lru_cache(maxsize=1)
def residual_steps() -> tuple[Step, ...]:
    """Theorem 2 with the samples' measured residuals: a step may also be `min(k / (sqrt2 |DF_i| |g|), 1 / beta)` with `beta` by the largest `q_i e^k`."""
    c, rate, tau = sympy.symbols("c v tau", positive=True)
    odds = sympy.exp(c) - 1
    lam, n, x, q, curvature, growth = sympy.symbols("D N x q C e_k", positive=True)
    others = (n - x) / (n - 1)
    y = Symbol("y", nonnegative=True)
    spread = (x**2 + (n - 1) * others**2) / n
    return (
        Step(
            "along a step |dc_i| <= sqrt2 q_i |DF_i| |g| dtau = v q_i dtau, and the odds e^c - 1 = q e^c then grow at most at the rate v: by e^k while tau <= k / v",
            (
                (gap(sympy.Derivative(odds, c) * rate * (1 - sympy.exp(-c)), rate * odds)),
                gap(sympy.Derivative(sympy.exp(rate * tau), tau), rate * sympy.exp(rate * tau)),
            ),
        ),
        Step(
            "odds grown by e^k give q' = e^k q / (1 + (e^k - 1) q) <= e^k q",
            (
                (
                    gap(
                        growth * q - growth * q / (1 + (growth - 1) * q),
                        growth * q**2 * (growth - 1) / (1 + (growth - 1) * q),
                    )
                ),
            ),
        ),
        Step(
            "of all q_i with mean Q and largest x Q, equal others have the least sum of squares, N Q^2 S with S = (x^2 + (N-x)^2/(N-1))/N = 1 + (x-1)^2/(N-1)",
            (gap(spread - 1, (x - 1) ** 2 / (n - 1)),),
        ),
        Step(
            "removed part at eta = 1/beta, beta = C e^k x Q: (eta/2) D N Q^2 S / Q = D N S / (2 C e^k x); at eta = k / (sqrt2 |DF_i| |g|) and |g| >= Q sqrt(D N S): "
            "(eta/2) |g|^2 / Q >= k sqrt(D N S) / (2 sqrt2 |DF_i|)",
            (
                (
                    gap(
                        lam * n * q**2 * y / (2 * curvature * growth * x * q) / q,
                        lam * n * y / (2 * curvature * growth * x),
                    )
                ),
            ),
        ),
        Step(
            "S increases with x and 1/x decreases: on [x_j, x_{j+1}] the part is at least that with S(x_j) and x_{j+1}; the least over x in [1, N] is the rate"
        ),
    )


ODDS_GROWTH = tuple(k / 8 for k in (0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16))
"""Logarithms of the growth of a sample's odds that a step measured a posteriori may allow for; the best one counts."""
PIECES = 400
"""Pieces of [1, N] on which the rate with measured residuals is bounded."""

FIXED, PROPORTIONAL, POSTERIORI = "fixed", "proportional", "posteriori"
RULES = (FIXED, PROPORTIONAL, POSTERIORI)
"""How a step is chosen: Theorem 1; Theorem 2; from what is measured along the run (`numerics.descent`)."""


@dataclass(frozen=True)
class Recursion:
    """`ell_{t+1} <= ell_t - (eta_t / 2) domination m(ell_t)` in doubles on their safe sides: all that a run needs of a certificate.

    Attributes:
        cost: "cross-entropy" or "squared error".
        samples: `N`.
        curvature: `beta`.
        domination: lower float of `lambda K / ((K-1) N^2)` (of `m_N`), under squared error of `2 lambda / N` (of `gamma`).
        lambda_min: lower float of `lambda` itself.
        fixed: Theorem 1's step, a float below `1 / sup beta`; 0 where `beta` is unbounded, and the fixed step depends on the start.
    """

    cost: str
    samples: int
    curvature: Curvature
    domination: float
    lambda_min: float
    fixed: float

    def step_size(self, loss: Any, rule: str, start: Any) -> Any:
        """`eta` at a loss (ball or tensor) of a run that started at the loss `start`; rounded down.

        Fixed: `1 / sup beta`, under squared error `1 / beta(start)`. Proportional: `1 / beta(loss)`.
        """
        if rule not in (FIXED, PROPORTIONAL):
            raise ValueError(f"rule {rule!r} has no step of the loss alone: known are {FIXED} and {PROPORTIONAL}")
        if rule == PROPORTIONAL:
            return (1 - 2.0**-50) / self.curvature(loss)
        if self.fixed:
            return 0 * start + self.fixed
        return (1 - 2.0**-50) / self.curvature(start)

    def dominated(self, loss: flint.arb) -> flint.arb:
        """`domination m(loss)`, at most `|grad ell|^2`."""
        m = exact_least_split(self.samples, loss) if self.cost == CrossEntropy.name else loss
        return flint.arb(self.domination) * m

    def after(self, loss: flint.arb, rule: str, start: flint.arb) -> flint.arb:
        """The upper end of `loss - (eta/2) domination m(loss)`."""
        return (loss - self.step_size(loss, rule, start) / 2 * self.dominated(loss)).upper()

    @property
    def linear_rate(self) -> float:
        """Lower float of the part of the loss that a proportional step removes, as the loss goes to 0."""
        if isinstance(self.curvature, CrossEntropyCurvature):
            part = flint.arb(self.domination) * self.samples / (2 * flint.arb(self.curvature.at_zero))
        else:
            part = flint.arb(self.domination) / (2 * self.curvature(flint.arb(0)))
        return lower_float(part)

    @property
    def measured_rate(self) -> float:
        """Lower float of the part of the loss that a step chosen from the samples' residuals removes, as the loss goes to 0.

        The least over `x = q_max / mean q` in [1, N] of the best of `D N S / (2 C)`, and for each growth `k` the smaller of
        `k sqrt(D N S) / (2 sqrt2 |DF_i|)` and `D N S / (2 C' e^k x)`; `S = 1 + (x-1)^2 / (N-1)`, `C, C'` the limits of `beta / ell` by the mean and by
        the largest residual (`residual_steps`). Under squared error it is `linear_rate`.
        """
        if not isinstance(self.curvature, CrossEntropyCurvature) or self.samples == 1 or self.domination == 0:
            return self.linear_rate
        d = flint.arb(self.domination) * self.samples
        mean, largest = flint.arb(self.curvature.at_zero), flint.arb(self.curvature.largest.at_zero)
        reach = 2 * flint.arb(2).sqrt() * flint.arb(self.curvature.first)
        grown = [(flint.arb(k), largest * flint.arb(k).exp()) for k in ODDS_GROWTH]
        ratio = (flint.arb(self.samples).log() / PIECES).exp()
        least, x = flint.arb.pos_inf(), flint.arb(1)
        for _ in range(PIECES):
            end = (x * ratio).upper()
            available = d * (1 + (x - 1) ** 2 / (self.samples - 1)).lower()
            best = available / (2 * mean)
            for k, steepest in grown:
                best = best.max((k * available.sqrt() / reach).min(available / (2 * steepest * end)))
            least, x = least.min(best.lower()), end
        return lower_float(least)


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
    if isinstance(landscape.cost, SquaredError):
        domination = 2 * lam / samples
        monotone = domination / 2 <= curvature(flint.arb(0))
        steps = sublevel_steps()
    else:
        assert isinstance(landscape.cost, CrossEntropy)
        assert isinstance(curvature, CrossEntropyCurvature)
        classes = enclose_expression(landscape.cost.classes, values)
        domination = lam * classes / ((classes - 1) * samples**2)
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
