"""Ctrl-C or SIGTERM in a training: the first asks it to stop, the second stops it at once."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_CODE = 130

_ASKING = (signal.SIGINT, signal.SIGTERM)  # a cluster that wants its machines back sends the latter

_FIRST = "\nStopping after this block of rounds; Ctrl-C again stops at once.\n"
_SECOND = "\nStopped at once; the last checkpoint is kept.\n"


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C and SIGTERM interrupt nothing; the value tells whether one was received.

    A thread reads the signals: Python itself would notice them only when a program on the device
    has ended, and a block of rounds may take minutes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(reader, asked), daemon=True)
    watcher.start()
    old_handlers = {s: signal.signal(s, lambda number, frame: None) for s in _ASKING}
    old_writer = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield asked.is_set
    finally:
        signal.set_wakeup_fd(old_writer)
        for number, handler in old_handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        writer.close()
        watcher.join()
        reader.close()


def _watch(reader: socket.socket, asked: threading.Event) -> None:
    """Waits for signals until the other end is closed."""
    while signals := reader.recv(1):
        if signals[0] not in _ASKING:
            continue
        if asked.is_set():
            sys.stderr.write(_SECOND)
            sys.stderr.flush()
            os._exit(EXIT_CODE)
        asked.set()
        sys.stderr.write(_FIRST)
        sys.stderr.flush()
