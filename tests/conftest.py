"""Strict arithmetic and two fake devices for the whole suite."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from importlib import metadata

# Tests compile thousands of small programs and run each a few times: optimising them does not pay.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    + " --xla_cpu_parallel_codegen_split_count=1"  # programs this small gain nothing from more
    # It halves the time to compile; later versions abort, since they do not know it any more.
    + " --xla_cpu_use_fusion_emitters=false" * metadata.version("jaxlib").startswith("0.10.")
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# Programs and their traces live as long as the tests: looking for cycles in them finds little.
gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The command line's compilation cache, away from the user's."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FEDJAX_KD_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision, in which authors' numbers are met to the last digits."""
    with jax.enable_x64(True):
        yield
