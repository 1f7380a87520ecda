"""Liars: who they are, what they send, and what robust rules make of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import COHORTS, federation, gap, logistic, play, rounds
from test_golden import one_row_a_client
from test_golden_wrappers import from_zero, moving
from vectors import golden
from wrapping import clients

from fedjax_kd.algorithms import fedavg, scaffold
from fedjax_kd.components import attacks
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.local import local_training
from fedjax_kd.wrappers import with_attack, with_krum, with_median
from fedjax_kd.wrappers.attack import Attack

FIT = local_training(client_lr=0.1, batch_size=0, epochs=2)
ATTACKS: tuple[Attack, ...] = get_args(Attack)
LIAR_IS_4 = next(s for s in range(99) if bool(attacks.liars(6, 1 / 6, s)[4]))
CLOSE = {"rtol": 2e-6, "atol": 2e-6}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("method", [fedavg, pytest.param(scaffold, marks=pytest.mark.thorough)])
def test_without_liars_nothing_changes(attack: Attack, method: Any):
    data, base = clients(), method(logistic(), FIT)
    plain, _ = play(base, data.train, COHORTS)
    other, _ = play(with_attack(base, data, attack=attack, share=0.0), data.train, COHORTS)
    assert gap(plain, other) < 1e-6


@pytest.mark.parametrize("attack", ATTACKS)
def test_liars_change_the_model_and_who_is_absent_does_not(attack: Attack):
    data, base = clients(), fedavg(logistic(), FIT)
    algorithm = with_attack(base, data, attack=attack, share=1 / 6, liars_seed=LIAR_IS_4)
    assert np.flatnonzero(attacks.liars(6, 1 / 6, LIAR_IS_4)).tolist() == [4]
    for cohort, differs in (((0, 3, 5), False), ((0, 4, 5), True)):
        plain, _ = play(base, data.train, [cohort])
        other, _ = play(algorithm, data.train, [cohort])
        assert (gap(plain, other) > 1e-4) == differs


def test_signs_and_sizes():
    data, base = clients(), fedavg(logistic(), FIT)
    start = logistic().init(jax.random.key(0)).params
    true, _ = play(base, data.train, [(4,)])
    change = jax.tree.map(jnp.subtract, true.server.model.params, start)
    for attack, factor in (("sign_flip", -1.0), ("scaling", 10.0)):
        lies = with_attack(base, data, attack=attack, share=1.0)
        state, _ = play(lies, data.train, [(4,)])
        moved = jax.tree.map(jnp.subtract, state.server.model.params, start)
        assert gap(jax.tree.map(lambda a, f=factor: f * a, change), moved) < 1e-5


def test_flipped_labels():
    known = golden("robust")
    flipped = attacks.mirrored(jnp.asarray(known["in_labels"], jnp.int32), 10)
    np.testing.assert_array_equal(flipped, known["out_label_flip_all"])


@pytest.mark.usefixtures("float64")
def test_what_hides_in_the_spread():
    known = golden("robust")
    updates = [jnp.asarray(known["in_updates"])]
    honest = jnp.asarray(np.r_[np.ones(9), 0, 0])
    z = attacks.largest_hidden(jnp.float64(11), jnp.float64(2))
    np.testing.assert_allclose(z, known["out_alie_zmax"], rtol=1e-9)
    (lie,) = attacks.hidden_in_the_spread(updates, honest, z)
    np.testing.assert_allclose(lie, known["out_alie_pop_std"], rtol=1e-9)
    (lie,) = attacks.against_the_mean(updates, honest, 0.5)
    np.testing.assert_allclose(lie, known["out_ipm_eps0p5"], rtol=1e-9)


@pytest.mark.usefixtures("float64")
def test_liars_who_know_forge_their_rows_alone():
    known = golden("robust")
    updates = jnp.asarray(known["in_updates"])
    last_two = [*[False] * 9, True, True]
    seed = next(s for s in range(999) if attacks.liars(11, 2 / 11, s).tolist() == last_two)
    data: Any = SimpleNamespace(num_clients=11, num_classes=2)
    base = fedavg(from_zero(updates[0]), moving(updates))
    lies = with_attack(base, data, attack="ipm", share=2 / 11, liars_seed=seed, strength=0.5)
    ((state, _),) = rounds(lies, one_row_a_client(11), [range(11)])
    honest = known["in_updates"][:9]
    expected = (honest.sum(0) + 2 * known["out_ipm_eps0p5"]) / 11
    np.testing.assert_allclose(state.server.model.params, expected, **CLOSE)


def test_krum_stands_what_the_mean_does_not():
    data, base = clients(), fedavg(logistic(), FIT, weighting="uniform")
    everyone = [tuple(range(6))] * 3
    plain, _ = play(base, data.train, everyone)
    how: Any = {"attack": "scaling", "share": 1 / 6, "strength": 50.0, "liars_seed": LIAR_IS_4}
    mean, _ = play(with_attack(base, data, **how), data.train, everyone)
    for robust in (with_krum, with_median):
        state, _ = play(with_attack(robust(base), data, **how), data.train, everyone)
        assert gap(plain.server, state.server) < 0.2 * gap(plain.server, mean.server)


@pytest.mark.parametrize("attack", ["gaussian", "alie"])
def test_chunks_and_devices_change_nothing(attack: Attack):
    data = clients()
    lies = with_attack(fedavg(logistic(), FIT), data, attack=attack, share=0.5)
    one, _ = play(lies, data.train, COHORTS)
    other, _ = play(lies, data.train, COHORTS, chunk=1, mesh=make_mesh(2))
    assert gap(one, other) < 1e-5


def test_a_cohort_of_liars_sends_what_it_has():
    data, base = clients(), fedavg(logistic(), FIT)
    plain, _ = play(base, data.train, [(4, 3)])
    state, _ = play(with_attack(base, data, attack="alie", share=1.0), data.train, [(4, 3)])
    assert gap(plain, state) < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": "lie"}, "attack is 'lie', but must be one of sign_flip"),
        ({"share": 1.5}, r"share is 1.5, but must be in \[0, 1\]"),
        ({"strength": 0.0}, "strength is 0.0, but must be > 0"),
        ({"liars_seed": -1}, "liars_seed is -1, but must be >= 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        with_attack(fedavg(logistic(), FIT), federation(), **options)
