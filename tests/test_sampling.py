"""Who takes part in a round: samplers and dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedjax_kd.data import sampling


def test_samplers():
    rng = np.random.default_rng(0)
    drawn = np.concatenate([sampling.uniform(10, 3)(rng, 0) for _ in range(2000)])
    np.testing.assert_allclose(np.bincount(drawn, minlength=10) / len(drawn), 0.1, atol=0.02)
    weighted = sampling.weighted([0, 1, 3], 1)
    counts = np.bincount([weighted(rng, 0)[0] for _ in range(2000)], minlength=3) / 2000
    np.testing.assert_allclose(counts, [0, 0.25, 0.75], atol=0.04)
    given_ids = sampling.fixed([[1, 2], [0]])
    assert [given_ids(rng, n).tolist() for n in range(3)] == [[1, 2], [0], [1, 2]]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: sampling.uniform(3, 4), "cohort_size is 4, but must be between 1 and the 3"),
        (lambda: sampling.uniform(3, 0), "cohort_size is 0"),
        (lambda: sampling.weighted([1, 0, 0], 2), "have 1 positive entries"),
        (lambda: sampling.weighted([1, -1], 1), "a minimum of -1.0"),
        (lambda: sampling.weighted([1, np.nan], 1), "must be finite"),
        (lambda: sampling.fixed([]), "at least one client"),
        (lambda: sampling.fixed([[1, 1]]), "none twice"),
    ],
)
def test_bad_arguments(make: Any, match: str):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ([0, 7], "names client 7, but clients are numbered from 0 to 5"),
        ([-1], "names client -1"),
        ([2, 2], "client 2 twice"),
    ],
)
def test_cohorts_that_cannot_be(ids: list[int], match: str):
    with pytest.raises(ValueError, match=match):
        sampling.participants(lambda rng, n: np.array(ids), 6, seed=0, number=0)


def test_dropout_takes_its_share():
    everyone = sampling.uniform(50, 50)
    drawn = [sampling.participants(everyone, 50, 1, n, dropout_rate=0.3) for n in range(100)]
    assert abs(np.mean([len(cohort.ids) for cohort in drawn]) / 50 - 0.7) < 0.03
    assert all(len(c.ids) + c.facts["no_answer"] == 50 for c in drawn)


def test_samplers_by_name(tmp_path: Path):
    sizes, rng = np.array([0, 5, 0, 5]), np.random.default_rng(0)
    assert set(sampling.sampler_named("examples", sizes, 2)(rng, 0).tolist()) == {1, 3}
    assert len(sampling.sampler_named("uniform", sizes, 3)(rng, 0)) == 3
    file = tmp_path / "cohorts.json"
    file.write_text("[[0, 2], [3]]")
    sampler = sampling.sampler_named(str(file), sizes, 2)
    assert [sampler(rng, number).tolist() for number in range(3)] == [[0, 2], [3], [0, 2]]


@pytest.mark.parametrize("text", ["", "7", "[7]", '[["a"]]', "[[0.5]]"])
def test_a_file_that_holds_no_cohorts_is_an_error(tmp_path: Path, text: str):
    file = tmp_path / "cohorts.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="list of client numbers for each round"):
        sampling.sampler_named(str(file), np.ones(3), 2)
    with pytest.raises(ValueError, match="'uniform', 'examples', 'poisson', or a JSON file"):
        sampling.sampler_named("unifrom", np.ones(3), 2)
