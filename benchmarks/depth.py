"""How long it takes to derive the catalogue from cold, to derive, compose and evaluate 1,000 residual blocks, and how narrow the result is."""

import time

from theory.catalogue import catalogue
from theory.compose import compose
from theory.landscape import landscape
from theory.spec import parse

VALUES = {"N": 8, "x_0": 2, "x_F": 3, "sigma": 1, "eps": 1}
SPEC = "affine(12), repeat({}, residual(tanh, affine(12, weight_norm=frobenius), scale(1/{}))), crop(10)"


def clock(what: str, start: float) -> float:
    now = time.perf_counter()
    print(f"{what:46} {now - start:7.2f} s")
    return now


def main() -> None:
    now = time.perf_counter()
    count = sum(1 for _ in catalogue())
    now = clock(f"catalogue from cold, {count} entries", now)
    here = landscape(parse(SPEC.format(1000, 1000)), 64)
    now = clock("deriving 1,000 blocks", now)
    composed = compose(*here.derived.tree.members)
    now = clock(f"composing {len(composed.members)} layers", now)
    found = here.enclose(VALUES)
    clock("evaluating the composed bounds at depth 1,000", now)
    print(f"|DF| <= {found.first.str(12)}, smoothness {found.smoothness.str(12)}, lambda >= {found.lambda_min.str(12)}")


if __name__ == "__main__":
    main()
