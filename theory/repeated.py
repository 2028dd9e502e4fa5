"""A block repeated a symbolic number of times: closed forms in the depth `L` of everything the rule would unroll to.

With `j, D, XX, XT, TT` the block's constants, unrolling the rule gives (indices `1 <= l < m <= L`, `G(n) = 1 + j + ... + j^{n-1}`)

    a_l = D j^{L-l}                   M_ll = D^2 XX j^{L-1-l} G(L-l) + TT j^{L-l}
    M_lm = j^{L-1-l} (D^2 XX G(L-m) + XT D)
    input-input: XX j^{L-1} G(L)      input-l: j^{L-1} (D XX G(L-l) + XT).

`tests/theory/test_repeated.py` checks the entries against unrolling with symbols. The largest eigenvalue of `M` is at most its
largest row sum: row 1 for `j >= 1` (entries fall with both indices), and for `j <= 1` every row sum is at most
`(D^2 XX G(L-1) + XT D) G(L-1) + TT`, because row `l` has `L - l` entries with factor `j^{L-1-l}`, and `n j^{n-1} <= G(n)`.
"""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Expr, Piecewise, S

from theory.bound import Bound, Step
from theory.records import LayerBounds


def geometric(ratio: Expr, count: Expr) -> Expr:
    """`1 + ratio + ... + ratio^{count-1}` in closed form, also where the ratio may turn out to be 1."""
    if ratio == 1:
        return count
    if ratio == 0:
        return sympy.Min(1, count)
    closed = (ratio**count - 1) / (ratio - 1)
    if sympy.expand(ratio - 1).is_nonzero:
        return closed
    return Piecewise((count, sympy.Eq(ratio, 1)), (closed, True))


class Entries:
    """Entries of `a` and `M` of a repeated block, with expressions `j, D, XX, XT, TT` and depth `L` as given."""

    def __init__(self, block: Any, depth: Expr) -> None:
        self.j, self.D, self.XX, self.XT, self.TT = block
        self.depth = depth

    def first(self, index: Expr) -> Expr:
        """`a_l`: norm of the derivative by the parameters of block `l`."""
        return self.D * self.j ** (self.depth - index)

    def diagonal(self, index: Expr) -> Expr:
        """`M_ll`."""
        n = self.depth - index
        return self.D**2 * self.XX * self.j ** (n - 1) * geometric(self.j, n) + self.TT * self.j**n

    def mixed(self, smaller: Expr, larger: Expr) -> Expr:
        """`M_lm` for `l < m`."""
        within = self.D**2 * self.XX * geometric(self.j, self.depth - larger) + self.XT * self.D
        return self.j ** (self.depth - 1 - smaller) * within

    def input_input(self) -> Expr:
        return self.XX * self.j ** (self.depth - 1) * geometric(self.j, self.depth)

    def input_param(self, index: Expr) -> Expr:
        return self.j ** (self.depth - 1) * (self.D * self.XX * geometric(self.j, self.depth - index) + self.XT)

    def first_norm(self) -> Expr:
        """`|a|`: `sqrt(sum_l a_l^2)`."""
        return self.D * sympy.sqrt(geometric(self.j**2, self.depth))

    def input_param_norm(self) -> Expr:
        """An upper bound of `sqrt(sum_l (input-l)^2)`: `sqrt L` times the largest entry, which is that of `l = 1`."""
        return sympy.sqrt(self.depth) * self.input_param(S.One)

    def row_sum(self) -> Expr:
        """An upper bound of `lambda_max(M)` by row sums: row 1 for `j >= 1`, the uniform bound for `j <= 1`."""
        j, depth = self.j, self.depth
        curvature = self.D**2 * self.XX
        # row 1 for j >= 1: M_11 + sum_{m=2}^{L} M_1m, with sum_{m=1}^{L} G(L-m) = (G(L) - L) / (j - 1), or L (L-1) / 2 at j = 1
        if j == 1:
            double = depth * (depth - 1) / 2
        else:
            double = (geometric(j, depth) - depth) / (j - 1)
            if not (j - 1).is_nonzero:
                double = Piecewise((depth * (depth - 1) / 2, sympy.Eq(j, 1)), (double, True))
        first_row = j ** (depth - 2) * (curvature * double + self.XT * self.D * (depth - 1)) + self.TT * j ** (
            depth - 1
        )
        if (j - 1).is_nonnegative:
            return first_row
        reach = geometric(j, depth - 1)
        uniform = (curvature * reach + self.XT * self.D) * reach + self.TT
        if (1 - j).is_nonnegative:
            return uniform
        return Piecewise((first_row, j >= 1), (uniform, True))


def repeated(block: LayerBounds, depth: Expr, samples: Expr) -> LayerBounds:
    """One record for `depth` repetitions of a block (all their parameters taken together), in closed form.

    A quantity of the block that is `oo` makes those composed quantities `oo` that it enters.
    """
    names = ("input_jacobian_norm", "param_jacobian_norm", "input_input", "input_param", "param_param")
    given = [getattr(block, name) for name in names]
    entries = Entries(tuple(b.expression for b in given), depth)
    j, d, xx, xt, tt = (b.expression for b in given)
    parents = tuple(given)
    assumptions = tuple(dict.fromkeys(a for b in given for a in b.assumptions))
    step = Step("closed forms of the unrolled rule, entry by entry; see theory.repeated")

    def upper(expression: Expr, uses: tuple[Expr, ...], rule: str) -> Bound:
        infinite = any(u is S.Infinity for u in uses)
        return Bound.upper(
            S.Infinity if infinite else expression,
            parents=parents,
            assumptions=assumptions,
            source=f"repeated {depth} times: {rule}",
            steps=(step,),
        )

    none = Bound.upper(0, source="no parameters")
    chained = d != 0 or xt != 0 or tt != 0
    sigma, kernel = block.input_jacobian_sigma_min, block.tangent_kernel_lambda_min
    return LayerBounds(
        upper(j**depth if j is not S.Infinity else j, (j,), "product"),
        upper(entries.first_norm() if j is not S.Infinity else j, (d, j), "Euclidean norm of the entries")
        if d != 0
        else none,
        upper(entries.input_input() if j is not S.Infinity else j, (j, xx), "sum over the depth")
        if xx != 0
        else Bound.upper(0, source="linear blocks"),
        upper(
            entries.input_param_norm() if S.Infinity not in (j, d, xx, xt) else S.Infinity,
            (),
            "largest entry times sqrt L",
        )
        if chained and (d * xx if d != 0 and xx != 0 else xt) != 0
        else none,
        upper(
            entries.row_sum() if S.Infinity not in (j, d, xx, xt, tt) else S.Infinity,
            (),
            "largest row sum of the block matrix",
        )
        if chained
        else none,
        Bound.lower(
            sigma.expression**depth,
            parents=(sigma,),
            assumptions=sigma.assumptions,
            source=f"repeated {depth} times: product",
        ),
        Bound.lower(
            kernel.expression * geometric(sigma.expression**2, depth) if kernel.expression != 0 else S.Zero,
            parents=(kernel, sigma),
            assumptions=tuple(dict.fromkeys(kernel.assumptions + sigma.assumptions)),
            source=f"repeated {depth} times: regularity inequality",
        ),
        has_parameters=block.has_parameters,
        sample_wise=block.sample_wise,
    )
