"""The bilinear atom `(A, X) -> A X`, with an optional shift, and its per-feature form `(g, X) -> diag(g) X`.

The matrix may come out of a map on the parameters (weight normalisation): the chain rule for that argument is part of the
atom, so a reparametrised layer needs no derivation of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Expr, S

from theory.atoms.base import Atom, Domain
from theory.bound import Bound, Step
from theory.compose import Series, collapse, compose, lambda_max
from theory.records import FeatureBounds, LayerBounds, Shape


def _gram_steps() -> tuple[Step, ...]:
    """`dA -> dA X` has Gram matrix `I (x) X X^T`: checked entry by entry on symbols."""
    a = sympy.Matrix(2, 2, sympy.symbols("a:4"))
    x = sympy.Matrix(2, 2, sympy.symbols("x:4"))
    image = a * x
    gram = sympy.kronecker_product(sympy.eye(2), x * x.T)
    vector = sympy.Matrix(4, 1, list(a))
    return (
        Step(
            "|dA X|^2 = vec(dA)^T (I (x) X X^T) vec(dA)",
            (sympy.expand(sum(e**2 for e in image) - (vector.T * gram * vector)[0]),),
        ),
    )


def _mixed_step() -> Step:
    """Lagrange's identity behind `|dA dX| <= |dA| |dX|`, with equality for parallel vectors."""
    u, v = sympy.symbols("u:3"), sympy.symbols("v:3")
    lagrange = sum(a * a for a in u) * sum(b * b for b in v) - sum(a * b for a, b in zip(u, v, strict=True)) ** 2
    squares = sum((u[i] * v[j] - u[j] * v[i]) ** 2 for i in range(3) for j in range(i + 1, 3))
    return Step("|u|^2 |v|^2 - (u . v)^2 = sum_{i<j} (u_i v_j - u_j v_i)^2 >= 0", (sympy.expand(lagrange - squares),))


GRAM_STEPS = _gram_steps()
MIXED_STEP = _mixed_step()


def _with_ones(norm: Bound, samples: Expr, centred: bool) -> Bound:
    """Largest singular value of `[X; 1^T]` from that of `X`: the rows are orthogonal to `1` where `X` is centred."""
    ones = Bound.upper(sympy.sqrt(samples), quantity="norm of the row of ones", source="|1| = sqrt N", sharp=True)
    if norm.expression is S.Infinity:
        return norm
    if centred:
        expression = sympy.Max(norm.expression, ones.expression)
        return Bound.upper(
            expression,
            source="[X; 1] with X 1 = 0: orthogonal rows",
            parents=(norm, ones),
            assumptions=norm.assumptions,
        )
    return (norm**2 + ones**2) ** S.Half


@dataclass(frozen=True)
class MatMul(Atom):
    """`(theta, X) -> A(theta) X + b 1^T` with `A` of shape `features x d`.

    Attributes:
        features: rows of `A`.
        bias: whether `b` is there.
        parameter_map: atoms applied to the raw parameter `V` to give `A` (none: `A` is the parameter).
    """

    features: Expr
    bias: bool = False
    parameter_map: tuple[Atom, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", sympy.sympify(self.features))
        Shape(self.features, S.One)

    @property
    def formula(self) -> str:
        inner = "A" if not self.parameter_map else "A(theta)"
        return f"(theta, X) -> {inner} X" + (" + b 1^T" if self.bias else "")

    def output_shape(self, shape: Shape) -> Shape:
        return Shape(self.features, shape.samples)

    def weight_shape(self, shape: Shape) -> Shape:
        return Shape(self.features, shape.features)

    def weight(self, shape: Shape, domain: Domain) -> tuple[LayerBounds | None, FeatureBounds]:
        """Bounds of the map `theta -> A` (None: the identity) and what is known of `A`."""
        known = domain.parameter(self.weight_shape(shape))
        tree = Series(())
        for atom in self.parameter_map:
            tree = compose(tree, atom.bounds(known, domain))
            known = atom.forward(known, domain)
        return (collapse(tree, known.shape.samples) if self.parameter_map else None), known

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        jet, known = self.weight(features.shape, domain)
        source = f"bilinear atom {self.formula}"
        norm = features.operator
        if jet is None:
            first, second = Bound.upper(1, quantity="exact"), Bound.upper(0, quantity="exact")
            regular = Bound.lower(1, quantity="exact")
        else:
            # raw parameters and gains together are one argument of the weight
            first = (
                (jet.input_jacobian_norm**2 + jet.param_jacobian_norm**2) ** S.Half
                if jet.has_parameters
                else jet.input_jacobian_norm
            )
            parts = {(0, 0): jet.input_input, (0, 1): jet.input_param, (1, 0): jet.input_param, (1, 1): jet.param_param}
            second = lambda_max(parts, "second derivative of the weight") if jet.has_parameters else jet.input_input
            regular = jet.input_jacobian_sigma_min**2 + jet.tangent_kernel_lambda_min
        by_weight = first * norm
        param = _with_ones(by_weight, features.shape.samples, features.centred) if self.bias else by_weight
        plain = jet is None
        return LayerBounds(
            known.operator.named("input_jacobian_norm", source=source + ": dX -> A dX", sharp=plain),
            param.named(
                "param_jacobian_norm", source=source + ": dA -> dA X", steps=GRAM_STEPS, sharp=plain and not self.bias
            ),
            Bound.upper(0, source=source + ": linear in X", sharp=True),
            (first if not plain else Bound.upper(1)).named(
                "input_param",
                source=source + ": (dA, dX) -> dA dX",
                steps=(MIXED_STEP,),
                sharp=plain,
                attained="rank one",
            ),
            (second * norm).named("param_param", source=source + ": D^2 A X", sharp=plain),
            known.row_sigma_min.named(
                "input_jacobian_sigma_min", source=source + ": least singular value of A", sharp=plain
            ),
            (regular * features.sigma_min**2).named(
                "tangent_kernel_lambda_min",
                source=source + ": lambda_min(X^T X) times that of the weight's map",
                steps=GRAM_STEPS,
                sharp=plain and not self.bias,
            ),
            has_parameters=True,
            sample_wise=True,
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        _, known = self.weight(features.shape, domain)
        samples = features.shape.samples
        norms = {name: known.operator * getattr(features, name) for name in ("frobenius", "operator", "sample")}
        norms["feature"] = known.feature * features.operator
        if self.bias:
            shift = domain.parameter(Shape(self.features, S.One)).frobenius
            for name, factor in (
                ("frobenius", sympy.sqrt(samples)),
                ("operator", sympy.sqrt(samples)),
                ("sample", S.One),
                ("feature", sympy.sqrt(samples)),
            ):
                norms[name] = norms[name] + shift * factor
        return FeatureBounds.from_norms(
            self.output_shape(features.shape),
            norms,
            centred=features.centred and not self.bias,
            row_sigma_min=known.row_sigma_min * features.row_sigma_min,
        )


@dataclass(frozen=True)
class Gain(Atom):
    """`(g, b, X) -> diag(g) X + b 1^T`: one learned factor, and with `shift` one learned constant, per feature."""

    shift: bool = False

    @property
    def formula(self) -> str:
        return "(g, X) -> diag(g) X" + (" + b 1^T" if self.shift else "")

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        source = f"bilinear atom {self.formula}, row by row"
        gain = domain.parameter(Shape(features.shape.features, S.One)).frobenius
        row = features.feature
        param = _with_ones(row, features.shape.samples, features.centred) if self.shift else row
        return LayerBounds(
            gain.named("input_jacobian_norm", source=source + ": max |g_i|", sharp=True),
            param.named("param_jacobian_norm", source=source + ": the largest row, [x_i; 1] with a shift"),
            Bound.upper(0, source=source + ": linear in X", sharp=True),
            Bound.upper(1, source=source + ": (dg, dX) -> diag(dg) dX", steps=(MIXED_STEP,), attained="a single row"),
            Bound.upper(0, source=source + ": linear in (g, b)", sharp=True),
            Bound.lower(0, source=source + ": min |g_i| over a ball around zero", sharp=True, attained="g = 0"),
            Bound.lower(0, source=source + ": the kernel's blocks have rank 1, or 2 with a shift", sharp=True),
            has_parameters=True,
            sample_wise=True,
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        gain = domain.parameter(Shape(features.shape.features, S.One)).frobenius
        samples = features.shape.samples
        norms = {name: gain * bound for name, bound in features.norms().items()}
        if self.shift:
            for name, factor in (
                ("frobenius", sympy.sqrt(samples)),
                ("operator", sympy.sqrt(samples)),
                ("sample", S.One),
                ("feature", sympy.sqrt(samples)),
                ("entry", S.One),
            ):
                norms[name] = norms[name] + gain * factor
        return FeatureBounds.from_norms(features.shape, norms, centred=features.centred and not self.shift)
