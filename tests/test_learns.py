"""Every method learns the digits of scikit-learn from skewed clients within seconds."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from digits import cohorts, digits, public
from federations import rounds
from method_records import RECORDS
from methods import OF_A_KIND, each_method, make

from fedjax_kd import metrics
from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.core import Algorithm, State
from fedjax_kd.engine.evaluation import evaluate_clients, has_personal_model
from fedjax_kd.local import local_training

LEAST = 0.6  # accuracy after these rounds; guessing gives 0.1
FIT = {"client_lr": 0.02, "batch_size": 10}


def accuracy(algorithm: Algorithm, state: State) -> float:
    """On the test set; with models of their own, that of the clients which were in a cohort."""
    federation, key = digits(), jax.random.key(0)
    newcomer = algorithm.client_init(key, state.server)
    if not has_personal_model(algorithm, state.server, newcomer, federation.test.x[:2]):
        logits = jax.jit(algorithm.predict)(state.server, newcomer, federation.test.x)
        return float((logits.argmax(-1) == federation.test.y).mean())
    met = np.unique(cohorts())
    clients = jax.tree.map(lambda a: a[met], state.clients[0])
    pools = (federation.train, federation.client_test)
    how = {"measures": {"accuracy": metrics.accuracy}, "capacity": 0, "at_once": 8}
    evaluate = jax.jit(partial(evaluate_clients, algorithm, **how))
    sums, _ = evaluate(key, (state.server, clients), jnp.asarray(met), pools)
    return metrics.summary(how["measures"], metrics.total_of(sums))["accuracy"]


@each_method(list(REGISTRY), thorough=OF_A_KIND)
def test_learns_digits(name: str):
    federation, how = digits(), RECORDS[name].digits
    fit = local_training(**FIT | how.fit)
    algorithm = make(name, how.task(federation), fit, **how.options)
    *_, (state, report) = rounds(algorithm, federation.train, cohorts(), public=public())
    assert accuracy(algorithm, state) > LEAST
    assert float(report.rejected.sum()) == 0
