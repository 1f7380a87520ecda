"""Fingerprints of the data that a run is trained on, by which changed data are noticed.

Examples in memory are read in full, at about a GB a second and core. The files of a client store
may be larger than that allows: of one beyond 256 MiB, evenly spaced pieces are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedjax_kd.core import Pool, PyTree
from fedjax_kd.data.federation import Federation
from fedjax_kd.data.public_inputs import Stored
from fedjax_kd.data.store import ClientStore

Fingerprint = Mapping[str, str]
"""A digest of each part of the data, by name."""

_BYTES = 16  # of a digest
_BLOCK = 1 << 24  # bytes that are digested at a time
_MOST, _PIECE = 1 << 28, 1 << 20  # bytes of a file that are read, and of each piece of a longer one


def fingerprint(
    federation: Federation, known: dict[int, tuple[Any, str]] | None = None
) -> dict[str, str]:
    """The digests of a federation's examples, of their division, and of what is no client's.

    Public inputs that are drawn or generated are no data, and are left out.

    Args:
      federation: the clients.
      known: arrays and their digests by ``id``, of federations that share them; is added to.

    Raises:
      OSError: if a client store cannot be read.

    Example:
      >>> from fedjax_kd import IidPartitioner, federate, load
      >>> split = [IidPartitioner(num_partitions=5, seed=seed) for seed in (0, 1)]
      >>> one, other = (fingerprint(federate(load(), by)) for by in split)
      >>> [name for name in one if one[name] != other[name]]
      ['division', 'client_test']
    """
    known = {} if known is None else known
    f, parts = federation, dict[str, PyTree]()
    if f.store is None:
        parts |= {"train_x": f.train.x, "train_y": f.train.y, "division": _division(f.train)}
    parts |= {"test_x": f.test.x, "test_y": f.test.y}
    if f.client_test is not None:
        parts["client_test"] = _division(f.client_test)
    if f.public is not None and isinstance(f.public.inputs, Stored):
        parts["public"] = f.public.inputs
    if f.public is not None and f.public.validation is not None:
        parts["validation"] = f.public.validation
    found = {name: _of_tree(part, known) for name, part in parts.items()}
    return found | ({} if f.store is None else _of_store(f.store))


def differing(recorded: Fingerprint, found: Fingerprint) -> list[str]:
    """The names of the parts that have changed since they were recorded, in words."""
    return [_WORDS.get(name, name) for name in recorded if recorded[name] != found.get(name)]


_WORDS = {
    "train_x": "training inputs",
    "train_y": "training targets",
    "division": "the division among clients",
    "test_x": "test inputs",
    "test_y": "test targets",
    "client_test": "clients' test rows",
    "public": "public inputs",
    "validation": "validation rows",
}


def _division(pool: Pool) -> PyTree:
    return pool.rows, pool.starts, pool.sizes


def _of_tree(whole: PyTree, known: dict[int, tuple[Any, str]]) -> str:
    """The digest of a tree of arrays: of their places, types and values."""
    lines = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(whole):
        if id(leaf) not in known:
            known[id(leaf)] = leaf, _of_array(np.asarray(leaf))
        lines.append(f"{jax.tree_util.keystr(path)} {known[id(leaf)][1]}")
    return _joined(line.encode() for line in lines)


def _of_array(array: np.ndarray) -> str:
    values = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    blocks = [values[start : start + _BLOCK] for start in range(0, len(values), _BLOCK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(_digest, blocks))
    return _joined([f"{array.dtype}{array.shape}".encode(), *digests])


def _of_store(store: ClientStore) -> dict[str, str]:
    """The digests of the clients of a store, from its files."""
    numbers = [np.asarray(a).tolist() for a in jax.tree.leaves(store.statistics)]
    about = json.dumps([store.num_classes, store.problem.name, numbers])
    targets = store.folder / "y.npy"
    return {
        "train_x": _joined([about.encode(), _of_file(store.folder / "x.npy")]),
        "train_y": _joined([_of_file(targets)] if targets.is_file() else []),
        "division": _joined([_of_file(store.folder / "offsets.npy")]),
    }


def _of_file(path: Path) -> bytes:
    """The digest of a file, or of its length and of evenly spaced pieces of it."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        count = min(-(-size // _PIECE), _MOST // _PIECE)
        last = max(size - _PIECE, 0)
        whole = blake2b(str(size).encode(), digest_size=_BYTES)
        for piece in range(count):
            at = piece * _PIECE if size <= _MOST else last * piece // (count - 1)
            file.seek(at)
            whole.update(file.read(_PIECE))
    return whole.digest()


def _digest(content: Any) -> bytes:
    return blake2b(content, digest_size=_BYTES).digest()


def _joined(digests: Iterable[bytes]) -> str:
    whole = blake2b(digest_size=_BYTES)
    for digest in digests:
        whole.update(digest)
    return whole.hexdigest()
