"""The path without a barrier to zero loss, and what it says of the landscape (Nguyen, Mukkamala, Hein, arXiv 1809.10749), in steps that SymPy recomputes.

`Psi` (`N x H`) holds the values of `H` hidden units that the outputs read on `N` samples, `V` (`H x K`) their output weights, `E` (`N x K`) the labels one-hot. Where
`Psi` has rank `N`, with a right inverse `R` (`Psi R = I`; for `H = N` the inverse), the line

    V(t) = V + t R E,    t >= 0,

adds exactly `t` to the true logit of every sample and nothing to the others, so the mean cross-entropy along it is `mean_i log(1 + e^-t S_i)` with
`S_i = sum_{k != y_i} exp(z_ik - z_iy)`: strictly decreasing to 0. It is convex in `V` everywhere, which rules out local maxima.
"""

from __future__ import annotations

from functools import cache

import sympy
from sympy import Expr, S, Symbol

from theory.bound import Bound, Step, gap

t = Symbol("t", nonnegative=True)
"""How far the true logits are lifted."""
total = Symbol("S", positive=True)
"""`S_i` of one sample: the wrong classes' weight beside the true one's, `e^loss - 1`."""
level = Symbol("epsilon", positive=True)
"""A value of the loss to get below."""


def lifted_loss() -> Expr:
    """The loss of one sample on the path, `log(1 + e^-t S)`."""
    return sympy.log(1 + sympy.exp(-t) * total)


def zero_error_lift(largest: Expr) -> Expr:
    """A lift beyond which no sample is misclassified: the largest `z_ik - z_iy` over samples and wrong classes, at least 0."""
    return sympy.Max(0, largest)


@cache
def lift_steps(samples: int = 2, classes: int = 3) -> tuple[Step, ...]:
    """The path's logits, its loss, derivative and limit, and when it is below a level."""
    units = samples + 1
    psi = sympy.Matrix(samples, units, sympy.symbols(f"psi_1:{samples * units + 1}", real=True))
    v = sympy.Matrix(units, classes, sympy.symbols(f"v_1:{units * classes + 1}", real=True))
    labels = sympy.Matrix(samples, classes, lambda i, k: int(k == i % classes))
    right = psi.T * (psi * psi.T).inv()
    moved = psi * (v + t * right * labels) - psi * v - t * labels
    z = sympy.symbols(f"z_1:{classes + 1}", real=True)
    lifted = sympy.log(sympy.exp(z[0] + t) + sum(sympy.exp(value) for value in z[1:])) - (z[0] + t)
    weight = sum(sympy.exp(value - z[0]) for value in z[1:])
    loss = lifted_loss()
    fall = sympy.exp(-t) * total / (1 + sympy.exp(-t) * total)
    return (
        Step("Psi V(t) = Psi V + t E", tuple(moved)),
        Step(
            "cross-entropy of logits whose true one is lifted by t is log(1 + e^-t S)",
            (gap(sympy.exp(lifted), sympy.exp(loss.subs(total, weight))),),
        ),
        Step("d/dt log(1 + e^-t S) = -e^-t S / (1 + e^-t S) < 0", (gap(sympy.diff(loss, t), -fall),), (fall,)),
        Step("its limit for t -> oo is 0", (sympy.Limit(loss, t, S.Infinity),)),
    )


@cache
def lift_bound() -> Bound:
    """`loss(t) <= e^-t mean_i S_i`: below any level from `t = log(mean S / level)` on; sharp to first order for large `t`."""
    u = Symbol("u", nonnegative=True)
    slack = u - sympy.log(1 + u)
    reached = sympy.exp(-sympy.log(total / level)) * total
    return Bound.upper(
        sympy.exp(-t) * total,
        quantity="loss on the path",
        source="log(1 + u) <= u",
        attained="t -> oo",
        steps=(
            *lift_steps(),
            Step(
                "log(1 + u) <= u: both are 0 at 0, and the slopes are ordered",
                (slack.subs(u, 0),),
                (sympy.factor(sympy.together(sympy.diff(slack, u))),),
            ),
            Step("e^-t S is the level at t = log(S / level)", (gap(reached, level),)),
        ),
    )


@cache
def valley_steps() -> tuple[Step, ...]:
    """No bad local valley, and no suboptimal strict local minimum, from the path alone."""
    return (
        Step(
            "a valley is a connected component of {loss < c}; the loss is continuous, so it is open in parameter space"
        ),
        Step(
            "det Psi Psi^T is analytic in the hidden weights and not identically 0: each point of the valley has neighbours inside it where Psi has rank N"
        ),
        *lift_steps(),
        Step(
            "the path from such a neighbour never rises, so it stays in the valley, and its loss tends to the infimum 0"
        ),
        Step(
            "a strict local minimum of value c > 0 would be the infimum of the component of {loss < c + eps} around it, which a small ball holds: there is none"
        ),
        Step(
            "once every true logit is largest it stays so on an open set of weights: uncountably many solutions without training error"
        ),
    )


@cache
def maximum_steps(classes: int = 3) -> tuple[Step, ...]:
    """No local maximum, wherever the outputs have a bias or one unit that they read is not 0 on every sample.

    Along a change of logits `d` the second derivative of a sample's cross-entropy is `sum_{j<k} p_j p_k (d_j - d_k)^2`; with the weight `v_jk` of a unit
    with values `psi_ij` it is `mean_i psi_ij^2 p_ik (1 - p_ik)`, and for a bias `mean_i p_ik (1 - p_ik)`.
    """
    s = Symbol("s", real=True)
    z = sympy.symbols(f"z_1:{classes + 1}", real=True)
    d = sympy.symbols(f"d_1:{classes + 1}", real=True)
    weights = [sympy.exp(a + s * b) for a, b in zip(z, d, strict=True)]
    value = sympy.log(sum(weights)) - (z[0] + s * d[0])
    a = sympy.symbols(f"a_1:{classes + 1}", positive=True)
    second = sympy.diff(value, s, 2).subs(s, 0)
    second = second.subs({sympy.exp(zk): ak for zk, ak in zip(z, a, strict=True)}, simultaneous=True)
    p = [ak / sum(a) for ak in a]
    spread = sum(p[j] * p[k] * (d[j] - d[k]) ** 2 for k in range(classes) for j in range(k))
    psi = Symbol("psi", nonzero=True)
    single = spread.subs({d[0]: psi, **dict.fromkeys(d[1:], 0)})
    return (
        Step(
            "second derivative of cross-entropy along d is sum_{j<k} p_j p_k (d_j - d_k)^2 >= 0: the loss is convex in V",
            (gap(sympy.factor(sympy.together(second)), sympy.factor(sympy.together(spread))),),
            tuple(p[j] * p[k] * (d[j] - d[k]) ** 2 for k in range(classes) for j in range(k)),
        ),
        Step(
            "for the weight of one unit it is psi^2 p (1 - p) > 0",
            (gap(sympy.factor(sympy.together(single)), sympy.factor(sympy.together(psi**2 * p[0] * (1 - p[0])))),),
            (psi**2 * p[0] * (1 - p[0]).together(),),
        ),
        Step("a point with a direction of positive second derivative is no local maximum"),
    )


@cache
def linear_rank_bound() -> Bound:
    """With linear activations every row of `Psi` is affine in the sample: `rank Psi <= d + 1`, so it is singular for every weight once `N > d + 1`."""
    d = Symbol("d", integer=True, positive=True)
    x = sympy.Matrix(4, 2, sympy.symbols("x_1:9", real=True))
    weights = sympy.Matrix(3, 4, sympy.symbols("w_1:13", real=True))
    psi = x.row_join(sympy.ones(4, 1)) * weights
    return Bound.upper(
        d + 1,
        quantity="rank Psi",
        source="Psi = [X 1] A factors through d + 1 numbers",
        steps=(Step("four samples in two dimensions: det Psi is identically 0", (psi.det(method="berkowitz"),)),),
        sharp=True,
    )


@cache
def duplicate_bound() -> Bound:
    """Two equal samples with different labels: their mean cross-entropy is at least `log 2`, whatever the network; attained where both labels have probability 1/2."""
    p, q, rest = sympy.symbols("p q r", nonnegative=True)
    return Bound.lower(
        sympy.log(2),
        quantity="mean loss of two equal samples with different labels",
        source="-(log p + log q)/2 with p + q <= 1",
        steps=(
            Step(
                "1/4 - p q = (p - q)^2 / 4 + r (1 + p + q) / 4 >= 0, r = 1 - p - q being the other classes' probability",
                (gap(S.One / 4 - p * q, (p - q) ** 2 / 4 + (1 - p - q) * (1 + p + q) / 4),),
                ((p - q) ** 2 / 4, rest * (1 + p + q) / 4),
            ),
            Step("-(log 1/4)/2 = log 2", (gap(sympy.expand_log(-sympy.log(S.One / 4) / 2), sympy.log(2)),)),
        ),
        sharp=True,
        attained="p = q = 1/2",
    )
