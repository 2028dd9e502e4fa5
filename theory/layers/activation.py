"""Activations: the entry-wise atom as a layer, and the softmax."""

from __future__ import annotations

from dataclasses import dataclass

from theory.atoms.base import Atom
from theory.atoms.entrywise import Entrywise
from theory.atoms.softmax import LogSoftmax as LogSoftmaxAtom
from theory.atoms.softmax import Softmax
from theory.layers.base import Layer
from theory.records import Shape


@dataclass(frozen=True)
class Activation(Layer):
    """`X -> phi(X)` entry by entry; `name` is one of `theory.atoms.entrywise.ACTIVATIONS`."""

    name: str

    def __post_init__(self) -> None:
        Entrywise(self.name)

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (Entrywise(self.name),)


@dataclass(frozen=True)
class SoftmaxLayer(Layer):
    """Softmax over the features of every sample."""

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (Softmax(),)


@dataclass(frozen=True)
class LogSoftmax(Layer):
    """Logarithm of the softmax over the features of every sample, at every position."""

    def atoms(self, shape: Shape) -> tuple[Atom, ...]:
        return (LogSoftmaxAtom(),)
