"""Norms of convolutions from their symbols, against dense matrices of their realisations."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Symbol as Name
from torch import Tensor

from numerics.convolution import (
    circle,
    closed_forms,
    convolution_norm,
    dense_matrix,
    exact_norm,
    looseness,
    matrix_norm,
    singular_values,
    symbol_supremum,
    weight_facts,
)
from numerics.device import DTYPE, choose, generator
from theory.atoms.bilinear import MatMul
from theory.atoms.windows import Windows
from theory.records import Shape

ROUNDING = 1e-10
"""Far above the allowance of a matrix of this file's sizes (below 1e-12), far below any looseness that matters."""

circle_norm = partial(convolution_norm, dense=0)
"""The norm from the symbol also where a map is small enough to be decomposed whole."""

Case = tuple[MatMul, Shape]


def convolution(
    grid: tuple[int, ...],
    kernel: tuple[int, ...],
    *,
    features: tuple[int, int] = (3, 2),
    stride: tuple[int, ...] | None = None,
    padding: tuple[int | tuple[int, int], ...] | None = None,
    dilation: tuple[int, ...] | None = None,
    mode: str = "zeros",
    groups: int = 1,
) -> Case:
    """A convolution from `features[0]` to `features[1]` features, and the shape of its input."""
    windows = Windows.of(kernel, stride, padding, dilation, mode)
    return MatMul(features[1], windows=windows, groups=groups), Shape(features[0], 1, grid)


def transposed(case: Case) -> Case:
    """The transposed convolution with the same windows, and the shape of its input, which is the output's."""
    atom, shape = case
    out = atom.output_shape(shape)
    return replace(atom, features=shape.features, transposed=True, grid=shape.grid), out


def weights(case: Case, *batch: int, seed: int = 0) -> Tensor:
    wanted = case[0].weight_shape(case[1])
    return torch.randn(*batch, int(wanted.features), int(wanted.samples), dtype=DTYPE, generator=generator(seed))


def dense_norm(matrix: Tensor, case: Case) -> Tensor:
    return torch.linalg.matrix_norm(dense_matrix(matrix, *case), 2)


CIRCULAR = {
    "1d, same": convolution((7,), (3,), padding=(1,), mode="circular"),
    "1d, even kernel": convolution((6,), (2,), padding=((0, 1),), mode="circular"),
    "1d, kernel around the grid": convolution((3,), (3,), padding=((0, 2),), mode="circular", dilation=(1,)),
    "1d, dilated around the grid": convolution((5,), (3,), padding=((4, 2),), dilation=(3,), mode="circular"),
    "1d, stride dividing the grid": convolution((8,), (3,), stride=(2,), padding=((1, 0),), mode="circular"),
    "1d, stride not dividing the grid": convolution((7,), (2,), stride=(2,), padding=((0, 7),), mode="circular"),
    "1d, patches without padding": convolution((8,), (2,), stride=(2,)),
    "2d, one tap": convolution((3, 2), (1, 1)),
    "1d, stride above the kernel": convolution((9,), (2,), stride=(3,), padding=((1, 0),), mode="circular"),
    "1d, twice around": convolution((4,), (2,), padding=((0, 5),), mode="circular"),
    "2d, same": convolution((4, 5), (3, 3), padding=(1, 1), mode="circular"),
    "2d, strides": convolution((4, 6), (3, 2), stride=(2, 3), padding=((1, 0), (1, 0)), mode="circular"),
    "2d, wide": convolution((4, 4), (3, 3), features=(1, 4), padding=(1, 1), mode="circular"),
    "2d, groups": convolution((4, 4), (3, 3), features=(4, 2), groups=2, padding=(1, 1), mode="circular"),
    "2d, depth-wise": convolution((4, 4), (3, 3), features=(3, 3), groups=3, padding=(1, 1), mode="circular"),
    "3d": convolution((3, 2, 4), (3, 1, 2), features=(2, 2), padding=(1, 0, (0, 1)), mode="circular"),
}
BOUNDED = {
    "1d, same": convolution((7,), (3,), padding=(1,)),
    "1d, one side": convolution((6,), (4,), padding=((3, 0),)),
    "1d, valid": convolution((7,), (3,)),
    "1d, full": convolution((5,), (3,), padding=(2,)),
    "1d, more than full": convolution((4,), (2,), padding=((5, 2),)),
    "1d, cropped": convolution((8,), (3,), padding=((-2, 1),)),
    "1d, stride": convolution((8,), (3,), stride=(2,), padding=(1,)),
    "1d, stride above the kernel": convolution((11,), (2,), stride=(4,), padding=(1,)),
    "1d, single tap, stride": convolution((5,), (1,), stride=(2,)),
    "1d, dilation": convolution((9,), (3,), dilation=(2,), padding=(2,)),
    "1d, dilation and stride": convolution((9,), (3,), dilation=(3,), stride=(2,), padding=((4, 1),)),
    "1d, dead taps": convolution((1,), (5,), padding=(2,)),
    "1d, circular with rows missing": convolution((7,), (3,), padding=((1, 0),), mode="circular"),
    "1d, circular with rows repeated": convolution((5,), (3,), padding=(2,), mode="circular"),
    "1d, reflect": convolution((6,), (3,), padding=(1,), mode="reflect"),
    "1d, replicate, stride": convolution((6,), (3,), stride=(2,), padding=(2,), mode="replicate"),
    "2d, same": convolution((4, 5), (3, 3), padding=(1, 1)),
    "2d, stride 2": convolution((6, 6), (3, 3), stride=(2, 2), padding=(1, 1)),
    "2d, mixed": convolution((6, 5), (2, 3), stride=(1, 2), padding=((1, 0), (0, 2)), dilation=(2, 1)),
    "2d, on a small grid": convolution((2, 1), (3, 3), padding=(1, 1)),
    "2d, reflect": convolution((4, 4), (3, 3), padding=(1, 1), mode="reflect"),
    "2d, replicate": convolution((3, 4), (3, 2), padding=(1, (0, 1)), mode="replicate"),
    "2d, groups": convolution((4, 4), (3, 3), features=(4, 6), groups=2, padding=(1, 1)),
    "2d, depth-wise": convolution((4, 4), (3, 3), features=(3, 3), groups=3, padding=(1, 1)),
    "3d": convolution((3, 3, 2), (2, 3, 1), features=(2, 2), stride=(1, 2, 1), padding=((0, 1), 1, 0)),
    "no windows": (MatMul(4), Shape(3, 1)),
}
EVERY = {f"circular: {name}": case for name, case in CIRCULAR.items()} | BOUNDED


@pytest.mark.parametrize("name", CIRCULAR)
def test_singular_values_of_a_circular_convolution_are_those_of_its_dense_matrix(name: str) -> None:
    case = CIRCULAR[name]
    matrix = weights(case, 2)
    expected = torch.linalg.svdvals(dense_matrix(matrix, *case))
    torch.testing.assert_close(singular_values(matrix, *case), expected, rtol=0, atol=1e-12 * float(expected.max()))


@pytest.mark.parametrize("name", CIRCULAR)
def test_norm_of_a_circular_convolution_is_exact_and_never_below(name: str) -> None:
    case = CIRCULAR[name]
    matrix = weights(case, 3)
    exact, bound = dense_norm(matrix, case), circle_norm(matrix, *case)
    assert bool((bound >= exact).all())
    torch.testing.assert_close(bound, exact, rtol=ROUNDING, atol=0)


@pytest.mark.parametrize("twists", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_every_bound_is_at_least_the_norm_of_the_dense_matrix(name: str, twists: bool) -> None:
    case = EVERY[name]
    matrix = weights(case, 4)
    exact = dense_norm(matrix, case)
    assert bool((circle_norm(matrix, *case, twists=twists) >= exact).all())
    assert bool((symbol_supremum(matrix, *case) >= exact).all())
    for form, value in closed_forms(matrix, *case).items():
        assert bool((value >= exact).all()), form


def test_taps_that_cancel_leave_their_rounding_in_the_bound() -> None:
    """Three taps around a single pixel: `0.1 + 0.2 - 0.3` of the three floats, exactly, is 2.8e-17 (float sums give 0 or 5.6e-17)."""
    case = convolution((1,), (3,), features=(1, 1), padding=((0, 2),), mode="circular")
    for numbers in ((0.1, 0.2, -0.3), (0.1, -0.3, 0.2), (-0.3, 0.2, 0.1)):
        exact = abs(sum(map(Fraction, numbers)))
        assert exact > 0
        for norm in (circle_norm, convolution_norm):
            assert Fraction(float(norm(torch.tensor([numbers], dtype=DTYPE), *case))) >= exact


@pytest.mark.parametrize("name", [name for name, (atom, _) in EVERY.items() if atom.windows is not None])
def test_a_transposed_convolution_has_the_norm_of_the_convolution(name: str) -> None:
    case = EVERY[name]
    other = transposed(case)
    matrix, groups = weights(case, 2), case[0].groups
    blocks = matrix.reshape(2, groups, matrix.shape[1] // groups, matrix.shape[2])
    stored = blocks.mT.reshape(2, -1, matrix.shape[1] // groups)  # the adjoint of every block, below one another
    torch.testing.assert_close(dense_matrix(stored, *other), dense_matrix(matrix, *case).mT, rtol=0, atol=1e-13)
    torch.testing.assert_close(circle_norm(stored, *other), circle_norm(matrix, *case), rtol=1e-13, atol=0)


def test_circular_norm_on_the_same_grid_does_not_bound_zero_padding() -> None:
    """The trap: `K = [1, -1]` on three pixels has 1.732 on the circle of three, 1.802 with zeros."""
    matrix = torch.tensor([[1.0, -1.0]], dtype=DTYPE)
    sides = {"features": (1, 1), "padding": ((0, 1),)}
    circular, zeros = convolution((3,), (2,), mode="circular", **sides), convolution((3,), (2,), **sides)
    same_grid, exact = float(circle_norm(matrix, *circular)), float(dense_norm(matrix, zeros))
    assert same_grid == pytest.approx(math.sqrt(3), rel=ROUNDING)
    assert exact == pytest.approx(2 * math.cos(math.pi / 7), rel=ROUNDING)
    larger = float(circle_norm(matrix, *zeros, twists=False))
    twisted = float(circle_norm(matrix, *zeros))
    assert larger == pytest.approx(2, rel=ROUNDING)
    assert twisted == pytest.approx(2 * math.cos(math.pi / 8), rel=ROUNDING)
    assert same_grid < exact < twisted < larger


def test_least_singular_value_on_a_circle_says_nothing_about_zero_padding() -> None:
    """Both ways: a shift is unitary on the circle and nilpotent with zeros; `[1, -1]` is singular on the circle, not with zeros."""
    shift, difference = torch.tensor([[0.0, 1.0]], dtype=DTYPE), torch.tensor([[1.0, -1.0]], dtype=DTYPE)
    sides = {"features": (1, 1), "padding": ((0, 1),)}
    circular, zeros = convolution((3,), (2,), mode="circular", **sides), convolution((3,), (2,), **sides)
    assert float(singular_values(shift, *circular)[-1]) == pytest.approx(1)
    assert float(torch.linalg.svdvals(dense_matrix(shift, *zeros))[-1]) < 1e-15
    assert float(singular_values(difference, *circular)[-1]) < 1e-15
    assert float(torch.linalg.svdvals(dense_matrix(difference, *zeros))[-1]) > 0.4
    with pytest.raises(ValueError, match="axis 0 of the grid is not a whole circular convolution"):
        singular_values(shift, *zeros)


@pytest.mark.parametrize("length", [1, 2, 5, 30])
def test_the_twisted_circle_is_exact_for_a_positive_second_difference(length: int) -> None:
    matrix, case = (
        torch.tensor([[1.0, 2.0, 1.0]], dtype=DTYPE),
        convolution((length,), (3,), features=(1, 1), padding=(1,)),
    )
    assert float(circle_norm(matrix, *case)) == pytest.approx(2 + 2 * math.cos(math.pi / (length + 1)), rel=ROUNDING)


def test_enlargement_is_half_the_kernel_for_centred_taps_and_shared_by_both_ends() -> None:
    assert circle(Windows.of((5,), padding=(2,)), 0, 16).points == 18
    assert circle(Windows.of((3,), padding=(1,)), 0, 32).points == 33
    assert circle(Windows.of((3,), padding=(2,), dilation=(2,)), 0, 32).points == 34
    assert circle(Windows.of((3,)), 0, 32).points == 32
    assert circle(Windows.of((3,), padding=(2,)), 0, 32).points == 34
    assert circle(Windows.of((3,), stride=(2,), padding=(1,)), 0, 32).points == 17
    assert circle(Windows.of((7,), padding=(3,)), 0, 1).taps == (3,)


def test_one_position_less_is_not_enough() -> None:
    """The enlargement is needed: on a circle with one position less a filled position meets a stored one, and some kernel refutes it."""
    case = convolution((3,), (3,), features=(1, 1), padding=(1,))
    smaller = convolution((3,), (3,), features=(1, 1), padding=(1,), mode="circular")
    matrix = weights(case, 200)
    assert bool((circle_norm(matrix, *smaller) < dense_norm(matrix, case) * (1 - 1e-6)).any())


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_is_its_members_and_chunks_do_not_matter(name: str) -> None:
    case = EVERY[name]
    matrix = weights(case, 2, 3)
    bound = circle_norm(matrix, *case)
    assert bound.shape == (2, 3)
    single = torch.stack([circle_norm(one, *case) for one in matrix.flatten(0, 1)]).reshape(2, 3)
    torch.testing.assert_close(bound, single, rtol=1e-13, atol=0)
    torch.testing.assert_close(circle_norm(matrix, *case, memory=1), single, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["1d, dilation and stride", "2d, stride 2", "2d, replicate", "3d"])
def test_groups_give_the_largest_of_their_blocks(name: str) -> None:
    atom, shape = BOUNDED[name]
    grouped = (replace(atom, features=2 * atom.features, groups=2), replace(shape, features=2 * shape.features))
    matrix = weights(grouped)
    blocks = torch.stack(matrix.chunk(2))
    for bound in (circle_norm, symbol_supremum):
        expected = bound(blocks, atom, shape).amax(0)
        torch.testing.assert_close(bound(matrix, *grouped), expected, rtol=1e-13, atol=0)


@given(
    st.sampled_from(sorted(EVERY)),
    st.floats(1e-3, 1e3),
    st.integers(-400, 400),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_norms_are_homogeneous(name: str, factor: float, exponent: int, seed: int) -> None:
    case = EVERY[name]
    matrix, scale = weights(case, seed=seed), -factor * 2.0**exponent
    scaled = circle_norm(scale * matrix, *case)
    torch.testing.assert_close(scaled, abs(scale) * circle_norm(matrix, *case), rtol=1e-12, atol=0)
    facts, others = weight_facts(matrix), weight_facts(scale * matrix)
    for field in ("frobenius", "operator", "row", "column", "entry"):
        torch.testing.assert_close(getattr(others, field), abs(scale) * getattr(facts, field), rtol=1e-12, atol=0)


@given(
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.tuples(st.integers(-2, 5), st.integers(-2, 5)),
    st.sampled_from(["zeros", "circular", "reflect", "replicate"]),
    st.integers(0, 2**31),
)
@settings(max_examples=300, deadline=None)
def test_no_window_on_one_axis_escapes_its_bound(
    length: int, kernel: int, stride: int, dilation: int, padding: tuple[int, int], mode: str, seed: int
) -> None:
    if length + sum(padding) < dilation * (kernel - 1) + 1:
        return
    case = convolution((length,), (kernel,), stride=(stride,), padding=(padding,), dilation=(dilation,), mode=mode)
    matrix = weights(case, 3, seed=seed)
    exact, bound = dense_norm(matrix, case), circle_norm(matrix, *case)
    assert bool((bound >= exact).all())
    assert bool((circle_norm(matrix, *case, twists=False) >= exact).all())
    if circle(case[0].windows, 0, length).exact:
        torch.testing.assert_close(bound, exact, rtol=ROUNDING, atol=1e-300)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_zero_equal_and_cancelling_weights_are_no_special_case(mode: str) -> None:
    case = convolution((4,), (3,), padding=(1,), mode=mode)
    equal, zero = torch.ones_like(weights(case)), torch.zeros_like(weights(case))
    single = zero.clone()
    single[:, 1::3] = weights(case)[:, 1::3]  # all blocks are equal
    around = convolution((1,), (2,), padding=((0, 1),), mode="circular", features=(1, 1))
    for matrix in (equal, single):
        assert float(circle_norm(matrix, *case)) >= float(dense_norm(matrix, case))
    assert float(circle_norm(zero, *case)) == 0
    assert float(convolution_norm(zero, *case)) == 0
    for norm in (circle_norm, convolution_norm):
        assert 0 <= float(norm(torch.tensor([[1.0, -1.0]], dtype=DTYPE), *around)) < 1e-12


@pytest.mark.parametrize("name", EVERY)
def test_small_maps_are_decomposed_whole_so_their_norm_is_exact(name: str) -> None:
    case = EVERY[name]
    matrix = weights(case, 2, 2)
    exact = dense_norm(matrix, case)
    for bound in (convolution_norm(matrix, *case), convolution_norm(matrix, *case, memory=100_000)):
        assert bool((bound >= exact).all())
        torch.testing.assert_close(bound, exact, rtol=ROUNDING, atol=0)


@pytest.mark.parametrize("name", ["1d, stride", "2d, same", "2d, reflect", "2d, groups"])
def test_lanczos_on_the_realisation_agrees_with_the_dense_matrix(name: str) -> None:
    case = BOUNDED[name]
    matrix = weights(case, 2)
    measured = exact_norm(matrix, *case)
    assert bool(measured.converged.all())
    torch.testing.assert_close(measured.value, dense_norm(matrix, case), rtol=1e-9, atol=0)
    assert all(bool((ratio >= 1 - 1e-9).all()) for ratio in looseness(matrix, *case).values())


def test_bounds_are_ordered_and_close_on_a_usual_layer() -> None:
    """16 channels on 8 x 8: within 7 per cent of the truth, where the closed form in use is loose by 1.7 or more."""
    case = convolution((8, 8), (3, 3), features=(16, 16), padding=(1, 1))
    ratios = looseness(weights(case, 4), *case)
    assert float(ratios["twisted"].max()) < 1.07
    assert bool((ratios["twisted"] <= ratios["circle"] * (1 + 1e-12)).all())
    assert bool((ratios["circle"] <= ratios["all frequencies"] * (1 + 1e-12)).all())
    assert bool((ratios["unfoldings"] <= ratios["coverage"] * (1 + 1e-12)).all())
    assert float(ratios["coverage"].min()) > 1.7


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 6)])
def test_weight_facts_are_on_their_side_of_the_truth(shape: tuple[int, int]) -> None:
    matrix = torch.randn(5, *shape, dtype=DTYPE, generator=generator(0))
    values, facts = torch.linalg.svdvals(matrix), weight_facts(matrix)
    least, zero = values[..., -1], torch.zeros(5, dtype=DTYPE)
    upper = {
        "frobenius": values.square().sum(-1).sqrt(),
        "operator": values[..., 0],
        "row": matrix.norm(dim=-1).amax(-1),
        "column": matrix.norm(dim=-2).amax(-1),
        "entry": matrix.abs().amax((-2, -1)),
    }
    lower = {
        "sigma_min": least if shape[0] >= shape[1] else zero,
        "row_sigma_min": least if shape[0] <= shape[1] else zero,
    }
    for name, truth in upper.items():
        assert bool((getattr(facts, name) >= truth * (1 - 4e-16)).all()), name
        torch.testing.assert_close(getattr(facts, name), truth, rtol=1e-12, atol=0)
    for name, truth in lower.items():
        assert bool((getattr(facts, name) <= truth).all()), name
        torch.testing.assert_close(getattr(facts, name), truth, rtol=0, atol=1e-12)
    torch.testing.assert_close(facts.operator, matrix_norm(matrix), rtol=1e-12, atol=0)


def test_bad_input_is_refused_by_name() -> None:
    case = convolution((4, 4), (3, 3), padding=(1, 1))
    atom, shape = case
    matrix = weights(case)
    with pytest.raises(TypeError, match=r"torch\.float32: convert it to torch\.float64"):
        convolution_norm(matrix.float(), *case)
    with pytest.raises(ValueError, match=r"shape \(3, 27\): expected \(\*batch, 2, 27\)"):
        convolution_norm(torch.ones(3, 27, dtype=DTYPE), *case)
    with pytest.raises(ValueError, match="not finite"):
        convolution_norm(matrix * math.inf, *case)
    with pytest.raises(ValueError, match="'lowest' is not linear"):
        convolution_norm(matrix, replace(atom, windows=Windows.of((3, 3), padding=(1, 1), mode="lowest")), shape)
    with pytest.raises(ValueError, match="no value for h"):
        convolution_norm(matrix, atom, Shape(3, 1, (4, Name("h", positive=True, integer=True))))
    with pytest.raises(ValueError, match="windows over 2 axes"):
        convolution_norm(matrix, atom, Shape(3, 1, (4,)))
    with pytest.raises(ValueError, match=r"expected \(B, rows, columns\)"):
        exact_norm(matrix, *case)
    with pytest.raises(TypeError, match="convert it"):
        weight_facts(matrix.float())
    with pytest.raises(ValueError, match="not finite"):
        weight_facts(matrix * math.nan)
    with pytest.raises(ValueError, match=r"\(\*batch, rows, columns\)"):
        weight_facts(matrix[0])


@pytest.mark.cuda
@pytest.mark.skipif(choose().type != "cuda", reason="needs a CUDA device")
def test_a_gpu_gives_the_same_norms() -> None:
    case = BOUNDED["2d, mixed"]
    matrix = weights(case, 3)
    there = circle_norm(matrix.to(choose("cuda")), *case)
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), circle_norm(matrix, *case), rtol=1e-12, atol=0)
