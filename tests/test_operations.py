"""Every operation of an augmentation against Pillow on real images, and the same bytes from every backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from jpeg_folder import photograph
from PIL import Image
from pillow_operations import change

from saddle_jax.data import augmentation, backends, geometry, policies, tensors
from saddle_jax.data import operations as ops
from saddle_jax.data.augmentation import Augmentation
from saddle_jax.data.backends import NUMPY
from saddle_jax.data.photometry import FACTOR_BITS

FILL = (10, 128, 250)
IMAGES = np.stack([np.asarray(photograph(seed, 32, 32)) for seed in range(96)])
HARD = np.stack([np.full((32, 32, 3), 77, np.uint8), np.zeros((32, 32, 3), np.uint8), IMAGES[0] // 2 + 90])
DRAW = np.random.default_rng(0)
TOTAL = len(IMAGES) + len(HARD)


def factors():
    return np.rint(DRAW.uniform(0.1, 1.9, TOTAL) * 2**FACTOR_BITS)


def moves(fixed_numbers):
    return np.column_stack([DRAW.integers(0, 2, TOTAL), fixed_numbers])


def translations():
    return geometry.affine(1, 0, DRAW.uniform(-15, 15, TOTAL), 0, 1, DRAW.uniform(-15, 15, TOTAL))


def slides():
    slope, offset = DRAW.uniform(-0.3, 0.3, TOTAL), DRAW.uniform(-15, 15, TOTAL)
    return moves(geometry.slide(np.where(np.arange(TOTAL) % 2, slope, 0), np.where(np.arange(TOTAL) % 2, 0, offset)))


# name -> operation, its numbers, levels by which it may differ from Pillow, and on which part of the levels.
OPERATIONS = {
    "posterize": (ops.POSTERIZE, 2 ** DRAW.integers(0, 8, TOTAL), 0, 0),
    "solarize": (ops.SOLARIZE, DRAW.integers(0, 257, TOTAL), 0, 0),
    "solarize_add": (ops.SOLARIZE_ADD, DRAW.integers(0, 111, TOTAL), 0, 0),
    "brightness": (ops.BRIGHTNESS, factors(), 0, 0),
    "contrast": (ops.CONTRAST, factors(), 0, 0),
    "colour": (ops.COLOUR, factors(), 0, 0),
    "sharpness": (ops.SHARPNESS, factors(), 0, 0),
    "equalize": (ops.EQUALIZE, (), 0, 0),
    "grey": (ops.GREY, (), 0, 0),
    "autocontrast": (ops.AUTOCONTRAST, (), 1, 0.02),  # where Pillow's double falls below a whole number
    "hue": (ops.HUE, DRAW.integers(0, 256, TOTAL), 6, 0.01),  # likewise, in its HSV
    "rotate, nearest": (ops.MOVE_NEAREST, geometry.rotation(DRAW.uniform(-45, 45, TOTAL), 32, 32), 0, 0),
    "translate, nearest": (ops.MOVE_NEAREST, translations(), 0, 0),
    "rotate": (ops.MOVE, moves(geometry.rotation(DRAW.uniform(-30, 30, TOTAL), 32, 32)), 1, 0.01),
    "shear and translate x": (ops.SLIDE_X, slides(), 1, 0.01),
    "shear and translate y": (ops.SLIDE_Y, slides(), 1, 0.01),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows(name):
    operation, numbers, tolerance, part = OPERATIONS[name]
    images = np.concatenate([IMAGES, HARD])
    numbers = np.reshape(numbers, (TOTAL, -1)) if len(numbers) else np.zeros((TOTAL, 0))
    columns = np.column_stack([np.full(TOTAL, operation), numbers]).astype(np.int32)
    found = ops.apply((ops.Stage((operation,)),), images, columns, FILL, NUMPY)
    expected = np.stack([
        np.asarray(change(Image.fromarray(image), operation, row[1:].tolist(), FILL))
        for image, row in zip(images, columns, strict=True)
    ])  # fmt: skip
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= tolerance
    assert (difference > 0).mean() <= part
    assert (expected != images).mean() > 0.1  # it does something


def test_operations_of_one_stage_act_each_on_its_own_images():
    operations = (ops.SOLARIZE, ops.EQUALIZE, ops.COLOUR, ops.SLIDE_Y)
    columns = np.zeros((len(IMAGES), 4), np.int32)
    columns[:, 0] = np.array([0, *operations])[np.arange(len(IMAGES)) % 5]
    columns[:, 1:] = [1, *geometry.slide(0.2, 0.0)]
    columns[columns[:, 0] == ops.COLOUR, 1] = 1.5 * 2**FACTOR_BITS
    columns[columns[:, 0] == ops.SOLARIZE, 1] = 100
    found = ops.apply((ops.Stage(operations),), IMAGES, columns, FILL, NUMPY)
    for image, row, result in zip(IMAGES, columns, found, strict=True):
        numbers = row[1 : 1 + ops.NUMBERS.get(int(row[0]), 0)].tolist()
        expected = np.asarray(change(Image.fromarray(image), row[0], numbers, FILL)) if row[0] else image
        assert np.abs(result.astype(int) - expected).max() <= (row[0] == ops.SLIDE_Y)


@pytest.mark.parametrize(("size", "tolerance"), [((32, 32), 0), ((28, 45), 1)])
def test_a_resized_crop_is_pillows(size, tolerance):
    height, width = size
    images = np.stack([np.asarray(photograph(seed, width, height)) for seed in range(40)])
    windows = policies.draw_resized_crop(np.random.default_rng(0), len(images), height, width, (0.05, 1.0), flip=True)
    for image, window, found in zip(images, windows, geometry.resized_crop(images, windows, NUMPY), strict=True):
        top, left, h, w, mirror = window.tolist()
        part = Image.fromarray(image).crop((left, top, left + w, top + h))
        expected = np.asarray(part.resize((width, height), Image.Resampling.BILINEAR), int)
        assert np.abs(found - (expected[:, ::-1] if mirror else expected)).max() <= tolerance


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_a_blur_is_a_gaussian(sigma):
    """Against SciPy's, which cuts the Gaussian off where ours ends; Pillow's is one of three boxes."""
    from scipy.ndimage import gaussian_filter

    columns = np.concatenate([[ops.BLUR], policies.photometry.blur_weights(np.array([sigma]))[0]])
    columns = np.tile(columns, (len(IMAGES), 1)).astype(np.int32)
    found = ops.apply((ops.Stage((ops.BLUR,)),), IMAGES, columns, FILL, NUMPY)
    expected = gaussian_filter(IMAGES.astype(float), (0, sigma, sigma, 0), mode="nearest", radius=(0, 6, 6, 0))
    assert np.abs(found - expected).max() < 0.55  # half a level is the rounding


def test_a_hole_is_cut_where_it_lies_in_the_image():
    columns = np.array([[ops.CUT_OUT, 0, 3, 8, 19], [ops.CUT_OUT, 30, 0, 32, 32]], np.int32)
    found = ops.apply((policies.CUTOUT_STAGE,), IMAGES[:2], columns, FILL, NUMPY)
    expected = IMAGES[:2].copy()
    expected[0, 0:8, 3:19] = 0
    expected[1, 30:32] = 0
    np.testing.assert_array_equal(found, expected)


def by_jax(augmented, images, draws):
    backend = backends.traced(jnp, jax.lax.cond)
    return np.asarray(jax.jit(lambda *x: augmentation.apply(augmented, *x, backend))(images, draws))


def by_tensorflow(augmented, images, draws, backend):
    shapes = tf.TensorSpec((None, *images.shape[1:]), tf.uint8), tf.TensorSpec((None, draws.shape[1]), tf.int32)
    return tf.function(lambda *x: augmentation.apply(augmented, *x, backend), input_signature=shapes)


@pytest.mark.parametrize("name", ["crop_flip", "autoaugment", "randaugment", "simclr"])
def test_every_backend_makes_the_same_bytes(name):
    images = np.concatenate([IMAGES, IMAGES[:, ::-1], HARD, HARD * 0])
    augmented = Augmentation(name, (32, 32, 3), crop_padding=4, mean=(124, 116, 104))
    draws = augmentation.draw(augmented, np.random.default_rng(5), len(images))
    draws[-len(HARD) :] = 0  # a padded slot
    first = augmentation.apply(augmented, images, draws)
    assert first.dtype == np.uint8 and first.shape == images.shape
    assert (first[: len(IMAGES)] != IMAGES).any(axis=(1, 2, 3)).mean() > 0.9
    assert not first[-len(HARD) :].any()  # a padded slot stays zero
    assert by_jax(augmented, images, draws).tobytes() == first.tobytes()
    assert by_tensorflow(augmented, images, draws, tensors.BATCH)(images, draws).numpy().tobytes() == first.tobytes()


def test_accelerators_and_several_runs_at_once_make_the_same_bytes():
    """Without branches, and with an axis for the runs."""
    augmented = Augmentation("autoaugment", (32, 32, 3), crop_padding=4)
    draws = augmentation.draw(augmented, np.random.default_rng(7), len(IMAGES))
    expected = augmentation.apply(augmented, IMAGES, draws)
    backend = backends.traced(jnp)
    several = jax.jit(jax.vmap(lambda *x: augmentation.apply(augmented, *x, backend)))
    found = several(IMAGES.reshape(2, -1, 32, 32, 3), draws.reshape(2, len(IMAGES) // 2, -1))
    assert np.asarray(found).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["randaugment", "simclr"])
def test_an_image_of_another_shape_by_itself_makes_the_same_bytes(name):
    images = np.stack([np.asarray(photograph(seed, 45, 28)) for seed in range(24)])
    augmented = Augmentation(name, (28, 45, 3), crop_padding=2, mean=(124, 116, 104))
    draws = augmentation.draw(augmented, np.random.default_rng(6), len(images))
    single = by_tensorflow(augmented, images, draws, tensors.ONE_IMAGE)
    for i, expected in enumerate(augmentation.apply(augmented, images, draws)):
        np.testing.assert_array_equal(single(images[i : i + 1], draws[i : i + 1])[0], expected)
