"""What the device holds of a client store: the clients of one block of rounds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from numpy.typing import ArrayLike, NDArray

from fedjax_kd.core import Data, PyTree
from fedjax_kd.data.store import ClientStore
from fedjax_kd.errors import InputError

_NO_CLIENT = np.iinfo(np.int32).max  # fills ``ids`` up; no client has this number


class Window(NamedTuple):
    """Some clients of a population; stands in for a `fedjax_kd.core.Pool` where no others are met.

    ``W`` rows and ``n`` places for clients, of which the last ones may be empty.
    """

    x: PyTree  # [W, ...]
    y: PyTree  # [W, ...]
    rows: Int[Array, " W"]
    ids: Int[Array, " n"]  # ascending
    starts: Int[Array, " n"]
    sizes: Int[Array, " n"]

    def of(self, client: Int[Array, ""]) -> Data:
        """What client number ``client`` holds; nothing if it is not in the window."""
        place = jnp.searchsorted(self.ids, client)
        met = self.ids.at[place].get(mode="clip") == client
        start = self.starts.at[place].get(mode="clip")
        size = self.sizes.at[place].get(mode="clip")
        return Data(self.x, self.y, self.rows, start, jnp.where(met, size, 0), client)


class WindowSize(NamedTuple):
    """How much a window holds; windows of one size have the same shapes, and share a program."""

    rows: int
    clients: int


def window_size(store: ClientStore, blocks: Iterable[ArrayLike]) -> WindowSize:
    """Room enough for each of the given blocks of rounds, rounded up by less than a quarter.

    Clients differ in size, so windows differ in rows, and every new shape of a window is compiled
    anew. Whoever knows all blocks of a run beforehand gives them all: there is one shape, as large
    as the largest block. The work is two offsets read a client and round, and nothing is kept.
    Whoever does not, asks for each block: the rounding leaves four shapes between any number and
    its double, so that blocks of like size share one; the price is room that is not used, up to a
    quarter of the rows. The rounding also lets runs that differ in their seed share a program.

    Args:
      store: of the clients.
      blocks: client numbers asked in each block, of any shape; ``num_clients`` is an empty place.

    Raises:
      ValueError: if there is no such client, or a block has too many rows for 32 bits.

    Example:
      >>> import tempfile
      >>> from fedjax_kd.data import synthetic_clients, write_store
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     clients = synthetic_clients(20, sigma=0)  # of 10 rows each
      ...     store = write_store(f"{parent}/s", clients, name="s", num_classes=10)
      ...     room = window_size(store, [[3, 4, 5], [7, 9, 7]])
      ...     window = make_window(store, [7, 9, 7], room)
      ...     room, window.ids.tolist()
      (WindowSize(rows=32, clients=3), [7, 9, 2147483647])
    """
    rows, clients = 0, 0
    for block in blocks:
        ids = _met(store, block)
        rows = max(rows, int(store.sizes_of(ids).sum()))
        clients = max(clients, len(ids))
    return WindowSize(_rounded_up(rows), _rounded_up(clients))


def make_window(store: ClientStore, ids: ArrayLike, room: WindowSize) -> Window:
    """Reads the rows of some clients into a window of NumPy arrays of its own.

    Args:
      store: of the clients.
      ids: client numbers, of any shape and in any order; one may come twice, and ``num_clients`` is
        an empty place.
      room: for the rows and clients, from `window_size`.

    Raises:
      ValueError: if there is no such client, or the room is too small.
    """
    numbers = _met(store, ids)
    if room.rows > _NO_CLIENT or store.num_clients > _NO_CLIENT:
        raise InputError(
            f"The window has {room.rows} rows and the store {store.num_clients} clients, but both "
            "are counted in 32 bits: take fewer rounds in a block, or divide the store."
        )
    if len(numbers) > room.clients:
        raise InputError(
            f"The window has room for {room.clients} clients, but {len(numbers)} take part: take "
            "the size of the largest block."
        )
    x, y, starts, sizes = store.rows_of(numbers, room.rows)
    rows = np.arange(room.rows, dtype=np.int32)
    places = ((numbers, _NO_CLIENT), (starts, 0), (sizes, 0))
    return Window._make((x, y, rows, *(_padded(v, room.clients, fill) for v, fill in places)))


def _met(store: ClientStore, ids: ArrayLike) -> NDArray[np.int64]:
    """The clients behind slots: ascending, each once, without empty places."""
    numbers = np.unique(np.asarray(ids, np.int64))
    return numbers[numbers != store.num_clients]


def _rounded_up(least: int) -> int:
    """The smallest of 1 to 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, ... that is ``least`` or more."""
    step = 1 << max((least - 1).bit_length() - 3, 0)
    return max(-(-least // step) * step, 1)


def _padded(values: NDArray[np.int64], length: int, filling: int) -> NDArray[np.int32]:
    padded = np.full(length, filling, np.int32)
    padded[: len(values)] = values
    return padded
