"""Marion, Fermanian, Biau, Vert (arXiv 2206.06929, JMLR 2025), the training figures: which scales train, and weights along the depth before and after.

The paper trains on MNIST and CIFAR10; its optimiser, steps and step sizes are not known here, so nothing of a figure is asserted as the paper's. Checked instead, on
scikit-learn's digits (MNIST with `--data`), over paired seeds: the accuracy at the critical scale against strong explosion (exponents 0.1 and 0.3, chosen with the
step sizes after a trial run; milder ones train) and against the regime of identity, and the regularity exponent of the weights along the depth (0 for noise, 1 for smooth functions), before and after training by two optimisers.
"""

import math

import pytest
import torch

from numerics.images import Images
from numerics.scaling.estimates import Mean
from numerics.scaling.study import CRITICAL, RATE, loaded
from numerics.scaling.training import KINDS, OPTIMISERS, Trained, train
from numerics.skips.paired import interval

TRAINING, REGULARITY = "training", "weights-after-training"
BETAS = {"iid": (0.1, 0.5, 1.5), "smooth": (0.3, 1.0, 2.0)}
EXPONENT = {"iid": 0.0, "smooth": 1.0}
STEPS = 60
SHORT = 0.1
"""Distance of a regularity exponent from 0 or 1: at 64 layers, lags of 1 to 4 on weights that vary over a tenth of the depth give 0.945 for smooth weights."""


@pytest.fixture(scope="module")
def images(request: pytest.FixtureRequest) -> tuple[Images, Images]:
    folder = request.config.getoption("--data")
    return loaded("mnist", folder) if folder else loaded("digits", None)


def run(kind: str, images: tuple[Images, Images], optimiser: str, steps: int = STEPS, seeds: int = 5) -> Trained:
    rate = RATE[optimiser]
    return train(kind, BETAS[kind], 64, 8, seeds, images, steps=steps, batch=32, rate=rate, optimiser=optimiser)


@pytest.mark.parametrize("kind", KINDS)
def test_networks_train_at_the_critical_scale_and_not_where_they_explode(evidence, images, kind: str) -> None:
    against_identity = []
    for optimiser in OPTIMISERS:
        found = run(kind, images, optimiser)
        gain = interval(found.accuracy[:, 1] - found.accuracy[:, 0])
        evidence(
            TRAINING,
            "measured",
            f"{kind}, {optimiser}: accuracy at beta = {CRITICAL[kind]:g} less that at {BETAS[kind][0]:g}, lower end of the 95% interval over 5 seeds",
            0.0,
            gain.low,
            sense="lower",
        )
        against_identity.append(interval(found.accuracy[:, 1] - found.accuracy[:, 2]))
        # not only trained: what is compared did move
        assert bool((found.moved(1) > 0.05).all())
    words = "; ".join(
        f"{optimiser}: {i.mean:+.3f} [{i.low:+.3f}, {i.high:+.3f}]"
        for optimiser, i in zip(OPTIMISERS, against_identity, strict=True)
    )
    undecided = not all(i.low > 0 for i in against_identity)
    evidence(
        TRAINING,
        "measured",
        f"{kind}: accuracy at beta = {CRITICAL[kind]:g} less that at {BETAS[kind][2]:g} (identity), by optimiser",
        words,
        finding="loose" if undecided else "",
        note=f"{kind.capitalize()} weights: that the critical scale trains best is not seen with every optimiser on small networks; against the identity regime the "
        f"accuracy differs by {words}. What fails with both optimisers is strong explosion (beta = {BETAS[kind][0]:g}, {STEPS} steps); "
        "milder exponents and longer runs of Adam were seen to train."
        if undecided
        else "",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_weights_keep_their_regularity_along_the_depth(evidence, images, kind: str) -> None:
    for optimiser in OPTIMISERS:
        before, after = map(Mean.of, run(kind, images, optimiser).exponents(1))
        for when, mean in (("before", before), ("after", after)):
            farthest = abs(mean.value - EXPONENT[kind]) + 1.96 * mean.error
            evidence(
                REGULARITY,
                "measured",
                f"{kind}, {optimiser}: distance of the regularity exponent from {EXPONENT[kind]:g} {when} training, far end of the 95% interval",
                SHORT,
                farthest,
            )


def test_the_search_for_training_that_roughens_smooth_weights(evidence, images) -> None:
    """Climb over step sizes and optimisers: the more a step of Adam moves the weights, the rougher they become."""
    lowest, where = math.inf, ""
    for optimiser in OPTIMISERS:
        for rate in (0.003, 0.01, 0.03):
            found = train(
                "smooth", (1.0,), 64, 8, 3, images, steps=60, batch=32, rate=rate, optimiser=optimiser, seed=1
            )
            if not bool(found.after.isfinite().all()):
                continue
            _, after = found.exponents(0)
            if float(after.mean()) < lowest:
                lowest, where = (
                    float(after.mean()),
                    f"{optimiser}, step size {rate:g}, weights changed by {float(found.moved(0).mean()):.2f}",
                )
    assert torch.isfinite(torch.tensor(lowest))
    broken = lowest < 1 - SHORT
    evidence(
        REGULARITY,
        "searched",
        f"smooth: least regularity exponent after training over step sizes and optimisers (1/2 is a Brownian path) ({where})",
        0.5,
        lowest,
        sense="lower",
        finding="loose" if broken else "",
        note=f"Smooth weights keep their regularity only while they move little: the exponent falls to {lowest:.2f} ({where}), from 0.95."
        if broken
        else "",
    )
