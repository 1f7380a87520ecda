"""Operations that change the files of a folder, watched from within the process."""

from __future__ import annotations

import builtins
import functools
import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch


@contextmanager
def watching(folder: Path, before: Callable[[], None]) -> Iterator[None]:
    """Within, ``before`` is called before each operation that changes a file of the folder.

    Python's own audit hooks would say the same, but are called at every look at a stack frame too,
    of which tracing does many.
    """

    def watched(function: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(path: Any, *args: Any, **options: Any) -> Any:
            # Names relative to an open folder are those of `shutil.rmtree`.
            within = options.get("dir_fd") is not None or str(path).startswith(str(folder))
            if within and writes(*args, **options):
                before()
            return function(path, *args, **options)

        return call

    with ExitStack() as stack:
        for module, names, writes in _CHANGING:
            for name in names:
                whole = watched(getattr(module, name), writes)
                stack.enter_context(patch.object(module, name, whole))
        yield


def _opens_to_write(mode: str = "r", *_: Any, **__: Any) -> bool:
    return any(letter in mode for letter in "wax+")


def _has_flags_to_write(flags: int, *_: Any, **__: Any) -> bool:
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


_CHANGING: tuple[tuple[Any, tuple[str, ...], Callable[..., bool]], ...] = (
    (
        os,
        ("rename", "replace", "remove", "unlink", "mkdir", "rmdir"),
        lambda *args, **options: True,
    ),
    (os, ("open",), _has_flags_to_write),
    (io, ("open",), _opens_to_write),
    (builtins, ("open",), _opens_to_write),
)
