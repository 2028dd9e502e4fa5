"""From a live `torch.nn.Module` and an example of its input to a description, and back to check it.

    traced = trace(module, example)
    realisation, theta = traced.realise(), traced.theta()
    traced.output(realisation(theta, traced.input(example)))    # what the module computes

`numerics.tracing.capture` records the torch operations, `numerics.operations` translates each into layers, `numerics.certification.flow` keeps track of
which torch dimension is what and reads the graph as chains, residuals, sums and stacks. What cannot be described is refused by name.

A module in training mode has batch norms over the samples and refuses dropout; in evaluation mode batch norms use their running
statistics and dropout is the identity. Parameters with `requires_grad=False` are parameters like all others. Parameters are named by
the path of their layer: `path.weight` (of a convolution `weight.flatten(1)`, of a transposed one the transpose of that), `path.bias`,
and `path.gain` with `path.shift` for the weight and bias of a normalisation or the length `g` of a weight-normalised row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

import numerics.operations  # noqa: F401 — importing it registers the operations
from numerics.certification.flow import Value, describe
from numerics.realise import Realisation, realise
from numerics.tracing.capture import Capture, capture
from numerics.tracing.translate import Bindings, Site, is_whole, source, supported, translate, translates
from theory.layers.spatial import Permute
from theory.network import Chain, Network, walk
from theory.records import Shape

__all__ = ["Site", "Traced", "supported", "trace", "translates"]

AGREEMENT = 1e-8
"""Largest difference, relative to the largest output, between the module and its description; rounding gives 1e-12, and torch's softplus,
which is linear from 20 on, 2e-9."""


@dataclass(frozen=True)
class Traced:
    """A module as a description.

    Attributes:
        network: the description.
        shape: features, samples and grid of its input.
        parameters: the value of every parameter by its name in the description, in double precision.
        paths: the name that each of them has in the module.
        input_axes: the torch dimensions that are features and grid of the input.
        input_sample: the torch dimension of the samples.
        output_shape, output_axes, output_sample: the same of the output, with its torch shape.
    """

    network: Network
    shape: Shape
    parameters: Mapping[str, Tensor]
    paths: Mapping[str, str]
    input_axes: tuple[int, ...]
    input_sample: int
    output_shape: tuple[int, ...]
    output_axes: tuple[int, ...]
    output_sample: int

    @cached_property
    def _realisation(self) -> Realisation:
        return realise(self.network, self.shape)

    def realise(self) -> Realisation:
        """The description as a torch function."""
        return self._realisation

    def theta(self) -> Tensor:
        """The module's parameters as the realisation's flat vector `(P,)`.

        Raises:
            ValueError: a user's layer has a parameter that its translation did not bind.
        """
        realisation = self.realise()
        missing = [spec.name or spec.path for spec in realisation.parameters if spec.name not in self.parameters]
        if missing:
            raise ValueError(
                f"no value for {', '.join(missing)}: bind it with site.parameter in the layer's translation"
            )
        return realisation.pack([self.parameters[spec.name].reshape(spec.shape) for spec in realisation.parameters])

    def input(self, x: Tensor) -> Tensor:
        """A torch batch as `X` of shape `(d, N)`."""
        axes = (*self.input_axes, *(i for i in range(x.ndim) if i not in (*self.input_axes, self.input_sample)))
        return x.double().permute(*axes, self.input_sample).reshape(-1, x.shape[self.input_sample])

    def output(self, y: Tensor) -> Tensor:
        """An output `(*batch, K, N)` of the realisation in the shape that the module gives, `(*batch, *shape)`."""
        batch, order = y.shape[:-2], self._output_order
        sizes = (*(self.output_shape[i] for i in order[:-1]), y.shape[-1])
        places = [order.index(i) for i in range(len(order))]
        viewed = y.reshape(*batch, *sizes)
        return viewed.permute(*range(len(batch)), *(len(batch) + place for place in places))

    def columns(self, output: Tensor) -> Tensor:
        """The inverse: an output of the module's shape as the realisation gives it, `(K, N)`."""
        return output.double().permute(*self._output_order).reshape(-1, output.shape[self.output_sample])

    @property
    def _output_order(self) -> tuple[int, ...]:
        """The torch dimensions of the output in the order features, grid, the rest, samples."""
        rest = [i for i in range(len(self.output_shape)) if i != self.output_sample]
        return (*self.output_axes, *(i for i in rest if i not in self.output_axes), self.output_sample)


def trace(
    module: nn.Module, example: Tensor, *, sample_dimension: int = 0, agreement: float | None = AGREEMENT
) -> Traced:
    """Describe what a module computes on inputs of the example's shape.

    Args:
        module: in the mode (training or evaluation) that is to be described; it is not changed.
        example: one batch; the number of its samples is that of the description's shape.
        sample_dimension: the dimension of the samples (1 for a transformer without `batch_first`).
        agreement: the description is run on the example and must agree with the module to this relative error; None: it is not run.

    Raises:
        TypeError: an operation that is not supported, or input or output that is not one floating-point tensor.
        ValueError: an operation that no layer describes, a module whose code cannot be recorded, or a description that disagrees.
    """
    captured = capture(module, example, is_whole)
    sizes, sample = tuple(example.shape), sample_dimension % example.ndim
    given = [i for i in range(example.ndim) if i != sample]
    if not given:
        raise ValueError(f"the example has shape {sizes}: give it a dimension of samples and one of features")
    best = _described(captured, sizes, sample, tuple(given))
    for lead in given[1:]:
        if _permutes(best[0]) == 0:
            break
        other = _described(captured, sizes, sample, (lead, *(i for i in given if i != lead)))
        best = min(best, other, key=lambda each: _permutes(each[0]))
    network, start, end, bindings = best
    features, *grid = (sizes[i] for i in start.axes)
    traced = Traced(
        network,
        Shape(features, sizes[sample], tuple(grid)),
        bindings.values,
        bindings.origins,
        start.axes,
        sample,
        end.shape,
        end.axes,
        end.sample,
    )
    if agreement is not None:
        _check(traced, example, captured.reference, agreement)
    return traced


def _described(
    captured: Capture, sizes: tuple[int, ...], sample: int, axes: tuple[int, ...]
) -> tuple[Chain, Value, Value, Bindings]:
    start = source(sizes, sample, axes)
    end, bindings = translate(captured, start)
    return describe(end.step, start.step), start, end, bindings


def _permutes(network: Network) -> int:
    return sum(isinstance(part, Permute) for part in walk(network))


def _check(traced: Traced, example: Tensor, reference: Tensor, agreement: float) -> None:
    image = traced.output(traced.realise()(traced.theta(), traced.input(example)))
    if image.shape != reference.shape:
        raise ValueError(f"the description gives {tuple(image.shape)}, the module {tuple(reference.shape)}")
    if not bool(reference.isfinite().all()):
        raise ValueError("the module's output on the example is not finite: give another example")
    error = float((image - reference).abs().max() / reference.abs().max().clamp(min=1e-300))
    if not error <= agreement:
        raise ValueError(
            f"the description and the module differ by {error:.1e} of the largest output on the example, more than {agreement:.0e}: "
            "the module may depend on more than its input and parameters"
        )
