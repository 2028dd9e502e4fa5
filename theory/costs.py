"""Costs: cross-entropy and squared error, and every fact about them that curvature and convergence need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import flint
import sympy
from sympy import Expr, S, Symbol

from theory import symbols
from theory.atoms.softmax import softmax_constants
from theory.bound import Assumption, Bound, Step, gap
from theory.suprema import supremum

gamma = Symbol("gamma", positive=True)
"""A value of the mean loss."""
q = Symbol("q", nonnegative=True)
"""`1 - p_y`, the probability that the softmax gives to the wrong classes of one sample."""


class Cost(ABC):
    """A cost `gamma` on outputs (classes x samples), averaged over samples; its infimum is 0."""

    name: str

    @abstractmethod
    def smoothness(self, samples: Expr) -> Bound:
        """Upper bound of the largest eigenvalue of the Hessian of `gamma`."""

    @abstractmethod
    def gradient_norm(self, samples: Expr) -> Bound:
        """Upper bound of `|grad gamma|` over all outputs, `oo` where it is unbounded."""

    @abstractmethod
    def sample_gradient(self) -> Bound:
        """Upper bound of `|grad c|` for the cost `c` of one sample, not divided by `N`."""

    @abstractmethod
    def third_derivative(self) -> Bound:
        """Upper bound of the third derivative's norm for the cost of one sample, not divided by `N`."""

    @abstractmethod
    def domination(self, samples: Expr) -> Expr:
        """The factor in `|grad gamma|^2 >= factor m`, with `m = m_N(gamma)` under cross-entropy and `m = gamma` under squared error."""

    @abstractmethod
    def gradient_domination(self, samples: Expr) -> Bound:
        """Lower bound of `|grad gamma|^2` in terms of the value `gamma` (a symbol)."""


@lru_cache(maxsize=1)
def _gradient_steps() -> tuple[Step, ...]:
    """`grad c = p - e_y`, and its squared norm between `K/(K-1) q^2` and `2 q^2`."""
    z = sympy.symbols("z:3", real=True)
    cost = sympy.log(sum(sympy.exp(v) for v in z)) - z[0]
    p = [sympy.exp(v) / sum(sympy.exp(w) for w in z) for v in z]
    zeros = tuple(
        sympy.simplify(sympy.diff(cost, v) - (pk - (1 if k == 0 else 0)))
        for k, (v, pk) in enumerate(zip(z, p, strict=True))
    )
    a, b, k = sympy.symbols("a b K", positive=True)
    return (
        Step("grad c = p - e_y (checked for three classes)", zeros),
        Step(
            "sum_{k != y} p_k = q gives q^2/(K-1) <= sum p_k^2 (Cauchy-Schwarz) and sum p_k^2 <= q^2",
            (gap((a + b) ** 2 - a**2 - b**2, 2 * a * b),),
        ),
        Step("q^2 + q^2/(K-1) = K/(K-1) q^2", ((gap(q**2 + q**2 / (k - 1), k / (k - 1) * q**2)),)),
    )


@lru_cache(maxsize=1)
def _hessian_steps() -> tuple[Step, ...]:
    """The Hessian of one sample, `diag(p) - p p^T`, by Gershgorin's circles: at most `2 q (1 - q)` up to `q = 1/2`, and at most 1/2."""
    p, rest = sympy.symbols("p s", nonnegative=True)
    y, z = sympy.symbols("y z", nonnegative=True)
    # the wrong classes have q = (1 - z)/2 <= 1/2 in all, one of them q - y
    mass = (1 - z) / 2
    one = mass - y
    return (
        Step(
            "row of class k: p_k (1 - p_k) + sum over the others of p_k p_j = 2 p_k (1 - p_k) (Gershgorin)",
            ((sympy.expand(p * (1 - p) + p * rest - 2 * p * (1 - p)).subs(rest, 1 - p)),),
        ),
        Step(
            "2 p (1 - p) = 1/2 - (1 - 2 p)^2 / 2 <= 1/2",
            (gap(2 * p * (1 - p) - S.Half, -((1 - 2 * p) ** 2 / 2)),),
        ),
        Step(
            "the label's row is 2 q (1 - q); a wrong class with p <= q <= 1/2 gives no more: q (1 - q) - p (1 - p) = (q - p) (1 - p - q) >= 0",
            (gap(mass * (1 - mass) - one * (1 - one), y * (y + z)),),
            (y * (y + z),),
        ),
    )


@lru_cache(maxsize=1)
def concavity_steps() -> tuple[Step, ...]:
    """`q(c) = 1 - e^{-c}` and `h(c)`, the Hessian's bound, are concave in the loss `c` of a sample, so the means over samples are at most their values at the mean loss."""
    c, x = Symbol("c", positive=True), Symbol("x", positive=True)
    e = sympy.exp(-c)
    rising = 2 * (1 - e) * e
    s = Symbol("s", nonnegative=True)
    return (
        Step("q'' = -e^{-c} <= 0", (gap(sympy.Derivative(1 - e, c, 2), -(e)),), (e,)),
        Step(
            "h = 2 x (1 - x) with x = e^{-c} >= 1/2 has h'' = -2 x (4 x - 1) < 0",
            (gap(sympy.diff(rising, c, 2).subs(c, -sympy.log(x)), -(2 * x * (4 * x - 1))),),
            # 4 x - 1 >= 0 where x = 1/2 + s
            ((2 * x * (4 * x - 1)).subs(x, S.Half + s).expand(),),
        ),
        Step(
            "at x = 1/2 the slope h' = -2 x (1 - 2 x) vanishes, beyond h = 1/2 is constant: h is concave on all of c >= 0",
            (
                (gap(sympy.diff(rising, c).subs(c, -sympy.log(x)), -(2 * x * (1 - 2 * x)))),
                (-2 * x * (1 - 2 * x)).subs(x, S.Half),
                gap((2 * x * (1 - x)).subs(x, S.Half), S.Half),
            ),
        ),
        Step("Jensen: the mean of a concave function is at most its value at the mean"),
    )


@lru_cache(maxsize=1)
def split_steps() -> tuple[Step, ...]:
    """Where `sum (1 - e^{-c_i})^2` is least at a given mean: with `x = e^{-c}` its derivative is `h' = 2 x (1 - x)`."""
    c, x, y = Symbol("c", positive=True), Symbol("x", positive=True), Symbol("y", positive=True)
    h = (1 - sympy.exp(-c)) ** 2
    slope = sympy.diff(h, c).subs(c, -sympy.log(x))
    bend = sympy.diff(h, c, 2).subs(c, -sympy.log(x))
    return (
        Step(
            "h'(c) = 2 x (1 - x) with x = e^{-c}; it vanishes at c = 0, so no sample sits at 0 in a minimum",
            (gap(slope, 2 * x * (1 - x)),),
        ),
        Step(
            "h'(a) = h'(b) means x_a = x_b or x_a + x_b = 1",
            (gap(x * (1 - x) - y * (1 - y), (x - y) * (1 - x - y)),),
        ),
        Step(
            "h''(c) = 2 x (2 x - 1): concave for x < 1/2, so at most one sample lies there in a minimum",
            (gap(bend, 2 * x * (2 * x - 1)),),
        ),
    )


def equal_split(samples: Expr, value: Expr) -> Expr:
    """`N (1 - e^{-gamma})^2`: all samples at the mean. One of the two stationary candidates; alone it is NOT a lower bound."""
    return samples * (1 - sympy.exp(-value)) ** 2


def single_sample(samples: Expr, value: Expr) -> Expr:
    """`(1 - e^{-N gamma})^2`: all the loss on one sample. Not stationary and NOT a lower bound for any `N >= 2`."""
    return (1 - sympy.exp(-samples * value)) ** 2


def least_split(samples: Expr, value: Expr) -> Expr:
    """A closed lower bound of `m_N(gamma)` for `N >= 2`: `min{N (1-e^-gamma)^2, (1-q)^2 + (N-1) q^2}`, `q = min(1/N, e^{1 - N gamma})`."""
    if samples == 1:
        return equal_split(samples, value)
    away = sympy.Min(1 / samples, sympy.exp(1 - samples * value))
    return sympy.Min(equal_split(samples, value), (1 - away) ** 2 + (samples - 1) * away**2)


def least_split_steps() -> tuple[Step, ...]:
    """Why `least_split` lies below `m_N`."""
    n, t = Symbol("N", positive=True), Symbol("t", nonnegative=True)
    second = (1 - t) ** 2 + (n - 1) * t**2
    # (N-1) log(N/(N-1)) <= 1, as log(1+s) <= s; the supremum of log(1+s) - s over s >= 0 is 0
    s = Symbol("s", positive=True)
    top = supremum(sympy.log(1 + s) - s, s, S.Zero, S.Infinity)
    return (
        *split_steps(),
        Step(
            "second candidate with e^{-b} = t, e^{-a} = 1 - t: its value decreases in t up to 1/N, where it is least",
            (gap(sympy.Derivative(second, t), 2 * (n * t - 1)),),
        ),
        Step(
            "sup over s > 0 of log(1+s) - s is 0, so -(N-1) log(1-t) <= 1 for t <= 1/N, and t <= e^{1 - N gamma}",
            (top.value,),
        ),
    )


def exact_least_split(samples: int, value: flint.arb) -> flint.arb:
    """A ball containing `m_N(gamma) = inf { sum (1 - e^{-c_i})^2 : c_i >= 0, mean gamma }` itself.

    The two candidates: equal split, or one sample at `b` and the rest at `a` with `e^{-b} = t`, `e^{-a} = 1 - t`, where
    `-(N-1) log(1-t) - log t = N gamma`. The left side falls on `(0, 1/N]` and rises after, so there are at most two roots.
    """
    n = flint.arb(samples)
    best = n * (-(-value).expm1()) ** 2
    if samples == 1:
        return best

    def constraint(t: flint.arb) -> flint.arb:
        return -(n - 1) * (-t).log1p() - t.log() - n * value

    least = 1 / n
    if constraint(least) > 0:
        return best
    for low, high, falling in (((-n * value - 1).exp(), least, True), (least, 1 - (-n * value - 1).exp(), False)):
        low, high = low.mid(), high.mid()
        for _ in range(100):
            middle = ((low + high) / 2).mid()
            there = constraint(middle)
            if there > 0:
                low, high = (middle, high) if falling else (low, middle)
            elif there < 0:
                low, high = (low, middle) if falling else (middle, high)
            else:
                break
        t = low.union(high)
        best = best.min((1 - t) ** 2 + (n - 1) * t**2)
    return best


@dataclass(frozen=True)
class CrossEntropy(Cost):
    """Mean over samples of `-log softmax_y(z)` with `classes` classes."""

    classes: Expr = symbols.K
    name = "cross-entropy"

    def __post_init__(self) -> None:
        classes = sympy.sympify(self.classes)
        if classes.is_number and not (classes.is_integer and classes >= 2):
            raise ValueError(f"cross-entropy with {classes} classes: at least two are needed")
        object.__setattr__(self, "classes", classes)

    def smoothness(self, samples: Expr) -> Bound:
        constants = softmax_constants()
        return Bound.upper(
            constants.jacobian / samples,
            quantity="smoothness of the cost",
            source="Hessian of one sample is diag(p) - p p^T, a variance",
            steps=constants.steps,
            sharp=True,
            attained="two classes at p = 1/2",
        )

    def gradient_norm(self, samples: Expr) -> Bound:
        return Bound.upper(
            self.sample_gradient().expression / sympy.sqrt(samples),
            quantity="gradient norm of the cost",
            source="|p - e_y|^2 <= 2 q^2 <= 2 per sample, mean over samples",
            steps=_gradient_steps(),
            parents=(self.sample_gradient(),),
            sharp=True,
            attained="limit: every sample certain of one wrong class",
        )

    def sample_gradient(self) -> Bound:
        return Bound.upper(
            self.sample_gradient_range()[1].expression.subs(q, 1),
            quantity="gradient norm of one sample",
            source="q <= 1",
            steps=_gradient_steps(),
            sharp=True,
        )

    def sample_gradient_range(self) -> tuple[Bound, Bound]:
        """Two-sided bounds of `|grad c|` in `q = 1 - p_y = 1 - e^{-c}`: `sqrt(K/(K-1)) q` and `sqrt 2 q`, both attained."""
        k = self.classes
        facts = {
            "quantity": "gradient norm of one sample",
            "source": "grad c = p - e_y",
            "steps": _gradient_steps(),
            "sharp": True,
        }
        return (
            Bound.lower(sympy.sqrt(k / (k - 1)) * q, attained="wrong classes equally likely", **facts),
            Bound.upper(sympy.sqrt(2) * q, attained="one wrong class has all of q", **facts),
        )

    def sample_hessian(self) -> Bound:
        """Upper bound `2 q (1 - q)` up to `q = 1/2`, 1/2 beyond, of the Hessian's norm of one sample."""
        capped = sympy.Min(q, S.Half)
        return Bound.upper(
            2 * capped * (1 - capped),
            quantity="Hessian norm of one sample",
            source="Gershgorin's circles of diag(p) - p p^T",
            steps=_hessian_steps(),
            sharp=True,
            attained="one wrong class has all of q",
        )

    def third_derivative(self) -> Bound:
        constants = softmax_constants()
        return Bound.upper(
            constants.second,
            quantity="third derivative of one sample's cost",
            source="the third derivative of log sum exp is a third central moment",
            steps=constants.steps,
        )

    def small_losses(self) -> tuple[Expr, Expr]:
        """Limits of the bounds of a sample's Hessian and gradient over `q` as `q -> 0`, where `q` is the loss itself to first order."""
        hessian = self.sample_hessian().expression.subs(sympy.Min(q, S.Half), q)
        gradient = self.sample_gradient_range()[1].expression
        return sympy.limit(hessian / q, q, 0), sympy.limit(gradient / q, q, 0)

    def domination(self, samples: Expr) -> Expr:
        return sympy.simplify((self.sample_gradient_range()[0].expression / q) ** 2) / samples**2

    def gradient_domination(self, samples: Expr) -> Bound:
        k = self.classes
        return Bound.lower(
            self.domination(samples) * least_split(samples, gamma),
            quantity="squared gradient norm of the cost",
            source="|grad gamma|^2 = N^-2 sum |p - e_y|^2 >= K/((K-1) N^2) m_N(gamma)",
            assumptions=(Assumption(k, ">=", S(2), "one class has nothing to learn"),),
            steps=_gradient_steps() + least_split_steps(),
            parents=(self.sample_gradient_range()[0],),
        )


@dataclass(frozen=True)
class SquaredError(Cost):
    """`|F - Y|_F^2 / (2 N)`."""

    name = "squared error"

    @staticmethod
    def _steps() -> tuple[Step, ...]:
        x, y, n = Symbol("x", real=True), Symbol("y", real=True), Symbol("N", positive=True)
        value = (x - y) ** 2 / (2 * n)
        return (
            Step("Hessian of (x - y)^2 / (2 N) is 1 / N", (gap(sympy.Derivative(value, x, 2), 1 / n),)),
            Step(
                "|grad|^2 = (2 / N) gamma, so smoothness and PL constants coincide",
                (gap(sympy.Derivative(value, x) ** 2, 2 / n * value),),
            ),
        )

    def smoothness(self, samples: Expr) -> Bound:
        return Bound.upper(
            1 / samples,
            quantity="smoothness of the cost",
            source="squared error is quadratic",
            steps=self._steps(),
            sharp=True,
        )

    def gradient_norm(self, samples: Expr) -> Bound:
        return Bound.upper(
            S.Infinity,
            quantity="gradient norm of the cost",
            source="squared error's gradient grows with the residual",
            sharp=True,
        )

    def sample_gradient(self) -> Bound:
        return Bound.upper(
            S.Infinity,
            quantity="gradient norm of one sample",
            source="squared error's gradient grows with the residual",
            sharp=True,
        )

    def third_derivative(self) -> Bound:
        return Bound.upper(
            0, quantity="third derivative of one sample's cost", source="squared error is quadratic", sharp=True
        )

    def domination(self, samples: Expr) -> Expr:
        x, y = sympy.symbols("x y", real=True)
        value = (x - y) ** 2 / (2 * samples)
        return sympy.simplify(sympy.diff(value, x) ** 2 / value)

    def gradient_domination(self, samples: Expr) -> Bound:
        return Bound.lower(
            self.domination(samples) * gamma,
            quantity="squared gradient norm of the cost",
            source="|grad|^2 = (2 / N) gamma",
            steps=self._steps(),
            sharp=True,
        )
