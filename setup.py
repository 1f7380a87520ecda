"""The part of the build that is code: the compiled convolution, which the package can do without.

It is left out, with a warning, where there is no compiler or where jaxlib's headers are not found.
"""

import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("fedjax_kd/nn/native")
# No instruction set is named: the code has several and chooses when it runs.
OPTIONS = ["-std=c++17", "-O3", "-g0", "-ffp-contract=fast", "-fno-math-errno"]


def headers() -> Path | None:
    """The folder of XLA's headers in jaxlib, which is not imported for it."""
    found = find_spec("jaxlib")
    folders = found.submodule_search_locations if found else None
    folder = Path(folders[0]) / "include" if folders else None
    return folder if folder and (folder / "xla/ffi/api/ffi.h").is_file() else None


def extensions() -> list[Extension]:
    """The compiled convolution where it can be built, else nothing."""
    include = headers()
    if sys.platform == "win32" or include is None:
        why = "no jaxlib with headers" if include is None else "written for GCC and Clang"
        warnings.warn(f"The convolution is not compiled ({why}).", stacklevel=1)
        return []
    extension = Extension(
        "fedjax_kd.nn.native._convolution",
        sources=[str(NATIVE / "convolution.cc")],
        depends=[str(path) for path in sorted([*NATIVE.glob("*.h"), *NATIVE.glob("*.inc")])],
        include_dirs=[str(include)],
        extra_compile_args=OPTIONS,
        language="c++",
        optional=True,
    )
    return [extension]


setup(ext_modules=extensions())
