"""The command line: flags through absl and config_flags, with every problem collected before anything heavy starts."""

from __future__ import annotations

import contextlib
import copy
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from saddle_jax.errors import ConfigError, did_you_mean
from saddle_jax.experiment import catalogue, flag_checks, schema
from saddle_jax.experiment import config as config_lib
from saddle_jax.experiment.checks import problems_of
from saddle_jax.experiment.fields import described_type
from saddle_jax.experiment.flag_checks import Processes

FLAGS = flags.FLAGS
_ROOT = pathlib.Path(__file__).parents[2]
DEFAULT_CONFIG = str(_ROOT / "configs/digits_lt.py")
_NO_EXPERIMENTS = ("__init__.py", "default.py", "recipes.py")
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

flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
flags.DEFINE_string("workdir", None, "Directory of the run, or of the report; --help gives the defaults.")
flags.DEFINE_string("checkpoint", None, "latest, best, or a step; eval: by default, both latest and best.")
flags.DEFINE_string("adjust", "none", "eval: none, logit[:TAU], or tau_norm[:TAU].")
flags.DEFINE_string("torch_file", None, "import: a checkpoint that torch.save wrote.")
flags.DEFINE_string("class_map", None, "import: file that says which output is which class.")
flags.DEFINE_list("compare", [], "spectra: runs whose measured spectra are drawn side by side.")
flags.DEFINE_list("runs", [], "report: run directories to read; globs in quotes.")
flags.DEFINE_bool("distributed", False, "train: this is one of several processes.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if the environment does not say.")
flags.DEFINE_integer("num_processes", None, "Number of processes, if the environment does not say.", lower_bound=1)
flags.DEFINE_integer(
    "process_id", None, "This process's number, from 0, if the environment does not say.", lower_bound=0
)
flags.DEFINE_bool("import_code", False, "Import the code outside saddle_jax that a stored run names.")
_PLAIN_FLAGS = copy.deepcopy(FLAGS)


class Command(NamedTuple):
    """The command that the user gave."""

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
    adjust: str = "none"  # see `experiment.adjustment`


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
    plain_problems = {a: problem for a in plain if (problem := _plain_problem(a))}
    FLAGS([argv[0], *(a for a in plain if a not in plain_problems)])
    if FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)  # at the level below, orbax reports every file
    problems = list(plain_problems.values())

    stored = pathlib.Path(FLAGS.workdir or "", "config.json").expanduser()
    try:
        if FLAGS.workdir and not named and stored.is_file() and FLAGS.mode != "report":
            own, loaded = [], config_lib.from_json(stored.read_bytes(), trusted=FLAGS.import_code)
        else:
            loaded = _load(argv[0], named[-1] if named else f"--config={DEFAULT_CONFIG}")
            loaded = _with_own_fields(loaded, ())
            own = problems_of(loaded)
        overrides = list({_field_of(override): override for override in overrides}.values())  # the last of each field
        base = _with_own_fields(loaded, overrides)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    override_problems = {o: problem for o in overrides if (problem := _override_problem(argv[0], o, base))}
    config = _overridden(argv[0], [o for o in overrides if o not in override_problems], base)
    problems += [*override_problems.values(), *own, *problems_of(config, base)]

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
    asked = (FLAGS.checkpoint, FLAGS.compare, FLAGS.runs, FLAGS.torch_file, FLAGS.class_map, processes, FLAGS.adjust)
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


def _load(program: str, argument: str) -> ConfigDict:
    """Return the config of the file that `--config=FILE:ARGUMENTS` names."""
    path = argument.partition("=")[2].partition(":")[0]
    if not pathlib.Path(path).is_file():
        shipped = [os.path.relpath(_ROOT / name) for name in SHIPPED]
        raise ConfigError(f"--config: found no file {path!r}.{did_you_mean(path, shipped)}")
    sys.modules.pop("config_config", None)  # the name under which config_flags keeps every file it loads
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", sys_argv=[program, argument], flag_values=values)
    try:
        values([program, argument])
        config = values.config
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's own file raises
        raise ConfigError(f"--config: {path} can't be loaded: {error}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"--config: get_config() of {path} returned {config!r}, expected a ConfigDict")
    return config


def _with_own_fields(loaded: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Return the config with the fields of those of the user's own entries that the overrides leave chosen."""
    base, values = loaded.copy_and_resolve_references(), config_lib.flatten(loaded)
    chosen = dict(values)
    for override in overrides:
        if (name := _field_of(override)) in catalogue.ENTRIES and name in values:
            chosen[name] = override.partition("=")[2]
    for choice, name in catalogue.dotted_names(chosen).items():
        with contextlib.suppress(ConfigError):  # the checks report what is wrong with it
            catalogue.find(choice, name)
    before, after = schema.own_fields(values), schema.own_fields(chosen)
    with base.unlocked():
        for group in {field.partition(".")[0] for field in before.keys() - after.keys()}:
            del base[group]
        base.update(schema.nested({field: after[field].default for field in after.keys() - values.keys()}))
    return base


def _overridden(program: str, overrides: Sequence[str], base: ConfigDict) -> ConfigDict:
    """Return a copy of the config with the fields that `--config.FIELD=VALUE` set."""
    values, argv = flags.FlagValues(), [program, *overrides]
    config_flags.DEFINE_config_dict(
        "config", base.copy_and_resolve_references(), sys_argv=argv, flag_values=values, lock_config=True
    )
    values(argv)
    return values.config


def _field_of(override: str) -> str:
    return override.lstrip("-").partition("=")[0].removeprefix("no").removeprefix("config.")


def _override_problem(program: str, override: str, base: ConfigDict) -> str | None:
    name, known = _field_of(override), config_lib.flatten(base)
    if name not in known:
        if any(field.startswith(name + ".") for field in known):
            return f"--config.{name} is a group of fields; set one of them, e.g. --config.{name}.…"
        ends = [field for field in known if field.rpartition(".")[2] == name.rpartition(".")[2]]
        hint = f" Did you mean {' or '.join(ends)}?" if ends else did_you_mean(name, known)
        return f"--config.{name}: there is no such field.{hint}"
    try:
        _overridden(program, [override], base)
    except Exception:  # config_flags raises many kinds
        return f"--config.{name}: found {override.partition('=')[2]!r}, expected {described_type(known[name])}"
    return None
