"""Composed bounds and a cost give the loss: its smoothness constant and its gradient domination, in parameter space."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import flint
import sympy
from sympy import Expr

from theory import symbols
from theory.atoms.base import EVERYWHERE, Domain
from theory.bound import Bound, minimum
from theory.compose import Jet, Regularity, compose, euclidean_norm, jet_of, lambda_max, leaves, regularity
from theory.costs import Cost, CrossEntropy, SquaredError, gamma
from theory.curvature import CHORD, CrossEntropyCurvature, Curvature, SquaredErrorCurvature
from theory.curvature import Weights as Rule
from theory.derive import Derived, derive
from theory.evaluate import Values, enclose, enclose_expression, upper_float
from theory.network import Network
from theory.records import FeatureBounds, Shape
from theory.spectrum import Evaluated, Weights, evaluated, first_norm, largest_eigenvalue, regularity_numbers


@dataclass(frozen=True)
class Enclosures:
    """Values of a landscape's constants as balls: upper bounds by their upper ends, lower bounds by their lower ends.

    Attributes:
        first: `|a|`, at least `sup |DF|`.
        second: `lambda_max(M)`, at least `sup |D^2 F|`.
        smoothness_plain: `lambda_max(smooth a a^T + sup|grad gamma| M)`.
        smoothness_by_sample: the same with the rule that sums over samples without loss.
        lambda_min: at most `inf lambda_min(DF DF^T)`.
    """

    first: flint.arb
    second: flint.arb
    smoothness_plain: flint.arb
    smoothness_by_sample: flint.arb
    lambda_min: flint.arb

    @property
    def smoothness(self) -> flint.arb:
        """The better of the two rules; an upper bound of the largest Hessian eigenvalue."""
        return self.smoothness_plain.min(self.smoothness_by_sample)


@dataclass(frozen=True)
class Landscape:
    """Bounds of `ell = gamma o F` over a domain of parameters, for fixed data.

    Closed forms (`first_derivative`, `second_derivative`, `smoothness_constant`, `tangent_kernel_lambda_min`, `pl_inequality`) are computed when
    asked for; `enclose` evaluates the sharper `lambda_max` of the whole block matrix instead of its closed-form bound.
    """

    network: Network
    derived: Derived
    cost: Cost
    features: Expr
    samples: Expr
    domain: Domain

    @cached_property
    def jet(self) -> Jet:
        """Symbolic `a` and `M`, parameters counted from 1."""
        return jet_of(self.derived.tree, self.samples)

    @cached_property
    def regularity(self) -> Regularity:
        return regularity(self.derived.tree)

    @cached_property
    def first_derivative(self) -> Bound:
        """`sup |DF| <= |a|`."""
        return euclidean_norm(list(self.jet.first.values()), "sup |DF|")

    @cached_property
    def second_derivative(self) -> Bound:
        """`sup |D^2 F| <= lambda_max(M)`, in closed form."""
        return lambda_max(self.jet.second, "sup |D^2 F|")

    @cached_property
    def smoothness_constant(self) -> Bound:
        """Closed form above `sup |hess ell|`: `smooth(gamma) |a|^2` plus the better of the two second-order terms."""
        outer = self.cost.smoothness(self.samples) * self.first_derivative**2
        plain = self.cost.gradient_norm(self.samples) * self.second_derivative
        by_sample = (
            self.cost.sample_gradient() * lambda_max(self.jet.by_sample, "sup sum_i |D^2 F_i|") * (1 / self.samples)
        )
        total = outer + minimum(plain, by_sample)
        return total.named("smoothness constant of the loss", domain=str(self.domain))

    @cached_property
    def tangent_kernel_lambda_min(self) -> Bound:
        """`inf lambda_min(DF DF^T)` from below, by the regularity inequality."""
        return self.regularity.lambda_min.named("tangent_kernel_lambda_min", domain=str(self.domain))

    @cached_property
    def pl_inequality(self) -> Bound:
        """`|grad ell|^2 >= lambda |grad gamma|^2`, from below in terms of the loss `ell`."""
        dominated = self.cost.gradient_domination(self.samples).substitute({gamma: symbols.ell})
        return (self.tangent_kernel_lambda_min * dominated).named("|grad ell|^2")

    def evaluated(self, values: Values, *, fed: bool = False) -> Evaluated:
        """The tree of layer bounds as balls; `fed` includes the dependence on the input itself."""
        return evaluated(self.derived.tree, values, fed=fed)

    def enclose(self, values: Values) -> Enclosures:
        """Rigorous values; linear time in the depth.

        Raises:
            ValueError: naming the assumption that fails, or the symbol that has no value.
        """
        numbers = self.evaluated(values)
        samples = enclose_expression(self.samples, values)
        root, one = samples.sqrt(), flint.arb(1)
        smooth = enclose(self.cost.smoothness(self.samples), values)
        gradient, sample_gradient = (
            enclose(b, values) for b in (self.cost.gradient_norm(self.samples), self.cost.sample_gradient())
        )
        second = largest_eigenvalue(numbers, Weights(second=one), root)
        if second == 0:
            gradient = sample_gradient = flint.arb(0)
        unbounded = flint.arb.pos_inf()
        finite = gradient.is_finite()
        return Enclosures(
            first_norm(numbers),
            second,
            largest_eigenvalue(numbers, Weights(outer=smooth, second=gradient), root) if finite else unbounded,
            largest_eigenvalue(numbers, Weights(outer=smooth, by_sample=sample_gradient / samples), root)
            if finite
            else unbounded,
            regularity_numbers(numbers).lambda_min,
        )

    @cached_property
    def sample_wise(self) -> bool:
        """Whether no layer couples samples."""
        return all(leaf.sample_wise for leaf in leaves(self.derived.tree))

    @cached_property
    def of_one_sample(self) -> Landscape:
        """The same network on one sample alone: what a sample contributes where no layer couples samples."""
        return landscape(self.network, self.features, sympy.Integer(1), self.cost, self.domain)

    def one_sample_values(self, values: Values) -> dict[Any, Any]:
        """Values for `of_one_sample`: all norms of the data are the largest norm of a sample, at most `x_0`."""
        named = {str(key): value for key, value in values.items()}
        largest = named.get(symbols.x_s.name, named.get(symbols.x_0.name))
        new = {symbols.N: 1, symbols.x_0: largest, symbols.x_F: largest, symbols.x_s: largest}
        kept = {key: value for key, value in values.items() if str(key) not in {s.name for s in new}}
        return kept | {key: value for key, value in new.items() if value is not None}

    def curvature(self, values: Values) -> Curvature | None:
        """The smoothness constant as a function of the loss (`theory.curvature`); None where a derivative is unbounded.

        Raises:
            ValueError: naming the assumption that fails, or the symbol that has no value.
        """
        numbers, samples = self.evaluated(values), enclose_expression(self.samples, values)
        if numbers.infinite:
            return None
        root, one = samples.sqrt(), flint.arb(1)
        if isinstance(self.cost, SquaredError):
            outer = first_norm(numbers) ** 2 / samples
            slope = (2 / samples).sqrt() * largest_eigenvalue(numbers, Weights(second=one), root)
            return SquaredErrorCurvature(upper_float(outer), upper_float(slope))
        gradient = enclose(self.cost.sample_gradient(), values)
        # a layer that couples samples: a sample's derivatives are at most those of all
        alone = self.of_one_sample.evaluated(self.one_sample_values(values)) if self.sample_wise else numbers

        def at(ratio: float) -> tuple[float, float]:
            exact = flint.arb(ratio)
            mean = largest_eigenvalue(alone, Weights(outer=exact, second=gradient), one)
            of_all = [
                largest_eigenvalue(numbers, Weights(outer=exact / samples, **weight), root)
                for weight in ({"second": gradient / root}, {"by_sample": gradient / samples})
            ]
            return upper_float(mean), upper_float(of_all[0].min(of_all[1]))

        half, two = (at(ratio) for ratio in CHORD)
        return CrossEntropyCurvature(
            Rule.chord(half[0], two[0]),
            Rule.chord(half[1], two[1]),
            int(float(samples.mid())),
            upper_float(first_norm(alone)),
        )


def data_features(features: Expr, samples: Expr) -> FeatureBounds:
    """Fixed data `X_0` of the given shape, with symbols for its norms: `x_F`, `x_0` and `sigma` (its least singular value)."""
    return FeatureBounds.data(Shape(features, samples), symbols.x_F, symbols.x_0, symbols.sigma)


def landscape(
    network: Network,
    features: Expr,
    samples: Expr = symbols.N,
    cost: Cost | None = None,
    domain: Domain = EVERYWHERE,
) -> Landscape:
    """The landscape of a network on data of shape `features x samples` (norms as symbols) under a cost (cross-entropy)."""
    known = data_features(sympy.sympify(features), sympy.sympify(samples))
    derived = derive(network, known, domain)
    outputs = derived.output.shape.features
    chosen = cost or CrossEntropy(outputs)
    if isinstance(chosen, CrossEntropy) and chosen.classes != outputs and (chosen.classes - outputs).is_nonzero:
        raise ValueError(f"the network has {outputs} outputs but the cost {chosen.classes} classes: make them equal")
    return Landscape(
        network,
        Derived(compose(derived.tree), derived.output),
        chosen,
        known.shape.features,
        known.shape.samples,
        domain,
    )
