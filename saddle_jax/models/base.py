"""The contract of a network, four pure functions, and the way to build one from a Flax module.

This file is the only one that initializes and applies Flax modules. Shapes: B images, D features, C classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from saddle_jax.models.heads import Linear

Params = dict[str, Any]  # nested dicts of arrays

_CLASSIFIER = "linear"  # name of the classifier's parameters, beside those of a Flax backbone


class Features(Protocol):
    """Return the features (B, D) of normalized images, and the updated state.

    `mask_B` says which rows are images; padding must not change the state or the other rows' features. With `train`,
    BatchNorm normalizes by the batch, and dropout draws with `key`: equal keys give equal draws. A network that draws
    nothing needs no key. Without `train`, nothing is drawn, and callers ignore the returned state.
    """

    def __call__(
        self,
        params: Params,
        model_state: Any,
        images_BHWK: jax.Array,
        mask_B: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Return features_BD, model_state."""
        ...


class Network(NamedTuple):
    """The contract that every network fulfills.

    `params` holds what is trained. Methods put the parameters of their own modules beside it, so every function ignores
    entries that it does not know; `features` does not need the classifier's.

    `model_state` is a tree of arrays with all else that the network keeps: BatchNorm's running statistics, or {}.
    Nobody outside `models/` looks into it. Training averages its floating-point leaves over the devices; any others
    must be the same on every device.
    """

    init: Callable[[jax.Array, tuple[int, ...]], tuple[Params, Any]]  # (random key, (H, W, K)) -> params, model_state
    features: Features
    classify: Callable[[Params, jax.Array], jax.Array]  # (params, features_BD) -> logits_BC
    is_classifier: Callable[[Params], Params]  # params -> a tree of bools: which are the classifier's
    # The entry of the classifier in the parameters, {"kernel": (D, C), "bias": (C,)} or without a bias, if its logits
    # are features · kernel + bias; None if it computes something else.
    linear: str | None = None

    def logits(
        self,
        params: Params,
        model_state: Any,
        images_BHWK: jax.Array,
        mask_B: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        """Return logits (B, C) and the new state; see `Features`."""
        features_BD, model_state = self.features(params, model_state, images_BHWK, mask_B, train=train, key=key)
        return self.classify(params, features_BD), model_state

    def backbone_params(self, params: Params) -> Params:
        """Return the parameters without the classifier's."""
        is_classifier = traverse_util.flatten_dict(self.is_classifier(params))
        kept = {path: leaf for path, leaf in traverse_util.flatten_dict(params).items() if not is_classifier[path]}
        return traverse_util.unflatten_dict(kept)

    def blank_features(self, params: Params, model_state: Any, image_shape: tuple[int, ...]) -> jax.Array:
        """Return zeros (1, D), to initialize modules that take the features."""
        images, mask = _blank(image_shape)
        shape, _ = jax.eval_shape(lambda: self.features(params, model_state, images, mask, train=False))
        return jnp.zeros(shape.shape, shape.dtype)


class Functions(NamedTuple):
    """A Flax module as pure functions of its parameters and its state, as in `Network`."""

    init: Callable[..., tuple[Params, Any]]  # (random key, *inputs) -> params, model_state
    # (params, model_state, *inputs, key=None, method=None) -> output, model_state; method: replaces __call__
    apply: Callable[..., tuple[Any, Any]]


def functions_of(module: nn.Module, rng_names: Sequence[str] = ("dropout",)) -> Functions:
    """Return the functions of a module; `rng_names` are the random streams that it draws from in training."""

    def init(key: jax.Array, *inputs: Any, method: Any = None) -> tuple[Params, Any]:
        variables = dict(module.init(key, *inputs, method=method))
        return variables.pop("params", {}), variables

    def apply(
        params: Params, model_state: Any, *inputs: Any, key: jax.Array | None = None, method: Any = None
    ) -> tuple[Any, Any]:
        rngs = {} if key is None else {name: jax.random.fold_in(key, n) for n, name in enumerate(rng_names)}
        variables = {"params": params, **model_state}
        return module.apply(variables, *inputs, rngs=rngs, mutable=list(model_state), method=method)

    return Functions(init, apply)


def from_flax(
    backbone: nn.Module,
    head: nn.Module,
    *,
    call: Callable[[Any, jax.Array, jax.Array, bool], jax.Array] | None = None,
    rng_names: Sequence[str] = ("dropout",),
) -> Network:
    """Return the network of two Flax modules: one from images to features (B, D), and one from features to logits.

        network = from_flax(MyTransformer(depth=12), nn.Dense(num_classes))

    The backbone's `__call__` takes the images first. Of the arguments `train` or `training`, `deterministic` (the
    opposite of train) and `mask_B`, it gets those that it has. For any other signature, pass `call`:

        from_flax(backbone, head, call=lambda module, images_BHWK, mask_B, train: module(images_BHWK, mode=train))

    A module without `mask_B` sees padding as images. This changes no other image's features unless it computes over
    the batch, as BatchNorm does: use `saddle_jax.models.batchnorm.BatchNorm` there, which takes the mask.

    Args:
      backbone: its variables outside the collection "params" become the model state.
      head: takes features alone, and keeps no state. Its parameters are named "linear", beside the backbone's own.
      call: (module, images_BHWK, mask_B, train) -> features.
      rng_names: the random streams that the backbone draws from in training; nn.Dropout's is "dropout".

    Raises:
      ValueError: the backbone has an argument of another name and `call` is not given. From `init`: features are not
        (B, D), the head keeps a state, or both modules have parameters of the same name.
    """
    call = call or _call_by_names(backbone)
    body, top = functions_of(backbone, rng_names), functions_of(_Head(head))

    def init(key: jax.Array, image_shape: tuple[int, ...]) -> tuple[Params, Any]:
        params, model_state = body.init(key, *_blank(image_shape), False, method=call)
        features = network.blank_features(params, model_state, image_shape)
        if features.ndim != 2:
            raise ValueError(
                f"{type(backbone).__name__}: found features of shape {features.shape}, expected (images, features). "
                "Fix: pool or flatten them"
            )
        head_params, head_state = top.init(key, features)
        if head_state:
            raise ValueError(
                f"{type(head).__name__}: the head keeps {', '.join(head_state)}, expected parameters only. "
                "Fix: move modules with a state into the backbone"
            )
        return beside(params, head_params), model_state

    def features(
        params: Params,
        model_state: Any,
        images_BHWK: jax.Array,
        mask_B: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        return body.apply(params, model_state, images_BHWK, mask_B, train, key=key if train else None, method=call)

    def is_classifier(params: Params) -> Params:
        return in_entry(params, _CLASSIFIER)

    def classify(params: Params, features_BD: jax.Array) -> jax.Array:
        return top.apply(params, {}, features_BD)[0]

    linear = _CLASSIFIER if type(head) in (Linear, nn.Dense) else None  # a subclass may compute something else
    network = Network(init, features, classify, is_classifier, linear)
    return network


def in_entry(params: Params, chosen: str) -> Params:
    """Return which parameters are in the entry of this name, as a tree of bools."""
    return {name: jax.tree.map(lambda _, name=name: name == chosen, tree) for name, tree in params.items()}


def beside(params: Params, own: Params) -> Params:
    """Return a network's parameters and those of further modules in one dict.

    Raises:
      ValueError: both have parameters of the same name.
    """
    if shared := params.keys() & own.keys():
        raise ValueError(
            f"the network has parameters named {', '.join(sorted(shared))}, and so have the modules beside it. "
            "Fix: rename the network's own modules"
        )
    return {**params, **own}


class _Head(nn.Module):
    """Gives the head's parameters their name, on which their initial values depend."""

    linear: nn.Module

    def __call__(self, features_BD: jax.Array) -> jax.Array:
        """Return logits (B, C)."""
        return self.linear(features_BD)


def _blank(image_shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Return a batch of one black image, and its mask."""
    return jnp.zeros((1, *image_shape)), jnp.ones(1, bool)


def _call_by_names(backbone: nn.Module) -> Callable[[Any, jax.Array, jax.Array, bool], jax.Array]:
    """Return a function that calls a backbone, by the names of its arguments."""
    known = ("mask_B", "train", "training", "deterministic")
    arguments = list(inspect.signature(type(backbone).__call__).parameters.values())[2:]  # after self and images
    unknown = [one.name for one in arguments if one.default is inspect.Parameter.empty and one.name not in known]
    if unknown:
        raise ValueError(
            f"{type(backbone).__name__}.__call__: found the argument {', '.join(unknown)}, expected some of "
            f"{', '.join(known)} after the images. Fix: pass from_flax(..., call=...)"
        )
    names = {one.name for one in arguments}

    def call(module: Any, images_BHWK: jax.Array, mask_B: jax.Array, train: bool) -> jax.Array:
        values = {"mask_B": mask_B, "train": train, "training": train, "deterministic": not train}
        return module(images_BHWK, **{name: value for name, value in values.items() if name in names})

    return call
