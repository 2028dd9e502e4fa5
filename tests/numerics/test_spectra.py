"""Singular values of Jacobians: all of them against the dense way of PyTorch, parts of them against known spectra.

Tolerances: 1e-8 of the largest is what the dense way promises at most; float64 Krylov values are compared at 1e-10. Matrices with known
spectra are `U diag(s) V^T` with Haar factors, so that every spectrum is met in a random position.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.resnet18 import resnet18
from benchmarks.toy_jacobian import drawn, published
from numerics.realise import realise
from numerics.singular_values.dense import _gram, jacobian_singular_values, singular_values_of_states
from numerics.singular_values.density import mean_singular_value, spectral_density
from numerics.singular_values.krylov import Products, extreme_singular_values, jacobian_products, miss_probability
from numerics.singular_values.linearised import Linearised, without_state
from numerics.singular_values.sweep import Sweep
from numerics.singular_values.tiles import _plan
from numerics.skips.networks import VARIANTS
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.network import chain
from theory.records import Shape

DTYPE = torch.float64
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = DTYPE) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=DTYPE).to(dtype)


def with_spectrum(values: Tensor, rows: int, columns: int, seed: int = 0) -> Tensor:
    """`U diag(values) V^T`, `rows x columns`, for random orthonormal columns of `U` and `V`."""
    left = torch.linalg.qr(gaussian(rows, len(values), seed=2 * seed)).Q
    right = torch.linalg.qr(gaussian(columns, len(values), seed=2 * seed + 1)).Q
    return (left * values) @ right.mT


def products_of(matrix: Tensor) -> Products:
    rows, columns = matrix.shape
    return Products(rows, columns, lambda v: v @ matrix.mT, lambda u: u @ matrix, matrix)


def dense(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    jacobian = torch.autograd.functional.jacobian(f, x)
    return jacobian.reshape(-1, x.numel())  # type: ignore[union-attr]


def small_resnet(dtype: torch.dtype = DTYPE) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return resnet18(nn.ReLU, 4).to(dtype), gaussian(4, 3, 8, 8, dtype=dtype)


SPECTRA = {
    "spread evenly": torch.linspace(1, 2, 60, dtype=DTYPE),
    "clustered": torch.cat([torch.full((30,), 2.0), torch.full((29,), 1.0), torch.tensor([3.0])]).to(DTYPE),
    "rank 20 of 60": torch.cat([torch.linspace(1, 2, 20), torch.zeros(40)]).to(DTYPE),
    "wide range": torch.logspace(-9, 0, 60, dtype=DTYPE),
    "one value": torch.full((60,), 0.7, dtype=DTYPE),
    "zero": torch.zeros(60, dtype=DTYPE),
}
SHAPES = [(60, 300), (300, 60), (60, 60)]


# Layers


class Net(nn.Module):
    """Every layer that `Linearised` replaces, in each of its forms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 3, 3, padding=1, stride=(2, 1))
        self.conv2 = nn.Conv2d(3, 4, (2, 3), padding=(0, 1), bias=False)
        self.conv3 = nn.Conv2d(4, 4, 3, groups=2, padding="same")
        self.conv4 = nn.Conv2d(4, 3, 2, dilation=2)
        self.bn1, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(4, affine=False)
        self.bn3, self.bn4 = nn.BatchNorm1d(18), nn.BatchNorm2d(4, track_running_stats=False)
        self.head = nn.Linear(18, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(torch.tanh(self.bn1(self.conv1(x)))))
        h = self.conv4(torch.tanh(self.bn4(self.conv3(h))))
        return self.head(torch.sigmoid(self.bn3(h.flatten(1))))


def net() -> tuple[Net, Tensor]:
    torch.manual_seed(0)
    module = Net().to(DTYPE)
    for p in module.parameters():
        nn.init.normal_(p)  # gains far from 1
    return module, gaussian(5, 2, 8, 8)


@pytest.mark.parametrize("training", [True, False])
def test_the_jacobian_of_replaced_layers_is_that_of_pytorch(training: bool) -> None:
    module, x = net()
    module.train(training)
    reference = torch.linalg.svdvals(dense(module, x))
    values = jacobian_singular_values(module, x)
    assert values.shape == (15,)
    assert (values - reference).abs().max() <= 1e-9 * reference[0]


@pytest.mark.parametrize("training", [True, False])
def test_values_inside_the_context_are_those_outside(training: bool) -> None:
    module, x = net()
    module.train(training)
    x.requires_grad_()
    with Linearised(dense=True):
        inside = module(x)
    assert torch.allclose(inside, module(x), rtol=1e-12, atol=1e-12)


def test_the_functional_forms_are_replaced_too() -> None:
    x = gaussian(6, 3, 4, 4)
    weight, bias, kernel = gaussian(3, seed=1), gaussian(3, seed=2), gaussian(3, 3, 3, 3, seed=3)

    def f(x: Tensor) -> Tensor:
        h = F.conv2d(x, kernel, stride=1, padding=1)
        h = torch.batch_norm(h, weight, bias, None, None, True, 0.1, 1e-5, False)
        return F.batch_norm(torch.tanh(h), None, None, training=True).sum((2, 3))

    reference = torch.linalg.svdvals(dense(f, x))
    assert (jacobian_singular_values(f, x) - reference).abs().max() <= 1e-9 * reference[0]


@pytest.mark.parametrize("size", [(7, 7), (12, 9), (4, 11)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [((5, 5), 1, 2), ((3, 3), 2, 1), ((1, 1), 3, 0), ((2, 3), (1, 2), (1, 0))]
)
def test_a_convolution_by_tiles_is_the_convolution(
    size: tuple[int, int], kernel: tuple[int, int], stride: int, padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("numerics.singular_values.tiles.WASTE", math.inf)  # every one by tiles
    _plan.cache_clear()
    weight, x = gaussian(3, 2, *kernel), gaussian(2, 2, *size, seed=1)

    def f(x: Tensor) -> Tensor:
        return F.conv2d(x, weight, None, stride, padding)

    reference = torch.linalg.svdvals(dense(f, x))
    found = jacobian_singular_values(f, x)
    _plan.cache_clear()
    assert (found - reference).abs().max() <= 1e-10 * reference[0]


def in_place(x: Tensor) -> Tensor:
    y = x.square()
    y[:, 0].mul_(x[:, 1])
    return y.sum(1)


MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "the identity": lambda x: x,
    "broadcasting": lambda x: (x[:, :1] + x.mean() - x) * x[0],
    "several outputs of one node": lambda x: torch.cat([part.exp() for part in x.split(1)][::-1]),
    "a view changed in place": in_place,
    "one tensor used many times": lambda x: x.tanh() @ x.mT.sigmoid() + x.relu() @ x.mT,
    "a scalar": lambda x: x.prod(),
    "a part that no gradient passes": lambda x: x.round() + x[:1].detach() * x,
}


@pytest.mark.parametrize("name", MAPS)
def test_any_graph_gives_the_jacobian_of_pytorch(name: str) -> None:
    x = gaussian(4, 5)
    reference = torch.linalg.svdvals(dense(MAPS[name], x))
    assert (jacobian_singular_values(MAPS[name], x) - reference).abs().max() <= 1e-12 * reference[0]


def test_a_map_that_only_its_weights_make_differentiable_has_jacobian_zero() -> None:
    weight = torch.ones(3, requires_grad=True)
    assert torch.equal(jacobian_singular_values(lambda x: 2 * weight, torch.ones(4)), torch.zeros(3, dtype=DTYPE))


def test_graphs_that_the_sweep_cannot_walk_are_refused() -> None:
    x = gaussian(4, 5).requires_grad_()
    for name in ("several outputs of one node", "a view changed in place"):
        with pytest.raises(NotImplementedError):
            Sweep(MAPS[name](x), x)
    swept = Sweep(x.tanh(), x)(torch.ones(1, 4, 5, dtype=DTYPE))[0]
    assert torch.allclose(swept, 1 - x.detach().tanh().square(), rtol=1e-14)


def test_nothing_in_the_module_changes() -> None:
    module, x = net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    jacobian_singular_values(module, x)
    mean_singular_value(jacobian_products(module, x), max_probes=8)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


# All singular values


@pytest.mark.parametrize("variant", VARIANTS)
def test_toy_singular_values_equal_the_published_way_to_1e_8(variant: str) -> None:
    rest, _, inputs = drawn(variant, 1, CPU)
    reference = published(rest, inputs[0])
    values = jacobian_singular_values(rest, inputs[0])
    assert values.shape == (320,)
    assert (values - reference).abs().max() <= 1e-8 * reference[0]


def test_many_states_are_measured_as_each_alone() -> None:
    rest, states, inputs = drawn("changed", 2, CPU)
    values = singular_values_of_states(rest, states, inputs)
    for state, x, row in zip(states, inputs, values, strict=True):
        alone, _, _ = drawn("changed", 1, CPU)
        alone.load_state_dict(state)
        assert torch.equal(jacobian_singular_values(alone, x), row)
    assert not torch.allclose(values[0], values[1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra_of_linear_maps_are_found(name: str, shape: tuple[int, int]) -> None:
    values = SPECTRA[name].sort(descending=True).values
    matrix = with_spectrum(values, *shape)
    found = jacobian_singular_values(lambda x: matrix @ x, gaussian(shape[1], seed=5))
    assert found.shape == (60,)
    # QR keeps the values below 1e-8 of the largest, which a Gram matrix loses
    assert (found - values).abs().max() <= 1e-13 * max(float(values[0]), 1.0)


def test_the_gram_matrix_alone_would_lose_small_values() -> None:
    values = SPECTRA["wide range"].flip(0)
    matrix = with_spectrum(values, 60, 300)
    squared = torch.linalg.eigvalsh(_gram(matrix)).flip(0).clamp(min=0).sqrt()
    assert (squared - values).abs().max() > 1e-10
    assert (jacobian_singular_values(lambda x: matrix @ x, gaussian(300)) - values).abs().max() < 1e-13


def test_the_gram_matrix_within_its_tolerance_agrees_with_qr() -> None:
    matrix = with_spectrum(torch.linspace(0.1, 1, 100, dtype=DTYPE), 100, 3000)
    x = gaussian(3000)
    fast, sure = (jacobian_singular_values(lambda x: matrix @ x, x, tolerance=t) for t in (1e-9, 0.0))
    assert not torch.equal(fast, sure)  # two ways
    assert (fast - sure).abs().max() <= 1e-9


def test_a_realised_description_is_a_function_like_any_other() -> None:
    realisation = realise(chain(Affine(4), Activation("tanh"), Affine(2)), Shape(3, 5))  # type: ignore[arg-type]
    theta = gaussian(realisation.size)

    def f(x: Tensor) -> Tensor:
        return realisation(theta, x)

    x = gaussian(3, 5)
    assert torch.allclose(jacobian_singular_values(f, x), torch.linalg.svdvals(dense(f, x)), rtol=0, atol=1e-9)


def test_a_constant_map_has_singular_values_zero() -> None:
    assert torch.equal(jacobian_singular_values(lambda x: torch.ones(3), torch.ones(4)), torch.zeros(3, dtype=DTYPE))
    largest, least = extreme_singular_values(jacobian_products(lambda x: 0 * x[:3], torch.ones(4)))
    assert float(largest.value) == float(least.value) == 0
    assert bool(largest.converged)


def test_bad_input_is_refused_by_name() -> None:
    x = torch.ones(4)
    with pytest.raises(ValueError, match=r"above the budget of 8.*mean_singular_value"):
        jacobian_singular_values(lambda x: x, x, memory=8)
    with pytest.raises(ValueError, match="infinite or no numbers"):
        jacobian_singular_values(lambda x: (x - 1).sqrt(), x)
    for function in (jacobian_singular_values, jacobian_products):
        with pytest.raises(ValueError, match="returns tuple"):
            function(lambda x: (x, x), x)
        with pytest.raises(ValueError, match=r"torch\.int64"):
            function(lambda x: x, torch.ones(4, dtype=torch.long))
    with pytest.raises(ValueError, match="2 states and 1 inputs"):
        singular_values_of_states(nn.Linear(4, 4), [{}, {}], x[None])
    with pytest.raises(ValueError, match="has no wrong"):
        singular_values_of_states(nn.Linear(4, 4), [{"wrong": x}], x[None])
    with pytest.raises(ValueError, match=r"pass a torch\.nn\.Module"):
        without_state(torch.tanh, {})
    products = products_of(torch.eye(3))
    with pytest.raises(ValueError, match="1 probes and 4 steps"):
        spectral_density(products, probes=1, steps=4)
    with pytest.raises(ValueError, match="confidence = 1"):
        spectral_density(products, confidence=1)
    with pytest.raises(ValueError, match="max_steps = 0"):
        extreme_singular_values(products, max_steps=0)
    with pytest.raises(ValueError, match="width = 0"):
        spectral_density(products).smooth(torch.ones(1), 0)
    with pytest.raises(ValueError, match="no running statistics"), Linearised(dense=False):
        F.batch_norm(torch.ones(2, 3), None, None)


# Products


@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_products_are_those_of_the_dense_jacobian_and_of_finite_differences(at_once: int | None) -> None:
    for module, x in (net(), small_resnet()):
        jacobian, products = dense(module, x), jacobian_products(module, x, at_once=at_once)
        v, u = gaussian(3, x.numel(), seed=1), gaussian(3, len(jacobian), seed=2)
        scale = torch.linalg.matrix_norm(jacobian)
        assert (products.jvp(v) - v @ jacobian.mT).abs().max() <= 1e-12 * scale
        assert (products.vjp(u) - u @ jacobian).abs().max() <= 1e-12 * scale
        step = 1e-6 * v[0].reshape(x.shape)
        with torch.no_grad():
            difference = (module(x + step) - module(x - step)).flatten() / 2e-6
        # of order step^2, and the rounding of the outputs over the step; a ReLU's kink between costs more
        assert (products.jvp(v)[0] - difference).abs().max() <= 1e-5 * difference.abs().max()


# Extremes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_extremes_of_known_spectra(name: str, shape: tuple[int, int]) -> None:
    values = SPECTRA[name]
    products = products_of(with_spectrum(values, *shape))
    largest, least = extreme_singular_values(products, least=True, tolerance=1e-6)
    top = float(values.max())
    assert bool(largest.converged)
    assert float(largest.value) == pytest.approx(top, rel=1e-10)
    assert float(least.value) == pytest.approx(float(values.min()), abs=1e-13 * top)
    u, v = largest.vectors
    assert u.shape == (1, shape[0])
    assert v.shape == (1, shape[1])
    assert torch.allclose(products.jvp(v), largest.value * u, atol=1e-5 * top)


def test_an_unfinished_run_under_estimates_and_says_so() -> None:
    values = torch.logspace(-3, 0, 400, dtype=DTYPE)
    largest, least = extreme_singular_values(products_of(with_spectrum(values, 400, 500)), least=True, max_steps=5)
    assert not bool(largest.converged)
    assert not bool(least.converged)
    assert float(largest.value) < 1
    assert float(least.value) > 1e-3


@pytest.mark.parametrize("seed", range(10))
def test_some_singular_value_lies_within_the_residual(seed: int) -> None:
    matrix = gaussian(80, 200, seed=seed)
    values = torch.linalg.svdvals(matrix)
    for found in extreme_singular_values(products_of(matrix), max_steps=12, generator=generator(seed)):
        # |J v - s u|^2 + |J^T u - s v|^2 <= 2 r^2 means a singular value within r: the symmetric 2 x 2 block form
        assert (values - found.value).abs().min() <= float(found.residual * found.value)


def test_the_chance_of_missing_the_largest_value_is_bounded() -> None:
    values = torch.linspace(0, 1, 200, dtype=DTYPE)
    matrix = with_spectrum(values, 200, 200)
    steps, error, missed = 12, 0.02, 0
    for seed in range(50):
        largest, _ = extreme_singular_values(
            products_of(matrix), tolerance=0.0, max_steps=steps, generator=generator(seed)
        )
        missed += float(largest.value) < 1 - error
    risk = miss_probability(200, steps, error)
    assert risk < 1
    assert missed <= 50 * risk
    assert miss_probability(1280, 40, 0.01) < miss_probability(1280, 20, 0.01) <= 1


# Mean and density


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_every_interval_of_the_mean_holds_with_all_steps(name: str, shape: tuple[int, int]) -> None:
    values = SPECTRA[name]
    density = spectral_density(products_of(with_spectrum(values, *shape)), probes=30, steps=60, confidence=0.999)
    mean = density.mean()
    slack = 1e-12 * float(values.max())
    assert float(mean.low) - slack <= float(values.mean()) <= float(mean.high) + slack
    # at all steps both quadratures are exact, up to the rounding of the root at 0
    assert density.gauss[1].sum(1) == pytest.approx(torch.ones(30, dtype=DTYPE), abs=1e-12)


def test_gauss_and_radau_bracket_each_probe() -> None:
    values = torch.logspace(-4, 0, 100, dtype=DTYPE)
    matrix = with_spectrum(values, 100, 150)
    left, singular, _ = torch.linalg.svd(matrix, full_matrices=False)
    starts = torch.randn(6, 100, generator=generator(3), dtype=DTYPE)
    exact = (((starts / starts.norm(dim=1, keepdim=True)) @ left).square() * singular).sum(1)
    gaps = []
    for steps in (2, 5, 10, 20):
        density = spectral_density(products_of(matrix), probes=6, steps=steps, generator=generator(3))
        upper, lower = ((nodes * weights).sum(1) for nodes, weights in (density.gauss, density.radau))
        assert bool((lower <= exact).all())
        assert bool((exact <= upper).all())
        gaps.append(float((upper - lower).max()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.1 * gaps[0]


COVERED = {name: SPECTRA[name] for name in ("spread evenly", "clustered", "rank 20 of 60", "wide range")}


@pytest.mark.parametrize("probes", [4, 8])
@pytest.mark.parametrize("name", COVERED)
def test_intervals_of_the_mean_cover_it_as_often_as_they_say(name: str, probes: int) -> None:
    """95 % intervals, 100 seeds; 85 or fewer covered would have probability 1e-4 if each covered with 95 %."""
    values = COVERED[name]
    products = products_of(with_spectrum(values, 60, 80))
    truth, covered = float(values.mean()), 0
    for seed in range(100):
        mean = spectral_density(products, probes=probes, steps=20, generator=generator(seed)).mean()
        covered += float(mean.low) <= truth <= float(mean.high)
    assert covered > 85


def test_intervals_after_adaptive_stopping_still_cover() -> None:
    values = torch.linspace(0.2, 1, 200, dtype=DTYPE)
    products = products_of(with_spectrum(values, 200, 250))
    covered = finished = 0
    for seed in range(100):
        mean = mean_singular_value(products, tolerance=0.02, probes=4, steps=10, generator=generator(seed))
        finished += mean.converged
        covered += float(mean.low) <= float(values.mean()) <= float(mean.high)
        assert float(mean.high - mean.low) / 2 <= 0.02 * float(mean.value) or not mean.converged
    assert finished == 100
    assert covered > 85


def test_the_mean_is_refused_where_probes_run_out() -> None:
    products = products_of(with_spectrum(torch.logspace(-3, 0, 50, dtype=DTYPE), 50, 60))
    told: list[int] = []
    mean = mean_singular_value(products, tolerance=1e-6, max_probes=10, progress=lambda e: told.append(e.probes))
    assert not mean.converged
    assert mean.probes == 10
    assert told == [8, 10]


def test_shares_below_a_point_cover_the_true_ones() -> None:
    values = torch.cat([torch.linspace(0, 1, 100), torch.full((50,), 2.0), torch.linspace(3, 4, 50)]).to(DTYPE)
    products = products_of(with_spectrum(values, 200, 300))
    points = torch.tensor([-1.0, 0.5, 1.5, 2.5, 3.5, 5.0], dtype=DTYPE)
    truth = (values[:, None] <= points).double().mean(0)
    covered = 0
    for seed in range(100):
        below = spectral_density(products, probes=6, steps=12, generator=generator(seed)).share_below(points)
        covered += bool(((below.low <= truth + 1e-12) & (truth <= below.high + 1e-12)).all())
    assert covered > 85
    # where the spectrum has gaps and few clusters, the bracket is narrow
    assert float((below.high - below.low)[2]) < 0.25
    assert float(below.low[0]) == 0
    assert float(below.high[-1]) == 1


def test_the_smoothed_density_is_that_of_the_values() -> None:
    values = torch.linspace(1, 2, 300, dtype=DTYPE)
    density = spectral_density(products_of(with_spectrum(values, 300, 400)), probes=40, steps=60, confidence=0.999)
    points, width = torch.linspace(0.5, 2.5, 21, dtype=DTYPE), 0.1
    truth = (torch.exp(-((points[:, None] - values) ** 2) / 2 / width**2) / width / math.sqrt(2 * math.pi)).mean(1)
    smooth = density.smooth(points, width)
    assert bool(((smooth.low <= truth + 1e-9) & (truth - 1e-9 <= smooth.high)).all())
    assert float((smooth.value - truth).abs().max()) < 0.1
    assert float(torch.trapezoid(smooth.value, points)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_small_resnet_without_its_matrix_agrees_with_the_dense_jacobian(dtype: torch.dtype) -> None:
    module, x = small_resnet()
    reference = torch.linalg.svdvals(dense(module, x))
    products = jacobian_products(module.to(dtype), x.to(dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        largest, least = extreme_singular_values(products, least=True, tolerance=1e-4)
        mean = spectral_density(products, probes=8, steps=40, confidence=0.999).mean()
    assert bool(largest.converged)
    assert float(largest.value) == pytest.approx(float(reference[0]), rel=1e-4)
    assert float(least.value) == pytest.approx(float(reference[-1]), abs=1e-4 * float(reference[0]))
    assert float(mean.low) <= float(reference.mean()) <= float(mean.high)
    assert float(mean.value) == pytest.approx(float(reference.mean()), rel=0.1)
