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
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor

from numerics.realise import Allocator, operation
from theory.atoms.base import Atom, Domain
from theory.bound import Bound
from theory.compose import Coefficients, Jet, coefficients, through
from theory.evaluate import evaluate
from theory.network import Join, output_shape
from theory.records import NORMS, FeatureBounds, Shape

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
    symmetric = sum(array.transpose(order) for order in orders) / 6
    return float(np.linalg.norm(symmetric.reshape(len(array), -1), 2))


@dataclass(frozen=True, eq=False)
class Local(Domain):
    """The ball of a given radius around given parameters: what the domain says of each array by its name."""

    arrays: Mapping[str, Tensor] | None = None
    distance: float = 0.0
    map_norms: Mapping[str, float] | None = None

    def parameter(self, shape: Shape, path: str = "") -> FeatureBounds:
        array = (self.arrays or {})[path]
        matrix = array if array.ndim == 2 else array.reshape(-1, 1)
        singular = torch.linalg.svdvals(matrix)
        rows, columns = matrix.shape
        norms = {
            "frobenius": torch.linalg.vector_norm(matrix),
            "operator": singular[0],
            "sample": torch.linalg.vector_norm(matrix, dim=0).max(),
            "feature": torch.linalg.vector_norm(matrix, dim=1).max(),
            "entry": matrix.abs().max(),
        }
        least = max(0.0, float(singular[-1]) * (1 - ALLOWANCE) - self.distance)
        return FeatureBounds.of(
            shape,
            {name: _upper(float(value) * (1 + ALLOWANCE) + self.distance, "weights") for name, value in norms.items()},
            sigma_min=Bound.lower(least if rows >= columns else 0.0, source="weights"),
            row_sigma_min=Bound.lower(least if rows <= columns else 0.0, source="weights"),
        )

    def map_norm(self, path: str) -> Bound | None:
        value = (self.map_norms or {}).get(path)
        return None if value is None else _upper(value, "exact norm of the convolution")


def _upper(value: float, source: str) -> Bound:
    return Bound.upper(sympy.oo if math.isinf(value) else sympy.Float(value), source=source)


def feature_norms(x: Tensor, shape: Shape) -> dict[str, float]:
    """The norms of `FeatureBounds` of one feature array `(d, N)`."""
    features, samples = int(shape.features), int(shape.samples)
    matrix = x.reshape(features, -1)
    return {
        "frobenius": float(torch.linalg.vector_norm(x)),
        "operator": float(torch.linalg.matrix_norm(matrix, 2)) if x.numel() else 0.0,
        "sample": float(torch.linalg.vector_norm(x.reshape(-1, samples), dim=0).max()),
        "feature": float(torch.linalg.vector_norm(matrix, dim=1).max()),
        "entry": float(x.abs().max()),
        "position": float(torch.linalg.vector_norm(matrix, dim=0).max()),
    }


@dataclass(frozen=True)
class State:
    """What is known at one point of the depth."""

    shape: Shape
    known: FeatureBounds
    jet: Jet
    value: Tensor


class Walk:
    """One pass over an expanded network (every parameterised atom has a path): jets and features on the ball."""

    def __init__(self, arrays: Mapping[str, Tensor], radius: float, third: bool, measure: bool, map_norms: Mapping[str, float] | None = None) -> None:
        self.radius, self.third, self.measure = radius, third, measure
        self.domain = Local(third=third, arrays={k: v.detach() for k, v in arrays.items()}, distance=radius, map_norms=map_norms)
        self.arrays = dict(arrays)
        self.index: dict[str, int] = {}
        self.allocator = Allocator()

    def start(self, x: Tensor, shape: Shape, count: int) -> State:
        known = FeatureBounds.of(shape, {n: _upper(v * (1 + ALLOWANCE), "data") for n, v in feature_norms(x, shape).items()})
        zero = [Form(np.zeros((count,) * order)) for order in (1, 2, 3)]
        jet = Jet(zero[0], zero[1], zero[1], *((zero[2], zero[2]) if self.third else (None, None)))
        return State(shape, known, jet, x)

    def run(self, parts: Sequence[Atom | Join], state: State) -> State:
        for part in parts:
            state = self._join(part, state) if isinstance(part, Join) else self._atom(part, state)
        return state

    def _atom(self, atom: Atom, state: State) -> State:
        bounds = atom.bounds(state.known, self.domain)
        numbers = coefficients(bounds, lambda bound: evaluate(bound, {}))
        root = math.sqrt(float(state.shape.samples))
        unit = None
        if bounds.has_parameters:
            index = self.index.setdefault(bounds.names[0], len(self.index))
            unit = Form(np.eye(len(state.jet.first.array))[index])
        jet = through(numbers, state.jet, unit, root)
        apply = operation(atom, state.shape, self.allocator, "")
        value = apply([self.arrays[spec.name] for spec in self.allocator.specs], state.value)
        shape = output_shape(atom, state.shape)
        return self._refined(State(shape, atom.forward(state.known, self.domain), jet, value))

    def _join(self, join: Join, state: State) -> State:
        ends = [self.run(branch, state) for branch in join.branches]
        jet = ends[0].jet
        for end in ends[1:]:
            jet = jet + end.jet
        value = torch.cat([e.value for e in ends], -2) if join.stacked else sum((e.value for e in ends[1:]), ends[0].value)
        shape = output_shape(join, state.shape)
        unknown = FeatureBounds.unbounded(shape)
        return self._refined(State(shape, unknown, jet, value))

    def _refined(self, state: State) -> State:
        """What the centre tells: features move by at most `R |a|`, first derivatives by at most `R |M|`."""
        jet, centre = state.jet, state.value.detach()
        if self.measure:
            measured = self._measured(state)
            if measured is not None:
                drift = self.radius * np.linalg.norm(jet.second.array, axis=1)
                jet = replace(jet, first=Form(np.minimum(jet.first.array, measured * (1 + ALLOWANCE) + drift)))
        move = 0.0 if self.radius == 0 else self.radius * float(np.linalg.norm(jet.first.array))
        norms = {}
        for name, value in feature_norms(centre, state.shape).items():
            at_most = value * (1 + ALLOWANCE) + move
            forward = evaluate(getattr(state.known, name), {})
            norms[name] = _upper(min(at_most, forward), "centre and movement")
        known = FeatureBounds.of(state.shape, norms, sigma_min=state.known.sigma_min, row_sigma_min=state.known.row_sigma_min)
        return replace(state, known=known, jet=jet)

    def _measured(self, state: State) -> np.ndarray | None:
        """Operator norms at the centre of the derivative of the features by each parameter index."""
        if not state.value.requires_grad:
            return None
        blocks: dict[int, list[Tensor]] = {}
        for name, array in self.arrays.items():
            index = self.index.get(name.rsplit(".", 1)[0])
            if index is not None:
                blocks.setdefault(index, []).append(array)
        outputs = state.value.numel()
        if outputs * sum(a.numel() for group in blocks.values() for a in group) > JACOBIAN_ENTRIES:
            return None
        flat = state.value.reshape(-1)
        arrays = [a for group in blocks.values() for a in group]
        eye = torch.eye(outputs, dtype=flat.dtype)
        rows = torch.autograd.grad(flat, arrays, eye, retain_graph=True, is_grads_batched=True, allow_unused=True)
        gradient = dict(zip(map(id, arrays), rows, strict=True))
        result = np.zeros(len(state.jet.first.array))
        for index, group in blocks.items():
            pieces = [gradient[id(a)].reshape(outputs, -1) for a in group if gradient[id(a)] is not None]
            if pieces:
                jacobian = torch.cat(pieces, 1)
                gram = jacobian @ jacobian.T if outputs <= jacobian.shape[1] else jacobian.T @ jacobian
                result[index] = math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1])))
        return result
