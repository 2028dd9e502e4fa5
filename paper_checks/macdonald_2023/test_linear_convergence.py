"""MacDonald et al. (NeurIPS 2023, arXiv 2210.05371): gradient descent to an optimum that exists only at infinity, and how fast.

What the source states: (abstract, read) a class of deep networks with normalised weights and skip connections is trained by gradient descent to
global optima even where these exist only at infinity; (recalled, not certain) a convergence theorem with step-dependent smoothness and PL
constants, `ell_{t+1} - inf <= (1 - mu_t eta_t (2 - beta_t eta_t)) (ell_t - inf)`. The text was not at hand: the statements checked here are this project's
Theorems 1 and 2 (`theory.convergence`), of that kind.

What is stronger here, said plainly: explicit constants, from every start in parameter space; a linear rate, by a step that follows the loss
(with the fixed step the order is 1/t, and that is attained); no growth factor `e^{s G^2}`, as a step stays in its sublevel set; curvature as a function
of the loss; a rate from the samples' residuals; the limit of the rate at branch scale `c/L` in closed form, without the width; squared error and
full passes over mini-batches by the same recursion. What is not claimed: that the paper's constants are these, or worse.
"""

import math

import matplotlib
import pytest
import sympy
import torch
from matplotlib.figure import Figure

from numerics.convergence.descent import Descent, envelope
from numerics.convergence.problem import Problem, descend
from numerics.convergence.starts import AHEAD, adversarial, remaining, spread
from numerics.datasets import data_values, digits
from numerics.plots import COLOURS, STYLE, panels
from numerics.preparation import whitened
from theory import symbols
from theory.convergence import certify, rate_bounds
from theory.landscape import landscape
from theory.limits import depth_limit
from theory.passes import certify_passes
from theory.recursion import FIXED, POSTERIORI, PROPORTIONAL
from theory.sharpening import stages
from theory.spec import parse

BLOCK = "residual(tanh, affine({width}, weight_norm=frobenius, eps=1), scale({scale}))"
DATA = whitened(digits(32, 0), 3.0)
CPU = torch.device("cpu")
OPTIMA, RATE = "global-optima", "linear-rate"


def spec(depth: int) -> str:
    return f"affine(12), repeat({depth}, {BLOCK.format(width=12, scale=f'1/{8 * depth}')}), crop(10)"


def problem(depth: int = 4, starts: int = 32) -> Problem:
    return Problem.of(spec(depth), DATA, CPU, starts=starts)


def test_the_rates_are_derived_with_every_link_of_their_proofs(evidence) -> None:
    text = f"affine(m), repeat(L, {BLOCK.format(width='m', scale='c/L')}), crop(K)"
    fixed, proportional = rate_bounds(landscape(parse(text), symbols.d))
    fixed.verify()
    proportional.verify()
    limit = depth_limit(proportional, symbols.L)
    assert limit is not None
    assert symbols.m not in limit.free_symbols
    evidence(
        RATE,
        "derived",
        "part of the loss removed by a loss-proportional step, limit in the depth",
        sympy.simplify(limit),
    )
    evidence(OPTIMA, "derived", "limsup t ell_t at branch scale c/L, limit in the depth", depth_limit(fixed, symbols.L))


def converged(given: Problem, lengths: dict[str, int], folder, evidence) -> None:
    """Descend by every rule, so many steps each: under its envelope, linearly where that is certified, as `1/t` with the fixed step."""
    assert given.certificate.certified
    starts = given.settings.starts
    runs = {rule: descend(given, rule, steps, folder)[0] for rule, steps in lengths.items()}
    for rule, run in runs.items():
        assert run.holds, (rule, run.first_violation)
        evidence(
            OPTIMA if rule == FIXED else RATE,
            "measured",
            f"loss / envelope, {rule} step, {starts} starts",
            1.0,
            run.tightness,
        )
    evidence(
        RATE,
        "measured",
        f"largest loss after {lengths[PROPORTIONAL]} proportional steps",
        1e-10,
        float(runs[PROPORTIONAL].losses[-1].max()),
        figure=curves(runs),
    )
    # the order of the fixed step is 1/t, and that is attained: t * loss does not vanish
    last = lengths[FIXED]
    product = last * float(runs[FIXED].losses[-1].min())
    evidence(OPTIMA, "measured", f"t * loss after {last} fixed steps, least of the starts", 0.2, product, sense="lower")
    for rule, certified in (
        (PROPORTIONAL, given.certificate.linear_rate),
        (POSTERIORI, given.certificate.measured_rate),
    ):
        losses, steps = runs[rule].losses, lengths[rule]
        observed = 1 - (losses[-1] / losses[steps // 2]) ** (1 / (steps - steps // 2))
        evidence(
            RATE,
            "measured",
            f"part of the loss removed a step, {rule}",
            certified,
            float(observed.min()),
            sense="lower",
        )


def curves(runs) -> Figure:
    """Largest loss over the starts against the steps, by rule, in its envelope."""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = panels(1, width=4.6, height=3.0)
        for number, (rule, run) in enumerate(runs.items()):
            worst = int(run.losses[-1].argmax())
            axis.plot(run.losses[:, worst], color=COLOURS[number], label=f"{rule} step")
            axis.plot(run.envelope[:, worst], color=COLOURS[number], linestyle=":")
        axis.set(
            xlabel="step", ylabel="loss (dotted: certified envelope)", xscale="log", yscale="log", ylim=(1e-16, None)
        )
        axis.legend()
    return figure


def test_the_loss_falls_below_1e_10_with_the_proportional_step_and_not_with_the_fixed_one(evidence, tmp_path) -> None:
    # two blocks: the rates do not depend on the depth, and each step costs half
    converged(problem(2, 16), {FIXED: 600, PROPORTIONAL: 2000, POSTERIORI: 400}, tmp_path, evidence)


@pytest.mark.slow
def test_the_same_from_256_starts(evidence, tmp_path) -> None:
    converged(problem(4, 256), dict.fromkeys((FIXED, PROPORTIONAL, POSTERIORI), 2000), tmp_path, evidence)


def test_no_start_is_found_that_breaks_the_envelope(evidence) -> None:
    given = problem(starts=8)
    recursion = given.certificate.required()
    theta, _ = spread(given.objective.realisation, 24, 1)
    for rule in (FIXED, PROPORTIONAL, POSTERIORI):
        found = adversarial(given.objective, recursion, theta, rule, steps=25)
        start = given.objective(found).detach()
        after = remaining(given.objective, recursion, found.clone().requires_grad_(True), rule).detach()
        bound = envelope(recursion, start, AHEAD, rule)[-1] / start
        evidence(
            OPTIMA if rule == FIXED else RATE,
            "searched",
            f"loss after {AHEAD} steps / envelope, {rule} step, worst start found",
            1.0,
            float((after / bound).max()),
        )


def test_a_rate_four_times_as_good_is_false(evidence) -> None:
    """What adversarial starts reach lies between the certified rate and four times it: the certificate is not far from the truth."""
    given = problem(starts=8)
    recursion = given.certificate.required()
    theta, _ = spread(given.objective.realisation, 16, 1)
    found = adversarial(given.objective, recursion, theta, PROPORTIONAL, steps=10)
    run = Descent(given.objective, recursion, found, PROPORTIONAL)
    run.run(400)
    losses = run.trajectory().losses
    parts = 1 - (losses[-1] / losses[200]) ** (1 / 200)
    least, certified = float(parts.min()), given.certificate.linear_rate
    evidence(RATE, "searched", "part of the loss removed a step, worst start found", certified, least, sense="lower")
    evidence(RATE, "searched", "four times the certified part is not reached from there", 4 * certified, least)


def test_the_certified_rate_is_independent_of_depth(evidence) -> None:
    rates = {}
    for depth in (2, 4, 8, 16, 32, 64):
        found = certify(landscape(parse(spec(depth)), DATA.features, DATA.samples), data_values(DATA))  # type: ignore[arg-type]
        rates[depth] = found.linear_rate
        evidence(RATE, "derived", f"certified part a step at depth {depth}", found.linear_rate)
    assert max(rates.values()) <= 1.1 * min(rates.values())


def test_what_the_sharpenings_gain(evidence) -> None:
    given = problem()
    found = stages(given.landscape, given.values, given.certificate, start=math.log(10))
    for stage in found[:-1]:
        evidence(RATE, "derived", f"certified steps from log 10 to 1e-10: {stage.name}", stage.steps)
    first, last = found[0].steps, found[-1].steps
    assert first is not None
    assert last is not None
    assert first > 5 * last
    evidence(
        RATE,
        "derived",
        f"certified steps from log 10 to 1e-10: {found[-1].name}",
        first,
        last,
        finding="sharpened",
        note=f"The plain form of the theorem certifies {first:,} steps to a loss of 1e-10, ours {last:,}: above all by the curvature as a function of the loss.",
    )


def test_full_passes_over_mini_batches_converge_linearly_too(evidence) -> None:
    given = problem()
    passes = certify_passes(given.landscape, given.certificate)
    evidence(RATE, "derived", "part of the loss removed by a pass over mini-batches", passes.linear_rate)
    assert 0 < passes.linear_rate < given.certificate.linear_rate


@pytest.mark.parametrize(
    ("text", "failing"),
    [
        ("affine(12), tanh, affine(12, weight_norm=frobenius, eps=1), crop(10)", "least singular value s > 0"),
        ("affine(12), residual(tanh, affine(12), scale(1/4)), crop(10)", "kappa < least singular value s of the skip"),
        ("affine(12, weight_norm=frobenius, eps=1), crop(10)", "tangent kernel is positive definite"),
    ],
)
def test_what_normalisation_and_skips_are_for(text: str, failing: str, evidence) -> None:
    found = certify(landscape(parse(text), DATA.features, DATA.samples), data_values(DATA))  # type: ignore[arg-type]
    assert not found.certified
    assert any(failing in str(item) for item in found.failing)
    evidence(OPTIMA, "derived", f"{text} fails this hypothesis", found.failing[0].hypothesis.statement)
