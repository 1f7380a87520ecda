"""A federation before its first round."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_kd.core import Algorithm, State
from fedjax_kd.data.sampling import Ids
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.engine.validation import Types, repeated


def initial_state(simulation: Simulation, places: int | None = None) -> State:
    """The federation before its first round, with places for servers of the past as it needs."""
    server = simulation.groups[0].server_init(simulation.key("init"))
    key = simulation.key("clients")

    def init(algorithm: Algorithm, types: Types, numbers: Ids | range) -> Any:
        if not jax.tree.leaves(types.client):  # however many they are, they keep nothing
            return types.client
        keys = jax.vmap(lambda c: jax.random.fold_in(key, c))(jnp.asarray(numbers, jnp.int32))
        return jax.vmap(lambda k: algorithm.client_init(k, server))(keys)

    places = simulation.places if places is None else places
    groups = zip(simulation.groups, simulation.types, simulation.layout.members, strict=True)
    past = repeated(server, places) if places else ()
    return State(server, tuple(init(*group) for group in groups), past)
