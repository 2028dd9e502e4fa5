"""Tangent kernels of wide networks of finite width, layer by layer and in batches; gradient descent on the squared error under them.

Weights are standard Gaussian and the variances stand in the description, as in `theory.kernels.recursion`, whose limits these are the finite counterpart of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from numerics.device import DTYPE
from numerics.realise import ACTIVATION_FUNCTIONS, number, realise
from theory.layers.activation import Activation
from theory.layers.affine import Affine
from theory.layers.fixed import Scaling
from theory.network import Chain, Network, Repeat, Residual
from theory.records import Shape
from theory.spec import describe


class _Forward:
    """A description applied to `(B, features, N)` with fresh weights; keeps input and output of every affine layer."""

    def __init__(self, source: torch.Generator) -> None:
        self.source = source
        self.layers: list[tuple[Tensor, Tensor]] = []

    def __call__(self, network: Network, x: Tensor) -> Tensor:
        if isinstance(network, Affine) and not (network.bias or network.weight_norm or network.path):
            shape = len(x), int(number(network.features, "width")), x.shape[1]
            weight = torch.randn(shape, dtype=DTYPE, device=self.source.device, generator=self.source)
            z = torch.bmm(weight, x).requires_grad_()
            self.layers.append((x, z))
            return z
        if isinstance(network, Activation):
            return ACTIVATION_FUNCTIONS[network.name](x)
        if isinstance(network, Scaling):
            return number(network.factor, "scale") * x
        if isinstance(network, Chain | Repeat):
            for member in network.unrolled().members if isinstance(network, Repeat) else network.members:
                x = self(member, x)
            return x
        if isinstance(network, Residual):
            return number(network.skip, "skip") * x + self(network.branch, x)
        raise ValueError(
            f"tangent kernels: {describe(network)} is not known; known: plain affine, activations, scale, chain, residual, repeat"
        )


@dataclass(frozen=True)
class FiniteKernels:
    """Of `B` networks with one output: `outputs (B, N)`, `tangents`, the kernel `(B, N, N)` of every affine layer's weights in turn."""

    outputs: Tensor
    tangents: tuple[Tensor, ...]

    @property
    def tangent(self) -> Tensor:
        """The kernel of all weights, `(B, N, N)`."""
        return torch.stack(self.tangents).sum(0)


def finite_kernels(network: Network, X: Tensor, networks: int, source: torch.Generator) -> FiniteKernels:
    """Tangent kernels of networks with fresh weights, without forming a Jacobian.

    The gradient of output `i` in a weight matrix is `delta_i x_i^T`, with `x_i` the layer's input and `delta_i` the gradient in its output, so the kernel is
    `<delta_i, delta_j> <x_i, x_j>`; samples do not mix, so one backward pass gives all `delta`.

    Args:
        X: inputs, `(d, N)`, or `(networks, d, N)` for inputs of every network's own.

    Raises:
        ValueError: a layer that is not known, a symbol without a value, or more than one output.
    """
    forward = _Forward(source)
    start = X.to(DTYPE).expand(networks, *X.shape[-2:])
    with torch.enable_grad():
        outputs = forward(network, start)
        if outputs.shape[1] != 1:
            raise ValueError(f"tangent kernels: the network has {outputs.shape[1]} outputs: end it in affine(1)")
        deltas = torch.autograd.grad(outputs.sum(), [z for _, z in forward.layers])
    tangents = tuple(
        torch.bmm(delta.mT, delta) * torch.bmm(x.detach().mT, x.detach())
        for delta, (x, _) in zip(deltas, forward.layers, strict=True)
    )
    return FiniteKernels(outputs.detach()[:, 0], tangents)


def squared_deviations(make: Callable[[int], Network], widths: list[int], X: Tensor, limit: Tensor, layer: int, networks: int, source: torch.Generator) -> Tensor:  # fmt: skip
    """`|K_m - K|_F^2 / |K|_F^2` of the kernel of one affine layer against its limit, `(networks, widths)`: for `numerics.scaling.estimates.slope`."""
    found = [finite_kernels(make(width), X, networks, source).tangents[layer] for width in widths]
    return torch.stack([(k - limit).square().sum((1, 2)) for k in found], 1) / limit.square().sum()


@dataclass(frozen=True)
class Descent:
    """`losses (steps + 1, B)`: `|f(x) - y|^2 / 2` summed over the samples; `moved (B,)`: how far the parameters came, Euclidean."""

    losses: Tensor
    moved: Tensor


def descend(
    network: Network,
    X: Tensor,
    targets: Tensor | Callable[[Tensor], Tensor],
    networks: int,
    step_size: float,
    steps: int,
    source: torch.Generator,
) -> Descent:
    """Gradient descent of many networks with standard Gaussian weights on `|f(x) - y|^2 / 2`; the last affine layer (the readout) stays as drawn.

    Args:
        X: `(d, N)`.
        targets: `y`, `(N,)` or `(networks, N)`; or what makes them of the outputs at the start, `(networks, N)`.
    """
    f = realise(network, Shape(*X.shape))
    theta = torch.randn(networks, f.size, dtype=DTYPE, device=source.device, generator=source)
    trained = f.size - f.parameters[-1].size
    start = theta.clone()
    y = targets(f(theta, X)[:, 0]) if callable(targets) else targets
    losses = []
    for step in range(steps + 1):
        theta.requires_grad_()
        loss = (f(theta, X)[:, 0] - y).square().sum(-1) / 2
        losses.append(loss.detach())
        if step == steps:
            break
        (gradient,) = torch.autograd.grad(loss.sum(), theta)
        theta = theta.detach()
        theta[:, :trained] -= step_size * gradient[:, :trained]
    return Descent(torch.stack(losses), (theta.detach() - start).norm(dim=1))
