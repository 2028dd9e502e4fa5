"""MacDonald et al. (NeurIPS 2023, arXiv 2210.05371): skip connections lift singular values, and that is why training goes faster.

Claim (abstract, read): skips speed up training because they lift the singular values of the layers' Jacobians, verified predictively: a shortcut
`conv(x) + pad(s AvgPool_s(x))` changed to lift them further trains faster still. Protocol (read, authors' code): the toy net in three variants on 32
random MNIST images, full-batch descent at 0.1, one initial state a trial for all variants, singular values of the 320 x 23,040 Jacobian of the
logits by the first block's input, batch norm in training mode.

What is checked: the shortcut's exact singular values (derived); the verdicts of the protocol by paired differences (measured; on scikit-learn's digits, or
on MNIST with `pytest paper_checks -k skip --data DIR`); and whether the order is the same in every trial (searched: a single trial of the other
sign refutes "always"). No direction is asserted: what comes out is the verdict, and it is left as a row. The prediction from the initial states is
written down before the first step. By default five trials for the initial states and for the loss over 20 steps, and the singular values along the first steps
of three; `pytest -m slow` runs the whole protocol.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
import pytest
import sympy
import torch
from matplotlib.figure import Figure

from numerics.plots import COLOURS, STYLE, panels
from numerics.search import maximise
from numerics.skips.blocks import fixed_spectrum
from numerics.skips.networks import fixed_shortcut, resnet
from numerics.skips.paired import Interval
from numerics.skips.protocols import PROTOCOLS
from numerics.skips.runs import run
from numerics.skips.study import Plan, Study, conduct, foresee, judge, predicted_rows
from numerics.skips.verdict import summary
from theory.catalogue import entry
from theory.records import Shape
from theory.spec import parse

VALUES, TRAINING, SHORTCUT = "singular-values", "faster-training", "changed-shortcut"
WANTED = {
    "singular values": "larger",
    "singular_values": "larger",
    "loss": "faster",
    "last loss": "lower",
    "decrease": "faster",
}
"""What the claims say of the variant with more skips."""


def plan_of(folder, request, **sizes) -> Plan:
    data = request.config.getoption("--data")
    return Plan(replace(PROTOCOLS["toy" if data else "digits"], **sizes), 0, data, folder)


def conducted(plan: Plan) -> Study:
    # one thread after another: initial states are drawn from torch's own generator, which threads share
    with ThreadPoolExecutor(1) as pool:
        return conduct(plan, pool)


@dataclass(frozen=True)
class Verdict:
    """A paired difference of logarithms, first less second, and what it says of the first."""

    question: str
    first: str
    second: str
    interval: Interval
    says: str

    @property
    def claim(self) -> str:
        """The claim that it speaks of: of the changed shortcut, of training, or of singular values."""
        if (self.first, self.second) == ("changed", "projection"):
            return SHORTCUT
        return VALUES if self.question == "singular values" else TRAINING

    @property
    def finding(self) -> str:
        return "" if self.says == WANTED[self.question] else "undecided" if self.says == "undecided" else "false"

    def __str__(self) -> str:
        i = self.interval
        return f"{self.question} of {self.first} against {self.second} {i.mean:+.2f} [{i.low:.2f}, {i.high:.2f}], {self.says}"


def leave_verdicts(evidence, verdicts: list[Verdict], when: str) -> None:
    """A row for each; a finding, with all of its kind on one claim in its note, where it is not what the claim says."""
    told = set()
    for v in verdicts:
        low, high = v.interval.low, v.interval.high
        assert low <= v.interval.mean <= high
        alike = [str(w) for w in verdicts if (w.claim, w.finding) == (v.claim, v.finding)]
        finding = v.finding if (v.claim, v.finding) not in told else ""
        told.add((v.claim, v.finding))
        what = "not what is claimed" if finding == "false" else "not decided"
        evidence(
            v.claim,
            "measured",
            f"{v.question} {when}: {v.first} less {v.second}, mean difference of logarithms",
            f"[{low:.3g}, {high:.3g}]",
            v.interval.mean,
            finding=finding,
            note=f"{when.capitalize()} {what} (mean differences of logarithms over {v.interval.trials} paired trials): {'; '.join(alike)}."
            if finding
            else f"{v.says.capitalize()} (claimed: {WANTED[v.question]}), {v.interval.trials} paired trials.",
        )


def verdicts_of(found: Study) -> list[Verdict]:
    return [Verdict(d.question, d.first, d.second, d.interval, d.says) for d in found.differences]


def leave_correlations(evidence, found: Study, when: str) -> None:
    """Do singular values and loss go together?"""
    for t in found.together:
        assert -1 <= t.value <= 1
        evidence(
            TRAINING,
            "measured",
            f"{t.kind} correlation of singular values and loss {when}, all pairs and {t.trials} trials",
            f"[{t.low:.3g}, {t.high:.3g}]",
            t.value,
            finding={"together": "", "against": "false"}.get(t.says, t.says),
            note=f"{t.kind} correlation of singular values and loss {when}: {t.says} (the mechanism: they go together).",
        )


def trials_that_agree(found: Study, question: str) -> tuple[int, int]:
    """Of how many trials the changed variant differs from the chain as the claim says."""
    (by_variant,) = found.results.values()
    gaps = [
        summary(skip)[question] - summary(chain)[question]
        for chain, skip in zip(by_variant["chain"], by_variant["changed"], strict=True)
    ]
    assert all(np.isfinite(gap) for gap in gaps)
    return sum(gap > 0 if WANTED[question] == "larger" else gap < 0 for gap in gaps), len(gaps)


def leave_order(evidence, claim: str, found: Study, question: str, when: str) -> None:
    """Is the order that of the claim in every single trial?"""
    agree, of = trials_that_agree(found, question)
    evidence(
        claim,
        "searched",
        f"trials of {of} in which changed against chain is {WANTED[question]} in {question} {when}",
        f"{of} would be always",
        agree,
        finding="" if agree == of else "false",
        note=""
        if agree == of
        else f"{question} {when}: {of - agree} of {of} trials have the other order, so it is not always so.",
    )


def test_skip_prediction_is_written_before_the_first_step_and_the_losses_follow(evidence, tmp_path, request) -> None:
    plan = plan_of(tmp_path, request, trials=5, steps=20)
    predicted = foresee(plan)
    assert not (tmp_path / "trials").exists()
    # "regularity" is |g|^2 / |q|^2, of the sign of the decrease |g|^2: it says nothing more
    turned = [predicted.pair(p.quantity, p.second, p.first) for p in predicted.pairs if p.quantity != "regularity"]
    verdicts = [Verdict(p.quantity.replace("_", " "), p.first, p.second, p.log_ratio, p.statement) for p in turned]
    leave_verdicts(evidence, verdicts, "at the initial states")
    found = conducted(replace(plan, spectra=False))
    written = (tmp_path / "prediction.json").stat().st_mtime_ns
    assert all(p.stat().st_mtime_ns >= written for p in (tmp_path / "trials").iterdir())
    leave_verdicts(evidence, verdicts_of(found), "over 20 steps")
    leave_order(evidence, TRAINING, found, "loss", "over 20 steps")
    leave_predictions(found, evidence)


def leave_predictions(found: Study, evidence) -> None:
    """Was the prediction right? Counted over the pairs in which both it and the outcome are decided."""
    rows = predicted_rows(found)
    for question in dict.fromkeys(row["question"] for row in rows):
        decided = [row["agree"] for row in rows if row["question"] == question and row["agree"] is not None]
        right = sum(decided)
        finding = "undecided" if not decided else "" if right == len(decided) else "false"
        evidence(
            TRAINING,
            "measured",
            f"{question}: pairs predicted right from the initial states, of those that are decided",
            f"of {len(decided)}",
            right,
            finding=finding,
            note=f"The prediction of the {question} from the initial states came true in {right} of the {len(decided)} pairs in which both are decided.",
        )


def test_skip_singular_values_along_the_first_steps(evidence, tmp_path, request) -> None:
    plan = plan_of(tmp_path, request, trials=3, steps=3)
    variants: dict[str, list] = {"chain": [], "changed": []}
    for task in plan.tasks:
        if task.variant in variants:
            variants[task.variant].append(run(task))
    found = judge(None, {plan.protocol.learning_rates[0]: variants})
    along = [v for v in verdicts_of(found) if v.question == "singular values"]
    leave_verdicts(evidence, along, "over the first 3 steps")
    leave_order(evidence, VALUES, found, "singular values", "over the first 3 steps")


@pytest.mark.slow
def test_skip_verdicts_of_the_whole_toy_protocol(evidence, tmp_path, request) -> None:
    found = conducted(plan_of(tmp_path, request, trials=10, steps=30))
    leave_verdicts(evidence, verdicts_of(found), "in the whole protocol")
    leave_correlations(evidence, found, "in the whole protocol")
    for claim, question in ((VALUES, "singular values"), (TRAINING, "loss")):
        leave_order(evidence, claim, found, question, "in the whole protocol")
    leave_predictions(found, evidence)


def test_skip_first_order_decrease_and_least_singular_value_are_derived(evidence) -> None:
    eta, gradient, curvature = sympy.symbols("eta g q", positive=True)
    after = -eta * gradient**2 + eta**2 * curvature / 2
    assert sympy.diff(after, eta).subs(eta, 0) == -(gradient**2)
    evidence(
        TRAINING,
        "derived",
        "first-order decrease of the loss by a step eta, from the initial state",
        "eta*|grad ell|^2",
    )
    chain, residual = (
        entry(parse(text), "everywhere").bounds.input_jacobian_sigma_min.expression
        for text in (
            "chain(tanh, affine(d, weight_norm=frobenius), scale(c))",
            "residual(tanh, affine(d, weight_norm=frobenius), scale(c))",
        )
    )
    assert chain == 0
    assert residual.subs(sympy.Symbol("c", positive=True), sympy.Rational(1, 4)) == sympy.Rational(3, 4)
    evidence(VALUES, "derived", "least singular value of a residual block's input Jacobian, at least", residual)
    evidence(VALUES, "derived", "the same block without its skip", chain)


def test_skip_shortcut_is_a_partial_isometry_and_neither_injective_nor_onto(evidence) -> None:
    exact = fixed_spectrum(
        fixed_shortcut(3, 7, 8), Shape(sympy.Integer(5), sympy.Integer(1), (sympy.Integer(12), sympy.Integer(12)))
    )
    assert not exact.injective
    assert not exact.onto
    evidence(
        SHORTCUT,
        "derived",
        "singular values of pad(3 AvgPool_3)",
        str(exact),
        finding="loose",
        note="The added shortcut is a partial isometry (singular values 0 and 1 only), neither injective nor onto: by itself it lifts no least singular value.",
    )

    def shortcut(v: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(3 * torch.nn.functional.avg_pool2d(v, 3), (0, 0, 0, 0, 7, 8))

    source = torch.Generator().manual_seed(0)
    x = torch.randn(1, 5, 12, 12, dtype=torch.float64, generator=source)
    jacobian = torch.autograd.functional.jacobian(shortcut, x)
    values = torch.linalg.svdvals(jacobian.reshape(20 * 16, -1))
    assert float(values.max()) == pytest.approx(1)
    evidence(
        SHORTCUT,
        "measured",
        "pad(3 AvgPool_3): largest distance of a singular value from 0 and 1",
        1e-12,
        float((values - values.round()).abs().max()),
    )

    def gain(v: torch.Tensor) -> torch.Tensor:
        return shortcut(v).flatten(1).norm(dim=1) / v.flatten(1).norm(dim=1)

    start = torch.randn(8, 5, 12, 12, dtype=torch.float64, generator=source)
    found = maximise(gain, [start], None, 100, 0.1, source).best
    evidence(SHORTCUT, "searched", "|S x| / |x|, largest found", 1.0, found)
    assert found > 0.99  # attained


@pytest.mark.parametrize(("depth", "count"), [(18, 3), (34, 3), (50, 4), (101, 4), (152, 4)])
def test_skip_changed_shortcut_touches_few_shortcuts(depth: int, count: int, evidence) -> None:
    changed = resnet(depth, "changed").changed_shortcuts
    evidence(SHORTCUT, "derived", f"ResNet-{depth}: shortcuts that change", count, changed, sense="equal")


def test_skip_identity_plus_a_random_matrix_lifts_its_singular_values(evidence) -> None:
    source = np.random.default_rng(0)
    lifted = []
    for _ in range(5):
        matrix = source.uniform(-1, 1, (500, 500)) / np.sqrt(500)
        plain, skipped = (np.linalg.svd(a, compute_uv=False) for a in (matrix, np.eye(500) + matrix))
        lifted.append(skipped.mean() / plain.mean())
    evidence(
        VALUES,
        "measured",
        "mean singular value of I + A / of A (500 x 500), least of 5",
        1.0,
        float(min(lifted)),
        sense="lower",
        figure=histogram(plain, skipped),
    )


def histogram(plain: np.ndarray, skipped: np.ndarray) -> Figure:
    """Singular values of a random matrix with and without the identity added."""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = panels(1, width=4.6, height=2.8)
        for number, (values, name) in enumerate(((plain, "A"), (skipped, "I + A"))):
            axis.hist(values, 40, color=COLOURS[number], alpha=0.5, label=f"${name}$")
        axis.set(xlabel="singular value", ylabel="count of 500")
        axis.legend()
    return figure
