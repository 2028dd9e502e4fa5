"""The bilinear atom `(A, X) -> A X`, with an optional shift, and its per-feature form `(g, X) -> diag(g) X`.

The matrix may come out of a map on the parameters (weight normalisation): the chain rule for that argument is part of the
atom, so a reparametrised layer needs no derivation of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy
from sympy import Expr, S

from theory.atoms.base import EVERYWHERE, Atom, Domain
from theory.atoms.windows import Windows
from theory.bound import Bound, Step, minimum
from theory.compose import Series, collapse, compose, euclidean_norm, lambda_max
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
            ((sum(e**2 for e in image) - (vector.T * gram * vector)[0]),),
        ),
    )


def _mixed_step() -> Step:
    """Lagrange's identity behind `|dA dX| <= |dA| |dX|`, with equality for parallel vectors."""
    u, v = sympy.symbols("u:3"), sympy.symbols("v:3")
    lagrange = sum(a * a for a in u) * sum(b * b for b in v) - sum(a * b for a, b in zip(u, v, strict=True)) ** 2
    squares = sum((u[i] * v[j] - u[j] * v[i]) ** 2 for i in range(3) for j in range(i + 1, 3))
    return Step("|u|^2 |v|^2 - (u . v)^2 = sum_{i<j} (u_i v_j - u_j v_i)^2 >= 0", ((lagrange - squares),))


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
    """`(theta, X) -> A(theta) X + b 1^T` with `A` of shape `features x d`; on a grid the same `A` at every position.

    With `windows` it is a convolution `A W(X)`; with `transposed` as well, a transposed convolution `W^T(A X)`.

    Attributes:
        features: rows of `A` (of a transposed convolution `A` has `features taps` rows).
        bias: whether `b` is there.
        parameter_map: atoms applied to the raw parameter `V` to give `A` (none: `A` is the parameter).
        windows: the map `W` of a convolution; its taps are counted within a feature.
        transposed: whether the windows follow the matrix, transposed.
        groups: `A` is block diagonal with that many blocks, stored below one another.
        grid: of a transposed convolution, the grid of its output (`W` maps it to the grid of the input).
        path: name of the parameters; layers with one path share them. Empty: its own.
    """

    features: Expr
    bias: bool = False
    parameter_map: tuple[Atom, ...] = ()
    windows: Windows | None = None
    transposed: bool = False
    groups: int = 1
    grid: tuple[Expr, ...] = ()
    path: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", sympy.sympify(self.features))
        object.__setattr__(self, "grid", tuple(map(sympy.sympify, self.grid)))
        Shape(self.features, S.One)
        if (self.features / self.groups).is_integer is False:
            raise ValueError(f"{self.features} output features in {self.groups} groups: the groups must be equal")
        if self.transposed and (self.windows is None or len(self.grid) != len(self.windows.kernel)):
            raise ValueError("a transposed convolution needs its windows and the grid of its output")

    @property
    def formula(self) -> str:
        matrix = "A" if not self.parameter_map else "A(theta)"
        image = f"{matrix} X" if self.windows is None else f"W^T({matrix} X)" if self.transposed else f"{matrix} W(X)"
        return f"(theta, X) -> {image}" + (" + b 1^T" if self.bias else "")

    @property
    def taps(self) -> int:
        return 1 if self.windows is None else self.windows.taps

    def output_shape(self, shape: Shape) -> Shape:
        if (shape.features / self.groups).is_integer is False:
            raise ValueError(f"{shape.features} input features in {self.groups} groups: the groups must be equal")
        if self.windows is None:
            return replace(shape, features=self.features)
        if not self.transposed:
            return replace(self.windows.output_shape(shape), features=self.features)
        out = replace(shape, features=self.features, grid=self.grid)
        if self.windows.output_shape(out).grid != shape.grid:
            raise ValueError(
                f"transposed convolution: windows map the grid {self.grid} to {self.windows.output_shape(out).grid}, not to {shape.grid}"
            )
        return out

    def weight_shape(self, shape: Shape) -> Shape:
        if self.transposed:
            return Shape(self.features * self.taps, shape.features / self.groups)
        return Shape(self.features, shape.features * self.taps / self.groups)

    def weight(self, shape: Shape, domain: Domain) -> tuple[LayerBounds | None, FeatureBounds]:
        """Bounds of the map `theta -> A` (None: the identity) and what is known of `A`, as it is stored."""
        known = domain.parameter(self.weight_shape(shape), f"{self.path}.weight" if self.path else "")
        tree = Series(())
        for atom in self.parameter_map:
            tree = compose(tree, atom.bounds(known, domain))
            known = atom.forward(known, domain)
        return (collapse(tree, known.shape.samples) if self.parameter_map else None), known

    def _windowed(self, features: FeatureBounds, domain: Domain) -> tuple[FeatureBounds, Bound]:
        """What the matrix is multiplied by, and the norm of `W`."""
        if self.windows is None:
            return features, Bound.upper(1, quantity="exact")
        known = FeatureBounds.unbounded(self.output_shape(features.shape)) if self.transposed else features
        norm = self.windows.bounds(known, domain).input_jacobian_norm
        return (features if self.transposed else self.windows.forward(features, domain)), norm

    def _jacobian(self, known: FeatureBounds, norm: Bound, domain: Domain) -> Bound:
        """`|A|` times `|W|`, or what the domain knows of the whole map; depth-wise blocks are single rows."""
        blocks = known.feature if self.groups == self.features and not self.transposed else known.operator
        product = norm * blocks
        exact = domain.map_norm(self.path)
        return product if exact is None else minimum(product, exact)

    def _regular(self, features: FeatureBounds, inner: FeatureBounds, known: FeatureBounds) -> tuple[Bound, Bound]:
        """Least singular values of the map by its input, and of the matrix the weight's perturbation is multiplied by."""
        if self.groups > 1:
            zero = Bound.lower(0, source="the least singular values of the blocks are not those of the stored matrix")
            return zero, zero
        if self.windows is None:
            return known.row_sigma_min, features.sigma_min
        if self.transposed:
            out = self.windows.adjoint_sigma_min(self.output_shape(features.shape))
            return known.row_sigma_min * out, features.sigma_min * out
        return known.row_sigma_min * self.windows.bounds(features, EVERYWHERE).input_jacobian_sigma_min, inner.sigma_min

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        self.output_shape(features.shape)
        jet, known = self.weight(features.shape, domain)
        inner, norm = self._windowed(features, domain)
        source = f"bilinear atom {self.formula}"
        one, zero = Bound.upper(1, quantity="exact"), Bound.upper(0, quantity="exact")
        if jet is None:
            first, second, third, regular = one, zero, zero, Bound.lower(1, quantity="exact")
        else:
            # raw parameters and gains together are one argument of the weight
            first = (
                (jet.input_jacobian_norm**2 + jet.param_jacobian_norm**2) ** S.Half
                if jet.has_parameters
                else jet.input_jacobian_norm
            )
            parts = {(0, 0): jet.input_input, (0, 1): jet.input_param, (1, 0): jet.input_param, (1, 1): jet.param_param}
            second = lambda_max(parts, "second derivative of the weight") if jet.has_parameters else jet.input_input
            third = jet.input_input_input
            if jet.has_parameters:
                mixed = [jet.input_input_param] * 3 + [jet.input_param_param] * 3
                third = euclidean_norm([third, *mixed, jet.param_param_param], "third derivative of the weight")
            regular = jet.input_jacobian_sigma_min**2 + jet.tangent_kernel_lambda_min
        # what a perturbation of the weight is multiplied by: W(X), or for the transposed map X, with W^T after it
        multiplied = inner.operator * norm if self.transposed else inner.operator
        by_weight = first * multiplied
        param = (
            _with_ones(by_weight, self.output_shape(features.shape).columns, features.centred)
            if self.bias
            else by_weight
        )
        plain = jet is None
        sharp = plain and self.windows is None and self.groups == 1
        least, onto = self._regular(features, inner, known)
        return LayerBounds(
            self._jacobian(known, norm, domain).named(
                "input_jacobian_norm", source=source + ": dX -> A dX", sharp=sharp
            ),
            param.named(
                "param_jacobian_norm", source=source + ": dA -> dA X", steps=GRAM_STEPS, sharp=sharp and not self.bias
            ),
            Bound.upper(0, source=source + ": linear in X", sharp=True),
            (first * norm if not (plain and norm.expression == 1) else Bound.upper(1)).named(
                "input_param",
                source=source + ": (dA, dX) -> dA dX",
                steps=(MIXED_STEP,),
                sharp=sharp,
                attained="rank one",
            ),
            (second * multiplied).named("param_param", source=source + ": D^2 A X", sharp=sharp),
            least.named("input_jacobian_sigma_min", source=source + ": least singular value of A", sharp=sharp),
            (regular * onto**2).named(
                "tangent_kernel_lambda_min",
                source=source + ": lambda_min(X^T X) times that of the weight's map",
                steps=GRAM_STEPS,
                sharp=sharp and not self.bias,
            ),
            has_parameters=True,
            sample_wise=True,
            input_input_input=zero,
            input_input_param=zero,
            input_param_param=second * norm,
            param_param_param=third * multiplied,
            names=(self.path,) if self.path else (),
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        _, known = self.weight(features.shape, domain)
        inner, norm = self._windowed(features, domain)
        shape = self.output_shape(features.shape)
        jacobian = self._jacobian(known, norm, domain)
        norms = {name: jacobian * getattr(features, name) for name in ("frobenius", "sample")}
        if not self.transposed:
            norms["operator"] = known.operator * inner.operator
            norms["feature"] = known.feature * inner.operator
            norms["position"] = known.operator * inner.position
        if self.bias:
            shift = domain.parameter(Shape(self.features, S.One), f"{self.path}.bias" if self.path else "").frobenius
            columns = sympy.sqrt(shape.columns)
            factors = {
                "frobenius": columns,
                "operator": columns,
                "sample": sympy.sqrt(shape.positions),
                "feature": columns,
                "position": S.One,
            }
            norms = {name: bound + shift * factors[name] for name, bound in norms.items()}
        return FeatureBounds.from_norms(
            shape,
            norms,
            centred=features.centred and not self.bias and self.windows is None,
            row_sigma_min=known.row_sigma_min * features.row_sigma_min
            if self.windows is None and self.groups == 1
            else None,
        )


@dataclass(frozen=True)
class Gain(Atom):
    """`(g, b, X) -> diag(g) X + b 1^T`: one learned factor, and with `shift` one learned constant, per feature."""

    shift: bool = False
    path: str = ""

    def _known(self, shape: Shape, domain: Domain, which: str) -> FeatureBounds:
        return domain.parameter(Shape(shape.features, S.One), f"{self.path}.{which}" if self.path else "")

    @property
    def formula(self) -> str:
        return "(g, X) -> diag(g) X" + (" + b 1^T" if self.shift else "")

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        source = f"bilinear atom {self.formula}, row by row"
        gain = self._known(features.shape, domain, "gain").entry
        row = features.feature
        none = Bound.upper(0, quantity="exact")
        param = _with_ones(row, features.shape.columns, features.centred) if self.shift else row
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
            input_input_input=none,
            input_input_param=none,
            input_param_param=none,
            param_param_param=none,
            names=(self.path,) if self.path else (),
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        gain = self._known(features.shape, domain, "gain").entry
        norms = {name: gain * bound for name, bound in features.norms().items()}
        if self.shift:
            shift = self._known(features.shape, domain, "shift")
            columns = sympy.sqrt(features.shape.columns)
            factors = {
                "frobenius": columns,
                "operator": columns,
                "sample": sympy.sqrt(features.shape.positions),
                "feature": columns,
                "position": S.One,
                "entry": S.One,
            }
            for name, factor in factors.items():
                norms[name] = norms[name] + (shift.entry if name in ("feature", "entry") else shift.frobenius) * factor
        return FeatureBounds.from_norms(features.shape, norms, centred=features.centred and not self.shift)
