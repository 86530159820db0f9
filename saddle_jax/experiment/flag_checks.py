"""Check which flags go together, before anything heavy is imported."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError, did_you_mean
from saddle_jax.experiment import adjustment
from saddle_jax.host import machines

FLAGS = flags.FLAGS
EXPORT_FORMATS = ("stablehlo", "safetensors", "onnx")
REPORT_COLUMNS = ("overall", "balanced", "head", "mid", "tail", "many", "medium", "few")


class Processes(NamedTuple):
    """The flags that describe the processes that take part; None if the environment says."""

    coordinator: str | None
    num_processes: int | None
    process_id: int | None


def problems(config: ConfigDict, of_config: Sequence[str], *, config_named: bool) -> list[str]:
    """Return everything that is wrong with the parsed flags.

    Args:
      of_config: the arguments that name a config or override its fields.
      config_named: --config was given.
    """
    return [
        *_mode_problems(of_config),
        *_target_problems(),
        *_adjust_problems(config),
        *_import_problems(config_named),
        *_process_problems(config, config_named),
    ]


def _mode_problems(of_config: Sequence[str]) -> Iterator[str]:
    if FLAGS["runs"].present and FLAGS.mode != "report":
        yield f"--runs belongs to --mode report, found --mode {FLAGS.mode}"
    if FLAGS.mode == "report" and not FLAGS.runs:
        yield "--runs: found nothing, expected the run directories to report on. Fix: e.g. --runs 'runs/*'"
    if FLAGS.mode == "report" and of_config:
        yield f"--mode report reads each run's own config: {of_config[0]} has no effect. Fix: leave it out"
    for name in ("columns", "epoch"):
        if FLAGS[name].present and FLAGS.mode != "report":
            yield f"--{name} belongs to --mode report, found --mode {FLAGS.mode}"
    if FLAGS["columns"].present and not any(FLAGS.columns):
        yield f"--columns: found nothing, expected some of {','.join(REPORT_COLUMNS)}"
    elif unknown := [name for name in FLAGS.columns if name not in REPORT_COLUMNS]:
        yield (
            f"--columns: found {', '.join(map(repr, unknown))}, expected some of {','.join(REPORT_COLUMNS)}."
            f"{did_you_mean(unknown[0], REPORT_COLUMNS)}"
        )
    if FLAGS.checkpoint is not None and FLAGS.mode not in ("eval", "predict", "export", "spectra"):
        yield f"--checkpoint belongs to --mode eval, predict, export, and spectra, found --mode {FLAGS.mode}"
    if FLAGS["out"].present and FLAGS.mode not in ("predict", "export"):
        yield f"--out belongs to --mode predict and export, found --mode {FLAGS.mode}"
    if FLAGS["formats"].present and FLAGS.mode != "export":
        yield f"--formats belongs to --mode export, found --mode {FLAGS.mode}"
    for name in FLAGS.formats:
        if name not in EXPORT_FORMATS:
            yield f"--formats: found {name!r}, expected some of {','.join(EXPORT_FORMATS)}"
    if FLAGS.mode == "export" and not FLAGS.out:
        yield "--mode export needs --out, a folder, e.g. --out model/"
    if FLAGS.mode in ("predict", "export") and not FLAGS.workdir:
        yield f"--mode {FLAGS.mode} needs --workdir, the directory of a run"
    if FLAGS.mode in ("predict", "export") and of_config:
        yield f"--mode {FLAGS.mode} uses the run's own config: {of_config[0]} has no effect. Fix: leave it out"
    if FLAGS["compare"].present and FLAGS.mode != "spectra":
        yield f"--compare belongs to --mode spectra, found --mode {FLAGS.mode}"
    if FLAGS["compare"].present and len(FLAGS.compare) < 2:
        yield f"--compare: found {len(FLAGS.compare)} run, expected two or more, e.g. --compare runs/sgd runs/sam"
    for run in FLAGS.compare:
        if not pathlib.Path(run).is_dir():
            yield f"--compare: found no directory {run!r}, expected a run whose spectra were measured"
    if FLAGS.compare and FLAGS.checkpoint and not FLAGS.checkpoint.isdecimal():
        yield f"--compare: found --checkpoint {FLAGS.checkpoint!r}, expected a step"


def _target_problems() -> Iterator[str]:
    if not FLAGS["target"].present:
        return
    if FLAGS.mode != "check":
        yield f"--target belongs to --mode check, found --mode {FLAGS.mode}"
    try:
        machines.named(FLAGS.target)
    except ConfigError as error:
        yield from error.problems


def _adjust_problems(config: ConfigDict) -> Iterator[str]:
    if FLAGS["adjust"].present and FLAGS.mode not in ("eval", "predict", "export"):
        yield f"--adjust belongs to --mode eval, predict, and export, found --mode {FLAGS.mode}"
    try:
        asked = adjustment.parse(FLAGS.adjust)
    except ConfigError as error:
        yield from error.problems
        return
    if asked.kind == "tau_norm" and config.model.head == "normed":
        yield (
            "--adjust tau_norm: the cosine head (model.head='normed') ignores the lengths of its weights, by which "
            "tau_norm would divide. Fix: --adjust logit"
        )


def _process_problems(config: ConfigDict, config_named: bool) -> Iterator[str]:
    given = [name for name in Processes._fields if FLAGS[name].present]
    if given and not FLAGS.distributed:
        yield f"--{given[0]} belongs to --distributed. Fix: --distributed, or leave it out"
    if given and len(given) < len(Processes._fields):
        missing = [name for name in Processes._fields if name not in given]
        yield f"--{given[0]} alone does not say which processes take part. Fix: also --{' and --'.join(missing)}"
    if len(given) == len(Processes._fields) and FLAGS.process_id >= FLAGS.num_processes:
        yield f"--process_id: found {FLAGS.process_id}, expected 0 to {FLAGS.num_processes - 1} (--num_processes - 1)"
    if FLAGS.coordinator is not None and not re.fullmatch(r".+:\d+", FLAGS.coordinator):
        yield f"--coordinator: found {FLAGS.coordinator!r}, expected HOST:PORT such as 10.0.0.1:1234"
    if FLAGS.distributed and not config_named:
        yield "--distributed needs --config: a run's own config is read by the first process alone"
    if FLAGS.distributed and FLAGS.mode != "train":
        yield f"--distributed belongs to --mode train, found --mode {FLAGS.mode}. Fix: start one process without it"
    if FLAGS.distributed and (config.spectra.every or config.spectra.at):
        yield (
            "--distributed: spectra along training are measured by one process only. Fix: --config.spectra.every='' "
            "--config.spectra.at='()', and --mode spectra afterwards"
        )


def _import_problems(config_named: bool) -> Iterator[str]:
    importing = FLAGS.mode == "import"
    for flag in ("torch_file", "class_map"):
        if FLAGS[flag].present and not importing:
            yield f"--{flag} belongs to --mode import, found --mode {FLAGS.mode}"
        elif FLAGS[flag].present and not pathlib.Path(FLAGS[flag].value).expanduser().is_file():
            yield f"--{flag}: found no file {FLAGS[flag].value!r}"
    if importing:
        given = {"--torch_file": FLAGS.torch_file, "--config": config_named, "--workdir": FLAGS.workdir}
        if missing := [flag for flag, value in given.items() if not value]:
            yield f"--mode import needs --torch_file, --config and --workdir; found no {', '.join(missing)}"
