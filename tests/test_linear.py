"""Methods that correct local gradients, or let their rate fall: what only they have."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from federations import COHORTS, SIZES, federation, gap, logistic, normed, play, rounds

from fedjax_kd import tree
from fedjax_kd.algorithms import feddc, fedmoswa, fedsgd, fedswa, mime, mimelite
from fedjax_kd.components.corrections import with_gradient_at
from fedjax_kd.core import Variables
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.errors import collected_warnings
from fedjax_kd.local import Fit, local_training
from fedjax_kd.losses.objectives import Objective, gradient

FIT = local_training(client_lr=0.1, batch_size=4)
WHOLE = local_training(client_lr=0.1, batch_size=0)


def noisy(slope: Any) -> Objective:
    """A loss whose gradient at w is ``slope * w``, noise of the key, and the step."""

    def loss(model: Variables, batch: Any, key: Any, step: Any) -> tuple[jax.Array, Any]:
        noise = jax.random.normal(key, slope.shape)
        return (0.5 * slope * model.params**2 + (noise + step) * model.params).sum(), ()

    return loss


def test_the_corrected_gradient_at_the_anchor_is_the_mean_whatever_the_batch():
    slope, mean = jnp.array([1.0, 2.0]), jnp.array([5.0, -5.0])
    loss = with_gradient_at(noisy(slope), Variables(jnp.ones(2)), mean)
    for seed, params in ((0, jnp.ones(2)), (1, jnp.array([3.0, 0.0]))):

        def at_seven(*args: Any) -> Any:
            return loss(*args, step=7)

        _, _, found = gradient(at_seven, Variables(params), None, jax.random.key(seed))
        np.testing.assert_allclose(found, mean + slope * (params - 1), rtol=1e-5)


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_two_rounds_of_mime_are_one_of_sgd_if_clients_take_one_whole_step(weighting: Any):
    data = federation().train
    method = mime(logistic(), WHOLE, momentum=0.0, server_lr=0.5, weighting=weighting)
    twice = [cohort for cohort in COHORTS for _ in range(2)]
    one, _ = play(method, data, twice)
    other, _ = play(fedsgd(logistic(), eta=0.05, weighting=weighting), data, COHORTS)
    assert gap(one.server.base.base.model, other.server.model) < 1e-6


def test_mime_asks_in_even_rounds_and_trains_in_odd_ones():
    asked, trained = [], []
    before = None
    method = mime(normed(), FIT)
    for number, (state, report) in enumerate(rounds(method, federation().train, [(0, 4)] * 4)):
        optimised, control = state.server
        model, (wire,) = tree.num_bytes(optimised.base.model), report.wire
        if number % 2 == 0:
            asked.append(control)
            assert before is None or gap(before, optimised) == 0
            assert wire.down.tolist() == [model, model]
            assert float(report.metrics["steps"]) == 0
        else:
            trained.append(optimised.base.model)
            assert gap(control, asked[-1]) == 0
            whole = model + 2 * tree.num_bytes(control)  # and the momentum
            assert wire.down.tolist() == [whole, whole]
        before = optimised
    assert gap(*asked) > 1e-3
    assert gap(trained[0].stats, trained[1].stats) > 1e-3, "statistics come with training"


def test_the_momentum_of_mimelite_is_of_gradients_at_the_received_model():
    method = mimelite(logistic(), FIT, momentum=0.5)
    start = logistic().init(jax.random.key(0))
    _, _, slope = gradient(logistic().loss, start, all_of(4), jax.random.key(0))
    (first, _), (second, _) = rounds(method, federation().train, [(4,), (4,)])
    trace = first.server.opt[0].trace
    assert gap(trace, slope) < 1e-6
    _, _, slope = gradient(logistic().loss, first.server.base.model, all_of(4), jax.random.key(0))
    expected = tree.add_scaled(slope, 0.5, trace)
    assert gap(second.server.opt[0].trace, expected) < 1e-6


def all_of(client: int) -> Any:
    """All examples of a client, as one batch."""
    data = federation().train.of(jnp.int32(client))
    size = int(data.size)
    return data.take(jnp.arange(size, dtype=jnp.int32), jnp.ones(size))


def test_the_change_is_clipped_and_the_gradient_is_not():
    clip, start = 0.05, logistic().init(jax.random.key(0))
    method = mimelite(logistic(), FIT, clip_change=clip)
    state, _ = play(method, federation().train, [(4,)])
    plain, _ = play(mimelite(logistic(), FIT), federation().train, [(4,)])
    change = tree.sub(state.server.base.model.params, start.params)
    assert float(jnp.sqrt(tree.sq_norm(change))) == pytest.approx(clip, rel=1e-5)
    assert gap(state.server.opt, plain.server.opt) == 0


def test_feddc_tells_how_far_a_client_has_drifted():
    method = feddc(logistic(), FIT)
    state, _ = play(method, federation().train, [(4,)])
    kept = jax.tree.map(lambda a: a[4], state.clients[0])
    whole = np.concatenate([np.ravel(a) for a in jax.tree.leaves(kept.base)])
    found = method.traits(state.server, kept)["drift"]
    np.testing.assert_allclose(found, np.linalg.norm(whole), rtol=1e-6)
    start = logistic().init(jax.random.key(0)).params
    moved = tree.sub(state.server.base.base.model.params, start)
    assert gap(moved, tree.scale(2, kept.base)) < 1e-6, "the first step is twice as long"


VARIANTS: dict[str, Callable[[Fit], Any]] = {
    "feddc, code": lambda fit: feddc(logistic(), fit, variant="code"),
    "feddc, weighed": lambda fit: feddc(logistic(), fit, variant="code", total_examples=sum(SIZES)),
    "fedmoswa, code": lambda fit: fedmoswa(logistic(), fit, variant="code", rho=1.0),
    "fedmoswa, dispatched": lambda fit: fedmoswa(logistic(), fit, variant="dispatched", rho=1.0),
    "mime, adam": lambda fit: mime(logistic(), fit, base_opt="adam", momentum=0.0),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.thorough] * n.endswith("code")) for n in VARIANTS],
)
def test_in_each_variant_clients_without_examples_count_for_nothing(name: str):
    method, data = VARIANTS[name](FIT), federation().train
    state, _ = play(method, data, [(1, 5, 2), (1, 0)])
    expected, _ = play(method, data, [(5, 2), (0,)])
    assert gap(state, expected) < 1e-6  # two programs, which need not round alike
    assert bool(tree.is_finite(state))


REFUSED: dict[str, tuple[str, Callable[[], Any]]] = {
    "no examples": (
        "total_examples is 0, but must be >= 1",
        lambda: feddc(logistic(), FIT, variant="code", total_examples=0),
    ),
    "a variant that is none": (
        "variant is 'mine', but must be one of paper, code, dispatched",
        lambda: fedmoswa(logistic(), FIT, variant="mine"),
    ),
    "a rate that grows": (
        r"rho is 1.5, but must be in \[0, 1\]",
        lambda: fedswa(logistic(), FIT, rho=1.5),
    ),
    "two ends of the rate": (
        "fedmoswa sets lr_end of the local training itself",
        lambda: fedmoswa(logistic(), FIT.but(lr_end=0.5)),
    ),
    "another local optimiser": (
        "mime sets client_opt of the local training itself",
        lambda: mime(logistic(), FIT.but(client_opt="adam")),
    ),
    "momentum of the client": (
        "mimelite sets client_momentum of the local training itself",
        lambda: mimelite(logistic(), FIT.but(client_momentum=0.9)),
    ),
    "no optimiser": (
        "optax has no optimiser 'adamm'; near it: adam",
        lambda: mimelite(logistic(), FIT, base_opt="adamm"),
    ),
    "an optimiser with a rate": (
        "base_opt is an optimiser that has its learning rate already",
        lambda: mime(logistic(), FIT, base_opt=optax.sgd(0.1)),
    ),
    "local training of one's own": (
        "not made by `local_training`, so client_opt cannot be changed",
        lambda: mime(logistic(), FIT._replace(options=None)),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_as_it_is_built(name: str):
    words, make = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=words):
        make()


def test_weights_that_the_paper_has_not_are_warned_of():
    for variant, count in (("paper", 1), ("code", 0)):
        with collected_warnings() as found:
            feddc(logistic(), FIT, variant=variant, total_examples=28)
        assert len([m for m in found if m.startswith("total_examples is given, but")]) == count


def test_a_last_round_that_asks_in_vain_is_warned_of():
    def warned(num_rounds: int) -> list[str]:
        with collected_warnings() as found:
            simulate(mime(logistic(), FIT), federation(), num_rounds=num_rounds, cohort_size=2)
        return [message for message in found if re.search("asks for gradients", message)]

    assert not warned(2)
    assert len(warned(3)) == 1
