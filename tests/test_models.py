"""Networks: published parameter counts, features, learning, and no convolution inside."""

from __future__ import annotations

import functools
import inspect
from typing import get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_kd import losses, tree
from fedjax_kd.core import Batch
from fedjax_kd.models import MODELS, default_model
from fedjax_kd.task import from_nnx

GRAY, COLOUR, TEXT = (28, 28, 1), (32, 32, 3), (80,)

COUNTS = [
    ("logistic", GRAY, 10, {}, 7_850),
    ("mlp", GRAY, 10, {}, 199_210),
    ("mlp", (8, 8), 10, {"hidden": (64,)}, 4_810),
    ("cnn_mcmahan", GRAY, 10, {}, 1_663_370),
    ("cnn_emnist", GRAY, 62, {}, 1_206_590),
    ("cnn_emnist", (28, 28), 10, {}, 1_199_882),
    ("cnn_cifar", COLOUR, 10, {}, 1_626_442),
    ("lenet", COLOUR, 10, {}, 62_006),
    ("lenet", GRAY, 10, {}, 44_426),
    ("lenet", COLOUR, 10, {"projection": 256}, 92_626),
    ("cnn_small", COLOUR, 10, {}, 33_834),
    ("cnn_small", COLOUR, 10, {"norm": "batch"}, 34_058),
    ("resnet8", COLOUR, 10, {}, 75_290),
    ("resnet20", COLOUR, 10, {}, 269_722),
    ("resnet20", COLOUR, 10, {"norm": "batch"}, 269_722),
    ("resnet18", COLOUR, 10, {"norm": "batch"}, 11_173_962),
    ("resnet18", COLOUR, 10, {"groups": 32}, 11_173_962),
    ("char_lstm", TEXT, 90, {}, 820_522),
    # 2 x (4 x (64^2 + 64) + 8 x 64^2 + 5 x 64 + 2 x 128) + 64 x 90 + 64 x 80 + 128 + 65 x 90
    ("transformer", TEXT, 90, {}, 116_826),
    ("autoencoder", GRAY, 10, {}, 2_837_314),
    ("fcn", GRAY, 2, {}, 14_274),
]

SMALL = {
    "logistic": ((8, 8, 1), 3, {}),
    "mlp": ((8, 8, 1), 3, {"hidden": (16,)}),
    "cnn_mcmahan": ((8, 8, 1), 3, {}),
    "cnn_emnist": ((8, 8, 1), 3, {"dropout": (0.0, 0.0)}),
    "cnn_cifar": ((8, 8, 3), 3, {"dropout": (0.0, 0.0)}),
    "cnn_small": ((8, 8, 3), 3, {"widths": (4, 8)}),
    "lenet": ((16, 16, 1), 3, {}),
    "resnet8": ((8, 8, 3), 3, {"norm": "batch"}),
    "resnet20": ((8, 8, 3), 3, {"groups": 4}),
    "resnet18": ((8, 8, 3), 3, {}),
    "char_lstm": ((6,), 12, {"units": 16}),
    "transformer": ((6,), 12, {"width": 16}),
    "autoencoder": ((8, 8, 1), 3, {"hidden": (16,), "bottleneck": 4}),
    "fcn": ((8, 8, 3), 3, {"widths": (4, 8)}),
}


@functools.cache
def small(name):
    """A small task of the network, its variables, and a batch."""
    shape, classes, options = SMALL[name]
    example_loss = losses.squared_error if name == "autoencoder" else losses.cross_entropy
    task = from_nnx(MODELS[name](shape, classes, **options), example_loss=example_loss)
    model = task.init(jax.random.key(0))
    if name == "autoencoder":
        x = jax.random.uniform(jax.random.key(1), (4, *shape))
        return task, model, Batch(x, x, jnp.ones(4))
    if len(shape) == 1:
        x = jax.random.randint(jax.random.key(1), (4, *shape), 0, classes)
        return task, model, Batch(x, (x + 1) % classes, jnp.ones(4))
    x = jax.random.normal(jax.random.key(1), (4, *shape))
    y = jnp.arange(4) % classes
    if name == "fcn":
        y = (x[..., 0] > 0).astype(jnp.int32)
    return task, model, Batch(x, y, jnp.ones(4))


def test_every_network_is_tested():
    assert set(SMALL) == set(MODELS) == {name for name, *_ in COUNTS}


@pytest.mark.parametrize(("name", "shape", "classes", "options", "count"), COUNTS)
def test_parameters_are_as_many_as_published(name, shape, classes, options, count):
    task = from_nnx(MODELS[name](shape, classes, **options))
    params = jax.eval_shape(task.init, jax.random.key(0)).params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
    "name", [n for n in MODELS if n not in ("autoencoder", "resnet18", "resnet20")]
)
def test_the_head_of_the_features_gives_the_logits(name):
    task, model, batch = small(name)

    @jax.jit
    def both(x):
        features = task.features(model, x)
        return features, task.apply(model, x)[0], task.classify(model, features)

    features, logits, again = both(batch.x)
    np.testing.assert_allclose(again, logits, rtol=1e-5, atol=1e-5)
    head = model.params["head"]
    bias = head["bias"].reshape((1,) * (features.ndim - 1) + (-1,))
    np.testing.assert_allclose(features @ head["kernel"] + bias, logits, rtol=1e-4, atol=1e-5)
    assert logits.shape == (*batch.y.shape, SMALL[name][1])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.thorough] * (n in ("resnet18", "resnet20")))
        for n in MODELS
    ],
)
def test_two_steps_lower_the_loss_without_a_convolution(name):
    task, model, batch = small(name)

    def loss(params):
        return task.loss(model._replace(params=params), batch, jax.random.key(2))[0]

    gradient = jax.value_and_grad(loss)
    assert "conv_general_dilated" not in str(jax.make_jaxpr(gradient)(model.params))
    values, params, step = [], model.params, jax.jit(gradient)
    for _ in range(3):
        value, slope = step(params)
        values.append(float(value))
        # A tenth of the loss, if the loss were a plane: one rate for all networks does not exist.
        params = tree.add_scaled(params, -0.1 * value / tree.sq_norm(slope), slope)
    assert values[2] < values[1] < values[0]


@pytest.mark.parametrize("name", MODELS)
def test_options_are_plain_and_documented(name):
    signature = inspect.signature(MODELS[name])
    assert list(signature.parameters)[:2] == ["input_shape", "num_classes"]
    documentation = inspect.getdoc(MODELS[name])
    for option in list(signature.parameters.values())[2:]:
        assert option.kind is inspect.Parameter.KEYWORD_ONLY
        assert f"{option.name}: " in documentation
    assert set(get_type_hints(MODELS[name])) > set(signature.parameters)


@pytest.mark.parametrize("name", ["char_lstm", "transformer"])
def test_no_position_sees_its_future(name):
    task, model, batch = small(name)
    changed = batch.x.at[:, 3].set((batch.x[:, 3] + 1) % 12)
    before, after = (task.apply(model, x)[0] for x in (batch.x, changed))
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert (before[:, 3:] != after[:, 3:]).any()


def test_the_lstm_follows_its_equations():
    task, model, batch = small("char_lstm")
    params = jax.tree.map(np.asarray, model.params)
    y = params["embed"]["embedding"][np.asarray(batch.x)]
    for layer in params["layers"].values():
        hidden = cell = np.zeros((4, 16))
        outputs = []
        for time in range(6):
            gates = y[:, time] @ layer["kernel"] + hidden @ layer["recurrent"] + layer["bias"]
            i, f, g, o = np.split(gates, 4, axis=1)
            cell = cell / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            hidden = np.tanh(cell) / (1 + np.exp(-o))
            outputs.append(hidden)
        y = np.stack(outputs, axis=1)
    np.testing.assert_allclose(task.features(model, batch.x), y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "norm", "leaves"),
    [("resnet8", "batch", 14), ("resnet8", "group", 0), ("cnn_small", "batch", 6)],
)
def test_only_batch_normalisation_has_statistics(name, norm, leaves):
    task = from_nnx(MODELS[name]((8, 8, 3), 3, norm=norm))
    held = jax.eval_shape(task.init, jax.random.key(0)).stats
    assert len(jax.tree.leaves(held)) == leaves


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("cnn_small", (8,), {}, r"input_shape is \(8,\), but an image has"),
        ("cnn_small", COLOUR, {"norm": "layer"}, "norm is 'layer', but must be"),
        ("lenet", (12, 12, 1), {}, "images are 12 x 12, but this network needs larger"),
        ("mlp", (8, 8), {"hidden": (0,)}, "but each must be >= 1"),
        ("resnet8", COLOUR, {"norm": "layer"}, "norm is 'layer', but must be"),
        ("resnet8", COLOUR, {"groups": 3}, "groups is 3, but must divide 16"),
        ("char_lstm", GRAY, {}, "char_lstm reads sequences"),
        ("char_lstm", TEXT, {"layers": 0}, "layers is 0, but must be >= 1"),
        ("transformer", GRAY, {}, "transformer reads sequences"),
        ("transformer", TEXT, {"width": 10}, "width must be a multiple of heads"),
        ("transformer", TEXT, {"output": "sum"}, "output is 'sum', but must be"),
        ("autoencoder", GRAY, {"bottleneck": 0}, "bottleneck is 0, but must be >= 1"),
        ("fcn", GRAY, {"widths": (6,)}, "a multiple of groups"),
        ("fcn", (8,), {}, r"input_shape is \(8,\), but an image has"),
    ],
)
def test_what_does_not_fit_is_said_when_the_network_is_chosen(name, shape, options, message):
    with pytest.raises(ValueError, match=message):
        MODELS[name](shape, 10, **options)


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((80,), np.int32, "char_lstm"),
        ((64,), np.float32, "mlp"),
        ((64,), np.uint8, "mlp"),
        ((8, 8, 1), np.uint8, "mlp"),
        ((28, 28), np.uint8, "cnn_emnist"),
        ((32, 32, 3), np.uint8, "cnn_small"),
        ((4, 5, 6, 7), np.float32, "mlp"),
    ],
)
def test_the_default_network_suits_the_data(shape, dtype, expected):
    name, options = default_model(shape, dtype)
    assert name == expected
    MODELS[name](shape, 10, **options)


def test_the_default_network_suits_the_problem():
    for problem, expected in (
        ("segmentation", "fcn"),
        ("reconstruction", "autoencoder"),
        ("regression", "mlp"),
        ("multilabel", "mlp"),
    ):
        assert default_model((8, 8, 1), np.uint8, problem)[0] == expected
    with pytest.raises(ValueError, match=r"several arrays, .* take one"):
        default_model({"image": (8, 8), "age": ()}, None)
