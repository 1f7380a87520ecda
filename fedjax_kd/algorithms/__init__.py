"""Federated algorithms, one file a method.

A method is registered by its import and its entry below; `fedjax_kd` takes its names from here.
"""

from collections.abc import Callable as _Callable

from fedjax_kd.algorithms.agnostic_fedavg import agnostic_fedavg
from fedjax_kd.algorithms.apfl import apfl
from fedjax_kd.algorithms.ccvr import ccvr
from fedjax_kd.algorithms.ditto import ditto
from fedjax_kd.algorithms.fd import fd
from fedjax_kd.algorithms.fedadagrad import fedadagrad
from fedjax_kd.algorithms.fedadam import fedadam
from fedjax_kd.algorithms.fedala import fedala
from fedjax_kd.algorithms.fedalign import fedalign
from fedjax_kd.algorithms.fedasam import fedasam
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.algorithms.fedavgm import fedavgm
from fedjax_kd.algorithms.fedbabu import fedbabu
from fedjax_kd.algorithms.fedbn import fedbn
from fedjax_kd.algorithms.fedcurv import fedcurv
from fedjax_kd.algorithms.feddc import feddc
from fedjax_kd.algorithms.feddf import feddf, feddf_groups
from fedjax_kd.algorithms.feddisco import feddisco
from fedjax_kd.algorithms.feddyn import feddyn
from fedjax_kd.algorithms.fedem import fedem
from fedjax_kd.algorithms.fedexp import fedexp
from fedjax_kd.algorithms.fedgamma import fedgamma
from fedjax_kd.algorithms.fedgen import fedgen
from fedjax_kd.algorithms.fedgkd import fedgkd
from fedjax_kd.algorithms.fedgkt import fedgkt, fedgkt_groups
from fedjax_kd.algorithms.fedgradaug import fedgradaug
from fedjax_kd.algorithms.fedkd import fedkd
from fedjax_kd.algorithms.fedkd_groups import fedkd_groups
from fedjax_kd.algorithms.fedlc import fedlc
from fedjax_kd.algorithms.fedlesam import fedlesam
from fedjax_kd.algorithms.fedlesam_d import fedlesam_d
from fedjax_kd.algorithms.fedlesam_s import fedlesam_s
from fedjax_kd.algorithms.fedloge import fedloge
from fedjax_kd.algorithms.fedlsd import fedlsd
from fedjax_kd.algorithms.fedmd import fedmd, fedmd_groups
from fedjax_kd.algorithms.fedmixup import fedmixup
from fedjax_kd.algorithms.fedmoswa import fedmoswa
from fedjax_kd.algorithms.fednova import fednova
from fedjax_kd.algorithms.fedntd import fedntd
from fedjax_kd.algorithms.fedpav import fedpav
from fedjax_kd.algorithms.fedper import fedper
from fedjax_kd.algorithms.fedproto import fedproto
from fedjax_kd.algorithms.fedprox import fedprox
from fedjax_kd.algorithms.fedrep import fedrep
from fedjax_kd.algorithms.fedrod import fedrod
from fedjax_kd.algorithms.fedrs import fedrs
from fedjax_kd.algorithms.fedsam import fedsam
from fedjax_kd.algorithms.fedsgd import fedsgd
from fedjax_kd.algorithms.fedspeed import fedspeed
from fedjax_kd.algorithms.fedswa import fedswa
from fedjax_kd.algorithms.fedtgp import fedtgp
from fedjax_kd.algorithms.fedyogi import fedyogi
from fedjax_kd.algorithms.fml import fml
from fedjax_kd.algorithms.heterofl import heterofl
from fedjax_kd.algorithms.hypcluster import hypcluster
from fedjax_kd.algorithms.ifca import ifca
from fedjax_kd.algorithms.knnper import knnper
from fedjax_kd.algorithms.localkd import localkd
from fedjax_kd.algorithms.mime import mime
from fedjax_kd.algorithms.mimelite import mimelite
from fedjax_kd.algorithms.mofedsam import mofedsam
from fedjax_kd.algorithms.moon import moon
from fedjax_kd.algorithms.no_weights_groups import fd_groups, fedproto_groups, fedtgp_groups
from fedjax_kd.algorithms.perfedavg import perfedavg
from fedjax_kd.algorithms.pfedhn import pfedhn
from fedjax_kd.algorithms.pfedhn_pc import pfedhn_pc
from fedjax_kd.algorithms.pfedme import pfedme
from fedjax_kd.algorithms.pfedsim import pfedsim
from fedjax_kd.algorithms.qfedavg import qfedavg
from fedjax_kd.algorithms.scaffold import scaffold
from fedjax_kd.algorithms.standalone import standalone
from fedjax_kd.core import Algorithm as _Algorithm

REGISTRY: dict[str, _Callable[..., _Algorithm]] = {
    "fedsgd": fedsgd,
    "fedavg": fedavg,
    "fedavgm": fedavgm,
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
    "fedprox": fedprox,
    "scaffold": scaffold,
    "standalone": standalone,
    "fedntd": fedntd,
    "fedper": fedper,
    "fedbn": fedbn,
    "perfedavg": perfedavg,
    "fedlsd": fedlsd,
    "localkd": localkd,
    "moon": moon,
    "fedalign": fedalign,
    "fedmixup": fedmixup,
    "fedgradaug": fedgradaug,
    "fedkd": fedkd,
    "pfedhn": pfedhn,
    "pfedhn_pc": pfedhn_pc,
    "feddf": feddf,
    "fedmd": fedmd,
    "fedgkt": fedgkt,
    "fedgen": fedgen,
    "ccvr": ccvr,
    "fedsam": fedsam,
    "fedasam": fedasam,
    "mofedsam": mofedsam,
    "fedspeed": fedspeed,
    "fedgamma": fedgamma,
    "fedlesam": fedlesam,
    "fedlesam_s": fedlesam_s,
    "fedlesam_d": fedlesam_d,
    "fedpav": fedpav,
    "feddyn": feddyn,
    "fednova": fednova,
    "fedexp": fedexp,
    "qfedavg": qfedavg,
    "feddisco": feddisco,
    "agnostic_fedavg": agnostic_fedavg,
    "heterofl": heterofl,
    "feddc": feddc,
    "mimelite": mimelite,
    "mime": mime,
    "fedswa": fedswa,
    "fedmoswa": fedmoswa,
    "fedlc": fedlc,
    "fedrs": fedrs,
    "fedrod": fedrod,
    "fedgkd": fedgkd,
    "fedcurv": fedcurv,
    "fedbabu": fedbabu,
    "fedrep": fedrep,
    "fedloge": fedloge,
    "ditto": ditto,
    "apfl": apfl,
    "pfedme": pfedme,
    "fml": fml,
    "fedala": fedala,
    "knnper": knnper,
    "hypcluster": hypcluster,
    "ifca": ifca,
    "fedem": fedem,
    "pfedsim": pfedsim,
    "fedproto": fedproto,
    "fedtgp": fedtgp,
    "fd": fd,
}
"""Every method by its name; the command line and the contract tests go through this."""

GROUPS: dict[str, _Callable[..., tuple[_Algorithm, ...]]] = {
    "feddf": feddf_groups,
    "fedmd": fedmd_groups,
    "fedgkt": fedgkt_groups,
    "fedkd": fedkd_groups,
    "fedproto": fedproto_groups,
    "fedtgp": fedtgp_groups,
    "fd": fd_groups,
}
"""Methods for several architectures behind one server: from tasks to an algorithm for each."""
