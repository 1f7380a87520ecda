"""The package installed where its compiled convolution cannot be built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAST_SETUPTOOLS = 77
ASKED = """
import warnings
warnings.simplefilter("error")
import fedjax_kd
from fedjax_kd.nn.native import library
assert not library._here.cache_info().currsize, "looked for on import"
print(fedjax_kd.__file__)
print(library.description(), library.reason(), sep=": ")
"""


def setuptools() -> int:
    """Its major version; 0 if there is none."""
    versions = [found.version for found in metadata.distributions(name="setuptools")]
    return int(versions[0].split(".")[0]) if versions else 0


def source(folder: Path) -> Path:
    """A copy of the checkout without anything built."""
    built = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "fedjax_kd", folder / "fedjax_kd", ignore=built)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def installed(folder: Path, environment: dict[str, str]) -> Path:
    """Where pip installs the copy, with what is installed already and nothing from elsewhere."""
    target = folder / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target]
    arguments = [*pip, "--no-build-isolation", source(folder / "source")]
    done = subprocess.run(
        arguments, check=False, capture_output=True, text=True, env=os.environ | environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.mark.thorough
@pytest.mark.skipif(
    setuptools() < LEAST_SETUPTOOLS,
    reason=f"needs setuptools {LEAST_SETUPTOOLS}",
)
@pytest.mark.parametrize("without", ["compiler", "headers"])
def test_it_installs_and_works(tmp_path: Path, without: str):
    environment = {"CC": "false", "CXX": "false"}
    if without == "headers":
        (tmp_path / "before" / "jaxlib").mkdir(parents=True)
        (tmp_path / "before" / "jaxlib" / "__init__.py").touch()
        environment = {"PYTHONPATH": str(tmp_path / "before")}
    target = installed(tmp_path, environment)
    assert not [*target.rglob("_convolution*")]
    asked = subprocess.run(
        [sys.executable, "-c", ASKED],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target)},
    )
    assert asked.stdout.splitlines() == [
        str(target / "fedjax_kd" / "__init__.py"),
        "products: no compiled code was installed with fedjax_kd",
    ]
