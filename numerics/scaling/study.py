"""The study of scaling with depth (paper C): what is measured at which size, and a verdict per statement with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor

from numerics.device import DTYPE, generator
from numerics.images import Images
from numerics.readers import Name, load
from numerics.scaling.change import heat_map, linear_response, log_change
from numerics.scaling.convergence import ode_errors, sde_errors
from numerics.scaling.estimates import Estimate, Mean, critical_beta, rate, slope
from numerics.scaling.moments import ensemble, log_growth
from numerics.scaling.processes import published_covariance_error
from numerics.scaling.sizes import Sizes
from numerics.scaling.training import OPTIMISERS, train
from numerics.scaling.weights import iid_layers, smooth_layers, sphere
from numerics.skips.paired import interval
from theory.network import Network
from theory.signal.depth_scaling import improvements, log_normal, regimes, tie
from theory.signal.propagation import alpha, propagate, res1, res3
from theory.symbols import L, c

CRITICAL = {"iid": 0.5, "smooth": 1.0}
"""The exponent `beta` between identity and explosion."""
BETAS = {"iid": (1.0, 0.5, 0.25), "smooth": (2.0, 1.0, 0.5)}
"""The exponents of the published figures."""
TRAINED = {"iid": (0.1, 0.3, 0.5, 0.75, 1.0, 1.5), "smooth": (0.3, 0.6, 1.0, 1.25, 1.5, 2.0)}
"""Exponents at which networks are trained: explosion first, the critical one third, identity last."""
RATE = {"gradient": 0.01, "adam": 0.005}
"""Step sizes of the training."""
TOLERANCE = 0.1
"""Distance of a measured exponent, slope or critical scale from the derived one."""
ERRORS = 4.0
"""Standard errors between a measured mean and the derived one."""


@dataclass(frozen=True)
class Verdict:
    """One statement, what is derived of it, what was measured, and whether they agree.

    Attributes:
        statement: in words.
        derived: the value or law that follows from the derivation.
        measured, low, high: the measured value with its 95 per cent interval; None where nothing is measured.
        rule: how the verdict is taken.
        holds: the verdict.
    """

    statement: str
    derived: str
    measured: float | None
    low: float | None
    high: float | None
    rule: str
    holds: bool

    def row(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Stage:
    """The verdicts of one part of the study, and the numbers that its figure shows."""

    name: str
    verdicts: tuple[Verdict, ...]
    shown: dict[str, Any]


def _near(statement: str, found: Estimate, target: float) -> Verdict:
    holds = abs(found.value - target) <= TOLERANCE
    return Verdict(statement, f"{target:.4g}", found.value, found.low, found.high, f"within {TOLERANCE}", holds)


def settings(sizes: Sizes) -> list[tuple[str, Network, str]]:
    """The 12 settings of the second moments: label, network, law of the weights."""
    width = sizes.moment_width
    found = []
    laws = ("uniform", "gaussian", "rademacher")
    for i, depth in enumerate(sizes.moment_depths):
        for j, beta in enumerate((1.0, 0.75, 0.5)):
            scale = sympy.Float(depth**-beta)
            law = laws[(i + j) % 3]
            sized = (scale, sympy.Integer(depth), sympy.Integer(width))
            found.append((f"res-3, L = {depth}, beta = {beta}", res3(*sized), law))
            found.append((f"res-1 linear, L = {depth}, beta = {beta}", res1("identity", *sized), law))
    return found


def moments(sizes: Sizes, seed: int, device: torch.device) -> Stage:
    """Mean growth of activations and of gradients against the derived law."""
    verdicts = []
    for index, (label, network, law) in enumerate(settings(sizes)):
        derived = propagate(network, sympy.Integer(sizes.moment_width))
        found = ensemble(network, sizes.moment_width, sizes.moments, seed * 1000 + index, device, law=law)
        for name, values, bound in (
            ("|h_L|^2/|h_0|^2", found.second, derived.second_upper),
            ("|p_0|^2/|p_L|^2", found.gradient, derived.gradient()),
        ):
            assert values is not None
            mean, at = Mean.of(values), float(bound.expression)
            low, high = mean.value - 1.96 * mean.error, mean.value + 1.96 * mean.error
            holds = mean.deviations(at) <= ERRORS
            statement = f"E{name}: {label}, {law} weights"
            verdicts.append(
                Verdict(statement, f"{at:.6g}", mean.value, low, high, f"within {ERRORS:g} standard errors", holds)
            )
    return Stage("moments", tuple(verdicts), {})


def derived_change(depth: int, beta: float) -> float:
    """`log sqrt(E|h_L - h_0|^2/|h_0|^2)` of res-3 with iid weights, from the derived law."""
    at = propagate(res3()).change().expression.subs({alpha: sympy.Float(depth**-beta), L: depth})
    return float(sympy.log(at)) / 2


def change(sizes: Sizes, seed: int, device: torch.device) -> Stage:
    """Relative change `|h_L - h_0|/|h_0|` against depth, by kind of weights and `beta`."""
    depths = torch.tensor(sizes.depths)
    curves: dict[str, Any] = {}
    verdicts = []
    for kind, betas in BETAS.items():
        logs: list[Tensor] = []
        for index, depth in enumerate(sizes.depths):
            source = generator(seed * 1000 + index, device)
            make = iid_layers(sizes.change, sizes.change_width, source)
            if kind == "smooth":
                make = smooth_layers(depth, sizes.change, sizes.change_width, source)
            scales = depth ** -torch.tensor(betas, dtype=DTYPE, device=device)
            logs.append(log_change(make, depth, scales, sphere(sizes.change, sizes.change_width, source)).cpu())
        for i, beta in enumerate(betas):
            mine = [v[:, i] for v in logs]
            # the first depths are not asymptotic yet
            skip = min(len(depths) - 2, len(depths) // 3)
            found = rate(depths[skip:], mine[skip:])
            curves[f"{kind}, {beta:g}"] = {
                "depth": list(sizes.depths),
                "mean": [float(v.mean()) for v in mine],
                "low": [float(v.quantile(0.025)) for v in mine],
                "high": [float(v.quantile(0.975)) for v in mine],
                "derived": [derived_change(depth, beta) for depth in sizes.depths] if kind == "iid" else [],
            }
            statement = f"{kind} weights, beta = {beta:g}: exponent of |h_L - h_0|/|h_0| in the depth"
            target = CRITICAL[kind] - beta
            if target <= 0:
                regime = "identity" if target < 0 else "critical"
                verdicts.append(_near(f"{statement} ({regime})", found, target))
            else:
                verdicts.append(
                    Verdict(
                        f"{statement} (explosion)",
                        f"> {target:g}",
                        found.value,
                        found.low,
                        found.high,
                        "interval above",
                        found.low > target,
                    )
                )
    return Stage("change", tuple(verdicts), curves)


def histogram(sizes: Sizes, seed: int, device: torch.device) -> Stage:
    """`log(|h_L|^2/|h_0|^2)` at `beta = 1/2` against its normal law."""
    width, depth, networks = sizes.histogram
    values = log_growth(width, depth, networks, seed, device)
    mean, variance = log_normal().at(depth, width)
    found = Mean.of(values)
    spread, error = float(values.var()), variance * math.sqrt(2 / networks)
    where = f"d = {width}, L = {depth}, {networks} networks"
    rule = f"within {ERRORS:g} standard errors"
    verdicts = (
        Verdict(
            f"mean of log(|h_L|^2/|h_0|^2), 1/2 - 1/d + O(1/L): {where}",
            f"{mean:.6g}",
            found.value,
            found.value - 1.96 * found.error,
            found.value + 1.96 * found.error,
            rule,
            found.deviations(mean) <= ERRORS,
        ),
        Verdict(
            f"its variance, 2/d + O(1/L): {where}",
            f"{variance:.6g}",
            spread,
            spread - 1.96 * error,
            spread + 1.96 * error,
            rule,
            abs(spread - variance) <= ERRORS * error,
        ),
    )
    return Stage("histogram", verdicts, {"values": values.tolist(), "mean": mean, "variance": variance})


def orders(sizes: Sizes, seed: int, device: torch.device) -> Stage:
    """Orders of convergence to the SDE and to the ODE."""
    verdicts, curves = [], {}
    for name, depths, errors, order in (
        ("SDE (beta = 1/2, iid)", sizes.sde_depths, sde_errors(sizes.sde_depths, *sizes.sde, seed, device), 0.5),
        ("ODE (beta = 1, smooth)", sizes.ode_depths, ode_errors(sizes.ode_depths, *sizes.ode, seed, device), 1.0),
    ):
        found = slope(torch.tensor(depths), errors, seed=seed)
        verdicts.append(_near(f"{name}: slope of the strong error in the depth", found, -order))
        curves[name] = {"depth": list(depths), "error": errors.mean(0).sqrt().tolist(), "order": order}
    return Stage("orders", tuple(verdicts), curves)


def heat(sizes: Sizes, seed: int, device: torch.device, progress: Callable[[], None] = lambda: None) -> Stage:
    """The heat map over Hurst index and `beta`, and its critical line."""
    hurst = tuple(torch.linspace(0.05, 0.97, sizes.hurst, dtype=DTYPE).tolist())
    betas = torch.linspace(0, 1.3, sizes.betas, dtype=DTYPE)
    shallow, deep = (
        heat_map(hurst, betas, depth, sizes.heat_width, sizes.heat_networks, 2 * seed + i, device, progress)
        for i, depth in enumerate(sizes.heat_depths)
    )
    verdicts, line = [], []
    for i, H in enumerate(hurst):
        found = critical_beta(betas, shallow[i], deep[i])
        line.append(found.value)
        responses = [linear_response(H, depth) for depth in sizes.heat_depths]
        here = math.log(responses[1] / responses[0]) / (2 * math.log(sizes.heat_depths[1] / sizes.heat_depths[0]))
        statement = (
            f"H = {H:.3g}: critical beta, max(H, 1/2) in the limit; to first order between these depths {here:.3f}"
        )
        verdicts.append(_near(statement, found, max(H, 0.5)))
    worst = published_covariance_error(hurst[-1], sizes.heat_depths[1])
    verdicts.append(
        Verdict(
            f"the authors' fractional noise at H = {hurst[-1]:.3g}: largest error of a covariance (variance 1); not used here",
            f"{worst:.3g}",
            None,
            None,
            None,
            "derived",
            True,
        )
    )
    shown = {
        "hurst": list(hurst),
        "betas": betas.tolist(),
        "log10": (deep.mean(1) / math.log(10)).tolist(),
        "line": line,
        "depth": sizes.heat_depths[1],
    }
    return Stage("heat", tuple(verdicts), shown)


def loaded(name: Name, folder: Path | None) -> tuple[Images, Images]:
    """Images for training and for testing, in memory.

    Raises:
        ValueError: a data set that is decoded file by file, by name.
    """
    train_images, test_images = load(name, folder, "train"), load(name, folder, "test")
    if not isinstance(train_images, Images) or not isinstance(test_images, Images):
        raise ValueError(f"{name} does not lie in memory: train on mnist or the digits")
    return train_images, test_images


def training(sizes: Sizes, seed: int, device: torch.device, data: Path | None = None) -> Stage:
    """Training at every scale: accuracy against `beta`, and how regular the weights are along the depth before and after.

    `data` is a folder of MNIST in its published format; without it the networks learn scikit-learn's digits.
    """
    name: Name = "digits" if data is None else "mnist"
    images = loaded(name, data)
    width, depth, seeds, steps = sizes.training
    verdicts, curves, paths = [], {}, {}
    for kind, betas in TRAINED.items():
        regular = {"iid": 0.0, "smooth": 1.0}[kind]
        for optimiser in OPTIMISERS:
            found = train(
                kind, betas, depth, width, seeds, images, steps=steps, batch=32, rate=RATE[optimiser], optimiser=optimiser, seed=seed, device=device
            )  # fmt: skip
            at = betas.index(CRITICAL[kind])
            what = f"{kind} weights, {optimiser}, {name}, L = {depth}"
            for when, values in zip(("before", "after"), found.exponents(at), strict=True):
                mean = Mean.of(values)
                ends = mean.value - 1.96 * mean.error, mean.value + 1.96 * mean.error
                verdicts.append(
                    _near(
                        f"{what}: regularity of the weights along the depth {when} training",
                        Estimate(mean.value, *ends),
                        regular,
                    )
                )
            moved = Mean.of(found.moved(at))
            low, high = moved.value - 1.96 * moved.error, moved.value + 1.96 * moved.error
            verdicts.append(
                Verdict(
                    f"{what}: relative change of the weights by training",
                    "> 0.05",
                    moved.value,
                    low,
                    high,
                    "interval above",
                    low > 0.05,
                )
            )
            for other, role in ((0, "explosion"), (len(betas) - 1, "identity")):
                gain = interval(found.accuracy[:, at] - found.accuracy[:, other], seed=seed)
                statement = f"{what}: accuracy at beta = {betas[at]:g}, less that at {betas[other]:g} ({role})"
                asserted = role == "explosion"
                verdicts.append(
                    Verdict(statement, "> 0" if asserted else "reported", gain.mean, gain.low, gain.high,
                            "interval above" if asserted else gain.says("higher", "lower"), gain.low > 0 or not asserted)
                )  # fmt: skip
            loss = found.loss[1].nan_to_num(posinf=float("inf"))
            curves[f"{kind}, {optimiser}"] = {
                "betas": list(betas),
                "critical": betas[at],
                "accuracy": found.accuracy.tolist(),
                "log_loss": loss.clamp(1e-8, 1e8).log10().tolist(),
            }
            if optimiser == OPTIMISERS[0]:
                entries = {
                    when: w[:, 0, at, :, 0, 0].tolist()
                    for when, w in (("before", found.before), ("after", found.after))
                }
                paths[kind] = {"beta": betas[at], **entries}
    return Stage("training", tuple(verdicts), {"curves": curves, "paths": paths})


def derived() -> Stage:
    """What needs no measurement: limits, published constants beside ours, and the worst case at two branch scales; every step recomputed."""
    verdicts = []

    def add(statement: str, value: object, holds: bool) -> None:
        verdicts.append(Verdict(statement, str(value), None, None, None, "every step recomputed", holds))

    exact = propagate(res3())
    exact.verify()
    add("res-3: E|h_L|^2/|h_0|^2 and its gradient twin, exact", exact.growth(), exact.exact)
    for regime in regimes():
        add(f"{regime.name}, beta = {regime.beta}: limit of both", regime.growth, all(s.verify() for s in regime.steps))
    law = log_normal()
    add("log(|h_L|^2/|h_0|^2) at beta = 1/2", f"N({law.mean}, {law.variance})", all(s.verify() for s in law.steps))
    for item in improvements():
        add(
            f"{item.statement}: published {item.published} (recalled), better by {float(item.gain):.4g}",
            item.derived,
            all(s.verify() for s in item.steps),
        )
    for scale in (c / L, c / sympy.sqrt(L)):
        at = tie(scale)
        add(f"branch scale {scale}: worst case of |DF| in the limit", at.first_derivative, True)
        add(f"branch scale {scale}: mean growth in the limit", at.mean_growth, True)
    return Stage("derived", tuple(verdicts), {})


STAGES: dict[str, Callable[[Sizes, int, torch.device], Stage]] = {
    "derived": lambda sizes, seed, device: derived(),
    "moments": moments,
    "change": change,
    "histogram": histogram,
    "orders": orders,
    "heat": heat,
    "training": training,
}
"""The parts of the study by name, in the order in which they are run."""
