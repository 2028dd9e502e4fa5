"""Certificates around given weights: they hold under attack, tend to the truth, and a false one falls."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from numerics import certify as certificates
from numerics.certification.attack import attack
from numerics.certification.local import Form, Walk, largest
from numerics.certify import certify, problem
from numerics.cli import app
from numerics.measure import param_jacobian_norm, tangent_kernel_lambda_min
from numerics.search import unit
from tests.numerics.modules import MODULES, built
from theory.network import expand
from theory.spec import parse

RADII = (1e-4, pytest.param(1e-2, marks=pytest.mark.slow), 0.3)
ROUNDING = 1e-9


def loss_of(name: str) -> str:
    return "squared_error" if name == "autoencoder" else "cross_entropy"


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("radius", RADII)
def test_no_weights_in_the_ball_exceed_the_certificate(name: str, radius: float) -> None:
    module, X, targets = built(name)
    certificate = certify(module, loss_of(name), None, (X, targets), radius=radius)
    assert certificate.status in ("certified", "smooth")
    given = problem(module, loss_of(name), None, (X, targets))
    tried = attack(certificate, given, random=4, restarts=4, steps=15)
    assert tried.networks == 9
    assert tried.holds, (tried.curvature, certificate.smoothness_constant)
    offsets = unit(torch.randn(4, given.realisation.size, dtype=torch.float64), 1) * radius
    theta = given.theta + offsets
    assert float(param_jacobian_norm(given.realisation, theta, given.X).value.max()) <= certificate.first_derivative
    if given.loss == "squared_error":
        kernel = float(tangent_kernel_lambda_min(given.realisation, theta, given.X).value.min())
        assert kernel >= certificate.tangent_kernel_ball * (1 - ROUNDING) - 1e-12


@pytest.mark.parametrize("name", MODULES)
def test_the_third_derivative_of_the_outputs_stays_below_the_cubic_form(name: str) -> None:
    module, X, targets = built(name)
    given = problem(module, loss_of(name), None, (X, targets))
    atoms, _ = expand(given.network, given.shape)
    state, _ = Walk(given.arrays, 1e-3)(atoms, given.X, given.shape)
    generator = torch.Generator().manual_seed(0)
    size = given.realisation.size
    direction = unit(torch.randn(8, size, generator=generator, dtype=torch.float64), 1)
    t = torch.zeros(8, 1, dtype=torch.float64, requires_grad=True)
    value = given.realisation(given.theta + t * direction, given.X).flatten(1)
    bounds = (largest(state.jet.first), largest(state.jet.second), largest(state.jet.third))
    for order, bound in enumerate(bounds, start=1):
        # derivative of every output along the line, by reverse mode of a random functional's two halves
        probe = torch.ones_like(value, requires_grad=True)
        (slope,) = torch.autograd.grad(value, t, probe, create_graph=True)
        (value,) = torch.autograd.grad(slope.sum(), probe, create_graph=True)
        assert float(value.detach().norm(dim=1).max()) <= bound * (1 + ROUNDING), order


@pytest.mark.parametrize("name", ["mlp", "batch norm", "pre-norm encoder"])
def test_at_radius_zero_the_certificate_is_the_truth(name: str) -> None:
    module, X, targets = built(name)
    at, near = (certify(module, loss_of(name), None, (X, targets), radius=r) for r in (0.0, 1e-7))
    assert at.route == near.route == "centre"
    assert at.smoothness_constant == pytest.approx(at.hessian_lambda_max, rel=1e-8)
    assert near.smoothness_constant == pytest.approx(at.hessian_lambda_max, rel=2e-3)


def test_the_published_goals_of_a_small_mlp() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10)
    ).double()
    data = torch.randn(16, 32, dtype=torch.float64), torch.randint(0, 10, (16,))
    for radius, goal in ((1e-4, 3), (1e-2, 100)):
        certificate = certify(model, "cross_entropy", None, data, radius=radius)
        assert 1 <= certificate.smoothness_constant / certificate.hessian_lambda_max < goal


def test_a_certificate_that_is_made_up_falls_under_attack() -> None:
    module, X, targets = built("mlp")
    given = problem(module, "cross_entropy", None, (X, targets))
    certificate = certify(module, "cross_entropy", None, (X, targets), radius=0.3)
    tried = attack(certificate, given, random=4, steps=30)
    assert tried.curvature > certificate.hessian_lambda_max * 1.05  # the search leaves the centre behind
    shrunk = replace(certificate, smoothness_constant=0.98 * tried.curvature)
    assert not attack(shrunk, given, random=4, steps=30).holds


def test_larger_balls_certify_less() -> None:
    module, X, targets = built("residual layer norm")
    found = [certify(module, "cross_entropy", None, (X, targets), radius=r) for r in (0.0, 1e-3, 1e-2, 1e-1)]
    constants = [c.smoothness_constant for c in found]
    kernels = [c.tangent_kernel_ball for c in found]
    assert constants == sorted(constants)
    assert kernels == sorted(kernels, reverse=True)


def test_relu_is_not_certified_and_the_layer_is_named() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    data = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    certificate = certify(module, "cross_entropy", None, data, radius=0.01)
    assert certificate.status == "not certified"
    assert "second derivative by the input of phi(z) = Piecewise" in certificate.reason
    assert certificate.step_size == 0
    assert math.isinf(certificate.smoothness_constant)
    assert math.isfinite(certificate.first_derivative)


def wide(width: int) -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 2)).double()
    for parameter in model[2].parameters():
        nn.init.zeros_(parameter)
    return model


WHITE = 8 * torch.eye(3, 8, dtype=torch.float64), torch.tensor([0, 1, 0])


def test_a_wide_network_is_certified_to_converge_and_does() -> None:
    model = wide(1024)
    certificate = certify(model, "squared_error", None, WHITE, radius=0.5)
    assert certificate.status == "certified", certificate.reason
    assert all(c.holds for c in certificate.hypotheses)
    assert certificate.rate is not None
    assert certificate.path_length < 0.5
    given = problem(model, "squared_error", None, WHITE)
    theta = given.theta.unsqueeze(0)
    for step in range(40):
        leaf = theta.clone().requires_grad_()
        loss = given.value(leaf)
        assert float(loss) <= certificate.loss_value * certificate.rate**step * (1 + ROUNDING) + 1e-25
        assert float((theta - given.theta).norm()) <= certificate.path_length
        theta = theta - certificate.step_size * torch.autograd.grad(loss.sum(), leaf)[0]
    assert float(loss) < 1e-6


@pytest.mark.parametrize(
    ("width", "radius", "failing"), [(16, 0.5, "tangent kernel"), (1024, 0.01, "path")], ids=["narrow", "small ball"]
)
def test_what_fails_is_named(width: int, radius: float, failing: str) -> None:
    certificate = certify(wide(width), "squared_error", None, WHITE, radius=radius)
    assert certificate.status == "smooth"
    assert certificate.reason.startswith(failing)
    assert next(c for c in certificate.hypotheses if not c.holds).name == failing


def test_cross_entropy_is_certified_to_its_target_where_the_network_is_wide_enough() -> None:
    model = wide(4096)
    generous = certify(model, "cross_entropy", None, WHITE, radius=0.5, target=0.4, measure=False)
    assert generous.status == "certified", generous.reason
    given = problem(model, "cross_entropy", None, WHITE)
    theta = given.theta.unsqueeze(0)
    steps = 0
    while float(given.value(theta)) > 0.4:
        # until the target is reached the iterates stay within the certified path
        assert float((theta - given.theta).norm()) <= generous.path_length
        leaf = theta.clone().requires_grad_()
        theta = theta - generous.step_size * torch.autograd.grad(given.value(leaf).sum(), leaf)[0]
        steps += 1
        assert steps <= generous.steps
    assert steps > 0


def test_a_description_is_certified_at_given_parameters() -> None:
    network = parse("affine(4, bias=true), residual(tanh, affine(4)), affine(3)")
    X, labels = torch.randn(5, 6, dtype=torch.float64), torch.arange(6) % 3
    with pytest.raises(ValueError, match="give a tensor of 52 numbers"):
        certify(network, "cross_entropy", None, (X, labels), radius=0.1)
    certificate = certify(network, "cross_entropy", 0.3 * torch.ones(52), (X, labels), radius=0.1)
    assert certificate.parameters == 52
    assert certificate.status == "smooth"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"radius": -1.0}, "radius = -1.0"),
        ({"radius": math.inf}, "radius = inf"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"labels": torch.tensor([0, 1, 7, 0])}, "labels range over 0 .. 7"),
        ({"labels": torch.zeros(4)}, "cross-entropy takes"),
        ({"X": torch.zeros(4, 6, dtype=torch.int64)}, "floating-point"),
    ],
)
def test_bad_input_is_refused_by_name(change: dict, words: str) -> None:
    module, X, labels = built("mlp")
    arguments = {"radius": 0.1, "loss": "cross_entropy", "X": X, "labels": labels, **change}
    with pytest.raises(ValueError, match=words):
        certify(module, arguments["loss"], None, (arguments["X"], arguments["labels"]), radius=arguments["radius"])


def test_targets_of_an_output_with_features_last_are_matched_to_it() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    X, targets = torch.randn(3, 6, 4, dtype=torch.float64), torch.randn(3, 6, 2, dtype=torch.float64)
    certificate = certify(module, "squared_error", None, (X, targets), radius=1e-3)
    assert certificate.loss_value == pytest.approx(float((module(X) - targets).square().sum() / (2 * len(X))))


def test_unknown_parameters_are_refused_by_name() -> None:
    module, X, labels = built("mlp")
    with pytest.raises(ValueError, match=r"unknown parameters nothing\.weight"):
        certify(module, "cross_entropy", {"nothing.weight": torch.zeros(1)}, (X, labels), radius=0.1)


def test_weights_that_are_not_finite_are_refused() -> None:
    module, X, labels = built("mlp")
    with torch.no_grad():
        module[0].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        certify(module, "cross_entropy", None, (X, labels), radius=0.1)


def test_the_largest_value_of_a_cubic_form_is_bounded_and_exact_for_one_index() -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = torch.rand(3, 3, 3, generator=generator, dtype=torch.float64).numpy()
    u = unit(torch.rand(500, 3, generator=generator, dtype=torch.float64), 1).numpy()
    values = [(tensor @ one @ one) @ one for one in u]
    assert max(values) <= largest(Form(tensor)) <= 1.1 * max(values)
    assert largest(Form(tensor[:1, :1, :1])) == pytest.approx(tensor[0, 0, 0])


def test_the_command_prints_json_and_a_table(tmp_path, monkeypatch) -> None:
    (tmp_path / "small_model.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["certify", "small_model:build", "--samples", "4", "--radius", "1e-3", "--attack", "2"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["model"] == "small_model:build"
    assert record["holds"] is True
    assert record["smoothness_constant"] >= record["found_curvature"]
    table = CliRunner().invoke(app, arguments)
    assert "largest certified step" in table.stdout
    assert "FAILS: path" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "write package.module:factory"),
        (["no_such_package:build"], "cannot import 'no_such_package'"),
        (["torch.nn:Nothing"], "has no 'Nothing'"),
        (["math:pi"], "gives float"),
        (["torch.nn:Tanh", "--data", "mnist"], "unknown data 'mnist'"),
        (["torch.nn:Tanh", "--shape", "3,3"], "a sample of digits has 64 numbers"),
    ],
)
def test_the_command_refuses_bad_input_in_one_line(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["certify", *arguments, "--radius", "0.1"])
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_lanczos_and_the_whole_hessian_agree(monkeypatch) -> None:
    module, X, targets = built("mlp")
    dense = certify(module, "cross_entropy", None, (X, targets), radius=1e-3)
    monkeypatch.setattr(certificates, "DENSE_HESSIAN", 1)
    lanczos = certify(module, "cross_entropy", None, (X, targets), radius=1e-3)
    assert (dense.hessian_method, lanczos.hessian_method) == ("dense", "lanczos")
    assert lanczos.hessian_lambda_max == pytest.approx(dense.hessian_lambda_max, rel=1e-5)
    assert lanczos.smoothness_constant >= dense.hessian_lambda_max
