"""FedKD: the authors' numbers, whose gradient is whose, what travels, and who is evaluated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import Normed, federation, gap, logistic, normed, task_of
from objectives import table, wide
from vectors import golden

from fedjax_kd import losses, tree
from fedjax_kd.algorithms.fedkd import fedkd
from fedjax_kd.algorithms.fedkd_groups import fedkd_groups
from fedjax_kd.components.low_rank import LowRank, cut
from fedjax_kd.components.mutual_learning import Private
from fedjax_kd.core import Data, Key, Round, Variables, Wire
from fedjax_kd.data.sampling import Cohort
from fedjax_kd.engine.evaluation import has_personal_model
from fedjax_kd.engine.round import Report
from fedjax_kd.engine.validation import check_algorithm, check_groups
from fedjax_kd.local import Fitted, local_training
from fedjax_kd.losses.objectives import Objective, gradient
from fedjax_kd.task import Task, from_nnx
from fedjax_kd.train import rows_of

FIT = local_training(client_lr=0.1, batch_size=4)
ALL = {"t_min": 1.0, "t_max": 1.0}  # nothing is cut
FILLING = 3  # rows of a batch that count nothing


def one_step(algorithm: Any, student: Variables, own: Private, x: Any, y: Any) -> Any:
    """What a client sends, and how its own models change, in a step of size 1 on all rows."""
    numbers = jnp.arange(len(y), dtype=jnp.int32)
    data = Data(x, y, numbers, jnp.int32(0), jnp.int32(len(y)))
    round = Round(jnp.int32(0), jnp.zeros(1, jnp.int32), jnp.ones(1), jnp.ones(1), 1, None)
    update = jax.jit(lambda *args: algorithm.client_update(*args, round))
    received = LowRank(student, jnp.int32(tree.num_bytes(student)))
    upload, after = update(jax.random.key(3), received, own, data)
    return upload, tree.sub(after, own)


def step(key: Key, start: Variables, data: Data, loss: Objective, round: Round) -> Fitted:
    """Local training of one step of size 1 on all rows, in a batch that is partly filling."""
    positions = jnp.arange(len(data.y) + FILLING, dtype=jnp.int32)
    batch = data.take(positions, (positions < len(data.y)).astype(jnp.float32))
    value, stats, grads = gradient(loss, start, batch, key)
    moved = Variables(tree.sub(start.params, grads), stats)
    return Fitted(moved, value, jnp.int32(1), jnp.float32(1))


def scores(features: jax.Array) -> Task:
    """A model that knows the logits of every row, and has the same features for all."""

    def both(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[Any, Any, Any]:
        return jnp.broadcast_to(features, (len(x), 1)), model.params[x], model.stats

    return table(6, 3)._replace(features_and_logits=both)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("variant", ["paper", "code"])
def test_golden_losses(variant: str):
    vectors = golden("fedkd_losses")
    hidden = wide(vectors["out_mse_hidden"]) + wide(vectors["out_mse_att"])
    student, teacher = (wide(vectors[f"in_score_{who}"]) for who in "st")
    algorithm = fedkd(
        scores(jnp.zeros(1)),
        step,
        mentor=scores(jnp.sqrt(hidden)[None]),
        hidden="plain",
        variant=variant,
        **ALL,
    )
    own = Private(Variables(teacher), ())
    rows = jnp.arange(6, dtype=jnp.int32)
    up, kept = one_step(algorithm, Variables(student), own, rows, wide(vectors["in_y"]))
    if variant == "paper":
        total = vectors["out_paper_loss_s"] + vectors["out_paper_loss_t"]
        names, close = ("out_paper_grad_s", "out_paper_grad_t"), {"rtol": 1e-6, "atol": 1e-9}
    else:
        total, names = vectors["out_total"], ("out_grad_score_s", "out_grad_score_t")
        close = {"rtol": 1e-5, "atol": 1e-6}  # the authors' code ran in float32
    np.testing.assert_allclose(up.metrics["loss"], total, **close)
    np.testing.assert_allclose(-up.message.params, vectors[names[0]], **close)
    np.testing.assert_allclose(-kept.mentor.params, vectors[names[1]], **close)


def test_each_model_follows_its_own_loss():
    """The student, the mentor and the projection, each by the paper's formula."""
    task, mentor, constant = logistic(2), logistic(5), jax.lax.stop_gradient
    algorithm, pool = fedkd(task, step, mentor=mentor, beta=0.7, **ALL), federation().train
    x, y = pool.x[:9], pool.y[:9]
    student = task.init(jax.random.key(1))
    own = algorithm.client_init(jax.random.key(2), None)
    assert own.projection.shape == (2, 5)

    def both_losses(params: Any, projection: jax.Array, teacher: Any) -> tuple[Any, Any]:
        h_s, z_s, _ = task.features_and_logits(Variables(params), x)
        h_t, z_t, _ = mentor.features_and_logits(Variables(teacher), x)
        errors = [losses.cross_entropy(z, y).mean() for z in (z_s, z_t)]
        c = 0.7 / constant(sum(errors))
        apart = jnp.square(h_s @ projection - h_t).mean()
        divergences = (
            losses.kl_divergence(z_s, constant(z_t)).mean(),
            losses.kl_divergence(z_t, constant(z_s)).mean(),
        )
        return tuple(e + c * (kl + apart) for e, kl in zip(errors, divergences, strict=True))

    at = student.params, own.projection, own.mentor.params

    @jax.jit
    def expected() -> Any:
        by_student = jax.grad(lambda *args: both_losses(*args)[0], argnums=(0, 1))(*at)
        return *by_student, jax.grad(lambda *args: both_losses(*args)[1], argnums=2)(*at)

    up, kept = one_step(algorithm, student, own, x, y)
    moved = up.message.params, kept.projection, kept.mentor.params
    assert gap(tree.neg(moved), expected()) < 1e-6


def test_what_travels():
    """Clients send a cut of what they would have sent, the server a cut of their mean."""
    pool, task, key = federation().train, logistic(2), jax.random.key(0)
    algorithms = [fedkd(task, step, **how) for how in (ALL, {"t_min": 0.4, "t_max": 0.6})]
    student, own = task.init(key), algorithms[0].client_init(key, None)
    whole, part = (one_step(a, student, own, pool.x, pool.y)[0] for a in algorithms)
    expected = cut(whole.message, 0.4 + 0.2 / 100)
    assert gap(part.message, expected.base) < 1e-6
    everything = tree.num_bytes(student)
    assert int(part.wire.up) == int(expected.size) < everything
    assert (int(whole.wire.up), int(part.wire.down)) == (everything, everything + 4)
    server = algorithms[1].server_init(key)
    round = Round(jnp.int32(99), jnp.zeros(1, jnp.int32), jnp.ones(1), jnp.ones(1), 1, None)
    after = algorithms[1].server_update(key, server, whole.message, round)
    last = cut(whole.message, 0.6)
    assert gap(tree.sub(after.base.model, student), last.base) < 1e-6
    assert int(after.size) == int(last.size) < everything


def test_bytes_are_summed_over_clients():
    """Each client's own count, whatever its vote; without one, the types' bytes a message."""
    wire = Wire(up=np.array([[100, 25, 0, 7], [0, 0, 0, 0]]))
    reports = Report({}, np.array([[2.0], [0.0]]), np.array([[1.0], [0.0]]), (wire,))
    work = [SimpleNamespace(needed=1, computed=1)] * 2
    asked, none = np.array([[4], [4]]), np.array([[0], [0]])
    who = {"asked": asked, "unheard": none, "refused": none, "cohorts": [Cohort(none[0])] * 2}
    given: Any = SimpleNamespace(start=0, work=work, **who)
    types = [SimpleNamespace(bytes_down=104, bytes_up=100)]
    s: Any = SimpleNamespace(block=2, num_rounds=2, types=types)
    first, second = rows_of(s, given, reports, None)
    assert (first["bytes_down"], first["bytes_up"]) == (4 * 104, 132)
    assert (second["bytes_down"], second["bytes_up"]) == (4 * 104, 0)


def test_who_is_evaluated():
    pool, shown = federation().train, federation().train.x[:5]
    mentor, key = logistic(5), jax.random.key(0)
    for evaluate in ("student", "mentor"):
        algorithm = fedkd(logistic(2), FIT, mentor=mentor, evaluate=evaluate)
        types = check_algorithm(algorithm, pool)
        personal = has_personal_model(algorithm, types.server, types.client, shown)
        assert personal == (evaluate == "mentor")
    own = algorithm.client_init(key, None)
    logits = algorithm.predict(None, own, shown)
    np.testing.assert_array_equal(logits, mentor.apply(own.mentor, shown)[0])
    other = algorithm.client_init(jax.random.key(1), None)
    assert gap(own.mentor, other.mentor) > 0.1, "mentors differ from the start"


def test_statistics_of_normalisation():
    """Those of the student are sent whole, those of the mentor stay."""
    pool, algorithm = federation().train, fedkd(normed(), step, hidden="none")
    own = algorithm.client_init(jax.random.key(0), None)
    student = normed().init(jax.random.key(1))
    up, kept = one_step(algorithm, student, own, pool.x[:9], pool.y[:9])
    assert gap(up.message.stats, tree.zeros_like(student.stats)) > 1e-3
    assert gap(kept.mentor.stats, up.message.stats) < 1e-6, "both saw the same inputs"


@pytest.mark.parametrize("rows", [1, 9])
def test_one_class_and_one_example(rows: int):
    pool, task = federation().train, logistic(2)
    algorithm = fedkd(task, FIT)
    own, student = algorithm.client_init(jax.random.key(0), None), task.init(jax.random.key(1))
    up, kept = one_step(algorithm, student, own, pool.x[:rows], jnp.zeros(rows, jnp.int32))
    assert bool(tree.is_finite((up, kept)))
    assert gap(up.message, tree.zeros_like(student)) > 1e-3


def test_mentors_of_several_architectures():
    """The same student travels to all, whatever their mentors are."""
    groups = fedkd_groups([logistic(2), logistic(5)], FIT)
    small, large = check_groups(groups, federation().train)
    assert (small.bytes_down, small.bytes_up) == (large.bytes_down, large.bytes_up)
    assert tree.num_bytes(small.client) < tree.num_bytes(large.client)


WRONG = [
    ({"t_min": -0.5}, r"t_min is -0.5, but must be in \[0, 1\]"),
    ({"t_max": 1.5}, r"t_max is 1.5, but must be in \[0, 1\]"),
    ({"rounds": 0}, "rounds is 0, but must be >= 1"),
    ({"beta": -1.0}, "beta is -1.0, but must be >= 0"),
    ({"hidden": "all"}, "hidden is 'all', but must be one of projected, plain, none"),
    ({"variant": "tf"}, "variant is 'tf', but must be one of paper, code"),
    ({"evaluate": "both"}, "evaluate is 'both', but must be one of student, mentor"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_options_out_of_range(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        fedkd(logistic(2), FIT, **given)


def test_models_that_do_not_fit():
    pool = federation().train
    with pytest.raises(ValueError, match="features and logits in one pass"):
        fedkd(table(3, 3), FIT)
    with pytest.raises(ValueError, match="does not know the shape of its examples"):
        fedkd(logistic(2)._replace(input_types=None), FIT)
    with pytest.raises(TypeError, match="Normed has no method 'features'"):
        check_algorithm(fedkd(from_nnx(Normed), FIT, hidden="plain"), pool)
    with pytest.raises(TypeError, match="project one side"):
        check_algorithm(fedkd(logistic(2), FIT, mentor=logistic(5), hidden="plain"), pool)
    four = task_of(
        lambda key: Variables(jnp.zeros((4, 4))), lambda v, x, key=None: (x @ v.params, v.stats)
    )
    with pytest.raises(TypeError, match="take models for the same classes"):
        check_algorithm(fedkd(logistic(), FIT, mentor=four, hidden="none"), pool)
