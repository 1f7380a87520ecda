"""Local training that differs between groups of clients: which clients, and which options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.errors import InputError
from fedjax_kd.options import Option
from fedjax_kd.runs.data_config import Options
from fedjax_kd.runs.option_values import parse_options

_FORM = "write clients and their options as 0-49:epochs=1 or 3+7+20-29:epochs=5,client_lr=0.05"
_CLIENTS = re.compile(r"\d+(-\d+)?(\+\d+(-\d+)?)*")


def parse_client_options(texts: Sequence[str], known: Sequence[Option]) -> dict[str, Options]:
    """Options of local training by clients from words like ``0-49:epochs=1,client_lr=0.1``.

    Args:
      texts: a group of clients each; numbers and ranges of numbers, joined by ``+``.
      known: the options of local training that there are.

    Raises:
      ValueError: if a text has no such form, or an option is unknown or not of its kind.

    Example:
      >>> parse_client_options(["0-4+7:epochs=2"], [Option("epochs", int, 1, "")])
      {'0-4+7': {'epochs': 2}}
    """
    found: dict[str, Options] = {}
    for text in texts:
        clients, _, rest = text.partition(":")
        if not _CLIENTS.fullmatch(clients) or not rest:
            raise InputError(f"client_options has {text!r}: {_FORM}.")
        if clients in found:
            raise InputError(f"client_options names the clients {clients} twice: name them once.")
        found[clients] = parse_options("local training", rest, known, f"client_options {text!r}")
    return found


def group_of_clients(groups: Mapping[str, Any], num_clients: int) -> NDArray[np.int64]:
    """The number of each client's group, ``[C]``, from 0 on; -1 if it is in none.

    Raises:
      ValueError: if a client is in two groups, or there is no such client.

    Example:
      >>> group_of_clients({"0-1": {}, "3": {}}, 5).tolist()
      [0, 0, -1, 1, -1]
    """
    owners = np.full(num_clients, -1, np.int64)
    for number, clients in enumerate(groups):
        for part in clients.split("+"):
            first, _, last = part.partition("-")
            ends = int(first), int(last or first)
            if ends[0] > ends[1] or ends[1] >= num_clients:
                raise InputError(
                    f"client_options names the clients {part}, but there are clients 0 to "
                    f"{num_clients - 1}, and a range ascends: {_FORM}."
                )
            whose = owners[ends[0] : ends[1] + 1]
            if (whose >= 0).any():
                twice = ends[0] + int(np.argmax(whose >= 0))
                raise InputError(
                    f"client_options names client {twice} twice: a client has options of one group."
                )
            whose[:] = number
    return owners


def local_of_groups(
    local: Options, groups: Mapping[str, Options], num_clients: int
) -> tuple[list[Options], NDArray[np.int64]]:
    """The local training of each group, and the group of each client, ``[C]``.

    Clients in no group have the options that are common to all; they are the last group.

    Example:
      >>> local_of_groups({"epochs": 1}, {"0": {"epochs": 5}}, 2)
      ([{'epochs': 5}, {'epochs': 1}], array([0, 1]))
    """
    owners = group_of_clients(groups, num_clients)
    each: list[Options] = [{**local, **own} for own in groups.values()]
    others = owners < 0
    if others.any():
        each.append(local)
    return each, np.where(others, len(groups), owners)
