"""Augmentation: every crop is one of the image, alike for one client and for many, pure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from fedjax_kd.core import Batch
from fedjax_kd.data import IidPartitioner, from_arrays
from fedjax_kd.data.augment import AUGMENTATIONS, crop24_flip, crop_flip
from fedjax_kd.data.federation import Federation, federate
from fedjax_kd.runs.build import build, task_of, with_model
from fedjax_kd.runs.config import Config, TrainingConfig

SHAPE = (32, 32, 3)
EVERY = pytest.mark.parametrize("name", AUGMENTATIONS)


def images(count: int, seed: int = 0) -> jax.Array:
    """Noise, in which no two crops are alike."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(1, 256, (count, *SHAPE), np.uint8))


def colourful(rows: int = 40) -> Federation:
    """Four clients with noisy images."""
    x = np.asarray(images(2 * rows))
    y = np.arange(2 * rows) % 10
    return federate(from_arrays(x[:rows], y[:rows], x[rows:], y[rows:]), IidPartitioner(4))


def windows(image: np.ndarray, size: int) -> np.ndarray:
    """All crops of an image and their mirror images, ``[top, left, flipped, H, W, C]``."""
    crops = sliding_window_view(image, (size, size, 3))[:, :, 0]
    return np.stack([crops, crops[:, :, :, ::-1]], axis=2)


@pytest.mark.parametrize(("name", "pad", "size"), [("crop_flip", 4, 32), ("crop24_flip", 0, 24)])
def test_every_result_is_a_crop_and_every_crop_can_come(name: str, pad: int, size: int) -> None:
    image, count = images(1), 3000
    x = jnp.broadcast_to(image, (count, *SHAPE))
    seen = np.asarray(jax.jit(AUGMENTATIONS[name](SHAPE).augment)(jax.random.key(3), x))
    assert seen.dtype == np.uint8
    assert seen.shape == (count, size, size, 3)
    padded = np.pad(np.asarray(image[0]), ((pad, pad), (pad, pad), (0, 0)))
    possible = windows(padded, size)
    code = {
        crop.tobytes(): place for place, crop in ((p, possible[p]) for p in np.ndindex(9, 9, 2))
    }
    drawn = np.array([code[one.tobytes()] for one in seen])
    for axis, values in enumerate((9, 9, 2)):
        counts = np.bincount(drawn[:, axis], minlength=values)
        expected = count / values
        assert ((counts - expected) ** 2 / expected).sum() < 30  # chi-squared, 8 degrees: p = 2e-4
    assert len(set(map(tuple, drawn))) == 162


@EVERY
def test_clients_under_vmap_draw_what_each_draws_alone(name: str) -> None:
    augment = AUGMENTATIONS[name](SHAPE).augment
    keys, x = jax.random.split(jax.random.key(1), 3), images(12).reshape(3, 4, *SHAPE)
    together = jax.jit(jax.vmap(augment))(keys, x)
    alone = jnp.stack([augment(key, own) for key, own in zip(keys, x, strict=True)])
    assert jnp.array_equal(together, alone)
    assert not jnp.array_equal(augment(keys[0], x[0]), augment(keys[1], x[0]))


@EVERY
@given(st.integers(24, 40), st.integers(24, 40))
@settings(max_examples=10, deadline=None)
def test_the_centre_of_what_was_cropped_is_all_of_it(name: str, height: int, width: int) -> None:
    changed = AUGMENTATIONS[name]((height, width, 3))
    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8))
    crop = changed.augment(jax.random.key(0), x)
    assert crop.shape[1:] == changed.shape == changed.centre(x).shape[1:]
    assert jnp.array_equal(changed.centre(crop), crop)


def test_evaluation_sees_the_centre() -> None:
    x = images(2)
    assert jnp.array_equal(crop24_flip(SHAPE).centre(x), x[:, 4:28, 4:28])
    assert jnp.array_equal(crop_flip(SHAPE).centre(x), x)


@EVERY
def test_the_task_crops_at_random_in_training_alone(name: str) -> None:
    config = Config("fedavg", model="logistic", training=TrainingConfig(augment=name))
    federation = colourful()
    task = task_of(config, federation)
    model = task.init(jax.random.key(0))
    size = AUGMENTATIONS[name](SHAPE).shape[0]
    assert model.params["head"]["kernel"].shape == (size * size * 3, 10)
    x = federation.train.x[:4]
    still = [task.apply(model, x)[0] for _ in range(2)]
    assert jnp.array_equal(*still)
    border = (32 - size) // 2
    centre = federation.prepare(x[:, border : 32 - border, border : 32 - border])
    expected = centre.reshape(4, -1) @ model.params["head"]["kernel"]
    np.testing.assert_allclose(still[0], expected, rtol=1e-4, atol=1e-5)
    batch = Batch(x, jnp.arange(4), jnp.ones(4))
    one, two, again = (task.loss(model, batch, jax.random.key(n))[0] for n in (0, 1, 0))
    assert one == again != two


@EVERY
def test_bits_are_cheap(name: str) -> None:
    program = jax.make_jaxpr(AUGMENTATIONS[name](SHAPE).augment)(jax.random.key(0), images(4))
    assert "key<cheap>" in str(program)


@pytest.mark.parametrize("shape", [(32, 32), (20, 32, 3), (80,)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    if shape == (20, 32, 3):
        crop_flip(shape)
    with pytest.raises(ValueError, match=rf"has shape \({shape[0]}.*of at least 24 x 24 pixels"):
        crop24_flip(shape)


def test_the_name_is_checked_when_a_run_is_built() -> None:
    wrong = Config("fedavg", training=TrainingConfig(augment="crop_flips"))
    with pytest.raises(ValueError, match="no augmentation 'crop_flips'; near it: crop_flip"):
        build(wrong, colourful())
    assert with_model(wrong, colourful()).model == "cnn_small"
