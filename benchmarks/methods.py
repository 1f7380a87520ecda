"""What a round of every method costs over a round of FedAvg, and what its products explain.

    python -m benchmarks.methods

The federation is synthetic, all clients hold equally much, and FedAvg and the method run in turns.
*Explained* is the number of multiplications in the matrix products of a round, clients and server,
over FedAvg's: what further passes through networks must cost where products bind. *Unexplained* is
the measured cost over that; where it is above 1.3 the method spends its time on something else.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from benchmarks.cases import CASES, Case, make_federation, start
from benchmarks.reporting import Ratio, Row, parser, publish
from fedjax_kd import MODELS, Algorithm, Federation, from_nnx, local_training
from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.core import Data, Round
from fedjax_kd.data.public_inputs import Public, Stored
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.nn.conv_primitive import forward_p, input_p, kernel_p
from fedjax_kd.runs.build import facts_of

BASE = "fedavg"
MOST = 1.3  # unexplained, before a method is looked into

NETWORKS: Mapping[str, Case] = {
    "mlp": dataclasses.replace(CASES["mlp"], options={"hidden": (200, 200)}, rounds=5),
    "cnn": dataclasses.replace(CASES["cnn_small"], rounds=2),
}
BATCH_NORM: Mapping[str, Case] = {
    "resnet8": dataclasses.replace(CASES["resnet8"], options={"norm": "batch"})
}

# Loops of another length than a client's epoch, which is what `cost` takes for an unknown one.
OPTIONS: Mapping[str, Callable[[Case], Mapping[str, Any]]] = {
    "feddf": lambda case: {"best": False},
    "fedmd": lambda case: {"alignment": case.examples, "public_batch": case.batch},
}


def cost(function: Callable[..., Any], *args: Any, turns: int) -> int:
    """Multiplications in the matrix products of a function.

    Args:
      function: to be traced.
      *args: arrays, or their shapes.
      turns: of loops whose length is known at run time only.
    """
    return _cost(jax.make_jaxpr(function)(*args).jaxpr, turns)


def _cost(jaxpr: Any, turns: int) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = [_cost(j, turns) for j in jaxprs_in_params(equation.params)]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
        elif equation.primitive in _KERNEL_OF:
            total += _of_convolution(equation)
        elif name == "cond":
            total += max(inner)
        else:
            repeats = {"scan": equation.params.get("length"), "while": turns}.get(name, 1)
            total += (repeats or 1) * sum(inner)
    return total


# Where a convolution, and each of its gradients, has the kernel among operands and result.
_KERNEL_OF = {forward_p: 1, input_p: 1, kernel_p: 2}


def _of_convolution(equation: Any) -> int:
    values = [*equation.invars, *equation.outvars]
    kernel = values.pop(_KERNEL_OF[equation.primitive]).aval.shape
    clients = max(kernel[0], *(value.aval.shape[0] for value in values))
    places = values[0].aval.shape[1] * math.prod(equation.params["window"].outputs)
    return clients * places * math.prod(kernel[1:])


def of_a_round(algorithm: Algorithm, federation: Federation, cohort: int, turns: int) -> int:
    """Multiplications of a whole round: all clients of a cohort, and the server."""
    types = check_algorithm(algorithm, federation.train, federation.public)
    population = federation.num_clients
    number = jnp.int32(0)
    ids = jnp.arange(cohort, dtype=jnp.int32)
    ones = jnp.ones(cohort)
    round = Round(number, ids, ones, ones, population, federation.public)
    key, data = jax.random.key(0), federation.train.of(number)

    def client(server: Any, own: Any) -> Any:
        message = algorithm.broadcast(server, number, round)
        return algorithm.client_update(key, message, own, data, round)

    def many(kind: Any, stacked: bool) -> Any:
        shape = (cohort, *kind.shape) if stacked else kind.shape
        return jax.ShapeDtypeStruct(shape, kind.dtype)

    received = jax.tree.map(
        lambda rule, sent: jax.tree.map(lambda kind: many(kind, rule.stacked), sent),
        algorithm.aggregate,
        types.upload.message,
    )
    clients = cost(client, types.server, types.client, turns=turns)
    server = cost(
        lambda server, update: algorithm.server_update(key, server, update, round),
        types.server,
        received,
        turns=turns,
    )
    return cohort * clients + server


def make(name: str, case: Case, federation: Federation) -> Algorithm:
    """A method with its default options, but for `OPTIONS`, on a network and one epoch of SGD."""
    factory = REGISTRY[name]
    build = MODELS[case.model](case.shape, case.classes, **case.options)
    task = from_nnx(
        build,
        prepare=federation.prepare,
        example_loss=federation.example_loss,
        example_x=federation.train.x[:1],
    )
    fit = local_training(client_lr=case.lr, batch_size=case.batch)
    parts = (task, fit) if _trains_locally(name) else (task,)
    options = OPTIONS[name](case) if name in OPTIONS else {}
    return factory(*parts, **facts_of(factory, federation), **options)


def _trains_locally(name: str) -> bool:
    return "fit" in inspect.signature(REGISTRY[name]).parameters


def _steps(name: str, case: Case) -> int:
    """Of a client in a round: one on all examples, unless the method takes local training."""
    return case.steps if _trains_locally(name) else 1


def with_public(federation: Federation, rows: int) -> Federation:
    """The same federation, with random inputs and labelled rows that are no client's."""
    rng = np.random.default_rng(1)
    shape = (rows, *federation.input_shape)
    x = rng.integers(0, 256, shape, np.uint8)
    y = rng.integers(0, federation.num_classes, rows).astype(np.int32)
    public = Public(Stored(jnp.asarray(x)), Data.all_of(*map(jnp.asarray, (x, y))))
    return dataclasses.replace(federation, public=public)


def compare(name: str, case: Case, cohort: int, chunk: int, times: int) -> Row:
    """A method and FedAvg in turns, in chunks of the same width."""
    federation = with_public(make_federation(case, cohort), max(256, case.examples))
    both = [make(which, case, federation) for which in (BASE, name)]
    turns = [_steps(which, case) for which in (BASE, name)]
    explained = [of_a_round(a, federation, cohort, t) for a, t in zip(both, turns, strict=True)]
    how = {"rounds": case.rounds, "cohort_size": cohort, "chunk": chunk}
    running = [start(a, federation, **how) for a in both]
    seconds = [[next(r.seconds) for r in running] for _ in range(times)]
    base, own = (min(spent) for spent in zip(*seconds, strict=True))
    share = explained[1] / explained[0]
    return {
        "method": name,
        "network": case.model,
        "cost": own / base,
        "explained": share,
        "unexplained": own / base / max(share, 1.0),
        "compile s": running[1].compile,
    }


def make_options() -> argparse.ArgumentParser:
    """The command line's options."""
    options = parser(__doc__)
    add = options.add_argument
    add("--method", nargs="+", choices=REGISTRY, metavar="METHOD", default=list(REGISTRY))
    add("--network", nargs="+", choices=NETWORKS, metavar="NETWORK", default=list(NETWORKS))
    add("--cohort", type=int, default=10, help="clients (default: %(default)s)")
    add("--chunk", type=int, default=5, help="trained at once (default: %(default)s)")
    add("--steps", type=int, help="of a client in a round (default: 2 or 3)")
    add("--times", type=int, default=8, help="dispatches of each (default: %(default)s)")
    return options


def rows_of(
    methods: Sequence[str], networks: Sequence[str], steps: int | None, *how: int
) -> list[Row]:
    """A row a method and network; FedBN has the network with batch normalisation."""
    rows = []
    for name in methods:
        cases = BATCH_NORM if name == "fedbn" else {n: NETWORKS[n] for n in networks}
        for case in cases.values():
            of_a_client = dataclasses.replace(case, steps=steps or case.steps)
            rows.append(compare(name, of_a_client, *how))
    return rows


def main() -> None:
    """Prints the table."""
    args = make_options().parse_args()
    rows = rows_of(args.method, args.network, args.steps, args.cohort, args.chunk, args.times)
    ratios = {
        f"{row['method']}, {row['network']}: explained over measured cost": Ratio(
            1 / float(row["unexplained"]), 1 / MOST
        )
        for row in rows
    }
    publish("methods", rows, ratios, args.json)


if __name__ == "__main__":
    main()
