"""`--mode report`: turn run directories into a page, and tables as Markdown, CSV, and LaTeX. Does not need JAX."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from saddle_jax import __version__
from saddle_jax.errors import ConfigError
from saddle_jax.experiment.command_line import Command
from saddle_jax.host import console
from saddle_jax.host.files import write_atomically
from saddle_jax.report import (
    comparisons,
    content,
    curvature,
    differences,
    exports,
    page,
    provenance,
    rows,
    runs,
    tables,
)


def run(command: Command) -> int:
    """Write the report on the command's runs."""
    folders, others = runs.find(command.runs)
    if others:
        console.say("note", f"found no run in {', '.join(map(str, others))}")
    out, columns = pathlib.Path(command.workdir), command.columns or tables.BOTH_GROUPINGS
    findings = _write(folders, out, columns, command.epoch)
    console.say(
        "done",
        f"{out / 'report.html'}, with report.md, figures/, classes.csv, and table and differences as .csv and .tex",
    )
    for finding in findings:
        print("\n".join(_text(finding, command.columns or tables.COLUMNS, command.epoch)))
    return 0


class Finding(NamedTuple):
    """What the report says about a set of images."""

    title: str
    lines: Sequence[tables.Line]
    compared: Sequence[comparisons.Comparison]


def _text(finding: Finding, columns: Sequence[str], epoch: str) -> Iterator[str]:
    """Yield accuracies and differences for a terminal."""
    lines = {line.method: line.reports for line in finding.lines if line.which == epoch}
    if lines:
        yield f"\n{finding.title}; test accuracy in percent at the {epoch} epoch"
        yield tables.comparison(lines, columns, console.columns())
    if finding.compared:
        for sentence in differences.sentences(finding.compared, columns):
            yield console.wrapped(sentence, indent="  ")


def write(
    folders: Sequence[pathlib.Path],
    out: pathlib.Path,
    columns: Sequence[str] = tables.BOTH_GROUPINGS,
    epoch: str = "last",
) -> pathlib.Path:
    """Write the report on run directories into `out` and return the path of the page.

    Args:
      folders: the runs.
      out: folder of the report.
      columns: columns of its tables; table.csv has all.
      epoch: "last" or "best", at which methods are compared.

    Raises:
      ConfigError: `out` can't be written.
    """
    _write(folders, out, columns, epoch)
    return out / "report.html"


def _write(folders: Sequence[pathlib.Path], out: pathlib.Path, columns: Sequence[str], epoch: str) -> list[Finding]:
    try:
        (out / page.FIGURES).mkdir(parents=True, exist_ok=True)
        (out / "report.html").touch()  # fail before the work, not after it
    except OSError as error:
        raise ConfigError(f"--workdir: {out} can't be written ({error}). Fix: another --workdir") from error
    images, lost = rows.arrange(map(runs.read, folders))
    columns = tuple(dict.fromkeys(columns))
    findings = []
    for one in images:
        compared = comparisons.compare(one, columns, epoch)
        findings.append(Finding(one.title, content.lines_of(one, compared, columns, epoch), compared))
    sections = [
        content.section(one, its.lines, its.compared, columns, epoch) for one, its in zip(images, findings, strict=True)
    ]
    found = [(its.title, differences.headline(its.lines, its.compared, epoch)) for its in findings if its.lines]
    blocks = page.with_file_names(_document(images, found, sections, lost, out))
    lines = [line for its in findings for line in its.lines]
    by_title = [(its.title, its.compared) for its in findings]
    write_atomically(out / "report.md", page.as_markdown(blocks))
    write_atomically(out / "table.csv", exports.accuracies_csv(lines))
    by_set = [(one, its.lines) for one, its in zip(images, findings, strict=True)]
    write_atomically(out / "classes.csv", exports.classes_csv(by_set))
    write_atomically(out / "table.tex", exports.accuracies_latex(lines, columns, epoch))
    write_atomically(out / "differences.csv", exports.differences_csv(by_title, epoch))
    write_atomically(out / "differences.tex", exports.differences_latex(by_title, columns, epoch))
    for picture in (one for block in blocks if isinstance(block, page.Pictures) for one in block.pictures):
        for ending, drawn in picture.drawn.files.items():
            write_atomically(out / page.FIGURES / f"{picture.name}{ending}", drawn)
    write_atomically(out / "report.html", page.as_html(blocks))
    return findings


def _document(
    images: Sequence[rows.ImageSet],
    found: Sequence[tuple[str, str]],
    sections: Sequence[Iterator[page.Block]],
    lost: Sequence[runs.Run],
    out: pathlib.Path,
) -> Iterator[page.Block]:
    total = sum(len(rows.all_runs(row)) for one in images for row in one.rows) + len(lost)
    yield page.Heading(f"Report on {total} run{'s' * (total != 1)}", 1)
    for title, headline in found:
        yield page.Text(f"{title}: {headline}" if len(found) > 1 else headline, lead=True)
    yield page.Text(f"Finished runs: {content.count(images)}. Written by saddle_jax {__version__}.")
    yield from content.not_comparable(images)
    yield from provenance.notes(images, lost)
    for one, its_section in zip(images, sections, strict=True):
        yield page.Heading(one.title)
        yield from its_section
        yield from curvature.section(one, out)
        yield from provenance.config_differences(one)
    yield from provenance.runs(images, lost)
