"""Reports: files are whole or absent, JSON is strict, tables take any record."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import sympy
from rich.console import Console
from rich.table import Table

from numerics import report
from theory.catalogue import entry
from theory.convergence import certify
from theory.hypotheses import hypotheses
from theory.landscape import landscape
from theory.spec import parse
from theory.summary import composed, unchecked

SPEC = "affine(6), repeat(3, residual(sin, affine(6, weight_norm=frobenius), scale(1/4))), crop(3)"


def shown(table: Table) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue()


def test_write_atomically_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    report.write_atomically(target, "one")
    report.write_atomically(target, b"two")
    assert target.read_text() == "two"
    assert list(target.parent.iterdir()) == [target]


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=r"cannot write a\.txt into the folder .*file"):
        report.write_atomically(tmp_path / "file" / "a.txt", "text")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.mkdir()
    with pytest.raises(OSError, match=r"cannot write a\.txt"):
        report.write_atomically(target, "text")
    assert list(tmp_path.iterdir()) == [target]


def test_results_are_strict_json_with_documented_stand_ins(tmp_path: Path) -> None:
    row = {
        "a": math.inf,
        "b": -math.inf,
        "c": math.nan,
        "d": np.float64(0.5),
        "e": None,
        "f": True,
        "g": sympy.Rational(1, 2),
    }
    path = report.write_results(tmp_path / "results.json", {"seed": 1}, [row])
    read = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert read == {
        "meta": {"seed": 1},
        "rows": [{"a": "oo", "b": "-oo", "c": None, "d": 0.5, "e": None, "f": True, "g": 0.5}],
    }


def test_the_tables_show_layers_bounds_and_certificate() -> None:
    here = landscape(parse(SPEC), sympy.Integer(8))
    certificate = certify(here, {"N": 4, "x_0": 3, "x_F": 4, "sigma": 1, "eps": 1})
    text = shown(report.hypotheses_table(certificate.checked))
    assert "layers 2-4, residual" in text
    assert "FAILS" not in text
    assert "certified" in shown(report.certificate_table(certificate))
    assert "0.421875" in shown(report.bounds_table(composed(here), {"first_derivative": 0.421875}, "title"))
    assert "open" in shown(report.hypotheses_table(unchecked(hypotheses(here)))) or certificate.certified
    assert "oo *" in shown(report.layers_table([entry(parse("affine(m)"), "everywhere")], "everywhere"))


def test_a_violation_stands_out_in_the_comparison() -> None:
    row = {
        "network": "[chain]",
        "depth": 2,
        "quantity": "q",
        "sense": "upper",
        "bound": 1.0,
        "measured": 2.0,
        "tightness": 2.0,
        "holds": False,
    }
    text = shown(report.comparison_table([row, {**row, "bound": math.inf, "tightness": None, "holds": True}]))
    assert "NO" in text
    assert "[chain]" in text
    assert "inf" in text
