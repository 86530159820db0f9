"""PaCo, with or without SAM: classes and images in one contrast, with a momentum encoder (Cui et al., ICCV 2021).

No code of PaCo with SAM is public. Here both passes of a step see the same keys and the same queue, and SAM perturbs
only the query's parameters. Once per step the key encoder follows the query, and the keys are enqueued.

Shapes: B images of a device, N images of all devices, A rows of the contrast set (N queries, N keys, the queue), K rows
of the queue, D dimensions of a projection, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.images import Batch
from saddle_jax.host import devices
from saddle_jax.longtail import ClassStats
from saddle_jax.methods.base import Context, LossOutput, Method, Stream, Variables, make_normalize, sums_of
from saddle_jax.models import heads, networks
from saddle_jax.models.base import beside, functions_of, in_entry
from saddle_jax.models.batchnorm import BatchNorm
from saddle_jax.schedules import Schedules

_EMPTY = -1  # label of a row that enters no contrast set: padding, or an image that could not be decoded


class State(NamedTuple):
    """The method's state, in addition to the query's parameters. It is the same on every device."""

    key_params: Any  # backbone and projector of the key encoder
    keys_KD: jax.Array  # the queue: keys of earlier steps
    labels_K: jax.Array  # int32
    pointer: jax.Array  # (), int32: row of the queue that the next keys replace
    shuffle_key: jax.Array  # uint32, raw random key; never changes


class Inputs(NamedTuple):
    """The inputs of both passes of a step."""

    query: Batch  # the device's own images
    keys_ND: jax.Array  # of all devices' images, in the order they would have on one device
    labels_N: jax.Array  # int32


class Parts(NamedTuple):
    """The two parts of each query's loss, which add up to it."""

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
    """Return PaCo's loss of each query, which contrasts its class and its label's rows with all classes and rows.

    Let D = Σ e^logit over the classes + gamma Σ e^similarity over all rows but the query's own. The loss is a weighted
    mean of log D - logit for the query's class, with weight beta, and of log D - similarity for each other row with the
    query's label, with weight alpha.

    Args:
      logits_BC: with the log of the prior added.
      rows_AD: vectors of length 1, as the queries are.
      labels_A: rows with a negative label do not count.
      own_B: index of the row that is the query itself.
      paco: gives alpha, beta, gamma, and the temperature of the similarities.
    """
    alpha, beta, gamma = float(paco.alpha), float(paco.beta), float(paco.gamma)
    present_A = labels_A >= 0
    others_BA = present_A & (jnp.arange(len(labels_A)) != own_B[:, None])
    positive_BA = others_BA & (labels_A == labels_B[:, None])
    similarity_BA = queries_BD @ rows_AD.T / paco.temperature

    largest_B = jnp.maximum(logits_BC.max(1), jnp.where(present_A, similarity_BA, -jnp.inf).max(1))
    largest_B1 = jax.lax.stop_gradient(largest_B)[:, None]
    exponent_BA = jnp.where(others_BA, similarity_BA - largest_B1, -jnp.inf)
    total_B = jnp.exp(logits_BC - largest_B1).sum(1) + gamma * jnp.exp(exponent_BA).sum(1)
    log_total_B = largest_B1[:, 0] + jnp.log(total_B + 1e-12)  # as published: the query's own row may dwarf all others

    own_class_B = jnp.take_along_axis(logits_BC, labels_B[:, None], axis=1)[:, 0]
    count_B = jnp.sum(positive_BA, axis=1, dtype=logits_BC.dtype)
    sum_B = jnp.sum(jnp.where(positive_BA, similarity_BA, 0), axis=1)
    weight_B = beta + alpha * count_B
    return Parts(
        class_loss_B=beta * (log_total_B - own_class_B) / weight_B,
        contrast_B=alpha * (count_B * log_total_B - sum_B) / weight_B,
    )


def start_of_queue(key: jax.Array, paco: ConfigDict, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """Return the random keys and labels that the queue starts with.

    Differs from the reference: it scales the columns to length 1, not the keys. queue_init="published" does the same.
    """
    of_keys, of_labels = jax.random.split(key)
    keys_KD = jax.random.normal(of_keys, (paco.queue_size, paco.dim), jnp.result_type(float))
    labels_K = jax.random.randint(of_labels, (paco.queue_size,), 0, num_classes, jnp.int32)
    return heads.unit(keys_KD, axis=1 if paco.queue_init == "normalized" else 0), labels_K


def enqueue(state: State, keys_ND: jax.Array, labels_N: jax.Array) -> State:
    """Return the state with the oldest keys replaced. N must divide K."""
    return state._replace(
        keys_KD=jax.lax.dynamic_update_slice_in_dim(state.keys_KD, keys_ND, state.pointer, axis=0),
        labels_K=jax.lax.dynamic_update_slice_in_dim(state.labels_K, labels_N, state.pointer, axis=0),
        pointer=(state.pointer + len(labels_N)) % len(state.labels_K),
    )


class Projector(nn.Module):
    """Maps features to the vectors that are compared: linear, BatchNorm, rectifier, linear."""

    norm: Callable[..., BatchNorm]
    output: nn.Module

    @nn.compact
    def __call__(self, features_BF: jax.Array, mask_B: jax.Array, train: bool) -> jax.Array:
        """Return projections (B, D), not scaled to length 1."""
        x = heads.Linear(features_BF.shape[-1], heads.pytorch_uniform, name="hidden")(features_BF)
        x = self.norm(name="bn")(x, mask_B, train, rectify=True)
        return self.output(x)


class Heads(nn.Module):
    """The class head, which replaces the network's own classifier, and the projector."""

    linear: nn.Module
    projector: nn.Module

    def __call__(self, features_BF: jax.Array, mask_B: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Return logits and projections."""
        return self.classify(features_BF), self.project(features_BF, mask_B, train)

    def classify(self, features_BF: jax.Array) -> jax.Array:
        """Return logits."""
        return self.linear(features_BF)

    def project(self, features_BF: jax.Array, mask_B: jax.Array, train: bool) -> jax.Array:
        """Return projections."""
        return self.projector(features_BF, mask_B, train)


class ModelState(NamedTuple):
    """The untrained state of the network and of the heads."""

    network: Any
    heads: Any


def make(
    config: ConfigDict, stats: ClassStats, image_shape: tuple[int, ...], axis_name: str | None, schedules: Schedules
) -> Method:
    """Return the method; see `methods.base.Method`."""
    del schedules
    paco = config.paco
    network = networks.make_network(config, stats.num_classes, axis_name)
    own_heads = functions_of(
        Heads(
            linear=heads.Linear(stats.num_classes, heads.pytorch_uniform),
            projector=Projector(
                networks.make_norm(config.model, axis_name), networks.make_linear(config.model, paco.dim)
            ),
        )
    )
    normalize = make_normalize(config.data)
    log_priors_C = np.log(stats.priors_C() + 1e-9)

    def init(key: jax.Array) -> Variables:
        of_network, of_queue, of_shuffle = jax.random.split(key, 3)
        params, of_backbone = network.init(of_network, image_shape)
        features_BF = network.blank_features(params, of_backbone, image_shape)
        own, of_heads = own_heads.init(of_network, features_BF, jnp.ones(1, bool), False)
        params = beside(network.backbone_params(params), own)
        keys_KD, labels_K = start_of_queue(of_queue, paco, stats.num_classes)
        state = State(
            key_params=of_key_encoder(params),
            keys_KD=keys_KD,
            labels_K=labels_K,
            pointer=jnp.zeros((), jnp.int32),
            shuffle_key=jax.random.key_data(of_shuffle),
        )
        return Variables(params, ModelState(of_backbone, of_heads), state)

    def features(
        params: Any, model_state: Any, images: jax.Array, mask_B: jax.Array, train: bool, key: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        return network.features(params, model_state, normalize(images), mask_B, train=train, key=key)

    def prepare(
        variables: Variables, views: tuple[Batch, ...], step: jax.Array, draws: jax.Array | None = None
    ) -> Inputs:
        query, key = views
        state: State = variables.method_state
        before: ModelState = variables.model_state

        def encode(images: jax.Array, mask_B: jax.Array) -> jax.Array:
            # In training mode, to normalize by these images' statistics. The key encoder has no running ones.
            features_BF, _ = features(state.key_params, before.network, images, mask_B, True, draws)
            projections_BD, _ = own_heads.apply(
                state.key_params, before.heads, features_BF, mask_B, True, method="project"
            )
            return heads.unit(projections_BD, axis=1)

        labels_N = devices.gather_rows(jnp.where(key.mask, key.labels, _EMPTY), axis_name)
        if len(labels_N) == len(key.labels):
            keys_ND = encode(key.images, key.mask)
        else:
            of_step = jax.random.fold_in(jax.random.wrap_key_data(state.shuffle_key), step)
            keys_ND = shuffled(encode, key, jax.random.permutation(of_step, len(labels_N)), axis_name)
        return Inputs(query, jnp.where((labels_N == _EMPTY)[:, None], 0, keys_ND), labels_N)

    def loss(variables: Variables, inputs: Inputs, context: Context) -> LossOutput:
        batch, state = inputs.query, variables.method_state
        before: ModelState = variables.model_state
        features_BF, of_backbone = features(
            variables.params, before.network, batch.images, batch.mask, True, context.key
        )
        (logits_BC, projections_BD), of_heads = own_heads.apply(
            variables.params, before.heads, features_BF, batch.mask, True
        )
        queries_BD = heads.unit(projections_BD, axis=1)
        labels_B = jnp.where(batch.mask, batch.labels, _EMPTY)
        queries_ND, labels_N = devices.gather_rows((queries_BD, labels_B), axis_name)
        parts = contrast(
            logits_BC + log_priors_C.astype(logits_BC.dtype),
            queries_BD,
            batch.labels,
            jnp.concatenate([queries_ND, inputs.keys_ND, state.keys_KD]),
            jnp.concatenate([labels_N, inputs.labels_N, state.labels_K]),
            devices.own_rows_of(jnp.arange(len(labels_N)), axis_name),
            paco,
        )
        numerator, denominator, objective = sums_of(parts.class_loss_B + parts.contrast_B, batch, context)
        metrics = {
            "accuracy": jnp.sum((jnp.argmax(logits_BC, axis=1) == batch.labels) & batch.mask),
            "class_loss": jnp.sum(jnp.where(batch.mask, parts.class_loss_B, 0)),
            "contrast": jnp.sum(jnp.where(batch.mask, parts.contrast_B, 0)),
        }
        return LossOutput(
            numerator, denominator, ModelState(of_backbone, of_heads), jnp.sum(batch.mask), metrics, objective
        )

    def after_update(variables: Variables, inputs: Inputs) -> State:
        state = variables.method_state
        query_params = of_key_encoder(variables.params)
        momentum = paco.momentum
        key_params = jax.tree.map(lambda k, q: momentum * k + (1 - momentum) * q, state.key_params, query_params)
        return enqueue(state._replace(key_params=key_params), inputs.keys_ND, inputs.labels_N)

    def predict(
        params: Any, model_state: ModelState, batch: Batch, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        features_BF, _ = features(params, model_state.network, batch.images, batch.mask, train, key)
        return own_heads.apply(params, model_state.heads, features_BF, method="classify")[0]

    def network_of(params: Any, model_state: ModelState) -> tuple[Any, Any]:
        return {name: tree for name, tree in params.items() if name != "projector"}, model_state.network

    sampling = stats.sampling_C(config.data.sampling, config.loss.effective_beta)
    return Method(
        streams=(Stream(sampling, (config.data.augmentation, paco.key_augmentation)),),
        init=init,
        prepare=prepare,
        loss=loss,
        after_update=after_update,
        predict=predict,
        network_of=network_of,
        is_classifier=lambda params: in_entry(params, "linear"),
        linear="linear",
    )


def of_key_encoder(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that the key encoder also has: all but the class head's."""
    return {name: tree for name, tree in params.items() if name != "linear"}


def shuffled(encode: Callable, batch: Batch, order_N: jax.Array, axis_name: str | None) -> jax.Array:
    """Return the keys of all devices' images, encoded in shuffled batches, so that BatchNorm leaks no information.

    Args:
      encode: (images, mask) of one device -> keys.
      order_N: a permutation, the same on all devices.
    """
    everything = devices.gather_rows((batch.images, batch.mask), axis_name)
    images, mask_B = devices.own_rows_of(jax.tree.map(lambda x: x[order_N], everything), axis_name)
    keys_ND = devices.gather_rows(encode(images, mask_B), axis_name)
    return jnp.zeros_like(keys_ND).at[order_N].set(keys_ND)
