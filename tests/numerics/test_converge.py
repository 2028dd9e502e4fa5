"""The whole class of certified networks descends below its envelopes; starts, factors, saved runs, and the command."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from numerics import cli
from numerics.convergence.descent import Descent
from numerics.convergence.factors import factors
from numerics.convergence.members import members
from numerics.convergence.problem import Problem, descend, judged, resume, save, state_file
from numerics.convergence.starts import adversarial, remaining, spread
from numerics.datasets import digits
from numerics.preparation import random_features, whitened
from theory.recursion import POSTERIORI, PROPORTIONAL, RULES

SPEC = "affine(12), repeat(2, residual(tanh, affine(12, weight_norm=frobenius, eps=1), scale(1/16))), crop(10)"
DATA = whitened(digits(8, 0), 3.0)
CPU = torch.device("cpu")
MEMBERS = members()

runner = CliRunner()


def problem(spec: str = SPEC, **options: object) -> Problem:
    return Problem.of(spec, DATA, CPU, **{"starts": 16, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("cost", ["cross-entropy", pytest.param("squared error", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_of_the_class_is_certified_and_descends_below_its_envelope(
    name: str, cost: str, tmp_path: Path
) -> None:
    given = problem(MEMBERS[name], cost=cost, starts=8)
    assert given.certificate.certified, given.certificate.failing
    assert given.certificate.linear_rate > 1e-4
    for rule in RULES if cost == "cross-entropy" else RULES[:2]:
        run, _ = descend(given, rule, 30, tmp_path)
        assert run.holds, (rule, run.first_violation)
        falling = (run.losses[1:] <= run.losses[:-1]) | (run.losses[:-1] <= 1e6 * given.objective.rounding)
        assert bool(falling.all())


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["cross-entropy", "squared error"])
@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_descends_from_256_starts_below_its_envelope(name: str, cost: str, tmp_path: Path) -> None:
    """32 digits, 32 of the starts found by search; least tangent kernels along the run are above the certified one."""
    given = Problem.of(MEMBERS[name], whitened(digits(32, 0), 3.0), CPU, cost=cost, starts=256)
    for rule in RULES if cost == "cross-entropy" else RULES[:1]:
        run, kernels = descend(given, rule, 40, tmp_path)
        assert run.holds, (rule, run.first_violation)
        assert not len(kernels.values) or float(kernels.values.min()) >= given.recursion.lambda_min


@pytest.mark.parametrize("name", ["weights normalised as a whole", "batch norm", "convolutions"])
def test_some_members_descend_under_squared_error(name: str, tmp_path: Path) -> None:
    given = problem(MEMBERS[name], cost="squared error", starts=4)
    run, _ = descend(given, "proportional", 20, tmp_path)
    assert given.certificate.certified
    assert run.holds


def test_more_samples_than_features_go_through_random_features(tmp_path: Path) -> None:
    """Digits with N = 256 in 64 dimensions: 512 fixed random features, whitened; sigma_N is enclosed from the exact entries."""
    data = whitened(random_features(digits(256, 0), 512, 0), 6.0)
    given = Problem.of(SPEC, data, CPU, starts=4)
    assert given.certificate.certified
    assert data.singular_value_enclosure[0] > 5.999
    run, _ = descend(given, POSTERIORI, 60, tmp_path)
    assert run.holds
    small = run.losses[:, 0]
    assert float(small[-1]) < 0.05 * float(small[0])
    with pytest.raises(ValueError, match="full column rank"):
        whitened(digits(256, 0), 1.0)


# Starts.


def test_starts_have_all_kinds_and_norms_from_a_thousandth_to_a_thousand() -> None:
    realisation = problem().objective.realisation
    theta, labels = spread(realisation, 64, 3)
    norms = theta.norm(dim=1)
    assert theta.shape == (64, realisation.size)
    assert float(norms.min()) == pytest.approx(1e-3)
    assert float(norms.max()) == pytest.approx(1e3)
    assert {label.split(",")[0] for label in labels} == {"gaussian", "orthogonal", "low_rank", "spiked"}
    again, _ = spread(realisation, 64, 3)
    assert torch.equal(theta, again)
    assert len(spread(realisation, 3, 0)[1]) == 3
    with pytest.raises(ValueError, match="0 starts"):
        spread(realisation, 0, 0)


def test_adversarial_starts_keep_more_of_their_loss_at_the_same_norm() -> None:
    given = problem()
    theta, _ = spread(given.objective.realisation, 12, 0)
    theta = theta[4:]
    recursion = given.certificate.required()
    found = adversarial(given.objective, recursion, theta, PROPORTIONAL, steps=15)
    torch.testing.assert_close(found.norm(dim=1), theta.norm(dim=1), rtol=1e-9, atol=0)
    before, after = (
        remaining(given.objective, recursion, t.clone().requires_grad_(True), PROPORTIONAL).detach()
        for t in (theta, found)
    )
    assert bool((after >= before * (1 - 1e-9)).all())
    assert float((after / before).max()) > 1.1


def test_what_remains_is_what_descent_leaves() -> None:
    given = problem()
    theta, _ = spread(given.objective.realisation, 8, 0)
    recursion = given.certificate.required()
    for rule in RULES:
        part = remaining(given.objective, recursion, theta.clone().requires_grad_(True), rule, ahead=3).detach()
        run = Descent(given.objective, recursion, theta, rule)
        run.run(3)
        losses = run.trajectory().losses
        torch.testing.assert_close(part, losses[-1] / losses[0], rtol=1e-10, atol=0)


# Factors.


@pytest.mark.parametrize("rule", RULES)
def test_the_factors_multiply_to_the_observed_over_the_certified_decrease(rule: str) -> None:
    given = problem()
    theta, _ = spread(given.objective.realisation, 4, 0)
    theta, recursion = theta[:1], given.certificate.required()
    start = given.objective(theta).detach()
    whole, *parts, longer = factors(given.objective, recursion, theta, rule, start)
    assert math.prod(p.middle for p in parts) == pytest.approx(whole.middle, rel=1e-9)
    step, curvature, direction, kernel, residual = parts
    assert curvature.low >= 1 - 1e-9  # at least the proven decrease
    assert curvature.high <= 2.5
    for factor in (direction, kernel, residual):
        assert factor.low >= 1 - 1e-9
    if rule == POSTERIORI:
        assert step.low >= 1 - 1e-9
    assert longer.low >= 1 - 1e-9


# Saved runs.


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    given = problem()
    whole, kernels = descend(given, POSTERIORI, 90, tmp_path / "whole")
    descend(given, POSTERIORI, 40, tmp_path / "pieces")
    pieces, again = descend(given, POSTERIORI, 90, tmp_path / "pieces")
    assert torch.equal(whole.losses, pieces.losses)
    assert torch.equal(whole.theta, pieces.theta)
    assert whole.labels == pieces.labels
    # the kernels at the beginning and after 25 and 50 steps; a piece that ends between two of them loses none
    assert kernels.steps.tolist() == [0, 25, 50]
    assert float(kernels.values.min()) >= given.recursion.lambda_min
    assert torch.equal(again.values[:2], kernels.values[:2])
    # a shorter run is the beginning of the longer one
    assert torch.equal(descend(given, POSTERIORI, 10, tmp_path / "pieces")[0].losses, whole.losses[:11])


def test_an_interrupted_run_is_saved_whole(tmp_path: Path) -> None:
    given = problem()

    def stop(taken: int) -> None:
        if taken >= 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        descend(given, PROPORTIONAL, 200, tmp_path, progress=stop)
    found = resume(tmp_path, given, PROPORTIONAL)
    assert found is not None
    assert found[0].taken == 50
    expected, _ = descend(given, PROPORTIONAL, 80, tmp_path / "other")
    assert torch.equal(descend(given, PROPORTIONAL, 80, tmp_path)[0].losses, expected.losses)


def test_the_run_of_another_problem_is_not_continued(tmp_path: Path) -> None:
    given = problem()
    descend(given, PROPORTIONAL, 5, tmp_path)
    other = Problem.of(SPEC, DATA, CPU, starts=8)
    with pytest.raises(ValueError, match="holds a run with starts = 16, not 8"):
        descend(other, PROPORTIONAL, 5, tmp_path)
    assert descend(other, PROPORTIONAL, 5, tmp_path, fresh=True)[0].losses.shape == (6, 8)


@pytest.mark.parametrize("content", [b"", b"nonsense", safetensors.torch.save({"theta": torch.zeros(1)})])
def test_a_file_that_is_no_state_is_named(content: bytes, tmp_path: Path) -> None:
    state_file(tmp_path, PROPORTIONAL).write_bytes(content)
    with pytest.raises(ValueError, match=r"state-proportional\.safetensors is not a saved run"):
        descend(problem(), PROPORTIONAL, 5, tmp_path)


def test_a_violation_is_counted(tmp_path: Path) -> None:
    given = problem()
    run, kernels = descend(given, PROPORTIONAL, 30, tmp_path)
    outcome = judged(given, run, kernels, 0.0)
    assert outcome.row.holds
    false = replace(given.certificate.required(), domination=30 * given.certificate.required().domination)
    theta, labels = given.starts(PROPORTIONAL)
    wrong = Descent(given.objective, false, theta, PROPORTIONAL)
    wrong.run(30)
    save(tmp_path / "false", given, wrong, labels)
    bad = judged(given, wrong.trajectory(labels), kernels, 0.0)
    assert not bad.row.holds
    assert bad.row.tightness > 1
    assert bad.row.witness["first violation"] is not None
    low = replace(kernels, values=kernels.values * 0 + 0.9 * given.recursion.lambda_min)
    assert judged(given, run, low, 0.0).row.witness["steps with a kernel below lambda"] == [0, 25]
    assert not judged(given, run, low, 0.0).row.holds


def test_a_network_outside_the_class_descends_with_its_own_proof(tmp_path: Path) -> None:
    """A chain: no envelope beforehand (lambda may be 0), but bounded derivatives, so the run itself proves where its loss is."""
    spec = "affine(12), tanh, affine(12, weight_norm=frobenius, eps=1), scale(6), crop(10)"
    given = problem(spec)
    assert not given.certificate.certified
    assert given.recursion.domination == 0
    run, kernels = descend(given, POSTERIORI, 150, tmp_path)
    assert run.holds
    torch.testing.assert_close(run.envelope, run.losses[:1].expand_as(run.envelope), rtol=1e-12, atol=0)
    # the kernels that are measured are what the theorem could not promise
    assert float(kernels.values.min()) > 0
    assert float((run.proven[-1] / run.losses[0]).min()) < 0.9
    assert bool((run.losses <= run.proven * (1 + 1e-9)).all())
    arguments = ["converge", spec, "--samples", "8", "--starts", "4", "--steps", "30", "--out", str(tmp_path / "out")]
    assert "--rule posteriori descends with the run's own proof" in runner.invoke(cli.app, arguments).stderr
    assert runner.invoke(cli.app, [*arguments, "--rule", "posteriori"]).exit_code == 0


# The command.


def test_the_command_writes_everything_and_says_so(tmp_path: Path) -> None:
    arguments = [
        "converge",
        SPEC,
        "--samples",
        "8",
        "--starts",
        "8",
        "--steps",
        "40",
        "--batches",
        "2",
        "--out",
        str(tmp_path),
    ]
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    for text in ("Certificate: certified", "0 violations", "no factor e^{s G^2}", "observed", "lambda_min(DF DF^T)"):
        assert text in result.output
    found = json.loads((tmp_path / "results.json").read_text())
    assert {row["architecture"] for row in found["rows"]} == {*RULES, "passes"}
    assert all(row["holds"] for row in found["rows"])
    meta = found["meta"]
    assert meta["status"] == "complete"
    assert meta["violations"] == 0
    assert meta["certificate"]["linear_rate"] > 0
    assert len(meta["sharpenings"]) == 8
    assert all(row["measured, least"] >= row["certified lambda"] for row in meta["kernels"])
    assert {"converge.png", "converge.pdf", "tables.tex", "results.json"} <= {p.name for p in tmp_path.iterdir()}
    # the same command again finds all of it done
    again = runner.invoke(cli.app, arguments)
    assert again.exit_code == 0
    assert json.loads((tmp_path / "results.json").read_text())["meta"]["rates"] == meta["rates"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["affine(12), tanh, crop(10)"], "is not certified: FAILS: layer 2, tanh"),
        (
            ["affine(12), repeat(L, residual(tanh, affine(12, weight_norm=row), scale(1/8))), crop(10)"],
            "depth L is symbolic; write numbers",
        ),
        (
            ["affine(12), residual(tanh, affine(12, weight_norm=row), scale(1/8)), crop(10)"],
            "has no value for eps; write numbers",
        ),
        ([SPEC, "--rule", "fast"], "--rule fast: use fixed, proportional, posteriori"),
        ([SPEC, "--cost", "hinge"], "--cost hinge: use cross-entropy or squared-error"),
        ([SPEC, "--data", "mnist"], "--data mnist: unknown data"),
        ([SPEC, "--samples", "80"], "--features 160 maps them by fixed random features"),
        ([SPEC, "--whiten", "-1"], "--whiten -1.0: give the scale"),
        ([SPEC, "--samples", "8", "--batches", "3"], "8 samples do not split into 3 equal batches"),
        ([SPEC, "--samples", "8", "--cost", "squared-error", "--batches", "2"], "cross-entropy, not for squared error"),
        ([SPEC.replace("crop(10)", "crop(4)")], "has 4 outputs for 10 classes: end it with crop(10)"),
    ],
    ids=str,
)
def test_bad_input_ends_in_one_line(arguments: list[str], text: str, tmp_path: Path) -> None:
    result = runner.invoke(
        cli.app, ["converge", *arguments, "--starts", "4", "--steps", "2", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("depthbound: error: ")]
    assert len(lines) == 1
    assert text in lines[0]


def test_a_command_that_is_killed_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    """An interrupt in the middle, then the same command: the losses are those of a run that nobody stopped."""
    arguments = [
        sys.executable,
        "-m",
        "numerics.cli",
        "converge",
        SPEC,
        "--samples",
        "8",
        "--starts",
        "16",
        "--rule",
        "proportional",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    stopped = subprocess.Popen(
        [*arguments, "--steps", "100000", "--out", str(tmp_path / "a")],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    for _ in range(1200):
        if stopped.poll() is not None or state_file(tmp_path / "a", PROPORTIONAL).exists():
            break
        time.sleep(0.05)
    time.sleep(0.3)  # some steps
    stopped.send_signal(signal.SIGINT)
    _, errors = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, errors
    with safetensors.safe_open(str(state_file(tmp_path / "a", PROPORTIONAL)), "pt") as file:  # type: ignore[no-untyped-call]
        taken = len(file.get_tensor("losses"))
    steps = taken + 10
    for folder in ("a", "b"):
        again = [*arguments[3:], "--steps", str(steps), "--out", str(tmp_path / folder)]
        assert runner.invoke(cli.app, again).exit_code == 0
    first, second = (safetensors.torch.load_file(state_file(tmp_path / folder, PROPORTIONAL)) for folder in ("a", "b"))
    assert torch.equal(first["losses"], second["losses"])
    assert torch.equal(first["theta"], second["theta"])
