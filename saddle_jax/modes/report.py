"""`--mode report`: turn run directories into report.html, report.md, table.csv, and table.tex. Does not need JAX."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from saddle_jax import __version__
from saddle_jax.errors import ConfigError
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import console
from saddle_jax.host.files import write_atomically
from saddle_jax.report import content, curvature, page, provenance, rows, runs, tables


def run(command: Command) -> int:
    """Write the report on the command's runs."""
    folders, others = runs.find(command.runs)
    if others:
        console.say("note", f"found no run in {', '.join(map(str, others))}")
    path = write(folders, pathlib.Path(command.workdir))
    console.say("done", f"{path}, with report.md, table.csv, and table.tex")
    return 0


def write(folders: Sequence[pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    """Write the report on run directories into `out` and return the path of the page.

    Raises:
      ConfigError: `out` can't be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").touch()  # fail before the work, not after it
    except OSError as error:
        raise ConfigError(f"--workdir: {out} can't be written ({error}). Fix: another --workdir") from error
    images, lost = rows.arrange(map(runs.read, folders))
    blocks = list(_document(images, lost, out))
    lines = [line for one in images for line in content.lines_of(one)]
    write_atomically(out / "report.md", page.as_markdown(blocks))
    write_atomically(out / "table.csv", tables.as_csv(lines))
    write_atomically(out / "table.tex", tables.as_latex(lines))
    write_atomically(out / "report.html", page.as_html(blocks))
    return out / "report.html"


def _document(images: Sequence[rows.ImageSet], lost: Sequence[runs.Run], out: pathlib.Path) -> Iterator[page.Block]:
    total = sum(len(rows.all_runs(row)) for one in images for row in one.rows) + len(lost)
    yield page.Heading(f"Report on {total} run{'s' * (total != 1)}", 1)
    yield page.Text(f"Finished runs: {content.count(images)}. Written by saddle_jax {__version__}.")
    yield from content.not_comparable(images)
    yield from provenance.notes(images, lost)
    for one in images:
        yield page.Heading(one.title)
        yield from content.section(one)
        yield from curvature.section(one, out)
        yield from provenance.config_differences(one)
    yield from provenance.runs(images, lost)
