"""A trained network as a folder for use without saddle_jax: StableHLO, PyTorch's weights, ONNX, and what they mean.

model.stablehlo      for jax.export (`to_stablehlo`), and predict.py, which classifies image files with it
model.safetensors    for PyTorch (`to_safetensors`)
model.onnx           for ONNX runtimes (`to_onnx`)
model.json           the run, its class names, the preparation of its images, and the SHA-256 of every other file
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from saddle_jax import __version__
from saddle_jax.errors import ConfigError
from saddle_jax.experiment import config as config_lib
from saddle_jax.host import watchdog
from saddle_jax.host.files import sync, write_atomically, writing
from saddle_jax.inference import to_onnx, to_safetensors, to_stablehlo
from saddle_jax.inference.classifier import Classifier
from saddle_jax.inference.function import OUTPUTS
from saddle_jax.losses import logit_scale

ABOUT, SCRIPT = "model.json", "predict.py"
FORMATS: dict[str, Callable[[Classifier], bytes]] = {
    "stablehlo": to_stablehlo.serialize,
    "safetensors": to_safetensors.serialize,
    "onnx": to_onnx.serialize,
}


class Written(NamedTuple):
    """The result of an export."""

    files: dict[str, int]  # name -> bytes
    left_out: list[str]  # why each missing format is missing
    replaced: int | None  # step of the same run's export that it replaced, if any


def require_possible(out: pathlib.Path, formats: Sequence[str]) -> None:
    """Check what can be checked before a network is restored; `formats` are those that were asked for by name.

    Raises:
      ConfigError: the folder can't be created, a format is not known, or its library is missing. It lists all problems.
    """
    final, known = out.resolve(), ", ".join(FORMATS)
    problems = [f"formats: found {name!r}, expected some of {known}" for name in formats if name not in FORMATS]
    if final.exists() and not final.is_dir():
        problems.append(f"--out: {out} is a file, expected a folder to write into. Fix: another --out")
    if not final.parent.is_dir():
        problems.append(f"--out: found no folder {final.parent}. Fix: create it, or name another")
    if final.is_mount() or pathlib.Path.cwd().is_relative_to(final):  # it could not be replaced as a whole
        problems.append(
            f"--out: {out} is the current folder or a mount point. Fix: a folder in it, such as {out / 'model'}"
        )
    if "onnx" in formats:
        try:
            to_onnx.require_installed()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def write(classifier: Classifier, out: pathlib.Path, formats: Sequence[str] = ()) -> Written:
    """Write an export of a run's network, complete or not at all.

    Args:
      out: a folder that does not exist yet, is empty, or holds an export of the same run, which is replaced.
      formats: some of FORMATS; if empty, all that are possible.

    Raises:
      ConfigError: the folder holds something else, or the network can't have one of the formats that were asked for.
      CheckpointError: a file can't be written.
    """
    run = _run(classifier)
    replaced = _require_replaceable(out, run)
    contents: dict[str, bytes] = {}
    problems: list[str] = []
    for name in formats or FORMATS:
        try:
            contents[f"model.{name}"] = FORMATS[name](classifier)
        except ConfigError as error:
            problems += error.problems
        watchdog.alive()
    if problems and (formats or not contents):
        raise ConfigError(problems)
    if "model.stablehlo" in contents:
        contents[SCRIPT] = to_stablehlo.script(classifier).encode()
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    about = {"run": run, **_about(classifier), "files": hashes}
    contents[ABOUT] = (json.dumps(about, indent=1) + "\n").encode()
    _publish(contents, out)
    return Written({name: len(content) for name, content in contents.items()}, problems, replaced)


def _run(classifier: Classifier) -> dict[str, Any]:
    try:
        started = json.loads((classifier.workdir / "run.json").read_bytes())["starts"][0]["started"]
    except (OSError, ValueError, TypeError, LookupError):  # only people read it, so it may be missing
        started = None
    return {
        "name": classifier.workdir.resolve().name,
        "step": classifier.step,
        "fingerprint": config_lib.fingerprint(classifier.config),
        "seed": classifier.config.seed,
        "started": started,
    }


def _about(classifier: Classifier) -> dict[str, Any]:
    """Return what a user of the files must know."""
    config, (height, width, channels) = classifier.config, classifier.image_shape
    fit: dict[str, Any] = {"cover_and_center_crop": [height, width]}
    if classifier.is_encoded:
        fit = {"shorter_side": config.data.eval_resize, "center_crop": [height, width]}
    return {
        "saddle_jax": __version__,
        "jax": jax.__version__,
        "class_names": list(classifier.stats.names),  # in the order of the outputs
        "labels": classifier.stats.labels_C.tolist(),  # of the source, in the same order
        "network": {"name": config.model.name, "width": config.model.width, "head": config.model.head},
        # Inside model.stablehlo and model.onnx; a user of model.safetensors has to do it. 0: not at all.
        "network_input_size": {"side": config.model.input_size, "resampling": "bicubic, antialiased"},
        "method": config.method,
        "image_size": [height, width],
        "colors": "gray" if channels == 1 else "RGB",
        "preparation": {"exif_orientation": config.data.exif_orientation, **fit, "resampling": "bilinear"},
        "input": {"name": to_onnx.INPUT, "dtype": "uint8", "shape": ["batch", height, width, channels]},
        "outputs": list(OUTPUTS),
        # model.stablehlo and model.onnx do both; a user of model.safetensors has to.
        "normalization": {"of_pixels": "(pixels / 255 - mean) / std", "mean": config.data.mean, "std": config.data.std},
        "probabilities": {"of_network_outputs": "softmax(factor * outputs)", "factor": logit_scale(config)},
        "adjustment": str(classifier.adjustment),  # done in all files
    }


def _require_replaceable(out: pathlib.Path, run: dict[str, Any]) -> int | None:
    """Return the step of the run's export that the folder holds, or None if it is empty or does not exist."""
    found = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if not found:
        return None
    try:
        about = json.loads((out / ABOUT).read_bytes())
        there, files = dict(about["run"]), {ABOUT, *about["files"]}
    except (OSError, ValueError, TypeError, LookupError):
        there, files = {}, set()
    fix = "Fix: another --out"
    if not there:
        raise ConfigError(f"--out: {out} holds {', '.join(found[:3])}, which is not an export. {fix}")
    same = ("fingerprint", "seed", "started")
    if any(there.get(key) != run[key] for key in same):
        raise ConfigError(f"--out: {out} holds an export of another run, {there.get('name')!r}. {fix}, or delete it")
    if others := sorted(set(found) - files):
        raise ConfigError(f"--out: {out} holds an export and {', '.join(others[:3])}, which would be lost. {fix}")
    return there.get("step")


def _publish(contents: dict[str, bytes], out: pathlib.Path) -> None:
    """Write the files into a folder beside `out`, and rename it to `out` once it is complete."""
    final = out.resolve()
    with writing(out, sum(map(len, contents.values()))):
        beside = pathlib.Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
        try:
            fresh, before = beside / "new", beside / "old"
            fresh.mkdir()
            for name, content in contents.items():
                write_atomically(fresh / name, content)
            if final.is_dir():
                final.rename(before)
            fresh.rename(final)
            sync(final.parent)
        finally:
            if before.is_dir() and not final.exists():
                before.rename(final)
            shutil.rmtree(beside, ignore_errors=True)
