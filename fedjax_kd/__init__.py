"""A vectorised simulator of federated learning with knowledge distillation, in JAX and Flax.

Start with `fedjax_kd.core` (the contract), then ``algorithms/fedavg.py`` (a whole round in one
file), then ``algorithms/fedprox.py`` (a variant of it).
"""

from importlib.metadata import version

from fedjax_kd import losses, metrics, nn, tree
from fedjax_kd.algorithms import *
from fedjax_kd.algorithms import GROUPS, REGISTRY
from fedjax_kd.components import server_opt
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
    devices,
    from_arrays,
    load,
    long_tailed,
    set_apart,
)
from fedjax_kd.data import sampling as cohort
from fedjax_kd.data.federation import Federation, federate
from fedjax_kd.data.public_inputs import Generator, Noise, Public, Stored
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.clock import Clock
from fedjax_kd.engine.early_stopping import Patience, Stop
from fedjax_kd.engine.finetuning import with_finetuning
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.engine.simulation import Simulation, simulate
from fedjax_kd.local import local_training
from fedjax_kd.metrics import fidelity
from fedjax_kd.models import MODELS
from fedjax_kd.runs.saved import load_run
from fedjax_kd.runs.schedule_config import parse_schedule
from fedjax_kd.runs.warm_start import start_from
from fedjax_kd.sweeps.api import sweep
from fedjax_kd.sweeps.axes import Range, grid, sample
from fedjax_kd.sweeps.halving import Halving
from fedjax_kd.task import Task, from_linen, from_nnx
from fedjax_kd.train import Result, blocks, train
from fedjax_kd.wrappers import (
    WRAPPERS,
    with_ccvr,
    with_ema,
    with_fedasync,
    with_fedbuff,
    with_krum,
    with_loss_sampling,
    with_median,
    with_power_of_choice,
    with_privacy,
    with_swa,
    with_top_k,
)

__version__ = version("fedjax-kd")

__all__ = [
    "AUGMENTATIONS",
    "GROUPS",
    "MODELS",
    "PARTITIONERS",
    "REGISTRY",
    "WRAPPERS",
    "Algorithm",
    "Batch",
    "Clock",
    "Data",
    "Dataset",
    "DirichletPartitioner",
    "DomainPartitioner",
    "Federation",
    "Generator",
    "Halving",
    "IidPartitioner",
    "LogNormalPartitioner",
    "NaturalIdPartitioner",
    "Noise",
    "PachinkoPartitioner",
    "PathologicalPartitioner",
    "Patience",
    "PowerLawPartitioner",
    "Public",
    "Range",
    "Result",
    "Round",
    "ShardPartitioner",
    "Simulation",
    "State",
    "Stop",
    "Stored",
    "Task",
    "Upload",
    "Variables",
    "blocks",
    "cohort",
    "devices",
    "federate",
    "fidelity",
    "from_arrays",
    "from_linen",
    "from_nnx",
    "grid",
    "initial_state",
    "load",
    "load_run",
    "local_training",
    "long_tailed",
    "losses",
    "make_mesh",
    "mean",
    "metrics",
    "nn",
    "parse_schedule",
    "sample",
    "server_opt",
    "set_apart",
    "simulate",
    "stack",
    "start_from",
    "sweep",
    "total",
    "train",
    "tree",
    "uniform_mean",
    "with_ccvr",
    "with_ema",
    "with_fedasync",
    "with_fedbuff",
    "with_finetuning",
    "with_krum",
    "with_loss_sampling",
    "with_median",
    "with_power_of_choice",
    "with_privacy",
    "with_swa",
    "with_top_k",
]
__all__ += list(REGISTRY)
__all__ += [groups.__name__ for groups in GROUPS.values()]
