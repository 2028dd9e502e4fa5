"""A realised description computes what its layers say, and its derivatives are those of its value."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import sympy
import torch
from sympy import Symbol
from torch import Tensor
from torch.func import jvp, vjp, vmap

import theory.atoms
from numerics.device import DTYPE, choose, describe, generator
from numerics.realise import ACTIVATION_FUNCTIONS, Realisation, operation, realise
from theory import symbols
from theory.atoms.base import Atom, Domain
from theory.atoms.entrywise import ACTIVATIONS, z
from theory.compose import compose, leaves
from theory.layers.activation import Activation, SoftmaxLayer
from theory.layers.affine import Affine
from theory.layers.base import Layer
from theory.layers.fixed import Cropping, FeaturePad, Scaling
from theory.layers.normalisation import BatchNorm, LayerNorm, RMSNorm
from theory.network import Chain, Network, chain, repeat, residual
from theory.records import FeatureBounds, Shape

D, N, EPS = 3, 4, 0.3
SHAPE = Shape(D, N)
Array = np.ndarray


def normalised(vectors: list[Array], eps: float, centred: bool, scale: float) -> list[Array]:
    """Each vector by its definition: `scale * u / sqrt(eps + |u|^2)`, entry by entry."""
    out = []
    for vector in vectors:
        mean = sum(vector) / len(vector) if centred else 0.0
        u = [entry - mean for entry in vector]
        root = math.sqrt(eps + sum(entry**2 for entry in u))
        out.append(np.array([scale * entry / root for entry in u]))
    return out


def naive_affine(kind: str | None, gain: bool, bias: bool) -> Callable[[list[Array], Array], Array]:
    def apply(parameters: list[Array], x: Array) -> Array:
        rest = list(parameters)
        a = rest.pop(0)
        if kind == "row":
            a = np.stack(normalised(list(a), EPS, False, 1.0))
        elif kind == "entry":
            a = np.array([[v / math.sqrt(EPS + v * v) for v in row] for row in a])
        elif kind == "frobenius":
            a = a / math.sqrt(EPS + sum(v * v for v in a.ravel()))
        g = rest.pop(0) if gain else np.ones(len(a))
        b = rest.pop(0) if bias else np.zeros(len(a))
        out = np.zeros((len(a), x.shape[1]))
        for i, j in np.ndindex(*out.shape):
            out[i, j] = g[i] * sum(a[i, k] * x[k, j] for k in range(x.shape[0])) + b[i]
        return out

    return apply


def naive_norm(
    axis: str, centred: bool, gain: bool = False, shift: bool = False
) -> Callable[[list[Array], Array], Array]:
    def apply(parameters: list[Array], x: Array) -> Array:
        vectors = x if axis == "samples" else x.T
        n = vectors.shape[1]
        out = np.stack(normalised(list(vectors), n * EPS, centred, math.sqrt(n)))
        out = out if axis == "samples" else out.T
        g = parameters[0] if gain else np.ones(len(x))
        b = parameters[1] if shift else np.zeros(len(x))
        return np.array([[g[i] * out[i, j] + b[i] for j in range(x.shape[1])] for i in range(len(x))])

    return apply


def naive_softmax(parameters: list[Array], x: Array) -> Array:
    return np.stack([[math.exp(v) / sum(map(math.exp, column)) for v in column] for column in x.T]).T


def naive_activation(name: str) -> Callable[[list[Array], Array], Array]:
    phi = sympy.lambdify(z, ACTIVATIONS[name], "mpmath")
    return lambda parameters, x: np.array([[float(phi(mpmath.mpf(v))) for v in row] for row in x])


CASES: dict[str, tuple[Layer, Callable[[list[Array], Array], Array]]] = {
    "scaling": (Scaling(sympy.Rational(3, 7)), lambda p, x: x * 3 / 7),
    "cropping": (Cropping(2), lambda p, x: x[:2]),
    "padded features": (FeaturePad(1, 2), lambda p, x: np.pad(x, ((1, 2), (0, 0)))),
    "softmax": (SoftmaxLayer(), naive_softmax),
    "batch norm": (BatchNorm(EPS), naive_norm("samples", True)),
    "batch norm, gain and shift": (BatchNorm(EPS, gain=True, shift=True), naive_norm("samples", True, True, True)),
    "layer norm": (LayerNorm(EPS), naive_norm("features", True)),
    "layer norm, gain": (LayerNorm(EPS, gain=True), naive_norm("features", True, True)),
    "rms norm": (RMSNorm(EPS), naive_norm("features", False)),
    **{name: (Activation(name), naive_activation(name)) for name in ACTIVATIONS},
    **{
        f"affine {kind}{' gain' * gain}{' bias' * bias}": (
            Affine(2, bias=bias, weight_norm=kind, gain=gain, eps=EPS),
            naive_affine(kind, gain, bias),
        )
        for kind in (None, "row", "entry", "frobenius")
        for gain in (False, True)[: 1 if kind is None else 2]
        for bias in (False, True)
    },
}
LAYERS = {name: layer for name, (layer, _) in CASES.items()}
SMOOTH = {name: layer for name, layer in LAYERS.items() if name not in ("relu", "leaky_relu", "elu")}
NETWORK = chain(
    Affine(5, bias=True),
    residual(
        BatchNorm(EPS),
        Affine(5, weight_norm="row", gain=True, eps=EPS),
        Activation("gelu"),
        Scaling(sympy.Rational(1, 2)),
    ),
    repeat(2, residual(LayerNorm(EPS, gain=True), Activation("tanh"), skip=sympy.Rational(4, 5))),
    Cropping(2),
    SoftmaxLayer(),
)


def draw(realisation: Realisation, *batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = generator(seed)
    theta = torch.randn(*batch, realisation.size, generator=source, dtype=DTYPE)
    return theta, torch.randn(*batch, *realisation.input_shape, generator=source, dtype=DTYPE)


@pytest.mark.parametrize("name", CASES)
def test_a_layer_computes_its_definition(name: str) -> None:
    layer, naive = CASES[name]
    realisation = realise(layer, SHAPE)
    theta, x = draw(realisation)
    expected = naive([a.numpy() for a in realisation.split(theta)], x.numpy())
    assert realisation(theta, x).shape == realisation.output_shape == expected.shape
    # sums of at most a dozen terms of order one: rounding stays below 1e-14
    np.testing.assert_allclose(realisation(theta, x).numpy(), expected, rtol=1e-13, atol=1e-14)


def test_skips_and_repeats_compute_their_definition() -> None:
    network = repeat(2, residual(Affine(D), Activation("tanh"), skip=sympy.Rational(4, 5)))
    realisation = realise(network, SHAPE)
    theta, x = draw(realisation)
    first, second = (a.numpy() for a in realisation.split(theta))
    hidden = 0.8 * x.numpy() + np.tanh(first @ x.numpy())
    np.testing.assert_allclose(
        realisation(theta, x).numpy(), 0.8 * hidden + np.tanh(second @ hidden), rtol=1e-14, atol=1e-15
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_has_the_torch_function_of_its_formula(name: str) -> None:
    assert name in ACTIVATION_FUNCTIONS, f"activation {name} has no torch counterpart"
    grid = torch.cat(
        [torch.linspace(-6, 6, 49, dtype=DTYPE), torch.tensor([-700.0, -40.0, -1e-9, 1e-9, 25.0, 700.0], dtype=DTYPE)]
    )
    phi = sympy.lambdify(z, ACTIVATIONS[name], "mpmath")
    with mpmath.workdps(400):  # 1 + exp(-700) keeps its tail only with more than 304 digits
        expected = [float(phi(mpmath.mpf(v))) for v in grid.tolist()]
    # erf(z) + 1 cancels for very negative z: the absolute error of GELU is |z| times the spacing at 1
    np.testing.assert_allclose(ACTIVATION_FUNCTIONS[name](grid).numpy(), expected, rtol=4e-15, atol=1e-15)


def test_no_torch_activation_is_without_a_formula() -> None:
    assert set(ACTIVATION_FUNCTIONS) == set(ACTIVATIONS)


def concrete_atoms() -> list[type[Atom]]:
    for module in pkgutil.iter_modules(theory.atoms.__path__):
        importlib.import_module(f"theory.atoms.{module.name}")
    found, queue = [], [Atom]
    while queue:
        queue += (cls := queue.pop()).__subclasses__()
        found += [cls] * (not inspect.isabstract(cls) and cls.__module__.startswith("theory."))
    return found


@pytest.mark.parametrize("atom", concrete_atoms(), ids=lambda atom: atom.__name__)
def test_every_atom_has_a_torch_counterpart(atom: type[Atom]) -> None:
    assert operation.dispatch(atom) is not operation.dispatch(object), f"register {atom.__name__}"


STEP = 2e-3
FIVE_POINT = (
    (-2, 1 / 12, -1 / 12),
    (-1, -8 / 12, 16 / 12),
    (0, 0.0, -30 / 12),
    (1, 8 / 12, 16 / 12),
    (2, -1 / 12, -1 / 12),
)
"""Five-point formulas for the first and second derivative (offset, weight, weight), of truncation error `h^4`.

At `h = 2e-3` truncation is `1.6e-11` times a fifth (sixth) derivative over 30 (90), rounding `1e-15 / h^2 = 3e-10`; the
functions' derivatives of that order stay below a few thousand, so `1e-7` tells a right derivative from one wrong in its
eighth digit.
"""
TOLERANCE = 1e-7


def along_line(realisation: Realisation) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """`t -> f(theta + t w, X + t u)` and its first and second derivative at 0 by finite differences."""
    theta, x = draw(realisation, seed=1)
    w, u = draw(realisation, seed=2)
    w, u = w / max(float(w.norm()), 1.0), u / u.norm()

    def line(t: Tensor) -> Tensor:
        return realisation(theta + t * w, x + t * u)

    values = [line(torch.tensor(k * STEP, dtype=DTYPE)) for k, _, _ in FIVE_POINT]
    first = sum((c * v for (_, c, _), v in zip(FIVE_POINT, values, strict=True)), torch.zeros_like(values[0])) / STEP
    second = (
        sum((c * v for (_, _, c), v in zip(FIVE_POINT, values, strict=True)), torch.zeros_like(values[0])) / STEP**2
    )
    return line, first, second


def forward(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda t: jvp(f, (t,), (torch.ones_like(t),))[1]


def reverse(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The derivative by `t`, output entry by output entry."""

    def derivative(t: Tensor) -> Tensor:
        value, pull, *_ = vjp(f, t)
        basis = torch.eye(value.numel(), dtype=DTYPE).reshape(-1, *value.shape)
        return vmap(pull)(basis)[0].reshape(value.shape)

    return derivative


@pytest.mark.parametrize("name", [*SMOOTH, "network"])
@pytest.mark.parametrize("outer", [forward, reverse], ids=["forward", "reverse"])
@pytest.mark.parametrize("inner", [forward, reverse], ids=["over-forward", "over-reverse"])
def test_derivatives_are_those_of_the_value(name: str, outer: Callable, inner: Callable) -> None:
    line, first, second = along_line(realise(SMOOTH.get(name, NETWORK), SHAPE))
    zero = torch.zeros((), dtype=DTYPE)
    torch.testing.assert_close(inner(line)(zero), first, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(outer(inner(line))(zero), second, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_derivative_test_can_fail() -> None:
    """A slope that is wrong by one part in a million is seen by the finite differences."""
    line, first, _ = along_line(realise(Activation("tanh"), SHAPE))
    wrong = forward(lambda t: line(t.detach() + (t - t.detach()) * (1 + 1e-6)))(torch.zeros((), dtype=DTYPE))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(wrong, first, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["elu", "relu", "leaky_relu", "softplus", "silu", "gelu"])
def test_derivatives_stay_finite_far_out_and_at_zero(name: str) -> None:
    grid = torch.tensor([-800.0, -1.0, 0.0, 1.0, 800.0], dtype=DTYPE)
    line = lambda t: ACTIVATION_FUNCTIONS[name](grid + t)  # noqa: E731
    zero = torch.zeros((), dtype=DTYPE)
    assert forward(line)(zero).isfinite().all()
    assert forward(forward(line))(zero).isfinite().all()


def test_a_batch_of_networks_equals_the_loop() -> None:
    realisation = realise(NETWORK, SHAPE)
    theta, x = draw(realisation, 2, 5)
    batched, shared = realisation(theta, x), realisation(theta, x[0, 0])
    mapped = vmap(vmap(realisation))(theta, x)
    for i, j in np.ndindex(2, 5):
        torch.testing.assert_close(batched[i, j], realisation(theta[i, j], x[i, j]), rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(mapped[i, j], batched[i, j], rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(shared[i, j], realisation(theta[i, j], x[0, 0]), rtol=1e-13, atol=1e-14)


def test_a_layer_without_parameters_still_broadcasts_over_networks() -> None:
    realisation = realise(RMSNorm(EPS), SHAPE)
    assert realisation.size == 0
    assert realisation.groups == ()
    assert realisation(torch.zeros(6, 0, dtype=DTYPE), torch.ones(D, N, dtype=DTYPE)).shape == (6, D, N)


def test_split_and_pack_are_inverse() -> None:
    realisation = realise(NETWORK, SHAPE)
    theta, _ = draw(realisation, 2, 3)
    arrays = realisation.split(theta)
    assert [a.shape[2:] for a in arrays] == [spec.shape for spec in realisation.parameters]
    assert torch.equal(realisation.pack(arrays), theta)
    shared = [arrays[0][0, 0], *arrays[1:]]
    assert torch.equal(realisation.split(realisation.pack(shared))[0][1, 2], arrays[0][0, 0])


def test_parameters_are_listed_in_the_order_of_the_atoms() -> None:
    realisation = realise(NETWORK, SHAPE)
    assert [(spec.path, spec.shape) for spec in realisation.parameters] == [
        ("0.weight", (5, 3)),
        ("0.bias", (5,)),
        ("1.1.3.weight", (5, 5)),
        ("1.1.3.map.1.gain", (5,)),
        ("2.1.3.gain", (5,)),
        ("3.1.3.gain", (5,)),
    ]
    assert realisation.groups == (slice(0, 20), slice(20, 50), slice(50, 55), slice(55, 60))


def test_groups_are_the_parameter_indices_of_the_composition_rule() -> None:
    """One group for each leaf with parameters: a weight with its gain and bias is a single index."""
    normalised = Affine(2, weight_norm="row", gain=True, eps=sympy.Rational(3, 10))
    members = (Affine(5, bias=True), LayerNorm(EPS, gain=True, shift=True), Activation("identity"), normalised)
    tree, known, domain = compose(), FeatureBounds.ball(SHAPE, sympy.Integer(1)), Domain(sympy.Integer(1))
    for layer in members:
        for atom in layer.atoms(known.shape):
            tree, known = compose(tree, atom.bounds(known, domain)), atom.forward(known, domain)
    indices = sum(leaf.has_parameters for leaf in leaves(tree))
    realisation = realise(Chain(members), SHAPE)
    assert len(realisation.groups) == indices == 3
    assert [g.stop - g.start for g in realisation.groups] == [15 + 5, 5 + 5, 10 + 2]


def test_symbols_take_their_values_by_name() -> None:
    network = chain(Affine(symbols.m), repeat(symbols.L, residual(BatchNorm(), Affine(symbols.m, weight_norm="row"))))
    realisation = realise(
        network, Shape(symbols.d, symbols.N), {"m": 5, symbols.L: 2, "eps": EPS, "d": D, "N": N, "rho": 7}
    )
    concrete = chain(Affine(5), repeat(2, residual(BatchNorm(EPS), Affine(5, weight_norm="row", eps=EPS))))
    theta, x = draw(realisation)
    assert torch.equal(realisation(theta, x), realise(concrete, SHAPE)(theta, x))


class Unknown(Atom):
    formula = "X -> X"

    def bounds(self, features, domain):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    forward = bounds


class Strange(Layer):
    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (Unknown(),)


@pytest.mark.parametrize(
    ("network", "shape", "error", "words"),
    [
        (Strange(), SHAPE, TypeError, "Unknown"),
        (BatchNorm(), SHAPE, ValueError, "eps"),
        (Scaling(symbols.c), SHAPE, ValueError, "no value for c"),
        (Affine(symbols.m), SHAPE, ValueError, "no value for m"),
        (Affine(2), Shape(Symbol("d", positive=True, integer=True), 3), ValueError, "no value for d"),
        (repeat(symbols.L, Affine(3)), SHAPE, ValueError, "depth L is symbolic"),
        (residual(Affine(2)), SHAPE, ValueError, "does not match its skip"),
        (Cropping(7), SHAPE, ValueError, "only 3"),
    ],
)
def test_a_bad_description_is_refused_by_name(
    network: Network, shape: Shape, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        realise(network, shape)


def test_bad_arguments_are_refused_by_shape() -> None:
    realisation = realise(Affine(2, bias=True), SHAPE)
    theta, x = draw(realisation)
    with pytest.raises(ValueError, match="number of parameters, 8"):
        realisation(theta[:-1], x)
    with pytest.raises(ValueError, match=r"\(features, samples\) = \(3, 4\)"):
        realisation(theta, x.T)
    with pytest.raises(ValueError, match="float64"):
        realisation(theta, x.float())
    with pytest.raises(ValueError, match=r"0\.bias"):
        realisation.pack([theta[:6].reshape(2, 3), theta[:3]])
    with pytest.raises(ValueError, match=r"0\.weight, 0\.bias"):
        realisation.pack([theta[:6].reshape(2, 3)])


def test_the_device_is_chosen_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("cpu") == torch.device("cpu")
    assert "CPU" in describe(choose("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto") == torch.device("cpu")
    with pytest.raises(RuntimeError, match="use 'cpu' or 'auto'"):
        choose("cuda")
    with pytest.raises(ValueError, match="tpu"):
        choose("tpu")  # type: ignore[arg-type]
