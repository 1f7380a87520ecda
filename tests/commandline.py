"""The command line in this process, for the tests that call it."""

from __future__ import annotations

import pytest

from fedjax_kd import cli


def command(*args: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as exit:
        cli.main(args)
    return exit.value.code
