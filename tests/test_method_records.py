"""Every method of the registry has a record, and what a record lacks is named."""

from __future__ import annotations

from federations import logistic
from method_records import RECORDS
from methods import Record, missing

from fedjax_kd.algorithms import REGISTRY


def test_every_method_has_a_complete_record():
    lacking = missing(list(REGISTRY), RECORDS)
    assert not lacking, "write these fields:\n" + "\n".join(lacking)


def test_records_are_of_methods_and_reasons_are_given():
    assert list(RECORDS) == list(REGISTRY)
    reasons = {n: r.limit for n, r in RECORDS.items() if isinstance(r.limit, str)}
    assert all(len(reason.split()) > 3 for reason in reasons.values()), reasons


def test_what_a_record_lacks_is_named():
    records = {"half": Record(task=logistic, bytes=(1, 2, 3), limit="it trains nothing at all")}
    assert missing(["half"], records) == [
        "tests/method_records.py: RECORDS['half'].digits: "
        "a task and options with which it learns the digits"
    ]
    fields = [line.split(":")[1].split(".")[-1] for line in missing(["new"], records)]
    assert fields == ["task", "bytes", "limit", "digits"]
