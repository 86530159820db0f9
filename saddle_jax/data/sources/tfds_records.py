"""Sets from tensorflow-datasets whose images stay encoded. They must be array_record, which allows random access.

The file format has no columns. So each split is read once to find its labels and names, which are then kept in the
user's cache folder.
"""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import zipfile
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from saddle_jax.data.encoded import Decoding, Encoded
from saddle_jax.data.sources.published import require_published
from saddle_jax.data.sources.tfds_arrays import open_set
from saddle_jax.errors import DataError
from saddle_jax.host import console
from saddle_jax.host.files import write_atomically

_OFFICIAL = {"inat18": "i_naturalist2018"}  # our name of a set -> its name in tensorflow-datasets
_NAME_KEYS = ("file_name", "id")
_READ_AT_ONCE = 256


class Records(Encoded):
    """Records of a split."""

    def __init__(self, split: _Split, records_N: np.ndarray, names_N: np.ndarray, decoding: Decoding):
        """Take the records `records_N`, whose images have the names `names_N` (bytes)."""
        super().__init__(decoding)
        self._split, self._records_N, self._names_N = split, records_N, names_N

    def __len__(self) -> int:
        return len(self._records_N)

    def __getitem__(self, positions: np.ndarray) -> Records:
        return Records(self._split, self._records_N[positions], self._names_N[positions], self.decoding)

    def name(self, position: int) -> str:
        record, name = self._records_N[position], self._names_N[position].decode(errors="replace")
        return f"{self._split.title} record {record}" + (f" ({name})" if name else "")

    def digest(self) -> bytes:
        return hashlib.sha256(b"\n".join(self._names_N.tolist()) + self._records_N.tobytes()).digest()

    def reader(self, tf: Any) -> Any:
        image_key = self._split.image_key

        def record(position: Any) -> bytes:
            return self._split.source[int(self._records_N[position])]

        def read(position: Any) -> Any:
            serialized = tf.numpy_function(record, [position], tf.string, stateful=False)
            features = {image_key: tf.io.FixedLenFeature((), tf.string)}
            return tf.io.parse_single_example(tf.ensure_shape(serialized, ()), features)[image_key]

        return read


class _Split(NamedTuple):
    """A split that is open."""

    title: str
    source: Any  # serialized examples, by number
    image_key: str
    label_key: str
    name_key: str  # "" if its examples have no names


class RecordSet(NamedTuple):
    """The splits of a set, with their original labels."""

    train: tuple[Records, np.ndarray]
    validation: tuple[Records, np.ndarray] | None
    test: tuple[Records, np.ndarray]
    names: tuple[str, ...]  # of the classes


def load(data: ConfigDict, decoding: Decoding) -> RecordSet:
    """Open the set that `data` (the config's data fields) names, and read its labels.

    Raises:
      DataError: it is not a prepared image classification set, not in array_record, or not the published one.
    """
    name = _OFFICIAL.get(str(data.name), str(data.name))
    tf, tfds, builder = open_set(name, data.root, file_format="array_record")
    builder = _in_array_record(tfds, builder)
    image_key, label_key = builder.info.supervised_keys
    label_names = tuple(builder.info.features[label_key].names)

    def read(split: str) -> tuple[Records, np.ndarray]:
        opened = _open(tfds, builder, split, image_key, label_key)
        labels_N, names_N = _index(tf, builder, opened, split)
        strange = np.flatnonzero((labels_N < 0) | (labels_N >= len(label_names)))
        if strange.size:
            raise DataError(
                f"{opened.title}: {strange.size:,} of {len(labels_N):,} examples have no label, such as record "
                f"{strange[0]}. Fix: use another split"
            )
        order = np.argsort(names_N, kind="stable")  # the same order for any sharding
        return Records(opened, order, names_N[order], decoding), labels_N[order]

    train, test = read(data.train_split), read(data.test_split)
    official = {theirs: ours for ours, theirs in _OFFICIAL.items()}.get(builder.name, builder.name)
    if data.train_split == "train":  # a slice of it rightly has other counts
        require_published(official, f"{builder.info.full_name} {data.train_split}", train[1])
    validation = read(data.validation_split) if data.validation_split else None
    return RecordSet(train, validation, test, label_names)


def _in_array_record(tfds: Any, builder: Any) -> Any:
    """Return a builder that reads array_record, which a set can have in addition to another format."""
    wanted = tfds.core.file_adapters.FileFormat.ARRAY_RECORD
    if builder.info.file_format == wanted:
        return builder
    folder = str(builder.data_path)
    stored = tfds.builder_from_directory(folder)
    if wanted in stored.info.alternative_file_formats:
        stored.info.set_file_format(wanted, override=True, override_if_initialized=True)
        return stored
    raise DataError(
        f"{folder} is in {builder.info.file_format.value}, which has no random access; array_record has. "
        f"Fix (once): python -m saddle_jax.data.sources.to_array_record {folder}"
    )


def _open(tfds: Any, builder: Any, split: str, image_key: str, label_key: str) -> _Split:
    try:
        source = builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    except ValueError as error:
        known = ", ".join(sorted(builder.info.splits))
        raise DataError(f"{builder.info.name}: found split {split!r}, expected one of {known} ({error})") from error
    name_key = next((key for key in _NAME_KEYS if key in builder.info.features), "")
    return _Split(f"{builder.info.full_name} {split}", source, image_key, label_key, name_key)


def _index(tf: Any, builder: Any, split: _Split, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels and names (bytes) of all records, from the cache or by reading the split."""
    shards = [(info.name, info.num_bytes, info.shard_lengths) for info in builder.info.splits.values()]
    key = hashlib.sha256(repr((str(builder.data_path), name, shards)).encode()).hexdigest()[:16]
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "saddle_jax"
    path = folder / f"{builder.name}-{key}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            labels_N, names_N = stored["labels"], stored["names"]
        if len(labels_N) == len(names_N) == len(split.source):
            return labels_N, names_N
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    console.say("data", f"reading {len(split.source):,} records of {split.title} for their labels, once")
    labels_N, names_N = _read_index(tf, split)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save(path, labels_N, names_N)
    except OSError as error:
        console.say("note", f"the labels can't be cached for the next time ({error})")
    return labels_N, names_N


def _save(path: pathlib.Path, labels_N: np.ndarray, names_N: np.ndarray) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, labels=labels_N, names=names_N)
    write_atomically(path, content.getvalue())


def _read_index(tf: Any, split: _Split) -> tuple[np.ndarray, np.ndarray]:
    """Read every record and return the labels and names."""
    features = {split.label_key: tf.io.FixedLenFeature((), tf.int64)}
    if split.name_key:
        features[split.name_key] = tf.io.FixedLenFeature((), tf.string)

    def records(numbers: np.ndarray) -> np.ndarray:
        return np.array([split.source[int(number)] for number in numbers], object)

    def parse(numbers: Any) -> tuple[Any, Any]:
        found = tf.io.parse_example(tf.numpy_function(records, [numbers], tf.string, stateful=False), features)
        return found[split.label_key], found.get(split.name_key, tf.zeros_like(numbers, tf.string))

    with tf.device("CPU"):
        numbers = tf.data.Dataset.range(len(split.source)).batch(_READ_AT_ONCE)
        parts = list(numbers.map(parse, num_parallel_calls=tf.data.AUTOTUNE).as_numpy_iterator())
    if not parts:
        raise DataError(f"{split.title} has no examples. Fix: use another split")
    labels_N, names_N = (np.concatenate(part) for part in zip(*parts, strict=True))
    return labels_N, names_N.astype(np.bytes_)
