"""The seven bounds of every family of layers hold against derivatives computed from the formulas in numpy, independently of torch.

First derivatives are exact (complex step), second ones central differences of those; the norm of a second derivative is approached from
below by alternating maximisation, so that a measured value above the bound is a refutation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from sympy import S

from theory.atoms.base import Domain
from theory.compose import collapse
from theory.derive import derive
from theory.evaluate import evaluate
from theory.records import FeatureBounds, Shape
from theory.spec import parse

D, N, M = 3, 4, 2
"""Features, samples and outputs: unequal, so that a swapped axis shows; at least 3 columns, so that a centred row has two dimensions."""
EPS = 0.3
STEP = 1e-5
FINITE_DIFFERENCE = 1e-6
"""Error of a central difference: `STEP^2 / 6` times a third derivative (below 1e3 at eps = 0.3), rounding `1e-16 / STEP`; relative to O(1)."""
DRAWS = 6

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """A spec, the shapes of its parameter arrays and its formula."""

    spec: str
    shapes: tuple[tuple[int, ...], ...]
    formula: Callable[..., Array]


def radial(x: Array, axis: int | str | None, eps: float = EPS) -> Array:
    squares = x**2 if axis == "entries" else (x**2).sum(axis=axis, keepdims=True)
    return x / np.sqrt(eps + squares)


def centred(x: Array, axis: int) -> Array:
    return x - x.mean(axis=axis, keepdims=True)


def normalised(x: Array, axis: int, centre: bool) -> Array:
    x = centred(x, axis) if centre else x
    return x / np.sqrt(EPS + (x**2).mean(axis=axis, keepdims=True))


def softmax(x: Array) -> Array:
    weights = np.exp(x)
    return weights / weights.sum(axis=0)


WEIGHT_AXES: dict[str, int | str | None] = {"row": 1, "entry": "entries", "frobenius": None}
PHI = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "arctan": np.arctan,
    "sin": np.sin,
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def cases() -> list[Case]:
    found = [
        Case("affine(2)", ((M, D),), lambda x, a: a @ x),
        Case("affine(2, bias=true)", ((M, D), (M,)), lambda x, a, b: a @ x + b[:, None]),
    ]
    for name, axis in WEIGHT_AXES.items():
        head = f"affine(2, weight_norm={name}, eps=3/10"
        found += [
            Case(f"{head})", ((M, D),), lambda x, v, axis=axis: radial(v, axis) @ x),
            Case(f"{head}, bias=true)", ((M, D), (M,)), lambda x, v, b, axis=axis: radial(v, axis) @ x + b[:, None]),
            Case(f"{head}, gain=true)", ((M, D), (M,)), lambda x, v, g, axis=axis: g[:, None] * (radial(v, axis) @ x)),
        ]
    for name, axis, centre in (("batch_norm", 1, True), ("layer_norm", 0, True), ("rms_norm", 0, False)):
        found += [
            Case(f"{name}(eps=3/10)", (), lambda x, axis=axis, centre=centre: normalised(x, axis, centre)),
            Case(
                f"{name}(eps=3/10, gain=true, shift=true)",
                ((D,), (D,)),
                lambda x, g, b, axis=axis, centre=centre: g[:, None] * normalised(x, axis, centre) + b[:, None],
            ),
        ]
    found += [Case(name, (), lambda x, f=f: f(x)) for name, f in PHI.items()]
    found += [
        Case("softmax", (), softmax),
        Case("crop(2)", (), lambda x: x[:2]),
        # the input of the affine layer is centred: the branch of `_with_ones` that takes a maximum
        Case(
            "batch_norm(eps=3/10), affine(2, bias=true)",
            ((M, D), (M,)),
            lambda x, a, b: a @ normalised(x, 1, True) + b[:, None],
        ),
        Case("residual(tanh, affine(3), scale(1/2), skip=2)", ((D, D),), lambda x, a: 2 * x + a @ np.tanh(x) / 2),
        Case(
            "residual(layer_norm(eps=3/10), tanh, affine(3, weight_norm=row, eps=3/10), scale(1/4))",
            ((D, D),),
            lambda x, v: x + radial(v, 1) @ np.tanh(normalised(x, 0, True)) / 4,
        ),
        Case("affine(3), tanh, affine(2)", ((D, D), (M, D)), lambda x, a, b: b @ np.tanh(a @ x)),
    ]
    return found


class Measured:
    """Derivatives of one case at one point, in coordinates (input, parameters)."""

    def __init__(self, case: Case, x: Array, parameters: list[Array]) -> None:
        self.case, self.inputs = case, x.size
        self.shapes = [x.shape, *(p.shape for p in parameters)]
        point = np.concatenate([x.ravel(), *(p.ravel() for p in parameters)])
        self.first = self._jacobian(point)
        self.second = np.stack(
            [
                (self._jacobian(point + STEP * e) - self._jacobian(point - STEP * e)) / (2 * STEP)
                for e in np.eye(point.size)
            ],
            axis=2,
        )

    def _value(self, point: Array) -> Array:
        parts, at = [], 0
        for shape in self.shapes:
            size = int(np.prod(shape))
            parts.append(point[at : at + size].reshape(shape))
            at += size
        return self.case.formula(*parts).ravel()

    def _jacobian(self, point: Array) -> Array:
        tiny = 1e-30
        return np.stack([self._value(point + 1j * tiny * e).imag / tiny for e in np.eye(point.size)], axis=1)

    def quantities(self, rng: np.random.Generator) -> dict[str, float]:
        n = self.inputs
        by_input, by_param = self.first[:, :n], self.first[:, n:]
        second = self.second
        none = by_param.shape[1] == 0
        squares = np.linalg.eigvalsh(by_param @ by_param.T).min() if not none else 0.0
        singular = np.linalg.svd(by_input.T, compute_uv=False)
        return {
            "input_jacobian_norm": float(np.linalg.norm(by_input, 2)),
            "param_jacobian_norm": 0.0 if none else float(np.linalg.norm(by_param, 2)),
            "input_input": bilinear_norm(second[:, :n, :n], rng),
            "input_param": 0.0 if none else bilinear_norm(second[:, :n, n:], rng),
            "param_param": 0.0 if none else bilinear_norm(second[:, n:, n:], rng),
            "input_jacobian_sigma_min": float(singular[-1]) if len(by_input) <= n else 0.0,
            "tangent_kernel_lambda_min": float(squares),
        }


def bilinear_norm(tensor: Array, rng: np.random.Generator) -> float:
    """A value of `|B(u, v)|` at unit `u, v` found by alternating maximisation from three starts: at most the norm."""
    best = 0.0
    for _ in range(3):
        u = rng.standard_normal(tensor.shape[1])
        u /= np.linalg.norm(u)
        for _ in range(12):
            v = np.linalg.svd(np.einsum("oij,i->oj", tensor, u), full_matrices=False)[2][0]
            _, values, right = np.linalg.svd(np.einsum("oij,j->oi", tensor, v), full_matrices=False)
            u = right[0]
        best = max(best, float(values[0]))
    return best


def sphere(rng: np.random.Generator, shape: tuple[int, ...], radius: float) -> Array:
    x = rng.standard_normal(shape)
    if len(shape) == 2 and rng.random() < 0.4:
        x = np.outer(x[:, 0], x[0])
    return x * (radius / np.linalg.norm(x))


CASES = {case.spec: case for case in cases()}


@pytest.mark.parametrize("radius", [0.5, 3.0])
@pytest.mark.parametrize("spec", CASES)
def test_the_seven_bounds_hold_on_balls_of_inputs_and_parameters(spec: str, radius: float) -> None:
    case, rng = CASES[spec], np.random.default_rng(11)
    size = S(radius)
    features = FeatureBounds.ball(Shape(D, N), 2 * size)
    bounds = collapse(derive(parse(spec), features, Domain(size)).tree, S(N))
    for draw in range(DRAWS):
        shrink = (1.0, 1.0, 0.5, 0.05)[draw % 4]  # the spheres, and well inside where normalisations curve most
        x = sphere(rng, (D, N), 2 * radius * shrink)
        parameters = [sphere(rng, shape, radius * shrink) for shape in case.shapes]
        for name, value in Measured(case, x, parameters).quantities(rng).items():
            bound = getattr(bounds, name)
            if bound.sense == "upper":
                assert value <= evaluate(bound, {}) * (1 + FINITE_DIFFERENCE) + FINITE_DIFFERENCE, name
            else:
                assert value >= evaluate(bound, {}) * (1 - FINITE_DIFFERENCE) - FINITE_DIFFERENCE, name


@pytest.mark.parametrize("spec", [s for s in CASES if "affine(3), tanh" not in s])
def test_the_bounds_without_limits_hold_for_large_and_small_arguments(spec: str) -> None:
    case, rng = CASES[spec], np.random.default_rng(13)
    bounds = collapse(derive(parse(spec), FeatureBounds.unbounded(Shape(D, N))).tree, S(N))
    for draw in range(DRAWS):
        x = sphere(rng, (D, N), 10.0 ** rng.uniform(-2, 1))
        parameters = [sphere(rng, shape, 10.0 ** rng.uniform(-2, 1)) for shape in case.shapes]
        for name, value in Measured(case, x, parameters).quantities(rng).items():
            bound = getattr(bounds, name)
            if bound.sense == "upper":
                assert value <= evaluate(bound, {}) * (1 + FINITE_DIFFERENCE) + 10 * FINITE_DIFFERENCE, (name, draw)
            else:
                assert value >= evaluate(bound, {}) * (1 - FINITE_DIFFERENCE) - FINITE_DIFFERENCE, (name, draw)


@pytest.mark.parametrize("spec", CASES)
def test_a_layer_is_called_sample_wise_exactly_where_no_column_depends_on_another(spec: str) -> None:
    case, rng = CASES[spec], np.random.default_rng(19)
    bounds = collapse(derive(parse(spec), FeatureBounds.unbounded(Shape(D, N))).tree, S(N))
    measured = Measured(case, rng.standard_normal((D, N)), [rng.standard_normal(shape) for shape in case.shapes])
    by_input = measured.first[:, : D * N].reshape(-1, N, D, N)
    between = by_input * (1 - np.eye(N))[:, None, :]
    # the complex step is exact to rounding: no coupling gives zeros, coupling through a mean gives entries of order 1 / N
    assert bounds.sample_wise is bool(np.abs(between).max() < 1e-12)


def test_the_measuring_refutes_a_bound_shrunk_by_five_per_cent() -> None:
    # RMS normalisation attains all its constants: the Jacobian 1 / sqrt(eps) near 0 and the second derivative at |u|^2 = d eps / 4
    case, rng = CASES["rms_norm(eps=3/10)"], np.random.default_rng(17)
    bounds = collapse(derive(parse(case.spec), FeatureBounds.unbounded(Shape(D, N))).tree, S(N))
    best = {"input_jacobian_norm": 0.0, "input_input": 0.0}
    for radius in np.geomspace(0.01, 2, 30):
        x = np.zeros((D, N))
        x[0, 0] = radius
        found = Measured(case, x, []).quantities(rng)
        best = {name: max(value, found[name]) for name, value in best.items()}
    for name, value in best.items():
        assert value > 0.95 * evaluate(getattr(bounds, name), {}), name
