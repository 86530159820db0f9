"""The features of a frozen backbone, computed once, kept beside the run, and shared by all runs that they fit.

Caching rules out everything that would change the features: training the backbone, its dropout, and fresh augmentation
in every epoch. Instead, each image has a fixed number of views. Shapes: N images, V views, D features, R random
numbers.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.augment import augmentation
from saddle_jax.data.augment.augmentation import Augmentation
from saddle_jax.data.encoded import Encoded
from saddle_jax.data.features import Features
from saddle_jax.data.feeds import evaluation
from saddle_jax.data.images import Batch
from saddle_jax.data.order import Slots, evaluation_slots
from saddle_jax.data.sources import Images, Splits
from saddle_jax.experiment import config as config_lib
from saddle_jax.host import devices, processes, watchdog
from saddle_jax.host.files import write_atomically, writing
from saddle_jax.host.progress import Progress
from saddle_jax.methods.base import make_normalize
from saddle_jax.models import networks
from saddle_jax.training import checkpoint, origin, seeds
from saddle_jax.training.feed import training_batches
from saddle_jax.training.program import Program
from saddle_jax.training.state import TrainState

_SPLITS = ("train", "validation", "test")
# Fields that change the features, besides the weights and the images.
_FIELDS = (
    *("model.name", "model.dtype", "model.width", "model.input_size", "data.mean", "data.std"),
    *("data.image_size", "data.eval_resize", "data.exif_orientation"),
)
_FIELDS_OF_VIEWS = ("data.augmentation", "data.crop_padding", "data.flip", "data.color_jitter", "data.subset_seed")


def with_features(config: ConfigDict, workdir: pathlib.Path, splits: Splits, program: Program) -> Splits:
    """Return the splits with the features of their images, computed now or before.

    Raises:
      ConfigError, CheckpointError: see `origin.find` and `origin.Origin.adopt`.
      DataError: an image can't be decoded, a training image included.
    """
    weights = _backbone(config, workdir, splits, program)
    key = _key(config, splits, weights)
    folder = workdir.resolve().parent / "features" / key

    def kept(name: str, images: Images, views: int) -> np.ndarray:
        path = folder / f"{name}.npy"
        values_NVD = _of_first(path, len(images.labels), views)
        if values_NVD is None:
            values_NVD = _compute(config, program.views[0], splits.stats.num_classes, images, weights, views)
            processes.on_first(functools.partial(_write, path, values_NVD))
        return values_NVD

    note = f"features of {config.model.cache_views} views of each training image are kept in {folder}"
    return _replaced(config, splits, kept, note)


def with_blank_features(config: ConfigDict, splits: Splits, program: Program) -> Splits:
    """Return what `with_features` returns, but with zeros, to describe training on features without computing them."""
    image_shape = splits.train.images.shape[1:]
    network = networks.make_network(config, splits.stats.num_classes, None)
    state = jax.eval_shape(lambda: program.init(config.seed))
    blank = jax.eval_shape(
        lambda params, model_state: network.blank_features(params, model_state, image_shape),
        state.params,
        state.model_state,
    )

    def zeros(_: str, images: Images, views: int) -> np.ndarray:
        return np.broadcast_to(np.float32(0), (len(images.labels), views, blank.shape[-1]))

    note = (
        f"training first computes the features of {config.model.cache_views} views of each training image; the step "
        "here takes zeros"
    )
    return _replaced(config, splits, zeros, note)


def _replaced(
    config: ConfigDict, splits: Splits, features_of: Callable[[str, Images, int], np.ndarray], note: str
) -> Splits:
    """Return the splits with features in place of their images.

    Args:
      features_of: takes the name of a split, its images, and the number of views, and returns (N, V, D) float32.
      note: what the user should know about them.
    """
    image_shape, parts = splits.train.images.shape[1:], {}
    for name, images in _parts(splits).items():
        values_NVD = features_of(name, images, config.model.cache_views if name == "train" else 1)
        parts[name] = Images(Features(values_NVD, image_shape), images.labels)
    return splits._replace(**parts, notes=(*splits.notes, note))


def _parts(splits: Splits) -> dict[str, Images]:
    """Return the splits that there are, by name."""
    return {name: images for name in _SPLITS if (images := getattr(splits, name)) is not None}


class _Backbone(NamedTuple):
    params: Any
    model_state: Any


def _backbone(config: ConfigDict, workdir: pathlib.Path, splits: Splits, program: Program) -> _Backbone:
    """Return the network's weights, on the host: those of the run if it has begun, else those that it starts from."""
    first, folder = seeds.runs_of(config, workdir)[0]
    state: TrainState = jax.device_get(program.init(first.seed))

    def read() -> None:
        nonlocal state
        if checkpoint.available(folder / "checkpoints"):
            state = checkpoint.restore_weights(checkpoint.find(folder / "checkpoints"), state)
        elif found := origin.find(first, folder):
            state = found.adopt(state, splits)[0]

    processes.on_first(read)
    state = processes.of_first(state)
    network = networks.make_network(config, splits.stats.num_classes, None)
    return _Backbone(network.backbone_params(state.params), state.model_state)


def _key(config: ConfigDict, splits: Splits, backbone: _Backbone) -> str:
    """Return a hash of all that the features depend on."""
    values = config_lib.flatten(config)
    own = [name for name in values if name.startswith(f"{config.model.name}.")]
    views = _FIELDS_OF_VIEWS if config.model.cache_views > 1 else ()
    fields = {name: values[name] for name in (*_FIELDS, *own, *views)}
    known = [fields, config.model.cache_views, splits.content_hash, splits.split_hash]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
    for part in _parts(splits).values():
        if isinstance(part.images, Encoded):  # whose content_hash covers their names only
            digest.update(part.images.version())
    for leaf in jax.tree.leaves(backbone):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:16]


def _compute(
    config: ConfigDict, augmented: Augmentation, num_classes: int, images: Images, backbone: _Backbone, views: int
) -> np.ndarray:
    """Return the features of every view of the images, (N, V, D) float32."""
    network = networks.make_network(config, num_classes, devices.AXIS)
    normalize = make_normalize(config.data)

    def features(params: Any, model_state: Any, batch: Batch) -> jax.Array:
        inputs = normalize(batch.images)
        return network.features(params, model_state, inputs, batch.mask, train=False)[0].astype(np.float32)

    step = devices.map_step(features, num_replicated=2, gather=True)
    params, model_state = devices.replicate(backbone.params), devices.replicate(backbone.model_state)
    parts, total = devices.num_devices(), len(images.labels)
    batch_size = -(-min(config.eval.batch_size, total) // parts) * parts
    batches = -(-total // batch_size) * views
    progress = Progress(batches, batch_size, 0, label="features", quiet=not processes.is_first())
    found: np.ndarray | None = None
    for view in range(views):
        slots = list(map(devices.own_rows, _slots(config, augmented, total, batch_size, view)))
        for number, (one, batch) in enumerate(zip(slots, _batches(augmented, images, slots, view), strict=True)):
            output = devices.own_parts(devices.settle(step(params, model_state, devices.deal(batch))))
            output = output.reshape(-1, output.shape[-1])
            if found is None:
                found = np.zeros((total, views, output.shape[-1]), np.float32)
                progress.begin(1)
            found[one.ids_B[one.mask_B], view] = output[one.mask_B]
            watchdog.alive()
            progress.update(view * len(slots) + number + 1)
    assert found is not None
    return processes.sum_over(found)


def _slots(config: ConfigDict, augmented: Augmentation, total: int, batch_size: int, view: int) -> Iterator[Slots]:
    """Yield the slots of one view of all images, in order. The first view is not augmented."""
    draws_NR = None
    if view:
        generator = np.random.default_rng([config.data.subset_seed, view])
        draws_NR = augmentation.draw(augmented, generator, total)
    for slots in evaluation_slots(total, batch_size, devices.num_devices()):
        yield slots if draws_NR is None else slots._replace(draws_BR=draws_NR[slots.ids_B] * slots.mask_B[:, None])


def _batches(augmented: Augmentation, images: Images, slots: list[Slots], view: int) -> Iterator[Batch]:
    if not view:
        return evaluation.plain_batches(*images, slots=slots)
    pipeline = "tfdata" if isinstance(images.images, Encoded) else "workers" if augmented.on_host else "numpy"
    return training_batches(pipeline, *images, slots=slots, augmented=augmented)


def _of_first(path: pathlib.Path, total: int, views: int) -> np.ndarray | None:
    """Return the features that the first process reads, in all processes; None if there are none."""
    values_NVD: np.ndarray | None = None

    def read() -> list[int] | None:
        nonlocal values_NVD
        values_NVD = _read(path, total, views)
        return None if values_NVD is None else list(values_NVD.shape)

    shape = processes.on_first(read)
    if shape is None:
        return None
    return processes.of_first(np.zeros(shape, np.float32) if values_NVD is None else values_NVD)


def _read(path: pathlib.Path, total: int, views: int) -> np.ndarray | None:
    """Return features that were computed before, or None if there are none or the file is damaged."""
    try:
        values_NVD = np.load(path, allow_pickle=False)
        recorded = path.with_suffix(".sha256").read_text()
    except (OSError, ValueError, EOFError):
        return None
    is_sound = hashlib.sha256(values_NVD.data).hexdigest() == recorded and values_NVD.shape[:2] == (total, views)
    return values_NVD if is_sound else None


def _write(path: pathlib.Path, values_NVD: np.ndarray) -> None:
    """Write features and their hash; runs that do so at the same time write the same."""
    with writing(path, values_NVD.nbytes):
        path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, values_NVD)
    write_atomically(path.with_suffix(".sha256"), hashlib.sha256(values_NVD.data).hexdigest(), shared=True)
    write_atomically(path, content.getvalue(), shared=True)
