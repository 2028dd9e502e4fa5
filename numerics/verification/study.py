"""One configuration measured: thousands of sampled networks, a search for a counterexample of every bound, certified descent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from numerics.compare import Comparison, extreme, verdict
from numerics.convergence.descent import Trajectory, descend
from numerics.datasets import Data
from numerics.device import generator
from numerics.ensembles import draw, mixture, project
from numerics.loss import LossMap, Objective
from numerics.measure import (
    Measured,
    cross_entropy,
    hessian_lambda_max,
    input_jacobian_singular_values,
    param_jacobian_norm,
    second_derivative_norm,
    tangent_kernel_lambda_min,
)
from numerics.realise import Realisation, realise
from numerics.search import search_layer
from numerics.verification import family
from numerics.verification.family import BoundValue, Configuration
from theory.bound import Sense
from theory.records import Shape
from theory.recursion import Recursion
from theory.spec import parse

CHUNK = 512
"""Networks measured at once; larger batches leave the cache of a CPU core."""
SCALES = (0.1, 1.0, 10.0)
PAPER = "A"


@dataclass(frozen=True)
class Budget:
    """How hard a configuration is tried.

    Attributes:
        networks: sampled networks whose gradient, curvature and gradient ratio are measured.
        dense: how many of them (spread over all draws) get exact kernels, Jacobians and second derivatives.
        restarts, search_steps: of each search.
        starts, descent_steps: of gradient descent.
    """

    networks: int = 4096
    dense: int = 96
    restarts: int = 16
    search_steps: int = 80
    starts: int = 48
    descent_steps: int = 400


QUICK = Budget(networks=512, dense=32, restarts=8, search_steps=30, starts=24, descent_steps=60)


@dataclass(frozen=True)
class Task:
    """Everything a worker needs for one configuration: description, bounds as floats, data, budget."""

    configuration: Configuration
    bounds: dict[str, BoundValue]
    recursion: Recursion | None
    data: Data
    budget: Budget
    seed: int
    device: str


@dataclass(frozen=True)
class Outcome:
    """What one configuration leaves: rows, the descent if it was certified, singular values, witnesses by name."""

    rows: tuple[Comparison, ...]
    descent: dict[str, Any] | None
    singular_values: np.ndarray
    witnesses: dict[str, np.ndarray]


def _row(task: Task, check: str, quantity: str, values: Tensor, networks: int, **facts: Any) -> Comparison:
    """The comparison of one bound with the extreme of measured values."""
    bound = task.bounds[quantity]
    measured, index = extreme(values, bound.sense)
    scale = facts.pop("scale", None)
    tightness, holds, allowance = verdict(bound.value, bound.sense, measured, scale)
    witness = facts.pop("witness", {"index": index})
    labels = facts.pop("labels", None)
    if labels is not None:
        witness = {**witness, "draw": str(labels[index])}
    return Comparison(
        check=check,
        paper=PAPER,
        network=task.configuration.spec,
        architecture=task.configuration.architecture,
        depth=task.configuration.depth,
        quantity=quantity,
        sense=str(bound.sense),
        bound=bound.value,
        measured=measured,
        tightness=tightness,
        holds=holds,
        samples=task.data.samples,
        networks=networks,
        seed=task.seed,
        device=task.device,
        allowance=allowance,
        witness=witness,
        **facts,
    )


def draw_networks(task: Task, realisation: Realisation) -> tuple[Tensor, list[str]]:
    """Networks of all kinds and scales, brought into the ball where the bounds speak of a ball; shuffled."""
    source = generator(task.seed, task.device)
    theta, labels = mixture(realisation, task.budget.networks, source, scales=SCALES)
    if task.configuration.radius is not None:
        theta = project(realisation, theta, task.configuration.radius)
    order = torch.randperm(len(theta), generator=source, device=theta.device)
    return theta[order], [str(labels[int(i)]) for i in order]


def sampled(task: Task, realisation: Realisation) -> tuple[list[Comparison], np.ndarray, dict[str, Tensor]]:
    """Random networks: first-order quantities and curvature of all, exact spectra of a part; violating networks are returned."""
    theta, labels = draw_networks(task, realisation)
    x, targets = task.data.X.to(task.device), task.data.labels.to(task.device)

    def loss(point: Tensor) -> Tensor:
        return cross_entropy(realisation(point, x), targets)

    ratios, curvatures, converged = [], [], True
    for chunk in theta.split(CHUNK):
        ratios.append(gradient_ratio(realisation, chunk, x, targets))
        curvature = hessian_lambda_max(
            loss, chunk, tolerance=1e-2, max_iterations=8, generator=generator(0, task.device)
        )
        curvatures.append(curvature.value)
        converged &= bool(curvature.converged.all())
    ratio, curvature_values = torch.cat(ratios), torch.cat(curvatures)
    count = len(theta)
    few = theta[: task.budget.dense]
    kernel = tangent_kernel_lambda_min(realisation, few, x)
    norm = param_jacobian_norm(realisation, few, x)
    second = second_derivative_norm(
        realisation, few, x, "all_params", iterations=4, starts=1, generator=generator(0, task.device)
    )
    singular, trunk_count = _trunk(task)
    top = float(norm.value.max()) ** 2
    rows = [
        _row(task, "sampled", family.SMOOTHNESS, curvature_values, count, labels=labels, converged=converged),
        _row(task, "sampled", family.RATIO, ratio.nan_to_num(nan=float("inf")), count, labels=labels, scale=top),
        _row(task, "sampled", family.FIRST, norm.value, len(few), labels=labels),
        _row(task, "sampled", family.KERNEL, kernel.value, len(few), labels=labels, scale=top),
        _second_row(task, second, labels, len(few)),
        _row(task, "sampled", family.TRUNK_NORM, singular[:, 0], trunk_count),
        _row(task, "sampled", family.TRUNK_SIGMA, singular[:, -1], trunk_count, scale=float(singular.max())),
    ]
    violating: dict[str, Tensor] = {}
    for row in rows:
        if not row.holds and "draw" in row.witness:
            key = f"{row.architecture}/{row.depth}/sampled {row.quantity}"
            row.witness["tensors"] = key
            violating[f"{key}/theta"] = theta[row.witness["index"]]
    return rows, singular.cpu().numpy(), violating


def _second_row(task: Task, second: Measured, labels: list[str], count: int) -> Comparison:
    done = bool(second.converged.all())
    return _row(task, "sampled", family.SECOND, second.value, count, labels=labels, converged=done)


def gradient_ratio(realisation: Realisation, theta: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """`|grad ell|^2 / |grad gamma|^2`, exactly what the PL-type inequality bounds from below, at every network."""
    point = theta.clone().requires_grad_(True)
    outputs = realisation(point, x)
    loss = cross_entropy(outputs, labels).sum()
    by_parameters, by_outputs = torch.autograd.grad(loss, (point, outputs))
    return by_parameters.square().sum(-1) / by_outputs.square().sum((-2, -1))


def _trunk(task: Task) -> tuple[Tensor, int]:
    """Singular values of the input Jacobian of the blocks alone, at random inputs and weights."""
    shape = Shape(family.WIDTH, task.data.samples)  # type: ignore[arg-type]
    blocks = realise(parse(task.configuration.trunk), shape)
    source = generator(task.seed + 1, task.device)
    theta, _ = mixture(blocks, task.budget.dense, source, scales=SCALES)
    if task.configuration.radius is not None:
        theta = project(blocks, theta, task.configuration.radius)
    inputs = torch.randn(len(theta), *blocks.input_shape, generator=source, dtype=theta.dtype, device=theta.device)
    return input_jacobian_singular_values(blocks, theta, inputs), len(theta)


SEARCHED = {
    family.FIRST: "param_jacobian_norm",
    family.SECOND: "param_param",
    family.KERNEL: "tangent_kernel_lambda_min",
    family.SMOOTHNESS: "param_param",
}
"""Each searched bound and the quantity of the search; the smoothness constant is that of the loss as a map."""


def searched(task: Task, realisation: Realisation) -> Iterator[tuple[Comparison, dict[str, Tensor]]]:
    """Gradient ascent on every bound, on the given data; each row with its witness (parameters, directions)."""
    x, targets = task.data.X.to(task.device), task.data.labels.to(task.device)
    for quantity, name in SEARCHED.items():
        subject: Any = LossMap(realisation, targets) if quantity == family.SMOOTHNESS else realisation
        found = search_layer(
            subject,
            name,
            parameter_radius=task.configuration.radius,
            fixed_input=x,
            restarts=task.budget.restarts,
            steps=task.budget.search_steps,
            parameter_scales=(0.1, 1.0, 10.0),
            seed=task.seed,
            device=task.device,
        )
        key = f"{task.configuration.architecture}/{task.configuration.depth}/{quantity}"
        theta, _, *directions = found.witness
        witness = {"tensors": key, "step": found.steps}
        scale = task.bounds[family.FIRST].value ** 2 if quantity == family.KERNEL else None
        row = _row(task, "searched", quantity, found.value, task.budget.restarts, witness=witness, scale=scale)
        arrays = {f"{key}/theta": theta} | {f"{key}/direction {i}": v for i, v in enumerate(directions)}
        yield row, arrays


def certified_descent(task: Task, realisation: Realisation, recursion: Recursion) -> tuple[Comparison, Trajectory]:
    """Gradient descent with the certified step from small, unit and huge starts of every kind."""
    source = generator(task.seed + 2, task.device)
    theta, names = [], []
    sizes = {"small": 1e-2, "unit": 1.0, "huge": 1e2}
    kinds = ("gaussian", "orthogonal", "low_rank", "spiked")
    each = max(1, task.budget.starts // (len(sizes) * len(kinds)))
    for size, scale in sizes.items():
        for kind in kinds:
            theta.append(draw(realisation, each, kind, scale, source))
            names += [size] * each
    data = task.data.to(task.device)
    run = descend(
        Objective(realisation, data.X, data.labels),
        recursion,
        torch.cat(theta),
        steps=task.budget.descent_steps,
        labels=tuple(names),
    )
    worst = run.tightness
    row = Comparison(
        check="descent",
        paper=PAPER,
        network=task.configuration.spec,
        architecture=task.configuration.architecture,
        depth=task.configuration.depth,
        quantity="loss / certified envelope",
        sense=str(Sense.UPPER),
        bound=1.0,
        measured=worst,
        tightness=worst,
        holds=run.holds,
        samples=task.data.samples,
        networks=len(names),
        seed=task.seed,
        device=task.device,
        witness={"first violation": run.first_violation},
    )
    return row, run


def study(task: Task) -> Outcome:
    """Sample, search, and (where Theorem 1 certifies it) descend, for one configuration."""
    torch.set_num_threads(1)
    realisation = realise(parse(task.configuration.spec), Shape(task.data.features, task.data.samples))  # type: ignore[arg-type]
    rows, singular, tensors = sampled(task, realisation)
    for row, arrays in searched(task, realisation):
        rows.append(row)
        tensors |= arrays
    witnesses = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    descent = None
    if task.recursion is not None:
        row, run = certified_descent(task, realisation, task.recursion)
        rows.append(row)
        descent = {
            "architecture": task.configuration.architecture,
            "depth": task.configuration.depth,
            "losses": run.losses.cpu().numpy(),
            "envelope": run.envelope.cpu().numpy(),
            "labels": run.labels,
            "step_size": task.recursion.fixed,
        }
    return Outcome(tuple(rows), descent, singular, witnesses)
