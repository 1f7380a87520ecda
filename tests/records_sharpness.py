"""The records of methods that take gradients beside the model."""

from __future__ import annotations

from digits import softmax_regression
from federations import CLASSES, COHORTS, FEATURES, logistic
from methods import Digits, Limit, Record, uniformly

MODEL = 4 * (FEATURES * CLASSES + CLASSES)  # bytes of float32 weights and biases
FIRST = COHORTS[:1]
LINEAR = Digits(softmax_regression)
# Of the client's own gradient a tenth would need longer steps.
HALF_OWN = Digits(softmax_regression, options={"beta": 0.5})
ADDS_DUALS = "whatever its numbers, the server adds the clients' dual variables"

SHARPNESS: dict[str, Record] = {
    "fedsam": Record(
        task=logistic, bytes=(MODEL, MODEL, 0), limit=Limit({"rho": 0.0}, 1e-7), digits=LINEAR
    ),
    "fedasam": Record(
        task=logistic, bytes=(MODEL, MODEL, 0), limit=Limit({"rho": 0.0}, 1e-7), digits=LINEAR
    ),
    "mofedsam": Record(
        task=logistic,
        bytes=(2 * MODEL, MODEL + 4, 0),
        limit=Limit({"rho": 0.0, "beta": 1.0}, 1e-7, uniformly),
        digits=HALF_OWN,
    ),
    "fedspeed": Record(task=logistic, bytes=(MODEL, MODEL, MODEL), limit=ADDS_DUALS, digits=LINEAR),
    "fedgamma": Record(
        task=logistic,
        bytes=(2 * MODEL, 2 * MODEL, MODEL),
        limit=Limit({"rho": 0.0}, 1e-7, uniformly, FIRST),
        digits=LINEAR,
    ),
    "fedlesam": Record(
        task=logistic, bytes=(MODEL, MODEL, MODEL), limit=Limit({"rho": 0.0}, 1e-7), digits=LINEAR
    ),
    "fedlesam_s": Record(
        task=logistic,
        bytes=(2 * MODEL, 2 * MODEL, 2 * MODEL),
        limit=Limit({}, 1e-7, uniformly, FIRST),
        digits=LINEAR,
    ),
    "fedlesam_d": Record(
        task=logistic, bytes=(MODEL, MODEL, 2 * MODEL), limit=ADDS_DUALS, digits=LINEAR
    ),
}
