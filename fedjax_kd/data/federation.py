"""A data set divided over clients and placed on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array
from numpy.typing import NDArray

from fedjax_kd import losses
from fedjax_kd.core import Pool
from fedjax_kd.data.dataset import Dataset, Examples
from fedjax_kd.data.partition import client_test_split
from fedjax_kd.data.public_inputs import Public
from fedjax_kd.data.rows import Partitioner, Parts
from fedjax_kd.data.store import ClientStore
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options

_SOME_CLIENTS = 64  # of a store, that stand for all when types are checked and speed is measured


Target = Literal["label", "input"]


@dataclass(frozen=True)
class Federation:
    """Everything a simulation needs to know about its clients.

    Attributes:
      name: of the data set.
      num_classes: L.
      input_shape: of one example, without the batch axis.
      train: what the clients train on, C clients; where they are streamed, some of them, for types.
      test: the global test set; it belongs to no client.
      client_test: test rows of each client, C clients; some may have none. None where the clients
        are streamed.
      prepare: raw inputs to model inputs, applied in every step on the device.
      parts: training rows of each client in the data set's own order, for reports.
      public: what belongs to no client, or None.
      store: the clients' examples on disk, where they are streamed to the device.
      target: what a model is to say of an example: its label, or the input itself.
    """

    name: str
    num_classes: int
    input_shape: tuple[int, ...]
    train: Pool
    test: Pool
    client_test: Pool | None
    prepare: Callable[[ArrayLike], Array]
    parts: Parts
    public: Public | None = None
    store: ClientStore | None = None
    target: Target = "label"

    @property
    def example_loss(self) -> Callable[[Array, Any], Array]:
        """The loss of every example, ``(outputs, targets) -> [B, ...]``."""
        return losses.squared_error if self.target == "input" else losses.cross_entropy

    @property
    def num_clients(self) -> int:
        """C."""
        return len(self.parts) if self.store is None else self.store.num_clients

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Training examples of each client, ``[C]``."""
        return self.sizes_of(np.arange(self.num_clients))

    def sizes_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Training examples of some clients."""
        if self.store is not None:
            return self.store.sizes_of(ids)
        return np.array([len(self.parts[i]) for i in ids], np.int64)


@checks_options
def federate(
    dataset: Dataset,
    partitioner: Partitioner,
    *,
    client_test_fraction: float = 0.0,
    public: Public | None = None,
    seed: int = 0,
    target: Target = "label",
) -> Federation:
    """Divides a data set over clients and puts it on the device.

    uint8 inputs stay uint8 there; ``prepare`` turns a batch into standardised float32, with the
    mean and deviation of each channel over the training set.

    Args:
      dataset: training and test examples.
      partitioner: which rows go to which client, from `fedjax_kd.data.partition`.
      client_test_fraction: share of each client's own rows held out to test its model, in [0, 1).
        With 0 the clients train on all they have, and the test set is dealt out among them: by
        natural ids where train and test share these, else in proportion to each client's labels.
      public: unlabelled inputs and labelled examples that are no client's, from
        `fedjax_kd.data.set_apart` or put together by hand.
      seed: of the division into training and test rows, >= 0.
      target: "label", or "input" for reconstruction: models are then given pixels in [0, 1], and
        are to give them back. Labels still decide which client has which rows.

    Raises:
      ValueError: if the fraction is out of range, the partitioner cannot do what it is asked, or
        the inputs are symbols and cannot be targets.

    Example:
      >>> from fedjax_kd.data import IidPartitioner, load
      >>> federate(load("digits"), IidPartitioner(num_partitions=10)).num_clients
      10
    """
    parts = partitioner(dataset)
    check_choice("target", target, Target)
    shown = _stretched(dataset) if target == "input" else dataset
    test = _owned(_pool(shown.test, target), [np.arange(len(dataset.test.y))])
    train = _pool(shown.train, target)
    if client_test_fraction != 0:
        parts, held_out = client_test_split(list(parts), client_test_fraction, seed)
        train = _owned(train, parts)
        client_test = _owned(train, held_out)
    else:
        train = _owned(train, parts)
        client_test = _owned(test, deal_test(dataset, parts, seed))
    return Federation(
        name=dataset.name,
        num_classes=dataset.num_classes,
        input_shape=dataset.train.x.shape[1:],
        train=train,
        test=test,
        client_test=client_test,
        prepare=losses.unit if target == "input" else _prepare(dataset.train.x),
        parts=parts,
        public=public,
        target=target,
    )


def streamed(store: ClientStore) -> Federation:
    """The clients of a store, whose examples come to the device as they take part.

    Memory on device and host does not depend on the number of clients, as long as they keep no
    state of their own. There are no test rows of clients, but the store's global test set.

    Args:
      store: from `fedjax_kd.data.open_store`.

    Raises:
      ValueError: if the store has no test set.

    Example:
      >>> import tempfile
      >>> from fedjax_kd.data import synthetic_clients, synthetic_test, write_store
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     clients, test = synthetic_clients(20), synthetic_test(100)
      ...     store = write_store(f"{folder}/s", clients, name="s", num_classes=10, test=test)
      ...     streamed(store).num_clients
      20
    """
    if store.test is None:
        raise InputError(
            f"The client store {store.folder} has no test set, without which nothing can be "
            "evaluated: write it again with test=(x, y)."
        )
    some = np.arange(min(store.num_clients, _SOME_CLIENTS))
    x, y, starts, sizes = store.rows_of(some)
    owned = [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    test = Examples(np.array(store.test[0]), np.array(store.test[1]), {})
    if store.mean is None or store.std is None:
        prepare: Callable[[ArrayLike], Array] = jnp.asarray
    else:
        prepare = partial(standardise, mean=store.mean, std=store.std)
    return Federation(
        name=store.name,
        num_classes=store.num_classes,
        input_shape=store.input_shape,
        train=_owned(_pool(Examples(x, y, {})), owned),
        test=_owned(_pool(test), [np.arange(len(test.y))]),
        client_test=None,
        prepare=prepare,
        parts=(),
        store=store,
    )


def deal_test(dataset: Dataset, parts: Parts, seed: int) -> Parts:
    """Test rows for each client, every row once.

    If a column divides the training rows exactly as ``parts`` do and names all these clients in the
    test set too, it decides. Else each label's test rows are shared out in proportion to the
    clients' training rows of this label (of any label, where labels are sequences or no client
    trains on this one).
    """
    column = _natural_column(dataset, parts)
    if column is not None:
        ids = [dataset.train.columns[column][part[0]] for part in parts]
        return [np.flatnonzero(dataset.test.columns[column] == i) for i in ids]
    flat = dataset.train.y.ndim == 1
    train_y = dataset.train.y if flat else np.zeros(len(dataset.train.y), np.int32)
    test_y = dataset.test.y if flat else np.zeros(len(dataset.test.y), np.int32)
    rng = np.random.default_rng([seed, 1])
    dealt: list[list[NDArray[np.int64]]] = [[] for _ in parts]
    for label in np.unique(test_y):
        rows = rng.permutation(np.flatnonzero(test_y == label))
        order = rng.permutation(len(parts))  # rounding must not favour the first clients
        held = np.array([np.count_nonzero(train_y[parts[c]] == label) for c in order])
        if held.sum() == 0:
            held = np.array([len(parts[c]) for c in order])
        ends = np.rint(np.cumsum(held) / max(held.sum(), 1) * len(rows)).astype(int)
        for c, share in zip(order, np.split(rows, ends)[:-1], strict=True):
            dealt[c].append(share)
    return [np.sort(np.concatenate(rows)).astype(np.int64) for rows in dealt]


def _natural_column(dataset: Dataset, parts: Parts) -> str | None:
    """The column by which the clients were made, if the test set knows all of them too."""
    for name, values in dataset.train.columns.items():
        each = [np.unique(values[part]) for part in parts]
        apart = all(len(v) == 1 for v in each) and len(np.unique(np.concatenate(each))) == len(each)
        known = dataset.test.columns.get(name)
        if apart and known is not None and np.isin(np.concatenate(each), known).all():
            return name
    return None


def _pool(examples: Examples, target: Target = "label") -> Pool:
    """Examples on the device, not yet divided; inputs that are also targets are stored once."""
    x, none = jnp.asarray(examples.x), jnp.zeros(0, jnp.int32)
    y = x if target == "input" else jnp.asarray(examples.y)
    return Pool(x, y, none, none, none)


def _stretched(dataset: Dataset) -> Dataset:
    """The data set with pixels up to 255, whatever their largest value was (16 in the digits)."""
    x = dataset.train.x
    if x.dtype == np.int32:
        raise InputError(
            f"The inputs of {dataset.name} are symbols, which have numbers but no distance, and "
            "cannot be a target: take images, or target 'label'."
        )
    largest = int(x.max()) if x.dtype == np.uint8 else 255
    if largest in (0, 255):
        return dataset
    values = np.rint(np.minimum(np.arange(256) * (255 / largest), 255)).astype(np.uint8)
    parts = {part: getattr(dataset, part) for part in ("train", "test")}
    return replace(dataset, **{part: e._replace(x=values[e.x]) for part, e in parts.items()})


def _owned(pool: Pool, parts: Parts) -> Pool:
    """The same examples, divided over clients."""
    sizes = np.array([len(part) for part in parts], np.int32)
    rows = np.concatenate([*parts, np.zeros(0, np.int64)]).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])[: len(sizes)].astype(np.int32)
    return pool._replace(
        rows=jnp.asarray(rows), starts=jnp.asarray(starts), sizes=jnp.asarray(sizes)
    )


def _prepare(train_x: NDArray[Any]) -> Callable[[ArrayLike], Array]:
    """How raw inputs of this kind become model inputs."""
    if train_x.dtype != np.uint8:
        return jnp.asarray
    channels = train_x.reshape(-1, train_x.shape[-1]).T
    moments = np.array([_moments(np.bincount(c, minlength=256)) for c in channels])
    mean, std = moments.astype(np.float32).T
    return partial(standardise, mean=mean, std=np.maximum(std, np.float32(1e-6)))


def _moments(counts: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and deviation of bytes from how many there are of each: fast, and without rounding."""
    values = np.arange(len(counts))
    rows, total, squares = (int(counts @ values**power) for power in (0, 1, 2))
    return total / rows, math.sqrt((squares * rows - total**2) / rows**2)


def standardise(x: ArrayLike, *, mean: NDArray[Any], std: NDArray[Any]) -> Array:
    """``(x - mean) / std`` as float32, channel by channel (the last axis)."""
    values = jnp.asarray(x).astype(jnp.float32)
    shape = (1,) * (values.ndim - mean.ndim) + mean.shape
    return (values - mean.reshape(shape)) / std.reshape(shape)
