"""Strict arithmetic and two fake devices for the whole suite."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

# Tests compile thousands of small programs and run each a few times: optimising them does not pay.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    + " --xla_cpu_parallel_codegen_split_count=1"  # programs this small gain nothing from more
    # It halves the time to compile; later versions abort, since they do not know it any more.
    + " --xla_cpu_use_fusion_emitters=false" * metadata.version("jaxlib").startswith("0.10.")
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Of programs this small, those are kept for other tests and workers that are no single operation.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")

import jax
import pytest
from xdist.scheduler import LoadScopeScheduling

from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.engine import compile_cache

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

MEMORY, GROWTH = 1_300_000_000, 400_000_000  # bytes at which a worker drops compiled programs
# What takes long in few tests starts first: else one worker would wait for it at the end.
LONG = (
    *("test_resume.py", "test_sweep_command.py", "test_wrappers.py", "test_studies.py"),
    *("test_contract_parts.py", "test_engine.py", "test_localkd.py", "test_cli.py"),
)
OF_EVERY_METHOD = (
    *("test_contract.py", "test_degenerate.py", "test_learns.py", "test_wrapper_types.py"),
)
HELD = pytest.StashKey[int]()  # bytes after it did so last

# Programs and their traces live as long as the tests: looking for cycles in them finds little.
gc.set_threshold(50_000, 20, 50)


class MethodScheduling(LoadScopeScheduling):
    """Tests of one method share its compiled rounds, others of one file what the file computes.

    Of ``--dist=loadgroup`` this is independent: xdist 3.8 does not find its groups in pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, case = nodeid.split("::", maxsplit=1)[0], nodeid.removesuffix("]").rpartition("[")[2]
        name = case.split("-")[-1]
        return name if Path(file).name in OF_EVERY_METHOD and name in REGISTRY else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> MethodScheduling:
    """Which tests go to one worker."""
    config.option.loadscopereorder = False
    return MethodScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, then what runs over all methods, then the others."""
    order = (*LONG, *OF_EVERY_METHOD)
    rank = {name: number for number, name in enumerate(order)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """JAX's compilation cache for all workers and commands of one run of the suite, and no other.

    What an earlier run compiled is not trusted to be what this source would compile. ``.ci/run``,
    which runs the suite in two parts, names one folder for both.
    """
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        named = os.environ.get("TESTS_COMPILED", str(shared / "compiled"))
        patch.setenv("FEDJAX_KD_CACHE", named)
        compile_cache.enable()
        yield


def memory_in_use() -> int:
    """Bytes that this process occupies; as many as can be where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return sys.maxsize


@pytest.fixture(autouse=True)
def memory_is_given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compiled programs are hundreds of megabytes, and the C library keeps what they leave."""
    yield
    held = request.config.stash.get(HELD, 0)
    # Beyond what it could not give back last time: else each test would compile all anew.
    if memory_in_use() > max(MEMORY, held + GROWTH):
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        request.config.stash[HELD] = memory_in_use()


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision, in which authors' numbers are met to the last digits."""
    with jax.enable_x64(True):
        yield
