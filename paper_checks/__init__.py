"""Claims of papers, each on three legs: derived, measured, searched. `papers()` finds them; `python -m paper_checks` prints them as JSON."""

from __future__ import annotations

import importlib
import pkgutil

from numerics.claims import Paper


def papers() -> dict[str, Paper]:
    """Package name -> its paper, ordered by letter; packages that declare no `PAPER` are left out."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            package = importlib.import_module(f"{__name__}.{module.name}")
            if isinstance(paper := getattr(package, "PAPER", None), Paper):
                found[module.name] = paper
    return dict(sorted(found.items(), key=lambda pair: pair[1].letter))
