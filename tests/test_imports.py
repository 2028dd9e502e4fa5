"""The import direction of the project: `theory` never reaches torch, no package contains a cycle, no import hides in a function.

The checker is a set of functions on a folder of source files, so that a second group of tests can run it on packages that break each rule.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

INSIDE_FUNCTIONS: frozenset[tuple[str, str]] = frozenset()
"""Documented exceptions `(module, imported module)`; `numerics.cli` may import anything where it starts a command, `numerics.certification.command`
what the user names."""
LAZY_MODULES = frozenset({"numerics.cli", "numerics.certification.command"})


def modules_of(root: Path, package: str) -> dict[str, ast.Module]:
    """Dotted name -> parsed source of every module of a package."""
    found = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imported(node: ast.AST, module: str, known: frozenset[str], is_package: bool) -> list[str]:
    """Dotted names that one import statement reads, submodules resolved (`from a.b import c` is `a.b.c` where that is a module)."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        anchor = module.split(".")
        anchor = anchor[: len(anchor) - node.level + is_package]
        base = ".".join([*anchor, base] if base else anchor)
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]


def import_graph(root: Path, package: str) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports, anywhere in its source."""
    trees = modules_of(root, package)
    known = frozenset(trees)
    packages = {name for name in known if (root / Path(*name.split(".")) / "__init__.py").is_file()}
    graph = {}
    for name, tree in trees.items():
        reached = {
            target for node in ast.walk(tree) for target in imported(node, name, known, name in packages)
        } & known
        graph[name] = reached - {name}
    return graph


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """One import cycle as a list of modules, or an empty list."""
    state: dict[str, int] = {}
    path: list[str] = []

    def visit(name: str) -> list[str]:
        state[name] = 1
        path.append(name)
        for target in sorted(graph[name]):
            if state.get(target) == 1:
                return [*path[path.index(target) :], target]
            if target not in state and (found := visit(target)):
                return found
        path.pop()
        state[name] = 2
        return []

    for name in sorted(graph):
        if name not in state and (found := visit(name)):
            return found
    return []


def imports_inside_functions(root: Path, package: str) -> set[tuple[str, str]]:
    """`(module, imported module)` for every import below the top level of a function or method."""
    hidden = set()
    trees = modules_of(root, package)
    known = frozenset(trees)
    for name, tree in trees.items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                for node in ast.walk(function):
                    hidden |= {(name, target) for target in imported(node, name, known, False)}
                    # importlib and __import__ are the same thing in disguise
                    if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                        "__import__",
                        "importlib.import_module",
                    ):
                        hidden.add((name, ast.unparse(node)))
    return hidden


def loaded_by(root: Path, package: str, forbidden: tuple[str, ...]) -> list[str]:
    """Which of the forbidden packages a fresh interpreter holds after importing a package with all its submodules."""
    code = (
        "import importlib, pkgutil, sys\n"
        f"package = importlib.import_module({package!r})\n"
        f"for info in pkgutil.walk_packages(package.__path__, {package + '.'!r}):\n"
        "    importlib.import_module(info.name)\n"
        f"print(*sorted({set(forbidden)!r} & set(sys.modules)))\n"
    )
    # -P and a bare path: nothing of this process, of the working directory or of pytest can help the import along
    result = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=root,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def sources_that_import(root: Path, package: str, forbidden: tuple[str, ...]) -> set[tuple[str, str]]:
    """`(module, top-level package)` for every import, wherever it stands, of a forbidden package."""
    return {
        (name, target.split(".")[0])
        for name, tree in modules_of(root, package).items()
        for node in ast.walk(tree)
        for target in imported(node, name, frozenset(), False)
        if target.split(".")[0] in forbidden
    }


ABOVE_THEORY = ("torch", "numerics", "paper_checks", "tests")
ABOVE_NUMERICS = ("paper_checks", "tests", "examples", "benchmarks")


def test_importing_all_of_theory_loads_neither_torch_nor_numerics() -> None:
    assert loaded_by(ROOT, "theory", ABOVE_THEORY) == []


@pytest.mark.parametrize(("package", "above"), [("theory", ABOVE_THEORY), ("numerics", ABOVE_NUMERICS)])
def test_no_source_names_a_package_above_its_own(package: str, above: tuple[str, ...]) -> None:
    assert sources_that_import(ROOT, package, above) == set()


@pytest.mark.parametrize("package", ["theory", "numerics"])
def test_the_import_graph_has_no_cycle(package: str) -> None:
    graph = import_graph(ROOT, package)
    assert len(graph) > 3, f"no modules of {package} found below {ROOT}"
    assert cycle_in(graph) == []


@pytest.mark.parametrize("package", ["theory", "numerics"])
def test_no_import_hides_inside_a_function(package: str) -> None:
    hidden = {
        pair
        for pair in imports_inside_functions(ROOT, package)
        if pair[0] not in LAZY_MODULES and pair not in INSIDE_FUNCTIONS
    }
    assert hidden == set()


# The checker itself: each rule broken on purpose in a small package.


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_the_checker_sees_a_package_from_above_loaded_through_a_submodule(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {"low/__init__.py": "", "low/inner/__init__.py": "", "low/inner/deep.py": "import high\n", "high.py": ""},
    )
    assert loaded_by(root, "low", ("high",)) == ["high"]
    assert sources_that_import(root, "low", ("high",)) == {("low.inner.deep", "high")}


def test_the_checker_sees_an_import_from_above_even_where_it_never_runs(tmp_path: Path) -> None:
    root = write(tmp_path, {"low/__init__.py": "", "low/a.py": "def f():\n    from high.part import g\n"})
    assert sources_that_import(root, "low", ("high",)) == {("low.a", "high")}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from low.b import g\n", "from low import a\n"),
        ("import low.b\n", "import low.a\n"),
        ("from . import b\n", "from .a import f\n"),
        ("from low.b import g\n", "def f():\n    import low.a\n"),
    ],
)
def test_the_checker_sees_a_cycle_of_two_modules(tmp_path: Path, first: str, second: str) -> None:
    root = write(tmp_path, {"low/__init__.py": "", "low/a.py": first, "low/b.py": second})
    assert cycle_in(import_graph(root, "low")) == ["low.a", "low.b", "low.a"]


def test_the_checker_sees_a_cycle_of_three_modules_and_passes_a_diamond(tmp_path: Path) -> None:
    diamond = {"low/__init__.py": "", "low/a.py": "import low.b, low.c\n", "low/b.py": "import low.d\n"}
    diamond |= {"low/c.py": "import low.d\n", "low/d.py": ""}
    root = write(tmp_path, diamond)
    assert cycle_in(import_graph(root, "low")) == []
    write(tmp_path, {"low/d.py": "import low.a\n"})
    assert cycle_in(import_graph(root, "low")) == ["low.a", "low.b", "low.d", "low.a"]


def test_the_checker_sees_every_way_to_import_inside_a_function(tmp_path: Path) -> None:
    text = "def f():\n    import json\n\n\nclass C:\n    def g(self):\n        from low import b\n\n\nh = lambda: __import__('os')\n"
    root = write(tmp_path, {"low/__init__.py": "", "low/b.py": "import json\n", "low/a.py": text})
    assert imports_inside_functions(root, "low") == {
        ("low.a", "json"),
        ("low.a", "low.b"),
        ("low.a", "__import__('os')"),
    }
