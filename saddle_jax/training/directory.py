"""The directory of a run: one config, one set of images, and a record of every start."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from saddle_jax import __version__
from saddle_jax.data.sources import Splits
from saddle_jax.errors import CheckpointError, ConfigError, DataError
from saddle_jax.experiment import catalogue
from saddle_jax.experiment import config as config_lib
from saddle_jax.host.files import write_atomically

_RECORD = "run.json"
_IMAGES = "images.csv"  # which image belongs to which split, if images have names
_PACKAGES = (
    *("jax", "jaxlib", "saddle_kernels", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections", "clu"),
    *("tensorflow", "tensorflow-cpu"),
)
IMPORTED = "imported.json"  # in a run that was not trained here: where its weights come from


def require_same_run(workdir: pathlib.Path, config: ConfigDict, splits: Splits) -> None:
    """Check that a directory holds this run or none; write nothing.

    Raises:
      ConfigError: it holds a run of another config (the message lists every differing field), runs of several seeds, or
        an imported run, which has no optimizer state to continue from.
      DataError: the run was trained on other images.
    """
    if (workdir / IMPORTED).is_file():
        raise ConfigError(
            f"--workdir: {workdir} holds weights that were imported (see {IMPORTED}), without the optimizer's state: "
            "training can't continue them. Fix: another --workdir; --mode eval and --mode spectra accept this one"
        )
    stored = workdir / "config.json"
    if stored.is_file():
        own = config_lib.from_json(stored.read_bytes())
        if differing := config_lib.differences(own, config):
            # Images may move, but fields that are chosen from the images often differ because the images do.
            before, now = config_lib.flatten(own), config_lib.flatten(config)
            moved = [name for name in ("data.root", "data.path") if before.get(name) != now[name]]
            differing = {name: (before.get(name), now[name]) for name in moved} | differing
            raise ConfigError(different_config(workdir, differing, "another --workdir, or the run's own values"))
        _require_same_images(workdir, splits)
    elif list(workdir.glob("seed-*/config.json")):
        raise ConfigError(
            f"--workdir: {workdir} holds a run for each of several seeds. Fix: another --workdir, or num_seeds > 1"
        )


def open_run(
    workdir: pathlib.Path,
    config: ConfigDict,
    splits: Splits,
    command: list[str],
    weights_from: dict[str, Any] | None = None,
) -> list[str]:
    """Write a run's records into its directory and return warnings. Call `require_same_run` first.

    run.json lists every start with its versions and devices, and the step of the first checkpoint. If the first weights
    are not random, it says where they come from. images.csv lists the images that have names.
    """
    stored = workdir / "config.json"
    record = _run_record(workdir) if stored.is_file() else {"starts": []}
    record |= {"weights_from": weights_from} if weights_from else {}
    warnings, starts = [], record["starts"]
    this_start = provenance(config, splits, command)
    if starts and (before := _machines(starts[-1])) != (now := _machines(this_start)):
        warnings.append(
            f"this run had {before} and continues on {now}: it starts from the same state, but will not "
            "reach the same numbers bit for bit"
        )
    warnings += _changed_code(starts[-1], this_start) if starts else []
    write_atomically(workdir / "class_stats.json", json.dumps(_class_stats(splits), indent=1))
    if splits.names and not (workdir / _IMAGES).is_file():
        write_atomically(workdir / _IMAGES, images_table(splits))
    if not (workdir / "results.json").is_file():  # a finished run takes no further step
        write_atomically(workdir / _RECORD, json.dumps({**record, "starts": [*starts, this_start]}, indent=1))
    write_atomically(stored, config_lib.to_json(config))  # written last: it makes the directory a run
    return warnings


def images_table(splits: Splits) -> str:
    """Return a CSV table of the images that have names: the image, its class, and its split."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("image", "class", "split"))
    for split, names in splits.names.items():
        labels = getattr(splits, split).labels
        writer.writerows((name, splits.stats.names[label], split) for name, label in zip(names, labels, strict=True))
    return table.getvalue()


def _changed_code(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    old = before.get("own_code", {})
    return [
        f"{field}: {code['file']} has changed since this run's last start; it continues with the code as it is now"
        for field, code in now["own_code"].items()
        if old.get(field, {}).get("sha256") != code["sha256"]
    ]


def _machines(start: dict[str, Any]) -> str:
    """Return a start's machines, such as "8 devices (gpu: NVIDIA H100) of 2 processes"."""
    devices, processes = start["devices"], start.get("processes", 1)
    of = f" of {processes} processes" if processes > 1 else ""
    return f"{len(devices)} devices ({', '.join(sorted(set(devices)))}){of}"


def different_config(workdir: pathlib.Path, differing: dict[str, tuple[Any, Any]], fix: str) -> str:
    """Return the problem, followed by a line for each field that differs."""
    lines = [f"      {field}: the run has {old!r}, this command {new!r}" for field, (old, new) in differing.items()]
    return "\n".join([f"{workdir} holds a run with another config. Fix: {fix}", *lines])


def record_first_save(workdir: pathlib.Path, step: int) -> None:
    """Record the step of the first checkpoint in run.json, unless one is recorded already."""
    write_atomically(workdir / _RECORD, json.dumps({"first_checkpoint": step, **_run_record(workdir)}, indent=1))


def require_never_saved(workdir: pathlib.Path) -> None:
    """Check that a run without a checkpoint has never saved one.

    Raises:
      CheckpointError: it has saved some. Starting again would overwrite its other files.
    """
    first = _run_record(workdir).get("first_checkpoint")
    if first is not None or (workdir / "results.json").is_file():
        raise CheckpointError(
            f"{workdir / 'checkpoints'}: found no checkpoint, but this run has saved some. "
            "Fix: restore them from a copy, or start over in another --workdir"
        )


def _run_record(workdir: pathlib.Path) -> dict[str, Any]:
    try:
        record = dict(json.loads((workdir / _RECORD).read_bytes()))
        return {**record, "starts": list(record["starts"])}
    except (OSError, ValueError, TypeError, KeyError):  # only people read it, so it may be missing
        return {"starts": []}


def differing_images(workdir: pathlib.Path, splits: Splits) -> dict[str, tuple[Any, Any]]:
    """Return {name: (recorded, found)} for each difference between `splits` and the run's own images.

    Raises:
      DataError: the run's record of its images can't be read.
    """
    recorded, found = _recorded(workdir / "class_stats.json"), _class_stats(splits)
    return {key: (recorded.get(key), value) for key, value in found.items() if recorded.get(key) != value}


def require_own_images(workdir: pathlib.Path, splits: Splits, fix: str) -> None:
    """Check that these are the images that the run was trained on.

    Raises:
      DataError: they are others. The message ends with `fix`.
    """
    if differing := differing_images(workdir, splits):
        raise DataError(f"{workdir} was trained on other images ({', '.join(differing)} differ). Fix: {fix}")


def _class_stats(splits: Splits) -> dict[str, Any]:
    return {
        "counts": splits.stats.counts_C.tolist(),
        "names": list(splits.stats.names),
        "labels": splits.stats.labels_C.tolist(),  # of the source
        "image_shape": list(splits.train.images.shape[1:]),  # height, width, channels
        "train_images": len(splits.train.labels),
        "test_images": len(splits.test.labels),
        "split_hash": splits.split_hash,
        "content_hash": splits.content_hash,
    }


def _recorded(path: pathlib.Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} can't be read ({error}), so the run's images can't be compared. Fix: restore it from a copy"
        ) from error


def _require_same_images(workdir: pathlib.Path, splits: Splits) -> None:
    if differing := differing_images(workdir, splits):
        # Every difference changes the content hash too, unless the record is damaged.
        expected, found = differing.get("content_hash", ("?", splits.content_hash))
        raise DataError(
            f"{workdir} was trained on other images ({', '.join(differing)} differ: content {found}, "
            f"expected {expected}). Fix: the data set of the first start, or another --workdir"
        )


def provenance(config: ConfigDict, splits: Splits, command: list[str]) -> dict[str, Any]:
    """Return everything needed to repeat the run."""
    return {
        "command": command,
        "saddle_jax": __version__,
        "git": _git_revision(),
        "python": sys.version.split()[0],
        "packages": package_versions(),
        "own_code": own_code(config),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
        "seed": config.seed,
        "fingerprint": config_lib.fingerprint(config),
        "split_hash": splits.split_hash,
        "content_hash": splits.content_hash,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def own_code(config: ConfigDict) -> dict[str, dict[str, str | None]]:
    """Return the code outside saddle_jax that a config names, by the field that names it."""
    named = catalogue.dotted_names(config_lib.flatten(config))
    return {field: catalogue.code_of(name) for field, name in named.items()}


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    return {name: version for name in _PACKAGES if (version := _version(name))}


def source_hash() -> str:
    """Return sixteen hex digits that identify this package's code on disk."""
    folder, digest = pathlib.Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Return the commit of the code, with "-dirty" if files differ from it; None if it is not known."""
    folder = pathlib.Path(__file__).parents[2]
    if not (folder / ".git").exists():  # installed; git would find the repository around the environment
        return _installed_revision()
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _installed_revision() -> str | None:
    """Return the commit from which pip installed saddle_jax, if it was given a git URL."""
    try:
        origin = importlib.metadata.distribution("saddle_jax").read_text("direct_url.json")
        return json.loads(origin or "{}").get("vcs_info", {}).get("commit_id")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
