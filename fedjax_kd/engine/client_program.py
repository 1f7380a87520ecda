"""The program of one client's round, looked at before anything is compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import jaxprs_in_params

from fedjax_kd import tree
from fedjax_kd.backends import Backend
from fedjax_kd.core import Algorithm, Pool, PyTree
from fedjax_kd.engine.validation import Types, abstract_round
from fedjax_kd.nn.conv_lowering import as_products
from fedjax_kd.nn.conv_primitive import forward_p

_CONVOLUTIONS = {forward_p.name, "conv_general_dilated"}


class ClientProgram(NamedTuple):
    """What is known of ``client_update`` without running it."""

    lowered: jax.stages.Lowered
    operations: float  # about those of one local step; 0 where the backend does not count them
    num_bytes: int  # of the message that a client receives
    convolutional: bool

    def lanes(self, backend: Backend) -> int:
        """Local trainings at once without a measurement."""
        return backend.lanes(self.operations, self.num_bytes, convolutional=self.convolutional)


def client_program(
    algorithm: Algorithm, types: Types, pool: Pool, public: PyTree = None
) -> ClientProgram:
    """The program of ``client_update``, convolutions as products.

    XLA counts the body of a loop once, whatever the number of its turns, and no foreign call.
    """
    key, _, data, round, in_round = abstract_round(pool, public)
    update = jax.jit(in_round(algorithm.client_update))
    with as_products():
        traced = update.trace(key, types.message, types.client, data, round)
        lowered = traced.lower()
    operations = float((lowered.cost_analysis() or {}).get("flops", 0.0))
    convolutional = not _CONVOLUTIONS.isdisjoint(_primitives(traced.jaxpr.jaxpr))
    return ClientProgram(lowered, operations, tree.num_bytes(types.message), convolutional)


def _primitives(jaxpr: Any) -> Iterator[str]:
    """The names of all primitives of a traced function."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jaxprs_in_params(equation.params):
            yield from _primitives(inner)
