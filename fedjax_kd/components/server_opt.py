"""Server optimisers of "Adaptive Federated Optimization" as optax transforms.

The server's gradient is the *negative* mean of the clients' model changes (the pseudo-gradient), so
that any optax optimiser may stand in place of these.

Source: Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, ICLR 2021, arXiv:2003.00295,
Algorithm 2. The ``"tff"`` variants follow the optimisers of TensorFlow Federated, with which the
paper's published runs were made; they are not the paper's arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from fedjax_kd.core import PyTree, Scalar
from fedjax_kd.options import check_choice, checks_options

Variant = Literal["paper", "tff"]
_Second = Callable[[Array, Array], Array]


class FedOptState(NamedTuple):
    """First and second moment of the pseudo-gradient, and the number of steps taken."""

    steps: Array
    m: PyTree
    v: PyTree


@checks_options
def fedavgm(eta: Scalar = 1.0, beta: Scalar = 0.9) -> optax.GradientTransformation:
    """Heavy-ball momentum on the server: ``v = beta v + Delta; x = x + eta v``.

    Args:
      eta: server learning rate, > 0.
      beta: momentum, in [0, 1).

    Source: Hsu, Qi, Brown, 2019, arXiv:1909.06335.
    """
    return optax.chain(optax.trace(beta), optax.scale_by_learning_rate(eta))


@checks_options
def fedadagrad(
    eta: Scalar = 0.1,
    beta_1: Scalar = 0.0,
    tau: Scalar = 1e-3,
    *,
    variant: Variant = "paper",
    initial: Scalar | None = None,
) -> optax.GradientTransformation:
    """``v = v + Delta^2``; see `fedadam` for the rest.

    The ``"tff"`` variant has the root over both, ``Delta / sqrt(v + tau)``, and no first moment.

    Args:
      eta: server learning rate, > 0.
      beta_1: decay of the first moment, in [0, 1).
      tau: degree of adaptivity, > 0.
      variant: "paper" or "tff".
      initial: another start of v, >= 0.
    """
    check_variant(variant)
    inside = variant == "tff"
    return _fedopt(
        lambda v, square: v + square,
        eta,
        0.0 if inside else beta_1,
        tau,
        initial=_initial(initial, 0.0 if inside else tau**2),
        tau_inside=inside,
    )


@checks_options
def fedadam(
    eta: Scalar = 0.01,
    beta_1: Scalar = 0.9,
    beta_2: Scalar = 0.99,
    tau: Scalar = 1e-3,
    *,
    variant: Variant = "paper",
    initial: Scalar | None = None,
) -> optax.GradientTransformation:
    """FedAdam's server step, with the paper's arithmetic.

        m = beta_1 m + (1 - beta_1) Delta        m starts at 0
        v = beta_2 v + (1 - beta_2) Delta^2      v starts at tau^2
        x = x + eta m / (sqrt(v) + tau)

    There is no bias correction, and ``tau`` stands outside the root: `optax.adam` differs in both.

    Args:
      eta: server learning rate, > 0.
      beta_1: decay of the first moment, in [0, 1).
      beta_2: decay of the second moment, in [0, 1).
      tau: degree of adaptivity, > 0; the larger, the closer to plain momentum.
      variant: ``"tff"`` applies Adam's bias correction to ``eta`` and starts v at 0.
      initial: another start of v, >= 0.

    Example:
      >>> opt = fedadam(eta=1.0, beta_1=0.0, tau=1.0)
      >>> step, _ = opt.update(-jnp.ones(1), opt.init(jnp.zeros(1)))
      >>> step  # v = 1, so 1 / (1 + 1)
      Array([0.5], dtype=float32)
    """
    check_variant(variant)
    correct = variant == "tff"
    return _fedopt(
        lambda v, square: beta_2 * v + (1 - beta_2) * square,
        eta,
        beta_1,
        tau,
        initial=_initial(initial, 0.0 if correct else tau**2),
        correction=beta_2 if correct else None,
    )


@checks_options
def fedyogi(
    eta: Scalar = 0.01,
    beta_1: Scalar = 0.9,
    beta_2: Scalar = 0.99,
    tau: Scalar = 1e-3,
    *,
    variant: Variant = "paper",
    initial: Scalar | None = None,
) -> optax.GradientTransformation:
    """``v = v - (1 - beta_2) Delta^2 sign(v - Delta^2)``; see `fedadam` for the rest.

    The ``"tff"`` variant applies Adam's bias correction to ``eta`` and starts v at 1e-6.

    Args:
      eta: server learning rate, > 0.
      beta_1: decay of the first moment, in [0, 1).
      beta_2: decay of the second moment, in [0, 1).
      tau: degree of adaptivity, > 0.
      variant: "paper" or "tff".
      initial: another start of v, >= 0.
    """
    check_variant(variant)
    correct = variant == "tff"
    return _fedopt(
        lambda v, square: v - (1 - beta_2) * square * jnp.sign(v - square),
        eta,
        beta_1,
        tau,
        initial=_initial(initial, 1e-6 if correct else tau**2),
        correction=beta_2 if correct else None,
    )


def _initial(given: Scalar | None, default: Scalar) -> Scalar:
    return default if given is None else given


def _fedopt(
    second: _Second,
    eta: Scalar,
    beta_1: Scalar,
    tau: Scalar,
    *,
    initial: Scalar,
    tau_inside: bool = False,
    correction: Scalar | None = None,
) -> optax.GradientTransformation:
    """The frame that the three adaptive rules share; they differ in ``second``."""

    def init(params: PyTree) -> FedOptState:
        m = optax.tree.zeros_like(params)
        v = jax.tree.map(lambda p: jnp.zeros_like(p) + jnp.asarray(initial, p.dtype), params)
        return FedOptState(jnp.zeros((), jnp.int32), m, v)

    def update(
        grads: PyTree, state: FedOptState, params: PyTree = None
    ) -> tuple[PyTree, FedOptState]:
        del params
        steps = state.steps + 1
        m = jax.tree.map(
            lambda m, g: (beta_1 * m + (1 - beta_1) * g).astype(g.dtype), state.m, grads
        )
        v = jax.tree.map(lambda v, g: second(v, g**2).astype(g.dtype), state.v, grads)
        rate = jnp.asarray(eta)
        if correction is not None:
            rate = eta * jnp.sqrt(1 - correction**steps) / (1 - beta_1**steps)

        def step(m: Array, v: Array) -> Array:
            root = jnp.sqrt(v + tau) if tau_inside else jnp.sqrt(v) + tau
            return (-rate * m / root).astype(m.dtype)

        return jax.tree.map(step, m, v), FedOptState(steps, m, v)

    return optax.GradientTransformation(init, update)


def check_variant(variant: str) -> None:
    """Raises ValueError if there is no such variant."""
    advice = "Algorithm 2 of the paper, or TensorFlow Federated's optimisers."
    check_choice("variant", variant, Variant, advice)
