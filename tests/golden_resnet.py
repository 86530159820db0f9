"""The reference's ResNet-32 figures as trees of ours."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import GOLDEN
from ml_collections import ConfigDict

from configs import default
from saddle_jax.data.images import Batch
from saddle_jax.longtail import ClassStats
from saddle_jax.methods.base import Variables
from saddle_jax.methods.plain import make as make_plain

HEADS = ("linear", "normed")


def our_name(name: str) -> tuple[str, str, str]:
    """Map "layer1.0.bn1.running_mean" to (collection, "layer1_0/bn1", "mean")."""
    module, _, leaf = name.rpartition(".")
    module = ".".join(module.split(".")).replace(".0.", "_0/")
    for block in range(1, 5):
        module = module.replace(f".{block}.", f"_{block}/")
    norm = "bn" in module
    collection = "batch_stats" if leaf.startswith("running") else "params"
    ours = {"running_mean": "mean", "running_var": "var", "bias": "bias", "weight": "scale" if norm else "kernel"}[leaf]
    return collection, module, ours


def our_value(name: str, value: np.ndarray, normed: bool) -> np.ndarray:
    """Transpose the reference's (out, in, h, w) and (out, in) to ours."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if name == "linear.weight" and not normed else value


def load(head: str) -> np.lib.npyio.NpzFile:
    """Open the figures of a head."""
    return np.load(GOLDEN / f"resnet32_{head}.npz")


def variables(store, head: str) -> Variables:
    """Return the reference's initial state in float64."""
    trees = {"params": {}, "batch_stats": {}}
    for key in store:
        if not key.startswith("init/") or key.endswith("num_batches_tracked"):
            continue
        name = key.removeprefix("init/")
        collection, module, leaf = our_name(name)
        node = trees[collection]
        for part in module.split("/"):
            node = node.setdefault(part, {})
        node[leaf] = jnp.asarray(our_value(name, store[key], head == "normed"), jnp.float64)
    return Variables(trees.pop("params"), trees, ())


def config_of(head: str) -> ConfigDict:
    """Return the config whose steps the figures are."""
    config = default.get_config()
    config.model.head = head
    config.loss.name = "ldam" if head == "normed" else "ce"
    config.loss.class_weights = "reweight"
    config.data.mean, config.data.std = (0.0,) * 3, (1 / 255,) * 3  # so that normalizing changes nothing
    config.optim.lr = ((0, 0.1),)
    config.optim.name = "sam"
    return config


def method_of(config: ConfigDict, store, axis_name=None):
    """Return the plain method for the figures' ten classes."""
    return make_plain(config, ClassStats(store["counts"], ()), (32, 32, 3), axis_name)


def batch(store, index: int) -> Batch:
    """Return one of the four batches of eight."""
    images = store["images_nchw"][index].transpose(0, 2, 3, 1).astype(np.float64)
    labels = store["labels"][index].astype(np.int32)
    return Batch(images, labels, np.ones(8, bool), np.arange(8, dtype=np.int32), np.zeros((8, 3), np.int32))


def leaf(tree, name: str):
    """Return our leaf for a name of the reference."""
    _, module, last = our_name(name)
    for part in (*module.split("/"), last):
        tree = tree[part]
    return tree


def global_norm(tree) -> float:
    """Return the L2 norm over all leaves."""
    return float(jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree))))
