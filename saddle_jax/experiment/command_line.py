"""The command line: flags through absl and config_flags, with every problem collected before anything heavy starts."""

from __future__ import annotations

import copy
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags, logging
from ml_collections import ConfigDict

from saddle_jax.errors import ConfigError
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment import configure, flag_checks
from saddle_jax.experiment.flag_checks import Processes
from saddle_jax.host.files import reason_of

FLAGS = flags.FLAGS
_DEFAULT_CONFIG = "digits_lt"


class Mode(NamedTuple):
    """What the command can do. `--help` shows this."""

    module: str  # in saddle_jax/modes/
    does: str
    flags: tuple[str, ...] = ()  # those that only some modes take
    configured: bool = False  # it takes --config, not a run


MODES = {
    "train": Mode(
        "train",
        "train; evaluate and save along the way",
        ("distributed", "coordinator", "num_processes", "process_id"),
        configured=True,
    ),
    "eval": Mode("evaluate", "evaluate checkpoints on the test images, class by class", ("checkpoint", "adjust")),
    "predict": Mode(
        "predict",
        "classify the files, folders, quoted globs, and lists that follow",
        ("checkpoint", "adjust", "out"),
    ),
    "export": Mode(
        "export",
        "write the network for use without saddle_jax: StableHLO, PyTorch's weights, and ONNX",
        ("checkpoint", "adjust", "out", "formats"),
    ),
    "spectra": Mode("spectra", "measure the Hessian spectrum of each class's loss", ("checkpoint", "compare")),
    "check": Mode(
        "check",
        "build everything, print classes, steps, and sizes, take one step, and draw training images; nothing else is "
        "written",
        ("verbose", "target"),
        configured=True,
    ),
    "report": Mode(
        "report",
        "read runs, and write report.html, with tables of accuracies and differences as .md, .csv, and .tex",
        ("runs", "columns", "epoch"),
    ),
    "import": Mode(
        "import_torch", "make a run from a PyTorch checkpoint", ("torch_file", "class_map"), configured=True
    ),
}

# Help on a flag that takes a value begins with what the value is.
flags.DEFINE_enum("mode", "train", list(MODES), "MODE: what to do")
flags.DEFINE_string(
    "workdir",
    None,
    "DIR: directory of the run; by default runs/<name>-<fingerprint>-s<seed>. The same command continues an unfinished "
    "run. With --mode report: where to write the report; by default report/",
)
flags.DEFINE_string(
    "checkpoint",
    None,
    "WHICH: latest, best, or a step; spectra also takes several, with commas, or all. By default, eval takes the "
    "latest and the best; spectra the latest; predict and export the best if validation images chose it, else the "
    "latest",
)
flags.DEFINE_string(
    "adjust",
    "none",
    "HOW: shift the classifier toward rare classes: logit or tau_norm, with the tau that is best on the validation "
    "images; or logit:TAU or tau_norm:TAU",
)
flags.DEFINE_string(
    "out",
    None,
    "PATH: for predict, a .csv, .jsonl, or .npz file for the probability of every class; for export, a folder",
)
flags.DEFINE_list("formats", [], "LIST: some of stablehlo, safetensors, onnx; by default all that are possible")
flags.DEFINE_string("torch_file", None, "FILE: a checkpoint that torch.save wrote")
flags.DEFINE_string("class_map", None, "FILE: the class of each of the network's outputs")
flags.DEFINE_list("compare", [], "RUNS: draw the measured spectra of these runs side by side, and measure nothing")
flags.DEFINE_list("runs", [], "RUNS: directories of runs; globs in quotes")
flags.DEFINE_list("columns", [], "LIST: columns of the tables, such as overall,tail; by default all but balanced")
flags.DEFINE_enum("epoch", "last", ["last", "best"], "the epoch at which methods are compared")
flags.DEFINE_string(
    "target",
    None,
    "MACHINE: compile the step for another machine, such as v5e:4x4 or h100:8, and print what it needs there",
)
flags.DEFINE_bool("verbose", False, "print every tensor of the network, not only its stages")
flags.DEFINE_bool(
    "distributed", False, "be one of several processes (docs/pods.md), described by the environment or these flags:"
)
flags.DEFINE_string("coordinator", None, "HOST:PORT: of process 0")
flags.DEFINE_integer("num_processes", None, "N: number of processes", lower_bound=1)
flags.DEFINE_integer("process_id", None, "I: number of this process, from 0", lower_bound=0)
flags.DEFINE_bool("import_code", False, "import the user's own code that the run in --workdir names")
_PLAIN_FLAGS = copy.deepcopy(FLAGS)
_PATHS = ("workdir", "out", "torch_file", "class_map", "compare")
# Flags that a command has under their own names.
_PASSED_ON = (
    *("checkpoint", "compare", "runs", "columns", "epoch", "torch_file", "class_map", "adjust", "out", "formats"),
    *("import_code", "verbose", "target"),
)


class Command(NamedTuple):
    """The command that the user gave."""

    mode: str
    workdir: str
    config: ConfigDict
    config_named: bool = False  # --config was given
    checkpoint: str | None = None
    compare: Sequence[str] = ()  # runs
    runs: Sequence[str] = ()  # globs
    columns: Sequence[str] = ()  # of a report; none: the usual ones
    epoch: str = "last"  # of a report: last or best
    torch_file: str | None = None
    class_map: str | None = None  # file
    processes: Processes | None = None  # None: this is the only one
    adjust: str = "none"  # see `experiment.adjustment`
    notes: Sequence[str] = ()  # what was chosen from the images, and why
    images: Sequence[str] = ()  # files, folders, globs, or lists to classify
    out: str | None = None  # file for the predictions, or folder for an export
    formats: Sequence[str] = ()  # of an export; none: all that are possible
    import_code: bool = False  # import the code outside saddle_jax that a stored run names
    verbose: bool = False  # check: print every tensor
    target: str | None = None  # check: the machine to compile for; None: this one
    words: Sequence[str] = ()  # train: what run.json records as the command; () for sys.argv


def parse(argv: list[str]) -> Command:
    """Parse absl's FLAGS from `argv`, trying every argument by itself first, and return what the user asks for.

    Without --config, a --workdir that holds a run means that run's own config, with the overrides on top.

    Raises:
      ConfigError: every argument that can't be understood and every problem that the resulting config shows.
    """
    arguments = _join_values(argv[1:])
    named = [a for a in arguments if a.startswith(("--config=", "-config="))]
    overrides = [a for a in arguments if a.lstrip("-").startswith(("config.", "noconfig."))]
    images = [a for a in arguments if not a.startswith("-")] if "--mode=predict" in arguments else []
    plain = [a for a in arguments if a not in named and a not in overrides and a not in images]
    plain_problems = {a: problem for a in plain if (problem := _plain_problem(a))}
    FLAGS([argv[0], *(a for a in plain if a not in plain_problems)])
    if FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)  # at INFO, orbax reports every file
    problems = list(plain_problems.values())

    stored = pathlib.Path(FLAGS.workdir or "", "config.json").expanduser()
    try:
        if FLAGS.workdir and not named and stored.is_file() and FLAGS.mode != "report":
            configured = configure.of_run(stored.read_bytes(), overrides, trusted=FLAGS.import_code)
        else:
            name = named[-1].partition("=")[2] if named else _DEFAULT_CONFIG
            configured = configure.from_file(name, overrides, _needs_weights)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    config = configured.config
    problems += configured.problems

    seeds = sorted(map(str, pathlib.Path(FLAGS.workdir or "").expanduser().glob("seed-*")))
    if FLAGS.workdir and not named and not stored.is_file() and seeds and FLAGS.mode != "report":
        problems.append(
            f"--workdir: {FLAGS.workdir} holds runs of several seeds. Fix: name one, e.g. --workdir {seeds[0]}; or "
            "--config FILE --config.num_seeds=N to train them"
        )
    problems += flag_checks.problems(config, [*named, *overrides], config_named=bool(named))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    elsewhere = "comparison" if FLAGS.compare else "report" if FLAGS.mode == "report" else ""
    by_default = elsewhere or config_lib.default_workdir(config)
    workdir = pathlib.Path(FLAGS.workdir or by_default).expanduser()
    processes = Processes(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id) if FLAGS.distributed else None
    return Command(
        FLAGS.mode,
        str(workdir),
        config,
        config_named=bool(named),
        processes=processes,
        notes=configured.notes,
        images=images,
        **{name: FLAGS[name].value for name in _PASSED_ON},
    )


def _needs_weights(config: ConfigDict) -> bool:
    """Return whether the command needs the file of the run's first weights in this process."""
    trains = FLAGS.mode == "train" and not FLAGS.distributed  # else, only the first process may have the file
    takes_a_step = FLAGS.mode == "check" and FLAGS.target is None
    return (trains or takes_a_step) and not config_lib.has_saved(config, FLAGS.workdir)


def _join_values(arguments: list[str]) -> list[str]:
    """Write `--flag value` as `--flag=value`, and `--compare a b` as `--compare=a,b`; likewise the other lists."""
    joined: list[str] = []
    for argument in arguments:
        is_value = not argument.startswith("-") or re.match(r"-\.?\d", argument)
        if joined and is_value and joined[-1].startswith("-") and "=" not in joined[-1]:
            joined[-1] += f"={argument}"
        elif joined and is_value and re.match(r"--?(compare|runs|formats|columns)=", joined[-1]):
            joined[-1] += f",{argument}"
        else:
            joined.append(argument)
    return joined


def _plain_problem(argument: str) -> str | None:
    if argument in ("--config", "-config"):
        return "--config: expected a file, e.g. --config cifar10_lt"
    if not argument.startswith("-"):
        return f"{argument!r}: expected a flag such as --config {argument}"
    given = copy.deepcopy(_PLAIN_FLAGS)
    try:
        given(["main.py", argument])
    except flags.Error as error:
        return str(error)
    paths = [(name, path) for name in _PATHS if given[name].present for path in _listed(given[name].value)]
    return next((problem for name, path in paths if (problem := _path_problem(name, path))), None)


def _listed(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def _path_problem(flag: str, path: str) -> str | None:
    """Return why the path can't be used at all, or None. Whether it exists is not checked."""
    try:
        (pathlib.Path(path).expanduser() / "x").lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, RuntimeError) as error:  # too long, no permission, an unknown ~user
        return f"--{flag}: {path!r} can't be used ({reason_of(error)}). Fix: another path"
    return None
