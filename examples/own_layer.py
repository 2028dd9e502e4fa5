"""A layer of one's own, `x / (1 + x^2)`: an atom with derived bounds, its torch counterpart, and the translation of a module."""

from dataclasses import dataclass

import sympy
import torch

from numerics.certify import certify
from numerics.realise import operation
from numerics.trace import translates
from theory.atoms.base import Atom
from theory.bound import Bound
from theory.layers.base import Layer
from theory.records import FeatureBounds, LayerBounds
from theory.suprema import supremum_abs

z = sympy.Symbol("z", real=True)


@dataclass(frozen=True)
class Squash(Atom, Layer):
    formula = "z / (1 + z^2), entry by entry"
    atoms = lambda self, shape: (self,)  # noqa: E731

    def bounds(self, features, domain):
        derivatives = (sympy.diff(z / (1 + z**2), z, order) for order in (1, 2, 3))
        first, second, third = (Bound.upper(supremum_abs(f, z).value) for f in derivatives)  # derived, not typed
        return LayerBounds.without_parameters(first, second, Bound.lower(0), sample_wise=True, third=third)

    def forward(self, features, domain):  # |x / (1 + x^2)| <= |x|
        return FeatureBounds.from_norms(features.shape, {"frobenius": features.frobenius})


operation.register(Squash, lambda atom, shape, allocator, path: lambda parameters, x: x / (1 + x * x))
SquashModule = type("SquashModule", (torch.nn.Module,), {"forward": lambda self, x: x / (1 + x * x)})
translates(SquashModule, note="x / (1 + x^2)")(lambda site, module, x: x.then(Squash(), site.shape))
model = torch.nn.Sequential(torch.nn.Linear(4, 6), SquashModule(), torch.nn.Linear(6, 3))
found = certify(model, "cross_entropy", None, (torch.eye(5, 4), torch.arange(5) % 3), radius=1e-3)
print(f"certified smoothness {found.smoothness_constant:.4f} at {found.hessian_lambda_max:.4f}")
