"""By their types alone: every wrapper around every method, or why it cannot be there."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from method_records import RECORDS
from methods import OF_A_KIND, each_method
from test_contract import build
from wrapping import OPTIONS, around, clients

from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.core import Algorithm
from fedjax_kd.engine.validation import Types, check_algorithm
from fedjax_kd.runs.wrapper_config import wrapped
from fedjax_kd.wrappers import WRAPPERS

CODECS = ("top_k", "random_k", "quantise", "qsgd", "terngrad", "drive", "sign", "low_rank", "svd")
VALUES = ("fedmd", "fedgkt", "fedproto", "fedtgp", "fd")  # are sent, in place of changes
# What these cannot do to a method, and say when they are built.
REFUSED = {
    **{
        (average, name): "read nothing of the server"
        for average in ("ema", "swa")
        for name in ("standalone", "fedmd", "ditto", "pfedme", "fml", "fedala", "fd")
    },
    **{
        ("ccvr", name): "holds . models of the task's shapes"
        for name in (
            *("fedper", "fedpav", "pfedhn", "pfedhn_pc", "fedmd", "fedgkt"),
            *("fedbabu", "fedrep", "hypcluster", "ifca", "fedem"),
        )
    },
}
# Of whose uploads the server takes sums, or looks at each; FedMoSWA has two kinds of means.
NO_MEANS = (
    *("scaffold", "standalone", "pfedhn", "pfedhn_pc", "feddf", "fedgkt", "fedgen", "ccvr"),
    *("fedgamma", "fedlesam_s", "fedpav", "feddisco", "agnostic_fedavg", "heterofl", "fedcurv"),
    *("pfedsim", "fedproto", "fedtgp", "fd"),
)
REFUSED |= {(w, n): "asks for means" for w in ("majority_vote", "sketch") for n in NO_MEANS}
ONE_BY_ONE = (
    *("pfedhn", "pfedhn_pc", "feddf", "fedgkt", "fedgen", "ccvr", "fedpav", "feddisco"),
    *("agnostic_fedavg", "pfedsim", "fedtgp"),
)
REFUSED |= {("secure_aggregation", n): "looks at uploads one by one" for n in ONE_BY_ONE}
POOLED = ("heterofl", "fedproto", "fd")  # sums and their counts
OTHER_MESSAGES = ("ccvr", "sketch", "adaptive_clipping", "secure_aggregation", "fedasync")
BY_COORDINATE = ("median", "trimmed_mean", "bulyan")
REFUSED |= {(w, n): "send sums with their counts" for w in BY_COORDINATE for n in POOLED}
REFUSED["sketch", "fedmoswa"] = "a mean by votes of one part"
REFUSED |= {("fltrust", n): "directions of changes" for n in VALUES}
REFUSED |= {("fedbuff", n): "a part of one has another meaning" for n in VALUES}
# Where clients send more than the change of the model that they receive, or something else.
NO_CHANGE_ALONE = (
    *("scaffold", "fedkd", "pfedhn", "pfedhn_pc", "feddf", "fedgen", "ccvr", "mofedsam"),
    *("fedgamma", "fedlesam_s", "fedpav", "fednova", "fedexp", "qfedavg", "feddisco"),
    *("agnostic_fedavg", "heterofl", "mimelite", "mime", "fedmoswa", "fedgkd", "fedcurv"),
    *("fedloge", "hypcluster", "ifca", "pfedsim"),
)
REFUSED |= {("fedasync", n): "FedAsync mixes models" for n in (*NO_CHANGE_ALONE, *VALUES)}
HEADLESS = "`features` uses every value|does not know the shape|does not give logits of features"


@cache
def plain_types(name: str) -> tuple[Algorithm, Types]:
    """A method as it is, and its types."""
    algorithm = build(name)
    return algorithm, check_algorithm(algorithm, clients().train, clients().public)


@each_method(tuple(REGISTRY), thorough=OF_A_KIND)
def test_types_around_every_method(name: str):
    """Several wrappers around each other, around a method: what travels has the same types."""
    algorithm, plain = plain_types(name)
    around_all = {w: OPTIONS.get(w, {}) for w in ("top_k", "privacy", "median", "ema", "swa")}
    if name in VALUES:
        around_all["top_k"] = {"memory": "none"}
    if name in POOLED:
        del around_all["median"]
    if ("ema", name) in REFUSED:
        del around_all["ema"], around_all["swa"]
    made = wrapped(algorithm, around_all, RECORDS[name].task(), clients())
    types = check_algorithm(made, clients().train, clients().public)
    assert (types.message, types.upload.message) == (plain.message, plain.upload.message)


@pytest.mark.thorough
@each_method(tuple(REGISTRY))
def test_types_of_every_codec_around_every_method(name: str):
    """All of them around each other; a memory of changes is refused where values are sent."""
    algorithm, plain = plain_types(name)
    nest = {codec: {"memory": "none"} for codec in CODECS}
    made = wrapped(algorithm, nest, RECORDS[name].task(), clients())
    types = check_algorithm(made, clients().train, clients().public)
    assert (types.message, types.upload.message) == (plain.message, plain.upload.message)
    assert (algorithm.uploads == "values") == (name in VALUES)
    if name in VALUES:
        with pytest.raises(ValueError, match="sends later what was left out of a change"):
            around("top_k", algorithm, RECORDS[name].task())


@pytest.mark.thorough
@each_method(tuple(REGISTRY))
@pytest.mark.parametrize("wrapper", [name for name in WRAPPERS if name not in CODECS])
def test_types_of_every_wrapper_around_every_method(name: str, wrapper: str):
    data, task = clients(), RECORDS[name].task()
    algorithm, plain = plain_types(name)
    refusal = REFUSED.get((wrapper, name))
    if wrapper == "ccvr" and refusal is None and task.input_types is None:
        refusal = HEADLESS
    if refusal is not None:
        with pytest.raises(ValueError, match=refusal):
            around(wrapper, algorithm, task)
        return
    types = check_algorithm(around(wrapper, algorithm, task), data.train, data.public)
    if wrapper not in OTHER_MESSAGES:
        assert (types.message, types.upload.message) == (plain.message, plain.upload.message)
    if wrapper in (
        "privacy",
        "local_privacy",
        "norm_bound",
        "krum",
        "geometric_median",
        *BY_COORDINATE,
    ):
        assert (types.server, types.client) == (plain.server, plain.client)


def test_the_documentation_tells_the_product():
    """Which wrapper goes around which method, as it was found to be."""
    page = (Path(__file__).parent.parent / "docs" / "wrappers.md").read_text()
    section = page.split("## Which wrapper goes around which method")[1].split("\n## ")[0]
    rows = [
        line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")
    ]
    told = {
        (wrapper.strip("`"), method)
        for wrappers, methods, _ in rows
        for wrapper in wrappers.split(", ")
        for method in methods.split(", ")
    }
    assert told == {*REFUSED, *((codec, method) for codec in CODECS for method in VALUES)}
