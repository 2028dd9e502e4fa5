"""Cross-validated prediction from a few features: what it recovers, what it refuses, and that it does not see what it is tested on."""

import numpy as np
import pytest

from numerics.generalisation.regression import FEW_FEATURES, FEW_MODELS, difference, fit


def planted(models: int, features: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    source = np.random.default_rng(seed)
    values = source.lognormal(size=(models, features))
    target = np.log(values) @ np.linspace(1, 2, features) + noise * source.normal(size=models)
    return values, target


def test_a_planted_law_in_the_logarithms_is_found_and_the_logarithm_is_seen_to_help() -> None:
    values, target = planted(120, 4, 0.1)
    logs, plain = fit(values, target), fit(values, target, log=False)
    assert logs.cross_validated_r2.low > 0.98
    assert logs.adjusted_r2 <= logs.r2
    gain = difference((logs, plain))
    assert gain.low > 0
    assert gain.mean == pytest.approx(logs.cross_validated_r2.mean - plain.cross_validated_r2.mean, abs=1e-12)
    assert gain.says("helps", "hurts") == "helps"


@pytest.mark.parametrize("kind", ["linear", "ridge"])
def test_pure_noise_is_not_predicted(kind: str) -> None:
    source = np.random.default_rng(1)
    found = fit(source.lognormal(size=(150, 8)), source.normal(size=150), kind=kind)
    assert found.r2 > 0  # what a fit sees of itself
    assert found.cross_validated_r2.mean < 0.05
    assert found.predicted.shape == (150,)


def test_the_adjusted_coefficient_is_the_textbook_one() -> None:
    values, target = planted(60, 3, 1.0)
    found = fit(values, target)
    design = np.column_stack([np.ones(60), np.log(values)])
    residual = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    r2 = 1 - residual @ residual / ((target - target.mean()) @ (target - target.mean()))
    assert found.r2 == pytest.approx(r2, abs=1e-10)
    assert found.adjusted_r2 == pytest.approx(1 - (1 - r2) * 59 / 56, abs=1e-10)


def test_pairs_of_several_populations_are_pooled_in_units_of_their_own_variance() -> None:
    pairs = []
    for seed, scale in ((0, 1.0), (1, 1000.0)):
        values, target = planted(60, 4, 1.0, seed)
        pairs.append((fit(values, scale * target), fit(values[:, :2], scale * target)))
    alone = [difference(pair).mean for pair in pairs]
    assert difference(*pairs).mean == pytest.approx(sum(alone) / 2, rel=1e-9)
    assert difference(*pairs).trials == 120


def test_the_interval_of_a_difference_of_equal_fits_is_zero() -> None:
    values, target = planted(60, 3, 1.0)
    same = difference((fit(values, target), fit(values, target)))
    assert (same.low, same.mean, same.high) == (0, 0, 0)


def test_more_features_than_the_models_carry_are_refused() -> None:
    values, target = planted(FEW_MODELS - 1, FEW_FEATURES + 1, 1.0)
    with pytest.raises(ValueError, match=r"9 features for 199 models.*at most 8"):
        fit(values, target)
    assert fit(*planted(FEW_MODELS, FEW_FEATURES + 1, 1.0)).features == FEW_FEATURES + 1


def test_bad_input_is_named() -> None:
    values, target = planted(40, 3, 1.0)
    broken = values.copy()
    broken[7, 1] = 0.0
    with pytest.raises(ValueError, match=r"feature 1 of model 7 is 0\.0: it must be positive"):
        fit(broken, target)
    assert fit(broken, target, log=False).features == 3
    broken[7, 1] = np.nan
    with pytest.raises(ValueError, match="feature 1 of model 7 is nan"):
        fit(broken, target, log=False)
    with pytest.raises(ValueError, match="unknown kind"):
        fit(values, target, kind="forest")
    with pytest.raises(ValueError, match="give at least 20"):
        fit(values[:10], target[:10])
    with pytest.raises(ValueError, match="one target a model"):
        fit(values, target[:-1])
    with pytest.raises(ValueError, match="different targets"):
        difference((fit(values, target), fit(values, target + 1)))
    with pytest.raises(ValueError, match="at least one pair"):
        difference()
