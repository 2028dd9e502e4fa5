"""What is known of a feature matrix, and the bounds of one layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
from sympy import Expr, S

from theory.bound import Bound, minimum


@dataclass(frozen=True)
class Shape:
    """Shape `features x samples` of a feature matrix (columns are samples); of a parameter matrix, `rows x columns`.

    With a `grid` (the pixels of an image, the tokens of a text) every sample holds `features` numbers at each of its positions. The
    matrix then has one column for each position of each sample, `features x (positions samples)`; flat arrays count features first,
    then positions in row-major order.
    """

    features: Expr
    samples: Expr
    grid: tuple[Expr, ...] = ()

    def __post_init__(self) -> None:
        def checked(name: str, value: Any) -> Expr:
            size = sympy.sympify(value)
            if size.is_number and not (size.is_integer and size.is_positive):
                raise ValueError(f"{name} = {size}: a feature matrix needs a positive whole number of {name}")
            return size

        for name in ("features", "samples"):
            object.__setattr__(self, name, checked(name, getattr(self, name)))
        object.__setattr__(self, "grid", tuple(checked("positions along a grid", length) for length in self.grid))

    @property
    def positions(self) -> Expr:
        """Positions of one sample; 1 without a grid."""
        return sympy.Mul(*self.grid)

    @property
    def columns(self) -> Expr:
        return self.positions * self.samples

    @property
    def sample_size(self) -> Expr:
        """Numbers in one sample."""
        return self.features * self.positions

    @property
    def size(self) -> Expr:
        return self.features * self.columns

    def __str__(self) -> str:
        return " x ".join(map(str, (self.features, *self.grid, self.samples)))


@dataclass(frozen=True)
class FeatureBounds:
    """What is known of a feature matrix `X` (features x samples), carried forward along the depth.

    Attributes:
        shape: its shape.
        frobenius: upper bound of the Frobenius norm.
        operator: upper bound of the largest singular value.
        sample: upper bound of the norm of every sample (a column, or all columns of its grid).
        feature: upper bound of every row's norm (one feature over all samples and positions).
        entry: upper bound of every entry's absolute value.
        sigma_min: lower bound of `sigma_N`, the smallest of the singular values counted by columns.
        row_sigma_min: lower bound of the smallest singular value counted by rows (`inf |X^T y| / |y|`).
        position: upper bound of every column's norm; without a grid the same as `sample`.
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
    position: Bound
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
        """From all norms by name, taken as they are; singular values not given are only known to be at least 0.

        The `position` norm may be left out: it is at most the `sample` norm.
        """
        zero = Bound.lower(0, source="nothing known")
        given = {"position": norms["sample"], **norms}
        named = {name: given[name].named(f"{name} norm") for name in NORMS}
        return cls(
            shape,
            named["frobenius"],
            named["operator"],
            named["sample"],
            named["feature"],
            named["entry"],
            named["position"],
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
        most the smaller of the two sizes; options that another one certainly beats are dropped. A norm given as `oo` is not known.
        """
        n, d, positions = shape.columns, shape.features, shape.positions
        # one entry of a vector of mean zero has at most the share sqrt(1 - 1/n) of its norm
        of_row = sympy.sqrt(1 - 1 / n) if centred else S.One
        of_column = sympy.sqrt(1 - 1 / d) if centred_samples else S.One
        known = {name: bound for name, bound in norms.items() if bound.expression is not S.Infinity}
        infinite = {name: bound for name, bound in norms.items() if name not in known}
        if not shape.grid and ("sample" in known or "position" in known):
            alias = known.get("sample", known.get("position"))
            known["sample"] = known["position"] = alias  # type: ignore[assignment]
        routes: tuple[tuple[str, tuple[tuple[str, Expr], ...]], ...] = (
            (
                "frobenius",
                (
                    ("operator", sympy.sqrt(n)),
                    ("operator", sympy.sqrt(d)),
                    ("sample", sympy.sqrt(shape.samples)),
                    *((("position", sympy.sqrt(n)),) if shape.grid else ()),
                    ("feature", sympy.sqrt(d)),
                    ("entry", sympy.sqrt(n * d)),
                ),
            ),
            ("operator", (("frobenius", S.One),)),
            (
                "sample",
                (
                    ("operator", sympy.sqrt(positions)),
                    ("frobenius", S.One if shape.grid else of_row),
                    *((("position", sympy.sqrt(positions)), ("operator", sympy.sqrt(d))) if shape.grid else ()),
                    ("entry", sympy.sqrt(d * positions)),
                ),
            ),
            ("position", (("operator", S.One), ("sample", S.One), ("frobenius", of_row), ("entry", sympy.sqrt(d)))),
            ("feature", (("operator", S.One), ("frobenius", of_column), ("entry", sympy.sqrt(n)))),
            ("entry", (("position", of_column), ("feature", of_row))),
        )
        if not shape.grid:
            routes = tuple(route for route in routes if route[0] != "position")
        for name, ways in routes:
            if name in known:
                continue
            options = [known[via] * factor for via, factor in ways if via in known]
            if options:
                known[name] = minimum(*options)
            elif name not in infinite:
                implied = [infinite[via] for via, _ in ways if via in infinite]
                if not implied:
                    raise ValueError(f"nothing is known that bounds the {name} norm: give one of {', '.join(NORMS)}")
                infinite[name] = implied[0]
            if name == "sample" and not shape.grid:
                (known if name in known else infinite)["position"] = known.get(name, infinite.get(name))  # type: ignore[assignment]
        return cls.of(
            shape,
            {**infinite, **known},
            sigma_min=sigma_min,
            row_sigma_min=row_sigma_min,
            centred=centred,
            centred_samples=centred_samples,
        )

    def norms(self) -> dict[str, Bound]:
        return {name: getattr(self, name) for name in NORMS}


NORMS = ("frobenius", "operator", "sample", "feature", "entry", "position")

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
THIRD = ("input_input_input", "input_input_param", "input_param_param", "param_param_param")
"""The norms of the third derivatives; certificates around given weights use them, tables do not show them."""
SYMBOLS_OF_THIRD = dict(zip(THIRD, ("XXX", "XXT", "XTT", "TTT"), strict=True))
LOWER = frozenset({"input_jacobian_sigma_min", "tangent_kernel_lambda_min"})


UNKNOWN = Bound.upper(S.Infinity, source="not derived")


@dataclass(frozen=True)
class LayerBounds:
    """The seven bounds of a layer `f(theta, X)`, as suprema (infima for the last two) over a stated domain.

    Attributes:
        input_jacobian_norm: `J`, operator norm of `dX -> D_X f dX` between Frobenius norms.
        param_jacobian_norm: `D`, operator norm of `dtheta -> D_theta f dtheta`, Euclidean to Frobenius.
        input_input, input_param, param_param: `XX, XT, TT`, norms `sup |B(u, v)|_F` over unit `u, v` of the second derivatives.
        input_jacobian_sigma_min: `s = inf |J^T y| / |y|`, output side.
        tangent_kernel_lambda_min: `k = lambda_min(D D^T)`.
        input_input_input, ..., param_param_param: `XXX, XXT, XTT, TTT`, norms `sup |B(u, v, w)|_F` of the third derivatives.
        names: names of the parameters; equal names in a network mean the same (shared) parameters. Empty: its own.
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
    input_input_input: Bound = field(default=UNKNOWN)
    input_input_param: Bound = field(default=UNKNOWN)
    input_param_param: Bound = field(default=UNKNOWN)
    param_param_param: Bound = field(default=UNKNOWN)
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*QUANTITIES, *THIRD):
            bound = getattr(self, name)
            wanted = "lower" if name in LOWER else "upper"
            if bound.sense != wanted:
                raise ValueError(f"{name} needs a {wanted} bound, got {bound}")
            if bound.quantity != name:
                object.__setattr__(self, name, bound.named(name))

    @classmethod
    def without_parameters(
        cls,
        input_jacobian_norm: Bound,
        input_input: Bound,
        input_jacobian_sigma_min: Bound,
        *,
        sample_wise: bool,
        third: Bound | None = None,
    ) -> LayerBounds:
        """The record of a map that has no parameters: `D = XT = TT = 0`, `k = 0`; `third` is its `XXX` (0 for a linear map)."""
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
            input_input_input=third or (none if input_input.expression == 0 else UNKNOWN),
            input_input_param=none,
            input_param_param=none,
            param_param_param=none,
        )

    def quantities(self) -> Iterator[tuple[str, Bound]]:
        for name in QUANTITIES:
            yield name, getattr(self, name)

    def with_bounds(self, bounds: Mapping[str, Bound]) -> LayerBounds:
        """The record with some of its quantities replaced."""
        return replace(self, **bounds)  # type: ignore[arg-type]
