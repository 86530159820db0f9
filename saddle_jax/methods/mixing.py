"""Mixup and CutMix of a batch with itself, for any loss of an image and a label, and label smoothing likewise.

The loss of a mixed image is the mean of the losses with either label, weighted by the images' shares. For cross-entropy
that equals the loss with soft labels (Zhang et al., ICLR 2018; Yun et al., ICCV 2019). Shapes: B images, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from saddle_jax.data.images import Batch
from saddle_jax.losses import Loss


class Mixed(NamedTuple):
    """A batch whose images are mixed with others of the batch."""

    batch: Batch  # the mixed images, normalized, with the labels of the first one of each pair
    others_B: jax.Array  # labels of the second one
    share_B: jax.Array  # of the first one in the mixture, 0 to 1


def mix(batch: Batch, key: jax.Array, mixup: float, cutmix: float) -> Mixed:
    """Return a batch mixed with itself in reverse order. With both alphas, half of the batches are mixed either way.

    Args:
      batch: its images are normalized.
      key: random key of this step.
      mixup: alpha of the Beta(alpha, alpha) that draws the share for Mixup; 0: never.
      cutmix: the same for CutMix.
    """
    which, of_mixup, of_cutmix = jax.random.split(key, 3)
    images = batch.images
    of_pair = batch.mask & batch.mask[::-1]
    shares = jnp.ones(len(images), images.dtype)
    mixed = images
    if mixup:
        lam = jax.random.beta(of_mixup, mixup, mixup).astype(images.dtype)
        mixed, shares = lam * images + (1 - lam) * images[::-1], lam * shares
    if cutmix:
        cut, kept = _cut(images, of_cutmix, cutmix)
        use_cut = jax.random.bernoulli(which) if mixup else jnp.ones((), bool)
        mixed, shares = jnp.where(use_cut, cut, mixed), jnp.where(use_cut, kept, shares)
    shares_B = jnp.where(of_pair, shares, 1)  # an image whose partner is padding stays as it is
    mixed = jnp.where(of_pair.reshape(-1, *(1,) * (images.ndim - 1)), mixed, images)
    return Mixed(batch._replace(images=mixed), batch.labels[::-1], shares_B)


def _cut(images_BHWK: jax.Array, key: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Return images with a box of their partners', and the share of the area that is left."""
    _, height, width, _ = images_BHWK.shape
    of_share, of_row, of_column = jax.random.split(key, 3)
    side = jnp.sqrt(1 - jax.random.beta(of_share, alpha, alpha))
    is_inside = []
    for length, draw in ((height, of_row), (width, of_column)):
        centre, half = jax.random.uniform(draw) * length, side * length / 2
        pixel = jnp.arange(length) + 0.5
        is_inside.append((centre - half <= pixel) & (pixel < centre + half))
    box_HW = is_inside[0][:, None] & is_inside[1]
    kept = 1 - jnp.mean(box_HW, dtype=images_BHWK.dtype)
    return jnp.where(box_HW[..., None], images_BHWK[::-1], images_BHWK), kept


def smoothed(loss_fn: Loss, smoothing: float) -> Loss:
    """Return (1 - smoothing) · loss + smoothing · the mean of the losses with every label (Szegedy et al., CVPR 2016).

    Args:
      loss_fn: (logits_BC, labels_B) -> losses_B.
      smoothing: 0 returns the loss itself.
    """
    if not smoothing:
        return loss_fn

    def loss(logits_BC: jax.Array, labels_B: jax.Array) -> jax.Array:
        every_CB = jnp.broadcast_to(jnp.arange(logits_BC.shape[1])[:, None], logits_BC.shape[::-1])
        mean_B = jax.vmap(loss_fn, (None, 0))(logits_BC, every_CB).mean(0)
        return (1 - smoothing) * loss_fn(logits_BC, labels_B) + smoothing * mean_B

    return loss
