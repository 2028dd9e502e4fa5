"""The whole comparison: the prediction written down first, then every trial wherever the executor runs it, then the verdict."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from numerics.images import Images, shaped
from numerics.report import to_json, write_atomically
from numerics.skips import figures
from numerics.skips.prediction import Prediction, predict
from numerics.skips.protocols import Protocol
from numerics.skips.runs import Result, Task, images_of, mixed, run, saved, spectrum
from numerics.skips.verdict import Difference, Together, differences, rows, together, together_rows

IDENTITY_SIZE = 500
"""Size of the matrix in the figure of `A` and `I + A`."""


@dataclass(frozen=True)
class Plan:
    """One comparison.

    Attributes:
        protocol: how.
        seed: of everything.
        folder: of the data.
        out: folder of the results.
        precision, device: of the runs.
        spectra: whether singular values are measured.
    """

    protocol: Protocol
    seed: int
    folder: str | None
    out: Path
    precision: str = "double"
    device: str = "cpu"
    spectra: bool = True

    @property
    def tasks(self) -> list[Task]:
        """Every variant at every learning rate in every trial."""
        p = self.protocol
        return [
            Task(
                p,
                variant,
                rate,
                trial,
                self.seed,
                None if self.folder is None else str(Path(self.folder).resolve()),
                str(self.out.resolve()),
                self.precision,
                self.device,
                self.spectra,
            )
            for trial in range(p.trials)
            for rate in p.learning_rates
            for variant in p.variants
        ]


@dataclass(frozen=True, eq=False)
class Study:
    """What came out.

    Attributes:
        prediction: from the initial states, written before the first step; None where it was not asked for.
        results: by learning rate, then by variant, trials in order.
        differences, together: the verdicts.
    """

    prediction: Prediction | None
    results: dict[float, dict[str, list[Result]]]
    differences: list[Difference]
    together: list[Together]


def foresee(plan: Plan) -> Prediction:
    """The prediction, from `prediction.json` where it was written before; at least before the first trial has a result.

    Raises:
        ValueError: trials are finished but no prediction was written: it would not be one any more.
    """
    path = plan.out / "prediction.json"
    if path.is_file():
        return Prediction.read(path)
    if any(saved(task) for task in plan.tasks):
        raise ValueError(
            f"{plan.out} holds finished trials but no prediction.json: a prediction comes first; give another --out"
        )
    task = replace(plan.tasks[0], spectra=False)
    train, _ = images_of(task)
    chosen = train.chosen(plan.protocol.batch, mixed(plan.seed, 0, 1))
    images = chosen if isinstance(chosen, Images) else shaped(chosen.batch(range(len(chosen))), plan.protocol.image)
    toy = plan.protocol.depth == 0
    found = predict(
        plan.protocol.networks(train.classes),
        images.values(torch.float64 if toy else torch.float32).to(plan.device),
        images.labels.to(plan.device),
        seeds=[mixed(plan.seed, trial) for trial in range(max(3, plan.protocol.trials))],
        step_sizes=plan.protocol.learning_rates,
        spectrum=spectrum if toy and plan.spectra else None,
        bounds=toy,
        dtype=torch.float64 if toy else torch.float32,
    )
    found.write(path)
    return found


def conduct(plan: Plan, pool: Executor, told: Callable[[int, int], None] = lambda *_: None) -> Study:
    """Predict, run what is not finished, judge; `told(done, all)` after every finished task."""
    prediction = foresee(plan)
    tasks = plan.tasks
    results: dict[Task, Result] = {task: found for task in tasks if (found := saved(task))}
    told(len(results), len(tasks))
    jobs = {pool.submit(run, task): task for task in tasks if task not in results}
    for job in as_completed(jobs):
        results[jobs[job]] = job.result()
        told(len(results), len(tasks))
    table: dict[float, dict[str, list[Result]]] = {}
    for task in tasks:
        table.setdefault(task.learning_rate, {}).setdefault(task.variant, []).append(results[task])
    return judge(prediction, table)


def judge(prediction: Prediction | None, table: dict[float, dict[str, list[Result]]]) -> Study:
    """The verdicts over finished results."""
    found = [d for rate, by_variant in table.items() for d in differences(by_variant, rate)]
    correlated = [t for rate, by_variant in table.items() for t in together(by_variant, rate)]
    return Study(prediction, table, found, correlated)


def predicted_rows(study: Study) -> list[dict[str, Any]]:
    """The predicted order of each pair beside what came out: the initial decrease against the loss, the initial singular values against the measured ones."""
    if study.prediction is None:
        return []
    out = []
    for d in study.differences:
        quantity = {"loss": "decrease", "singular values": "singular_values"}.get(d.question)
        if quantity is None or not any(p.quantity == quantity for p in study.prediction.pairs):
            continue
        foreseen = study.prediction.pair(quantity, d.first, d.second).statement
        agree = None if "undecided" in (foreseen, d.says) else foreseen == d.says
        row = {"question": d.question, "variant": d.first, "against": d.second, "learning rate": d.learning_rate}
        out.append({**row, "predicted": foreseen, "came out": d.says, "agree": agree})
    return out


def block_rows(study: Study) -> list[dict[str, Any]]:
    """Each variant's blocks at the first trial's initial state: bounds of the singular values of their input Jacobians, and why no better lower one."""
    if study.prediction is None:
        return []
    return [
        {
            "variant": variant,
            "block": one.block,
            "largest at most": one.largest,
            "largest measured": one.measured_largest,
            "branch at most": one.branch,
            "smallest at least": one.smallest,
            "because": one.reason,
        }
        for variant, blocks in study.prediction.bounds.items()
        for one in blocks
    ]


def write(plan: Plan, study: Study) -> None:
    """`metrics.csv`, `results.json` and the figures."""
    write_atomically(plan.out / "metrics.csv", metrics(study))
    content = {
        "protocol": plan.protocol.name,
        "seed": plan.seed,
        "verdicts": rows(study.differences),
        "together": together_rows(study.together),
        "predicted": predicted_rows(study),
    }
    write_atomically(plan.out / "results.json", to_json(content) + "\n")
    draw(plan, study)


def metrics(study: Study) -> str:
    """Every measured number as CSV: a row a point of a run."""
    buffer = io.StringIO()
    table = csv.writer(buffer)
    table.writerow(
        ("learning_rate", "trial", "variant", "step", "loss", "mean_singular_value", "largest", "smallest", "accuracy")
    )
    for rate, by_variant in study.results.items():
        for variant, results in by_variant.items():
            for result in results:
                for step, loss in enumerate(result.losses.tolist()):
                    values = result.spectra[step] if step < len(result.spectra) else None
                    measured = (
                        ("", "", "") if values is None else (float(values.mean()), float(values[0]), float(values[-1]))
                    )
                    accuracy = result.accuracy if step == len(result.losses) - 1 else ""
                    table.writerow((rate, result.task.trial, variant, step, loss, *measured, accuracy))
    return buffer.getvalue()


def draw(plan: Plan, study: Study) -> None:
    """Loss curves, histograms of singular values (first 10 points), and the figure of `I + A`."""
    curves = {
        f"learning rate {rate:g}": {
            v: torch.stack([r.losses for r in results]).numpy() for v, results in by_variant.items()
        }
        for rate, by_variant in study.results.items()
    }
    figures.losses(curves, plan.out / "losses", xlabel="epoch" if plan.protocol.epochs else "step")
    for rate, by_variant in study.results.items():
        spectra = {v: torch.cat([r.spectra[:10] for r in results]).numpy() for v, results in by_variant.items()}
        if all(v.size and v.shape[1] > 1 for v in spectra.values()):
            suffix = "" if len(study.results) == 1 else f"_lr{rate:g}"
            title = f"{plan.protocol.name}, learning rate {rate:g}: first 10 steps, mean over trials"
            figures.histograms(spectra, plan.out / f"singular_values{suffix}", title=title)
    figures.identity_plus(IDENTITY_SIZE, plan.seed, plan.out / "identity_plus")


def tables(study: Study) -> dict[str, Sequence[dict[str, Any]]]:
    """What the console and LaTeX show, by title."""
    shown = {
        "Verdict: paired differences of logarithms over trials, 95 % bootstrap intervals": rows(study.differences),
        "Do they go together? Correlation of the differences of singular values and of the loss": together_rows(
            study.together
        ),
        "Predicted before training, and what came out": predicted_rows(study),
        "Bounds of the blocks' singular values at the first initial state": block_rows(study),
    }
    return {title: found for title, found in shown.items() if found}
