"""What must hold of every program for an accelerator."""

from __future__ import annotations

import re
from collections.abc import Iterator

from benchmarks.accelerators.hlo import Module
from benchmarks.accelerators.targets import Target

# Calls of XLA's own compilers and libraries; what else a program calls is not there on the device.
ALLOWED = {
    "tpu": re.compile(
        r"AllocateBuffer|ConcatBitcast|AssumeGatherIndicesInBound|GatherScatterIndicesBitpacked|tpu_custom_call"
        r"|EighTpu|Cholesky|QrDecompositionBlock|Sharding|SPMD\w+|X64\w+|TopK|ResizeNearest|Pin\w*"
    ),
    "gpu": re.compile(r"__cudnn\$\w+|__cublas\$.+|cusolver_\w+_ffi|__gpu\$.+|cub\w*sort\w*"),
}
_WIDE = ("f64", "s64", "c128")


def faults(module: Module, target: Target, aliased: int, state: int) -> Iterator[str]:
    """A line for each thing that is wrong with a compiled block.

    Args:
      module: the program.
      target: what it was compiled for.
      aliased: bytes of its arguments that its results take over.
      state: bytes of the state, all of which a block takes over.
    """
    targets = {i.custom_target for i in module if i.custom_target}
    strange = sorted(name for name in targets if not ALLOWED[target.platform].fullmatch(name))
    if strange:
        yield f"calls {', '.join(strange)}"
    wide = sorted({shape.dtype for i in module for shape in i.shapes if shape.dtype in _WIDE})
    if wide:
        yield f"computes in {', '.join(wide)}"
    if aliased < state:
        yield f"takes over {aliased} of {state} bytes of state"
