"""The command line: flags through absl and config_flags, with every problem collected before anything heavy starts."""

from __future__ import annotations

import copy
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from configs import default, recipes
from saddle_jax.errors import ConfigError, did_you_mean
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment import flag_checks
from saddle_jax.experiment.checks import problems_of
from saddle_jax.experiment.flag_checks import Processes

FLAGS = flags.FLAGS
_ROOT = pathlib.Path(__file__).parents[2]
DEFAULT_CONFIG = str(_ROOT / "configs/digits_lt.py")
_NO_EXPERIMENTS = ("__init__.py", "default.py", "links.py", "recipes.py")
SHIPPED = sorted(
    p.relative_to(_ROOT).as_posix() for p in _ROOT.glob("configs/**/*.py") if p.name not in _NO_EXPERIMENTS
)
MODES = {  # each with its module in saddle_jax/modes/
    "train": "train",
    "eval": "evaluate",
    "spectra": "spectra",
    "check": "check",
    "report": "report",
    "import": "import_torch",
}
_ARGV: list[str] = []  # what config_flags reads overrides from; filled by `parse`

flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
flags.DEFINE_string("workdir", None, "Directory of the run, or of the report; --help tells the defaults.")
flags.DEFINE_string("checkpoint", None, "latest, best or a step; eval: both latest and best if not given.")
flags.DEFINE_string("torch_file", None, "import: a checkpoint that torch.save wrote.")
flags.DEFINE_string("class_map", None, "import: file that tells which of its outputs is which class.")
flags.DEFINE_list("compare", [], "spectra: runs whose measured spectra are drawn side by side.")
flags.DEFINE_list("runs", [], "report: run directories to read; globs in quotes.")
flags.DEFINE_bool("distributed", False, "train: this is one of several processes.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where the environment does not tell.")
flags.DEFINE_integer("num_processes", None, "How many processes take part, likewise.", lower_bound=1)
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, likewise.", lower_bound=0)
_PLAIN_FLAGS = copy.deepcopy(FLAGS)  # before --config, whose overrides are flags of their own
config_flags.DEFINE_config_file("config", DEFAULT_CONFIG, "Experiment file, with :arguments.", sys_argv=_ARGV)

HELP = f"""saddle_jax: long-tailed image classification with sharpness-aware minimisation

  python main.py --config configs/cifar10_lt.py:ldam_drw_sam,ratio=100 --workdir runs/ldam
  python main.py --config configs/digits_lt.py --config.seed=1 --config.sam.rho_knots='((0,0.2),)'
  python main.py --mode eval --workdir runs/ldam
  python main.py --mode spectra --workdir runs/ldam --config.spectra.classes=0,7,8,9
  python main.py --mode report --runs 'runs/*'

  --config FILE[:ARGUMENTS]  experiment (default configs/digits_lt.py; with a --workdir that holds a run, its own
                             config); arguments, comma-separated in any order: a method, ratio=, profile=, epochs=,
                             smoke
  --config.FIELD=VALUE       override one field; configs/default.py lists them all with their units
  --config.num_seeds=N       N runs from config.seed on, each in a seed-<n>/ of the workdir, and their mean and sd
  --config.start_from=RUN    begin with the weights of another run of the same network
  --workdir DIR              the run's directory; by default runs/<name>-<fingerprint>-s<seed>.
                             The same command continues an unfinished run
  --mode train               train, evaluating and saving on the way
         eval                evaluate a run's latest and best checkpoint (--checkpoint latest | best | STEP)
         spectra             measure the Hessian spectrum of each class's loss at a run's latest checkpoint (or
                             --checkpoint); with --compare RUN RUN ... draw what was measured side by side
         check               build everything, print classes, counts, steps, sizes, run one step, draw what
                             training images look like (plots/views.png of the run), write nothing else
         report              read the run directories that --runs names (globs in quotes, comma-separated; a directory
                             of several seeds stands for its seed-*) and write report.html, report.md, table.csv
                             and table.tex into --workdir (default report/). Needs no JAX, and no --config
         import              make a new run of a PyTorch checkpoint, --torch_file, for eval and spectra; --class_map
                             FILE where its outputs are not in the order of the classes

  --distributed              train: this is one of several processes, each with its own devices. Under SLURM, Open MPI,
                             Cloud TPU and Kubernetes JAX finds the others; elsewhere --coordinator HOST:PORT
                             --num_processes N --process_id I tell (docs/pods.md)

  methods   {" ".join(recipes.LOSSES)}; each also with _sam
  smoke     any experiment in about a minute on two cores, on digits, without its data set
  configs   {" ".join(SHIPPED)}

exit codes  0 done; 2 config or usage; 3 data; 4 checkpoint, or a disk that refuses; 5 non-finite loss;
            6 workdir in use; 75 preempted or stalled, resumable; 70 internal
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
    torch_file: str | None = None
    class_map: str | None = None  # file
    processes: Processes | None = None  # None: this is the only one


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
    everything += flag_checks.problems(config, [*named, *overrides], config_named=bool(named))
    if everything:
        raise ConfigError(everything)
    elsewhere = "comparison" if FLAGS.compare else "report" if FLAGS.mode == "report" else ""
    by_default = elsewhere or config_lib.default_workdir(config)
    workdir = pathlib.Path(FLAGS.workdir or by_default).expanduser()
    processes = Processes(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id) if FLAGS.distributed else None
    asked = (FLAGS.checkpoint, FLAGS.compare, FLAGS.runs, FLAGS.torch_file, FLAGS.class_map, processes)
    return Command(FLAGS.mode, str(workdir), config, bool(named), *asked)


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
        return None, [f"--config: found no file {path!r}.{did_you_mean(path, shipped)}"]
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
        hint = f" Did you mean {' or '.join(ends)}?" if ends else did_you_mean(name, known)
        return f"--config.{name}: there is no such field.{hint}"
    try:
        _parse_config([program, config_argument, override])
    except Exception as error:  # config_flags raises many kinds
        value = override.partition("=")[2]
        kind = type(known[name]).__name__
        reason = str(error).splitlines()[-1]
        return f"--config.{name}: found {value!r}, expected {kind} such as {known[name]!r} ({reason})"
    return None
