"""How tight the composed bounds are: worst case over all weights and data of a class, found by search, against the bound of that class.

The class: 3 x 3 layers, tanh, three samples with `|X_0|_F <= 1`, every weight of Frobenius norm at most 1; chain `tanh(A X)` and residual
`X + tanh(A X) / 2`. The reference figures are those of an earlier study of the same chain by hand-written rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy
import torch

from numerics.compare import Comparison, verdict
from numerics.loss import LossMap
from numerics.realise import realise
from numerics.search import search_layer
from theory import symbols
from theory.atoms.base import Domain
from theory.bound import Sense
from theory.evaluate import upper_float
from theory.landscape import landscape
from theory.records import Shape
from theory.spec import parse
from theory.spectrum import regularity_numbers

WIDTH = SAMPLES = 3
CHECK = "tightness"
BLOCKS = {"chain": "affine(3), tanh", "residual": "residual(affine(3), tanh, scale(1/2))"}
REFERENCE: dict[str, dict[int, float]] = {
    "|J|": {1: 0.98, 2: 0.98, 4: 0.98, 8: 0.98},
    "sup |DF|": {1: 1.00, 2: 0.74, 4: 0.56, 8: 0.50},
    "sup |D^2 F|": {1: 1.00, 2: 0.37, 4: 0.19, 8: 0.09},
    "smoothness constant (plain rule)": {1: 0.27, 2: 0.12, 4: 0.07, 8: 0.04},
    "smoothness constant": {1: 0.40, 2: 0.21},
}
"""Reference tightness by quantity and depth (chain)."""


@dataclass(frozen=True)
class TightnessTask:
    """One shape at one depth; `steps` and `restarts` of each search."""

    shape: str
    depth: int
    seed: int
    device: str
    steps: int = 300
    restarts: int = 16


def tightness(task: TightnessTask) -> tuple[Comparison, ...]:
    """Search the worst case of every composed quantity of one shape and depth; a row each."""
    torch.set_num_threads(1)
    spec = f"repeat({task.depth}, {BLOCKS[task.shape]})"
    network = parse(spec)
    here = landscape(network, sympy.Integer(WIDTH), sympy.Integer(SAMPLES), domain=Domain(sympy.Integer(1)))
    values = {symbols.x_F: 1, symbols.x_0: 1, symbols.sigma: 0}
    constants = here.enclose(values)
    realisation = realise(network, Shape(WIDTH, SAMPLES))  # type: ignore[arg-type]
    loss = LossMap(realisation, torch.arange(SAMPLES, device=task.device))
    bounds = {
        "|J|": regularity_numbers(here.evaluated(values, fed=True)).jacobian,
        "sup |DF|": constants.first,
        "sup |D^2 F|": constants.second,
        "smoothness constant (plain rule)": constants.smoothness_plain,
        "smoothness constant": constants.smoothness,
    }
    searches: tuple[tuple[Any, str, tuple[str, ...]], ...] = (
        (realisation, "input_jacobian_norm", ("|J|",)),
        (realisation, "param_jacobian_norm", ("sup |DF|",)),
        (realisation, "param_param", ("sup |D^2 F|",)),
        (loss, "param_param", ("smoothness constant (plain rule)", "smoothness constant")),
    )
    rows = []
    for subject, quantity, names in searches:
        found = search_layer(
            subject,
            quantity,
            parameter_radius=1.0,
            input_radius=1.0,
            restarts=task.restarts,
            steps=task.steps,
            seed=task.seed,
            device=task.device,
        )
        for name in names:
            bound = upper_float(bounds[name])
            ratio, holds, allowance = verdict(bound, Sense.UPPER, found.best)
            rows.append(
                Comparison(
                    check=CHECK,
                    paper="A",
                    network=spec,
                    architecture=task.shape,
                    depth=task.depth,
                    quantity=name,
                    sense=str(Sense.UPPER),
                    bound=bound,
                    measured=found.best,
                    tightness=ratio,
                    holds=holds,
                    samples=SAMPLES,
                    networks=task.restarts,
                    seed=task.seed,
                    device=task.device,
                    allowance=allowance,
                    witness={"reference tightness": REFERENCE[name].get(task.depth)},
                )
            )
    return tuple(rows)
