"""A vectorised simulator of federated learning with knowledge distillation, in JAX and Flax.

Start with `fedjax_kd.core` (the contract), then ``algorithms/fedavg.py`` (a whole round in one
file), then ``algorithms/fedprox.py`` (a variant of it).
"""

from importlib.metadata import version

from fedjax_kd import cohort, losses, metrics, nn, server_opt, tree
from fedjax_kd.algorithms import (
    REGISTRY,
    ccvr,
    fedadagrad,
    fedadam,
    fedalign,
    fedavg,
    fedavgm,
    fedbn,
    feddf,
    feddf_groups,
    fedgen,
    fedgradaug,
    fedkd,
    fedlsd,
    fedmixup,
    fedntd,
    fedper,
    fedprox,
    fedsgd,
    fedyogi,
    moon,
    perfedavg,
    pfedhn,
    pfedhn_pc,
    scaffold,
    standalone,
)
from fedjax_kd.calibration import with_ccvr
from fedjax_kd.core import (
    Algorithm,
    Batch,
    Data,
    Round,
    State,
    Upload,
    Variables,
    mean,
    stack,
    total,
    uniform_mean,
)
from fedjax_kd.data import (
    AUGMENTATIONS,
    PARTITIONERS,
    Dataset,
    DirichletPartitioner,
    DomainPartitioner,
    IidPartitioner,
    LogNormalPartitioner,
    NaturalIdPartitioner,
    PachinkoPartitioner,
    PathologicalPartitioner,
    PowerLawPartitioner,
    ShardPartitioner,
    from_arrays,
    load,
)
from fedjax_kd.data.federation import Federation, federate
from fedjax_kd.engine import make_mesh
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS
from fedjax_kd.simulation import Simulation, initial_state, simulate
from fedjax_kd.sweeps.api import sweep
from fedjax_kd.sweeps.axes import Range, grid, sample
from fedjax_kd.sweeps.halving import Halving
from fedjax_kd.task import Task, from_linen, from_nnx
from fedjax_kd.train import Result, blocks, train

__version__ = version("fedjax-kd")

__all__ = [
    "AUGMENTATIONS",
    "MODELS",
    "PARTITIONERS",
    "REGISTRY",
    "Algorithm",
    "Batch",
    "Data",
    "Dataset",
    "DirichletPartitioner",
    "DomainPartitioner",
    "Federation",
    "Halving",
    "IidPartitioner",
    "LogNormalPartitioner",
    "NaturalIdPartitioner",
    "PachinkoPartitioner",
    "PathologicalPartitioner",
    "PowerLawPartitioner",
    "Range",
    "Result",
    "Round",
    "ShardPartitioner",
    "Simulation",
    "State",
    "Task",
    "Upload",
    "Variables",
    "blocks",
    "ccvr",
    "cohort",
    "fedadagrad",
    "fedadam",
    "fedalign",
    "fedavg",
    "fedavgm",
    "fedbn",
    "feddf",
    "feddf_groups",
    "federate",
    "fedgen",
    "fedgradaug",
    "fedkd",
    "fedlsd",
    "fedmixup",
    "fedntd",
    "fedper",
    "fedprox",
    "fedsgd",
    "fedyogi",
    "from_arrays",
    "from_linen",
    "from_nnx",
    "grid",
    "initial_state",
    "load",
    "local_training",
    "losses",
    "make_mesh",
    "mean",
    "metrics",
    "moon",
    "nn",
    "perfedavg",
    "pfedhn",
    "pfedhn_pc",
    "sample",
    "scaffold",
    "server_opt",
    "simulate",
    "stack",
    "standalone",
    "sweep",
    "total",
    "train",
    "tree",
    "uniform_mean",
    "with_ccvr",
]
