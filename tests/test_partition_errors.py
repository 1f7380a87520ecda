"""What partitioners refuse, and in which words; what the command line reads from them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from labelled import assert_every_row_once, labelled

from fedjax_kd.data import PARTITIONERS, from_arrays, load
from fedjax_kd.data.dirichlet import DirichletPartitioner
from fedjax_kd.data.natural import DomainPartitioner, NaturalIdPartitioner
from fedjax_kd.data.pachinko import PachinkoPartitioner
from fedjax_kd.data.shards import PathologicalPartitioner, ShardPartitioner
from fedjax_kd.data.sizes import IidPartitioner, LogNormalPartitioner, PowerLawPartitioner


def test_pachinko_wants_a_coarse_label_of_each_label():
    data = labelled()
    with pytest.raises(ValueError, match="has no column 'coarse'"):
        PachinkoPartitioner(3)(load("digits"))
    with pytest.raises(ValueError, match="examples_per_client=300 need 900 rows"):
        PachinkoPartitioner(3, examples_per_client=300)(data)
    columns = {"coarse": np.arange(600) % 7}
    torn = dataclasses.replace(data, train=data.train._replace(columns=columns))
    with pytest.raises(ValueError, match="label 0 have several values in column 'coarse'"):
        PachinkoPartitioner(3)(torn)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IidPartitioner(0), "num_partitions is 0"),
        (lambda: IidPartitioner(2.5), "num_partitions is 2.5"),
        (lambda: IidPartitioner(3, seed=-1), "seed is -1"),
        (lambda: DirichletPartitioner(3, 0.0), "alpha is 0.0, but must be > 0"),
        (lambda: DirichletPartitioner(3, float("nan")), "alpha is nan"),
        (lambda: DirichletPartitioner(3, float("inf")), "alpha is inf"),
        (lambda: LogNormalPartitioner(3, -1.0), "sigma is -1.0, but must be >= 0"),
        (lambda: PowerLawPartitioner(3, float("nan")), "exponent is nan"),
        (lambda: PachinkoPartitioner(3, beta=0.0), "beta is 0.0"),
        (lambda: NaturalIdPartitioner(min_partition_size=0), "min_partition_size is 0"),
        (
            lambda: PathologicalPartitioner(3, class_assignment_mode="best"),
            "'best', but must be one of random, deterministic",
        ),
    ],
)
def test_bad_arguments_are_refused_when_built(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (IidPartitioner(601), "more clients than examples"),
        (DirichletPartitioner(601, 1.0), "more clients than examples"),
        (DirichletPartitioner(100, 1.0), "min_partition_size=10 need 1000 rows.*at most 6"),
        (DirichletPartitioner(2, 1.0, partition_by="x"), "has label, coarse, domain, client"),
        (LogNormalPartitioner(100, min_partition_size=7), "need 700 rows"),
        (ShardPartitioner(10, 2, shard_size=31), "need 620 rows"),
        (PathologicalPartitioner(10, 11), "has 10 classes: give at most 10"),
        (PathologicalPartitioner(4, 2), "cannot hold all 10 classes.*partition to 3"),
        (PathologicalPartitioner(600, 2), "but each of them must get one"),
        (NaturalIdPartitioner(min_partition_size=8), "the largest client .* has 7 rows"),
        (DomainPartitioner(201), "more clients than examples"),
    ],
)
def test_what_the_data_cannot_give_is_refused(split, words):
    with pytest.raises(ValueError, match=words):
        split(labelled())


def test_sequence_labels_have_no_label_column():
    y = np.zeros((4, 3), int)
    data = from_arrays(np.zeros((4, 3), int), y, np.zeros((1, 3), int), y[:1])
    with pytest.raises(ValueError, match=r"its targets are a class a position"):
        DirichletPartitioner(2, 1.0, min_partition_size=1)(data)
    assert_every_row_once(IidPartitioner(2)(data), 4)


def test_registry_options_can_be_read():
    for partitioner in PARTITIONERS.values():
        documented = partitioner.__doc__.split("Args:")[1]
        for field in dataclasses.fields(partitioner):
            assert isinstance(field.type, str)
            assert f"      {field.name}: " in documented
