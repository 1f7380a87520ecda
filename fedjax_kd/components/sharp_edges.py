"""Options of methods that run together, and whose numbers are seldom those that were meant.

Each function says so of the arguments of a factory, or None; `warns_of` has a factory ask them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from numbers import Real
from typing import Any

import jax
import optax

from fedjax_kd.core import Algorithm, Plan
from fedjax_kd.errors import warn

Arguments = Mapping[str, Any]
"""The arguments of a factory by name, defaults included."""

_LEAST_DIFFERENCE = 1e-4  # in float32


def warns_of(*edges: Callable[[Arguments], str | None]) -> Callable:
    """Decorates a factory that warns of some edges when it is called.

    Example:
      >>> @warns_of(lambda given: f"lr is {given['lr']}" if given["lr"] > 1 else None)
      ... def plain(task, *, lr=2.0): ...
      >>> from fedjax_kd.errors import collected_warnings
      >>> with collected_warnings() as found:
      ...     plain(None)
      >>> found
      ['lr is 2.0']
    """

    def decorate(factory: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(factory)

        @wraps(factory)
        def watched(*args: Any, **options: Any) -> Any:
            made = factory(*args, **options)  # what is wrong raises first
            given = signature.bind(*args, **options)
            given.apply_defaults()
            for message in (edge(given.arguments) for edge in edges):
                if message:
                    warn(message)
            return made

        return watched

    return decorate


def checked_too(algorithm: Algorithm, edge: Callable[[Plan], str | None]) -> Callable[[Plan], None]:
    """The `fedjax_kd.core.Algorithm.check` of a wrapper that has an edge of its own."""

    def check(plan: Plan) -> None:
        algorithm.check(plan)
        if message := edge(plan):
            warn(message)

    return check


def option_two_wants_sgd(given: Arguments) -> str | None:
    """SCAFFOLD's control variates with a step that is not learning rate times gradient."""
    what = _other_than_sgd(given)
    if given["option"] != "II" or what is None:
        return None
    return (
        f"SCAFFOLD's option II takes a client's change over the sum of its learning rates for a "
        f"gradient, but with {what} its steps are longer or shorter than that: the control "
        "variates are off, and the loss may grow without bound. Train with plain SGD, or take "
        "option='I'."
    )


def wants_sgd(method: str) -> Callable[[Arguments], str | None]:
    """A method's mean gradient with a step that is not learning rate times gradient."""

    def edge(given: Arguments) -> str | None:
        what = _other_than_sgd(given)
        if what is None:
            return None
        return (
            f"{method} takes the clients' change over the sum of their learning rates for a "
            f"gradient, but with {what} their steps are longer or shorter than that: train with "
            "plain SGD."
        )

    return edge


def last_round_asks(plan: Plan) -> str | None:
    """Mime's last round, if it only asks for gradients."""
    if plan.num_rounds % 2 == 0:
        return None
    return (
        f"num_rounds is {plan.num_rounds}, but Mime trains in every second round, after one that "
        "asks for gradients, and the last would ask in vain: take an even number."
    )


def alignment_wants_clipping(given: Arguments) -> str | None:
    """FedAlign's term, whose gradient grows as the term vanishes."""
    local = _local(given)
    if not local or local["clip_norm"] is not None or _is_nothing(given["mu"]):
        return None
    return (
        "FedAlign's term has the size of the loss however small the difference that it measures, "
        "so its gradient grows as the difference vanishes: clip gradients, as the paper does "
        "(clip_norm=10)."
    )


def spring_is_stiff(given: Arguments) -> str | None:
    """FedProx with a step that overshoots the received model."""
    return _overshoots("client_lr", _local(given).get("client_lr"), "mu", given["mu"])


def own_spring_is_stiff(given: Arguments) -> str | None:
    """Ditto with a step of the client's own model that overshoots the received one."""
    return _overshoots("client_lr", _local(given).get("client_lr"), "lamb", given["lamb"])


def inner_spring_is_stiff(given: Arguments) -> str | None:
    """pFedMe with inner steps that overshoot the local model."""
    return _overshoots("inner_lr", given["inner_lr"], "lamb", given["lamb"])


def _overshoots(rate_name: str, rate: Any, name: str, strength: Any) -> str | None:
    """Steps too long for a proximal term, which each of them would carry beyond its middle."""
    if not (isinstance(rate, Real) and isinstance(strength, Real)):
        return None
    if float(rate) * float(strength) < 2:
        return None
    return (
        f"{rate_name} times {name} is {float(rate) * float(strength):g}, but from 2 on the "
        "proximal term alone makes local training unstable: take smaller ones."
    )


def difference_is_tiny(given: Arguments) -> str | None:
    """Per-FedAvg's finite difference, below what float32 resolves."""
    delta, used = given["delta"], given["hessian"] == "HF"
    if not used or not isinstance(delta, Real) or float(delta) >= _LEAST_DIFFERENCE:
        return None
    return (
        f"delta is {delta}, but in float32 a difference of gradients below {_LEAST_DIFFERENCE} "
        "apart is mostly rounding: take a larger one, or hessian='exact'."
    )


def nothing_to_mix(given: Arguments) -> str | None:
    """Mixup in batches of one example."""
    if getattr(given["fit"], "batch_size", 0) != 1 or _is_nothing(given["gamma"]):
        return None
    return (
        "batch_size is 1, so that no example finds another one to be mixed with, and this is "
        "FedAvg: take larger batches."
    )


def one_other_class(given: Arguments) -> str | None:
    """FedNTD on two classes."""
    task = given["task"]
    if task.input_types is None or _is_nothing(given["beta"]):
        return None
    model = jax.eval_shape(task.init, jax.random.key(0))
    logits = jax.eval_shape(lambda v, x: task.apply(v, x)[0], model, task.input_types)
    if not hasattr(logits, "shape") or logits.shape[-1:] != (2,):
        return None
    return (
        "FedNTD compares the classes that are not the label, and of two classes that is one: its "
        "share is always 1, and this is FedAvg."
    )


def temperature_is_not_read(given: Arguments) -> str | None:
    """LocalKD's temperature, where the loss has none."""
    if given["kd"] in ("kl", "frskd") or (isinstance(given["tau"], Real) and given["tau"] == 1):
        return None
    return f"tau is given, but the loss kd={given['kd']!r} has no temperature and does not read it."


def first_moment_is_left_out(given: Arguments) -> str | None:
    """FedAdagrad as TensorFlow Federated has it."""
    if given["variant"] != "tff" or _is_nothing(given["beta_1"]):
        return None
    return (
        "beta_1 is given, but FedAdagrad in the variant 'tff' has no first moment and does not "
        "read it: take variant='paper'."
    )


def examples_are_left_out(given: Arguments) -> str | None:
    """FedDC's weights by examples, where all clients count alike."""
    if given["variant"] == "code" or given["total_examples"] is None:
        return None
    return (
        "total_examples is given, but FedDC in the variant 'paper' has no weights by examples and "
        "does not read it: take variant='code'."
    )


def _local(given: Arguments) -> Mapping[str, Any]:
    """The options of local training; empty if it was not made by `local_training`."""
    return getattr(given["fit"], "options", None) or {}


def _other_than_sgd(given: Arguments) -> str | None:
    """What makes local steps another length than learning rate times gradient."""
    local = _local(given)
    opt, momentum = local.get("client_opt", "sgd"), local.get("client_momentum")
    if opt != "sgd" and opt is not optax.sgd:
        return f"client_opt {_name(opt)}"
    return None if _is_nothing(momentum) else f"client_momentum {_value(momentum)}"


def _is_nothing(number: Any) -> bool:
    return number is None or (isinstance(number, Real) and float(number) == 0)


def _value(number: Any) -> str:
    return str(number) if isinstance(number, Real) else "of any size"


def _name(optimiser: Any) -> str:
    if isinstance(optimiser, str):
        return repr(optimiser)
    return getattr(optimiser, "__name__", "of your own")
