"""Mini-batch gradient descent: what is certified for full passes under cross-entropy, where no layer couples samples.

A pass visits every one of `M` equal batches once, in any order, with the step `h / M` each. Write `b` for the bound of `|DF_i|`, `C` for
`lambda_max(2 a a^T + sqrt2 M)` of one sample, `Q = mean q_i` at the pass's start, `d = domination N`, so that `|grad ell|^2 >= d Q^2`. With

    h = k e^{-k} / (2 b^2 Q)    (or any larger number in place of Q: `q(ell)`, `q` of the envelope)

the iterates stay within `k / (sqrt2 b)`, no `q_i` grows by more than `e^k`, the sum of the batches' gradients differs from `M grad ell` by at
most the part `e = C k e^k / (sqrt2 b sqrt d)`, and for `C k <= 2 b^2`, `e < 1`,

    ell after the pass  <=  ell - (h/2) (1 - e^2) |grad ell|^2.

So full passes converge linearly as full gradients do, with a smaller rate. Not certified: batches drawn with replacement, unequal batches, a step
that does not follow the loss, and layers that couple samples (a mini-batch is then another network).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import flint
import sympy
from sympy import Symbol

from theory.bound import Step, gap
from theory.convergence import Certificate
from theory.costs import CrossEntropy
from theory.curvature import CrossEntropyCurvature, wrong_mass
from theory.evaluate import lower_float, upper_float
from theory.landscape import Landscape
from theory.recursion import Recursion

GRID = 200
"""Growths `k` among which the one with the best rate is taken."""


@lru_cache(maxsize=1)
def pass_steps() -> tuple[Step, ...]:
    """The links of the proof."""
    b, mass, k, h, curvature, d = sympy.symbols("b Q k h C d", positive=True)
    distance = k / (sympy.sqrt(2) * b)
    step = k * sympy.exp(-k) / (2 * b**2 * mass)
    moved = h * sympy.sqrt(2) * b * mass * sympy.exp(k)
    error = h * curvature * mass * sympy.exp(k) * distance
    omega = h * curvature * mass * sympy.exp(k)
    g, v = sympy.symbols("g v", real=True)
    c = Symbol("c", positive=True)
    s = Symbol("s", nonnegative=True)
    return (
        Step(
            "|grad c_i| <= sqrt2 b q_i and dq_i = (1 - q_i) dc_i, so within a distance r of the start q_i grows at most by e^{sqrt2 b r}",
            (gap(sympy.Derivative(1 - sympy.exp(-c), c), (1 - (1 - sympy.exp(-c)))),),
        ),
        Step(
            "by induction over the batches the way is at most (h/N) sum_i sqrt2 b q_i e^k = k / (sqrt2 b) at h = k e^{-k} / (2 b^2 Q)",
            (gap(moved.subs(h, step), distance),),
        ),
        Step(
            "a batch's gradient moves by at most its Hessian, mean over the batch of C q_i e^k, times that way: in all h C Q e^k k / (sqrt2 b), "
            "which is at most the part e of h |grad ell|, as |grad ell| >= sqrt d Q",
            (
                (
                    gap(
                        error / (h * sympy.sqrt(d) * mass),
                        curvature * k * sympy.exp(k) / (sympy.sqrt(2) * b * sympy.sqrt(d)),
                    )
                ),
            ),
        ),
        Step(
            "on the way from start to end of the pass h |hess ell| <= h C Q e^k = C k / (2 b^2)",
            (gap(omega.subs(h, step), curvature * k / (2 * b**2)),),
        ),
        Step(
            "-<g, v> + |v|^2 / 2 = (|v - g|^2 - |g|^2) / 2 <= -(1 - e^2) |g|^2 / 2, v the mean of the gradients taken, |v - g| <= e |g|",
            (gap(-g * v + v**2 / 2, ((v - g) ** 2 - g**2) / 2),),
        ),
        Step(
            "with h |hess ell| = 1 - s, s >= 0, the Hessian's term is (1 - s) |v|^2 / 2, smaller still",
            (gap(v**2 / 2 - (1 - s) * v**2 / 2, s * v**2 / 2),),
            (s * v**2 / 2,),
        ),
    )


@dataclass(frozen=True)
class PassCertificate:
    """Certified descent by full passes.

    Attributes:
        growth: `k`.
        error: upper float of `e < 1`.
        factor: lower float of `k e^{-k} / (2 b^2)`, so that `h = factor / Q`.
        recursion: of the full gradient, for the domination and `m_N`.
    """

    growth: float
    error: float
    factor: float
    recursion: Recursion

    def step_size(self, loss: Any) -> Any:
        """`h = factor / q(loss)` of a whole pass from the mean loss at its start, or from any upper bound of it; each batch takes `h / M`."""
        return self.factor * (1 - 2.0**-50) / wrong_mass(loss)

    def after(self, loss: flint.arb) -> flint.arb:
        """The upper end of the bound of the loss after a pass."""
        return (loss - self.step_size(loss) / 2 * self.kept * self.recursion.dominated(loss)).upper()

    @property
    def kept(self) -> float:
        """`1 - e^2`, rounded down."""
        return lower_float(1 - flint.arb(self.error) ** 2)

    @property
    def linear_rate(self) -> float:
        """Lower float of the part of the loss that a pass removes, as the loss goes to 0: `(factor / 2) (1 - e^2) d`."""
        d = flint.arb(self.recursion.domination) * self.recursion.samples
        return lower_float(flint.arb(self.factor) / 2 * self.kept * d)


def certify_passes(here: Landscape, certificate: Certificate) -> PassCertificate:
    """The certificate of full passes with the growth `k` that removes most.

    Raises:
        ValueError: the network is not certified, its cost is not cross-entropy, or a layer couples samples.
    """
    recursion = certificate.required()
    if recursion.cost != CrossEntropy.name:
        raise ValueError(f"passes over mini-batches are certified for cross-entropy, not for {recursion.cost}")
    if not here.sample_wise:
        raise ValueError(
            "a layer couples samples (batch normalisation), so a mini-batch is another network: passes over mini-batches are not certified"
        )
    assert isinstance(recursion.curvature, CrossEntropyCurvature)
    b, curvature = flint.arb(recursion.curvature.first), flint.arb(recursion.curvature.mean.at_zero)
    d = flint.arb(recursion.domination) * recursion.samples
    longest = 2 * b**2 / curvature
    best: PassCertificate | None = None
    for index in range(1, GRID + 1):
        k = flint.arb(lower_float(longest * flint.arb(index) / GRID * flint.arb(index) / GRID))
        error = upper_float(curvature * k * k.exp() / (flint.arb(2).sqrt() * b * d.sqrt()))
        if error >= 1:
            break
        found = PassCertificate(float(k), error, lower_float(k * (-k).exp() / (2 * b**2)), recursion)
        # the recursion maps bounds to bounds where d h(q) <= 2 / step, as 2 / step = 2 q / factor and h <= 2 q
        if d * found.factor <= 1 and (best is None or found.linear_rate > best.linear_rate):
            best = found
    assert best is not None, "small k always has an error below 1"
    return best
