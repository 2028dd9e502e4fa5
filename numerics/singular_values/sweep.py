"""A reverse sweep with many cotangents at once, node by node of an autograd graph.

`torch.func.vmap` over the autograd engine wraps every tensor of every node, which costs more than the arithmetic where the networks are
small. Here the nodes are called one by one: those that take a leading dimension as it is directly, all others under `vmap`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DIRECT = frozenset({"ReluBackward0", "TanhBackward0", "SigmoidBackward0", "AddBackward0", "SubBackward0"})
"""Entry-wise nodes, whose formula is right for cotangents with a leading dimension; so are functions with `leading = True`."""


class Sweep:
    """The map from cotangents `(R, *outputs.shape)` to `(R, *leaf.shape)`: row `r` of the result is `J^T` times row `r`.

    Args:
        outputs: with a graph, which is kept; hooks on it are not run.
        leaf: where it ends.

    Raises:
        NotImplementedError: the graph holds what the sweep cannot walk: a node with several outputs, or a view changed in place.
    """

    def __init__(self, outputs: Tensor, leaf: Tensor) -> None:
        self.root = outputs.grad_fn
        self.order: list[Any] = []
        self.leads: dict[Any, bool] = {}
        stack: list[tuple[Any, bool]] = [(self.root, False)]
        while stack:  # depth first, so that `order` ends with the root
            node, left = stack.pop()
            if left:
                reached = any(self.leads.get(after, False) for after, _ in node.next_functions)
                self.leads[node] = reached or getattr(node, "variable", None) is leaf
                if reached:
                    self.order.append(node)
            elif node is not None and node not in self.leads:
                self.leads[node] = False
                stack.append((node, True))
                stack.extend((after, False) for after, _ in node.next_functions)
        if not self.order:
            raise NotImplementedError("outputs do not depend on the leaf")
        for node in self.order:
            if len(getattr(node, "_input_metadata", ())) != 1 or "CopySlices" in node.name():
                raise NotImplementedError(node.name())
        self.calls = [self._call(node) for node in reversed(self.order)]

    def _call(self, node: Any) -> tuple[Any, list[tuple[Any, tuple[int, ...]]], Callable[[Tensor], list[Tensor]]]:
        """The node, the next ones with the shapes they take, and what maps its cotangents to theirs."""
        work = getattr(node, "apply", node)  # a function written in Python is not callable itself
        places = [i for i, (after, _) in enumerate(node.next_functions) if self.leads.get(after, False)]
        goals = [node.next_functions[i][0] for i in places]

        def direct(g: Tensor) -> list[Tensor]:
            found = work(g)
            parts = [found] if isinstance(found, Tensor) else [found[i] for i in places]
            return [g.new_zeros(shape) if part is None else part for part, shape in zip(parts, shapes, strict=True)]

        def mapped(g: Tensor) -> list[Tensor]:
            return list(torch.func.vmap(lambda one: tuple(direct(one)))(g))

        leading = node.name() in DIRECT or getattr(getattr(node, "_forward_cls", None), "leading", False)
        shapes = [tuple(goal._input_metadata[0].shape) for goal in goals]
        return node, list(zip(goals, shapes, strict=True)), direct if leading else mapped

    @torch.no_grad()
    def __call__(self, cotangents: Tensor) -> Tensor:
        arrived = {self.root: cotangents}
        for node, goals, call in self.calls:
            given = arrived.pop(node)
            for (goal, shape), part in zip(goals, call(given), strict=True):
                part = part if part.shape[1:] == shape else _reduced(part, shape)
                arrived[goal] = arrived[goal] + part if goal in arrived else part
        (result,) = arrived.values()
        return result


def _reduced(part: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Summed over the dimensions along which an operation repeated its argument."""
    rows = [part.shape[0], *[1] * (part.dim() - 1 - len(shape)), *shape]
    return part.sum_to_size(rows).reshape(part.shape[0], *shape)
