"""An optimiser of the server that clients use in their local steps, and do not change.

Its state, such as a momentum, is of the gradients of all clients; what the local steps would make
of it is forgotten.
"""

from __future__ import annotations

import optax

from fedjax_kd.core import PyTree, Scalar
from fedjax_kd.local import Optimiser, made_optimiser, optimiser_named, stepped


def with_momentum(base_opt: str | Optimiser, momentum: Scalar) -> Optimiser:
    """Heavy-ball momentum, and an optimiser after it, as local training has them.

    Args:
      base_opt: name of an optax optimiser, or a function of the learning rate.
      momentum: what of each step comes again in the next.

    Raises:
      ValueError: if optax has no optimiser of that name.
      TypeError: if ``base_opt`` is no function of the learning rate.
    """
    base = optimiser_named(base_opt) if isinstance(base_opt, str) else base_opt
    made_optimiser("base_opt", base, 0.1)
    return lambda lr: optax.chain(optax.trace(momentum), base(lr))


def frozen(opt: Optimiser, state: optax.OptState) -> Optimiser:
    """The optimiser that takes each step in the same state.

    Example:
      >>> momentum = with_momentum("sgd", 0.5)
      >>> state = momentum(0.1).update(4.0, momentum(0.1).init(0.0))[1]
      >>> held = frozen(momentum, state)(0.1)
      >>> [round(float(held.update(1.0, held.init(0.0))[0]), 3) for _ in range(2)]
      [-0.3, -0.3]
    """

    def of_rate(lr: Scalar) -> optax.GradientTransformation:
        made = opt(lr)

        def update(
            grads: PyTree, empty: optax.OptState, params: PyTree = None
        ) -> tuple[PyTree, optax.OptState]:
            return made.update(grads, state, params)[0], empty

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    return of_rate


def advanced(
    opt: Optimiser, state: optax.OptState, grads: PyTree, params: PyTree
) -> optax.OptState:
    """The state after a gradient at some parameters, which do not move."""
    return stepped(opt(1.0), params, grads, state)[1]
