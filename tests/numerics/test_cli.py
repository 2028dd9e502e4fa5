"""The commands that need no torch: what they print can be read back, and bad input ends in one line and exit status 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sympy
from typer.testing import CliRunner

from numerics import cli, query
from theory import symbols
from theory.records import QUANTITIES

NETWORK = "affine(6), repeat(L, residual(sin, affine(6, weight_norm=frobenius), scale(c/L))), crop(3)"
VALUES = ["--features", "8", "--samples", "4", "--set", "c=1/4", "--set", "eps=1"]
DATA = ["--set", "x_0=3", "--set", "x_F=4", "--set", "sigma=1"]

runner = CliRunner()


def output(*arguments: str) -> str:
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refusal(*arguments: str) -> str:
    """The one line that a refused call leaves on stderr."""
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("depthbound: error: ")
    return lines[0]


def read(text: str) -> sympy.Expr:
    return sympy.sympify(text, locals=symbols.KNOWN)


def test_layers_as_json_have_every_quantity_in_the_projects_symbols() -> None:
    found = json.loads(output("layers", "--json", "--only", "weight_norm=frobenius)", "--domain", "all"))
    assert {e["domain"] for e in found} == {"everywhere", "bounded input", "ball"}
    for entry in found:
        assert list(entry["quantities"]) == list(QUANTITIES)
        for name, bound in entry["quantities"].items():
            assert set(bound) == {"expression", "sense", "sharp", "assumptions", "attained", "source"}
            assert bound["sense"] == ("lower" if name.endswith("_min") else "upper")
            assert read(bound["expression"]).free_symbols <= set(symbols.KNOWN.values())
    plain = next(
        e for e in found if e["layer"] == "affine(m, weight_norm=frobenius)" and e["domain"] == "bounded input"
    )
    assert read(plain["quantities"]["param_jacobian_norm"]["expression"]) == symbols.r / sympy.sqrt(symbols.eps)


def test_layers_show_what_is_missing_without_normalisation() -> None:
    text = output("layers", "--only", "affine(m)")
    assert "oo *" in text
    assert "everywhere" in text


def test_layers_as_latex_are_one_document() -> None:
    text = output("layers", "--latex", "--only", "affine(m)")
    assert text.startswith(r"\documentclass")
    assert text.rstrip().endswith(r"\end{document}")


def test_layers_explain_prints_the_proof() -> None:
    text = output("layers", "--explain", "rms_norm()")
    assert "step: " in text
    assert "assumes: " in text


def test_bounds_as_json_with_all_values_are_certified() -> None:
    found = json.loads(output("bounds", NETWORK, "--depth", "5", *VALUES, *DATA, "--json"))
    assert found["missing"] == []
    assert found["certificate"]["certified"] is True
    assert found["certificate"]["step_size"] > 0
    first = found["bounds"]["first_derivative"]
    closed = read(first["expression"])
    assert symbols.L not in closed.free_symbols
    at = {symbols.KNOWN[k]: v for k, v in {"c": sympy.Rational(1, 4), "eps": 1, "x_0": 3}.items()}
    # the value is that of the unrolled network, whose blocks' constants are no worse than the uniform ones of the closed form
    assert first["value"] <= float(closed.subs(at)) * (1 + 1e-12)
    assert {"name", "statement", "quantity", "sense", "expression", "value", "holds", "reason"} == set(
        found["certificate"]["hypotheses"][0]
    )


def test_bounds_without_values_say_which_are_needed_and_keep_the_limit() -> None:
    found = json.loads(output("bounds", NETWORK, "--json"))
    assert found["certificate"]["certified"] is None
    assert {"L", "N", "c", "eps", "sigma", "x_0"} <= set(found["missing"])
    assert read(found["bounds"]["first_derivative"]["limit"]) == symbols.x_0 * sympy.exp(symbols.c)
    assert found["bounds"]["first_derivative"]["value"] is None


def test_a_great_depth_stays_in_closed_form() -> None:
    found = json.loads(output("bounds", NETWORK.replace("L", "500"), *VALUES, *DATA, "--json"))
    assert found["at"] == {"L": 500}
    assert symbols.L in read(found["bounds"]["first_derivative"]["expression"]).free_symbols
    assert len([h for h in found["certificate"]["hypotheses"] if "layers 2-501" in h["name"]]) == 6


def test_an_uncertified_network_names_what_fails() -> None:
    text = output("bounds", "affine(6), sin, affine(3)", *VALUES, *DATA)
    assert "not certified" in text
    assert "FAILS" in text


def test_the_ball_is_a_domain_on_which_the_theorem_does_not_apply() -> None:
    found = json.loads(output("bounds", "affine(6), sin, affine(3)", *VALUES, *DATA, "--radius", "2", "--json"))
    assert found["bounds"]["smoothness_constant"]["value"] not in (None, "oo")
    failing = [h["name"] for h in found["certificate"]["hypotheses"] if not h["holds"]]
    assert "unbounded domain" in failing


def test_bounds_as_latex_and_as_proofs() -> None:
    assert r"\end{document}" in output("bounds", NETWORK, "--latex")
    proof = output("bounds", NETWORK, "--explain")
    assert "tangent_kernel_lambda_min >= " in proof
    assert "step: " in proof


def test_a_spec_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "network.txt"
    file.write_text("affine(6),  # first\naffine(3)\n", encoding="utf-8")
    assert json.loads(output("bounds", str(file), "--json"))["network"] == "affine(6), affine(3)"


def test_output_goes_to_a_file_whole(tmp_path: Path) -> None:
    assert output("bounds", "affine(6), affine(3)", "--json", "--out", str(tmp_path / "new" / "b.json")) == ""
    assert json.loads((tmp_path / "new" / "b.json").read_text())["network"] == "affine(6), affine(3)"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bounds", "affine(0), affine(3)"], "features = 0"),
        (["bounds", "affine(-4)"], "features = -4"),
        (["bounds", "affine(4)", "--features", "0"], "features = 0"),
        (["bounds", "affine(4)", "--samples", "-2"], "--samples -2"),
        (["bounds", "affine(4), batch_norm(eps=0)"], "eps > 0"),
        (["bounds", "affine(4), layer_norm(eps=-1)"], "eps > 0"),
        (["bounds", "affine(4), batch_norm()", "--set", "eps=0"], "eps must be positive"),
        (["bounds", "affine(4), batch_norm()", "--samples", "1"], "at least two samples"),
        (["bounds", "affine(4), residual(affine(5))"], "residual branch turns 4 x N into 5 x N"),
        (["bounds", "affine(4), dense(5)"], "unknown layer 'dense'"),
        (["bounds", "affine(4), swish, affine(3)"], "unknown layer 'swish'"),
        (["bounds", "affine(4), affine(3, weight_norm=column)"], "unknown weight normalisation 'column'"),
        (["bounds", "affine(4"], "cannot read"),
        (["bounds", ""], "network spec"),
        (["bounds", "affine(1)"], "at least two"),
        (["bounds", "networks/deep.txt"], "network file networks/deep.txt does not exist"),
        (["bounds", "affine(4)", "--depth", "0"], "--depth 0"),
        (["bounds", "affine(4)", "--depth", "3"], "no symbolic depth"),
        (["bounds", NETWORK, "--depth", "3", "--set", "L=4"], "disagree"),
        (["bounds", "affine(4)", "--set", "sigma"], "write name=value"),
        (["bounds", "affine(4)", "--set", "beta=1"], "no symbol beta"),
        (["bounds", "affine(4)", "--set", "x_0=big"], "not an exact number"),
        (["bounds", "affine(4)", "--set", "x_0=nan"], "not an exact number"),
        (["bounds", "affine(4)", "--set", "N=3/2"], "positive whole number"),
        (["bounds", "affine(4)", "--set", "sigma=2", "--set", "x_0=1"], "sigma = 2 exceeds x_0 = 1"),
        (["bounds", "affine(4)", "--features", "3", "--samples", "4", "--set", "sigma=1"], "full column rank"),
        (["bounds", "affine(4)", "--radius", "-1"], "positive radius"),
        (["bounds", "affine(4)", "--json", "--latex"], "exclude each other"),
        (["layers", "--domain", "sphere"], "unknown domain"),
        (["layers", "--only", "dense"], "no layer's name contains this"),
        (["layers", "--explain", "dense"], "unknown layer 'dense'"),
    ],
)
def test_bad_input_is_refused_in_one_line_that_names_it(arguments: list[str], words: str) -> None:
    assert words in refusal(*arguments)


def test_an_unwritable_output_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refusal("bounds", "affine(4)", "--json", "--out", str(tmp_path / "file" / "b.json"))
    assert f"into the folder {tmp_path / 'file'}" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_missing_device_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object, **__: object) -> None:
        raise RuntimeError("device cuda is asked for,\nbut PyTorch sees none: use 'cpu'")

    monkeypatch.setattr(query, "ask", ask)
    assert refusal("bounds", "affine(4)").endswith("device cuda is asked for, but PyTorch sees none: use 'cpu'")


@pytest.mark.parametrize("arguments", [["bounds"], ["bounds", "affine(4)", "--nonsense"], ["nonsense"]])
def test_wrong_usage_has_status_2_as_well(arguments: list[str]) -> None:
    assert runner.invoke(cli.app, arguments).exit_code == 2


def test_the_command_starts_without_torch_and_fails_in_one_line() -> None:
    program = (
        "import sys; sys.argv = ['depthbound', 'bounds', 'affine(4), dense(2)']\n"
        "from numerics import cli\n"
        "try:\n    cli.main()\n"
        "finally:\n    heavy = {'torch', 'matplotlib', 'sklearn'} & set(sys.modules)\n    print('heavy', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == "heavy []\n"
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("depthbound: error: network spec: unknown layer 'dense'")
