"""Loss topology as a reading of a network description: the Pfaffian format of the loss in the parameters, and the counts that it bounds.

`theory.topology.formats` folds the format of the outputs; a loss of one sample, a Pfaffian function of its outputs, is put on top.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import sympy
from sympy import Expr, S, Symbol

from theory import symbols
from theory.atoms.entrywise import z
from theory.bound import Assumption, Step, gap
from theory.induction import at_least, largest
from theory.network import Network
from theory.spec import describe
from theory.topology.betti import Count, critical_points, sublevel_betti, zell
from theory.topology.formats import State, fold, put_in, same_size, whole
from theory.topology.pfaffian import Element, Format, Pfaffian, activation

LOSSES = ("squared_error", "binary_cross_entropy", "cross_entropy")


@cache
def loss_of_one_sample(loss: str, classes: int = 2) -> Pfaffian:
    """The loss of one sample as a Pfaffian function of the outputs; a target is a symbol in its coefficients.

    `squared_error`: `(z - y)^2`, the sum over outputs has the same degrees. `binary_cross_entropy`: `softplus(z) - y z`. `cross_entropy`:
    `log(1 + sum exp v_k)` in the differences `v_k` of the other logits to the label's; its chain is `exp v_k`, `1 / S`, `log S`.
    """
    y = Symbol("y", real=True)
    if loss == "squared_error":
        return Pfaffian.of((z - y) ** 2, (z,))
    if loss == "binary_cross_entropy":
        return activation("softplus") - y * Pfaffian.of(z, (z,))
    if loss != "cross_entropy":
        raise ValueError(f"topology: unknown loss {loss!r}: use one of {', '.join(LOSSES)}")
    variables = sympy.symbols(f"v_1:{classes}", real=True)
    logits = [Pfaffian.of(v, variables) for v in variables]
    total = sum((activation("exp").compose(v) for v in logits), Pfaffian.of(S.One, variables))
    inverse = total.reciprocal()
    name = sympy.Dummy("log_S", real=True)
    rule = {v: sympy.expand(inverse.polynomial * total.partial(v)) for v in variables}
    logarithm = Element(name, sympy.log(total.function), tuple(rule.items()))
    return Pfaffian(variables, (*inverse.chain, logarithm), name, Format(0, 1, 0))


def _loss(loss: str, state: State) -> tuple[Format, Expr, Format]:
    """Tight format, degree of the gradient, and generic format of the mean loss."""
    outputs, samples = state.shape.features, state.shape.samples
    if loss == "cross_entropy" and outputs == 1:
        raise ValueError("topology: cross_entropy needs at least 2 outputs: use binary_cross_entropy for one")
    if loss == "binary_cross_entropy" and outputs != 1:
        raise ValueError(f"topology: binary_cross_entropy needs 1 output, not {outputs}: use cross_entropy")
    # degrees do not depend on the number of classes, lengths are counted below
    outer = loss_of_one_sample(loss, 3)
    degree, slope, alpha = put_in(outer, state.degree, state.slope)
    r = state.rules
    if loss == "squared_error":
        own = generic = S.Zero
        rules = Format(r.alpha, 2 * r.beta, 0)
    elif loss == "binary_cross_entropy":
        own = generic = S(2)
        rules = Format(r.alpha, r.beta, 0) + Format(r.alpha, r.beta, 0).into(activation("softplus").format)
    else:
        own, generic = outputs + 1, outputs + 2
        total = Format(r.alpha, r.beta, 0).into(activation("exp").format)
        # 1/S and log S join the chain: dS is of degree alpha + beta - 1, d log S = (1/S) dS
        inverse = total.reciprocal()
        rules = Format(largest(inverse.alpha, 1 + total.gradient), largest(1, r.beta), 0)
    length = sympy.expand(state.length + samples * own)
    rules = Format(rules.alpha, rules.beta, sympy.expand(r.length + samples * generic))
    return Format(largest(state.alpha, alpha), degree, length), slope, rules


@dataclass(frozen=True)
class Reading:
    """The format of a loss in the parameters.

    Attributes:
        network, loss, l2: what was read.
        format: by the tight calculus.
        gradient: total degree of the loss's partial derivatives, at most `alpha + beta - 1`.
        rules: by the generic rules.
        parameters: number of parameters `n`.
        steps: the inductions on depth; `verify` recomputes them.
        assumptions: what they ask of a symbolic depth.
        domain: where the chain exists, empty for all parameters.
    """

    network: Network
    loss: str
    l2: bool
    format: Format
    gradient: Expr
    rules: Format
    parameters: Expr
    steps: tuple[Step, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    domain: tuple[str, ...] = ()

    def verify(self) -> None:
        """Recompute every identity and sign of the inductions on depth.

        Raises:
            AssertionError: naming the step that does not hold.
        """
        for step in self.steps:
            if not step.verify():
                raise AssertionError(f"{step.claim}: {step.checks}")

    def tight_within_rules(self) -> bool:
        """Whether every entry of the tight format, and the gradient's degree, is at most the generic one, for all depths that `assumptions` admit."""
        moved: dict[Expr, Expr] = {}
        for a in self.assumptions:
            symbols_ = sorted(a.difference.free_symbols, key=str)
            if len(symbols_) == 1 and a.difference.diff(symbols_[0]) == 1:
                (s,) = symbols_
                least = s - a.difference
                moved[s] = s + largest(least, moved.get(s, s) - s + 1) - 1
        pairs = [(getattr(self.rules, n), getattr(self.format, n)) for n in ("alpha", "beta", "length")]
        pairs.append((self.rules.gradient, self.gradient))
        return all(at_least(*(side.subs(moved, simultaneous=True) for side in pair)) for pair in pairs)

    def _everywhere(self) -> None:
        if self.domain:
            raise ValueError(
                f"topology: the bounds hold for chains on all of R^n, not where {'; '.join(self.domain)} only"
            )

    def critical_points(self, *, generic: bool = False) -> Count:
        """Bound on the nondegenerate critical points of the loss; with `generic` from the generic rules and degree `alpha + beta - 1`."""
        self._everywhere()
        f, g = (self.rules, self.rules.gradient) if generic else (self.format, self.gradient)
        return critical_points(self.parameters, f.length, f.alpha, g)

    def sublevel_betti(self, *, generic: bool = False) -> Count:
        """Bound on the sum of Betti numbers of a sublevel set, for a Morse loss with compact sublevel sets (take `l2`)."""
        self._everywhere()
        f, g = (self.rules, self.rules.gradient) if generic else (self.format, self.gradient)
        return sublevel_betti(self.parameters, f.length, f.alpha, g)

    def zell(self) -> Count:
        """Shape of the Zell / Gabrielov-Vorobjov bound for `{loss <= c}`."""
        self._everywhere()
        return zell(self.parameters, self.format.length, self.format.alpha, self.format.beta)


def topology(
    network: Network, features: Expr, samples: Expr = symbols.N, loss: str = "squared_error", *, l2: bool = False
) -> Reading:
    """Read the Pfaffian format of the mean loss over fixed data, as a function of the parameters.

    Args:
        network: its description; widths, depths and sizes may be symbols.
        features: number of input features.
        samples: number `N` of samples (the `m` of the paper).
        loss: one of `LOSSES`.
        l2: whether `lambda |theta|^2` is added.

    Raises:
        ValueError: a layer, activation or loss that is not known or not analytic, by name; a network without parameters.
    """
    if loss not in LOSSES:
        raise ValueError(f"topology: unknown loss {loss!r}: use one of {', '.join(LOSSES)}")
    state = fold(network, State.data(whole(sympy.sympify(features)), whole(sympy.sympify(samples))))
    if state.fixed:
        raise ValueError(f"topology: {describe(network)} has no parameters, so its loss is a number")
    tight, gradient, rules = _loss(loss, state)
    if l2:
        tight = replace(tight, beta=largest(tight.beta, 2))
        gradient = largest(gradient, 1)
        rules = replace(rules, beta=largest(rules.beta, 2))
    kept = (state.steps, state.assumptions, state.domain)
    return Reading(network, loss, l2, tight, gradient, rules, state.parameters, *kept)


def l2_invariance(reading: Reading) -> Step:
    """Theorem: `lambda |theta|^2` has the format `(0, 2, 0)`, so the sum has `(alpha, max(beta, 2), l)`: unchanged exactly when `beta >= 2`."""
    beta = reading.format.beta
    return Step(
        "an L2 term leaves (alpha, beta, l) unchanged: max(beta, 2) = beta",
        (gap(largest(beta, 2), beta),),
        (largest(beta, 2) - 2,),
    )


def skip_invariance(branch: Network, state: State) -> Step:
    """Theorem: an identity skip over a branch changes nothing exactly when the branch raises degree and slope at least to those of its input.

    The skip has no parameters and no function of its own, so length, alpha and `n` are the branch's; `max(d, d_branch)` and `max(D, D_branch)` remain.
    """
    end = fold(branch, state)
    same_size(f"a skip over {describe(branch)}", state, end)
    return Step(
        "an identity skip leaves degree and slope unchanged: max(d, d_branch) = d_branch, max(D, D_branch) = D_branch",
        (gap(largest(state.degree, end.degree), end.degree), gap(largest(state.slope, end.slope), end.slope)),
    )
