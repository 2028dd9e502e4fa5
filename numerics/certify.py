"""Certificates around given weights: curvature, step size, tangent kernel and convergence on the ball `|theta - theta_0| <= R`.

Smoothness, two routes, the smaller wins and the record says which:

* *composition*: the suprema on the ball by the composition rule (`numerics.certification.local`), `lambda_max` of the block matrix of the loss;
* *centre*: the largest Hessian eigenvalue measured at the centre plus `R` times a Lipschitz constant of the Hessian, which is the
  supremum of the loss's third derivative on the ball, from the 3-jet of the same rule. As `R -> 0` it tends to the truth.

Convergence: where `|grad ell|^2 >= psi(ell)^2` on the ball (`psi^2` is `inf lambda_min(DF DF^T)` times the cost's gradient domination),
gradient descent with a step of at most `1 / smoothness` moves by at most `2 int d ell / psi(ell)` on the way from one loss to a lower
one, so it stays in the ball, and reaches that loss, if this is less than `R` (Lojasiewicz's argument; the step that would leave the
ball is cut where it leaves, the descent inequality holds up to there).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import flint
import numpy as np
import torch
from torch import Tensor, nn

from numerics.certification.local import ALLOWANCE, State, Walk, floor_of, largest
from numerics.datasets import Data
from numerics.measure import (
    Measured,
    cross_entropy,
    dense_hessian_lambda_max,
    hessian_lambda_max,
    squared_error,
    tangent_kernel,
)
from numerics.realise import Realisation, realise
from numerics.trace import trace
from theory.compose import Series, leaves
from theory.costs import Cost, CrossEntropy, SquaredError, exact_least_split
from theory.evaluate import evaluate
from theory.network import Network, expand, named
from theory.records import Shape

LOSSES = ("cross_entropy", "squared_error")
DENSE_HESSIAN = 4500
"""Most parameters for which the Hessian at the centre is decomposed whole; beyond, Lanczos with its residual."""
KERNEL = 2500
"""Largest tangent kernel (classes times samples) that is formed at the centre."""
THIRD_ORDER = 80
"""Most parameterised layers for which the cubic form of the third derivatives is carried."""
STARTS = 3
RESIDUAL = 1e-5
"""Relative residual up to which an eigenvalue by Lanczos is used; it is added to the value."""
GRID = 400
"""Intervals of the loss over which the length of the path is summed (from above on each)."""


@dataclass(frozen=True)
class Condition:
    """One hypothesis of the convergence statement, with its value and what it is held against."""

    name: str
    statement: str
    value: float
    limit: float
    holds: bool

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'FAILS'}: {self.name}: {self.statement} ({self.value:.6g} against {self.limit:.6g})"


@dataclass(frozen=True)
class LocalCertificate:
    """What is certified on the ball of radius `radius` around the given weights.

    Attributes:
        status: "certified" (gradient descent converges inside the ball), "smooth" (a finite smoothness constant and step, no
            convergence: `reason` says why) or "not certified" (no finite smoothness constant: `reason` names the layer).
        loss_value, gradient_norm: at the centre.
        hessian_lambda_max: largest Hessian eigenvalue at the centre; `hessian_residual` relative, `hessian_method` "dense" or "lanczos".
            A value by Lanczos is measured, not proven to be the top one; `hypotheses` lists that.
        smoothness_constant: upper bound of the largest Hessian eigenvalue on the ball; `route` says by which route.
        routes: the constants of both routes, and for comparison of the plain rule with norms only ("norms").
        hessian_lipschitz: Lipschitz constant of the Hessian on the ball.
        step_size: largest certified step, `1 / smoothness_constant`.
        first_derivative, second_derivative: upper bounds of `|DF|` and `|D^2 F|` on the ball.
        tangent_kernel_centre: `lambda_min(DF DF^T)` at the centre, on the outputs that the cost's gradient can reach; 0 where the kernel
            is too large to form (`KERNEL`).
        tangent_kernel_ball: its lower bound on the ball; `kernel_route` "movement" or "regularity".
        path_length: upper bound of the length of the descent from the present loss to `target` (of the iterates above it); to stay inside
            it must be below `radius`.
        target: loss that is certified to be reached; 0 for squared error, for cross-entropy `log(2) / N`, below which every sample is right.
        rate: for squared error the factor by which the loss falls at least each step; for cross-entropy None.
        steps: steps after which `target` (for squared error a thousandth of the present loss) is certified to be reached.
        hypotheses: what the convergence rests on, each with its value.
    """

    status: str
    reason: str
    loss: str
    radius: float
    parameters: int
    samples: int
    loss_value: float
    gradient_norm: float
    hessian_lambda_max: float
    hessian_residual: float
    hessian_method: str
    smoothness_constant: float
    route: str
    routes: Mapping[str, float]
    hessian_lipschitz: float
    step_size: float
    first_derivative: float
    second_derivative: float
    tangent_kernel_centre: float
    tangent_kernel_ball: float
    kernel_route: str
    path_length: float
    target: float
    rate: float | None
    steps: float
    hypotheses: tuple[Condition, ...]

    def as_record(self) -> dict[str, Any]:
        """The certificate as plain data."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Problem:
    """A network, its parameters, data and a cost, ready to be walked.

    Attributes:
        network: description whose parameters all have names.
        arrays: parameters by name.
        X: input `(d, N)` of the realisation.
        targets: labels `(N,)` or, for squared error, outputs `(K, N)`.
    """

    network: Network
    shape: Shape
    realisation: Realisation
    arrays: Mapping[str, Tensor]
    X: Tensor
    targets: Tensor
    loss: str

    @property
    def theta(self) -> Tensor:
        return self.realisation.pack(
            [self.arrays[spec.name].reshape(spec.shape) for spec in self.realisation.parameters]
        )

    def value(self, theta: Tensor) -> Tensor:
        """The loss of a batch of parameter vectors `(B, P)`."""
        outputs = self.realisation(theta, self.X)
        return (
            cross_entropy(outputs, self.targets)
            if self.loss == "cross_entropy"
            else squared_error(outputs, self.targets)
        )


def problem(model: nn.Module | Network, loss: str, parameters: Any, data: Data | tuple[Tensor, Tensor]) -> Problem:
    """Bring model, loss, parameters and data together.

    Args:
        model: a module, or a description.
        parameters: None for the module's present ones; a mapping of names to tensors; or the flat vector of the realisation.
        data: inputs as the module takes them (for a description `(d, N)`) with labels `(N,)` or target outputs; or `Data`.

    Raises:
        ValueError: naming what does not fit.
    """
    if loss not in LOSSES:
        raise ValueError(f"unknown loss {loss!r}: use one of {', '.join(LOSSES)}")
    is_module = isinstance(model, nn.Module)
    inputs, targets = (data.X.T if is_module else data.X, data.labels) if isinstance(data, Data) else data
    if not inputs.is_floating_point():
        raise ValueError(f"inputs are {inputs.dtype}: give floating-point numbers")
    if isinstance(model, nn.Module):
        dtype = next((p.dtype for p in model.parameters()), torch.float64)
        traced = trace(model, inputs.to(dtype))
        network, shape, X = named(traced.network), traced.shape, traced.input(inputs)
        present: Mapping[str, Tensor] = traced.parameters
        if targets.is_floating_point() and targets.shape == traced.output_shape:
            targets = traced.columns(targets)
    else:
        if inputs.ndim != 2:
            raise ValueError(f"inputs have shape {tuple(inputs.shape)}: a description takes (features, samples)")
        network, shape, X, present = named(model), Shape(inputs.shape[0], inputs.shape[1]), inputs.double(), {}
    realisation = realise(network, shape)
    if isinstance(parameters, Tensor):
        given = dict(zip((s.name for s in realisation.parameters), realisation.split(parameters.double()), strict=True))
    else:
        given = {**present, **{name: value.double() for name, value in (parameters or {}).items()}}
        known = [spec.name for spec in realisation.parameters]
        unknown = [name for name in given if name not in known and name not in present]
        if unknown:
            raise ValueError(f"unknown parameters {', '.join(unknown)}: the network has {', '.join(known)}")
    missing = [spec.name for spec in realisation.parameters if spec.name not in given]
    if missing:
        raise ValueError(
            f"no values for the parameters {', '.join(missing)}: give a tensor of {realisation.size} numbers, or a mapping"
        )
    arrays = {s.name: given[s.name].detach().double().reshape(s.shape) for s in realisation.parameters}
    wrong = [name for name, array in arrays.items() if not bool(array.isfinite().all())]
    if wrong:
        raise ValueError(
            f"parameters {', '.join(wrong)} have entries that are not finite: nothing can be certified there"
        )
    return Problem(network, shape, realisation, arrays, X, _targets(targets, realisation.output_shape, loss), loss)


def _targets(targets: Tensor, outputs: tuple[int, int], loss: str) -> Tensor:
    classes, samples = outputs
    if targets.shape == (samples,) and not targets.is_floating_point():
        if not 0 <= int(targets.min()) <= int(targets.max()) < classes:
            raise ValueError(
                f"labels range over {int(targets.min())} .. {int(targets.max())}: the network has {classes} outputs"
            )
        return targets if loss == "cross_entropy" else torch.nn.functional.one_hot(targets, classes).T.double()
    if loss == "cross_entropy":
        raise ValueError(
            f"targets have shape {tuple(targets.shape)} and type {targets.dtype}: cross-entropy takes ({samples},) integer labels"
        )
    for candidate in (targets, targets.reshape(targets.shape[0], -1).T):
        if candidate.shape == outputs:
            return candidate.double()
    raise ValueError(
        f"targets have shape {tuple(targets.shape)}: give one label a sample, or outputs of shape {outputs}"
    )


@dataclass(frozen=True)
class CostAtCentre:
    """The cost's derivatives at the centre, and bounds of them where the outputs have moved by at most `move`."""

    cost: Cost
    samples: int
    gradient: float
    sample_gradient: float
    sample_hessian: float

    def bounded(self, move: float) -> tuple[float, float, float, float]:
        """Upper bounds of `|grad gamma|`, `max_i |grad c_i|`, `max_i |hess c_i|` and of a sample's third derivative."""
        smooth = evaluate(self.cost.smoothness(sympy_integer(1)), {})
        third = evaluate(self.cost.third_derivative(), {})
        sample = min(self.sample_gradient + smooth * move, evaluate(self.cost.sample_gradient(), {}))
        overall = min(
            self.gradient + smooth / self.samples * move,
            evaluate(self.cost.gradient_norm(sympy_integer(self.samples)), {}),
        )
        return overall, sample, min(smooth, self.sample_hessian + third * move), third


def sympy_integer(value: int) -> Any:
    """A SymPy integer, as the cost's closed forms take it."""
    return Shape(value, 1).features


def cost_at_centre(given: Problem, outputs: Tensor) -> CostAtCentre:
    """Measure the cost's derivatives at the outputs `(K, N)`."""
    classes, samples = outputs.shape
    if given.loss == "squared_error":
        gradients = outputs - given.targets
        return CostAtCentre(
            SquaredError(), samples, float(gradients.norm()) / samples, float(gradients.norm(dim=0).max()), 1.0
        )
    p = torch.softmax(outputs, 0).T
    gradients = p - torch.nn.functional.one_hot(given.targets, classes)
    hessians = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    top = float(torch.linalg.eigvalsh(hessians)[:, -1].max()) * (1 + ALLOWANCE)
    norms = torch.linalg.vector_norm(gradients, dim=1)
    up = 1 + ALLOWANCE
    cost = CrossEntropy(sympy_integer(classes))
    return CostAtCentre(cost, samples, float(norms.norm()) / samples * up, float(norms.max()) * up, top)


def smoothness_routes(state: State, cost: CostAtCentre, top: float, radius: float) -> tuple[dict[str, float], float]:
    """Both routes' smoothness constants and the Lipschitz constant of the Hessian on the ball.

    The forms are those of `theory.landscape` with the cost's derivatives on the ball; of the third derivative of the loss,
    `sum_i c_i'''[d_i, d_i, d_i] + 3 c_i''[d_i, m_i] + c_i'[t_i]` over `N`, with `d, m, t` the first, second and third of the outputs.
    """
    jet, samples = state.jet, cost.samples
    overall, sample, hessian, third = cost.bounded(state.move)
    outer = jet.first * jet.first
    plain = largest(hessian / samples * outer + overall * jet.second)
    by_sample = largest(hessian / samples * outer + sample / samples * jet.by_sample)
    routes = {"composition": min(plain, by_sample)}
    # the same without anything known of the cost at the centre: what the norms alone would give
    everywhere = CostAtCentre(cost.cost, samples, math.inf, math.inf, math.inf).bounded(0.0)
    routes["norms"] = (
        largest(everywhere[2] / samples * outer + everywhere[0] * jet.second)
        if math.isfinite(everywhere[0])
        else math.inf
    )
    lipschitz = math.inf
    if jet.third is not None:
        common = third / samples * (outer * jet.first) + 3 * hessian / samples * (jet.second * jet.first)
        lipschitz = min(largest(common + overall * jet.third), largest(common + sample / samples * jet.third_by_sample))
    routes["centre"] = top if radius == 0 else max(0.0, top) + radius * lipschitz
    return {name: value * (1 + ALLOWANCE) for name, value in routes.items()}, lipschitz * (1 + ALLOWANCE)


def _kernel_at_centre(given: Problem, zero_sum: bool) -> float:
    """`lambda_min(DF DF^T)`, for cross-entropy on outputs whose sum over the classes is zero, where its gradient lies."""
    classes, samples = given.realisation.output_shape
    if classes * samples > KERNEL:
        return 0.0
    kernel = tangent_kernel(given.realisation, given.theta.unsqueeze(0), given.X)[0]
    if zero_sum:
        basis = torch.linalg.qr(torch.eye(classes, dtype=kernel.dtype)[:, 1:] - 1 / classes).Q
        eye = torch.eye(samples, dtype=kernel.dtype)
        lift = torch.einsum("ab,cd->acbd", basis, eye).reshape(classes * samples, -1)
        kernel = lift.T @ kernel @ lift
    spectrum = torch.linalg.eigvalsh(kernel)
    return max(0.0, float(spectrum[0] - len(kernel) * 1e-15 * spectrum[-1]))


def _hessian(given: Problem) -> Measured:
    theta = given.theta.unsqueeze(0)
    if given.realisation.size <= DENSE_HESSIAN:
        return dense_hessian_lambda_max(given.value, theta)
    return hessian_lambda_max(given.value, theta, tolerance=1e-6, starts=STARTS)


def _infinite_layer(tree: Series) -> str:
    """The first atom without a bounded second derivative, in words; empty where there is none."""
    leaf: Any
    for leaf in leaves(tree):
        numbers = leaf.at
        for letter in ("J", "D", "XX", "XT", "TT"):
            if math.isinf(getattr(numbers, letter)):
                what = {"XX": "second derivative by the input", "TT": "second derivative by its parameters"}.get(
                    letter, letter
                )
                return f"the {what} of {leaf.label or 'an atom'} (input {leaf.shape}) is not bounded on the ball"
    return ""


def certify(
    model: nn.Module | Network,
    loss: str,
    parameters: Any,
    data: Data | tuple[Tensor, Tensor],
    *,
    radius: float,
    target: float | None = None,
    measure: bool = True,
) -> LocalCertificate:
    """Certify the loss on the ball of the given radius around the given parameters.

    Args:
        model: a `torch.nn.Module` (traced as it is, in its present mode) or a description of a network.
        loss: "cross_entropy" (mean, natural logarithm) or "squared_error" (`|F - Y|^2 / (2 N)`).
        parameters: None for the module's present parameters; else a mapping of names to tensors, or a flat vector.
        data: `(inputs, labels)` as the module takes them, or `numerics.datasets.Data`.
        radius: Euclidean radius `R >= 0` of the ball in the space of all parameters.
        target: loss to be reached by gradient descent; by default 0 for squared error and `log(2) / N` for cross-entropy.
        measure: whether first derivatives are measured at the centre (sharper, takes a Jacobian a layer).

    Raises:
        ValueError: a radius that is negative or not finite, or naming what does not fit together.
        TypeError: naming a module's operation that cannot be described.
    """
    if not (radius >= 0 and math.isfinite(radius)):
        raise ValueError(f"radius = {radius}: give a finite number, at least 0")
    given = problem(model, loss, parameters, data)
    atoms, _ = expand(given.network, given.shape)
    walk = Walk(
        given.arrays, radius, third=len({n.rsplit(".", 1)[0] for n in given.arrays}) <= THIRD_ORDER, measure=measure
    )
    state, tree = walk(atoms, given.X, given.shape)
    outputs = state.centre.detach().reshape(given.realisation.output_shape)
    cost = cost_at_centre(given, outputs)
    leaf = given.theta.unsqueeze(0).requires_grad_()
    value = given.value(leaf)
    gradient = float(torch.autograd.grad(value.sum(), leaf)[0].norm())
    infinite = _infinite_layer(tree)
    measured = _hessian(given) if not infinite else None
    top, residual = (float(measured.value), float(measured.residual)) if measured else (math.nan, math.nan)
    routes, lipschitz = smoothness_routes(state, cost, top + abs(top) * residual, radius)
    if infinite:
        routes = dict.fromkeys(routes, math.inf)
    route = min(("composition", "centre"), key=lambda name: routes[name])
    smoothness = routes[route]
    second = largest(state.jet.second) * (1 + ALLOWANCE)
    centre = _kernel_at_centre(given, loss == "cross_entropy")
    by_movement = max(0.0, math.sqrt(centre) - (0.0 if radius == 0 else radius * second)) ** 2
    by_regularity = floor_of(tree)
    kernel, kernel_route = max((by_movement, "movement"), (by_regularity, "regularity"))
    goal = target if target is not None else 0.0 if loss == "squared_error" else math.log(2) / given.X.shape[1]
    at = float(value.detach())
    length, steps, rate = _descent(at, goal, kernel, smoothness, cost, loss)
    conditions = (
        Condition(
            "smoothness",
            "largest Hessian eigenvalue on the ball, finite",
            smoothness,
            math.inf,
            math.isfinite(smoothness),
        ),
        Condition("tangent kernel", "lambda_min(DF DF^T) on the ball is positive", kernel, 0.0, kernel > 0),
        Condition("path", "length of the descent is below the radius", length, radius, length < radius or at <= goal),
        Condition(
            "centre",
            f"largest Hessian eigenvalue at the centre ({measured.method if measured else 'none'}) is not used, or its residual is small",
            residual,
            RESIDUAL,
            route == "composition" or residual <= RESIDUAL,
        ),
    )
    failing = next((c for c in conditions if not c.holds), None)
    status = "certified" if failing is None else "smooth" if math.isfinite(smoothness) else "not certified"
    reason = infinite or ("" if failing is None else f"{failing.name}: {failing.statement} ({failing.value:.6g})")
    return LocalCertificate(
        status,
        reason,
        loss,
        radius,
        given.realisation.size,
        given.X.shape[1],
        at,
        gradient,
        top,
        residual,
        measured.method if measured else "none",
        smoothness,
        route,
        routes,
        lipschitz,
        1 / smoothness if smoothness > 0 else math.inf,
        largest(state.jet.first) * (1 + ALLOWANCE),
        second,
        centre,
        kernel,
        kernel_route,
        length,
        goal,
        rate,
        steps,
        conditions,
    )


def _descent(
    value: float, target: float, kernel: float, smoothness: float, cost: CostAtCentre, loss: str
) -> tuple[float, float, float | None]:
    """Length of the path and number of steps of gradient descent from `value` down to `target`, and the rate for squared error."""
    if value <= target:
        return 0.0, 0.0, None
    if kernel <= 0 or not math.isfinite(smoothness):
        return math.inf, math.inf, None
    n = cost.samples
    if loss == "squared_error":
        # psi^2 = 2 kernel ell / N: 2 int_target^value d ell / psi
        length = 2 * math.sqrt(2 * n / kernel) * (math.sqrt(value) - math.sqrt(max(target, 0.0)))
        rate = 1 - kernel / n / smoothness
        reached = target / value if target > 0 else 1e-3
        return length * (1 + ALLOWANCE), math.ceil(math.log(reached) / math.log(rate)) if rate > 0 else 1.0, rate
    classes = int(cost.cost.classes)  # type: ignore[attr-defined]
    ends = np.geomspace(target, value, GRID + 1)
    length = steps = 0.0
    for low, high in pairwise(ends):
        split = float(exact_least_split(n, flint.arb(float(low))).lower())
        squared = kernel * classes / ((classes - 1) * n**2) * split
        length += 2 * (high - low) / math.sqrt(squared)
        steps += 2 * smoothness * (high - low) / squared
    # the sum covers the whole steps above the target; the one that crosses it comes on top
    return length * (1 + ALLOWANCE), math.ceil(steps * (1 + ALLOWANCE)) + 1, None
