"""What is known of a feature matrix, and the bounds of one layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import sympy
from sympy import Expr, S

from theory.bound import Bound, minimum


@dataclass(frozen=True)
class Shape:
    """Shape `features x samples` of a feature matrix (columns are samples); of a parameter matrix, `rows x columns`."""

    features: Expr
    samples: Expr

    def __post_init__(self) -> None:
        for name in ("features", "samples"):
            size = sympy.sympify(getattr(self, name))
            if size.is_number and not (size.is_integer and size.is_positive):
                raise ValueError(f"{name} = {size}: a feature matrix needs a positive whole number of {name}")
            object.__setattr__(self, name, size)

    @property
    def size(self) -> Expr:
        return self.features * self.samples

    def __str__(self) -> str:
        return f"{self.features} x {self.samples}"


@dataclass(frozen=True)
class FeatureBounds:
    """What is known of a feature matrix `X` (features x samples), carried forward along the depth.

    Attributes:
        shape: its shape.
        frobenius: upper bound of the Frobenius norm.
        operator: upper bound of the largest singular value.
        sample: upper bound of every column's norm (one sample).
        feature: upper bound of every row's norm (one feature over all samples).
        entry: upper bound of every entry's absolute value.
        sigma_min: lower bound of `sigma_N`, the smallest of the singular values counted by columns.
        row_sigma_min: lower bound of the smallest singular value counted by rows (`inf |X^T y| / |y|`).
        centred: whether every row has zero mean; its entries are then at most `sqrt(1 - 1/N)` times its norm.
        centred_samples: the same for every column.

    `complete` uses the inequalities between these norms, so that no field is worse than the others imply.
    """

    shape: Shape
    frobenius: Bound
    operator: Bound
    sample: Bound
    feature: Bound
    entry: Bound
    sigma_min: Bound
    row_sigma_min: Bound
    centred: bool = False
    centred_samples: bool = False

    @classmethod
    def unbounded(cls, shape: Shape) -> FeatureBounds:
        """Nothing is known: the supremum is taken over all matrices."""
        return cls._filled(shape, Bound.upper(S.Infinity, source="unbounded domain"))

    @classmethod
    def ball(cls, shape: Shape, radius: Expr, source: str = "ball") -> FeatureBounds:
        """The ball `|X|_F <= radius`; every other norm is at most the Frobenius norm."""
        return cls._filled(shape, Bound.upper(radius, source=source))

    @classmethod
    def _filled(cls, shape: Shape, norm: Bound) -> FeatureBounds:
        return cls.of(shape, dict.fromkeys(NORMS, norm))

    @classmethod
    def of(
        cls,
        shape: Shape,
        norms: Mapping[str, Bound],
        *,
        sigma_min: Bound | None = None,
        row_sigma_min: Bound | None = None,
        centred: bool = False,
        centred_samples: bool = False,
    ) -> FeatureBounds:
        """From all five norms by name, taken as they are; singular values not given are only known to be at least 0."""
        zero = Bound.lower(0, source="nothing known")
        named = {name: norms[name].named(f"{name} norm") for name in NORMS}
        return cls(
            shape,
            named["frobenius"],
            named["operator"],
            named["sample"],
            named["feature"],
            named["entry"],
            (sigma_min or zero).named("sigma_min"),
            (row_sigma_min or zero).named("row_sigma_min"),
            centred,
            centred_samples,
        )

    @classmethod
    def data(cls, shape: Shape, frobenius: Expr, operator: Expr, sigma_min: Expr) -> FeatureBounds:
        """A fixed matrix of data with the given Frobenius norm, operator norm and least singular value `sigma_N`."""
        known = cls.ball(shape, operator, "data")
        return replace(
            known,
            frobenius=Bound.upper(frobenius, quantity="frobenius norm", source="data"),
            sigma_min=Bound.lower(sigma_min, quantity="sigma_min", source="data"),
        )

    @classmethod
    def from_norms(
        cls,
        shape: Shape,
        norms: Mapping[str, Bound],
        *,
        sigma_min: Bound | None = None,
        row_sigma_min: Bound | None = None,
        centred: bool = False,
        centred_samples: bool = False,
    ) -> FeatureBounds:
        """From some of the norms by name; those not given are filled in by what the given ones imply.

        `operator <= frobenius`, `sample, feature <= operator`, `entry <= min(sample, feature)`, and
        `frobenius <= min(sqrt(rank) operator, sqrt(samples) sample, sqrt(features) feature, sqrt(size) entry)`, the rank being at
        most the smaller of the two sizes; options that another one certainly beats are dropped.
        """
        n, d = shape.samples, shape.features
        # one entry of a vector of mean zero has at most the share sqrt(1 - 1/n) of its norm
        of_row = sympy.sqrt(1 - 1 / n) if centred else S.One
        of_column = sympy.sqrt(1 - 1 / d) if centred_samples else S.One
        known = dict(norms)
        routes = (
            (
                "frobenius",
                (
                    ("operator", sympy.sqrt(n)),
                    ("operator", sympy.sqrt(d)),
                    ("sample", sympy.sqrt(n)),
                    ("feature", sympy.sqrt(d)),
                    ("entry", sympy.sqrt(n * d)),
                ),
            ),
            ("operator", (("frobenius", S.One),)),
            ("sample", (("operator", S.One), ("frobenius", of_row), ("entry", sympy.sqrt(d)))),
            ("feature", (("operator", S.One), ("frobenius", of_column), ("entry", sympy.sqrt(n)))),
            ("entry", (("sample", of_column), ("feature", of_row))),
        )
        for name, ways in routes:
            if name in known:
                continue
            options = [known[via] * factor for via, factor in ways if via in known]
            options = [o for o in options if o.expression is not S.Infinity] or options
            if not options:
                raise ValueError(f"nothing is known that bounds the {name} norm: give one of {', '.join(NORMS)}")
            known[name] = minimum(*options)
        return cls.of(
            shape,
            known,
            sigma_min=sigma_min,
            row_sigma_min=row_sigma_min,
            centred=centred,
            centred_samples=centred_samples,
        )

    def norms(self) -> dict[str, Bound]:
        return {name: getattr(self, name) for name in NORMS}


NORMS = ("frobenius", "operator", "sample", "feature", "entry")

QUANTITIES = (
    "input_jacobian_norm",
    "param_jacobian_norm",
    "input_input",
    "input_param",
    "param_param",
    "input_jacobian_sigma_min",
    "tangent_kernel_lambda_min",
)
"""The seven quantities of one layer, in the order of every table."""

SYMBOLS_OF_QUANTITIES = dict(zip(QUANTITIES, ("J", "D", "XX", "XT", "TT", "s", "k"), strict=True))
LOWER = frozenset({"input_jacobian_sigma_min", "tangent_kernel_lambda_min"})


@dataclass(frozen=True)
class LayerBounds:
    """The seven bounds of a layer `f(theta, X)`, as suprema (infima for the last two) over a stated domain.

    Attributes:
        input_jacobian_norm: `J`, operator norm of `dX -> D_X f dX` between Frobenius norms.
        param_jacobian_norm: `D`, operator norm of `dtheta -> D_theta f dtheta`, Euclidean to Frobenius.
        input_input, input_param, param_param: `XX, XT, TT`, norms `sup |B(u, v)|_F` over unit `u, v` of the second derivatives.
        input_jacobian_sigma_min: `s = inf |J^T y| / |y|`, output side.
        tangent_kernel_lambda_min: `k = lambda_min(D D^T)`.
        has_parameters: False where `D = XT = TT = 0` because there is nothing to differentiate by.
        sample_wise: whether every column of the output depends on the same column of the input only; then `XX` also
            bounds the second derivative sample by sample, which the sharper rule for losses uses.
    """

    input_jacobian_norm: Bound
    param_jacobian_norm: Bound
    input_input: Bound
    input_param: Bound
    param_param: Bound
    input_jacobian_sigma_min: Bound
    tangent_kernel_lambda_min: Bound
    has_parameters: bool = False
    sample_wise: bool = True

    def __post_init__(self) -> None:
        for name in QUANTITIES:
            bound = getattr(self, name)
            wanted = "lower" if name in LOWER else "upper"
            if bound.sense != wanted:
                raise ValueError(f"{name} needs a {wanted} bound, got {bound}")
            if bound.quantity != name:
                object.__setattr__(self, name, bound.named(name))

    @classmethod
    def without_parameters(
        cls, input_jacobian_norm: Bound, input_input: Bound, input_jacobian_sigma_min: Bound, *, sample_wise: bool
    ) -> LayerBounds:
        """The record of a map that has no parameters: `D = XT = TT = 0`, `k = 0`."""
        none = Bound.upper(0, source="no parameters", sharp=True)
        return cls(
            input_jacobian_norm,
            none,
            input_input,
            none,
            none,
            input_jacobian_sigma_min,
            Bound.lower(0, source="no parameters", sharp=True),
            has_parameters=False,
            sample_wise=sample_wise,
        )

    def quantities(self) -> Iterator[tuple[str, Bound]]:
        for name in QUANTITIES:
            yield name, getattr(self, name)

    def with_bounds(self, bounds: Mapping[str, Bound]) -> LayerBounds:
        """The record with some of its quantities replaced."""
        return replace(self, **bounds)  # type: ignore[arg-type]
