"""The data position: a pure function of (seed, step), the same bytes from every tfdata."""

import dataclasses

import numpy as np
import pytest

from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.augment.crop import crop_and_flip
from saddle_jax.data.feeds import evaluation, tfdata
from saddle_jax.data.feeds import numpy as in_process
from saddle_jax.data.order import Order, epoch_draws, epoch_ids, slots_at
from saddle_jax.longtail import ClassStats

COUNTS = np.array([60, 25, 9, 3])
LABELS = np.repeat(np.arange(4), COUNTS).astype(np.int32)
IMAGES = np.random.default_rng(0).integers(0, 256, (len(LABELS), 7, 6, 3), np.uint8)
CROP = Augmentation("crop_flip", IMAGES.shape[1:], crop_padding=2)


def order_of(seed=0, **settings):
    return Order(**{"batch_size": 16, "num_devices": 1, "augmentation": CROP, **settings}, seed=seed, labels_N=LABELS)


def slots_of(order, start, stop):
    return (slots_at(order, step) for step in range(start, stop))


def test_an_epoch_shows_every_image_once_and_keeps_the_last_batch():
    order = order_of()
    assert order.steps_per_epoch == 7
    for epoch in range(3):
        batches = [slots_at(order, 7 * epoch + batch) for batch in range(7)]
        assert sorted(np.concatenate([b.ids_B[b.mask_B] for b in batches])) == list(range(97))
        assert batches[-1].mask_B.sum() == 97 - 6 * 16


def test_any_step_can_be_reached_directly():
    unbroken = [slots_at(order_of(5), step) for step in range(25)]
    for step in np.random.default_rng(1).permutation(25):
        for a, b in zip(unbroken[step], slots_at(order_of(5), int(step)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_seeds_and_epochs_differ():
    order = order_of(0)
    assert not np.array_equal(epoch_ids(order, 0), epoch_ids(order, 1))
    assert not np.array_equal(epoch_ids(order, 0), epoch_ids(order_of(1), 0))
    assert not np.array_equal(epoch_draws(order, 0), epoch_draws(dataclasses.replace(order, view=1), 0))
    np.testing.assert_array_equal(epoch_ids(order, 3), epoch_ids(order_of(0), 3))


def test_draws_cover_their_range():
    draws = np.concatenate([epoch_draws(order_of(), epoch) for epoch in range(50)])
    assert set(draws[:, 0]) == set(draws[:, 1]) == set(range(5))
    assert draws[:, 2].mean() == pytest.approx(0.5, abs=0.03)
    assert epoch_draws(order_of(augmentation=CROP._replace(flip=False)), 0)[:, 2].sum() == 0


@pytest.mark.parametrize("sampling", ["balanced", "effective"])
def test_resampling_really_resamples(sampling):
    stats = ClassStats(COUNTS, ())
    share = stats.sampling_C(sampling, 0.9)
    order = order_of(class_share_C=share)
    drawn = np.bincount(LABELS[np.concatenate([epoch_ids(order, epoch) for epoch in range(200)])])
    np.testing.assert_allclose(drawn / drawn.sum(), share, atol=0.01)
    assert share[3] > 3 / 97  # the rarest class is seen more often than its share of the images
    # A rare image that comes many times an epoch is not cropped the same way every time.
    ids, draws = epoch_ids(order, 0), epoch_draws(order, 0)
    rare = draws[ids == np.bincount(ids[LABELS[ids] == 3]).argmax()]
    assert len(np.unique(rare, axis=0)) > 1


def test_crop_and_flip_known_answer():
    image = np.arange(1, 10, dtype=np.uint8).reshape(1, 3, 3, 1)
    center = crop_and_flip(image, np.array([[1, 1, 0]]), padding=1)
    np.testing.assert_array_equal(center, image)
    mirrored = crop_and_flip(image, np.array([[1, 1, 1]]), padding=1)
    np.testing.assert_array_equal(mirrored[0, :, :, 0], [[3, 2, 1], [6, 5, 4], [9, 8, 7]])
    corner = crop_and_flip(image, np.array([[0, 0, 0]]), padding=1)
    np.testing.assert_array_equal(corner[0, :, :, 0], [[0, 0, 0], [0, 1, 2], [0, 4, 5]])


@pytest.mark.parametrize("num_devices", [1, 8])
def test_tf_data_delivers_the_same_bytes_as_numpy(num_devices):
    order = order_of(3, num_devices=num_devices)
    numpy_batches = list(
        in_process.training_batches(IMAGES, LABELS, slots_of(order, 4, 23), CROP)
    )  # over epoch ends and padded last batches
    tf_batches = list(tfdata.training_batches(IMAGES, LABELS, slots_of(order, 4, 23), CROP))
    assert len(numpy_batches) == len(tf_batches) == 19
    for ours, theirs in zip(numpy_batches, tf_batches, strict=True):
        for name in ours._fields:
            a, b = getattr(ours, name), getattr(theirs, name)
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_a_batch_is_what_its_draws_say():
    order = order_of(2)
    batch = next(in_process.training_batches(IMAGES, LABELS, slots_of(order, 6, 7), CROP))
    assert batch.images.dtype == np.uint8
    assert not batch.images[~batch.mask].any()
    for slot in np.flatnonzero(batch.mask):
        expected = crop_and_flip(IMAGES[batch.ids[slot]][None], batch.draws[slot][None], 2)[0]
        np.testing.assert_array_equal(batch.images[slot], expected)
        assert batch.labels[slot] == LABELS[batch.ids[slot]]


@pytest.mark.parametrize("total", [1, 15, 16, 17, 55])
def test_evaluation_batches_hold_every_image_once(total):
    batches = list(evaluation.evaluation_batches(IMAGES[:total], LABELS[:total], 16, 4))
    assert sorted(np.concatenate([b.ids[b.mask] for b in batches])) == list(range(total))
    for batch in batches:
        np.testing.assert_array_equal(batch.images[batch.mask], IMAGES[batch.ids[batch.mask]])
