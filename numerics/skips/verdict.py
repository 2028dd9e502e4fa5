"""What came out, by paired differences over trials: did the singular values rise, did the loss fall faster, and do the two go together?

Each is answered by itself, at each learning rate and for each pair of variants:

* `singular values`: difference of the logarithms of the mean singular value, averaged over the first 10 measured points;
* `loss`: difference of the mean logarithm of the loss over the steps 1 to 20 (epochs: over all); negative is faster;
* `last loss`: difference of the logarithms of the last loss;
* `together`: over all pairs and trials, the correlation of the difference of singular values with the loss's (Pearson's, by ranks Spearman's); its interval comes from
  trials drawn with replacement. Paper A's mechanism says negative.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from numerics.device import generator
from numerics.skips.paired import LEVEL, RESAMPLES, Interval, interval
from numerics.skips.runs import Result

EARLY_SPECTRA, EARLY_STEPS = 10, 20
"""Points of the published histograms, and steps of the published loss curves."""

Table = Mapping[str, Sequence[Result]]
"""Results by variant, trials in the same order."""


@dataclass(frozen=True)
class Difference:
    """One question for one pair of variants at one learning rate.

    Attributes:
        question: `singular values`, `loss` or `last loss`.
        first, second: the variants; the difference is that of the first less the second.
        learning_rate: of the runs.
        interval: of the mean paired difference over the trials.
        says: the verdict in a word.
    """

    question: str
    first: str
    second: str
    learning_rate: float
    interval: Interval
    says: str


@dataclass(frozen=True)
class Together:
    """Correlation of the two differences over pairs and trials.

    Attributes:
        kind: `Pearson` or `Spearman`.
        learning_rate: of the runs.
        value, low, high: with the interval over resampled trials.
        trials, pairs: how many.
        says: `together` where the interval is negative (larger singular values, lower loss), `against` where positive, else `undecided`.
    """

    kind: str
    learning_rate: float
    value: float
    low: float
    high: float
    trials: int
    pairs: int
    says: str


WORDS = {"singular values": ("larger", "smaller"), "loss": ("slower", "faster"), "last loss": ("higher", "lower")}


def summary(result: Result) -> dict[str, float]:
    """The logarithms that are compared, of one result; NaN where it was not measured or the run diverged."""
    losses = result.losses
    early = losses[1 : EARLY_STEPS + 1] if result.task.protocol.epochs == 0 else losses
    mean = result.spectra[:EARLY_SPECTRA].mean(1).log().mean() if result.spectra.numel() else torch.tensor(math.nan)
    return {"singular values": float(mean), "loss": float(early.log().mean()), "last loss": float(losses[-1].log())}


def _values(table: Table, question: str) -> Tensor:
    """`(variants, trials)`."""
    return torch.tensor([[summary(r)[question] for r in table[variant]] for variant in table], dtype=torch.float64)


def differences(table: Table, learning_rate: float, *, level: float = LEVEL) -> list[Difference]:
    """Every question for every pair; questions that were not measured are left out.

    Raises:
        ValueError: fewer than 3 trials, or variants with different trials.
    """
    _check(table)
    variants, out = list(table), []
    for question, words in WORDS.items():
        values = _values(table, question)
        finite = values.isfinite().all(0)
        if question == "singular values" and not finite.any():
            continue
        for i, j in itertools.combinations(range(len(variants)), 2):
            # a trial in which a variant diverged is left out of every pair; the number of trials says so
            found = interval(values[j, finite] - values[i, finite], level=level)
            out.append(Difference(question, variants[j], variants[i], learning_rate, found, found.says(*words)))
    return out


def _check(table: Table) -> None:
    trials = {variant: [r.task.trial for r in results] for variant, results in table.items()}
    if len({tuple(t) for t in trials.values()}) != 1:
        raise ValueError(f"the variants have different trials: {trials}")


def together(
    table: Table, learning_rate: float, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> list[Together]:
    """The correlations of `log mean singular value` with `loss` over pairs and trials; empty where singular values were not measured."""
    _check(table)
    spectra, losses = _values(table, "singular values"), _values(table, "loss")
    finite = (spectra.isfinite() & losses.isfinite()).all(0)
    if not finite.any():
        return []
    pairs = list(itertools.combinations(range(len(table)), 2))
    x, y = (torch.stack([v[j, finite] - v[i, finite] for i, j in pairs]) for v in (spectra, losses))
    trials = x.shape[1]
    drawn = torch.randint(trials, (resamples, trials), generator=generator(seed))
    found = []
    for kind, of in (("Pearson", lambda v: v), ("Spearman", _ranks)):
        value = _correlation(of(x.flatten()[None]), of(y.flatten()[None]))
        again = _correlation(of(x[:, drawn].movedim(1, 0).flatten(1)), of(y[:, drawn].movedim(1, 0).flatten(1)))
        again = again[again.isfinite()]
        tail = (1 - level) / 2
        low, high = (float(again.quantile(q)) for q in (tail, 1 - tail)) if len(again) else (math.nan, math.nan)
        says = "together" if high < 0 else "against" if low > 0 else "undecided"
        found.append(Together(kind, learning_rate, float(value), low, high, trials, len(pairs), says))
    return found


def _ranks(values: Tensor) -> Tensor:
    """Mean ranks along the last dimension."""
    return torch.as_tensor(stats.rankdata(values.numpy(), axis=-1))


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    return (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))


def rows(found: Sequence[Difference]) -> list[dict[str, Any]]:
    """Differences as table rows."""
    return [
        {
            "question": d.question,
            "variant": d.first,
            "against": d.second,
            "learning rate": d.learning_rate,
            "mean difference of logs": d.interval.mean,
            "low": d.interval.low,
            "high": d.interval.high,
            "trials": d.interval.trials,
            "verdict": d.says,
        }
        for d in found
    ]


def together_rows(found: Sequence[Together]) -> list[dict[str, Any]]:
    """Correlations as table rows."""
    return [asdict(each) for each in found]
