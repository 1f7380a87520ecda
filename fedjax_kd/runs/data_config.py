"""Which data a run has, and how they are divided among its clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedjax_kd.data import PARTITIONERS, Dataset, load, open_store, set_apart
from fedjax_kd.data.dataset import posed_as
from fedjax_kd.data.federation import Federation, Target, federate, streamed
from fedjax_kd.data.inputs import Standardise
from fedjax_kd.data.long_tail import ImbalanceProfile, long_tailed
from fedjax_kd.data.rows import Partitioner
from fedjax_kd.errors import InputError
from fedjax_kd.options import REQUIRED, Option, check_options, checks_options, named, options
from fedjax_kd.problems import RECONSTRUCTION

STORED = "stored"  # the partition of a client store, which is divided already

_ALPHA = 0.1  # of a Dirichlet partition, where the partitioner itself has no default

OptionValue = int | float | str | bool | tuple[int, ...] | None
Options = Mapping[str, OptionValue]


@checks_options
@dataclass(frozen=True)
class DataConfig:
    """Which data, and how they are divided among the clients.

    Args:
      dataset: name of the data set; `fedjax-kd list datasets` shows them. Or the folder of a client
        store, from which the clients are streamed; they are divided already.
      data_dir: folder of the data set's files; FEDJAX_KD_DATA if not given.
      partition: how examples are divided among clients; `fedjax-kd list partitions` shows how.
      partition_options: of the partitioner, by name.
      num_clients: clients in the population C, >= 1.
      client_test_fraction: share of each client's rows that is held out to test its own model, in
        [0, 1); with 0 the test set is dealt out among the clients.
      seed: of the division among clients, in [0, 2**32); if not given, the seed of the run.
      problem: what the targets are: "classification", "tokens", "multilabel", "regression",
        "segmentation", "reconstruction", "retrieval" or "none"; what the data set says, if not
        given.
      relabel: whether the classes of an npz file are numbered anew from 0, in their sorted order.
      target: what a model is to say of an example: its "label", or the "input" itself, pixels in
        [0, 1] (reconstruction, as by an autoencoder).
      standardise: what is done with inputs before the model, by statistics of the training rows:
        mean 0 and deviation 1 of each "channel" or "feature"; "unit", all values to [0, 1]; "none";
        or "auto", channel for images and feature for rows of values, but none for symbols.
      public: inputs that server and clients may look at: "holdout", training rows that no client
        has; another data set of the same shape, by name; "noise"; or "generator", a network that
        the method trains.
      public_size: how many of a hold-out or another data set, >= 1; a tenth of the training rows,
        or all, if not given.
      imbalance_factor: thin out the training rows of later classes, > 0: the smallest class over
        the largest, or the largest over the smallest, if above 1; as they are if not given.
      imbalance_profile: how the sizes of classes fall: "exponential", or in one "step" halfway.
      validation_fraction: share of the training rows that the server keeps to validate with, in
        [0, 1).
    """

    dataset: str = "digits"
    data_dir: str | None = None
    partition: str = "dirichlet"
    partition_options: Options = field(default_factory=dict)
    num_clients: int | None = 100
    client_test_fraction: float = 0.0
    seed: int | None = None
    problem: str | None = None
    relabel: bool = False
    target: Target = "label"
    standardise: Standardise = "auto"
    public: str | None = None
    public_size: int | None = None
    imbalance_factor: float | None = None
    imbalance_profile: ImbalanceProfile = "exponential"
    validation_fraction: float = 0.0


def partitioner_options(name: str) -> list[Option]:
    """The options of a partitioner but for those that every run has: clients and seed.

    Example:
      >>> [option.name for option in partitioner_options("lognormal")]
      ['sigma', 'min_partition_size']
    """
    shared = ("num_partitions", "seed")
    own = [o for o in options(named("partition", name, PARTITIONERS)) if o.name not in shared]
    return [
        o._replace(default=_ALPHA) if o.name == "alpha" and o.default is REQUIRED else o
        for o in own
    ]


def counts_clients(partition: str) -> bool:
    """Whether a partitioner is told how many clients to make, and does not find out itself."""
    factory = named("partition", partition, PARTITIONERS)
    return any(o.name == "num_partitions" for o in options(factory))


def partitioner(data: DataConfig) -> Partitioner:
    """The partitioner that a configuration asks for.

    Raises:
      ValueError: if the name or an option is unknown, or a value is out of its range.
    """
    factory = named("partition", data.partition, PARTITIONERS)
    own = partitioner_options(data.partition)
    check_options(f"partition {data.partition}", data.partition_options, own)
    given: dict[str, Any] = {o.name: o.default for o in own} | dict(data.partition_options)
    shared = {"num_partitions": data.num_clients, "seed": data.seed or 0}
    known = {o.name for o in options(factory)}
    return factory(**given | {name: v for name, v in shared.items() if name in known})


def source_of(data: DataConfig) -> str:
    """Where the data of a run come from, in words.

    Example:
      >>> source_of(DataConfig("cifar10", data_dir="/data"))
      'cifar10 of /data'
    """
    return data.dataset if data.data_dir is None else f"{data.dataset} of {data.data_dir}"


def federation_of(data: DataConfig) -> tuple[Dataset | None, Federation]:
    """The data set of a run, and its division among clients; no data set where they are streamed.

    Raises:
      ValueError: if the data cannot be read, or not be divided as asked.
    """
    if data.partition == STORED:
        return None, _stored(data)
    divide, dataset = partitioner(data), _dataset_of(data)
    fraction, seed = data.client_test_fraction, data.seed or 0
    dataset, public = set_apart(
        dataset,
        public=data.public,
        public_size=data.public_size,
        validation_fraction=data.validation_fraction,
        data_dir=data.data_dir,
        seed=seed,
    )
    return dataset, federate(
        dataset,
        divide,
        client_test_fraction=fraction,
        public=public,
        seed=seed,
        standardise=data.standardise,
    )


def _stored(data: DataConfig) -> Federation:
    """The clients of a store, which are as they are."""
    if data.target != "label":
        raise InputError(
            f"target is {data.target!r}, but the client store {data.dataset} holds labels as "
            "targets: take target 'label', or a data set."
        )
    if data.imbalance_factor is not None:
        raise InputError(
            f"imbalance_factor is {data.imbalance_factor}, but the client store {data.dataset} is "
            "divided already: leave it out, or take a data set."
        )
    return streamed(open_store(data.dataset), standardise=data.standardise)


def _dataset_of(data: DataConfig) -> Dataset:
    """The data set of a run, before it is divided."""
    if data.target == "input" and data.problem not in (None, RECONSTRUCTION.name):
        raise InputError(
            f"target is 'input' and problem {data.problem!r}, but inputs that are targets are "
            "problem 'reconstruction': give one of both."
        )
    dataset = load(data.dataset, data_dir=data.data_dir, problem=data.problem, relabel=data.relabel)
    if data.target == "input":
        dataset = posed_as(dataset, RECONSTRUCTION)
    if dataset.problem is RECONSTRUCTION and data.public is not None:
        raise InputError(
            f"public is {data.public!r}, but methods that use public inputs classify: take target "
            "'label', or no public inputs."
        )
    if data.imbalance_factor is None:
        return dataset
    profile, seed = data.imbalance_profile, data.seed or 0
    return long_tailed(dataset, data.imbalance_factor, profile=profile, seed=seed)
