"""Theorem 1: gradient descent with a fixed step under cross-entropy reaches the global optimum, which lies at infinity, from every start.

Where `lambda_min(DF DF^T) >= lambda > 0` and `|hess ell| <= beta` hold everywhere and `eta <= 1/beta`,

    ell_{t+1} <= ell_t - (eta/2) lambda K/((K-1) N^2) m_N(ell_t),      limsup t ell_t <= 2 (K-1) N / (eta lambda K).

Every hypothesis is an entry of the certificate with its value; one that fails is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import flint
import sympy
from sympy import S, Symbol

from theory import symbols
from theory.atoms.base import EVERYWHERE
from theory.bound import Assumption, Bound, Step
from theory.compose import Parallel, collapse, leaves, regularity
from theory.costs import CrossEntropy, exact_least_split
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
        value = upper_float(ball) if self.needs == "finite" else lower_float(ball)
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


def hypotheses(landscape: Landscape) -> tuple[Hypothesis, ...]:
    """The conditions of Theorem 1 for a network, each as a bound that must be positive or finite."""
    found: list[Hypothesis] = [
        Hypothesis("labels", "the cost is cross-entropy with at least two classes", _classes(landscape)),
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
    classes = landscape.cost.classes if isinstance(landscape.cost, CrossEntropy) else S.One
    value = classes - 1
    return Bound.lower(value if not value.is_negative else S.Zero, quantity="K - 1", source="cost")


def _everywhere(landscape: Landscape) -> Bound:
    everywhere = landscape.domain == EVERYWHERE
    return Bound.lower(
        1 if everywhere else 0, quantity="domain is all of parameter space", source=str(landscape.domain)
    )


def descent_steps() -> tuple[Step, ...]:
    """The proof's own links: the descent inequality at `eta <= 1/beta`, and the asymptotic rate from `m_N ~ N gamma^2`."""
    eta, beta, g = Symbol("eta", positive=True), Symbol("beta", positive=True), Symbol("g", nonnegative=True)
    n, value = Symbol("N", positive=True), Symbol("gamma", positive=True)
    decrease = eta * g**2 - beta * eta**2 * g**2 / 2
    gap = sympy.factor(decrease.subs(beta, 1 / eta) - eta / 2 * g**2)
    series = sympy.limit(n * (1 - sympy.exp(-value)) ** 2 / value**2, value, 0)
    return (
        Step(
            "descent lemma: ell(theta - eta g) <= ell - eta |g|^2 + (beta eta^2 / 2) |g|^2, which is ell - (eta/2) |g|^2 at beta eta = 1",
            (gap,),
        ),
        Step(
            "the decrease grows with smaller beta, so beta eta <= 1 suffices",
            (sympy.diff(decrease, beta) + eta**2 * g**2 / 2,),
        ),
        Step(
            "m_N(gamma) / gamma^2 -> N as gamma -> 0 (equal split is the least there), hence limsup t ell_t <= 1 / (slope N)",
            (series - n,),
        ),
    )


@dataclass(frozen=True)
class Certificate:
    """Theorem 1 for one network on one set of data: hypotheses with values, constants as balls, step size, rate and envelope.

    Attributes:
        checked: every hypothesis with its value.
        certified: whether all hold.
        constants: enclosures of the landscape's constants.
        step_size: the largest float `eta` that certainly is at most `1 / beta`; 0 where not certified.
        decrease: lower float of `(eta/2) lambda K / ((K-1) N^2)`, the factor of `m_N` in the recursion.
        rate: upper float of `2 (K-1) N / (eta lambda K)`, the limit superior of `t ell_t`.
        samples: `N`.
    """

    checked: tuple[CheckedHypothesis, ...]
    constants: Enclosures
    step_size: float
    decrease: float
    rate: float
    samples: int

    @property
    def certified(self) -> bool:
        return all(c.holds for c in self.checked)

    @property
    def failing(self) -> tuple[CheckedHypothesis, ...]:
        return tuple(c for c in self.checked if not c.holds)

    def envelope(self, start: float, steps: int) -> list[float]:
        """Certified upper bounds of `ell_0 .. ell_steps` from `ell_0 <= start`, each rounded up.

        The recursion map is non-decreasing (checked: `decrease N / 2 <= 1`, as `0 <= m_N' <= N / 2`), so bounds map to bounds.

        Raises:
            ValueError: where the network is not certified, naming the first hypothesis that fails.
        """
        if not self.certified:
            raise ValueError(f"no envelope: {self.failing[0]}")
        if not 0 <= start < float("inf"):
            raise ValueError(f"the start of an envelope, {start}, is no loss: give a finite number, at least 0")
        value, out = flint.arb(start), [start]
        for _ in range(steps):
            value = (value - flint.arb(self.decrease) * exact_least_split(self.samples, value)).upper()
            out.append(upper_float(value))
        return out


def _check_data(values: Values) -> None:
    """Refuse values that no matrix of data has; only what is certain, as values may be balls.

    Raises:
        ValueError: naming the symbol.
    """
    check_declarations(values)
    given = {str(key): exact_ball(value) for key, value in values.items()}
    for small, large in ((symbols.sigma, symbols.x_0), (symbols.x_0, symbols.x_F)):
        if small.name in given and large.name in given and given[small.name] > given[large.name]:
            raise ValueError(f"{small} > {large}: no data have a {_OF_DATA[small]} above their {_OF_DATA[large]}")


_OF_DATA = {symbols.sigma: "least singular value", symbols.x_0: "operator norm", symbols.x_F: "Frobenius norm"}


def certify(landscape: Landscape, values: Values) -> Certificate:
    """Check every hypothesis of Theorem 1 at concrete values and evaluate its constants rigorously.

    `values` gives every symbol: `N`, `x_0`, `x_F`, `sigma` of the data, and those of the description (`eps`, `c`, ...).

    Raises:
        ValueError: naming a symbol without value or with one that no data have, or an assumption of a bound that fails.
    """
    _check_data(values)
    checked = tuple(h.check(values) for h in hypotheses(landscape))
    constants = landscape.enclose(values)
    samples = enclose_expression(landscape.samples, values)
    number = int(float(samples.mid()))
    positive = all(c.holds for c in checked) and constants.smoothness.is_finite() and constants.lambda_min > 0
    if not positive:
        return Certificate(checked, constants, 0.0, 0.0, float("inf"), number)
    assert isinstance(landscape.cost, CrossEntropy)
    classes = enclose_expression(landscape.cost.classes, values)
    eta = lower_float(1 / constants.smoothness.upper())
    factor = classes / ((classes - 1) * samples**2)
    decrease = flint.arb(eta) / 2 * constants.lambda_min.lower() * factor
    monotone = Bound.lower(
        1 if decrease * samples / 2 <= 1 else 0,
        quantity="1 - decrease N / 2",
        source="0 <= m_N' <= N/2",
        steps=descent_steps(),
    )
    last = Hypothesis("envelope", "the recursion map is non-decreasing", monotone).check({})
    rate = 1 / (decrease.lower() * samples)
    return Certificate((*checked, last), constants, eta, lower_float(decrease), upper_float(rate), number)
