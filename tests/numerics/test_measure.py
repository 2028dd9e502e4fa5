"""Every measurement agrees with a naive twin: dense derivatives by torch.func, spectra by NumPy.

The networks are small tanh MLPs written here from bmm. Tolerances: dense twins agree to 1e-9 relative or better, since
they differ by some thousand roundings; iterative eigenvalues agree to the square of their residual.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import hessian, jacrev

from numerics.measure import (
    Measured,
    Second,
    cross_entropy,
    dense_hessian_lambda_max,
    hessian_lambda_max,
    hessian_vector_product,
    input_jacobian,
    input_jacobian_norm,
    input_jacobian_sigma_min,
    input_jacobian_singular_values,
    jacobian_operators,
    lanczos_lambda_max,
    operator_norm,
    param_jacobian,
    param_jacobian_norm,
    second_derivative_norm,
    squared_error,
    tangent_kernel,
    tangent_kernel_lambda_min,
)

DTYPE = torch.float64
WIDTHS = (3, 5, 4)
SIZES = [size for columns, rows in pairwise(WIDTHS) for size in (rows * columns, rows)]
NETWORKS, SAMPLES = 4, 3
TINY = 4000
"""A memory budget in bytes that forces blocks of a few rows."""


def mlp(theta: Tensor, x: Tensor) -> Tensor:
    """tanh MLP 3-5-4 with biases."""
    parts = torch.split(theta, SIZES, 1)
    h = x.expand(theta.shape[0], *x.shape[-2:])
    for layer, (columns, rows) in enumerate(pairwise(WIDTHS)):
        weight = parts[2 * layer].reshape(-1, rows, columns)
        h = torch.bmm(weight, h.tanh() if layer else h) + parts[2 * layer + 1].unsqueeze(-1)
    return h


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


THETA = gaussian(NETWORKS, sum(SIZES), seed=1)
X = gaussian(NETWORKS, WIDTHS[0], SAMPLES, seed=2)
LABELS = torch.tensor([0, 3, 1])


def loss(theta: Tensor) -> Tensor:
    return cross_entropy(mlp(theta, X.to(theta)), LABELS.to(theta.device))


def single(b: int, theta: Tensor, x: Tensor) -> Tensor:
    """Network `b` alone, flattened output."""
    return mlp(theta.unsqueeze(0), x.unsqueeze(0)).flatten()


def single_loss(b: int, theta: Tensor) -> Tensor:
    logits = mlp(theta.unsqueeze(0), X[b]).squeeze(0)
    return torch.nn.functional.cross_entropy(logits.T, LABELS)


def twin_hessians() -> Tensor:
    return torch.stack([hessian(lambda t, b=b: single_loss(b, t))(THETA[b]) for b in range(NETWORKS)])


def twin_jacobians(argument: int) -> Tensor:
    """By torch.func.jacrev, `(B, K N, P)` or `(B, K N, d N)`."""
    return torch.stack(
        [jacrev(lambda t, x, b=b: single(b, t, x), argument)(THETA[b], X[b]).flatten(1) for b in range(NETWORKS)]
    )


def symmetric(batch: int, n: int, seed: int = 5) -> Tensor:
    a = gaussian(batch, n, n, seed=seed)
    return (a + a.mT) / 2


def close(found: Tensor, expected: Tensor | np.ndarray, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found.cpu(), torch.as_tensor(expected), rtol=tolerance, atol=tolerance)


# losses


def test_cross_entropy_is_torchs_at_ordinary_logits() -> None:
    logits = gaussian(NETWORKS, 4, SAMPLES)
    expected = torch.stack([torch.nn.functional.cross_entropy(z.T, LABELS) for z in logits])
    close(cross_entropy(logits, LABELS), expected, 1e-14)
    close(cross_entropy(logits, LABELS.expand(NETWORKS, -1)), expected, 1e-14)


@pytest.mark.parametrize("margin", [-700.0, -30.0, 0.0, 5.0, 30.0, 34.5, 100.0, 700.0])
def test_cross_entropy_keeps_its_digits_however_small(margin: float) -> None:
    """With three classes and the true logit `margin` above both others it is `log1p(2 exp(-margin))`; 1e-15 at 35."""
    logits = torch.tensor([margin + 1e3, 1e3, 1e3], dtype=DTYPE).reshape(1, 3, 1)
    expected = math.log1p(2 * math.exp(-margin)) if margin > -100 else -margin + math.log(2)
    # 1e3 + margin is rounded to 1e-13, which is the relative error of the exponential
    torch.testing.assert_close(
        cross_entropy(logits, torch.tensor([0])), torch.tensor([expected], dtype=DTYPE), rtol=1e-12, atol=0
    )


def test_cross_entropy_of_1e_minus_15_is_right_to_14_digits() -> None:
    logits = torch.tensor([35.0, 0.0], dtype=DTYPE).reshape(1, 2, 1)
    found = cross_entropy(logits, torch.tensor([0])).item()
    assert 6e-16 < found < 7e-16
    assert found == pytest.approx(math.log1p(math.exp(-35)), rel=1e-14)


@pytest.mark.parametrize("margin", [-1e4, -40.0, 0.0, 40.0, 1e4])
def test_cross_entropy_has_finite_and_accurate_first_and_second_derivatives(margin: float) -> None:
    """Two classes: with `s` the softmax of the wrong one the derivatives in the true logit are `-s` and `s (1 - s)`.

    A loss of 40 or more has a curvature below rounding of its gradient 1; there only the absolute error is small.
    """
    z = torch.tensor([margin, 0.0], dtype=DTYPE, requires_grad=True)
    (first,) = torch.autograd.grad(cross_entropy(z.reshape(1, 2, 1), torch.tensor([0])).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first[0], z)
    wrong = 1 / (1 + math.exp(margin)) if margin < 700 else 0.0
    right = 1 / (1 + math.exp(-margin)) if margin > -700 else 0.0
    torch.testing.assert_close(first.detach(), torch.tensor([-wrong, wrong], dtype=DTYPE), rtol=1e-12, atol=0)
    curvature = wrong * right
    torch.testing.assert_close(
        second, torch.tensor([curvature, -curvature], dtype=DTYPE), rtol=1e-12, atol=0 if margin >= 0 else 1e-16
    )


def test_cross_entropy_refuses_one_class() -> None:
    with pytest.raises(ValueError, match="two or more"):
        cross_entropy(torch.zeros(1, 1, 1, dtype=DTYPE), torch.tensor([0]))


def test_squared_error_is_half_the_mean_over_samples_of_the_squared_norm() -> None:
    z, t = gaussian(NETWORKS, 2, SAMPLES, seed=3), gaussian(2, SAMPLES, seed=4)
    close(squared_error(z, t), ((z - t) ** 2).sum(1).mean(1) / 2, 1e-14)


# the largest eigenvalue


def test_a_hessian_vector_product_is_the_dense_hessian_times_the_vector() -> None:
    v = gaussian(*THETA.shape, seed=6)
    close(hessian_vector_product(loss, THETA, v), torch.bmm(twin_hessians(), v.unsqueeze(-1)).squeeze(-1), 1e-12)


@pytest.mark.parametrize("memory", [2**30, TINY])
def test_the_largest_hessian_eigenvalue_is_that_of_the_dense_hessian(memory: int) -> None:
    expected = np.linalg.eigvalsh(twin_hessians().numpy())[:, -1]
    dense = dense_hessian_lambda_max(loss, THETA)
    found = hessian_lambda_max(loss, THETA, tolerance=1e-8, memory=memory)
    close(dense.value, expected, 1e-12)
    close(found.value, expected, 1e-12)
    assert found.converged.all()
    assert (found.residual <= 1e-8).all()
    assert found.method == "lanczos"
    assert dense.converged.all()
    assert (dense.residual == 0).all()
    assert dense.method == "dense"


def test_the_dense_referee_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="fewer rows"):
        dense_hessian_lambda_max(loss, THETA, memory=1000)


def test_the_residual_is_that_of_the_returned_vector() -> None:
    found = hessian_lambda_max(loss, THETA, tolerance=1e-3)
    (v,) = found.vectors
    error = torch.bmm(twin_hessians(), v.unsqueeze(-1)).squeeze(-1) - found.value.unsqueeze(-1) * v
    close(v.norm(dim=1), torch.ones(NETWORKS, dtype=DTYPE), 1e-14)
    close(error.norm(dim=1) / found.value, found.residual, 1e-10)


def test_an_unfinished_run_says_so_and_under_estimates() -> None:
    a = symmetric(6, 80)
    truth = torch.from_numpy(np.linalg.eigvalsh(a.numpy())[:, -1])
    found = lanczos_lambda_max(lambda v: torch.bmm(a, v.unsqueeze(-1)).squeeze(-1), gaussian(6, 80), max_iterations=6)
    assert not found.converged.any()
    assert (found.residual > 1e-5).all()
    assert (found.value < truth * (1 - 1e-3)).all()


@pytest.mark.parametrize("basis", [8, 20, 80])
@pytest.mark.parametrize("shift", [0.0, -40.0])
def test_lanczos_finds_the_algebraically_largest_eigenvalue_with_and_without_restarts(basis: int, shift: float) -> None:
    """Shifted by -40 the spectrum is negative, and the largest eigenvalue is the least in absolute value."""
    a = symmetric(6, 80) + shift * torch.eye(80, dtype=DTYPE)
    found = lanczos_lambda_max(
        lambda v: torch.bmm(a, v.unsqueeze(-1)).squeeze(-1),
        gaussian(6, 80),
        tolerance=1e-8,
        max_iterations=2000,
        memory=basis * 6 * 80 * 8,
    )
    assert found.converged.all()
    close(found.value, np.linalg.eigvalsh(a.numpy())[:, -1], 1e-12)


def test_lanczos_goes_on_from_a_fresh_direction_when_its_krylov_space_is_exhausted() -> None:
    """The start is an eigenvector of a smaller eigenvalue; another row starts in general position."""
    values = torch.tensor([3.0, 2.0, -1.0, -5.0], dtype=DTYPE)
    start = torch.tensor([[0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=DTYPE)
    found = lanczos_lambda_max(lambda v: values * v, start, tolerance=1e-10)
    close(found.value, torch.tensor([3.0, 3.0], dtype=DTYPE), 1e-13)
    assert found.converged.all()


@pytest.mark.parametrize(("scale", "n"), [(0.0, 7), (-1.0, 7), (2.0, 1)])
def test_lanczos_handles_multiples_of_the_identity(scale: float, n: int) -> None:
    found = lanczos_lambda_max(lambda v: scale * v, gaussian(3, n))
    close(found.value, torch.full((3,), scale, dtype=DTYPE), 1e-14)
    assert found.converged.all()


def test_another_start_finds_the_eigenvector_that_the_first_start_misses() -> None:
    """In exact arithmetic a start orthogonal to the top eigenvector converges to the second eigenvalue."""
    values = torch.linspace(-1, 1, 60, dtype=DTYPE)
    values[0] = 1.01
    start = torch.ones(1, 60, dtype=DTYPE)
    start[0, 0] = 0

    def matvec(v: Tensor) -> Tensor:
        return values * v

    one = lanczos_lambda_max(matvec, start, tolerance=1e-6)
    two = lanczos_lambda_max(matvec, start, tolerance=1e-6, starts=2)
    assert one.converged.all()
    assert one.value.item() == pytest.approx(1.0, abs=1e-6)
    assert two.converged.all()
    assert two.value.item() == pytest.approx(1.01, abs=1e-6)


def test_a_loss_affine_in_the_parameters_has_no_curvature() -> None:
    found = hessian_lambda_max(lambda t: t.sum(-1), THETA)
    assert found.converged.all()
    assert (found.value == 0).all()


# Jacobians and kernels


@pytest.mark.parametrize("memory", [2**30, TINY])
def test_jacobians_kernels_and_their_spectra_are_those_of_the_dense_twins(memory: int) -> None:
    by_param, by_input = twin_jacobians(0), twin_jacobians(1)
    close(param_jacobian(mlp, THETA, X, memory=memory), by_param, 1e-13)
    close(input_jacobian(mlp, THETA, X, memory=memory), by_input, 1e-13)
    close(tangent_kernel(mlp, THETA, X, memory=memory), by_param @ by_param.mT, 1e-12)
    singular = np.linalg.svd(by_param.numpy(), compute_uv=False)
    close(param_jacobian_norm(mlp, THETA, X, memory=memory).value, singular[:, 0])
    close(tangent_kernel_lambda_min(mlp, THETA, X, memory=memory).value, singular[:, -1] ** 2)
    singular = np.linalg.svd(by_input.numpy(), compute_uv=False)
    close(input_jacobian_singular_values(mlp, THETA, X, memory=memory), singular)
    close(input_jacobian_norm(mlp, THETA, X, memory=memory).value, singular[:, 0])


def test_inputs_may_be_shared() -> None:
    close(input_jacobian(mlp, THETA, X[0])[0], input_jacobian(mlp, THETA, X)[0], 1e-14)
    close(param_jacobian(mlp, THETA, X[0])[0], param_jacobian(mlp, THETA, X)[0], 1e-14)


def test_sigma_min_is_taken_on_the_output_side() -> None:
    """The MLP has 4 outputs for 3 inputs, so no `y` is reached fully: 0. Its first two outputs alone are reached."""

    def narrow(theta: Tensor, x: Tensor) -> Tensor:
        return mlp(theta, x)[:, :2]

    assert (input_jacobian_sigma_min(mlp, THETA, X).value == 0).all()
    rows = twin_jacobians(1).reshape(NETWORKS, 4, SAMPLES, -1)[:, :2].flatten(1, 2)
    close(input_jacobian_sigma_min(narrow, THETA, X).value, np.linalg.svd(rows.numpy(), compute_uv=False)[:, -1])


def test_the_kernel_of_more_outputs_than_parameters_is_singular() -> None:
    wide = gaussian(NETWORKS, 3, 20)
    assert THETA.shape[1] < 4 * 20
    assert (tangent_kernel_lambda_min(mlp, THETA, wide).value == 0).all()


@pytest.mark.parametrize("of", ["input", "param"])
def test_the_matrix_free_operator_norm_is_the_largest_singular_value(of: str) -> None:
    jacobian = twin_jacobians(1 if of == "input" else 0)
    jvp, vjp = jacobian_operators(mlp, THETA, X, "input" if of == "input" else "param")
    v = gaussian(NETWORKS, jacobian.shape[2], seed=7)
    close(jvp(v), torch.bmm(jacobian, v.unsqueeze(-1)).squeeze(-1), 1e-12)
    found = operator_norm(jvp, vjp, v, tolerance=1e-8)
    close(found.value, np.linalg.svd(jacobian.numpy(), compute_uv=False)[:, 0], 1e-12)
    assert found.converged.all()


# second derivatives


def twin_second(which: Second, b: int) -> np.ndarray:
    """The dense third-order array `D^2 f` of network `b`, `(K N, a, b)`."""
    x, t = X[b].flatten(), THETA[b]
    joint = torch.cat([x, t])
    full = jacrev(jacrev(lambda z: single(b, z[x.numel() :], z[: x.numel()].reshape(X[b].shape))))(joint)
    rows = slice(x.numel()) if which.startswith("input") else slice(x.numel(), None)
    columns = slice(x.numel()) if which == "input_input" else slice(x.numel(), None)
    array: np.ndarray = full[:, rows, columns].numpy()
    return array


def twin_supremum(array: np.ndarray, starts: int, sweeps: int) -> float:
    """Another ascent than ours: for `w` fixed take the top singular pair of `sum_k w_k D^2 f_k`, then the best `w`."""
    draws, best = np.random.default_rng(0), 0.0
    for _ in range(starts):
        w = draws.standard_normal(array.shape[0])
        for _ in range(sweeps):
            left, _, right = np.linalg.svd(np.tensordot(w / np.linalg.norm(w), array, 1))
            w = np.einsum("kab,a,b->k", array, left[:, 0], right[0])
        best = max(best, float(np.linalg.norm(w)))
    return best


@pytest.mark.parametrize("which", get_args(Second))
def test_the_norm_of_the_second_derivative_is_that_of_the_dense_array(which: Second) -> None:
    """Network 0; 30 starts of the twin and 16 of ours were enough for both to stand at the same value."""
    found = second_derivative_norm(mlp, THETA[:1], X[:1], which, starts=16, iterations=2000, tolerance=1e-7)
    assert found.converged.all()
    assert found.method == "power"
    array = twin_second(which, 0)
    u, v = (z[0].numpy() for z in found.vectors)
    assert found.value.item() == pytest.approx(np.linalg.norm(np.einsum("kab,a,b->k", array, u, v)), rel=1e-10)
    assert found.value.item() == pytest.approx(twin_supremum(array, 30, 60), rel=1e-6)


@pytest.mark.parametrize("memory", [2**30, TINY])
def test_the_second_derivative_of_a_known_form_is_known(memory: int) -> None:
    """`f_k(x) = c_k x_k^2 / 2` has `D^2 f[u, v]_k = c_k u_k v_k`, norm `max |c|`; `f = theta . x` has norm 1."""
    c = gaussian(NETWORKS, 6)

    def squares(theta: Tensor, x: Tensor) -> Tensor:
        return theta.unsqueeze(-1) * x.square() / 2

    found = second_derivative_norm(squares, c, gaussian(6, 1), "input_input", starts=12, memory=memory)
    close(found.value, c.abs().amax(1), 1e-8)
    bilinear = second_derivative_norm(lambda t, x: t.unsqueeze(1) @ x, c, gaussian(6, 2), "input_param", memory=memory)
    close(bilinear.value, torch.ones(NETWORKS, dtype=DTYPE), 1e-8)
    none = second_derivative_norm(lambda t, x: t.unsqueeze(1) @ x, c, gaussian(6, 2), "param_param", memory=memory)
    assert (none.value == 0).all()
    assert none.converged.all()


def test_an_unfinished_ascent_says_so_and_under_estimates() -> None:
    short = second_derivative_norm(mlp, THETA, X, "param_param", iterations=1, starts=1)
    long = second_derivative_norm(mlp, THETA, X, "param_param", iterations=500, starts=4)
    assert not short.converged.any()
    assert (short.value < long.value).all()


def test_an_unknown_second_derivative_is_refused() -> None:
    with pytest.raises(ValueError, match="input_param"):
        second_derivative_norm(mlp, THETA, X, "param_input")  # type: ignore[arg-type]


# batches and devices


def everything(device: str) -> dict[str, Measured]:
    theta, x = THETA.to(device), X.to(device)
    jvp, vjp = jacobian_operators(mlp, theta, x, "param")
    return {
        "hessian": hessian_lambda_max(loss, theta, tolerance=1e-9, generator=generator()),
        "dense": dense_hessian_lambda_max(loss, theta),
        "kernel": tangent_kernel_lambda_min(mlp, theta, x),
        "kernel in blocks": tangent_kernel_lambda_min(mlp, theta, x, memory=TINY),
        "param": param_jacobian_norm(mlp, theta, x),
        "input": input_jacobian_norm(mlp, theta, x),
        "operator": operator_norm(jvp, vjp, gaussian(*THETA.shape).to(device), tolerance=1e-9),
        "second": second_derivative_norm(mlp, theta, x, "input_param", generator=generator(), tolerance=1e-8, starts=8),
    }


def test_a_network_is_measured_alone_as_in_the_batch() -> None:
    alone = dense_hessian_lambda_max(lambda t: cross_entropy(mlp(t, X[2]), LABELS), THETA[2:3])
    close(alone.value, dense_hessian_lambda_max(loss, THETA).value[2:3], 1e-12)
    assert all(
        m.value.shape == m.residual.shape == m.converged.shape == (NETWORKS,) for m in everything("cpu").values()
    )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_measures_what_the_cpu_measures() -> None:
    cpu, cuda = everything("cpu"), everything("cuda")
    for name, expected in cpu.items():
        assert cuda[name].value.is_cuda, name
        close(cuda[name].value, expected.value, 1e-8)
