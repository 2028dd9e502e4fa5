"""The run of the paper checks: a paper that is run whole has every leg of every claim, or the run fails and names what is missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paper_checks import papers

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = """
from numerics.claims import Claim, Paper
PAPER = Paper("X", "Someone", "A small paper", 2020, "none", (
    Claim("sum", "$1 + 1 = 2$", "derived"),
    Claim("product", "$1 \\cdot 1 = 1$", "derived", {"searched": "There is one product only."}),
))
"""
CHECKS = """
import pytest

def test_sum(evidence):
    evidence("sum", "derived", "1 + 1", "2")
    evidence("sum", "measured", "1 + 1", 2.0, 1 + 1, sense="equal")

def test_product(evidence):
    evidence("product", "derived", "1 * 1", "1")
    evidence("product", "measured", "1 * 1", 1.0, 1, sense="equal")

@pytest.mark.slow
def test_the_same_for_long(evidence):
    evidence("sum", "searched", "1 + 1", 2.0, 2.0)
"""
SEARCH = """
def test_search(evidence):
    evidence("sum", "searched", "1 + 1", 2.0, 1.5, finding="loose", note="Sums are smaller.")
"""


@pytest.fixture()
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "someone_2020"
    folder.mkdir()
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / "test_sums.py").write_text(CHECKS)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest with the plugins of the paper checks, in a process of its own that knows no settings of this project."""
    command = [sys.executable, "-m", "pytest", "-p", "paper_checks.conftest", "-p", "no:cacheprovider", "-q"]
    # importlib mode: the folder is found under xdist as well
    command += ["-m", "not slow", f"--rootdir={folder.parent}", "--import-mode=prepend", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, cwd=ROOT)


def test_a_missing_leg_fails_a_whole_run_and_is_named_and_evidence_mends_it(package: Path) -> None:
    done = run(package, f"--report={package.parent}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "X, sum: no searched leg" in done.stdout
    assert "X, product" not in done.stdout
    assert "2 passed" in done.stdout
    results = json.loads((package.parent / "paper_checks.json").read_text())
    assert results["meta"]["whole"] == ["X"]
    assert [(row["claim"], row["leg"]) for row in results["rows"]] == [
        (claim, leg) for claim in ("sum", "product") for leg in ("derived", "measured")
    ]
    (package / "test_search.py").write_text(SEARCH)
    done = run(package)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "missing legs" not in done.stdout


def test_the_same_with_workers(package: Path) -> None:
    done = run(package, "-n", "2", f"--report={package.parent}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "X, sum: no searched leg" in done.stdout
    results = json.loads((package.parent / "paper_checks.json").read_text())
    assert len(results["rows"]) == 4
    assert results["meta"]["outcomes"] == {"passed": 2}
    assert [paper["letter"] for paper in results["meta"]["papers"]] == ["X"]


@pytest.mark.parametrize("part", ["-k", *(pytest.param(part, marks=pytest.mark.slow) for part in ("file", "name"))])
def test_a_part_of_a_paper_need_not_be_complete(package: Path, part: str) -> None:
    (package / "test_search.py").write_text(SEARCH)
    if part == "-k":
        done = run(package, "-k", "product")
    elif part == "file":
        done = run(package / "test_sums.py")
    else:
        done = run(package / "test_sums.py", f"{package / 'test_sums.py'}::test_product")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_paper_declares_claims_in_order_of_its_letter() -> None:
    found = papers()
    assert {"macdonald_2023", "bucarelli_2024", "marion_2025"} <= set(found)
    letters = [paper.letter for paper in found.values()]
    assert letters == sorted(set(letters))
    folders = {path.parent.name for path in (ROOT / "paper_checks").glob("*/test_*.py")}
    assert folders == set(found), "a folder with checks, but without a PAPER"
