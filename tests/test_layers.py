"""The shape of the source: imports run one way, files and functions stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import fedjax_kd

ROOT = Path(fedjax_kd.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# From the bottom up. A module imports from lower lines only; files of a folder, which stands here
# as a whole, also from each other, but not in a circle.
LAYERS = (
    "errors",
    "backends core options prng",
    "tree batching",
    "nn",
    "losses models",
    "metrics",
    "problems",
    "data",
    "local task",
    "engine",
    "components train",
    "wrappers",
    "algorithms",
    "runs",
    "report",
    "sweeps",
    "commands",
    "cli",
    "__main__",
)
HEIGHT = {unit: height for height, line in enumerate(LAYERS) for unit in line.split()}
BELOW_METHODS = {
    *("errors", "backends", "core", "options", "prng", "tree", "batching", "nn", "losses"),
    *("metrics", "problems", "data", "local", "task", "components"),
}
MAY_IMPORT = {"algorithms": BELOW_METHODS | {"wrappers"}, "wrappers": BELOW_METHODS | {"engine"}}
MODULES_AT_THE_TOP = 12
# Of every command; of every format of a file; and the server optimisers, which are the methods.
EVERYWHERE = {"main", "HELP", "FORMAT", "fedavgm", "fedadagrad", "fedadam", "fedyogi"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(file: Path) -> str:
    """``a/b.py`` is ``a.b`` and ``a/__init__.py`` is ``a``."""
    dotted = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return dotted.removesuffix("__init__").strip(".")


MODULES = {name_of(file) for file in FILES}


@cache
def parsed(file: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(file.read_text())


def definitions(file: Path) -> list[Function | ast.ClassDef]:
    """The functions and classes that a module defines at its top."""
    return [n for n in parsed(file).body if isinstance(n, Function | ast.ClassDef)]


def public_names(file: Path) -> set[str]:
    """What a module defines at its top, imports apart."""
    assigned = [n for n in parsed(file).body if isinstance(n, ast.Assign | ast.AnnAssign)]
    targets = [
        t for n in assigned for t in (n.targets if isinstance(n, ast.Assign) else [n.target])
    ]
    names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return {n for n in [*names, *(d.name for d in definitions(file))] if n[0] != "_"}


def imports(file: Path) -> Iterator[str]:
    """The modules of this package that a file imports anywhere, named without the package."""
    for node in ast.walk(parsed(file)):
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


def test_imports_run_one_way():
    offenders = []
    for file in FILES:
        here = name_of(file).split(".")[0]
        if here == "":
            continue  # the package itself names what users may import
        assert here in HEIGHT, f"{here} stands in no layer: add it to LAYERS"
        allowed = MAY_IMPORT.get(here, {u for u in HEIGHT if HEIGHT[u] < HEIGHT[here]}) | {here}
        offenders += [
            f"{name_of(file)}: {m}" for m in imports(file) if m.split(".")[0] not in allowed
        ]
    assert not offenders


def test_one_name_means_one_thing():
    places: dict[str, list[str]] = {}
    for file in FILES:
        for name in public_names(file) - EVERYWHERE:
            places.setdefault(name, []).append(name_of(file))
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_few_modules_stand_at_the_top():
    assert len([file for file in FILES if file.parent == ROOT]) <= MODULES_AT_THE_TOP


def test_no_circles_within_folders():
    edges = {name_of(f): {m for m in imports(f) if m in MODULES} for f in FILES if name_of(f)}
    folders = {name for name in MODULES if any(m.startswith(f"{name}.") for m in MODULES)} - {""}
    left = {m: {e for e in edges[m] if e not in folders} for m in edges if m not in folders}
    while free := {m for m, needs in left.items() if not needs & left.keys()}:
        left = {m: needs for m, needs in left.items() if m not in free}
    assert not left


def a_method(file: Path) -> bool:
    return file.parent.name == "algorithms" and file.name != "__init__.py"


def test_sizes():
    folders = [ROOT.parent / name for name in ("tests", "benchmarks", "experiments")]
    others = [file for folder in folders for file in folder.rglob("*.py")]
    assert others
    lines = {file: len(file.read_text().splitlines()) for file in [*FILES, *others]}
    assert not [f"{f}: {n}" for f, n in lines.items() if n > (100 if a_method(f) else 300)]
    functions = [(f, n) for f in FILES for n in ast.walk(parsed(f)) if isinstance(n, Function)]
    assert not [f"{file}: {n.name}" for file, n in functions if own_lines(n) > 40]


def test_no_check_is_switched_off():
    numbered = [(f, n, line) for f in FILES for n, line in enumerate(f.read_text().splitlines(), 1)]
    assert not [f"{f}:{n}" for f, n, line in numbered if "type: ignore" in line or "noqa" in line]


def test_everything_public_is_documented():
    silent = [str(f) for f in FILES if parsed(f).body and ast.get_docstring(parsed(f)) is None]
    assert not silent, "a module says what it is about"
    public = [(f, n) for f in FILES for n in definitions(f) if n.name[0] != "_"]
    assert not [f"{f}: {n.name}" for f, n in public if ast.get_docstring(n) is None]
