"""The majorant of a network's 3-jet on a ball around given parameters, by the composition rule and by what is measured at the centre.

The expanded network is walked atom by atom. At every point of the depth three things are known on the ball `|theta - theta_0| <= R`:
the features (their norms at the centre plus what they can move), the jet (norms of the first, second and third derivatives by
the parameters), and how far the features move, `R` times the norm of the first derivative (mean value theorem; a ball is
convex). Where it is affordable the first derivative is measured at the centre as well: on the ball it is at most that plus `R`
times the second. All numbers are non-negative doubles, sums and products of which err by a few units in the last place an
operation; `ALLOWANCE` covers that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from numerics.convolution import convolution_norm, weight_facts
from numerics.realise import Allocator, axis_view, operation
from theory.atoms.base import Atom, Domain
from theory.atoms.bilinear import MatMul
from theory.atoms.radial import Radial
from theory.bound import Bound
from theory.compose import Algebra, Coefficients, Jet, Parallel, Series, coefficients, regularity, through
from theory.evaluate import evaluate
from theory.network import Join, output_shape
from theory.records import FeatureBounds, Shape

ALLOWANCE = 1e-9
"""Relative allowance for rounding that every certified number is enlarged (diminished) by."""
JACOBIAN_ENTRIES = 3 * 10**7
"""Largest Jacobian (outputs times parameters) whose blocks are measured at the centre."""


class Form:
    """A linear, quadratic or cubic form in the norms of the parameters' perturbations, with non-negative coefficients."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __rmul__(self, factor: float) -> Form:
        if factor == 0:
            return Form(np.zeros_like(self.array))
        with np.errstate(invalid="ignore"):
            # zero times infinity is zero: there is nothing to multiply
            return Form(np.where(self.array == 0, 0.0, factor * self.array))

    def __add__(self, other: Form) -> Form:
        return Form(self.array + other.array)

    def __mul__(self, other: Form) -> Form:
        with np.errstate(invalid="ignore"):
            product = np.multiply.outer(self.array, other.array)
        return Form(np.nan_to_num(product, nan=0.0, posinf=math.inf))


def largest(form: Form) -> float:
    """`sup` of a linear, quadratic or cubic form over the unit ball, from above.

    Exact for the first two. A symmetric cubic form is a symmetric family of matrices `T_k`: both the norm of the vector of their
    largest eigenvalues and the largest singular value of the `p x p^2` unfolding bound it.
    """
    array = form.array
    if not np.isfinite(array).all():
        return math.inf
    if array.ndim == 1:
        return float(np.linalg.norm(array))
    if array.ndim == 2:
        return max(0.0, float(np.linalg.eigvalsh((array + array.T) / 2)[-1])) if len(array) else 0.0
    if not len(array):
        return 0.0
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    symmetric = np.mean([array.transpose(order) for order in orders], axis=0)
    return float(np.linalg.norm(symmetric.reshape(len(array), -1), 2))


@dataclass(frozen=True, eq=False)
class Local(Domain):
    """The ball of a given radius around given parameters: what the domain says of each array by its name.

    Attributes:
        arrays: the parameters at the centre.
        distance: the radius of the ball (`radius`, of the ball around zero, stays infinite).
        map_norms: norms of convolutions on the ball, filled in when they are met.
    """

    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    distance: float = 0.0
    map_norms: dict[str, float] = field(default_factory=dict)

    def parameter(self, shape: Shape, path: str = "") -> FeatureBounds:
        array = self.arrays[path]
        matrix = array if array.ndim == 2 else array.reshape(-1, 1)
        facts = weight_facts(matrix)
        norms = {
            "frobenius": facts.frobenius,
            "operator": facts.operator,
            "sample": facts.column,
            "feature": facts.row,
            "entry": facts.entry,
        }
        floors = {
            "matrix": torch.linalg.vector_norm(matrix),
            "samples": torch.linalg.vector_norm(matrix, dim=1).min(),
            "features": torch.linalg.vector_norm(matrix, dim=0).min(),
            "entries": matrix.abs().min(),
        }
        return FeatureBounds.of(
            shape,
            {name: _upper(float(value) + self.distance, "weights") for name, value in norms.items()},
            sigma_min=_lower(float(facts.sigma_min) - self.distance, "weights"),
            row_sigma_min=_lower(float(facts.row_sigma_min) - self.distance, "weights"),
        ).with_floors(
            {axis: _lower(float(v) * (1 - ALLOWANCE) - self.distance, "weights") for axis, v in floors.items()}
        )

    def map_norm(self, path: str) -> Bound | None:
        value = self.map_norms.get(path)
        return None if value is None else _upper(value, "exact norm of the convolution")


def _upper(value: float, source: str) -> Bound:
    return Bound.upper(sympy.oo if math.isinf(value) else sympy.Float(value), source=source)


def _lower(value: float, source: str) -> Bound:
    return Bound.lower(sympy.Float(max(0.0, value)), source=source)


def feature_norms(x: Tensor, shape: Shape) -> tuple[dict[str, float], float, float]:
    """The norms of `FeatureBounds` of one feature array `(d, N)`, and its least singular values by columns and by rows.

    The largest and least singular values come from the smaller Gram matrix; the least are lowered by the rounding of that.
    """
    features, samples = int(shape.features), int(shape.samples)
    matrix = x.reshape(features, -1)
    wide = matrix.shape[0] <= matrix.shape[1]
    spectrum = torch.linalg.eigvalsh(matrix @ matrix.mT if wide else matrix.mT @ matrix)
    top, rounding = float(spectrum[-1].clamp(min=0)), max(matrix.shape) * torch.finfo(x.dtype).eps * 8
    least = math.sqrt(max(0.0, float(spectrum[0]) - rounding * top))
    norms = {
        "frobenius": float(torch.linalg.vector_norm(x)),
        "operator": math.sqrt(top),
        "sample": float(torch.linalg.vector_norm(x.reshape(-1, samples), dim=0).max()),
        "feature": float(torch.linalg.vector_norm(matrix, dim=1).max()),
        "entry": float(x.abs().max()),
        "position": float(torch.linalg.vector_norm(matrix, dim=0).max()),
    }
    by_columns = least if matrix.shape[1] <= matrix.shape[0] else 0.0
    return norms, by_columns, least if wide else 0.0


@dataclass(frozen=True)
class Leaf:
    """One atom's numbers on the ball: what the regularity fold reads."""

    at: Coefficients
    names: tuple[str, ...]
    label: str
    shape: Shape


@dataclass(frozen=True)
class State:
    """What is known at one point of the depth: features and jet on the ball, features at the centre, how far they move."""

    shape: Shape
    known: FeatureBounds
    jet: Jet
    centre: Tensor
    move: float


def _subtract(lower: float, upper: float) -> float:
    return max(0.0, lower - upper)


FLOATS = Algebra(lambda leaf: leaf.at, 1.0, 1.0, 0.0, _subtract)


class Walk:
    """One pass over an expanded network whose parameterised atoms all have paths: jets and features on the ball.

    Args:
        arrays: the parameters at the centre by their names.
        radius: of the ball.
        third: whether the third derivatives are carried.
        measure: whether first derivatives are measured at the centre, where that is affordable.
    """

    def __init__(
        self, arrays: Mapping[str, Tensor], radius: float, *, third: bool = True, measure: bool = True
    ) -> None:
        self.radius, self.third, self.measure = radius, third, measure
        self.arrays = {name: array.detach().clone().requires_grad_(measure) for name, array in arrays.items()}
        self.domain = Local(third=third, arrays={k: v.detach() for k, v in self.arrays.items()}, distance=radius)
        self.paths = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in arrays))
        self.allocator = Allocator()

    def __call__(self, parts: Sequence[Atom | Join], x: Tensor, shape: Shape) -> tuple[State, Series]:
        """The state at the output for the input `x (d, N)`, and the tree of the leaves."""
        norms, by_columns, by_rows = feature_norms(x, shape)
        known = FeatureBounds.of(
            shape,
            {name: _upper(value * (1 + ALLOWANCE), "data") for name, value in norms.items()},
            sigma_min=_lower(by_columns, "data"),
            row_sigma_min=_lower(by_rows, "data"),
        )
        zero = [Form(np.zeros((len(self.paths),) * order)) for order in (1, 2, 3)]
        jet = Jet(zero[0], zero[1], zero[1], *((zero[2], zero[2]) if self.third else (None, None)))
        return self._run(parts, State(shape, known, jet, x, 0.0))

    def _run(self, parts: Sequence[Atom | Join], state: State) -> tuple[State, Series]:
        members = []
        for part in parts:
            state, member = self._join(part, state) if isinstance(part, Join) else self._atom(part, state)
            members.append(member)
        return state, Series(tuple(members))

    def _atom(self, atom: Atom, state: State) -> tuple[State, Leaf]:
        known = self._with_floors(atom, state)
        if isinstance(atom, MatMul):
            self._convolution(atom, state.shape)
        bounds = atom.bounds(known, self.domain)
        numbers = coefficients(bounds, lambda bound: evaluate(bound, {}))
        unit = None
        if bounds.has_parameters:
            unit = Form(np.eye(len(self.paths))[self.paths.index(bounds.names[0])])
        jet = through(numbers, state.jet, unit, math.sqrt(float(state.shape.samples)))
        apply = operation(atom, state.shape, self.allocator, "")
        centre = apply([self.arrays[spec.name] for spec in self.allocator.specs], state.centre)
        out = State(output_shape(atom, state.shape), atom.forward(known, self.domain), jet, centre, 0.0)
        return self._refined(out), Leaf(numbers, bounds.names, atom.formula, state.shape)

    def _join(self, join: Join, state: State) -> tuple[State, Parallel]:
        ends, trees = zip(*(self._run(branch, state) for branch in join.branches), strict=True)
        jet, centre = ends[0].jet, ends[0].centre
        for end in ends[1:]:
            jet, centre = jet + end.jet, torch.cat([centre, end.centre], -2) if join.stacked else centre + end.centre
        shape = output_shape(join, state.shape)
        out = State(shape, FeatureBounds.unbounded(shape), jet, centre, 0.0)
        return self._refined(out), Parallel(trees, join.stacked)

    def _convolution(self, atom: MatMul, shape: Shape) -> None:
        """The exact norm of a convolution at the centre, plus what the ball adds: `R |W|`."""
        if atom.windows is None or atom.parameter_map:
            return
        norm = float(convolution_norm(self.domain.arrays[f"{atom.path}.weight"], atom, shape, twists=False))
        grid = atom.output_shape(shape) if atom.transposed else shape
        most = math.prod(float(atom.windows.coverage(axis, length)[0]) for axis, length in enumerate(grid.grid))
        self.domain.map_norms[atom.path] = norm + self.radius * math.sqrt(most)

    def _with_floors(self, atom: Atom, state: State) -> FeatureBounds:
        """For a normalisation: how small the vectors can become that it divides by their norms."""
        if not isinstance(atom, Radial):
            return state.known
        view, dims = axis_view(atom, state.shape, "")
        viewed = view(state.centre.detach())
        norms = viewed.abs() if not dims else torch.linalg.vector_norm(viewed, dim=dims)
        floor = float(norms.min()) * (1 - ALLOWANCE) - state.move
        return state.known.with_floors({atom.axis: _lower(floor, "centre and movement")})

    def _refined(self, state: State) -> State:
        """What the centre tells: features move by at most `R |a|`, first derivatives by at most `R |M|`."""
        jet, centre = state.jet, state.centre.detach()
        measured = self._measured(state) if self.measure else None
        if measured is not None:
            drift = np.zeros(len(measured)) if self.radius == 0 else self.radius * _row_norms(jet.second.array)
            jet = replace(jet, first=Form(np.minimum(jet.first.array, measured * (1 + ALLOWANCE) + drift)))
        move = 0.0 if self.radius == 0 else self.radius * largest(jet.first) * (1 + ALLOWANCE)
        centre_norms, by_columns, by_rows = feature_norms(centre, state.shape)
        norms = {}
        for name, value in centre_norms.items():
            forward = evaluate(getattr(state.known, name), {})
            norms[name] = _upper(min(value * (1 + ALLOWANCE) + move, forward), "centre and movement")
        known = FeatureBounds.of(
            state.shape,
            norms,
            sigma_min=_lower(max(by_columns - move, evaluate(state.known.sigma_min, {})), "centre and movement"),
            row_sigma_min=_lower(max(by_rows - move, evaluate(state.known.row_sigma_min, {})), "centre and movement"),
        )
        return replace(state, known=known, jet=jet, move=move)

    def _measured(self, state: State) -> np.ndarray | None:
        """Operator norms at the centre of the derivative of the features by the parameters of each path."""
        if not state.centre.requires_grad:
            return None
        arrays = list(self.arrays.values())
        outputs = state.centre.numel()
        if outputs * sum(array.numel() for array in arrays) > JACOBIAN_ENTRIES:
            return None
        eye = torch.eye(outputs, dtype=state.centre.dtype)
        gradients = torch.autograd.grad(
            state.centre.reshape(-1), arrays, eye, retain_graph=True, is_grads_batched=True, allow_unused=True
        )
        result = np.zeros(len(self.paths))
        for index, path in enumerate(self.paths):
            pieces = [
                gradient.reshape(outputs, -1)
                for name, gradient in zip(self.arrays, gradients, strict=True)
                if gradient is not None and name.rsplit(".", 1)[0] == path
            ]
            if pieces:
                jacobian = torch.cat(pieces, 1)
                gram = jacobian @ jacobian.T if outputs <= jacobian.shape[1] else jacobian.T @ jacobian
                result[index] = math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1])))
        return result


def _row_norms(matrix: np.ndarray) -> np.ndarray:
    """Euclidean norms of the rows, infinite where an entry is."""
    return np.sqrt((matrix**2).sum(1))


def floor_of(tree: Any) -> float:
    """`inf lambda_min(DF DF^T)` on the ball from below, by the regularity inequality."""
    return float(regularity(tree, FLOATS).lambda_min) * (1 - ALLOWANCE)
