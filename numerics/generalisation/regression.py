"""Predicting a number of each model from a few positive features: `gap = a^T log(features) + b`, cross-validated, and paired comparisons of two such predictions.

What is compared is the prediction of a model by a fit that has not seen it. Each model's squared errors are averaged over the repetitions of the folds, and
`R^2 = 1 - mean(squared error) / var(gap)` is bootstrapped over models, both predictions on the same draws. The fits stay those of the folds: to fit anew on a draw
would put copies of a model on both sides of a fold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.base import clone  # type: ignore[import-untyped, unused-ignore]
from sklearn.linear_model import LinearRegression, RidgeCV  # type: ignore[import-untyped, unused-ignore]
from sklearn.model_selection import RepeatedKFold  # type: ignore[import-untyped, unused-ignore]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped, unused-ignore]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped, unused-ignore]

from numerics.skips.paired import LEVEL, Interval

FEW_MODELS, FEW_FEATURES = 200, 8
"""With fewer models than this, no more features than that: 20 features overfit."""
FOLDS, REPEATS = 10, 5
RESAMPLES = 2000
PENALTIES = np.logspace(-6, 3, 19)
"""Ridge penalties among which `RidgeCV` chooses inside each fold, on standardised features."""
KINDS = ("linear", "ridge")


@dataclass(frozen=True, eq=False)
class Fit:
    """A cross-validated linear prediction.

    Attributes:
        target: `(M,)`, what is predicted.
        predicted: `(M,)`, mean over the repetitions of the prediction by fits that have not seen the model.
        squared_error: `(M,)`, mean over the repetitions of the squared error of those.
        r2: of all models by one fit on all of them; `adjusted_r2` allows for its number of features.
        cross_validated_r2: `1 - mean(squared_error) / var(target)`, with its interval.
        features: their number.
    """

    target: np.ndarray
    predicted: np.ndarray
    squared_error: np.ndarray
    r2: float
    adjusted_r2: float
    cross_validated_r2: Interval
    features: int


def _checked(features: np.ndarray, target: np.ndarray, log: bool) -> np.ndarray:
    models, count = features.shape
    if target.shape != (models,):
        raise ValueError(f"{models} rows of features but targets of shape {target.shape}: give one target a model")
    if models < FEW_MODELS and count > FEW_FEATURES:
        raise ValueError(
            f"{count} features for {models} models: with fewer than {FEW_MODELS} models use at most {FEW_FEATURES} features, chosen beforehand"
        )
    if models < 2 * FOLDS:
        raise ValueError(f"{models} models: give at least {2 * FOLDS} for {FOLDS} folds")
    wrong = np.argwhere(~np.isfinite(features) | (log & (features <= 0)))
    if len(wrong):
        row, column = wrong[0]
        value = features[row, column]
        kind = "positive and finite" if log else "finite"
        raise ValueError(f"feature {column} of model {row} is {value}: it must be {kind}; leave the model out")
    if not np.isfinite(target).all() or np.ptp(target) == 0:
        raise ValueError("targets must be finite and differ")
    return np.log(features) if log else features


def _r2(squared_error: np.ndarray, target: np.ndarray, axis: int = -1) -> np.ndarray:
    return 1 - squared_error.mean(axis) / target.var(axis)


def _bootstrap(statistic: object, samples: tuple[np.ndarray, ...], value: float, seed: int) -> Interval:
    found = stats.bootstrap(
        samples,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high), LEVEL, len(samples[0]))


def fit(features: np.ndarray, target: np.ndarray, *, log: bool = True, kind: str = "linear", seed: int = 0) -> Fit:
    """Fit and cross-validate `target = a^T log(features) + b` (without the logarithm: `log=False`).

    Args:
        features: `(M, F)`, positive where logarithms are taken.
        target: `(M,)`.
        kind: `linear` (least squares) or `ridge` (on standardised features, its penalty chosen inside each fold).
        seed: of the folds and of the bootstrap; equal seeds give equal folds, so that two fits can be compared model by model.

    Raises:
        ValueError: more than 8 features with fewer than 200 models, fewer than 20 models, a feature without logarithm, an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: use one of {', '.join(KINDS)}")
    values = _checked(features, target, log)
    models, count = values.shape
    regression = LinearRegression() if kind == "linear" else RidgeCV(alphas=PENALTIES)
    estimator = make_pipeline(StandardScaler(), regression)
    predicted, squared = np.zeros(models), np.zeros(models)
    for seen, unseen in RepeatedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=seed).split(values):
        guess = clone(estimator).fit(values[seen], target[seen]).predict(values[unseen])
        predicted[unseen] += guess / REPEATS
        squared[unseen] += (guess - target[unseen]) ** 2 / REPEATS
    whole = float(estimator.fit(values, target).score(values, target))
    adjusted = 1 - (1 - whole) * (models - 1) / (models - count - 1)
    found = _bootstrap(_r2, (squared, target), float(_r2(squared, target)), seed)
    return Fit(target, predicted, squared, whole, adjusted, found, count)


def difference(*pairs: tuple[Fit, Fit], seed: int = 0) -> Interval:
    """Cross-validated `R^2` of the first fits less that of the second, with its paired bootstrap interval over models.

    Args:
        pairs: two fits of the same models each; several pairs (one a population) are pooled, squared errors in units of each population's variance.
        seed: of the bootstrap.

    Raises:
        ValueError: no pair, or fits of different targets in one.
    """
    if not pairs:
        raise ValueError("no fits are given: give at least one pair")
    values = []
    for first, second in pairs:
        if not np.array_equal(first.target, second.target):
            raise ValueError("the two fits have different targets: fit both to the same models in the same order")
        values.append((second.squared_error - first.squared_error) / first.target.var())
    pooled = np.concatenate(values)
    return _bootstrap(np.mean, (pooled,), float(pooled.mean()), seed)
