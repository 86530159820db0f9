"""Convert a set of tensorflow-datasets from tfrecord to array_record, and keep both formats.

    python -m saddle_jax.data.sources.to_array_record ~/tensorflow_datasets/imagenet_lt/1.0.0

The folder needs room for a second copy of the set. The tfrecord files may be deleted afterwards. After an interruption,
run the same command to continue. (`tfds convert_format` does the same, but needs Apache Beam.)
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

from saddle_jax.errors import DataError, SaddleError
from saddle_jax.host.files import write_atomically

_OLD, _NEW = ".tfrecord-", ".array_record-"


def convert(folder: pathlib.Path) -> None:
    """Write every shard as array_record, then record in dataset_info.json that both formats exist.

    Raises:
      DataError: TensorFlow is not installed, or the folder holds no set in tfrecord.
    """
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(f'this needs TensorFlow ({error}). Fix: pip install "saddle_jax[tensorflow]"') from error
    tf.config.set_visible_devices([], "GPU")
    info_path = folder / "dataset_info.json"
    try:
        info = json.loads(info_path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} is not a prepared set: {error}. Fix: give the folder of a version, .../NAME/1.0.0"
        ) from error
    shards = sorted(path for path in folder.iterdir() if _OLD in path.name)
    expected = sum(len(split["shardLengths"]) for split in info["splits"])
    if info.get("fileFormat", "tfrecord") != "tfrecord" or len(shards) != expected:
        raise DataError(
            f"{folder}: found {len(shards)} of {expected} tfrecord files. Fix: use a set prepared as tfrecord"
        )
    formats = tfds.core.file_adapters
    adapter: Any = formats.ADAPTER_FOR_FORMAT[formats.FileFormat.ARRAY_RECORD]
    for number, shard in enumerate(shards, 1):
        target = shard.with_name(shard.name.replace(_OLD, _NEW))
        if not target.exists():
            unfinished = target.with_name(f".{target.name}.tmp")
            adapter.write_examples(unfinished, enumerate(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator()))
            unfinished.replace(target)
        print(f"{number} of {len(shards)}  {target.name}", flush=True)
    info["alternativeFileFormats"] = sorted({*info.get("alternativeFileFormats", []), "array_record"})
    write_atomically(info_path, json.dumps(info, indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(
            f"usage: python -m saddle_jax.data.sources.to_array_record FOLDER (found {len(sys.argv) - 1} arguments)"
        )
    try:
        convert(pathlib.Path(sys.argv[1]).expanduser())
    except SaddleError as problem:
        print(problem, file=sys.stderr)
        sys.exit(problem.exit_code)
