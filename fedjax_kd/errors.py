"""Errors of what users give: the message says what was given, what is allowed, what to do.

What runs, and is seldom meant, is no error: `warn` says so with the category `SharpEdge`.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """What was given is at fault, not the program: the command line prints it and exits with 2."""


class InputError(UserError, ValueError):
    """A value that cannot be."""


class FileError(UserError, OSError):
    """A file or folder that cannot be written as asked."""


class InputTypeError(UserError, TypeError):
    """A value or a function of another type than is needed."""


class SharpEdge(UserWarning):
    """A setting that runs, but whose numbers are seldom those that were meant."""


def warn(message: str) -> None:
    """Warns of a `SharpEdge`; Python shows each message once."""
    warnings.warn(message, SharpEdge, stacklevel=2)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """The messages of all `warn` within, each once; they are not shown. Others are as ever.

    Example:
      >>> with collected_warnings() as found:
      ...     warn("the cohort is small")
      ...     warn("the cohort is small")
      >>> found
      ['the cohort is small']
    """
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SharpEdge)
        try:
            yield found
        finally:
            ours = [str(w.message) for w in caught if issubclass(w.category, SharpEdge)]
            found += dict.fromkeys(ours)
    for other in caught:
        if not issubclass(other.category, SharpEdge):
            warnings.showwarning(other.message, other.category, other.filename, other.lineno)
