"""Derive, certify on real data, then run the certified gradient descent beside its envelope."""

import torch

from numerics.convergence.descent import descend
from numerics.datasets import data_values, digits
from numerics.device import generator
from numerics.ensembles import draw
from numerics.loss import Objective
from numerics.realise import realise
from theory.convergence import certify
from theory.landscape import landscape
from theory.records import Shape
from theory.recursion import RULES
from theory.spec import parse

torch.set_num_threads(1)
spec = "affine(12), repeat(3, residual(tanh, affine(12, weight_norm=row, eps=4), scale(1/16))), crop(10)"
data = digits(samples=6, seed=0)
network = parse(spec)
certificate = certify(landscape(network, data.features), data_values(data))
for checked in certificate.checked[:4]:
    print(checked)
realised = realise(network, Shape(data.features, data.samples))
start = draw(realised, count=8, kind="gaussian", scale=1.0, generator=generator(0))
objective = Objective(realised, data.X, data.labels)
runs = {rule: descend(objective, certificate.required(), start, steps=200, rule=rule) for rule in RULES}
for rule, run in runs.items():
    print(f"{rule} step: loss {float(run.losses[0].mean()):.3g} -> {float(run.losses[-1].mean()):.3g}")
print("every loss below its envelope:", all(run.holds for run in runs.values()))
