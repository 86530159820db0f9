"""The command line: flags through absl and config_flags, with every problem collected before anything heavy starts."""

from __future__ import annotations

import copy
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from configs import default, recipes
from saddle_jax import config as config_lib
from saddle_jax.errors import ConfigError
from saddle_jax.validation import problems_of

FLAGS = flags.FLAGS
_ROOT = pathlib.Path(__file__).parent.parent
DEFAULT_CONFIG = str(_ROOT / "configs/digits_lt.py")
_NO_EXPERIMENTS = ("__init__.py", "default.py", "recipes.py")
SHIPPED = sorted(f"configs/{p.name}" for p in _ROOT.glob("configs/*.py") if p.name not in _NO_EXPERIMENTS)
MODES = ("train", "eval", "spectra", "check", "report")
_ARGV: list[str] = []  # what config_flags reads overrides from; filled by `parse`

flags.DEFINE_enum("mode", "train", MODES, "What to do.")
flags.DEFINE_string("workdir", None, "Directory of the run, or of the report; --help tells the defaults.")
flags.DEFINE_string("checkpoint", None, "latest, best or a step; eval: both latest and best if not given.")
flags.DEFINE_list("compare", [], "spectra: runs whose measured spectra are drawn side by side.")
flags.DEFINE_list("runs", [], "report: run directories to read; globs in quotes.")
_PLAIN_FLAGS = copy.deepcopy(FLAGS)  # before --config, whose overrides are flags of their own
config_flags.DEFINE_config_file("config", DEFAULT_CONFIG, "Experiment file, with :arguments.", sys_argv=_ARGV)

HELP = f"""saddle_jax: long-tailed image classification with sharpness-aware minimisation

  python main.py --config configs/cifar10_lt.py:ldam_drw_sam,ratio=100 --workdir runs/ldam
  python main.py --config configs/digits_lt.py --config.seed=1 --config.sam.rho_knots='((0,0.2),)'
  python main.py --mode eval --workdir runs/ldam
  python main.py --mode spectra --workdir runs/ldam --config.spectra.classes=0,7,8,9
  python main.py --mode report --runs 'runs/*'

  --config FILE[:ARGUMENTS]  experiment (default configs/digits_lt.py; with a --workdir that holds a run, its own
                             config); arguments, comma-separated in any order: a method, ratio=, profile=, smoke
  --config.FIELD=VALUE       override one field; configs/default.py lists them all with their units
  --config.num_seeds=N       N runs from config.seed on, each in a seed-<n>/ of the workdir, and their mean and sd
  --workdir DIR              the run's directory; by default runs/<name>-<fingerprint>-s<seed>.
                             The same command continues an unfinished run
  --mode train               train, evaluating and saving on the way
         eval                evaluate a run's latest and best checkpoint (--checkpoint latest | best | STEP)
         spectra             measure the Hessian spectrum of each class's loss at a run's latest checkpoint (or
                             --checkpoint); with --compare RUN RUN ... draw what was measured side by side
         check               build everything, print classes, counts, steps, sizes, run one step, write nothing
         report              read the run directories that --runs names (globs in quotes, comma-separated; a directory
                             of several seeds stands for its seed-*) and write report.html, report.md, table.csv
                             and table.tex into --workdir (default report/). Needs no JAX, and no --config

  methods   {" ".join(recipes.LOSSES)}; each also with _sam
  smoke     any experiment in about a minute on two cores, on digits, without its data set
  configs   {" ".join(SHIPPED)}

exit codes  0 done; 2 config or usage; 3 data; 4 checkpoint; 5 non-finite loss; 6 workdir in use;
            75 preempted, resumable; 70 internal
"""


class Command(NamedTuple):
    """What the user asked for."""

    mode: str
    workdir: str
    config: ConfigDict
    config_named: bool = False  # --config was given
    checkpoint: str | None = None
    compare: Sequence[str] = ()  # runs
    runs: Sequence[str] = ()  # globs


def wants_help(argv: list[str]) -> bool:
    """Return whether the command line asks for help."""
    return any(arg in ("--help", "-h", "-help", "--helpshort", "--helpfull", "-?") for arg in argv[1:])


def parse(argv: list[str]) -> Command:
    """Parse absl's FLAGS from `argv`, trying every argument by itself first, and return what the user asks for.

    Without --config, a --workdir that holds a run means that run's own config, with the overrides on top.

    Raises:
      ConfigError: every argument that can't be understood and every problem that the resulting config shows.
    """
    arguments = _join_values(argv[1:])
    named = [a for a in arguments if a.startswith(("--config=", "-config="))]
    overrides = [a for a in arguments if a.lstrip("-").startswith(("config.", "noconfig."))]
    plain = [a for a in arguments if a not in named and a not in overrides]
    problems = {a: problem for a in plain if (problem := _plain_problem(a))}
    chosen = named[-1] if named else f"--config={DEFAULT_CONFIG}"
    last = {override.lstrip("-").partition("=")[0].removeprefix("no"): override for override in overrides}
    overrides = list(last.values())  # config_flags would put the tuples of a repeated flag together
    base, config_problems = _load(argv[0], chosen)
    if base is None:
        raise ConfigError([*problems.values(), *config_problems])

    problems |= {o: problem for o in overrides if (problem := _override_problem(argv[0], chosen, o, base))}
    _ARGV[:] = [argv[0], chosen, *(o for o in overrides if o not in problems)]
    FLAGS([*_ARGV, *(a for a in plain if a not in problems)])
    if FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)  # orbax tells of every file at the level below
    config = FLAGS.config
    stored = pathlib.Path(FLAGS.workdir or "", "config.json").expanduser()
    if FLAGS.workdir and not named and stored.is_file() and FLAGS.mode != "report":
        config = config_lib.from_json(stored.read_bytes(), default.get_config())
        config.update_from_flattened_dict(FLAGS["config"].override_values)
    everything = [*problems.values(), *problems_of(config, default.get_config())]
    seeds = sorted(map(str, pathlib.Path(FLAGS.workdir or "").expanduser().glob("seed-*")))
    if FLAGS.workdir and not named and not stored.is_file() and seeds and FLAGS.mode != "report":
        everything.append(
            f"--workdir: {FLAGS.workdir} holds runs of several seeds. Fix: one of them, e.g. --workdir {seeds[0]}; or "
            "--config FILE --config.num_seeds=N to train them"
        )
    everything += _mode_problems([*named, *overrides])
    if everything:
        raise ConfigError(everything)
    elsewhere = "comparison" if FLAGS.compare else "report" if FLAGS.mode == "report" else ""
    by_default = elsewhere or config_lib.default_workdir(config)
    workdir = pathlib.Path(FLAGS.workdir or by_default).expanduser()
    return Command(FLAGS.mode, str(workdir), config, bool(named), FLAGS.checkpoint, FLAGS.compare, FLAGS.runs)


def _mode_problems(of_config: list[str]) -> Iterator[str]:
    if FLAGS["runs"].present and FLAGS.mode != "report":
        yield f"--runs belongs to --mode report, found --mode {FLAGS.mode}"
    if FLAGS.mode == "report" and not FLAGS.runs:
        yield "--runs: found nothing, expected the run directories to report on. Fix: e.g. --runs 'runs/*'"
    if FLAGS.mode == "report" and of_config:
        yield f"--mode report reads each run's own config: {of_config[0]} has no effect. Fix: leave it out"
    if FLAGS.checkpoint is not None and FLAGS.mode not in ("eval", "spectra"):
        yield f"--checkpoint belongs to --mode eval and --mode spectra, found --mode {FLAGS.mode}"
    if FLAGS["compare"].present and FLAGS.mode != "spectra":
        yield f"--compare belongs to --mode spectra, found --mode {FLAGS.mode}"
    if FLAGS["compare"].present and len(FLAGS.compare) < 2:
        yield f"--compare: found {len(FLAGS.compare)} run, expected two or more, e.g. --compare runs/sgd runs/sam"
    for run in FLAGS.compare:
        if not pathlib.Path(run).is_dir():
            yield f"--compare: found no directory {run!r}, expected a run whose spectra were measured"
    if FLAGS.compare and FLAGS.checkpoint and not FLAGS.checkpoint.isdecimal():
        yield f"--compare: found --checkpoint {FLAGS.checkpoint!r}, expected a step"


def _join_values(arguments: list[str]) -> list[str]:
    """Write `--flag value` as `--flag=value`, and `--compare a b` as `--compare=a,b`; --runs likewise."""
    joined: list[str] = []
    for argument in arguments:
        is_value = not argument.startswith("-") or re.match(r"-\.?\d", argument)
        if joined and is_value and joined[-1].startswith("-") and "=" not in joined[-1]:
            joined[-1] += f"={argument}"
        elif joined and is_value and re.match(r"--?(compare|runs)=", joined[-1]):
            joined[-1] += f",{argument}"
        else:
            joined.append(argument)
    return joined


def _plain_problem(argument: str) -> str | None:
    if argument in ("--config", "-config"):
        return "--config: expected a file, e.g. --config configs/cifar10_lt.py"
    if not argument.startswith("-"):
        return f"{argument!r}: expected a flag such as --config {argument}"
    try:
        copy.deepcopy(_PLAIN_FLAGS)(["main.py", argument])
    except flags.Error as error:
        return str(error)
    return None


def _load(program: str, argument: str) -> tuple[ConfigDict | None, list[str]]:
    path = argument.partition("=")[2].partition(":")[0]
    if not pathlib.Path(path).is_file():
        shipped = [os.path.relpath(_ROOT / name) for name in SHIPPED]
        return None, [f"--config: found no file {path!r}.{config_lib.did_you_mean(path, shipped)}"]
    sys.modules.pop("config_config", None)  # the name under which config_flags keeps every file it loads
    try:
        config = _parse_config([program, argument])
        if isinstance(config, ConfigDict):
            return config, []
        return None, [f"--config: get_config() of {path} returned {config!r}, expected a ConfigDict"]
    except ConfigError as error:
        return None, error.problems
    except Exception as error:  # whatever a user's own file raises
        return None, [f"--config: {path} can't be loaded: {error}"]


def _parse_config(argv: list[str]) -> ConfigDict:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", sys_argv=argv, flag_values=values)
    values(argv)
    return values.config


def _override_problem(program: str, config_argument: str, override: str, base: ConfigDict) -> str | None:
    name = override.lstrip("-").partition("=")[0].partition(".")[2]
    known = config_lib.flatten(base)
    if name not in known:
        if any(field.startswith(name + ".") for field in known):
            return f"--config.{name} is a group of fields; set one of them, e.g. --config.{name}.…"
        ends = [field for field in known if field.rpartition(".")[2] == name.rpartition(".")[2]]
        hint = f" Did you mean {' or '.join(ends)}?" if ends else config_lib.did_you_mean(name, known)
        return f"--config.{name}: there is no such field.{hint}"
    try:
        _parse_config([program, config_argument, override])
    except Exception as error:  # config_flags raises many kinds
        value = override.partition("=")[2]
        kind = type(known[name]).__name__
        reason = str(error).splitlines()[-1]
        return f"--config.{name}: found {value!r}, expected {kind} such as {known[name]!r} ({reason})"
    return None
