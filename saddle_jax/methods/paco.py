"""PaCo: classes and images in one contrast, with keys of a momentum encoder (Cui et al., ICCV 2021); plain or with SAM.

No code of PaCo with SAM is public. Here both passes of a step see the same keys and the same queue, only the query's
parameters are perturbed, and once a step the key encoder follows them and the keys are enqueued.

Shapes: B images of a device, N of all devices, A rows of the contrast set (N queries, N keys, the queue), K rows of the
queue, D dimensions of a projection, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from saddle_jax import devices
from saddle_jax.data.images import Batch
from saddle_jax.longtail import ClassStats
from saddle_jax.losses import weighted_sums
from saddle_jax.methods.base import Context, LossOutput, Method, Stream, Variables
from saddle_jax.models import heads
from saddle_jax.models.activation import relu
from saddle_jax.models.batchnorm import BatchNorm

_EMPTY = -1  # label of a row that is in no contrast set: of padding, or of an image that could not be decoded


class State(NamedTuple):
    """What the method keeps beside the query's parameters; the same on every device."""

    key_params: Any  # backbone and projector of the key encoder
    keys_KD: jax.Array  # the queue: keys of earlier steps
    labels_K: jax.Array  # int32
    pointer: jax.Array  # (), int32: row of the queue that the next keys replace
    shuffle_key: jax.Array  # uint32, raw random key; never changes


class Inputs(NamedTuple):
    """What both passes of a step read."""

    query: Batch  # the device's own images
    keys_ND: jax.Array  # of all devices' images, in the order that they would have on one device
    labels_N: jax.Array  # int32


class Parts(NamedTuple):
    """The addends of each query's loss."""

    class_loss_B: jax.Array
    contrast_B: jax.Array


def contrast(
    logits_BC: jax.Array,
    queries_BD: jax.Array,
    labels_B: jax.Array,
    rows_AD: jax.Array,
    labels_A: jax.Array,
    own_B: jax.Array,
    paco: ConfigDict,
) -> Parts:
    """Return PaCo's loss of each query: its own class and all rows with its label against all classes and all rows.

    With D = Σ e^logit over the classes + gamma Σ e^similarity over the rows but its own, it is the mean of
    log D - logit, weighted beta, of its class, and log D - similarity, each weighted alpha, of rows with its label.

    Args:
      logits_BC: with the log of the prior.
      rows_AD: of length 1, as queries are.
      labels_A: rows with a negative one count nothing.
      own_B: which row is the query itself.
      paco: the weights and the temperature of the similarities.
    """
    present_A = labels_A >= 0
    others_BA = present_A & (jnp.arange(len(labels_A)) != own_B[:, None])
    positive_BA = others_BA & (labels_A == labels_B[:, None])
    similarity_BA = queries_BD @ rows_AD.T / paco.temperature

    largest_B = jnp.maximum(logits_BC.max(1), jnp.where(present_A, similarity_BA, -jnp.inf).max(1))
    largest_B1 = jax.lax.stop_gradient(largest_B)[:, None]
    exponent_BA = jnp.where(others_BA, similarity_BA - largest_B1, -jnp.inf)
    total_B = jnp.exp(logits_BC - largest_B1).sum(1) + paco.gamma * jnp.exp(exponent_BA).sum(1)
    log_total_B = largest_B1[:, 0] + jnp.log(total_B + 1e-12)  # as published: a query's own row may be far the largest

    own_class_B = jnp.take_along_axis(logits_BC, labels_B[:, None], axis=1)[:, 0]
    count_B = jnp.sum(positive_BA, axis=1, dtype=logits_BC.dtype)
    sum_B = jnp.sum(jnp.where(positive_BA, similarity_BA, 0), axis=1)
    weight_B = paco.beta + paco.alpha * count_B
    return Parts(
        class_loss_B=paco.beta * (log_total_B - own_class_B) / weight_B,
        contrast_B=paco.alpha * (count_B * log_total_B - sum_B) / weight_B,
    )


def start_of_queue(key: jax.Array, paco: ConfigDict, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """Return random keys and labels.

    Differs from the reference: it scales columns to length 1, not keys; queue_init="published" does as it does.
    """
    of_keys, of_labels = jax.random.split(key)
    keys_KD = jax.random.normal(of_keys, (paco.queue_size, paco.dim), jnp.result_type(float))
    labels_K = jax.random.randint(of_labels, (paco.queue_size,), 0, num_classes, jnp.int32)
    return heads.unit(keys_KD, axis=1 if paco.queue_init == "normalized" else 0), labels_K


def enqueue(state: State, keys_ND: jax.Array, labels_N: jax.Array) -> State:
    """Return the state with the oldest keys replaced; N divides K."""
    return state._replace(
        keys_KD=jax.lax.dynamic_update_slice_in_dim(state.keys_KD, keys_ND, state.pointer, axis=0),
        labels_K=jax.lax.dynamic_update_slice_in_dim(state.labels_K, labels_N, state.pointer, axis=0),
        pointer=(state.pointer + len(labels_N)) % len(state.labels_K),
    )
