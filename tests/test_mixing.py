"""Mixup, CutMix, and label smoothing: equal to losses with soft labels, and no partner for padding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import small_config, train

from saddle_jax import losses
from saddle_jax.data.images import Batch
from saddle_jax.methods.mixing import mix, smoothed

LABELS = np.array([0, 1, 2, 3, 0, 1])
LOGITS = np.random.default_rng(0).normal(size=(6, 4))
MASK = np.array([True, True, True, True, True, False])


def batch(images):
    return Batch(jnp.asarray(images), LABELS, jnp.asarray(MASK), LABELS, np.zeros((6, 3), np.int32))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothing_is_cross_entropy_with_smooth_labels(smoothing, x64):
    targets = optax.smooth_labels(jax.nn.one_hot(LABELS, 4), smoothing)
    found = smoothed(losses.cross_entropy, smoothing)(LOGITS, LABELS)
    np.testing.assert_allclose(found, optax.softmax_cross_entropy(LOGITS, targets), rtol=1e-12)


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_images_and_losses_are_mixed_by_the_same_shares(alphas, x64):
    images = np.broadcast_to(np.arange(1.0, 7.0)[:, None, None, None], (6, 8, 8, 2))
    seen = set()
    for seed in range(8):
        mixed = mix(batch(images), jax.random.key(seed), *alphas)
        share_B = np.asarray(mixed.share_B)
        expected = share_B * images[:, 0, 0, 0] + (1 - share_B) * images[::-1, 0, 0, 0]
        np.testing.assert_allclose(mixed.batch.images.mean((1, 2, 3)), expected, rtol=1e-12)
        assert share_B[0] == share_B[5] == 1  # the last slot is padding, so the first one has no partner
        assert len(set(share_B[1:5])) == 1 and 0 <= share_B[1] <= 1
        is_cut = len(np.unique(mixed.batch.images[1])) > 1
        seen.add(is_cut)
        np.testing.assert_array_equal(mixed.others_B, LABELS[::-1])
    assert (True in seen) == (alphas[1] > 0) and (False in seen or not alphas[0])


@pytest.mark.usefixtures("compile_quickly")
def test_a_run_with_all_of_them_trains(tmp_path):
    mixed = {"plain__mixup": 0.2, "plain__cutmix": 1.0, "plain__label_smoothing": 0.1}
    results = train(small_config("la_sam", duration="6 steps", **mixed), tmp_path / "mixed")
    assert results["last"]["step"] == 6
