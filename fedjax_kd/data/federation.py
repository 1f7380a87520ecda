"""A data set divided over clients and placed on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from fedjax_kd import losses
from fedjax_kd.core import Pool
from fedjax_kd.data import inputs
from fedjax_kd.data.arrays import row_shapes, types_shown
from fedjax_kd.data.dataset import Dataset, Examples, posed_as, without_targets
from fedjax_kd.data.dealing import deal_test
from fedjax_kd.data.inputs import Preparation, Standardise
from fedjax_kd.data.natural import client_ids
from fedjax_kd.data.partition import client_test_split
from fedjax_kd.data.pixels import stretched_pixels
from fedjax_kd.data.public_inputs import Public
from fedjax_kd.data.rows import Parts
from fedjax_kd.data.sightings import sighted
from fedjax_kd.data.split import Split, parts_of
from fedjax_kd.data.store import ClientStore
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.problems import CLASSIFICATION, RECONSTRUCTION, TOKENS, Problem

_SOME_CLIENTS = 64  # of a store, that stand for all when types are checked and speed is measured


Target = Literal["label", "input"]


@dataclass(frozen=True, repr=False)
class Federation:
    """Everything a simulation needs to know about its clients.

    Attributes:
      name: of the data set.
      num_classes: L, the size of a model's outputs: classes, labels or values.
      input_shape: of one example, without the batch axis; a tree of shapes for several arrays.
      train: what the clients train on, C clients; where they are streamed, some of them, for types.
        Without targets, and in reconstruction, its ``y`` are its ``x``.
      test: the global test set; it belongs to no client.
      client_test: test rows of each client, C clients; some may have none. None where the clients
        are streamed.
      prepare: raw inputs to model inputs, applied in every step on the device.
      parts: training rows of each client in the data set's own order, for reports.
      public: what belongs to no client, or None.
      store: the clients' examples on disk, where they are streamed to the device.
      problem: what is asked of a model.
      inputs: what ``prepare`` does, in words.
      class_names: what the classes were called before they were numbered, or ``()``.
      client_ids: the data set's own name of each client, where clients are natural; else None.
    """

    name: str
    num_classes: int
    input_shape: Any
    train: Pool
    test: Pool
    client_test: Pool | None
    prepare: Callable[[Any], Any]
    parts: Parts
    public: Public | None = None
    store: ClientStore | None = None
    problem: Problem = CLASSIFICATION
    inputs: str = ""
    class_names: tuple[str, ...] = ()
    client_ids: tuple[str, ...] | None = None

    @property
    def target(self) -> Target:
        """What a model is to say of an example: its label, or the input itself."""
        return "input" if self.problem is RECONSTRUCTION else "label"

    @property
    def example_loss(self) -> Callable[[Array, Any], Array]:
        """The loss of every example, ``(outputs, targets) -> [B, ...]``.

        Raises:
          ValueError: if the problem has none of its own.
        """
        if self.problem.score is None:
            raise InputError(
                f"{self.name} poses the problem {self.problem.name!r}, which has no loss of its "
                "own: make the task with yours, `from_nnx(..., example_loss=...)`, (outputs, "
                "targets) -> a number an example; on the command line --loss FILE.py:NAME."
            )
        return self.problem.score

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

    def __repr__(self) -> str:
        test = len(self.test.rows)
        return (
            f"Federation({self.name!r}, {self.problem.name}, {self.num_clients:,} clients, {test:,}"
            f" test rows, x {types_shown(self.train.x)}, num_classes={self.num_classes}, "
            f"inputs: {self.inputs or 'prepared'})"
        )


@checks_options
def federate(
    dataset: Dataset,
    partitioner: Split,
    *,
    client_test_fraction: float = 0.0,
    public: Public | None = None,
    seed: int = 0,
    target: Target = "label",
    standardise: Standardise = "auto",
) -> Federation:
    """Divides a data set over clients and puts it on the device.

    Inputs stay there as they are stored, bytes as bytes; ``prepare`` turns a batch into
    standardised float32, by means and deviations of the training rows.

    Args:
      dataset: training and test examples.
      partitioner: which rows go to which client, from `fedjax_kd.data.partition`, or a function of
        your own, or what it would return: row numbers or a mask for each client.
      client_test_fraction: share of each client's own rows held out to test its model, in [0, 1).
        With 0 the clients train on all they have, and the test set is dealt out among them: by
        natural ids where train and test share these, else in proportion to each client's labels.
      public: unlabelled inputs and labelled examples that are no client's, from
        `fedjax_kd.data.set_apart` or put together by hand.
      seed: of the division into training and test rows, >= 0.
      target: "label", or "input" for reconstruction: models are then given pixels in [0, 1], and
        are to give them back. Labels still decide which client has which rows.
      standardise: what is done with inputs, the same for bytes and floats: "channel" takes a mean
        and a deviation of each channel, "feature" of each feature, "unit" maps the range of all
        values to [0, 1], "none" leaves them. "auto" is "channel" for images, "feature" for rows of
        values, and leaves symbols (whole numbers along one axis).

    Raises:
      TypeError: if a client's rows are no numbers.
      ValueError: if the fraction is out of range, the partitioner cannot do what it is asked, a
        client has rows that cannot be, or the inputs are symbols and cannot be targets.

    Example:
      >>> from fedjax_kd.data import IidPartitioner, load
      >>> made = federate(load("digits"), IidPartitioner(num_partitions=10))
      >>> made.num_clients, made.inputs
      (10, 'bytes, standardised by channel (mean 4.89, deviation 6.02)')
    """
    check_choice("target", target, Target)
    check_choice("standardise", standardise, Standardise)
    parts = parts_of(partitioner, dataset)
    dataset = _ready(dataset, target, standardise)
    test = sighted(_pool(dataset.test, dataset.problem), dataset.test, dataset.problem)
    test = _owned(test, [np.arange(dataset.test.num_rows)])
    train = _pool(dataset.train, dataset.problem)
    if client_test_fraction != 0:
        parts, held_out = client_test_split(list(parts), client_test_fraction, seed)
        client_test = _owned(sighted(train, dataset.train, dataset.problem), held_out)
        train = _owned(train, parts)
    else:
        train = _owned(train, parts)
        client_test = _owned(test, deal_test(dataset, parts, seed))
    done = _preparation(dataset, standardise)
    return Federation(
        name=dataset.name,
        num_classes=dataset.num_classes,
        input_shape=row_shapes(dataset.train.x),
        train=train,
        test=test,
        client_test=client_test,
        prepare=done.prepare,
        parts=parts,
        public=public,
        problem=dataset.problem,
        inputs=done.says,
        class_names=dataset.class_names,
        client_ids=client_ids(dataset, partitioner, parts),
    )


def _ready(dataset: Dataset, target: Target, standardise: Standardise) -> Dataset:
    """The data set with the problem, the pixels and the dtypes that a federation has."""
    if target == "input":
        dataset = posed_as(dataset, RECONSTRUCTION)
    if dataset.problem is RECONSTRUCTION:
        return stretched_pixels(dataset)
    if standardise in ("auto", "none"):
        return dataset
    # Who asks for it says that whole numbers are amounts, and no symbols.
    train, test = (
        e._replace(x=jax.tree.map(_as_amounts, e.x)) for e in (dataset.train, dataset.test)
    )
    return replace(dataset, train=train, test=test)


def _as_amounts(x: NDArray[Any]) -> NDArray[Any]:
    return x.astype(np.float32) if inputs.are_symbols(x) else x


def _preparation(dataset: Dataset, standardise: Standardise) -> Preparation:
    """What is done with inputs; those that are targets stay what they are."""
    if dataset.problem is RECONSTRUCTION and standardise == "auto":
        return Preparation(losses.unit, "pixels in [0, 1]")
    return inputs.preparation(dataset.train.x, standardise, positions=dataset.problem is TOKENS)


def streamed(store: ClientStore, *, standardise: Standardise = "auto") -> Federation:
    """The clients of a store, whose examples come to the device as they take part.

    Memory on device and host does not depend on the number of clients, as long as they keep no
    state of their own. There are no test rows of clients, but the store's global test set.

    Args:
      store: from `fedjax_kd.data.open_store`.
      standardise: what is done with inputs, as in `federate`.

    Raises:
      ValueError: if the store has no test set, or does not tell what ``standardise`` needs.

    Example:
      >>> import tempfile
      >>> from fedjax_kd.data import synthetic_clients, synthetic_test, write_store
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     clients, test = synthetic_clients(20), synthetic_test(100)
      ...     store = write_store(f"{folder}/s", clients, name="s", num_classes=10, test=test)
      ...     streamed(store).num_clients
      20
    """
    check_choice("standardise", standardise, Standardise)
    if store.test is None:
        raise InputError(
            f"The client store {store.folder} has no test set, without which nothing can be "
            "evaluated: write it again with test=(x, y)."
        )
    some = np.arange(min(store.num_clients, _SOME_CLIENTS))
    x, y, starts, sizes = store.rows_of(some)
    owned = [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    held = () if store.test[1] is None else np.array(store.test[1])
    test = Examples(np.array(store.test[0]), held, {})
    done = store.preparation(standardise)
    return Federation(
        name=store.name,
        num_classes=store.num_classes,
        input_shape=store.input_shape,
        train=_owned(_pool(Examples(x, y, {}), store.problem), owned),
        test=_owned(_pool(test, store.problem), [np.arange(test.num_rows)]),
        client_test=None,
        prepare=done.prepare,
        parts=(),
        store=store,
        problem=store.problem,
        inputs=done.says,
    )


def _pool(examples: Examples, problem: Problem) -> Pool:
    """Examples on the device, not yet divided; inputs that are also targets are stored once."""
    x, none = jax.tree.map(jnp.asarray, examples.x), jnp.zeros(0, jnp.int32)
    inputs_are_targets = problem is RECONSTRUCTION or without_targets(examples)
    y = x if inputs_are_targets else jax.tree.map(jnp.asarray, examples.y)
    return Pool(x, y, none, none, none)


def _owned(pool: Pool, parts: Parts) -> Pool:
    """The same examples, divided over clients."""
    sizes = np.array([len(part) for part in parts], np.int32)
    rows = np.concatenate([*parts, np.zeros(0, np.int64)]).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])[: len(sizes)].astype(np.int32)
    return pool._replace(
        rows=jnp.asarray(rows), starts=jnp.asarray(starts), sizes=jnp.asarray(sizes)
    )
