"""Gogianu et al. (arXiv 2105.05246): spectral normalisation `Wbar = W / sigma(W)` seen as a change of the optimiser.

- gradient: with `G = dL/dWbar` and leading singular vectors `u`, `v`: `dL/dW = (1/sigma) (G - <G, Wbar> u v^T)`.
- orthogonal: hence `<dL/dW, W> = 0`.
- adam: dividing gradients by `rho` does to Adam what multiplying its `eps` by `rho` does.

The text was not at hand: the statements are re-derived (`theory.atoms.spectral.gradient_steps`, `theory.adaptive.scaling_steps`), and what is asserted
is the derivation. Beyond them: the norm of the map `G -> dL/dW` is exactly `sqrt(stable rank) / sigma`; the orthogonality holds for power iteration
at any stage; the identity for Adam is exact for a `rho` that does not change, and only for `eps` outside the root.
"""

import math

import pytest
import sympy
import torch

from numerics.device import DTYPE, generator
from numerics.realise import realise
from numerics.search import maximise
from theory.adaptive import adam_direction, beta_1, beta_2, rho, scaling_steps
from theory.atoms.spectral import gradient_steps
from theory.records import Shape
from theory.spec import parse

ROWS, COLUMNS, SAMPLES = 5, 4, 6


def leading(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`sigma (B,)`, `u (B, m)`, `v (B, n)`."""
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    return values[:, 0], left[:, :, 0], right[:, 0]


def pulled_back(gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The derived formula in batches."""
    sigma, u, v = leading(weight)
    size = sigma[:, None, None]
    along = (gradient * weight).sum((1, 2), keepdim=True) / size
    return (gradient - along * u[:, :, None] * v[:, None]) / size


def test_the_gradient_through_spectral_normalisation(evidence) -> None:
    assert all(step.verify() for step in gradient_steps())
    evidence(
        "gradient",
        "derived",
        "every entry of a matrix in the bases of its singular vectors",
        "(G - <G, W/sigma> u v^T) / sigma",
    )
    evidence("orthogonal", "derived", "the same, contracted with W", "0")
    note = "the identity needs no singular vectors: it holds for any u, v with sigma = u^T W v, so at every stage of power iteration"
    evidence("orthogonal", "derived", "any u, v", "0", finding="sharpened", note=note)
    note = "the gradient is not only divided by sigma: the map from G has norm sqrt(|W|_F^2 / sigma^2) / sigma, attained, so it can be longer than G / sigma"
    evidence("gradient", "derived", "norm of G -> dL/dW", "sqrt(stable rank) / sigma", finding="sharpened", note=note)
    # measured: autograd through the realised layer `affine(5, weight_norm=spectral)` on random networks and data
    count, source = 512, generator(0)
    layer = realise(
        parse(f"affine({ROWS}, weight_norm=spectral)"), Shape(sympy.Integer(COLUMNS), sympy.Integer(SAMPLES))
    )
    weight = torch.randn(count, ROWS, COLUMNS, dtype=DTYPE, generator=source)
    x = torch.randn(count, COLUMNS, SAMPLES, dtype=DTYPE, generator=source)
    theta = layer.pack([weight]).requires_grad_()
    image = layer(theta, x)
    (found,) = torch.autograd.grad(image.tanh().square().sum(), theta)
    image = image.detach()
    outer = 2 * image.tanh() * (1 - image.tanh().square())
    gradient = outer @ x.mT
    formula = pulled_back(gradient, weight)
    error = (found.reshape(formula.shape) - formula).norm(dim=(1, 2)) / formula.norm(dim=(1, 2))
    # double rounding through an SVD whose relative gaps are above 1e-3
    evidence(
        "gradient", "measured", "autograd against the formula, largest relative difference", 1e-10, float(error.max())
    )
    cosine = (found.reshape(formula.shape) * weight).sum((1, 2)) / found.norm(dim=1) / weight.norm(dim=(1, 2))
    evidence("orthogonal", "measured", "autograd: largest |cosine| of dL/dW and W", 1e-12, float(cosine.abs().max()))
    # a consequence: a step of gradient descent only ever lengthens W, by its own square
    after = (weight - 0.1 * found.reshape(weight.shape)).square().sum((1, 2))
    predicted = weight.square().sum((1, 2)) + 0.01 * found.square().sum(1)
    difference = float((after / predicted - 1).abs().max())
    evidence("orthogonal", "measured", "|W - eta g|^2 over |W|^2 + eta^2 |g|^2, less 1", 1e-12, difference)
    # two steps of power iteration from a random vector, held fixed in the backward pass as the usual implementations do
    v = torch.randn(count, COLUMNS, 1, dtype=DTYPE, generator=source)
    for _ in range(2):
        u = torch.nn.functional.normalize(weight @ v, dim=1)
        v = torch.nn.functional.normalize(weight.mT @ u, dim=1)
    leaf = weight.clone().requires_grad_()
    size = u.mT @ leaf @ v  # (count, 1, 1)
    (rough,) = torch.autograd.grad(((leaf / size) @ x).tanh().square().sum(), leaf)
    cosine = (rough * weight).sum((1, 2)) / rough.norm(dim=(1, 2)) / weight.norm(dim=(1, 2))
    gap = float((size.detach().flatten() / leading(weight)[0] - 1).abs().max())
    assert gap > 1e-3  # power iteration is far from its limit
    evidence(
        "orthogonal", "measured", "two steps of power iteration: largest |cosine|", 1e-12, float(cosine.abs().max())
    )


def test_no_matrix_does_worse(evidence) -> None:
    source, starts = generator(1), 32

    def stretch(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """`|dL/dW| sigma / |G|` over its bound, the root of the stable rank."""
        sigma = torch.linalg.matrix_norm(weight, 2)
        root = weight.norm(dim=(1, 2)) / sigma
        return pulled_back(gradient, weight).norm(dim=(1, 2)) * sigma / gradient.norm(dim=(1, 2)) / root

    def draw() -> list[torch.Tensor]:
        return [torch.randn(starts, ROWS, COLUMNS, dtype=DTYPE, generator=source) for _ in range(2)]

    found = maximise(stretch, draw(), None, 300, 0.05, source)
    evidence("gradient", "searched", "sigma |dL/dW| / (sqrt(stable rank) |G|), largest found", 1.0, found.best)
    assert found.best > 0.999  # attained

    def cosine(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        pulled = pulled_back(gradient, weight)
        return ((pulled * weight).sum((1, 2)) / pulled.norm(dim=(1, 2)) / weight.norm(dim=(1, 2))).abs() + 1e-30

    found = maximise(cosine, draw(), None, 100, 0.05, source)
    # rounding: the search may only enlarge cancellation, of numbers whose ratio stays below a few thousand
    evidence("orthogonal", "searched", "|cosine| of dL/dW and W, largest found", 1e-10, found.best)


def regression(count: int, width: int, source: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Parameters `(count, P)` of networks `4 -> width -> 1`, inputs and targets, one problem a network."""
    theta = torch.randn(count, 5 * width, dtype=DTYPE, generator=source) / 2
    x = torch.randn(count, 4, 16, dtype=DTYPE, generator=source)
    return theta, x, torch.randn(count, 16, dtype=DTYPE, generator=source)


def train(
    theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, divisors: torch.Tensor, eps: torch.Tensor
) -> torch.Tensor:
    """Where Adam on gradients divided by `divisors (steps,)`, with `eps (steps,)`, leads; entry-wise, so one optimiser serves the batch."""
    width = theta.shape[1] // 5
    point = theta.clone().requires_grad_()
    optimiser = torch.optim.Adam([point], lr=0.01)
    for divisor, offset in zip(divisors, eps.tolist(), strict=True):
        optimiser.param_groups[0]["eps"] = offset
        hidden = torch.tanh(point[:, : 4 * width].reshape(-1, width, 4) @ x)
        residual = (point[:, 4 * width :, None] * hidden).sum(1) - y
        (gradient,) = torch.autograd.grad(residual.square().mean(1).sum() / 2, point)
        point.grad = gradient / divisor
        optimiser.step()
    return point.detach()


def test_scaled_gradients_are_a_scaled_eps(evidence) -> None:
    assert all(step.verify() for step in scaling_steps())
    gradients, eps = sympy.symbols("g:2", real=True), sympy.Symbol("eps", positive=True)
    scaled = adam_direction([g / rho for g in gradients], eps)
    assert sympy.simplify(scaled - adam_direction(gradients, rho * eps)) == 0
    inside = adam_direction([g / rho for g in gradients], eps, inside=True)
    assert sympy.simplify(inside - adam_direction(gradients, rho**2 * eps, inside=True)) == 0
    note = "with eps inside the root the factor is rho^2; and rho has to stay the same, else the update remembers other scales"
    evidence("adam", "derived", "induction over the steps", "m/(sqrt v + rho eps)", finding="sharpened", note=note)
    problem = regression(64, 6, generator(2))
    steps, eps_used = 200, 1e-3  # an eps that matters: Adam on the same gradients with eps unchanged ends elsewhere
    ones = torch.ones(steps, dtype=DTYPE)
    for divisor in (4.0, 3.0, 0.1):
        one = train(*problem, divisor * ones, eps_used * ones)
        apart = float((one - train(*problem, ones, divisor * eps_used * ones)).abs().max())
        # powers of two: every operation is scaled exactly; otherwise rounding of 1e-16 a step, multiplied by 200 steps of training (1e4 seen at most)
        bound = 0.0 if divisor == 4.0 else 1e-9
        what = f"rho = {divisor:g}: largest difference after {steps} steps"
        evidence("adam", "measured", what, bound, apart, tolerance=0.0)
        plain = float((one - train(*problem, ones, eps_used * ones)).abs().max())
        assert plain > 1e-2  # the statement is not empty
    # rho that drifts: eps times the present rho is no longer the same
    drift = 2 * 1.001 ** torch.arange(steps, dtype=DTYPE)
    point, other = train(*problem, drift, eps_used * ones), train(*problem, ones, eps_used * drift)
    apart, moved = float((point - other).abs().median()), float((point - problem[0]).abs().median())
    what = "rho growing by 0.1 per cent a step: median difference over median distance travelled"
    note = "where rho changes the two optimisers differ, by about the change of rho within Adam's memory"
    evidence("adam", "measured", what, 1e-6, apart / moved, sense="lower", finding="loose", note=note)


def test_a_search_over_gradients(evidence) -> None:
    """The two updates of Adam as formulas, over eight gradients and the scale: none found apart, until the scale changes."""
    length, source = 8, generator(3)
    seen, factors, e = sympy.symbols(f"g:{length}", real=True), sympy.symbols(f"r:{length}", positive=True), 0.5
    decays = {beta_1: sympy.Rational(9, 10), beta_2: sympy.Rational(99, 100)}
    divided = adam_direction([g / r for g, r in zip(seen, factors, strict=True)], sympy.Float(e)).subs(decays)
    plain = adam_direction(seen, factors[-1] * sympy.Float(e)).subs(decays)
    both = sympy.lambdify((seen, factors), (divided, plain), modules=[{"sqrt": torch.sqrt}, torch])

    def apart(gradients: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        one, other = both(gradients.unbind(1), scales.exp().expand(-1, length).unbind(1))
        return (one - other).abs() + 1e-30

    starts = 32
    gradients = torch.randn(starts, length, dtype=DTYPE, generator=source)
    constant = torch.randn(starts, 1, dtype=DTYPE, generator=source)
    found = maximise(apart, [gradients, constant], None, 100, 0.05, source)
    evidence("adam", "searched", "one rho: largest difference of the updates found (step size 1)", 1e-12, found.best)

    def within(arguments: list[torch.Tensor]) -> list[torch.Tensor]:
        return [arguments[0], arguments[1].clamp(0.0, math.log(1.1))]

    varying = 0.1 * torch.rand(starts, length, dtype=DTYPE, generator=source)
    found = maximise(apart, [gradients, varying], within, 200, 0.02, source)
    note = "a rho that varies by ten per cent changes an update by a sizeable part of the step size"
    what = "rho between 1 and 1.1: largest difference of the updates found (step size 1)"
    evidence("adam", "searched", what, 0.01, found.best, sense="lower", finding="loose", note=note)


@pytest.mark.slow
def test_long_training_in_wide_networks(evidence) -> None:
    problem = regression(256, 64, generator(4))
    ones = torch.ones(2000, dtype=DTYPE)
    one, other = train(*problem, 2.0 * ones, 1e-3 * ones), train(*problem, ones, 2e-3 * ones)
    apart = float((one - other).abs().max())
    evidence("adam", "measured", "rho = 2, width 64, 2,000 steps: largest difference", 0.0, apart, tolerance=0.0)
