"""A pytest plugin: count the trials of each family of faults, and write the table of docs/reliability.md.

PYTHONPATH=tests python -m pytest -p fault_figures -n 2 -m faults
"""

import collections
import importlib.metadata
import os
import pathlib
import time

import pytest

BEGIN, END = "<!-- figures: written by make test-faults -->\n", "<!-- end of figures -->\n"
_trials, _faults, _failed = collections.Counter(), collections.Counter(), collections.Counter()
_began = time.monotonic()
KILLS = ("K1", "K2", "K3", "K4", "K5")


def pytest_collection_modifyitems(items):
    for item in items:
        item.user_properties.extend(("family", marker.args[0]) for marker in item.iter_markers("faults"))


def pytest_runtest_logreport(report):
    """Count in the process that all reports reach."""
    properties = dict(report.user_properties)
    if "family" not in properties or report.skipped or (report.when != "call" and not report.failed):
        return
    family = properties["family"]
    _trials[family] += report.when == "call"
    _faults[family] += properties.get("faults", 1) if report.when == "call" else 0
    _failed[family] += report.failed


def table():
    """Return the table, a line for each family."""
    versions = f"jax {importlib.metadata.version('jax')}, orbax {importlib.metadata.version('orbax-checkpoint')}"
    minutes = (time.monotonic() - _began) / 60
    where = f"{os.cpu_count()} CPU cores, {versions}, {minutes:.0f} minutes"
    lines = [f"Measured on {time.strftime('%Y-%m-%d')}: {where}.", "", "| family | trials | faults | failed |"]
    lines += ["|---|---|---|---|"]
    lines += [f"| {name} | {_trials[name]} | {_faults[name]:,} | {_failed[name]} |" for name in sorted(_trials)]
    total = [sum(counter.values()) for counter in (_trials, _faults, _failed)]
    kills = sum(_faults[name] for name in KILLS)
    lines += [f"| all | {total[0]} | {total[1]:,} | {total[2]} |", ""]
    if kills and not any(_failed[name] for name in KILLS):
        lines += [f"None of {kills} kills lost a run: below {300 / kills:.1f} % a kill, with 95 % confidence."]
    return "\n".join(lines) + "\n"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput") or not _trials:
        return
    print(f"\n\n{table()}")
    if "SADDLE_FIGURES" not in os.environ:
        return
    page = pathlib.Path(os.environ["SADDLE_FIGURES"])
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(before + BEGIN + "\n" + table() + "\n" + END + rest.partition(END)[2])
