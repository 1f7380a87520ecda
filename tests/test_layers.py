"""The shape of the source: imports run one way, files and functions stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedjax_kd

ROOT = Path(fedjax_kd.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
EVERY_FILE = pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))

# From the bottom up. A module imports from lower lines only; files of a folder, which stands here
# as a whole, also from each other, but not in a circle.
LAYERS = (
    "core decompositions signature compile_cache distributed interrupt memory prefetch prng",
    "values",
    "tree losses batching reduce cohort nn server_opt precision low_rank",
    "metrics models local task public seating",
    "data validate",
    "evaluate phase fidelity parts hypernet",
    "engine chunking distil",
    "algorithms",
    "debug simulation",
    "feeding",
    "dispatch",
    "train checkpoint",
    "division architectures",
    "config",
    "display runs tensorboard",
    "report",
    "sweeps",
    "commands",
    "cli",
    "__main__",
)
HEIGHT = {unit: height for height, line in enumerate(LAYERS) for unit in line.split()}
_METHODS_USE = (
    "core tree nn batching losses local parts public task server_opt signature low_rank hypernet"
)
MAY_IMPORT = {"algorithms": {*_METHODS_USE.split(), "distil"}}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(file: Path) -> str:
    """``a/b.py`` is ``a.b`` and ``a/__init__.py`` is ``a``."""
    dotted = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return dotted.removesuffix("__init__").strip(".")


MODULES = {name_of(file) for file in FILES}


def imports(file: Path) -> Iterator[str]:
    """The modules of this package that a file imports anywhere, named without the package."""
    for node in ast.walk(ast.parse(file.read_text())):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in found:
            inside = name.removeprefix("fedjax_kd").strip(".")
            if name.split(".")[0] == "fedjax_kd":
                yield inside if inside in MODULES else inside.rpartition(".")[0]


def own_lines(function: Function) -> int:
    """Lines of a body: without the docstring, and without inner functions, which count alone."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    inner = [n for statement in body for n in ast.walk(statement) if isinstance(n, Function)]
    covered = {line for n in inner for line in range(n.lineno, n.end_lineno + 1)}
    return len(set(range(body[0].lineno, function.end_lineno + 1)) - covered)


@EVERY_FILE
def test_imports_run_one_way(file: Path):
    here = name_of(file).split(".")[0]
    if here == "":
        return  # the package itself names what users may import
    assert here in HEIGHT, f"{here} stands in no layer: add it to LAYERS"
    for module in imports(file):
        unit = module.split(".")[0]
        allowed = MAY_IMPORT.get(here, {u for u in HEIGHT if HEIGHT[u] < HEIGHT[here]})
        assert unit in allowed | {here}, f"{here} may not import {module}"


def test_no_circles_within_folders():
    edges = {name_of(f): {m for m in imports(f) if m in MODULES} for f in FILES if name_of(f)}
    folders = {name for name in MODULES if any(m.startswith(f"{name}.") for m in MODULES)} - {""}
    left = {m: {e for e in edges[m] if e not in folders} for m in edges if m not in folders}
    while free := {m for m, needs in left.items() if not needs & left.keys()}:
        left = {m: needs for m, needs in left.items() if m not in free}
    assert not left


@EVERY_FILE
def test_sizes(file: Path):
    source = file.read_text()
    a_method = file.parent.name == "algorithms" and file.name != "__init__.py"
    limit = 100 if a_method else 300
    assert len(source.splitlines()) <= limit
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, Function)]
    long = {f.name: own_lines(f) for f in functions if own_lines(f) > 40}
    assert not long


def test_no_file_is_long():
    folders = [ROOT.parent / name for name in ("tests", "benchmarks", "experiments")]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    assert files
    assert not [file.name for file in files if len(file.read_text().splitlines()) > 300]


@EVERY_FILE
def test_no_check_is_switched_off(file: Path):
    lines = enumerate(file.read_text().splitlines(), 1)
    off = [n for n, line in lines if "type: ignore" in line or "noqa" in line]
    assert not off


@EVERY_FILE
def test_everything_public_is_documented(file: Path):
    tree = ast.parse(file.read_text())
    public = [n for n in tree.body if isinstance(n, Function | ast.ClassDef) and n.name[0] != "_"]
    bare = [n.name for n in public if ast.get_docstring(n) is None]
    assert not bare
    assert ast.get_docstring(tree) or not tree.body, "a module says what it is about"
