"""Fixed linear maps `X -> S X` or `X -> X S`: scaling, centring, cropping, padding.

Each is given by the Gram matrix of its output side in the algebra spanned by the identity and one projection `E` (on
constants, on rows of zeros), `S S^T = alpha I + beta E` with `E^2 = E`; its spectrum is `{alpha, alpha + beta}`, which gives the operator
norm and the least singular value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy
from sympy import Expr, S

from theory.atoms.axes import OVER, check_axis, vector_length
from theory.atoms.base import Atom, Domain
from theory.bound import Assumption, Bound, Step
from theory.records import FeatureBounds, LayerBounds, Shape


class FixedLinear(Atom):
    """Common derivation: `J` and `s` are the ends of the spectrum of `S S^T`; second derivatives vanish."""

    sample_wise = True

    def gram(self, shape: Shape) -> tuple[Expr, Expr]:
        """`(alpha, beta)` of `S S^T = alpha I + beta E`."""
        raise NotImplementedError

    def steps(self, shape: Shape) -> tuple[Step, ...]:
        return ()

    def assumptions(self, shape: Shape) -> tuple[Assumption, ...]:
        return ()

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        alpha, beta = self.gram(features.shape)
        spectrum = (alpha,) if beta == 0 else (alpha, sympy.simplify(alpha + beta))
        facts = {
            "source": f"fixed linear map {self.formula}: spectrum of S S^T is {{{', '.join(map(str, spectrum))}}}",
            "steps": self.steps(features.shape),
            "assumptions": self.assumptions(features.shape),
            "sharp": True,
        }
        return LayerBounds.without_parameters(
            Bound.upper(sympy.sqrt(sympy.Max(*spectrum)), attained="a singular vector", **facts),
            Bound.upper(0, **{**facts, "source": "a linear map has no second derivative"}),
            Bound.lower(sympy.sqrt(sympy.Min(*spectrum)), attained="a singular vector", **facts),
            sample_wise=self.sample_wise,
        )


@dataclass(frozen=True)
class Scale(FixedLinear):
    """`X -> factor X`, a fixed positive factor; `Scale(1)` is the identity."""

    factor: Expr = S.One

    def __post_init__(self) -> None:
        factor = sympy.sympify(self.factor)
        if not factor.is_positive:
            raise ValueError(
                f"scale factor {factor} is not positive: give a positive number or a symbol declared positive"
            )
        object.__setattr__(self, "factor", factor)

    @property
    def formula(self) -> str:
        return f"X -> {self.factor} X"

    def gram(self, shape: Shape) -> tuple[Expr, Expr]:
        return self.factor**2, S.Zero

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        scaled = {name: bound * self.factor for name, bound in features.norms().items()}
        return replace(
            features,
            sigma_min=features.sigma_min * self.factor,
            row_sigma_min=features.row_sigma_min * self.factor,
            **scaled,
        )


@dataclass(frozen=True)
class Centre(FixedLinear):
    """Subtract the mean over every vector along `axis` (`theory.atoms.axes`): of a row (batch norm), a column (layer norm), ..."""

    axis: str = "samples"
    groups: int = 1

    def __post_init__(self) -> None:
        check_axis(self.axis, self.groups, tuple(axis for axis in OVER if axis not in ("entries", "matrix")))

    @property
    def sample_wise(self) -> bool:  # type: ignore[override]
        return "samples" not in OVER[self.axis]

    @property
    def formula(self) -> str:
        known = {"samples": "X -> X (I - 1 1^T / N)", "features": "X -> (I - 1 1^T / d) X"}
        return known.get(self.axis, f"X -> X - mean over each {self.axis}")

    def length(self, shape: Shape) -> Expr:
        return vector_length(shape, self.axis, self.groups)

    def gram(self, shape: Shape) -> tuple[Expr, Expr]:
        return S.One, S.NegativeOne

    def steps(self, shape: Shape) -> tuple[Step, ...]:
        e = sympy.Symbol("E")  # a projection: higher powers reduce by E^2 = E
        reduced = sympy.rem((1 - e) ** 2, e**2 - e, e)
        n = sympy.Symbol("n", positive=True)
        return (
            Step("E = 1 1^T / n is a projection: (1^T 1) / n^2 = 1 / n", (n / n**2 - 1 / n,)),
            Step("S = I - E is symmetric and idempotent, so S S^T = I - E", ((reduced - (1 - e)),)),
        )

    def assumptions(self, shape: Shape) -> tuple[Assumption, ...]:
        return (Assumption(self.length(shape), ">=", S(2), f"centring over one of the {self.axis} leaves zero"),)

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        length = self.length(features.shape)
        if length == 1:
            raise ValueError(
                f"centring over a single entry of the {self.axis} leaves zero: give at least two {self.axis}"
            )
        return super().bounds(features, domain)

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        kept = {
            "samples": ("frobenius", "operator", "feature"),
            "features": ("frobenius", "operator", "sample", "position"),
            "instance": ("frobenius", "operator", "sample", "feature"),
        }.get(self.axis, ("frobenius", "sample"))
        norms = {name: getattr(features, name) for name in kept}
        norms["entry"] = features.entry * 2
        return FeatureBounds.from_norms(
            features.shape,
            norms,
            centred=self.axis in ("samples", "instance") or (features.centred and self.axis == "features"),
            centred_samples=self.axis == "features" or features.centred_samples,
        )


@dataclass(frozen=True)
class Crop(FixedLinear):
    """Keep the first `features` rows: the fixed co-isometry `[I 0]`, used as a readout."""

    features: Expr = S.One

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", sympy.sympify(self.features))
        Shape(self.features, S.One)

    @property
    def formula(self) -> str:
        return f"X -> [I 0] X, the first {self.features} features"

    def output_shape(self, shape: Shape) -> Shape:
        excess = shape.features - self.features
        if excess.is_negative:
            raise ValueError(f"crop to {self.features} features: the input has only {shape.features}")
        return replace(shape, features=self.features)

    def gram(self, shape: Shape) -> tuple[Expr, Expr]:
        return S.One, S.Zero

    def steps(self, shape: Shape) -> tuple[Step, ...]:
        block = sympy.Matrix([[1, 0, 0], [0, 1, 0]])
        return (Step("[I 0] [I 0]^T = I", tuple(block * block.T - sympy.eye(2))),)

    def assumptions(self, shape: Shape) -> tuple[Assumption, ...]:
        excess = shape.features - self.features
        return (
            ()
            if excess.is_nonnegative
            else (Assumption(shape.features, ">=", self.features, "a crop cannot add features"),)
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        return FeatureBounds.from_norms(
            self.output_shape(features.shape),
            features.norms(),
            centred=features.centred,
            row_sigma_min=features.row_sigma_min,
        )


@dataclass(frozen=True)
class Pad(FixedLinear):
    """`before` rows of zeros above and `after` below: the fixed isometry `[0; I; 0]`, which is not onto where it pads."""

    before: int
    after: int

    def __post_init__(self) -> None:
        if min(self.before, self.after) < 0 or not all(isinstance(n, int) for n in (self.before, self.after)):
            raise ValueError(
                f"pad({self.before}, {self.after}): give whole numbers of features, not negative; a crop takes features away"
            )

    @property
    def total(self) -> int:
        """Number of rows added."""
        return self.before + self.after

    @property
    def formula(self) -> str:
        return f"X -> [0; X; 0], {self.before} features of zeros before and {self.after} after"

    def output_shape(self, shape: Shape) -> Shape:
        return replace(shape, features=shape.features + self.total)

    def gram(self, shape: Shape) -> tuple[Expr, Expr]:
        return S.One, S.NegativeOne if self.total else S.Zero

    def steps(self, shape: Shape) -> tuple[Step, ...]:
        block, added = sympy.Matrix([[0, 0], [1, 0], [0, 1], [0, 0]]), sympy.diag(1, 0, 0, 1)
        return (
            Step(
                "S = [0; I; 0]: S S^T = I - E, E the projection on the rows added",
                tuple(block * block.T - sympy.eye(4) + added),
            ),
            Step(
                "S^T S = I: norms and the singular values counted by columns stay",
                tuple(block.T * block - sympy.eye(2)),
            ),
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        return FeatureBounds.of(
            self.output_shape(features.shape),
            features.norms(),
            sigma_min=features.sigma_min,
            row_sigma_min=None if self.total else features.row_sigma_min,
            centred=features.centred,
            centred_samples=features.centred_samples,
        )


def identity() -> Scale:
    return Scale(S.One)


__all__ = ["Centre", "Crop", "FixedLinear", "Pad", "Scale", "identity"]
