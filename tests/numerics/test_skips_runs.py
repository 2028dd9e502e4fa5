"""Trials of the skip study: shared starts, exact resume, verdicts that can go either way, the command and its refusals."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from numerics import cli
from numerics.executors import executor
from numerics.skips import runs
from numerics.skips.protocols import PROTOCOLS, Protocol
from numerics.skips.runs import Result, Task, fixed_batch, images_of, run, saved
from numerics.skips.study import Plan, foresee
from numerics.skips.verdict import differences, summary, together

DIGITS = replace(PROTOCOLS["digits"], steps=3, trials=3)
EPOCHS = Protocol("small", "digits", depth=18, image=(3, 32, 32), batch=8, epochs=3, learning_rates=(0.1,), every=2, factor=0.5, augmented=True, trials=3, width=2)  # fmt: skip

runner = CliRunner()


def task(
    tmp_path: Path, protocol: Protocol = DIGITS, variant: str = "changed", trial: int = 0, **options: object
) -> Task:
    return replace(Task(protocol, variant, 0.1, trial, 0, None, str(tmp_path)), **options)  # type: ignore[arg-type]


# Protocols and data.


def test_the_published_protocols_are_there() -> None:
    toy, cifar, imagenet = PROTOCOLS["toy"], PROTOCOLS["cifar10"], PROTOCOLS["imagenet"]
    assert (toy.batch, toy.steps, toy.trials, toy.learning_rates) == (32, 30, 10, (0.1,))
    assert toy.variants == ("chain", "projection", "changed")
    assert (cifar.batch, cifar.epochs, cifar.learning_rates, cifar.every, cifar.factor) == (
        128,
        90,
        (0.2, 0.1, 0.05, 0.02),
        30,
        0.2,
    )
    assert (cifar.momentum, cifar.weight_decay) == (0.0, 0.0)
    assert cifar.variants == ("projection", "changed")
    assert PROTOCOLS["cifar100"].learning_rates == cifar.learning_rates
    assert (imagenet.depth, imagenet.batch, imagenet.momentum, imagenet.weight_decay) == (50, 256, 0.9, 1e-4)


def test_all_variants_of_a_trial_share_images_and_initial_state_and_trials_do_not(tmp_path: Path) -> None:
    train, _ = images_of(task(tmp_path))
    one, other = (fixed_batch(task(tmp_path, variant=v), train)[0] for v in ("chain", "changed"))
    assert torch.equal(one, other)
    assert not torch.equal(one, fixed_batch(task(tmp_path, trial=1), train)[0])
    states = [dict(runs._module(task(tmp_path, variant=v), 10).named_parameters()) for v in DIGITS.variants]
    shared = set(states[0]) & set(states[2])
    assert len(shared) > 10
    assert all(torch.equal(states[0][name], states[2][name]) for name in shared)
    assert set(states[1]) == set(states[2])  # the changed shortcut adds no parameter
    again = dict(runs._module(task(tmp_path, trial=1), 10).named_parameters())
    assert not torch.equal(states[2]["conv.weight"], again["conv.weight"])


# Runs.


def test_a_run_is_gradient_descent_on_the_fixed_batch(tmp_path: Path) -> None:
    found = run(task(tmp_path))
    assert found.losses.shape == (4,)
    assert found.spectra.shape == (4, 320)
    assert math.isnan(found.accuracy)
    # two steps by hand, without any measurement in between
    module = runs._module(task(tmp_path), 10)
    images, labels = fixed_batch(task(tmp_path), images_of(task(tmp_path))[0])
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(module(images), labels)
        losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter.sub_(0.1 * gradient)
    assert found.losses[:3].tolist() == pytest.approx(losses, rel=1e-12)
    without = run(task(tmp_path / "other", spectra=False))
    assert torch.equal(without.losses, found.losses)
    assert without.spectra.numel() == 0


def test_the_measured_spectrum_is_that_of_the_dense_jacobian(tmp_path: Path) -> None:
    found = run(replace(task(tmp_path), protocol=replace(DIGITS, steps=1)))
    module = runs._module(task(tmp_path), 10)
    images, _ = fixed_batch(task(tmp_path), images_of(task(tmp_path))[0])
    with torch.no_grad():
        inputs = module.part(images, 0, 1)
    jacobian = torch.autograd.functional.jacobian(lambda x: module.part(x, 1), inputs, vectorize=True)
    dense = torch.linalg.svdvals(jacobian.reshape(320, -1))
    torch.testing.assert_close(found.spectra[0], dense, rtol=0, atol=1e-8 * float(dense[0]))


def test_a_finished_trial_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(task(tmp_path))
    monkeypatch.setattr(runs, "_descend", lambda *_: pytest.fail("ran again"))
    second = run(task(tmp_path))
    assert torch.equal(first.losses, second.losses)
    assert torch.equal(first.spectra, second.spectra)
    with pytest.raises(ValueError, match="is of another run \\(seed is 0, not 5\\)"):
        saved(task(tmp_path, seed=5))
    task(tmp_path).file.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="is not the result of a trial"):
        run(task(tmp_path))


class Killed(Exception):
    pass


@pytest.mark.parametrize("spectra", [False, True])
def test_epochs_resume_from_a_checkpoint_to_the_same_numbers(
    spectra: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second epoch, inside the run: the checkpoint of the first is all that is left."""
    small = digits_cut(monkeypatch)
    given = replace(task(tmp_path / "whole", small, precision="single"), spectra=spectra)
    whole = run(given)
    killed = replace(given, out=str(tmp_path / "killed"))
    epochs = runs._epoch

    def dying(task, module, optimiser, train, normalise, epoch):
        if epoch == 1:
            epochs(task, module, optimiser, train, normalise, epoch)
            raise Killed
        return epochs(task, module, optimiser, train, normalise, epoch)

    monkeypatch.setattr(runs, "_epoch", dying)
    with pytest.raises(Killed):
        run(killed)
    assert killed.checkpoint.is_file()
    monkeypatch.setattr(runs, "_epoch", epochs)
    seen: list[int] = []
    resumed = run(killed, lambda done, total: seen.append(done))
    assert seen == [2, 3]
    assert torch.equal(whole.losses, resumed.losses)
    assert torch.equal(whole.spectra, resumed.spectra)
    assert whole.accuracy == resumed.accuracy
    assert not killed.checkpoint.exists()
    assert whole.losses.shape == (3,)
    assert 0 <= whole.accuracy <= 1


def test_a_checkpoint_of_another_run_or_no_checkpoint_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = task(tmp_path, digits_cut(monkeypatch), spectra=False)
    given.checkpoint.parent.mkdir(parents=True)
    torch.save({"settings": json.dumps({**given.settings, "seed": 5})}, given.checkpoint)
    with pytest.raises(ValueError, match="checkpoint is of another run \\(seed is 5, not 0\\)"):
        run(given)
    given.checkpoint.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="checkpoint is not the checkpoint of a trial"):
        run(given)
    assert given.checkpoint.read_bytes() == b"nonsense"  # nothing written is lost


def test_mixed_precision_trains_to_nearly_the_losses_of_single(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(digits_cut(monkeypatch), epochs=1)
    single, mixed = (run(task(tmp_path / p, small, precision=p, spectra=False)) for p in ("single", "mixed"))
    # bfloat16 keeps 8 binary digits: a relative 2^-8 an operation, a few per cent over the network's 18 layers
    assert mixed.losses.tolist() == pytest.approx(single.losses.tolist(), rel=0.1)
    assert mixed.losses.tolist() != single.losses.tolist()


def test_trials_on_a_dask_cluster_give_the_same_numbers(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason='the extra "dask" is not installed')
    protocol = replace(DIGITS, steps=1, trials=1)
    here = run(task(tmp_path / "here", protocol))
    away = task(tmp_path / "away", protocol)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        executor(cluster.scheduler_address) as pool,
    ):
        found = pool.submit(run, away).result()
    assert torch.equal(found.losses, here.losses)
    assert torch.equal(found.spectra, here.spectra)
    assert away.file.is_file()


def digits_cut(monkeypatch: pytest.MonkeyPatch) -> Protocol:
    """The epochs' protocol on 40 training and 16 test images."""
    both = runs.images_of

    def few(task: Task):
        train, test = both(task)
        return train.subset(range(40)), test.subset(range(16))

    monkeypatch.setattr(runs, "images_of", few)
    return EPOCHS


# Verdicts.


def results(
    tmp_path: Path, spectra: dict[str, float], losses: dict[str, float], noise: float = 0.02
) -> dict[str, list[Result]]:
    """Ten made-up trials: levels by variant, a shift that a trial's variants share, and small noise."""
    source = np.random.default_rng(1)
    shift = source.normal(0, 1, 10)
    table: dict[str, list[Result]] = {}
    for variant in spectra:
        for trial in range(10):
            level, loss = (math.exp(v[variant] + shift[trial] + source.normal(0, noise)) for v in (spectra, losses))
            made = Result(
                task(tmp_path, variant=variant, trial=trial),
                torch.full((4,), loss),
                torch.full((4, 5), level),
                math.nan,
            )
            table.setdefault(variant, []).append(made)
    return table


def test_verdicts_follow_the_paired_differences_in_both_directions(tmp_path: Path) -> None:
    up = results(tmp_path, {"chain": 0.0, "changed": 0.3}, {"chain": 0.0, "changed": -0.3})
    found = {d.question: d for d in differences(up, 0.1)}
    assert (found["singular values"].first, found["singular values"].second) == ("changed", "chain")
    assert found["singular values"].says == "larger"
    assert found["loss"].says == "faster"
    assert found["singular values"].interval.mean == pytest.approx(0.3, abs=0.05)
    down = results(tmp_path, {"chain": 0.0, "changed": -0.3}, {"chain": 0.0, "changed": 0.3})
    assert {d.says for d in differences(down, 0.1)} == {"smaller", "slower", "higher"}
    equal = results(tmp_path, {"chain": 0.0, "changed": 0.0}, {"chain": 0.0, "changed": 0.0}, noise=0.3)
    assert {d.says for d in differences(equal, 0.1)} == {"undecided"}


def test_correlation_over_pairs_and_trials_has_a_sign(tmp_path: Path) -> None:
    levels = {"chain": 0.0, "projection": 0.5, "changed": 1.0}
    falling = {name: -value for name, value in levels.items()}
    assert {t.says for t in together(results(tmp_path, levels, falling), 0.1)} == {"together"}
    assert {t.says for t in together(results(tmp_path, levels, levels), 0.1)} == {"against"}
    (pearson, spearman) = together(results(tmp_path, levels, falling), 0.1)
    assert (pearson.kind, spearman.kind) == ("Pearson", "Spearman")
    assert pearson.value < -0.9
    assert pearson.low <= pearson.value <= pearson.high


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    table = results(tmp_path, {"chain": 0.0, "changed": 0.3}, {"chain": 0.0, "changed": -0.3})
    bare = {v: [replace(r, spectra=torch.zeros(0, 0)) for r in rs] for v, rs in table.items()}
    assert {d.question for d in differences(bare, 0.1)} == {"loss", "last loss"}
    assert together(bare, 0.1) == []
    assert math.isnan(summary(bare["chain"][0])["singular values"])
    with pytest.raises(ValueError, match="different trials"):
        differences({"chain": table["chain"], "changed": table["changed"][1:]}, 0.1)


def test_a_diverged_trial_is_left_out_and_counted(tmp_path: Path) -> None:
    table = results(tmp_path, {"chain": 0.0, "changed": 0.3}, {"chain": 0.0, "changed": -0.3})
    lost = table["chain"][4]
    table["chain"][4] = replace(lost, losses=lost.losses * math.nan)
    found = {d.question: d for d in differences(table, 0.1)}
    assert found["loss"].interval.trials == 9
    assert found["singular values"].interval.trials == 10


# The command.


@pytest.mark.parametrize("spectra", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_command_predicts_runs_and_judges(tmp_path: Path, spectra: bool) -> None:
    arguments = ["skips", "--trials", "3", "--steps", "1", "--executor", "local:1", "--out", str(tmp_path)]
    arguments += [] if spectra else ["--no-spectra"]
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert ("singular values" in result.output) or not spectra
    assert "3 paired trials of chain, projection, changed" in result.output
    assert "Bounds of the blocks' singular values" in result.output
    names = {p.name for p in tmp_path.iterdir()}
    assert {
        "prediction.json",
        "metrics.csv",
        "results.json",
        "tables.tex",
        "losses.png",
        "identity_plus.png",
    } <= names
    assert ("singular_values.pdf" in names) is spectra
    metrics = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(metrics) == 1 + 3 * 3 * 2
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["verdicts"]) == (9 if spectra else 6)
    assert {row["predicted"] for row in found["predicted"]} <= {"faster", "slower", "larger", "smaller", "undecided"}
    # again: nothing is run, the numbers are the same
    assert runner.invoke(cli.app, arguments).exit_code == 0
    assert json.loads((tmp_path / "results.json").read_text()) == found
    # results without the prediction that came before them are refused
    (tmp_path / "prediction.json").unlink()
    refused = runner.invoke(cli.app, arguments)
    assert refused.exit_code == 2
    assert "a prediction comes first" in refused.stderr


def test_the_prediction_comes_before_the_first_trial(tmp_path: Path) -> None:
    plan = Plan(DIGITS, 0, None, tmp_path)
    found = foresee(plan)
    assert (tmp_path / "prediction.json").is_file()
    assert not (tmp_path / "trials").exists()
    assert {p.quantity for p in found.pairs} == {"decrease", "regularity", "singular_values"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--protocol", "mnist"], "--protocol mnist: use toy, digits, cifar10, cifar100, imagenet"),
        (["--protocol", "toy"], "name their folder with --data, or use --protocol digits"),
        (["--protocol", "cifar10", "--data", "nowhere"], "nowhere"),
        (["--lr", "-1"], "give positive numbers"),
        (["--precision", "half"], "--precision half: use double, single, mixed"),
        (["--executor", "cluster"], "use local, local:N, or the address"),
        (["--device", "gpu"], "unknown device"),
    ],
)
def test_bad_input_ends_in_one_line(arguments: list[str], text: str, tmp_path: Path) -> None:
    result = runner.invoke(
        cli.app, ["skips", *arguments, "--steps", "1", "--trials", "3", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("depthbound: error: ")]
    assert len(lines) == 1
    assert text in lines[0]


def test_the_toy_protocol_reads_mnist_files(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    for name, count in (("train", 40), ("t10k", 8)):
        pixels = source.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes()
        )
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())
    protocol = replace(PROTOCOLS["toy"], steps=1)
    found = run(Task(protocol, "chain", 0.1, 0, 0, str(tmp_path), str(tmp_path / "out")))
    assert found.losses.shape == (2,)
    assert bool(found.losses.isfinite().all())
