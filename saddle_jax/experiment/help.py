"""The text of `--help`: the whole command, or one topic: a field, a group of fields, or a choice by name."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from saddle_jax.errors import ConfigError, did_you_mean
from saddle_jax.experiment import catalogue, schema
from saddle_jax.experiment.catalogue import ENTRIES, Entry, Link
from saddle_jax.experiment.fields import Field

_FLAGS = ("--help", "-h", "-help", "--helpshort", "--helpfull", "-?")
TITLES = {
    "method": "methods",
    "loss.name": "losses",
    "optim.name": "links",
    "model.name": "networks",
    "data.source": "sources",
}

OVERVIEW = """saddle_jax: long-tailed image classification with sharpness-aware minimization

  saddle-jax --config cifar10_lt:ldam_drw_sam,ratio=100 --workdir runs/ldam
  saddle-jax --config digits_lt --config.seed=1 --config.sam.rho=0.2
  saddle-jax --mode eval --workdir runs/ldam
  saddle-jax --mode spectra --workdir runs/ldam --config.spectra.classes=0,7,8,9
  saddle-jax --mode report --runs 'runs/*'

  In a clone, python main.py is the same command. So is python -m saddle_jax.

  --config FILE[:RECIPE]     the experiment: one of the configs below, or a file of your own; by default digits_lt, or
                             the config of the run in --workdir. The recipe's parts, in any order: LOSS or LOSS_LINK,
                             ratio=, profile=, epochs=, smoke
  --config.FIELD=VALUE       set one field; --help FIELD explains it
  --config.num_seeds=N       train N runs, each in a seed-<n>/ of the workdir, and print mean and standard
                             deviation
  --config.start_from=RUN    begin with the weights of another run that has the same network
  --workdir DIR              the run's directory; by default runs/<name>-<fingerprint>-s<seed>.
                             The same command continues an unfinished run
  --import_code              import the user's own code that the run in --workdir names

  --mode train               train; evaluate and save on the way
         eval                evaluate the latest and the best checkpoint, or --checkpoint latest | best | STEP;
                             --adjust logit or tau_norm shifts the classifier toward rare classes, by a tau that the
                             validation images choose, or by the TAU of logit:TAU or tau_norm:TAU
         predict             classify the files, folders, globs in quotes, and lists that follow; --out FILE keeps the
                             probability of every class as .csv, .jsonl, or .npz
         export              write the network into the folder --out, for use without saddle_jax: StableHLO, PyTorch's
                             weights, and ONNX, or only --formats stablehlo,safetensors,onnx
         spectra             measure the Hessian spectrum of each class's loss at the latest checkpoint, or at
                             --checkpoint; with --compare RUN RUN ... draw the spectra of several runs side by side
         check               build everything, print classes, steps and sizes, take one step, draw training images;
                             nothing else is written
         report              read the runs that --runs names (globs in quotes) and write report.html, report.md, and
                             tables of accuracies and differences (.csv, .tex) into --workdir, by default report/;
                             --columns overall,tail chooses columns, --epoch best compares at the best epoch
         import              make a run from the PyTorch checkpoint that --torch_file names; --class_map FILE says
                             which output is which class

  --distributed              train as one of several processes (docs/pods.md); if the environment does not say
                             who takes part: --coordinator HOST:PORT --num_processes N --process_id I

  --help TOPIC               a field (data.ratio), a group of fields (spectra), a choice (optim.name, loss), or one of
                             its values (optim.sse_sam, loss.ldam, resnet32)

"""

_END = """
exit codes  0 done; 2 config or usage; 3 data; 4 checkpoint, or a disk that cannot be written; 5 non-finite loss;
            6 workdir in use; 75 preempted or stalled, resumable; 70 internal
"""


def topics(argv: Sequence[str]) -> list[str] | None:
    """Return the topics that the command line asks help for, [] for the whole help, or None if it asks for no help."""
    if not any(argument.partition("=")[0] in _FLAGS for argument in argv[1:]):
        return None
    with_equals = [argument.partition("=")[2] for argument in argv[1:] if argument.startswith("--help=")]
    return [*with_equals, *(argument for argument in argv[1:] if not argument.startswith("-"))]


def text(asked: Sequence[str], shipped: Sequence[str]) -> str:
    """Return the help on some topics, or on the command.

    Raises:
      ConfigError: there is no such topic.
    """
    if asked:
        return "\n".join(line for topic in asked for line in _topic(topic.removeprefix("config.")))
    lines = [_wrapped(f"{TITLES[choice]:10s}", ", ".join(names), 12) for choice, names in ENTRIES.items()]
    return OVERVIEW + "\n".join([*lines, _wrapped("configs   ", " ".join(shipped), 12)]) + "\n" + _END


def _topic(topic: str) -> Iterator[str]:
    if catalogue.is_dotted(topic):
        topic = _imported(topic)
    fields = schema.fields_of()
    choice = next((c for c in ENTRIES if topic in (c, c.partition(".")[0], TITLES[c])), None)
    name = topic.rpartition(".")[2] if ":" not in topic else topic
    if topic in fields and topic not in ENTRIES:
        yield from _field(topic, fields[topic])
    elif choice:
        yield f"{choice}: {fields[choice].help}"
        yield ""
        for one, entry in ENTRIES[choice].items():
            yield _wrapped(f"  {one:16s}", entry.summary, 18)
        yield from _group(choice.partition(".")[0], fields)
    elif found := [(c, one) for c, names in ENTRIES.items() for one in names if one == name and _is_of(topic, c)]:
        for its_choice, one in found:
            yield from _entry(its_choice, one, ENTRIES[its_choice][one])
    elif any(field.startswith(f"{topic}.") for field in fields):
        yield from _group(topic, fields)
    else:
        known = [*fields, *(one for names in ENTRIES.values() for one in names), *TITLES.values()]
        raise ConfigError(f"--help: there is no topic {topic!r}.{did_you_mean(topic, known)}")


def _imported(topic: str) -> str:
    """Import a user's own entry, of whichever kind it is, and return its name."""
    problems = []
    for choice in ENTRIES:
        try:
            catalogue.find(choice, topic)
            return topic
        except ConfigError as error:
            problems = error.problems
    raise ConfigError(problems)


def _is_of(topic: str, choice: str) -> bool:
    prefix = "" if catalogue.is_dotted(topic) else topic.rpartition(".")[0]
    return prefix in ("", choice, choice.partition(".")[0])


def _entry(choice: str, name: str, entry: Entry) -> Iterator[str]:
    yield _wrapped(f"--config.{choice}={name}: ", f"{entry.summary}.", 2)
    if entry.paper:
        yield _wrapped("  ", f"{entry.paper}.", 2)
    for field, (value, reason) in entry.requires.items():
        yield _wrapped("  ", f"It needs {field}={value}: {reason}.", 2)
    for field, value in entry.settings.items():
        yield _wrapped("  ", f"Recipes set {field}={value} with it.", 2)
    if isinstance(entry, Link) and entry.size:
        yield f"  Its size is {name}.{entry.size}."
    if entry.fields:
        yield ""
    for field, its in catalogue.own_fields(name, entry).items():
        yield from _field(field, its)


def _group(group: str, fields: Mapping[str, Field]) -> Iterator[str]:
    members = {name: field for name, field in fields.items() if name.rpartition(".")[0] == group}
    if members:
        yield ""
    for name, field in members.items():
        yield from _field(name, field)


def _field(name: str, field: Field) -> Iterator[str]:
    yield f"  --config.{name}={field.default!r}"
    yield _wrapped("      ", f"{field.help}. {described(field)}", 6)


def described(field: Field) -> str:
    """Return which values a field takes, and whether a resumed run may change it."""
    expected = f"Takes {field.expected}." if field.expected else "Takes any text."
    return expected + (" May change when a run is resumed." if field.may_change else "")


def _wrapped(start: str, body: str, indent: int) -> str:
    return textwrap.fill(
        start + body, 118, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
