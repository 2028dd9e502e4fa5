"""Every exploratory script runs as it stands and says what its docstring promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROMISES = {
    "five_lines.py": "certified: True",
    "residual_depth_limit.py": "sigma**2*exp(-2*c)",
    "own_reading.py": "multiplications: L*m**2 + L*m + d*m",
    "own_layer.py": "certified smoothness",
    "certified_training.py": "obeys its certificate: True",
    "rate_by_depth.py": "9*K*sigma**2*exp(-3*c)",
    "descend_on_digits.py": "every loss below its envelope: True",
}


def test_every_example_is_run() -> None:
    assert {p.name for p in (ROOT / "examples").glob("*.py")} == set(PROMISES)


@pytest.mark.parametrize("name", sorted(PROMISES))
def test_example(name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / name)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert PROMISES[name] in result.stdout
