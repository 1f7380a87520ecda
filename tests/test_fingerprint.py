"""Fingerprints: every part of the data that changes is named, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_kd.core import Data
from fedjax_kd.data import IidPartitioner, from_arrays, open_store, write_store
from fedjax_kd.data.federation import Federation, federate, streamed
from fedjax_kd.data.public_inputs import Noise, Public, Stored
from fedjax_kd.runs import fingerprint as module
from fedjax_kd.runs.fingerprint import differing, fingerprint

X, Y = np.arange(36, dtype=np.float32).reshape(12, 3), np.arange(12) % 2
WHOLE = X.astype(np.int64)


def made(x=X, y=Y, test_x=X, test_y=Y, seed: int = 0) -> Federation:
    public = Public(Stored(jnp.ones((4, 3))), Data.all_of(jnp.ones((2, 3)), jnp.zeros(2, int)))
    split = IidPartitioner(num_partitions=3, seed=seed)
    return federate(from_arrays(x, y, test_x, test_y), split, public=public)


def moved(array: np.ndarray, row: int = -1) -> np.ndarray:
    """The array with one value changed by the least that is."""
    array = array.copy()
    value = array.flat[row]
    array.flat[row] = 1 - value if array.dtype.kind == "i" else np.nextafter(value, np.inf)
    return array


def public_of(federation: Federation, **changed) -> Federation:
    return replace(federation, public=federation.public._replace(**changed))


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (made, []),
        (lambda: made(x=moved(X)), ["training inputs"]),
        (lambda: made(x=WHOLE, test_x=WHOLE), ["training inputs", "test inputs"]),
        (lambda: made(test_x=moved(X, 0)), ["test inputs"]),
        (lambda: made(test_y=moved(Y)), ["test targets", "clients' test rows"]),
        (lambda: made(seed=1), ["the division among clients"]),
        (lambda: public_of(made(), inputs=Stored(jnp.zeros((4, 3)))), ["public inputs"]),
        (lambda: public_of(made(), validation=None), ["validation rows"]),
    ],
)
def test_what_has_changed_is_named(other, names: list[str]):
    assert differing(fingerprint(made()), fingerprint(other())) == names


def test_labels_of_other_rows_are_seen():
    found = differing(fingerprint(made()), fingerprint(made(y=moved(Y))))
    assert found[0] == "training targets"


def test_noise_is_no_data():
    noise = public_of(made(), inputs=Noise(jnp.float32(0), jnp.float32(1), (3,)))
    assert "public" not in fingerprint(noise)


def test_shared_arrays_are_read_once(monkeypatch: pytest.MonkeyPatch):
    one = made()
    other = replace(one, client_test=one.client_test._replace(sizes=one.client_test.sizes + 1))
    read = []
    of_array = module._of_array
    monkeypatch.setattr(module, "_of_array", lambda a: read.append(a.shape) or of_array(a))
    known: dict = {}
    first = fingerprint(one, known)
    count = len(read)
    second = fingerprint(other, known)
    assert read[count:] == [(3,)], "the others are those of the first"
    assert differing(first, second) == ["clients' test rows"]


def stored(folder: Path, x=X, y=Y, test=(X, Y), cuts=(5,)) -> Path:
    clients = zip(np.split(x, cuts), np.split(y, cuts), strict=True)
    write_store(folder, clients, name="made", num_classes=2, test=test)
    return folder


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({}, []),
        ({"x": moved(X, 20)}, ["training inputs"]),
        ({"y": moved(Y, 3)}, ["training targets"]),
        ({"cuts": (6,)}, ["the division among clients"]),
        ({"test": (moved(X), Y)}, ["test inputs"]),
    ],
)
def test_stores(changed: dict, names: list[str], tmp_path: Path):
    one, other = (
        fingerprint(streamed(open_store(stored(tmp_path / name, **given))))
        for name, given in (("one", {}), ("other", changed))
    )
    assert differing(one, other) == names


def test_of_a_long_file_pieces_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_MOST", 400)
    monkeypatch.setattr(module, "_PIECE", 100)
    path, content = tmp_path / "x.npy", bytearray(1000)
    path.write_bytes(content)
    whole = module._of_file(path)
    for at, seen in ((0, True), (999, True), (350, True), (150, False)):
        path.write_bytes(content[:at] + b"\1" + content[at + 1 :])
        assert (module._of_file(path) != whole) == seen
    path.write_bytes(bytes(1001))
    assert module._of_file(path) != whole
    monkeypatch.setattr(module, "_MOST", 1000)
    path.write_bytes(content)
    whole = module._of_file(path)
    path.write_bytes(content[:150] + b"\1" + content[151:])
    assert module._of_file(path) != whole
