"""MacDonald et al. (NeurIPS 2023, arXiv 2210.05371): skip connections lift singular values, and that is why training goes faster.

Claim (abstract, read): skips speed up training because they lift the singular values of the layers' Jacobians, verified predictively: a shortcut
`conv(x) + pad(s AvgPool_s(x))` changed to lift them further trains faster still. Protocol (read, authors' code): the toy net in three variants on 32
random MNIST images, full-batch descent at 0.1, one initial state a trial for all variants, singular values of the 320 x 23,040 Jacobian of the
logits by the first block's input, batch norm in training mode.

What is checked: the shortcut's exact singular values (derived); the verdicts of the protocol by paired differences (measured; on scikit-learn's digits, or
on MNIST with `pytest paper_checks -k skip --data DIR`); and whether the order is the same in every trial (searched: a single trial of the other
sign refutes "always"). No direction is asserted: what comes out is the verdict, and it is left as a row. The prediction from the initial states is
written down before the first step.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import sympy
import torch

from numerics.skips.blocks import fixed_spectrum
from numerics.skips.networks import fixed_shortcut, resnet
from numerics.skips.protocols import PROTOCOLS
from numerics.skips.study import Plan, conduct
from numerics.skips.verdict import summary
from theory.records import Shape


def study(folder, request, trials, steps):
    data = request.config.getoption("--data")
    chosen = replace(PROTOCOLS["toy" if data else "digits"], trials=trials, steps=steps)
    # threads, not processes: one torch thread each, and nothing is imported again
    with ThreadPoolExecutor(2) as pool:
        return conduct(Plan(chosen, 0, data, folder), pool)


def leave_verdicts(found, leave) -> None:
    for d in found.differences:
        low, high = d.interval.low, d.interval.high
        leave(
            f"{d.question}: {d.first} is {d.says} against {d.second} ({d.interval.trials} trials)",
            "measured",
            f"[{low:.3g}, {high:.3g}]",
            d.interval.mean,
        )
        assert low <= d.interval.mean <= high
    for t in found.together:
        leave(
            f"singular values and loss: {t.kind} correlation, {t.says}",
            "measured",
            f"[{t.low:.3g}, {t.high:.3g}]",
            t.value,
        )
        assert -1 <= t.value <= 1
    assert {d.question for d in found.differences} == {"singular values", "loss", "last loss"}


def test_skip_verdicts_of_the_toy_protocol(leave, tmp_path, request) -> None:
    found = study(tmp_path, request, 3, 6)
    leave_verdicts(found, leave)
    # every trial by itself: does the order of the claim hold always?
    (by_variant,) = found.results.values()
    for question in ("singular values", "loss"):
        gaps = [
            summary(skip)[question] - summary(chain)[question]
            for chain, skip in zip(by_variant["chain"], by_variant["changed"], strict=True)
        ]
        assert all(math.isfinite(gap) for gap in gaps)
        agree = sum(gap > 0 for gap in gaps) if question == "singular values" else sum(gap < 0 for gap in gaps)
        leave(
            f"{question}: trials that agree with the claim (changed against chain)",
            "searched",
            f"of {len(gaps)}",
            agree,
        )


@pytest.mark.slow
def test_skip_verdicts_of_the_whole_toy_protocol(leave, tmp_path, request) -> None:
    leave_verdicts(study(tmp_path, request, 10, 30), leave)


def test_skip_prediction_is_written_before_the_first_step(leave, tmp_path, request) -> None:
    found = study(tmp_path, request, 3, 1)
    assert found.prediction is not None
    for pair in found.prediction.pairs:
        low, high = pair.log_ratio.low, pair.log_ratio.high
        leave(
            f"predicted {pair.quantity}: {pair.first} {pair.statement} than {pair.second}",
            "derived",
            f"[{low:.3g}, {high:.3g}]",
            pair.log_ratio.mean,
        )
    written = (tmp_path / "prediction.json").stat().st_mtime_ns
    assert all(p.stat().st_mtime_ns >= written for p in (tmp_path / "trials").iterdir())


def test_skip_shortcut_is_a_partial_isometry_and_neither_injective_nor_onto(leave) -> None:
    exact = fixed_spectrum(
        fixed_shortcut(3, 7, 8), Shape(sympy.Integer(5), sympy.Integer(1), (sympy.Integer(12), sympy.Integer(12)))
    )
    leave("pad(3 AvgPool_3): singular values 0 and 1 only", "derived", str(exact))
    assert not exact.injective
    assert not exact.onto
    x = torch.randn(1, 5, 12, 12, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: torch.nn.functional.pad(3 * torch.nn.functional.avg_pool2d(v, 3), (0, 0, 0, 0, 7, 8)), x
    )
    values = torch.linalg.svdvals(jacobian.reshape(20 * 16, -1))
    assert bool(((values - values.round()).abs() < 1e-12).all())
    assert float(values.max()) == pytest.approx(1)
    leave(
        "its singular values: largest distance from 0 and 1",
        "measured",
        1e-12,
        float((values - values.round()).abs().max()),
    )


@pytest.mark.parametrize(("depth", "count"), [(18, 3), (34, 3), (50, 4), (101, 4), (152, 4)])
def test_skip_changed_shortcut_touches_few_shortcuts(depth: int, count: int, leave) -> None:
    assert resnet(depth, "changed").changed_shortcuts == count
    leave(f"ResNet-{depth}: shortcuts that change", "derived", count, count)


def test_skip_identity_plus_a_random_matrix_lifts_its_singular_values(leave) -> None:
    source = np.random.default_rng(0)
    lifted = []
    for _ in range(5):
        matrix = source.uniform(-1, 1, (500, 500)) / np.sqrt(500)
        lifted.append(
            np.linalg.svd(np.eye(500) + matrix, compute_uv=False).mean()
            / np.linalg.svd(matrix, compute_uv=False).mean()
        )
    leave(
        "mean singular value of I + A / of A (500 x 500), least of 5", "measured", 1.0, float(min(lifted)), lower=True
    )
