"""Functions from an algorithm to an algorithm, one file each; they go around any method."""

from collections.abc import Callable

from fedjax_kd.core import Algorithm
from fedjax_kd.wrappers.ccvr import with_ccvr
from fedjax_kd.wrappers.choice import with_loss_sampling, with_power_of_choice
from fedjax_kd.wrappers.ema import with_ema
from fedjax_kd.wrappers.privacy import with_privacy
from fedjax_kd.wrappers.robust import with_krum, with_median
from fedjax_kd.wrappers.swa import with_swa
from fedjax_kd.wrappers.top_k import with_top_k

WRAPPERS: dict[str, Callable[..., Algorithm]] = {
    "top_k": with_top_k,
    "privacy": with_privacy,
    "median": with_median,
    "krum": with_krum,
    "ema": with_ema,
    "swa": with_swa,
    "ccvr": with_ccvr,
    "power_of_choice": with_power_of_choice,
    "loss_sampling": with_loss_sampling,
}
"""Every wrapper by its name. Beside the algorithm they may ask for ``task`` and ``federation``."""
