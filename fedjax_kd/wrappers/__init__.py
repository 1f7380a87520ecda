"""Functions from an algorithm to an algorithm, one file each; they go around any method."""

from collections.abc import Callable

from fedjax_kd.core import Algorithm
from fedjax_kd.wrappers.adaptive_clipping import with_adaptive_clipping
from fedjax_kd.wrappers.attack import with_attack
from fedjax_kd.wrappers.ccvr import with_ccvr
from fedjax_kd.wrappers.choice import with_loss_sampling, with_power_of_choice
from fedjax_kd.wrappers.clipping import with_centred_clipping, with_norm_bound
from fedjax_kd.wrappers.drive import with_drive
from fedjax_kd.wrappers.ema import with_ema
from fedjax_kd.wrappers.fedasync import with_fedasync
from fedjax_kd.wrappers.fedbuff import with_fedbuff
from fedjax_kd.wrappers.krum import with_bulyan, with_krum
from fedjax_kd.wrappers.local_privacy import with_local_privacy
from fedjax_kd.wrappers.low_rank import with_low_rank, with_svd
from fedjax_kd.wrappers.privacy import with_privacy
from fedjax_kd.wrappers.qsgd import with_qsgd
from fedjax_kd.wrappers.quantise import with_quantise
from fedjax_kd.wrappers.random_k import with_random_k
from fedjax_kd.wrappers.robust import with_geometric_median, with_median, with_trimmed_mean
from fedjax_kd.wrappers.secure_aggregation import with_secure_aggregation
from fedjax_kd.wrappers.sign import with_majority_vote, with_sign
from fedjax_kd.wrappers.sketch import with_sketch
from fedjax_kd.wrappers.swa import with_swa
from fedjax_kd.wrappers.terngrad import with_terngrad
from fedjax_kd.wrappers.top_k import with_top_k
from fedjax_kd.wrappers.trust import with_fltrust, with_foolsgold

WRAPPERS: dict[str, Callable[..., Algorithm]] = {
    "top_k": with_top_k,
    "random_k": with_random_k,
    "quantise": with_quantise,
    "qsgd": with_qsgd,
    "terngrad": with_terngrad,
    "drive": with_drive,
    "sign": with_sign,
    "majority_vote": with_majority_vote,
    "low_rank": with_low_rank,
    "svd": with_svd,
    "sketch": with_sketch,
    "privacy": with_privacy,
    "adaptive_clipping": with_adaptive_clipping,
    "local_privacy": with_local_privacy,
    "median": with_median,
    "trimmed_mean": with_trimmed_mean,
    "geometric_median": with_geometric_median,
    "krum": with_krum,
    "bulyan": with_bulyan,
    "norm_bound": with_norm_bound,
    "centred_clipping": with_centred_clipping,
    "fltrust": with_fltrust,
    "foolsgold": with_foolsgold,
    "attack": with_attack,
    "fedbuff": with_fedbuff,
    "fedasync": with_fedasync,
    "ema": with_ema,
    "swa": with_swa,
    "secure_aggregation": with_secure_aggregation,
    "ccvr": with_ccvr,
    "power_of_choice": with_power_of_choice,
    "loss_sampling": with_loss_sampling,
}
"""Every wrapper by its name. Beside the algorithm they may ask for ``task`` and ``federation``."""
