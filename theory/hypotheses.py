"""The conditions of the convergence theorems, each an entry with a bound that decides it; one that fails is named, with the layer it speaks of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sympy import S

from theory import symbols
from theory.atoms.base import EVERYWHERE
from theory.bound import Assumption, Bound
from theory.compose import Parallel, collapse, leaves, regularity
from theory.costs import CrossEntropy, SquaredError
from theory.derive import derive
from theory.evaluate import Values, enclose, lower_float, upper_float
from theory.landscape import Landscape, data_features
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
