"""Rows of the tables that every reading shares: composed bounds with their limits, and hypotheses with equal layers taken together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sympy import Expr, Symbol

from theory.bound import Bound
from theory.hypotheses import CheckedHypothesis, Hypothesis
from theory.landscape import Landscape
from theory.limits import depth_limit
from theory.network import Network, Repeat, walk

COMPOSED = ("first_derivative", "second_derivative", "smoothness_constant", "tangent_kernel_lambda_min")
"""The composed bounds of a landscape in the order of every table, by the name of its attribute."""


@dataclass(frozen=True)
class ComposedRow:
    """One composed bound; `limit` as the symbolic depth grows, None where there is no such depth or no limit is known."""

    name: str
    bound: Bound
    limit: Expr | None


def depth_symbol(network: Network) -> Symbol | None:
    """The symbol of a symbolic depth, None where there is none (or more than one)."""
    depths = {part.times for part in walk(network) if isinstance(part, Repeat) and part.times.is_Symbol}
    return depths.pop() if len(depths) == 1 else None


def composed(landscape: Landscape, *, limits: bool = True) -> list[ComposedRow]:
    """The closed forms of `COMPOSED`, with their limits in the depth unless `limits` is False."""
    depth = depth_symbol(landscape.network) if limits else None
    return [
        ComposedRow(name, bound, None if depth is None else depth_limit(bound, depth))
        for name in COMPOSED
        for bound in (getattr(landscape, name),)
    ]


_NUMBERED = re.compile(r"^(first layer: )?layer (\d+), (.*)$")


def _runs(numbers: list[int]) -> str:
    """`2, 3, 4, 7` as `2-4, 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def grouped(checked: Iterable[CheckedHypothesis]) -> list[CheckedHypothesis]:
    """The hypotheses in order, those of equal layers with equal values as one: a thousand blocks give six rows."""
    first: dict[object, CheckedHypothesis] = {}
    numbers: dict[object, list[int]] = {}
    for item in checked:
        hypothesis = item.hypothesis
        match = _NUMBERED.match(hypothesis.name)
        what = match.group(1, 3) if match else hypothesis.name
        key = (what, hypothesis.statement, hypothesis.bound.expression, item.value, item.holds, item.reason)
        first.setdefault(key, item)
        if match:
            numbers.setdefault(key, []).append(int(match.group(2)))
    out = []
    for group, item in first.items():
        if len(numbers.get(group, ())) > 1:
            match = _NUMBERED.match(item.hypothesis.name)
            assert match is not None
            name = f"{match.group(1) or ''}layers {_runs(numbers[group])}, {match.group(3)}"
            item = replace(item, hypothesis=replace(item.hypothesis, name=name))
        out.append(item)
    return out


def unchecked(hypotheses: Iterable[Hypothesis]) -> list[CheckedHypothesis]:
    """Hypotheses without values: decided where the expression decides, else open (`reason` says so)."""
    out = []
    for hypothesis in hypotheses:
        status = hypothesis.symbolic_status()
        reason = "decided by its expression" if status is not None else "open: needs values"
        out.append(CheckedHypothesis(hypothesis, None, bool(status), reason))
    return out
