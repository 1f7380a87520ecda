"""Deaths of a process at a file operation, without a process: nothing reaches the folder after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.file_operations import watching


class Death(BaseException):
    """What no code catches by mistake."""


@contextmanager
def dying(folder: Path, operation: int = 0) -> Iterator[list[int]]:
    """Within, the given operation on a file of the folder and all after it fail; 0 counts only.

    The value lists the operations so far.
    """
    done: list[int] = []

    def counted() -> None:
        done.append(len(done) + 1)
        if 0 < operation <= len(done):
            raise Death(f"at operation {len(done)}")

    with watching(folder, counted):
        yield done
