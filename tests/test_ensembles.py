"""Who of the clients teaches, and with what vote."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, task_of
from teachers import in_round, labelled

from fedjax_kd import batching
from fedjax_kd.components import server_distillation as fusion
from fedjax_kd.components.ensembles import Uploads
from fedjax_kd.components.server_distillation import server_distillation
from fedjax_kd.core import Key, Variables
from fedjax_kd.data.public_inputs import Stored


@pytest.fixture(autouse=True)
def short_shuffle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of turns is a permutation."""
    monkeypatch.setattr(batching, "_SHUFFLE_ROUNDS", 3)


@partial(jax.jit, static_argnames=("drop_worst", "votes"))
def elected(accuracy: Any, **options: Any) -> tuple[Any, Any]:
    """The votes of four models that are right so often, in two groups; the last is not there."""
    examples = labelled(20)
    right = jnp.arange(20.0)[None] < 20 * accuracy[:, None]
    wrong = jax.nn.one_hot((examples.y + 1) % CLASSES, CLASSES)
    said = jnp.where(right[..., None], jax.nn.one_hot(examples.y, CLASSES)[None], wrong[None])
    place = jnp.arange(20.0)[:, None]

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> Any:
        return model.params[x[:, 0].astype(jnp.int32)], ()

    task, votes = task_of(lambda key: Variables(said[0]), apply), jnp.array([1.0, 5.0, 7.0, 0.0])
    zero = Variables(jnp.zeros_like(said[0]))
    parts = [Uploads(task, zero, Variables(said[a:b]), votes[a:b]) for a, b in ((0, 2), (2, 4))]
    where = in_round(Stored(place), examples._replace(x=place))
    teachers, kept = fusion.elected(server_distillation(**options), parts, where)
    return teachers.votes, kept


def judged(*accuracy: float, **options: Any) -> tuple[list[float], list[list[float]]]:
    """Votes as teachers, and on the average of each group."""
    votes, kept = elected(jnp.array(accuracy), **options)
    return votes.tolist(), [k.tolist() for k in kept]


def test_the_worst_count_for_nothing():
    all_of_them = ([1, 1, 1, 0], [[1, 5], [7, 0]])
    assert judged(0.9, 0.35, 0.5, 1.0, drop_worst=True) == ([1, 0, 1, 0], [[1, 0], [7, 0]])
    assert judged(0.9, 0.35, 0.5, 1.0) == all_of_them
    assert judged(0.1, 0.3, 0.0, 1.0, drop_worst=True) == all_of_them


def test_teachers_vote_by_accuracy():
    votes, kept = judged(0.9, 0.35, 0.5, 1.0, drop_worst=True, votes="accuracy")
    np.testing.assert_allclose(votes, [0.9, 0, 0.5, 0], rtol=1e-6)
    assert kept == [[1, 0], [7, 0]]
    nobody, _ = judged(0.0, 0.0, 0.0, 0.0, drop_worst=True, votes="accuracy")
    assert nobody == [0, 0, 0, 0]
