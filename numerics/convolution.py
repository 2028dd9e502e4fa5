r"""Operator norms of convolutions at given weights, from the symbol on a grid of frequencies; batched over networks.

Along one axis a tap picks position `o stride - before + t dilation` for output `o`. Three facts carry everything:

* **Circular padding.** Shifts of a cyclic group commute with the stride's subgroup, so the Fourier transform makes the
  convolution block diagonal: one block `H(theta)` of shape `out x (in classes)` a frequency of the output. With
  `g = gcd(stride, length)` a tap falls into the class of its offset modulo `g` (its polyphase component), and within the class it
  has the phase `exp(i theta (offset // g))`, `theta` running over the `length / g` frequencies. The block's singular values
  are those of the convolution, exactly, where the number of outputs is a multiple of `length / g`; else rows are missing
  (or repeated), and the norm is at most `sqrt(ceil(outputs g / length))` times the largest one.

* **Zero padding.** Write the input into a circle of `P` positions, zeros elsewhere (an isometry `E`), convolve circularly with
  the same stride, keep the outputs asked for (`R`, a selection): `T = R C E`, so `|T| <= |C|`, as soon as no filled position
  meets a stored one on the circle. With `q` from `q_min` to `q_max` the positions that live taps pick and `lo..hi` the stored ones
  among them, that is `P >= hi - q_min + 1` and `P >= q_max - lo + 1`, rounded up to a multiple of the stride. (Two outputs that
  share a place on the circle then pick filled positions only, and count for nothing.) Both ends may share the added zeros: a
  centred kernel of `k` taps needs `floor(k/2)` more positions (times the dilation). Taps that only ever pick filled positions are
  dropped first. Nothing is said about the least singular value: a compression may lower it to 0.

* **Twists.** The same argument holds on a circle that multiplies what goes around by `exp(i phi)`, for the zeros never
  let a stored entry meet one that went around. Its frequencies are `(2 pi j + phi) / P`. With `phi` 0 or pi on every axis
  conjugate symmetry is kept, so half of the frequencies suffice; every choice bounds `|T|`, and the least one is
  returned. For `[1, 2, 1]` with zeros at both ends `phi = pi` is exact: `2 + 2 cos(pi / (n + 1))`.

Reflected and replicated padding is a selection of norm `sqrt(largest coverage)` followed by a convolution without padding.
Groups are blocks of a diagonal, and a transposed convolution is the adjoint of a convolution: same norm.

The symbol is a product with a few rows of the discrete Fourier matrix (one a tap) rather than an FFT: taps are few, frequencies
can be taken in chunks within a memory budget, and phases come from integers, so that they are right to rounding.

Sources: H. Sedghi, V. Gupta, P. M. Long, The Singular Values of Convolutional Layers, ICLR 2019 (circular, stride 1);
S. Singla, S. Feizi, Fantastic Four: Differentiable Bounds on Singular Values of Convolution Layers, ICLR 2021 (`unfoldings`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import sympy
import torch
from torch import Tensor

from numerics.device import DTYPE
from numerics.measure import Measured, Operator, draw, operator_norm
from numerics.realise import Allocator, number, operation
from theory.atoms.bilinear import MatMul
from theory.atoms.windows import Windows
from theory.records import Shape

EPS = torch.finfo(DTYPE).eps
MEMORY = 2**28
"""Default budget in bytes of the blocks of one chunk of frequencies."""


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution as (part of) a circular one.

    Attributes:
        taps: the taps that ever pick a stored position.
        classes: of every such tap, its column block (its offset modulo the stride).
        exponents: of every such tap, its offset in outputs.
        points: positions of the circle in outputs, which is the number of frequencies.
        free: whether the circle may be twisted (zero padding).
        factor: the convolution's norm is at most `sqrt(factor)` times the circular one's.
        exact: whether all of its singular values are `sqrt(factor)` times those of the blocks.
    """

    taps: tuple[int, ...]
    classes: tuple[int, ...]
    exponents: tuple[int, ...]
    points: int
    free: bool
    factor: int
    exact: bool


def circle(windows: Windows, axis: int, length: int) -> Axis:
    """The circle on which an axis of that length is embedded: see the head of this file for the argument.

    Raises:
        ValueError: padding with minus infinity, which is not linear.
    """
    if windows.mode == "lowest":
        raise ValueError("padding mode 'lowest' is not linear: a convolution has zeros, circular, reflect or replicate")
    kernel, stride, dilation = windows.kernel[axis], windows.stride[axis], windows.dilation[axis]
    before, after = windows.padding[axis]
    padded, factor = max(before, after) > 0, 1
    outputs = int(windows.output_length(axis, sympy.Integer(length)))
    step = math.gcd(stride, length)
    points = length // step
    if (
        windows.mode == "circular" if padded else outputs == points
    ):  # windows that only touch need no padding to be circular
        offsets = [tap * dilation for tap in range(kernel)]
        copies = -(-outputs // points)
        return Axis(
            tuple(range(kernel)),
            tuple(offset % step for offset in offsets),
            tuple(offset // step for offset in offsets),
            points,
            free=False,
            factor=copies,
            exact=outputs % points == 0,
        )
    if padded and windows.mode in ("reflect", "replicate"):
        fill = Windows.of((1,), padding=((before, after),), mode=windows.mode)
        factor = int(fill.coverage(0, sympy.Integer(length))[0])
        length, before = length + before + after, 0
    picks = {
        tap: [q for o in range(outputs) if 0 <= (q := o * stride - before + tap * dilation) < length]
        for tap in range(kernel)
    }
    live = [tap for tap in range(kernel) if picks[tap]] or [0]
    inside = [q for tap in live for q in picks[tap]] or [0]
    first, last = live[0] * dilation - before, (outputs - 1) * stride - before + live[-1] * dilation
    points = -(-max(max(inside) - first + 1, last - min(inside) + 1) // stride)
    offsets = [tap * dilation for tap in live]
    return Axis(
        tuple(live),
        tuple(offset % stride for offset in offsets),
        tuple(offset // stride for offset in offsets),
        points,
        free=True,
        factor=factor,
        exact=False,
    )


@dataclass(frozen=True)
class Kernel:
    """The weights of a convolution, `blocks` of shape `(*batch, groups, out, in, taps...)`, and its grid of outputs and inputs.

    Of a transposed convolution it is the adjoint, which is a convolution.
    """

    blocks: Tensor
    windows: Windows
    grid: tuple[int, ...]

    @property
    def batch(self) -> tuple[int, ...]:
        return tuple(self.blocks.shape[: -3 - len(self.grid)])

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(circle(self.windows, axis, length) for axis, length in enumerate(self.grid))

    @property
    def outputs(self) -> int:
        lengths = [self.windows.output_length(axis, sympy.Integer(length)) for axis, length in enumerate(self.grid)]
        return math.prod(int(length) for length in lengths)

    def flat(self) -> Tensor:
        """`(*batch, groups, out, in taps)`: the matrices of the groups."""
        return self.blocks.flatten(-1 - len(self.grid))

    def coverage(self) -> int:
        """`|W|^2`: how often the windows pick one position at most."""
        counts = (self.windows.coverage(axis, sympy.Integer(length))[0] for axis, length in enumerate(self.grid))
        return math.prod(int(count) for count in counts)


def _integer(value: sympy.Expr, what: str) -> int:
    size = number(value, what)
    if size != int(size) or size < 1:
        raise ValueError(f"{what} = {value}: a norm at given weights needs a positive whole number")
    return int(size)


def kernel_of(matrix: Tensor, atom: MatMul, shape: Shape) -> Kernel:
    """The weight matrix of an atom, `(*batch, rows, columns)` as `numerics.realise` stores it, as a kernel.

    Raises:
        TypeError: not float64.
        ValueError: naming the size that does not fit, a symbol without value, or entries that are not finite.
    """
    out_shape, wanted = atom.output_shape(shape), atom.weight_shape(shape)
    rows, columns = _integer(wanted.features, "rows of the weight"), _integer(wanted.samples, "columns of the weight")
    if matrix.dtype != DTYPE:
        raise TypeError(f"the weight matrix is {matrix.dtype}: convert it to {DTYPE}")
    if tuple(matrix.shape[-2:]) != (rows, columns):
        raise ValueError(f"the weight matrix has shape {tuple(matrix.shape)}: expected (*batch, {rows}, {columns})")
    if not bool(matrix.isfinite().all()):
        raise ValueError("the weight matrix has entries that are not finite: it has no norm")
    windows = atom.windows or Windows.of((1,))
    inner = out_shape if atom.transposed else shape
    lengths = (sympy.S.One,) if atom.windows is None else inner.grid  # without windows all positions are alike
    grid = tuple(_integer(length, "length of the grid") for length in lengths)
    batch, groups = matrix.shape[:-2], atom.groups
    if atom.transposed:
        blocks = matrix.reshape(*batch, groups, rows // groups, columns).mT
    else:
        blocks = matrix.reshape(*batch, groups, rows // groups, columns)
    return Kernel(blocks.reshape(*blocks.shape[:-1], -1, *windows.kernel), windows, grid)


def _nonzero(scale: Tensor) -> Tensor:
    """What to divide by: the scale, or 1 where everything is zero."""
    return scale.where(scale > 0, torch.ones_like(scale))


# The symbol


@dataclass(frozen=True)
class Symbol:
    """The blocks `H(theta)` of one network and group: products of phases with the taps of each class."""

    taps: tuple[Tensor, ...]  # for every class (B, taps of the class, out * in)
    exponents: tuple[Tensor, ...]  # for every class (axes, taps of the class)
    out: int
    points: tuple[int, ...]

    @classmethod
    def of(cls, kernel: Kernel) -> Symbol:
        axes, blocks = kernel.axes, kernel.blocks
        for axis, chosen in enumerate(axes):
            index = torch.tensor(chosen.taps, device=blocks.device)
            blocks = blocks.index_select(axis - len(axes), index)
        blocks = blocks.flatten(0, -3 - len(axes)).reshape(-1, *blocks.shape[-2 - len(axes) :])
        out, width = blocks.shape[1:3]
        blocks = blocks.reshape(len(blocks), out * width, -1).mT.contiguous()
        classes = list(itertools.product(*(axis.classes for axis in axes)))
        exponents = torch.tensor(list(itertools.product(*(axis.exponents for axis in axes)))).reshape(len(classes), -1)
        members = [[t for t, own in enumerate(classes) if own == one] for one in sorted(set(classes))]
        return cls(
            tuple(blocks[:, member] for member in members),
            tuple(exponents[member].mT for member in members),
            out,
            tuple(axis.points for axis in axes),
        )

    @property
    def columns(self) -> int:
        return sum(t.shape[-1] for t in self.taps) // self.out

    @property
    def side(self) -> int:
        return min(self.out, self.columns)

    @property
    def frobenius(self) -> Tensor:
        return torch.stack([t.square().sum((-2, -1)) for t in self.taps]).sum(0).sqrt()

    def half(self, twist: tuple[bool, ...]) -> Tensor:
        """One of each pair of opposite frequencies: `(frequencies, axes)`, in units of half a step where the axis is twisted."""
        ranges = [torch.arange(points) for points in self.points]
        index = torch.stack(torch.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, len(ranges))
        modulo = torch.tensor(self.points)
        opposite = torch.where(torch.tensor(twist), modulo - 1 - index, -index % modulo)
        strides = torch.tensor([math.prod(self.points[axis + 1 :]) for axis in range(len(self.points))])
        kept = index[(index * strides).sum(-1) <= (opposite * strides).sum(-1)]
        return 2 * kept + torch.tensor(twist).long()

    def at(self, frequencies: Tensor, rows: slice) -> Tensor:
        """The blocks of some networks at some frequencies: complex `(B, frequencies, out, columns)`."""
        pieces = []
        for taps, exponents in zip(self.taps, self.exponents, strict=True):
            turns = torch.zeros(len(frequencies), exponents.shape[1], dtype=DTYPE)
            for axis, points in enumerate(self.points):
                # whole turns are taken off as integers, so the angle is right to rounding
                turns += (frequencies[:, axis : axis + 1] * exponents[axis] % (2 * points)).to(DTYPE) / (2 * points)
            angle = (2 * math.pi * (turns % 1)).to(taps.device)
            block = torch.complex(angle.cos() @ taps[rows], angle.sin() @ taps[rows])
            pieces.append(block.reshape(*block.shape[:-1], self.out, -1))
        return torch.cat(pieces, -1)

    def chunks(self, frequencies: Tensor, memory: int) -> Iterator[tuple[slice, Tensor]]:
        """Networks and frequencies whose blocks (with their Gram matrices and what the eigenvalues need) fit the budget."""
        size = 16 * (2 * self.out * self.columns + 3 * self.side**2)
        count = max(1, memory // size)
        step = max(1, min(len(self.taps[0]), count // len(frequencies) or 1))
        for start in range(0, len(self.taps[0]), step):
            for part in frequencies.split(max(1, count // step)):
                yield slice(start, start + step), part

    @property
    def relative(self) -> float:
        """Allowance on the largest eigenvalue of a Gram matrix, relative to it: for its formation and for the eigenvalue itself.

        A product with `c` terms has an error of at most `gamma_c |H| |H|^*` by entries, of norm at most `gamma_c side lambda`; the computed
        eigenvalues are those of a matrix at a distance of at most a modest multiple of `side eps lambda` (backward stability,
        as LAPACK states it). The factor 8 covers complex arithmetic and that multiple.
        """
        return 8 * (max(self.out, self.columns) + self.side + 8) * (self.side + 1) * EPS

    @property
    def absolute(self) -> Tensor:
        """Allowance on a singular value for the rounding of the block: `gamma sum_t |A_t|_F <= gamma sqrt(taps) |A|_F`."""
        taps = sum(t.shape[1] for t in self.taps)
        return 8 * (taps + 8) * math.sqrt(taps) * EPS * self.frobenius


def _circular_norm(symbol: Symbol, twist: tuple[bool, ...], memory: int) -> Tensor:
    """Upper bound of `max |H(theta)|` over the frequencies of a twisted circle, `(B,)`: exact up to the allowances in it."""
    largest = torch.stack([t.abs().amax((-2, -1)) for t in symbol.taps]).amax(0)
    scale = _nonzero(largest)
    symbol = replace(symbol, taps=tuple(t / scale[:, None, None] for t in symbol.taps))
    best, absolute = torch.zeros_like(scale), symbol.absolute
    for rows, frequencies in symbol.chunks(symbol.half(twist), memory):
        block = symbol.at(frequencies, rows)
        gram = block @ block.mH if symbol.out <= symbol.columns else block.mH @ block
        best[rows] = best[rows].maximum(torch.linalg.eigvalsh(gram)[..., -1].amax(-1))
    norm = (best * (1 + symbol.relative)).sqrt() + absolute
    return norm * largest * (1 + 4 * EPS)


def matrix_norm(matrix: Tensor) -> Tensor:
    """Certified upper bound of the operator norm of real matrices `(*batch, m, n)`, by the smaller Gram matrix: `(*batch)`."""
    m, n = matrix.shape[-2:]
    scale = matrix.abs().amax((-2, -1), keepdim=True)
    scaled = matrix / _nonzero(scale)
    gram = scaled @ scaled.mT if m <= n else scaled.mT @ scaled
    top: Tensor = torch.linalg.eigvalsh(gram)[..., -1].clamp(min=0)
    return (top * (1 + 8 * (max(m, n) + min(m, n) + 8) * (min(m, n) + 1) * EPS)).sqrt() * scale[..., 0, 0]


# The norms


def convolution_norm(
    matrix: Tensor, atom: MatMul, shape: Shape, *, dense: int = 256, twists: bool = True, memory: int = MEMORY
) -> Tensor:
    """Certified upper bound of the operator norm of the linear map `X -> A W(X)` of an atom at given weights.

    Exact up to rounding for full circular padding and for small maps, which are decomposed whole; else the norm of the circular
    convolution of which it is a compression (or `|A| sqrt(largest coverage)` where a small grid makes that one smaller). It is inflated by the allowance of its own rounding, a
    relative `4 (columns + side + 8) (side + 1) eps` (5e-10 for 512 channels, 6e-13 for 16) from the eigenvalues of the Gram
    matrices, and `8 (taps + 8) sqrt(taps) eps |A|_F` (or less) from the sums over taps and their phases.

    Args:
        matrix: `A`, `(*batch, rows, columns)`, as `numerics.realise` stores the weight (after its normalisation, if any); float64.
        atom: with windows (also transposed, with groups) or without; its bias and parameter map are ignored.
        shape: of the input; the number of samples does not matter.
        dense: maps with at most that many outputs or inputs in a group are decomposed whole (where the budget allows); 0 for none.
        twists: take the least bound over the twisted circles, at `2^axes` times the cost at most.
        memory: budget in bytes for the blocks of one chunk.

    Returns:
        `(*batch)`.

    Raises:
        TypeError: not float64.
        ValueError: naming the size or the mode that does not fit, or entries that are not finite.
    """
    kernel = kernel_of(matrix, atom, shape)
    axes, symbol = kernel.axes, Symbol.of(kernel)
    flat, width = kernel.flat(), kernel.blocks.shape[-1 - len(axes)]
    outputs, inputs = symbol.out * kernel.outputs, width * math.prod(kernel.grid)
    if min(outputs, inputs) <= dense and 24 * outputs * inputs <= memory:
        one = MatMul(symbol.out, windows=kernel.windows), Shape(width, 1, kernel.grid)
        parts = flat.flatten(0, -3).split(memory // (24 * outputs * inputs))
        norms = torch.cat([matrix_norm(dense_matrix(part, *one)) for part in parts])
        # taps that meet one position were added: |error| <= gamma |A|_F |W|
        size = flat.abs().amax((-2, -1)) * math.sqrt(flat.shape[-2] * flat.shape[-1] * kernel.coverage())
        return (norms.reshape(size.shape) + (kernel.windows.taps + 8) * EPS * size).amax(-1)
    # along an axis with one exponent the blocks differ by a unimodular factor
    points = tuple(axis.points if len(set(axis.exponents)) > 1 else 1 for axis in axes)
    symbol = replace(symbol, points=points)
    options = itertools.product(
        *(
            (False, True) if axis.free and count > 1 and twists else (False,)
            for axis, count in zip(axes, points, strict=True)
        )
    )
    norms = torch.stack([_circular_norm(symbol, twist, memory) for twist in options]).amin(0)
    norms = norms * math.sqrt(math.prod(axis.factor for axis in axes)) * (1 + 4 * EPS)
    norms = norms.reshape(*kernel.batch, -1)
    if not all(axis.exact for axis in axes) and kernel.coverage() < kernel.windows.taps:
        norms = norms.minimum(matrix_norm(flat) * math.sqrt(kernel.coverage()) * (1 + 4 * EPS))
    return norms.amax(-1)


def singular_values(matrix: Tensor, atom: MatMul, shape: Shape) -> Tensor:
    """All singular values of a circular convolution (or its transpose), descending, from its blocks: `(*batch, min(outputs, inputs))`.

    Raises:
        ValueError: naming the axis on which the convolution is not a whole circular one (zero padding is none: its
            least singular value has nothing to do with that of a circular one); and as `convolution_norm`.
    """
    kernel = kernel_of(matrix, atom, shape)
    axes, symbol = kernel.axes, Symbol.of(kernel)
    for index, axis in enumerate(axes):
        if not axis.exact:
            raise ValueError(
                f"axis {index} of the grid is not a whole circular convolution (mode {kernel.windows.mode}): only its norm has a bound here"
            )
    ranges = [torch.arange(points) for points in symbol.points]
    every = 2 * torch.stack(torch.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, len(ranges))
    found: Tensor = torch.linalg.svdvals(symbol.at(every, slice(None)))
    found = found.reshape(*kernel.batch, -1) * math.sqrt(math.prod(axis.factor for axis in axes))
    groups, out, width = kernel.blocks.shape[len(kernel.batch) : len(kernel.batch) + 3]
    count = groups * min(out * kernel.outputs, width * math.prod(kernel.grid))
    missing = max(count - found.shape[-1], 0)
    padded = torch.cat([found, found.new_zeros(*found.shape[:-1], missing)], -1)
    return padded.sort(-1, descending=True).values[..., :count]


def symbol_supremum(matrix: Tensor, atom: MatMul, shape: Shape, *, points: int = 32, memory: int = MEMORY) -> Tensor:
    """Upper bound of the norm from `sup |H(theta)|` over ALL frequencies; with zero padding it holds on larger grids too: `(*batch)`.

    Never below `convolution_norm` but for rounding: it is for grids that are not fixed, and for a check.

    For unit `u, v` the real part of `exp(i alpha) u^* H v` is along each axis a trigonometric polynomial of degree `D`, half the largest
    exponent (after a unimodular factor). Where such a function takes its extreme value `m` it stays above `m cos(D t)` at a distance `t <=
    pi / D` (Bernstein; Duffin and Schaeffer), and a grid point is within `pi / points`: divide by `cos(pi D / points)` for each axis.

    Args:
        points: frequencies an axis, at least; more than the largest exponent are taken.
    """
    kernel = kernel_of(matrix, atom, shape)
    symbol, axes = Symbol.of(kernel), kernel.axes
    largest = [max(axis.exponents) - min(axis.exponents) for axis in axes]
    counts = tuple(max(points, 4 * degree) if degree else 1 for degree in largest)
    bound = _circular_norm(replace(symbol, points=counts), (False,) * len(counts), memory)
    for degree, count, axis in zip(largest, counts, axes, strict=True):
        bound = bound * math.sqrt(axis.factor) / math.cos(math.pi * degree / (2 * count)) * (1 + 4 * EPS)
    return bound.reshape(*kernel.batch, -1).amax(-1)


# Closed forms, and the exact value


def closed_forms(matrix: Tensor, atom: MatMul, shape: Shape) -> dict[str, Tensor]:
    """Upper bounds without frequencies, `(*batch)` each, the largest over the groups; all of them hold for every mode of padding.

    * `coverage`: `|A| sqrt(c)`, `c` the largest coverage count, exact for the windows; what `theory` uses in tables;
    * `frobenius`: the same with `|A|_F`;
    * `unfoldings`: `sqrt(taps) min |A_S|` over the `2^axes` unfoldings that put the axes in `S` beside the output features:
      `H(theta) = (I (x) e_S)^T A_S (I (x) e_rest)` with vectors of phases;
    * `sums`: `sqrt(r c)`, the largest sums of absolute values by rows and by columns (Schur's test).

    The last two hold on a circle, and so for its compressions, times the factor of the padding.
    """
    kernel = kernel_of(matrix, atom, shape)
    blocks, flat, rank = kernel.blocks, kernel.flat(), len(kernel.grid)
    root = math.sqrt(kernel.coverage())
    filling = math.sqrt(math.prod(axis.factor for axis in kernel.axes))
    lead = len(kernel.batch) + 1
    unfolded = []
    for count in range(rank + 1):
        for chosen in itertools.combinations(range(rank), count):
            beside = [lead + 2 + axis for axis in chosen]
            rest = [lead + 2 + axis for axis in range(rank) if axis not in chosen]
            order = (*range(lead), lead, *beside, lead + 1, *rest)
            unfolded.append(matrix_norm(blocks.permute(order).flatten(lead, lead + count).flatten(lead + 1)))
    absolute = blocks.abs().reshape(*blocks.shape[: lead + 2], -1).sum(-1)
    rows, columns = absolute.sum(-1).amax(-1), absolute.sum(-2).amax(-1)
    up = 1 + 8 * (flat.shape[-1] + flat.shape[-2] + 8) * EPS
    options = {
        "coverage": matrix_norm(flat) * root * up,
        "frobenius": torch.linalg.matrix_norm(flat) * root * (1 + (flat.shape[-2] * flat.shape[-1] + 8) * EPS),
        "unfoldings": torch.stack(unfolded).amin(0) * math.sqrt(kernel.windows.taps) * filling * up,
        "sums": (rows * columns).sqrt() * filling * up,
    }
    return {name: value.amax(-1) for name, value in options.items()}


def _realised(matrix: Tensor, atom: MatMul, shape: Shape, samples: int) -> Operator:
    """The linear map of the atom at these weights on `(*batch, inputs, samples)`, without bias."""
    kernel_of(matrix, atom, shape)
    bare = replace(atom, bias=False, parameter_map=())
    apply = operation(bare, replace(shape, samples=sympy.Integer(samples)), Allocator(), "convolution")
    return lambda x: apply([matrix.detach()], x)


def dense_matrix(matrix: Tensor, atom: MatMul, shape: Shape) -> Tensor:
    """The whole map as a matrix `(*batch, outputs, inputs)`, by applying its realisation to the identity: for small sizes."""
    inputs = _integer(shape.sample_size, "numbers in a sample")
    return _realised(matrix, atom, shape, inputs)(torch.eye(inputs, dtype=DTYPE, device=matrix.device))


def exact_norm(
    matrix: Tensor, atom: MatMul, shape: Shape, *, tolerance: float = 1e-8, max_iterations: int = 600, starts: int = 2
) -> Measured:
    """The norm of the map itself by Lanczos on its realisation: value (an UNDER-estimate), residual; `matrix` is `(B, rows, columns)`.

    The referee of `convolution_norm` and the denominator of tightness figures; see `numerics.measure.operator_norm`.
    """
    if matrix.ndim != 3:
        raise ValueError(f"the weight matrix has shape {tuple(matrix.shape)}: expected (B, rows, columns)")
    apply, inputs = _realised(matrix, atom, shape, 1), _integer(shape.sample_size, "numbers in a sample")
    x = torch.zeros(len(matrix), inputs, 1, dtype=DTYPE, device=matrix.device).requires_grad_()
    with torch.enable_grad():
        image = apply(x)

    def pulled(u: Tensor) -> Tensor:
        (result,) = torch.autograd.grad(image, x, u.reshape(image.shape), retain_graph=True)
        return result.squeeze(-1)

    return operator_norm(
        lambda v: apply(v.unsqueeze(-1)).flatten(1),
        pulled,
        draw((len(matrix), inputs), matrix, torch.Generator().manual_seed(0)),
        tolerance=tolerance,
        max_iterations=max_iterations,
        generator=torch.Generator().manual_seed(1),
        starts=starts,
    )


def looseness(matrix: Tensor, atom: MatMul, shape: Shape) -> dict[str, Tensor]:
    """Every bound of this file over the exact norm, `(B,)` each (at least 1); `matrix` is `(B, rows, columns)`."""
    exact = exact_norm(matrix, atom, shape).value
    bounds = {
        "circle": convolution_norm(matrix, atom, shape, dense=0, twists=False),
        "twisted": convolution_norm(matrix, atom, shape, dense=0),
        "all frequencies": symbol_supremum(matrix, atom, shape),
        **closed_forms(matrix, atom, shape),
    }
    return {name: bound / exact for name, bound in bounds.items()}


# Weight matrices


@dataclass(frozen=True)
class WeightFacts:
    """Norms of weight matrices at given values, `(*batch)` each: upper bounds, and lower bounds of the least singular values.

    Attributes:
        frobenius, operator, entry: the Frobenius norm, the largest singular value, the largest absolute value.
        row, column: the largest norm of a row and of a column.
        sigma_min: least singular value counted by columns, `inf |A v| / |v|`: 0 with more columns than rows.
        row_sigma_min: counted by rows, `inf |A^T y| / |y|`.
    """

    frobenius: Tensor
    operator: Tensor
    row: Tensor
    column: Tensor
    entry: Tensor
    sigma_min: Tensor
    row_sigma_min: Tensor


def weight_facts(matrix: Tensor) -> WeightFacts:
    """What certificates around given weights need to know of a matrix `(*batch, rows, columns)`, each with its rounding allowance.

    Sums of squares are raised by a relative `(entries + 8) eps`; singular values (backward stable: an error of at most a modest multiple of
    `eps` times the largest one) by `8 (rows + columns) eps` of the largest, the least ones lowered by as much, and not below 0.

    Raises:
        TypeError: not float64.
        ValueError: fewer than two dimensions, or entries that are not finite.
    """
    if matrix.dtype != DTYPE:
        raise TypeError(f"the weight matrix is {matrix.dtype}: convert it to {DTYPE}")
    if matrix.ndim < 2 or 0 in matrix.shape[-2:]:
        raise ValueError(f"a weight matrix has shape (*batch, rows, columns), got {tuple(matrix.shape)}")
    if not bool(matrix.isfinite().all()):
        raise ValueError("the weight matrix has entries that are not finite: it has no norms")
    rows, columns = matrix.shape[-2:]
    values = torch.linalg.svdvals(matrix)
    error = 8 * (rows + columns) * EPS * values[..., 0]
    least, zero = (values[..., -1] - error).clamp(min=0), torch.zeros_like(error)
    scale = matrix.abs().amax((-2, -1))
    scaled = (
        matrix / _nonzero(scale)[..., None, None]
    )  # squares of the entries themselves may leave the range of floats
    squares = scaled.square()
    return WeightFacts(
        frobenius=squares.sum((-2, -1)).sqrt() * scale * (1 + (rows * columns + 8) * EPS),
        operator=values[..., 0] + error,
        row=squares.sum(-1).amax(-1).sqrt() * scale * (1 + (columns + 8) * EPS),
        column=squares.sum(-2).amax(-1).sqrt() * scale * (1 + (rows + 8) * EPS),
        entry=scale,
        sigma_min=least if columns <= rows else zero,
        row_sigma_min=least if rows <= columns else zero,
    )
