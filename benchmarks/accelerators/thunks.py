"""What a GPU does by itself: the command buffers (CUDA graphs) in XLA's list of launches."""

from __future__ import annotations

import re
from pathlib import Path

_LINE = re.compile(r"( *)(\d+): (k\w+)")
_INFO = re.compile(
    r'thunk_info \{\s*(?:profile_annotation: "([^"]*)"\s*)?(?:thunk_id: (\d+)\s*)?\}'
)


def dumped(folder: Path) -> frozenset[str]:
    """The same of the program that was compiled with ``xla_dump_to`` for that folder."""
    (launches,) = folder.glob("*.jit_block.thunk_sequence_after_thunk_passes.txt")
    (names,) = folder.glob("*.jit_block.thunk_metadata.txt")
    return in_command_buffers(launches.read_text("utf-8"), names.read_text("utf-8"))


def in_command_buffers(launches: str, metadata: str) -> frozenset[str]:
    """The instructions that run inside command buffers, for which the host never waits.

    Args:
      launches: XLA's ``thunk_sequence_after_thunk_passes``.
      metadata: its ``thunk_metadata``, which names the instruction of each launch.

    Example:
      >>> launches = '''
      ... 001: kWhile [source]
      ...   body:
      ...     000: kCommandBuffer [source]
      ...         002: kCustomKernel [source]
      ...     003: kCopy [source]
      ... '''
      >>> metadata = '''
      ... thunk_info { profile_annotation: "while.1" thunk_id: 1 }
      ... thunk_info { profile_annotation: "add.2" thunk_id: 2 }
      ... thunk_info { profile_annotation: "copy.3" thunk_id: 3 }
      ... '''
      >>> in_command_buffers(launches, metadata)
      frozenset({'add.2'})
    """
    names = {number: name for name, number in _INFO.findall(metadata)}
    found, outer = set(), None
    for indent, number, kind in map(
        re.Match.groups, filter(None, map(_LINE.match, launches.splitlines()))
    ):
        depth = len(indent)
        if outer is not None and depth <= outer:
            outer = None
        if outer is not None:
            found.add(names.get(str(int(number)), ""))
        elif kind == "kCommandBuffer":
            outer = depth
    return frozenset(found)
