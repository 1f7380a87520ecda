"""Next-character prediction on Shakespeare's plays, one client a speaking role."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from fedjax_kd.data.dataset import Dataset, from_arrays
from fedjax_kd.errors import InputError
from fedjax_kd.problems import TOKENS

SEQUENCE_LENGTH = 80
# 86 characters and four signs: the 90 symbols of the literature. Fixed, so that models stay usable.
CHARACTERS = (
    "\n !\"$%&'()*,-./0123456789:;?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz{}"
)
_NUMBER = {letter: number for number, letter in enumerate(CHARACTERS, start=1)}
PAD, OTHER, BEGIN, END = 0, len(CHARACTERS) + 1, len(CHARACTERS) + 2, len(CHARACTERS) + 3
VOCABULARY_SIZE = len(CHARACTERS) + 4
IGNORED = -1


def encode(text: str) -> Int32[np.ndarray, " T"]:
    """Symbol numbers of a text between a begin and an end sign; 0 is kept for padding.

    Example:
      >>> encode("To\\u00e9").tolist()
      [88, 49, 73, 87, 89]
    """
    return np.array([BEGIN, *(_NUMBER.get(letter, OTHER) for letter in text), END], np.int32)


def sequences(
    symbols: Int32[np.ndarray, " T"], length: int = SEQUENCE_LENGTH
) -> tuple[Int32[np.ndarray, "N T"], Int32[np.ndarray, "N T"]]:
    """Inputs and next symbols, cut into rows of ``length``; every symbol is predicted once.

    The last row is filled with 0 (inputs) and -1 (targets, which no loss may count).

    Example:
      >>> x, y = sequences(np.array([7, 8, 9, 5], np.int32), length=2)
      >>> x.tolist(), y.tolist()
      ([[7, 8], [9, 0]], [[8, 9], [5, -1]])
    """
    rows = -(-(len(symbols) - 1) // length)
    x = np.full(rows * length, PAD, np.int32)
    y = np.full(rows * length, IGNORED, np.int32)
    x[: len(symbols) - 1] = symbols[:-1]
    y[: len(symbols) - 1] = symbols[1:]
    return x.reshape(rows, length), y.reshape(rows, length)


def load_shakespeare(path: Path) -> Dataset:
    """The plays as sequences of 80 symbols; the last tenth of each role's rows is for the test.

    Args:
      path: a file of lines ``{"client": role, "text": all that it says}``. Column ``client`` is
        the number of the role's first line in the file.

    Raises:
      ValueError: if a line is no such object, or there is none.

    Source: the task of McMahan et al. (2017), arXiv:1602.05629, with the symbols, length and
    next-character targets at every position of Reddi et al. (2021), arXiv:2003.00295.
    """
    roles: dict[str, list[str]] = {}
    for number, line in enumerate(_lines(path), start=1):
        client, text = _role(path, number, line)
        roles.setdefault(client, []).append(text)
    if not roles:
        raise InputError(f"{path} is empty, but needs a line a role: write the file again.")
    train, test = [], []
    for role, texts in enumerate(roles.values()):
        x, y = sequences(encode("\n".join(texts)))
        cut = len(x) - len(x) // 10
        ids = np.full(len(x), role, np.int32)
        train.append((x[:cut], y[:cut], ids[:cut]))
        test.append((x[cut:], y[cut:], ids[cut:]))
    (train_x, train_y, train_client), (test_x, test_y, test_client) = (
        [np.concatenate(arrays) for arrays in zip(*part, strict=True)] for part in (train, test)
    )
    return from_arrays(
        train_x,
        train_y,
        test_x,
        test_y,
        name="shakespeare",
        problem=TOKENS,
        num_classes=VOCABULARY_SIZE,
        train_columns={"client": train_client},
        test_columns={"client": test_client},
    )


def _lines(path: Path) -> list[str]:
    """Lines of a text file, split at newlines only: JSON strings may hold other line ends."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as UTF-8 text ({error}): write the file again."
        ) from error
    return [line for line in text.split("\n") if line.strip()]


def _role(path: Path, number: int, line: str) -> tuple[str, str]:
    """Role and text of one line."""
    try:
        entry = json.loads(line)
        client, text = entry["client"], entry["text"]
        if isinstance(client, str) and isinstance(text, str):
            return client, text
    except (json.JSONDecodeError, KeyError, TypeError):
        client = None
    raise InputError(
        f"line {number} of {path} starts with {line[:40]!r}, but must be an object with the texts "
        '"client" and "text": write one such object a line.'
    )
