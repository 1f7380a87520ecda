"""The command line: which command, and what becomes of errors."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from fedjax_kd.engine.processes import leave
from fedjax_kd.errors import InputError, SharpEdge, UserError

_PYTHONS_WARNING = warnings.formatwarning

TRACEBACK = "FEDJAX_KD_TRACEBACK"

COMMANDS = {
    "run": "train one method, or compare several; without a method, a demo of a minute",
    "sweep": "train many configurations and seeds at once",
    "resume": "go on with an interrupted run or sweep, or add rounds to a finished run",
    "evaluate": "results of every client of a run",
    "plot": "curves of several runs in one picture",
    "report": "runs and sweeps as one HTML page: tables, curves, heat maps",
    "list": "methods, wrappers, models, partitions and data sets",
    "describe": "one method or wrapper: what it does, its options, what travels",
    "partition": "how examples are divided among clients, as table and picture",
    "data": "prepare data sets, write client stores",
}

HELP = f"""usage: fedjax-kd COMMAND [OPTIONS]

Simulates federated learning with knowledge distillation.

commands:
{chr(10).join(f"  {name:<10} {text}" for name, text in COMMANDS.items())}

Every command explains itself: `fedjax-kd run --help`, `fedjax-kd run fedadam --help`.
Start with `fedjax-kd run`. FEDJAX_KD_CACHE=off keeps no compiled programs, {TRACEBACK}=1 shows
where an error came from, FEDJAX_KD_DATA names the data folder, FEDJAX_KD_CONVOLUTION=products
convolves by matrix products on CPUs, FEDJAX_KD_COMMAND_BUFFER=loops runs loops in GPUs' graphs."""


_GO_ON = "A run that had begun goes on with `fedjax-kd resume RUN`."
_ADVICE = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT),
        "Make room: see that its disk is not full, nor a quota used up.",
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "See that you may read it and write to its folder.",
    ),
    errno.ENOENT: "See that it is there, and was not removed or renamed meanwhile.",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 is success, 2 wrong input, 130 Ctrl-C, 1 a bug."""
    args = list(sys.argv[1:] if argv is None else argv)
    warnings.formatwarning = _warning
    try:
        code = _dispatch(args)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        leave(130)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        leave(_report(error))
    sys.exit(code)


def _dispatch(args: list[str]) -> int:
    """Hands over to the command's module, which is imported only now."""
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if args[0] == "--version":
        from fedjax_kd.runs.provenance import version_of

        print(version_of("fedjax-kd"))
        return 0
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        from fedjax_kd.options import nearest

        raise InputError(
            f"There is no command {name!r}{nearest(name, COMMANDS)}. There are: "
            f"{', '.join(COMMANDS)}; see `fedjax-kd --help`."
        )
    from fedjax_kd.engine import compile_cache

    compile_cache.enable()
    return importlib.import_module(f"fedjax_kd.commands.{name}").main(rest)


def _warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning as it is printed: of a sharp edge without the place in the source."""
    if issubclass(category, SharpEdge):
        return f"fedjax-kd: warning: {message}\n"
    return _PYTHONS_WARNING(message, category, filename, lineno, line)


def _report(error: Exception) -> int:
    """Prints an error to the standard error; returns the exit code."""
    if isinstance(error, UserError):
        print(f"fedjax-kd: {error}", file=sys.stderr)
        return 2
    if isinstance(error, OSError):
        known = [_ADVICE[error.errno]] if error.errno in _ADVICE else []
        print("fedjax-kd:", f"{error}.", *known, _GO_ON, file=sys.stderr)
        return 2
    print(
        f"fedjax-kd: unexpected {type(error).__name__}: {error}\n"
        f"This looks like a fault of the program, not of its input. Set {TRACEBACK}=1 to see where "
        "it comes from.",
        file=sys.stderr,
    )
    return 1
