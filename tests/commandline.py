"""The command line, in this process or in one that is stopped."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from fedjax_kd import cli

START = [sys.executable, "-c", "from fedjax_kd.cli import main; main()"]


def command(*args: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as exit:
        cli.main(args)
    return exit.value.code


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Until the condition holds, while the process runs, and not for ever."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"it ended by itself: {process.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
