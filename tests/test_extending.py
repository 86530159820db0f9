"""docs/extending.md is run as it stands, in a folder outside of the repository; and what it promises is tried."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from saddle_jax.errors import ConfigError
from saddle_jax.experiment import catalogue, command_line

TEXT = (ROOT / "docs/extending.md").read_text()
FILES = {path: body for path, body in re.findall(r"```python\n# (\S+)\n(.*?)```", TEXT, re.DOTALL)}
COMMANDS = [
    shlex.split(command.replace("\\\n", " "))[1:]
    for command in re.findall(r"^    (saddle-jax (?:.*\\\n)*.*)$", TEXT, re.MULTILINE)
]


def write_package(folder):
    for path, body in FILES.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(body)
    return folder


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder with the package of the page."""
    return write_package(tmp_path_factory.mktemp("outside"))


def run(folder, *arguments, expected=0):
    """Run a command in a folder; return what it prints."""
    script = [ROOT / "main.py", *map(in_smoke, arguments)]
    result = in_process(script, folder)
    assert result.returncode == expected, result.stdout
    return result.stdout


def in_process(script, folder):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *script], cwd=folder, env=environment, text=True, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


# Commands one after the other in one process, which has to start only once.
SEVERAL = """
import json, sys
from saddle_jax.__main__ import main, parse_flags
from saddle_jax.experiment.command_line import FLAGS

for arguments in json.loads(sys.argv[1]):
    FLAGS.unparse_flags()
    try:
        code = main(parse_flags(["main.py", *arguments]))
    except SystemExit as error:
        code = error.code
    print(f"\\nended with {code or 0}", flush=True)
"""


def all_told(folder, commands, expected):
    """Run commands that end with the same code; return what each prints."""
    # -P: as with a script, Python does not look for modules in the working directory.
    printed = in_process(["-P", "-c", SEVERAL, json.dumps([list(map(in_smoke, c)) for c in commands])], folder).stdout
    *told, rest = printed.split(f"\nended with {expected}\n")
    assert len(told) == len(commands) and not rest, printed
    return told


def in_smoke(argument):
    """Return the argument with a shipped config in its smoke version."""
    return argument.replace("digits_lt:", "digits_lt:smoke,")


def test_the_page_has_what_it_promises():
    assert len(FILES) == len(COMMANDS) == 4


def workdir_of(number, outside):
    return outside / f"runs/{number}"


@pytest.fixture(scope="module")
def trained(outside):
    """What the page's commands print. The first one has a process of its own, as they are typed."""
    short = ["--config.duration=4 steps", "--config.eval.every=2 steps", "--config.checkpoint_every=2 steps"]
    first, *others = [
        [*command, f"--workdir={workdir_of(number, outside)}", *short, "--config.log_every=1 steps"]
        for number, command in enumerate(COMMANDS)
    ]
    return [run(outside, *first), *all_told(outside, others, 0)]


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_an_entry_from_outside_trains(number, trained, outside):
    assert "done" in trained[number]
    workdir = workdir_of(number, outside)
    (name,) = json.loads((workdir / "run.json").read_text())["starts"][0]["own_code"].values()
    assert name["sha256"] and name["file"].startswith(str(outside))
    config = json.loads((workdir / "config.json").read_text())
    assert name["name"].rpartition(":")[2] in config


@pytest.mark.usefixtures("trained")
def test_runs_with_entries_from_outside_in_use(outside, tmp_path):
    workdir = workdir_of(0, outside)
    # Somebody else's run: its code is named, and imported with a flag only; training beside it imports nothing either.
    other = ["--config=digits_lt:ce_sam", f"--workdir={workdir}"]
    stranger, refused = all_told(tmp_path, [other, ["--mode=eval", f"--workdir={workdir}"]], 2)
    assert "names code from outside" in stranger
    assert "names code from outside" in refused and "my_package.losses:balanced" in refused
    evaluate = [["--mode=eval", f"--workdir={workdir_of(n, outside)}", "--import_code"] for n in (0, 1)]
    assert all("accuracy" in told for told in all_told(outside, evaluate, 0))
    assert "factor on the log of the prior" in run(outside, "--help=my_package.losses:balanced")
    report = run(outside, "--mode=report", f"--runs={workdir}", f"--workdir={outside}/report")
    assert "done" in report  # which reads files, and imports nothing
    assert "balanced" in (outside / "report/report.md").read_text()


def test_what_does_not_fulfil_the_contract_is_refused_in_words(tmp_path):
    folder = write_package(tmp_path)
    start = ["--mode=check", "--config", "digits_lt:ce_sam", f"--workdir={tmp_path}/run"]
    found = run(
        folder, *start, "--config.loss.name=my_package.losses:balanced", "--config.balanced.tau=-1",
        "--config.model.name=my_package.nothing:x", "--config.batch_size=0", expected=2,
    )  # fmt: skip
    for part in (
        "3 problems",
        "balanced.tau: found -1.0",
        "my_package.nothing can't be imported",
        "batch_size: found 0",
    ):
        assert part in found
    (folder / "my_package/wrong.py").write_text(
        "from saddle_jax.experiment.catalogue import Link, Loss\n"
        "from saddle_jax.optim.link import make_link\n"
        "total = Loss('one number', lambda fields, stats, scale: lambda logits, labels: logits.sum())\n"
        "fails = Loss('fails', lambda fields, stats, scale: lambda logits, labels: logits * fields.missing)\n"
        "tuples = Link('tuples', lambda fields, context: make_link(lambda g, p, a: (g, 1.0), name='x'))\n"
        "nothing = Link('no link', lambda fields, context: 3)\n"
        "sam = Link('a taken name', lambda fields, context: 3, fields=nothing.fields)\n"
    )
    cases = (
        ("loss.name", "total", "expected one floating-point number per example, shape (2,)"),
        ("loss.name", "nothing", "is a Link, expected a saddle_jax.experiment.catalogue.Loss"),
        ("loss.name", "totl", "Did you mean total?"),
        ("optim.name", "nothing", "returned int, expected an optax.GradientTransformationExtraArgs"),
        ("loss.name", "fails", "my_package.wrong:fails fails: AttributeError"),
        ("optim.name", "tuples", "my_package.wrong:tuples fails: AttributeError"),
        ("optim.name", "sam", "rename the entry"),
    )
    commands = [[*start, f"--config.{field}=my_package.wrong:{name}"] for field, name, _ in cases]
    for found, (_, _, words) in zip(all_told(folder, commands, 2), cases, strict=True):
        assert words in found


def test_a_config_file_names_an_entry_and_a_command_another(outside, monkeypatch):
    monkeypatch.chdir(outside)
    for choice, entries in catalogue.ENTRIES.items():
        monkeypatch.setitem(catalogue.ENTRIES, choice, dict(entries))  # what is imported here joins only these
    (outside / "mine.py").write_text(
        "from configs import digits_lt\n"
        "def get_config():\n"
        "    config = digits_lt.get_config('smoke,ce')\n"
        "    config.loss.name = 'my_package.losses:balanced'\n"
        "    return config\n"
    )
    config = command_line.parse(["main.py", "--config=mine.py", "--config.balanced.tau=0.5"]).config
    assert (config.loss.name, config.balanced.tau) == ("my_package.losses:balanced", 0.5)
    config = command_line.parse(["main.py", "--config=mine.py", "--config.loss.name=vs"]).config
    assert config.loss.name == "vs" and "balanced" not in config
    with pytest.raises(ConfigError, match="balanced.tau: there is no such field"):
        command_line.parse(["main.py", "--config=mine.py", "--config.loss.name=vs", "--config.balanced.tau=1"])
