"""One network, one set of data, many starts: descend by every rule beside its envelope, resumably, and say where the certified rate loses."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from numerics.compare import ALLOWANCE, Comparison
from numerics.convergence.descent import Descent, Records, Trajectory
from numerics.convergence.factors import Factor, factors
from numerics.convergence.passes import PassDescent, batches_of
from numerics.convergence.starts import adversarial, spread
from numerics.datasets import Data, data_values
from numerics.loss import Objective
from numerics.measure import tangent_kernel_lambda_min
from numerics.realise import realise
from numerics.report import to_json, write_atomically
from theory.convergence import Certificate, certify
from theory.costs import CrossEntropy, SquaredError
from theory.evaluate import Values
from theory.landscape import Landscape, landscape
from theory.passes import PassCertificate, certify_passes
from theory.records import Shape
from theory.recursion import FIXED, POSTERIORI, PROPORTIONAL, Recursion
from theory.sharpening import Stage, kernel_by_layer, stages
from theory.spec import describe, parse

PASSES = "passes"
"""The rule of mini-batches."""
SAVED_EVERY = 10.0
"""Seconds between two saved states."""
SEARCHED = 8
"""One start in so many is adversarial."""


@dataclass(frozen=True)
class Settings:
    """What identifies a run; a saved state of other settings is not continued.

    Attributes:
        spec: the network.
        cost: "cross-entropy" or "squared error".
        starts: number of starts, of norms from 1e-3 to 1e3; an eighth of them is adversarial.
        seed: of starts and orders.
        batches: mini-batches of a pass.
        data: digest of data and labels.
    """

    spec: str
    cost: str
    starts: int
    seed: int
    batches: int
    data: str


@dataclass(frozen=True, eq=False)
class Problem:
    """A certified network with its data, ready to descend.

    Attributes:
        settings: what identifies it.
        data: prepared data.
        device: where to run.
    """

    settings: Settings
    data: Data
    device: torch.device

    @classmethod
    def of(
        cls,
        spec: str,
        data: Data,
        device: torch.device,
        *,
        cost: str = CrossEntropy.name,
        starts: int = 256,
        seed: int = 0,
        batches: int = 1,
    ) -> Problem:
        """A problem; the spec is brought to its normal form."""
        digest = hashlib.sha256(data.X.numpy().tobytes() + data.labels.numpy().tobytes()).hexdigest()[:16]
        return cls(Settings(describe(parse(spec)), cost, starts, seed, batches, digest), data, device)

    @cached_property
    def landscape(self) -> Landscape:
        cost = SquaredError() if self.settings.cost == SquaredError.name else None
        return landscape(parse(self.settings.spec), self.data.features, self.data.samples, cost)  # type: ignore[arg-type]

    @cached_property
    def values(self) -> Values:
        return data_values(self.data)

    @cached_property
    def certificate(self) -> Certificate:
        return certify(self.landscape, self.values)

    @property
    def recursion(self) -> Recursion:
        """The certified recursion; for a network that is not certified, but whose derivatives are bounded, that of the run's own proof.

        Raises:
            ValueError: naming the first hypothesis that fails, where not even that is known.
        """
        certificate = self.certificate
        return certificate.recursion or certificate.ledger or certificate.required()

    @cached_property
    def pass_certificate(self) -> PassCertificate:
        return certify_passes(self.landscape, self.certificate)

    @cached_property
    def objective(self) -> Objective:
        data = self.data.to(self.device)
        network = realise(parse(self.settings.spec), Shape(data.features, data.samples))  # type: ignore[arg-type]
        return Objective(network, data.X, self.targets, self.settings.cost)

    @property
    def targets(self) -> Tensor:
        labels = self.data.labels.to(self.device)
        if self.settings.cost == CrossEntropy.name:
            return labels
        return torch.nn.functional.one_hot(labels, self.data.classes).T.to(torch.float64)

    def starts(self, rule: str) -> tuple[Tensor, tuple[str, ...]]:
        """Starting points for a rule: spread over sizes and kinds, and an eighth found by search against that rule."""
        count, seed = self.settings.starts, self.settings.seed
        searched = count // SEARCHED
        theta, labels = spread(self.objective.realisation, count - searched, seed)
        theta = theta.to(self.device)
        if not searched:
            return theta, labels
        # the search begins at some of the others, of all sizes
        chosen = torch.linspace(0, len(theta) - 1, searched).round().long().to(self.device)
        against = PROPORTIONAL if rule == PASSES else rule
        found = adversarial(self.objective, self.recursion, theta[chosen], against, seed=seed)
        names = tuple(f"adversarial, {labels[i].split(', ')[1]}" for i in chosen.tolist())
        return torch.cat([theta, found]), (*labels, *names)

    def descent(self, rule: str, theta: Tensor, records: Records | None = None) -> Descent | PassDescent:
        """Gradient descent by a rule, from starts or from where it was."""
        if rule != PASSES:
            return Descent(self.objective, self.recursion, theta, rule, records)
        network, x = parse(self.settings.spec), self.data.X.to(self.device)
        batches = batches_of(network, x, self.targets, self.settings.batches)
        return PassDescent(self.objective, batches, self.pass_certificate, theta, self.settings.seed, records)


KERNELS, OUTPUTS = 8, 1024
"""Networks of a run whose tangent kernels are measured along it, and the largest number of outputs (classes times samples) at which they are."""
CHECKPOINTS = tuple(25 * 2**k for k in range(20))
"""Steps after which they are measured."""


@dataclass(frozen=True, eq=False)
class Kernels:
    """`lambda_min(DF DF^T)` measured along a run: the steps `(M,)` and the values `(M, networks)`."""

    steps: Tensor
    values: Tensor

    @classmethod
    def none(cls) -> Kernels:
        return cls(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 0, dtype=torch.float64))

    def and_at(self, step: int, problem: Problem, theta: Tensor) -> Kernels:
        """These, and those of the first networks at a further step; none where the kernels are too large to be decomposed again and again."""
        if math.prod(problem.objective.realisation.output_shape) > OUTPUTS:
            return self
        found = tangent_kernel_lambda_min(problem.objective.realisation, theta[:KERNELS], problem.objective.x)
        values = found.value.detach().cpu()[None]
        return Kernels(
            torch.cat([self.steps, torch.tensor([step])]),
            torch.cat([self.values, values]) if len(self.steps) else values,
        )


def state_file(folder: Path, rule: str) -> Path:
    return folder / f"state-{rule}.safetensors"


def save(
    folder: Path, problem: Problem, run: Descent | PassDescent, labels: tuple[str, ...], kernels: Kernels | None = None
) -> None:
    """Points, records and measured kernels of a run, atomically."""
    theta, records = run.done
    kernels = kernels or Kernels.none()
    tensors = {"theta": theta, "losses": records.losses, "steps": records.steps, "removed": records.removed}
    tensors |= {"kernel_steps": kernels.steps, "kernels": kernels.values}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"settings": json.dumps(asdict(problem.settings)), "labels": json.dumps(labels)}
    write_atomically(state_file(folder, run.rule), safetensors.torch.save(tensors, metadata=metadata))


def resume(folder: Path, problem: Problem, rule: str) -> tuple[Descent | PassDescent, tuple[str, ...], Kernels] | None:
    """The saved run of a rule, None where there is none.

    Raises:
        ValueError: a file that is no state, or the state of other settings; both are named.
    """
    path = state_file(folder, rule)
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(str(path), "pt") as file:  # type: ignore[no-untyped-call]
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        known, labels = json.loads(metadata["settings"]), tuple(json.loads(metadata["labels"]))
        records = Records(tensors["losses"], tensors["steps"], tensors["removed"])
        theta, kernels = tensors["theta"].to(problem.device), Kernels(tensors["kernel_steps"], tensors["kernels"])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a saved run ({error}): delete it, or give another --out") from None
    ours = asdict(problem.settings)
    for name, value in ours.items():
        if known.get(name) != value:
            raise ValueError(
                f"{folder} holds a run with {name} = {known.get(name)!r}, not {value!r}: give another --out, or --fresh to begin again"
            )
    return problem.descent(rule, theta, records), labels, kernels


def descend(
    problem: Problem,
    rule: str,
    steps: int,
    folder: Path,
    *,
    fresh: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[Trajectory, Kernels]:
    """Run a rule for `steps` steps in all, continuing what the folder holds; the state is saved every few seconds, and when interrupted.

    Returns:
        The trajectory, and the tangent kernels measured along it.

    Raises:
        ValueError: the folder holds a run of other settings.
    """
    found = None if fresh else resume(folder, problem, rule)
    if found is None:
        theta, labels = problem.starts(rule)
        run, kernels = problem.descent(rule, theta), Kernels.none().and_at(0, problem, theta)
        # the search for starts is not repeated when the run is interrupted
        save(folder, problem, run, labels, kernels)
    else:
        run, labels, kernels = found
    saved = time.monotonic()

    def told(taken: int) -> None:
        nonlocal saved, kernels
        if taken in CHECKPOINTS and taken not in kernels.steps:
            kernels = kernels.and_at(taken, problem, run.done[0])
        if progress is not None:
            progress(taken)
        if time.monotonic() - saved > SAVED_EVERY:
            save(folder, problem, run, labels, kernels)
            saved = time.monotonic()

    if progress is not None:
        progress(run.taken)
    try:
        run.run(max(0, steps - run.taken), told)
    finally:
        save(folder, problem, run, labels, kernels)
    return run.trajectory(labels).until(steps), kernels


@dataclass(frozen=True)
class Outcome:
    """What a rule did.

    Attributes:
        rule: its name.
        row: the comparison of losses and envelope.
        certified: certified part of the loss removed by a step, as the loss goes to 0; 0 for Theorem 1, whose rate is of order 1/t.
        observed: least, median and largest observed part in the second half of the run, over the starts whose loss was below `1 / N` halfway: the certified
            part speaks of small losses. NaN where there is none.
        worst, best: largest and smallest last loss.
        envelope, proven: bounds of the largest last loss: known beforehand, and from the run's own gradients.
        limsup: Theorem 1's bound of `limsup t ell_t` and the largest `T ell_T`; None for other rules.
        seconds: time taken.
        factors: between certified and observed decrease, at the end of the run.
        kernels: `(step, least, median)` of `lambda_min(DF DF^T)` measured along the run, over at most eight networks.
    """

    rule: str
    row: Comparison
    certified: float
    observed: tuple[float, float, float]
    worst: float
    best: float
    envelope: float
    proven: float
    limsup: tuple[float, float] | None
    seconds: float
    factors: tuple[Factor, ...]
    kernels: tuple[tuple[int, float, float], ...]


def judged(problem: Problem, run: Trajectory, kernels: Kernels, seconds: float) -> Outcome:
    """A trajectory and the kernels measured along it beside their certificate; a kernel below the certified `lambda` is a violation."""
    certificate, settings = problem.certificate, problem.settings
    steps = len(run.steps)
    half = steps // 2
    start, end = run.losses[half], run.losses[-1]
    alive = (end > 0) & (start < 1 / problem.data.samples)
    part = 1 - (end[alive] / start[alive]) ** (1 / max(1, steps - half))
    observed = (float(part.min()), float(part.median()), float(part.max())) if len(part) else (math.nan,) * 3
    certified = {
        FIXED: 0.0 if settings.cost == CrossEntropy.name else certificate.linear_rate,
        PROPORTIONAL: certificate.linear_rate,
        POSTERIORI: certificate.measured_rate,
    }.get(run.rule)
    tightness = run.tightness if steps else 1.0
    measured = [(int(t), float(v.min()), float(v.median())) for t, v in zip(kernels.steps, kernels.values, strict=True)]
    low = [t for t, least, _ in measured if not least >= problem.recursion.lambda_min * (1 - ALLOWANCE)]
    row = Comparison(
        check="descent",
        paper="A",
        network=settings.spec,
        architecture=run.rule,
        depth=0,
        quantity="loss / certified envelope",
        sense="upper",
        bound=1.0,
        measured=tightness,
        tightness=tightness,
        holds=run.holds and not low,
        samples=problem.data.samples,
        networks=settings.starts,
        seed=settings.seed,
        device=problem.device.type,
        witness={"first violation": run.first_violation, "steps with a kernel below lambda": low},
    )
    limsup = None
    if run.rule == FIXED and settings.cost == CrossEntropy.name:
        limsup = (certificate.rate, float(steps * end.max()))
    lost: tuple[Factor, ...] = ()
    small = math.prod(problem.objective.realisation.output_shape) <= OUTPUTS
    if run.rule != PASSES and certificate.certified and small and float(end.min()) > problem.objective.rounding * 1e20:
        here = run.theta.to(problem.device)
        lost = tuple(factors(problem.objective, problem.recursion, here, run.rule, run.losses[0].to(problem.device)))
    return Outcome(
        run.rule,
        row,
        problem.pass_certificate.linear_rate if certified is None else certified,
        observed,
        float(end.max()),
        float(end.min()),
        float(run.envelope[-1].max()),
        float(run.proven[-1].max()),
        limsup,
        seconds,
        lost,
        tuple(measured),
    )


def curves(run: Trajectory, points: int = 400) -> dict[str, Any]:
    """A trajectory for a figure, at logarithmically spaced steps: for the median start and for the worst (by the last loss) its loss, envelope and proof; the band of all losses."""
    steps = len(run.steps)
    at = torch.logspace(0, math.log10(steps + 1), points, dtype=torch.float64).round().long().unique() - 1
    at = at[(at >= 0) & (at <= steps)]
    losses = run.losses[at]
    order = run.losses[-1].argsort()
    chosen = {"median start": int(order[(len(order) - 1) // 2]), "worst start": int(order[-1])}
    return {
        "rule": run.rule,
        "step": at.numpy(),
        "low": losses.min(1).values.numpy(),
        "high": losses.max(1).values.numpy(),
        "starts": {
            name: {
                key: array[at, index].numpy()
                for key, array in (("loss", run.losses), ("envelope", run.envelope), ("proven", run.proven))
            }
            for name, index in chosen.items()
        },
    }


def sharpened(problem: Problem, start: float) -> tuple[Stage, ...]:
    """What each sharpening of Theorem 2 gains here; empty under squared error."""
    if problem.settings.cost != CrossEntropy.name or not problem.certificate.certified:
        return ()
    return stages(problem.landscape, problem.values, problem.certificate, start=start)


def rate_rows(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Certified beside observed rates, one row a rule, for console and LaTeX."""
    out = []
    for found in outcomes:
        low, middle, high = found.observed
        out.append(
            {
                "rule": found.rule,
                "last loss, largest": found.worst,
                "smallest": found.best,
                "envelope": found.envelope,
                "proven by the run": found.proven,
                "certified part a step": found.certified or None,
                "observed, least": low,
                "median": middle,
                "largest": high,
                "observed / certified": low / found.certified if found.certified else None,
                "limsup t loss": None if found.limsup is None else found.limsup[0],
                "T loss": None if found.limsup is None else found.limsup[1],
                "holds": found.row.holds,
            }
        )
    return out


def stage_rows(found: tuple[Stage, ...], measured: float) -> list[dict[str, Any]]:
    """The sharpenings of Theorem 2, one row each; the last one is that of residuals measured along the run."""
    rows = [
        {"sharpening": s.name, "certified part a step": s.part, "gain": s.gain, "certified steps to 1e-10": s.steps}
        for s in found
    ]
    if rows:
        name = "steps from the samples' measured residuals (posteriori)"
        rows.append(
            {
                "sharpening": name,
                "certified part a step": measured,
                "gain": measured / found[-1].part,
                "certified steps to 1e-10": None,
            }
        )
    return rows


def factor_rows(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Which factor loses how much, a column a rule (medians over the networks measured)."""
    names = list(dict.fromkeys(f.name for o in outcomes for f in o.factors))
    found = {o.rule: {f.name: f.middle for f in o.factors} for o in outcomes if o.factors}
    return [{"factor": name, **{rule: by_name.get(name) for rule, by_name in found.items()}} for name in names]


def kernel_rows(problem: Problem, outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """`lambda_min(DF DF^T)` measured along each run beside the certified `lambda`."""
    certified = problem.recursion.lambda_min
    rows = []
    for outcome in outcomes:
        for step, least, median in outcome.kernels:
            row = {
                "rule": outcome.rule,
                "step": step,
                "certified lambda": certified,
                "measured, least": least,
                "median": median,
            }
            rows.append(row)
    return rows


def record(problem: Problem, outcomes: list[Outcome], found: tuple[Stage, ...], status: str) -> str:
    """`results.json` of a run."""
    certificate = problem.certificate
    meta: Mapping[str, Any] = {
        "status": status,
        **asdict(problem.settings),
        "certificate": {
            "certified": certificate.certified,
            "lambda_min": problem.recursion.lambda_min,
            "step_size": certificate.step_size,
            "rate": certificate.rate,
            "linear_rate": certificate.linear_rate,
            "measured_rate": certificate.measured_rate,
            "kernel_by_layer": kernel_by_layer(problem.landscape, problem.values),
            "hypotheses": [str(item) for item in certificate.checked],
        },
        "sharpenings": stage_rows(found, certificate.measured_rate),
        "rates": rate_rows(outcomes),
        "factors": factor_rows(outcomes),
        "kernels": kernel_rows(problem, outcomes),
        "violations": sum(not o.row.holds for o in outcomes),
    }
    return to_json({"meta": meta, "rows": [o.row.row() for o in outcomes]}) + "\n"
