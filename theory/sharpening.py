"""What each sharpening of Theorem 2 gains: from the plain constants to those in use, one at a time.

The plain form: `|hess ell| <= C ell` and `|grad ell| <= G ell` with `C = 2 B_1^2 + sqrt2 B_2`, `G = sqrt2 B_1`, `B_1, B_2` the bounds of
`|DF|, |D^2 F|` for all samples together; a step `s / ell` with `s C e^{s G^2} <= 1`, since the loss grows by at most `e^{s G^2}` along
it; and the closed lower bound of `m_N`. Each stage keeps those before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import flint
import sympy
from sympy import Symbol

from theory.bound import Step, gap
from theory.compose import Coefficients, leaves, regularity
from theory.convergence import Certificate
from theory.costs import CrossEntropy
from theory.evaluate import Values, enclose, enclose_expression, lower_float
from theory.landscape import Landscape
from theory.recursion import PROPORTIONAL
from theory.spectrum import BALLS, Weights, largest_eigenvalue

MOST_STEPS = 100_000
"""Where counting certified steps stops."""


@dataclass(frozen=True)
class Stage:
    """Theorem 2 after one more sharpening.

    Attributes:
        name: what was sharpened.
        part: certified part of the loss that one step removes, in the limit of small loss (rounded down).
        gain: `part` over that of the stage before.
        steps: certified number of steps from `start` to `target`; None beyond `MOST_STEPS`.
    """

    name: str
    part: float
    gain: float
    steps: int | None


@lru_cache(maxsize=1)
def plain_steps() -> tuple[Step, ...]:
    """The links of Theorem 2 in its plain form."""
    c, s, g, curvature = sympy.symbols("c s G C", positive=True)
    slope = sympy.diff(c - (1 - sympy.exp(-c)), c)
    tau = Symbol("tau", nonnegative=True)
    grown = sympy.exp(tau * g)
    return (
        Step(
            "q = 1 - e^{-c} <= c: equal at 0, and (c - q)' = 1 - e^{-c} >= 0",
            ((gap(slope - 1, -(sympy.exp(-c)))), (c - 1 + sympy.exp(-c)).subs(c, 0)),
        ),
        Step(
            "|phi'| <= |grad ell| G phi along the step, so phi <= ell_t e^{tau G |grad ell|} <= ell_t e^{s G^2} for tau <= s / ell_t (Gronwall)",
            (gap(sympy.Derivative(grown, tau), g * grown),),
        ),
        Step(
            "s C e^{s G^2} = 1 at s = W(G^2 / C) / G^2, W the inverse of x e^x",
            (gap(s * curvature * sympy.exp(s * g**2), (s * g**2) * sympy.exp(s * g**2) * curvature / g**2),),
        ),
    )


def _plain_share(curvature: flint.arb, growth: flint.arb) -> flint.arb:
    """The root `s` of `s C e^{s G^2} = 1`, from below."""
    low, high = flint.arb(0), 1 / curvature.lower()
    for _ in range(120):
        middle = ((low + high) / 2).mid()
        if middle * curvature * (middle * growth).exp() <= 1:
            low = middle
        else:
            high = middle
    return low.mid()


def stages(
    here: Landscape, values: Values, certificate: Certificate, *, start: float, target: float = 1e-10
) -> tuple[Stage, ...]:
    """Every stage from the plain constants to the certificate's own, for cross-entropy.

    Args:
        here, values: what the certificate was made from.
        start, target: losses between which certified steps are counted.

    Raises:
        ValueError: where the network is not certified, or the cost is not cross-entropy.
    """
    recursion = certificate.required()
    if not isinstance(here.cost, CrossEntropy):
        raise ValueError(f"the stages are those of cross-entropy, not of {here.cost.name}")
    numbers = here.evaluated(values)
    samples = enclose_expression(here.samples, values)
    root = samples.sqrt()
    first, second = certificate.constants.first.upper(), certificate.constants.second.upper()
    two = flint.arb(2)
    plain = two * first**2 + two.sqrt() * second
    joint = largest_eigenvalue(numbers, Weights(outer=two, second=two.sqrt()), root).upper().min(plain)
    alone = here.of_one_sample.evaluated(here.one_sample_values(values)) if here.sample_wise else numbers
    single = largest_eigenvalue(alone, Weights(outer=two, second=two.sqrt()), flint.arb(1)).upper().min(joint)
    shares = [
        ("plain constants", _plain_share(plain, two * first**2)),
        ("the step stays in its sublevel set: no factor e^{s G^2}", 1 / plain),
        ("C = lambda_max(2 a a^T + sqrt2 M), not the sum of its parts", 1 / joint),
        ("derivatives of one sample, not of all", 1 / single),
    ]
    domination = flint.arb(recursion.domination)
    closed = _closed_split(here, values)
    found: list[tuple[str, flint.arb, Callable[[flint.arb], flint.arb]]] = []
    for name, share in shares:
        s = share.lower()
        found.append((name, domination * samples * s / 2, _step(s, domination, closed)))
    exact = flint.arb(recursion.linear_rate)

    def own(loss: flint.arb) -> flint.arb:
        eta = recursion.step_size(loss, PROPORTIONAL, loss)
        return loss - eta / 2 * domination * closed(loss)

    found.append(("the curvature as a function of the loss, bounded where the loss is large", exact, own))
    found.append(
        ("the exact m_N, not its closed lower bound", exact, lambda loss: recursion.after(loss, PROPORTIONAL, loss))
    )
    out: list[Stage] = []
    for name, part, after in found:
        rate = lower_float(part)
        out.append(Stage(name, rate, rate / out[-1].part if out else 1.0, _count(after, start, target)))
    # all stages have the whole sum in `lambda`; this one says what the sum adds to its first term
    gain = float((certificate.constants.lambda_min / first_term(here, values)).mid())
    out.append(
        Stage("lambda: the sum over the layers, not the first layer's term alone", out[-1].part, gain, out[-1].steps)
    )
    return tuple(out)


def _closed_split(here: Landscape, values: Values) -> Callable[[flint.arb], flint.arb]:
    n = enclose_expression(here.samples, values)
    one = flint.arb(1)

    def split(loss: flint.arb) -> flint.arb:
        equal = n * (-(-loss).expm1()) ** 2
        if n <= 1:
            return equal
        away = (1 / n).min((1 - n * loss).exp())
        return equal.min((one - away) ** 2 + (n - 1) * away**2)

    return split


def _step(
    share: flint.arb, domination: flint.arb, split: Callable[[flint.arb], flint.arb]
) -> Callable[[flint.arb], flint.arb]:
    return lambda loss: loss - share / loss / 2 * domination * split(loss)


def _count(after: Callable[[flint.arb], flint.arb], start: float, target: float) -> int | None:
    value = flint.arb(start)
    for step in range(MOST_STEPS):
        if value <= target:
            return step
        value = after(value).upper()
    return None


def first_term(here: Landscape, values: Values) -> flint.arb:
    """`k_1 prod_{j>1} s_j^2`: the part of `lambda` that comes from the first layer with parameters."""
    seen = False

    def read(leaf: Any) -> Coefficients:
        nonlocal seen
        whole: Coefficients = leaf.whole
        kept = whole if not (seen and leaf.has_parameters) else dataclasses.replace(whole, k=flint.arb(0))
        seen = seen or leaf.has_parameters
        return kept

    return regularity(here.evaluated(values).tree, dataclasses.replace(BALLS, read=read)).lambda_min


def kernel_by_layer(here: Landscape, values: Values) -> list[float]:
    """The sum over layers in `lambda`: lower floats of `k_l prod_{j>l} s_j^2` of each parameterised layer at the top level of a chain.

    Everywhere in parameter space only the first layer contributes: a later layer's own kernel is 0 where its input is degenerate.
    """
    from_here: list[float] = []
    for leaf in leaves(here.derived.tree):
        if leaf.has_parameters:
            from_here.append(max(0.0, lower_float(enclose(leaf.tangent_kernel_lambda_min, values))))
    return from_here
