"""Scaled dot-product attention: every query takes the mean of the values under the softmax of its scores against the keys.

For one sample, head and query let `E` be the mean over the keys with the query's weights `p`. Along a line `(Q, K, V) + t (dQ, dK, dV)`
and for a unit vector `a` the output's component is the mean of `f = a . v`, with scores `s = k . q / sqrt e`; its derivatives are mixed
cumulants `k` under `p` (`'` is the derivative by `t`):

    k(f, s') + E f'
    k(f, s', s') + k(f, s'') + 2 k(f', s')
    k(f, s', s', s') + 3 k(f, s', s'') + 3 k(f', s', s') + 3 k(f', s'')

Cumulants are bounded by the ranges of their arguments (`theory.atoms.softmax.cumulant_constants`), ranges by norms of tokens, or of the
matrices: a vector's entries lie within `sqrt 2` times its norm. Sums over the queries use `|K^T dQ|_F <= |K| |dQ|_F`. Nothing of this
depends on how many keys a query sees, so it serves causal attention as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import sympy
from sympy import Expr, S, Symbol, sqrt

from theory.atoms.base import Atom, Domain
from theory.atoms.softmax import cumulant_constants, softmax_constants
from theory.bound import Bound, Step, minimum
from theory.compose import CubicForm, LinearForm, QuadraticForm, euclidean_norm, lambda_max
from theory.records import FeatureBounds, LayerBounds, Shape
from theory.suprema import supremum

QUERY, KEY, VALUE = 0, 1, 2
"""Indices of the forms below: the three parts of the input's perturbation."""
SCORES = QUERY
"""Index of `dQ` and `dK` together, where the two are not told apart."""


@lru_cache(maxsize=1)
def cumulant_steps() -> tuple[Step, ...]:
    """The three lines above, checked for three keys."""
    t = Symbol("t")
    p = (*sympy.symbols("p:2"), 1 - sum(sympy.symbols("p:2")))
    f, df, ds, dds = (sympy.symbols(f"{name}:3") for name in ("f", "g", "s", "r"))

    def mean(*functions: tuple[Expr, ...]) -> Expr:
        return sum(pk * sympy.Mul(*(g[k] for g in functions)) for k, pk in enumerate(p))

    def cumulant(*functions: tuple[Expr, ...]) -> Expr:
        g = [tuple(value - mean(h) for value in h) for h in functions]
        if len(g) < 4:
            return mean(*g)
        pairs = (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))
        return mean(*g) - sum(mean(g[i], g[j]) * mean(g[k], g[l]) for (i, j), (k, l) in pairs)

    # exp(t s' + t^2 s''/2) to third order
    growth = [(S.One, s, s**2 + r, s**3 + 3 * s * r) for s, r in zip(ds, dds, strict=True)]
    # derivatives of numerator and denominator at 0, the denominator starting at 1; then of the quotient, by Leibniz
    low = [sum(pk * g[n] for pk, g in zip(p, growth, strict=True)) for n in range(4)]
    top = [
        sum(p[k] * (f[k] * growth[k][n] + (n * df[k] * growth[k][n - 1] if n else 0)) for k in range(3))
        for n in range(4)
    ]
    quotient: list[Expr] = []
    for n in range(4):
        quotient.append(sympy.expand(top[n] - sum(sympy.binomial(n, m) * low[n - m] * quotient[m] for m in range(n))))
    lines = (
        cumulant(f, ds) + mean(df),
        cumulant(f, ds, ds) + cumulant(f, dds) + 2 * cumulant(df, ds),
        cumulant(f, ds, ds, ds) + 3 * cumulant(f, ds, dds) + 3 * cumulant(df, ds, ds) + 3 * cumulant(df, dds),
    )
    names = ("first", "second", "third")
    derivatives = [
        Step(f"the {name} derivative in mixed cumulants (checked for three keys)", ((quotient[n] - line),))
        for n, (name, line) in enumerate(zip(names, lines, strict=True), 1)
    ]
    return (*derivatives, _score_step(t), _token_step())


def _score_step(t: Symbol) -> Step:
    k, q, dk, dq = sympy.symbols("k q dk dq")
    s = (k + t * dk) * (q + t * dq)
    zeros = (s.diff(t).subs(t, 0) - (k * dq + dk * q), s.diff(t, 2) - 2 * dk * dq)
    return Step(
        "scores are bilinear: s' = (k . dq + dk . q) / sqrt e, s'' = 2 dk . dq / sqrt e",
        tuple(map(sympy.expand, zeros)),
    )


def _token_step() -> Step:
    f, g = sympy.symbols("f g")
    return Step(
        "key and value of one token share its norm: 4 k(f, g) = k(f+g, f+g) - k(f-g, f-g), and f + g = (a, b) . (v, k), |(a, b)|^2 = 2",
        (((f + g) ** 2 - (f - g) ** 2 - 4 * f * g),),
    )


@lru_cache(maxsize=1)
def mixing_steps() -> tuple[Step, ...]:
    """`T |p|^2 <= cosh^2(D / 2)` for weights whose scores lie within `D` (Kantorovich's inequality)."""
    ratio, least, keys, spread = (Symbol(name, positive=True) for name in ("R", "a", "T", "D"))
    ceiling = (1 + ratio) ** 2 / (4 * keys * ratio)
    square = keys * ratio * (least - (1 + ratio) / (2 * keys * ratio)) ** 2
    return (
        Step("p_l >= p_k exp(-D), so 1 >= p_k (1 + (T - 1) exp(-D))"),
        Step("|V P| <= |V| |P|, and |P|_op <= |P|_F, whose columns have |p|^2 <= sum p = 1"),
        Step(
            "a <= p_k <= R a: sum (p_k - a)(p_k - R a) <= 0, so |p|^2 <= (1 + R) a - T R a^2 <= (1 + R)^2 / (4 T R)",
            ((ceiling - ((1 + ratio) * least - keys * ratio * least**2) - square),),
        ),
        Step(
            "with R = exp(D): (1 + R)^2 / (4 R) = cosh^2(D / 2)",
            (
                ((1 + sympy.exp(spread)) ** 2 / (4 * sympy.exp(spread)) - sympy.cosh(spread / 2) ** 2).rewrite(
                    sympy.exp
                ),
            ),
        ),
    )


@lru_cache(maxsize=4)
def largest_product(power: int) -> Expr:
    """Supremum of `v w^n` over `v^2 + w^2 <= 1`."""
    t = Symbol("t", nonnegative=True)
    return sympy.sqrt(supremum(sympy.expand(t * (1 - t) ** power), t, S.Zero, S.One).value)


@dataclass(frozen=True)
class Sizes:
    """What is known of one head of one sample.

    Attributes:
        token, matrix, sample: norms of the stacked `[Q; K; V]`: of a column, as an operator, Frobenius.
        reach: half the range of `k . b` and `v . a` over the keys, for unit `a, b`.
        scores: range of a query's scores over its keys.
        deviation: standard deviation of a function of the keys, relative to its Euclidean norm.
    """

    token: Bound
    matrix: Bound
    sample: Bound
    reach: Bound
    scores: Bound
    deviation: Bound

    @classmethod
    def of(cls, features: FeatureBounds, head_size: Expr, causal: bool) -> Sizes:
        tokens = features.shape.positions
        token = minimum(features.position, features.sample, features.operator)
        matrix = minimum(features.operator, features.sample, token * sqrt(tokens))
        reach = minimum(token, matrix * sqrt(S.Half))
        scores = token * reach * (2 / sqrt(head_size))
        plain = Bound.upper(
            sqrt(S.Half), quantity="relative deviation", source="range <= sqrt 2 |w|, deviation <= range / 2"
        )
        deviation = plain
        if not causal and scores.expression is not S.Infinity:
            # a causal query may see two keys only
            largest = 1 / (1 + (tokens - 1) * sympy.exp(-scores.expression))
            even = Bound.upper(
                sqrt(largest),
                source="Var w <= max p |w|^2",
                steps=mixing_steps(),
                parents=(scores,),
                assumptions=scores.assumptions,
            )
            deviation = minimum(plain, even)
        return cls(token, matrix, features.sample, reach, scores, deviation)


@dataclass(frozen=True)
class Majorant:
    """Forms that bound the first three derivatives of one head by the norms of the parts of the perturbation."""

    first: LinearForm
    second: QuadraticForm
    third: CubicForm | None


def _exact(value: Expr) -> Bound:
    return Bound.upper(value, quantity="exact")


def by_tokens(sizes: Sizes, mixing: Bound, root: Expr, third: bool) -> Majorant:
    """With ranges from the norms of tokens and operator norms; `root = sqrt e`."""
    constants, spread = cumulant_constants(), softmax_constants().spread
    values, deviation = sizes.reach * 2, sizes.deviation * 2
    # range of s', for the worst query and in the sum of squares over the queries; of f' and s''
    query, key = sizes.reach * (2 / root), _exact(spread / root)
    worst = LinearForm({QUERY: query, KEY: key * sizes.token})
    total = LinearForm({QUERY: query, KEY: key * sizes.matrix})
    moved: Any = LinearForm({VALUE: _exact(spread)})
    bent: Any = QuadraticForm({(QUERY, KEY): _exact(2 * spread / root)})
    # the same for covariances: twice the deviation
    steady = minimum(sizes.reach, sizes.deviation * sizes.matrix)
    even = LinearForm({QUERY: steady * (2 / root), KEY: deviation * sizes.matrix * (1 / root)})
    shifted: Any = LinearForm({VALUE: deviation})
    curved: Any = QuadraticForm({(QUERY, KEY): deviation * (2 / root)})
    second = _exact(constants.second)
    joint = steady**2 * (2 * constants.second / root)
    first = LinearForm({QUERY: joint, KEY: second * values * even[KEY], VALUE: mixing})
    form: Any = (
        _exact(constants.third) * (values * (worst * total))
        + second * (values * curved)
        + _exact(2 * constants.second) * (shifted * even)
    )
    if not third:
        return Majorant(first, form, None)
    cubic: Any = (
        _exact(constants.fourth) * (values * (worst * worst * total))
        + _exact(3 * constants.third_mixed) * (values * (bent * worst))
        + _exact(3 * constants.third) * (worst * total * moved)
        + _exact(3 * constants.second) * (curved * shifted)
    )
    return Majorant(first, form, cubic)


def by_samples(sizes: Sizes, mixing: Bound, root: Expr, third: bool) -> Majorant:
    """With the sample's norm alone, shared by queries, keys and values: `|V| (|K| |dQ| + |Q| |dK|)^n <= |V| |[Q; K]|^n |[dQ; dK]|^n`."""
    constants, spread = cumulant_constants(), softmax_constants().spread
    size = sizes.sample
    e = LinearForm({SCORES: _exact(S.One)})
    ds, df = LinearForm({SCORES: _exact(spread / root)}), LinearForm({VALUE: _exact(spread)})
    # |dQ| |dK| <= largest_product(1) |[dQ; dK]|^2
    bent: Any = _exact(2 * spread * largest_product(1) / root) * (e * e)
    second, f = _exact(constants.second), _exact(spread)
    deviation = sizes.deviation * 2  # in place of `spread`, for covariances
    even, shifted = LinearForm({SCORES: deviation * (1 / root)}), LinearForm({VALUE: deviation})
    curved: Any = (deviation * (2 * largest_product(1) / root)) * (e * e)

    def shared(power: int) -> Bound:
        return size ** (power + 1) * largest_product(power)

    first = LinearForm({SCORES: second * deviation * shared(1) * even[SCORES], VALUE: mixing})
    form: Any = (
        _exact(constants.third) * (f * (shared(2) * (ds * ds)))
        + second * (deviation * (size * curved))
        + _exact(2 * constants.second) * (size * (shifted * even))
    )
    if not third:
        return Majorant(first, form, None)
    cubic: Any = (
        _exact(constants.fourth) * (f * (shared(3) * (ds * ds * ds)))
        + _exact(3 * constants.third_mixed) * (f * (shared(1) * (bent * ds)))
        + _exact(3 * constants.third) * (size**2 * (ds * ds * df))
        + _exact(3 * constants.second) * (curved * shifted)
    )
    return Majorant(first, form, cubic)


def quadratic_norm(form: QuadraticForm) -> Bound:
    """Supremum of a quadratic form at unit arguments: the scores' block by its largest eigenvalue, then that block against the values'."""
    blocks: dict[tuple[int, int], Bound] = {}
    for (i, j), bound in form.items():
        half = bound * S.Half
        for pair in ((i, j), (j, i)):
            blocks[pair] = blocks[pair] + half if pair in blocks else half
    scores = lambda_max({k: b for k, b in blocks.items() if VALUE not in k}, "scores")
    cross = euclidean_norm([b for (i, j), b in blocks.items() if j == VALUE != i], "scores and values")
    return lambda_max({(0, 0): scores, (0, 1): cross, (1, 0): cross}, "input_input")


def cubic_norm(form: CubicForm) -> Bound:
    """Supremum of a cubic form at unit arguments, at most the Frobenius norm of its symmetric tensor."""
    places: dict[tuple[int, ...], Bound] = {}
    for key, bound in form.items():
        place = tuple(sorted(key))
        places[place] = places[place] + bound if place in places else bound
    orders = {1: 1, 2: 3, 3: 6}
    return euclidean_norm([b * (1 / sqrt(S(orders[len(set(k))]))) for k, b in places.items()], "input_input_input")


@dataclass(frozen=True)
class ScaledDotProduct(Atom):
    """`[Q; K; V] -> V P` for every sample and head, column `j` of `P` the softmax over the keys of `K^T q_j / sqrt e`.

    The input stacks queries, keys and values of `E` features each on a grid of tokens; a head takes `e = E / heads` of them, and the
    heads' outputs are stacked. With `causal` a query sees the keys up to its own token (in row-major order) only.
    """

    heads: int = 1
    causal: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.heads, int) and self.heads >= 1):
            raise ValueError(f"{self.heads} heads: give a positive whole number")

    @property
    def formula(self) -> str:
        masked = ", k <= j" if self.causal else ""
        return f"[Q; K; V] -> V P, p_kj = softmax_k(k_k . q_j / sqrt e{masked}), {self.heads} heads"

    def output_shape(self, shape: Shape) -> Shape:
        if not shape.grid:
            raise ValueError(f"attention on features of shape {shape}: it needs a grid of tokens")
        if (shape.features / (3 * self.heads)).is_integer is False:
            raise ValueError(
                f"attention with {self.heads} heads on {shape.features} features: give 3 E of them (queries, keys, values), E a multiple of the heads"
            )
        return replace(shape, features=shape.features / 3)

    def head_size(self, shape: Shape) -> Expr:
        return self.output_shape(shape).features / self.heads

    def sizes(self, features: FeatureBounds) -> Sizes:
        return Sizes.of(features, self.head_size(features.shape), self.causal)

    def mixing(self, features: FeatureBounds) -> Bound:
        """Norm of `V -> V P`: `sqrt T` (all queries attend to one key), less where the scores cannot differ that much."""
        tokens = features.shape.positions
        facts = {"quantity": "norm of the weights", "steps": mixing_steps()}
        plain = Bound.upper(sqrt(tokens), source="|P|_F^2 <= T", **facts)
        spread = self.sizes(features).scores
        if spread.expression is S.Infinity:
            return plain
        # the query of token j sees j keys: sum_j 1/j <= 1 + log T
        seen = sqrt(1 + sympy.log(tokens)) if self.causal else S.One
        even = Bound.upper(
            seen * sympy.cosh(spread.expression / 2),
            source="scores within a known range",
            parents=(spread,),
            assumptions=spread.assumptions,
            **facts,
        )
        return minimum(plain, even)

    def bounds(self, features: FeatureBounds, domain: Domain) -> LayerBounds:
        root = sqrt(self.head_size(features.shape))
        sizes, mixing = self.sizes(features), self.mixing(features)
        source = f"attention atom {self.formula}: heads and samples are blocks, so the norm is that of one head of one sample"
        steps = (*cumulant_steps(), *cumulant_constants().steps)
        majorants = [by(sizes, mixing, root, domain.third) for by in (by_tokens, by_samples)]
        first = minimum(*(euclidean_norm(list(m.first.values()), "input_jacobian_norm") for m in majorants))
        second = minimum(*(quadratic_norm(m.second) for m in majorants))
        third = None
        if domain.third:
            cubics = [cubic_norm(m.third) for m in majorants if m.third is not None]
            third = minimum(*cubics).named("input_input_input", source=source, steps=steps)
        unbounded = first.expression is S.Infinity
        sharp_zero = not self.causal and features.shape.positions != 1
        attained = "q = 0, two keys and values +-R: the Jacobian grows like R^2" if unbounded else ""
        return LayerBounds.without_parameters(
            first.named("input_jacobian_norm", source=source, steps=steps, sharp=unbounded, attained=attained),
            second.named("input_input", source=source, steps=steps, sharp=unbounded, attained=attained),
            Bound.lower(0, source=source, attained="V = 0, K = 0: P = 1 1^T / T has rank one", sharp=sharp_zero),
            sample_wise=True,
            third=third,
        )

    def forward(self, features: FeatureBounds, domain: Domain) -> FeatureBounds:
        """Means of the values: entries stay within theirs, tokens of one head as well; rows and samples grow by `|P|`."""
        shape = self.output_shape(features.shape)
        mixing = self.mixing(features)
        heads = _exact(sqrt(S(self.heads)))
        norms = {name: mixing * getattr(features, name) for name in ("frobenius", "sample", "feature")}
        norms["operator"] = minimum(mixing * heads * features.operator, norms["frobenius"])
        norms["position"] = minimum(heads * features.position, features.sample)
        norms["entry"] = minimum(features.entry, norms["position"])
        norms["sample"] = minimum(norms["sample"], norms["position"] * sqrt(shape.positions))
        return FeatureBounds.from_norms(shape, norms)
