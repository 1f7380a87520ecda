"""Power of choice and loss-based sampling: who of those that were asked takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import SIZES, dataset, federation, gap, in_round, logistic, play, rounds
from federations import start as start_of
from methods import model
from vectors import golden

from fedjax_kd.algorithms import fedavg, scaffold
from fedjax_kd.backends import backend_of
from fedjax_kd.core import Algorithm
from fedjax_kd.data import sampling
from fedjax_kd.data.federation import federate, streamed
from fedjax_kd.data.writer import write_store
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.choice import of_largest
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.local import local_training
from fedjax_kd.losses import cross_entropy
from fedjax_kd.train import blocks
from fedjax_kd.wrappers import with_ema, with_loss_sampling, with_power_of_choice

FIT = local_training(client_lr=0.3, batch_size=4)
ALL = tuple(range(len(SIZES)))


def base(task: Any = None, method: Any = fedavg) -> Algorithm:
    return method(task or logistic(), FIT, weighting="uniform")


def power(clients: int, losses: Any = "model", inside: Algorithm | None = None, **options: Any):
    return with_power_of_choice(
        inside or base(), federation(), clients=clients, losses=losses, **options
    )


def finite(state: Any) -> Any:
    """The state, with a large number for clients that have reported nothing."""
    return jax.tree.map(lambda a: jnp.nan_to_num(a, posinf=1e6), state)


def losses_of(weights: Any) -> np.ndarray:
    """The mean loss of each client's examples; nothing of an empty client."""
    pool, found = federation().train, []
    for client, size in enumerate(SIZES):
        rows = np.asarray(pool.rows)[int(pool.starts[client]) :][:size]
        logits = logistic().apply(weights, pool.x[rows])[0]
        found.append(float(cross_entropy(logits, pool.y[rows]).mean()) if size else -np.inf)
    return np.array(found)


def test_the_largest_of_the_candidates():
    known = golden("server_rules")
    candidates = known["in_poc_candidates"]
    losses = jnp.asarray(known["in_poc_losses"][candidates])
    stays = of_largest(losses, jnp.arange(len(candidates)), int(known["in_poc_m"]))
    assert set(candidates[np.asarray(stays)]) == set(known["out_poc_selected"].tolist())


def test_equal_scores_and_what_is_no_number():
    scores = jnp.array([1.0, 2.0, 2.0, jnp.nan, -jnp.inf, 2.0])
    assert np.flatnonzero(of_largest(scores, jnp.array([0, 9, 3, 0, 0, 1]), 2)).tolist() == [2, 5]
    assert np.flatnonzero(of_largest(scores, jnp.arange(6), 4)).tolist() == [0, 1, 2, 5]
    assert of_largest(scores, jnp.arange(6), 9).all()


@pytest.mark.parametrize("method", [fedavg, scaffold])
def test_the_worst_off_train_and_nobody_else(method: Any):
    inside = base(method=method)
    start = losses_of(model(start_of([inside], np.zeros(len(SIZES)))))
    worst = np.argsort(-start)[:2].tolist()
    chosen, (report,) = play(power(2, inside=inside), federation().train, [ALL])
    plain, (its,) = play(inside, federation().train, [tuple(worst)])
    assert gap(chosen, plain) < 1e-6
    assert report.used.tolist() == its.used.tolist() == [2.0]
    assert gap(report.metrics, its.metrics) < 1e-6


def test_a_batch_is_some_of_the_examples():
    """A batch that holds all of a client's examples gives the loss of all."""
    whole, _ = play(power(2), federation().train, [ALL])
    batch, _ = play(power(2, "batch", choice_batch=16), federation().train, [ALL])
    assert gap(whole, batch) == 0
    server = base().server_init(jax.random.key(0))
    one = power(2, "batch", choice_batch=1).choice.score
    data = federation().train.of(jnp.int32(4))
    scores = [one(jax.random.key(k), server, jnp.int32(4), data, in_round()) for k in range(8)]
    assert len({float(score) for score in scores}) > 2


def test_last_losses_are_those_of_the_rounds_before():
    algorithm, asked = power(2, "last"), [(0, 3), (4, 5), ALL, ALL]
    played = list(rounds(algorithm, federation().train, asked))
    tables = [np.asarray(state.server.extra) for state, _ in played]
    assert np.isfinite(tables[0]).tolist() == [True, False, False, True, False, False]
    # Client 2 was never asked, and client 1 has no examples; then comes the largest known loss.
    others = [0, 3, 4, 5]
    second = others[int(np.argmax(tables[1][others]))]
    changed = np.flatnonzero(tables[2] != tables[1]).tolist()
    assert changed == sorted([2, second])
    worst = np.sort(np.argsort(np.where(np.isfinite(tables[2]), -tables[2], np.inf))[:2])
    assert np.flatnonzero(tables[3] != tables[2]).tolist() == worst.tolist()
    assert [int(report.used.sum()) for _, report in played] == [2, 2, 2, 2]


@pytest.mark.parametrize("losses", [pytest.param("model", marks=pytest.mark.thorough), "last"])
@pytest.mark.parametrize(
    "how",
    [
        {"chunk": 1},
        {"chunk": (1, 2)},
        {"mesh": make_mesh(2)},
        pytest.param({"debug": True}, marks=pytest.mark.thorough),
        {"backend": backend_of("gpu"), "chunk": 2},
    ],
    ids=["chunks", "widths", "mesh", "debug", "gpu"],
)
def test_chunks_and_devices_change_nothing(losses: Any, how: dict[str, Any]):
    asked = [ALL, (5, 4, 3, 0), (0, 2, 3)]
    algorithm = power(2, losses, inside=base(method=scaffold))
    one, reports = play(algorithm, federation().train, asked)
    other, its = play(algorithm, federation().train, asked, **how)
    assert gap(finite(one), finite(other)) < 1e-5
    assert gap([r.used for r in reports], [r.used for r in its]) == 0


@pytest.mark.parametrize(("chunk", "slots"), [(1, 2), (2, 2), (3, 3)])
def test_nobody_computes_for_those_who_do_not_train(chunk: int, slots: int):
    _, (report,) = play(power(2, "last"), federation().train, [ALL], chunk=chunk)
    assert len(report.wire[0].down) == slots
    assert float(report.used.sum()) == 2


def test_a_resumed_run_chooses_the_same():
    how = {"cohort_size": 5, "chunk": 5, "eval_every": 2, "rounds_per_dispatch": 2, "num_rounds": 4}
    s = simulate(power(2, "last"), federation(), **how)
    (_, half, whole) = blocks(s, initial_state(s))
    half = next(p for p in blocks(s, initial_state(s)) if p.finished == 2)
    (again,) = blocks(s, half.state, 2)
    assert gap(finite(again.state), finite(whole.state)) == 0
    keys = ("clients", "train_loss", "bytes_up", "bytes_down")
    assert [[r[k] for k in keys] for r in again.rows] == [[r[k] for k in keys] for r in whole.rows]
    received = base().server_init(jax.random.key(0)).model
    size = sum(a.nbytes for a in jax.tree.leaves(received))
    assert [r["clients"] for r in whole.rows] == [2, 2]
    assert [r["bytes_down"] for r in whole.rows] == [2 * size] * 2
    assert [r["bytes_up"] for r in whole.rows] == [2 * (size + 4)] * 2


def test_who_is_asked_receives_the_model():
    sampler = sampling.fixed([[0, 2, 3, 4]])
    how = {"cohort_size": 4, "chunk": 4, "num_rounds": 1, "sampler": sampler}
    s = simulate(power(2), federation(), **how)
    row = list(blocks(s, initial_state(s)))[-1].rows[-1]
    assert row["bytes_down"] == 2 * row["bytes_up"]


def test_limits():
    for losses in ("model", "last"):
        for make in (with_power_of_choice, with_loss_sampling):
            algorithm = make(base(), federation(), clients=len(ALL), losses=losses)
            chosen, _ = play(algorithm, federation().train, [ALL, (4, 3, 0)])
            plain, _ = play(base(), federation().train, [ALL, (4, 3, 0)])
            server = chosen.server.base if losses == "last" else chosen.server
            assert gap(server, plain.server) < 1e-6


def test_odds_by_losses():
    data = federate(dataset(20), lambda _: [np.arange(10), np.arange(10, 20)])
    for exponent, expected in ((1.0, 0.75), (2.0, 0.9), (0.0, 0.5)):
        algorithm = with_loss_sampling(base(), data, clients=1, power=exponent)
        server = algorithm.server_init(jax.random.key(0))
        server = server._replace(extra=jnp.array([3.0, 1.0]))

        def first(key: jax.Array, algorithm: Any = algorithm, server: Any = server) -> jax.Array:
            scores = [
                algorithm.choice.score(jax.random.fold_in(key, n), server, jnp.int32(n), (), ())
                for n in range(2)
            ]
            return of_largest(jnp.stack(scores), jnp.arange(2), 1)[0]

        drawn = jax.vmap(first)(jax.random.split(jax.random.key(1), 4000))
        assert float(drawn.mean()) == pytest.approx(expected, abs=0.03)


def test_wrappers_around_it_and_inside():
    around = with_ema(power(2, "last"), federation(), beta=0.5)
    state, _ = play(around, federation().train, [ALL, ALL])
    inside = power(2, "last", inside=with_ema(base(), federation(), beta=0.5))
    other, _ = play(inside, federation().train, [ALL, ALL])
    assert gap(state.server.base.base, other.server.base.base) < 1e-6


def test_groups_are_chosen_together():
    groups = [power(2), power(2)]
    halves = {"group_of": [0, 0, 0, 1, 1, 1]}
    one, (report,) = play(groups, federation().train, [ALL], **halves)
    other, _ = play(power(2), federation().train, [ALL])
    assert gap(one.server, other.server) < 1e-6
    assert float(report.used.sum()) == 2


@pytest.mark.parametrize("make", [with_power_of_choice, with_loss_sampling])
def test_bad_input(make: Any):
    with pytest.raises(ValueError, match="clients is 0, but must be >= 1"):
        make(base(), federation(), clients=0)
    with pytest.raises(ValueError, match="losses is 'worst', but must be one of"):
        make(base(), federation(), losses="worst")
    with pytest.raises(ValueError, match="chosen by two wrappers"):
        make(make(base(), federation()), federation())
    with pytest.raises(ValueError, match=r"clients is 4, but cohort_size=3 asks fewer"):
        simulate(make(base(), federation(), clients=4), federation(), num_rounds=1, cohort_size=3)

    groups = [make(base(), federation(), clients=2, losses="model"), base()]
    halves = np.array([0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="put the same wrapper around each"):
        simulate(groups, federation(), num_rounds=1, cohort_size=3, group_of=halves)

    def silent(*args: Any) -> Any:
        upload, client = base().client_update(*args)
        return upload._replace(metrics={}), client

    mute = make(base()._replace(client_update=silent), federation(), losses="last", clients=2)
    with pytest.raises((ValueError, TypeError), match="report no training loss"):
        simulate(mute, federation(), num_rounds=1, cohort_size=3)


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_streamed_clients(devices: int, tmp_path: Path):
    pool, pairs = federation().train, []
    for start, size in zip(np.asarray(pool.starts), SIZES, strict=True):
        rows = np.asarray(pool.rows)[start : start + size]
        pairs.append((np.asarray(pool.x)[rows], np.asarray(pool.y)[rows]))
    made = write_store(tmp_path / "s", pairs, name="s", num_classes=3, test=pairs[4])
    data = streamed(made, standardise="none")
    how = {"num_rounds": 3, "cohort_size": 5, "chunk": 1 if devices == 2 else 2}
    mesh = make_mesh(2) if devices == 2 else None
    finals = []
    for where, on in ((data, mesh), (federation(), None)):
        algorithm = with_power_of_choice(base(), where, clients=2)
        s = simulate(algorithm, where, mesh=on, **how)
        finals.append(list(blocks(s, initial_state(s)))[-1].state)
    assert gap(*finals) < 1e-5
