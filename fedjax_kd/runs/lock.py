"""One process at a time writes to a run folder: the lock, its owner, and when it is stale.

While a command writes to a folder, the file ``lock`` in it is locked by the operating system, which
frees it whenever and however the process ends; it says who the owner is. Where a file system locks
within one machine only, or not at all, the file's age decides: the owner touches it every few
seconds, and one that has not done so for a minute is gone.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from fedjax_kd.errors import InputError

LOCK = "lock"

_BEAT = 10.0  # seconds between two signs of life
_STALE = 60.0  # without one
_UNABLE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Owner(NamedTuple):
    """The process that holds a lock, and what it does."""

    command: str
    pid: int
    host: str
    since: float  # seconds of the epoch


@contextmanager
def held(folders: Sequence[Path], command: str) -> Iterator[None]:
    """Within, no other process writes to these run folders.

    Args:
      folders: that exist.
      command: that others are told holds them, such as ``fedjax-kd resume``.

    Raises:
      ValueError: if another process holds one; the message says which, and since when.
      OSError: if a folder cannot be written to.
    """
    owner = Owner(command, os.getpid(), socket.gethostname(), time.time())
    with ExitStack() as stack:
        for folder in folders:
            stack.callback(_release, folder / LOCK, _taken(folder, owner))
        stack.enter_context(_heartbeat([folder / LOCK for folder in folders]))
        yield


def _taken(folder: Path, owner: Owner) -> int:
    """The open file of a lock that is ours from now on."""
    path = folder / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            free = _flock(file)
            if free is not False and not _is_at(path, file):
                os.close(file)  # its last owner has removed it since it was opened
                continue
            _check_gone(folder, file, free)
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, json.dumps(owner._asdict()).encode())
        except BaseException:
            os.close(file)
            raise
        return file


def _check_gone(folder: Path, file: int, free: bool | None) -> None:
    """Raises ValueError if the owner that a lock names lives.

    Args:
      folder: that is locked.
      file: the open file of the lock.
      free: what the operating system says: False if it is held; None if it cannot say.
    """
    found = _owner(file)
    if free is False:
        raise _busy(folder, found, "wait until it ends, or stop it by Ctrl-C or SIGTERM")
    if found is None:
        return
    here = found.host == socket.gethostname()
    if here and (free or not _runs(found.pid)):
        return
    silent = _now(folder) - os.fstat(file).st_mtime
    if silent <= _STALE:
        raise _busy(
            folder,
            found,
            f"its last sign of life is {max(silent, 0):.0f} s old. Wait until it ends, or stop it; "
            f"if it is gone already, the folder is free after {_STALE:.0f} s of silence",
        )


def _busy(folder: Path, owner: Owner | None, advice: str) -> InputError:
    who = "another process"
    if owner is not None:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.since))
        who = f"`{owner.command}` (process {owner.pid} on {owner.host}, since {since})"
    return InputError(f"{folder} is being written by {who}: {advice}.")


def _owner(file: int) -> Owner | None:
    """Whom a lock names; None if nobody, as when its owner was killed while it wrote."""
    try:
        os.lseek(file, 0, os.SEEK_SET)
        return Owner(**json.loads(os.read(file, 1 << 16)))
    except (TypeError, ValueError):
        return None


def _flock(file: int) -> bool | None:
    """Whether the operating system gives us the lock; None if it has none for this file."""
    try:
        import fcntl
    except ImportError:  # on Windows
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNABLE:
            return None
        raise
    return True


def _is_at(path: Path, file: int) -> bool:
    """Whether an open file is the one that others find."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _runs(pid: int) -> bool:
    """Whether a process of this machine lives."""
    if os.name == "nt":  # where signal 0 would be Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _now(folder: Path) -> float:
    """The time by the clock of the file system, which may be another machine's."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        return os.fstat(probe.fileno()).st_mtime


@contextmanager
def _heartbeat(paths: Sequence[Path]) -> Iterator[None]:
    """Within, a thread touches the files again and again."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_BEAT):
            for path in paths:
                with suppress(OSError):  # a file server that is away may come back
                    os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _release(path: Path, file: int) -> None:
    """Removes a lock of ours before another process can take it."""
    try:
        if os.name != "nt" and _is_at(path, file):  # Windows removes no open file
            path.unlink(missing_ok=True)
    finally:
        os.close(file)
    if os.name == "nt":
        path.unlink(missing_ok=True)
