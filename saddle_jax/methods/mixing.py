"""Mixup and CutMix: the values that mix pairs, and a batch mixed with itself for any loss; and label smoothing.

The loss of a mixed image is the mean of the losses with either label, weighted by the images' shares. For cross-entropy
that equals the loss with soft labels (Zhang et al., ICLR 2018; Yun et al., ICCV 2019). Shapes: B images, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from saddle_jax.data.images import Batch
from saddle_jax.losses import Loss


class Mixture(NamedTuple):
    """The values by which all pairs of a batch are mixed."""

    lam: jax.Array  # (): λ, the share of the first image of each pair
    box: jax.Array  # (4,) int32: h1, w1, h2, w2; CutMix pastes rows h1 to h2 and columns w1 to w2


class Mixed(NamedTuple):
    """A batch whose images are mixed with others of the batch."""

    batch: Batch  # the mixed images, normalized, with the labels of the first one of each pair
    others_B: jax.Array  # labels of the second one
    share_B: jax.Array  # of the first one in the mixture, 0 to 1


def mix(batch: Batch, key: jax.Array, mixup: float, cutmix: float) -> Mixed:
    """Return a batch mixed with itself in reverse order. With both alphas, each mixes half of the batches.

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
        _, height, width, _ = images.shape
        cut, kept = paste(images, images[::-1], draw_mixture(of_cutmix, height, width, cutmix).box)
        use_cut = jax.random.bernoulli(which) if mixup else jnp.ones((), bool)
        mixed, shares = jnp.where(use_cut, cut, mixed), jnp.where(use_cut, kept, shares)
    shares_B = jnp.where(of_pair, shares, 1)  # an image whose partner is padding stays as it is
    mixed = jnp.where(of_pair.reshape(-1, *(1,) * (images.ndim - 1)), mixed, images)
    return Mixed(batch._replace(images=mixed), batch.labels[::-1], shares_B)


def draw_mixture(key: jax.Array, height: int, width: int, beta: float) -> Mixture:
    """Draw λ from Beta(beta, beta), and a box of 1 - λ of the area around a random pixel, clipped at the borders."""
    lam_key, row_key, column_key = jax.random.split(key, 3)
    lam = jax.random.beta(lam_key, beta, beta)
    corners = []
    for side, side_key in ((height, row_key), (width, column_key)):
        half = jnp.ceil(side * jnp.sqrt(1 - lam)).astype(jnp.int32) // 2
        center = jax.random.randint(side_key, (), 0, side, jnp.int32)
        corners.append((jnp.maximum(center - half, 0), jnp.minimum(center + half, side)))
    (h1, h2), (w1, w2) = corners
    return Mixture(lam, jnp.stack((h1, w1, h2, w2)))


def paste(images_BHWK: jax.Array, others_BHWK: jax.Array, box: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return images with the box of the others' pixels, and the share of the area that the first ones keep."""
    h1, w1, h2, w2 = box
    height, width = images_BHWK.shape[1:3]
    rows_Hx1x1, columns_Wx1 = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    is_pasted_HWx1 = (h1 <= rows_Hx1x1) & (rows_Hx1x1 < h2) & (w1 <= columns_Wx1) & (columns_Wx1 < w2)
    kept = 1 - ((h2 - h1) * (w2 - w1) / (height * width)).astype(images_BHWK.dtype)
    return jnp.where(is_pasted_HWx1, others_BHWK, images_BHWK), kept


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
