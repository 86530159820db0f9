"""Standard output: who reads it, and how lines, panels, tables, and live progress look for them.

There are two kinds of readers. A terminal gets colors, panels, and a live bar. A log, a notebook, a dumb terminal, and
users who set NO_COLOR get plain lines, one for each fact. Callers pass the facts and never look at the terminal
themselves. The package rich draws; it is imported only for drawing, so that importing saddle_jax stays fast.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from saddle_jax.host.threads import beside

if TYPE_CHECKING:
    import rich.console
    import rich.live

LOG_COLUMNS = 80  # width of a table in a log
_WIDEST = 100  # the most columns that a panel takes
_NARROWEST = 8  # the fewest columns that wrapped text gets
_LONG = 2.0  # seconds after which a log says what is being done
_STYLES = {"note": "yellow", "error": "bold red", "done": "bold green", "eval": "cyan"}  # for a line's first word


class Table(NamedTuple):
    """A table. Numbers are aligned to the right, text to the left."""

    columns: Sequence[str]  # headings
    rows: Sequence[Sequence[str]]
    align: str  # a letter for each column: l, r, or w for text that wraps
    title: str = ""


class Bar(NamedTuple):
    """The state of some work, for the live bar."""

    title: str
    done: float  # 0 to 1
    right: str  # text at its right end, such as the remaining time
    lines: Sequence[str]  # below the bar


class _Shown:
    """What is live on the terminal now."""

    draw: Callable[[], Bar | str] | None = None
    live: rich.live.Live | None = None

    def __rich__(self) -> Any:
        """Draw it. rich calls this a few times a second, and for every line that is printed above the bar."""
        draw = _Shown.draw  # another thread may clear _Shown.draw
        return _bar(draw()) if draw else ""


def is_live() -> bool:
    """Return whether standard output is a terminal that takes colors and lets lines be overwritten."""
    if _Shown.live is not None:  # rich has replaced sys.stdout
        return True
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return False
    return _is_terminal() and (sys.stdout.encoding or "").lower().startswith("utf")


def columns() -> int:
    """Return how many columns a line may take: those of the terminal, or those of a table in a log."""
    return shutil.get_terminal_size((LOG_COLUMNS, 24)).columns if _is_terminal() else LOG_COLUMNS


def wrapped(text: str, indent: str = "") -> str:
    """Wrap a text into lines that fit, and indent all lines but the first."""
    return textwrap.fill(text, columns(), subsequent_indent=indent)


def say(word: str, text: str, label: str = "") -> None:
    """Print a line: the label of one of several runs, a word that says what the line is, and the text.

    A log gets one line, however long. On a terminal, a long text wraps in its own column.
    """
    start = f"{label}  " if label else ""
    if _is_terminal():
        _print(_facts([(f"{start}{word:6s}", [text])]))
    else:
        print(f"{start}{word:6s} {text}", flush=True)


def panel(title: str, about: str, facts: Sequence[tuple[str, Sequence[str]]] = ()) -> None:
    """Print facts that belong together; on a terminal, in a frame.

    Args:
      title: title of the frame; in a log, the first word.
      about: the first line.
      facts: pairs of a word and the parts of its text. A log gets a line for each pair.
    """
    if not is_live():
        say(title, f" {about}" if len(title) > 6 else about)
        for word, parts in facts:
            say(word, "; ".join(parts))
        return
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    style = _STYLES.get(title, "cyan")
    content = Group(Text(about, "bold"), *([_facts(facts)] if facts else []))
    framed = Panel(content, title=Text(title, style), title_align="left", border_style=style.split()[-1])
    _print(framed, width=min(columns(), _WIDEST))


def table(content: Table) -> None:
    """Print a table. If it does not fit, text wraps, and the last columns of text are left out."""
    _print(_drawn(content, columns(), framed=is_live()))


def as_text(content: Table) -> str:
    """Return a table as a log shows it."""
    return _plain(_drawn(content, LOG_COLUMNS, framed=False), LOG_COLUMNS)


def lines(text: str) -> None:
    """Print lines that are already formatted. On a terminal, headings are bold and flags are colored."""
    if not is_live():
        print(text, flush=True)
        return
    from rich.highlighter import RegexHighlighter
    from rich.text import Text

    class Help(RegexHighlighter):
        highlights = [r"(?m)(?P<bold>^\S.*$)", r"(?m)^ +(?P<cyan>\S+(?: \S+)*)(?=  )", r"(?P<cyan>--\w[\w.]*)"]

    _print(Help()(Text(text)))


@contextlib.contextmanager
def doing(what: str, *, quiet: bool = False) -> Iterator[None]:
    """While the block runs, show `what` on a terminal, with a clock. A log gets a line if the block takes seconds."""
    began = time.monotonic()

    def tell(ended: threading.Event) -> None:
        if not ended.wait(_LONG):
            say("now", f"{what} ...")

    if not quiet:
        show(lambda: clock(what, began))
    try:
        with contextlib.nullcontext() if quiet or is_live() else beside(tell, "slow"):
            yield
    finally:
        hide()


def clock(what: str, began: float) -> str:
    """Return what is being done and for how long; `began` is when it started, by time.monotonic."""
    return f"{what} ... {duration(time.monotonic() - began)}"


def duration(seconds: float) -> str:
    """Format seconds as 42s, 3m10s, or 2h05m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def show(draw: Callable[[], Bar | str]) -> None:
    """Keep what `draw` returns at the bottom of the terminal, redrawn a few times a second. A log gets nothing."""
    _Shown.draw = draw
    if _Shown.live is None and is_live():
        from rich.live import Live

        apart = not sys.stderr.isatty()  # stderr goes to a file, so keep it off the terminal
        _Shown.live = Live(
            _Shown(), console=_terminal(), transient=True, refresh_per_second=4, redirect_stderr=not apart
        )
        _Shown.live.start()


def hide() -> None:
    """Remove what `show` shows."""
    _Shown.draw = None
    if _Shown.live is not None:
        _Shown.live.stop()
        _Shown.live = None


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


@functools.cache
def _terminal() -> rich.console.Console:
    from rich.console import Console

    class Terminal(Console):
        """A terminal whose cursor stays visible, because a process that is killed could not bring it back."""

        def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002
            return False

    return Terminal(force_terminal=True, force_jupyter=False, highlight=False, markup=False, emoji=False)


def _print(content: Any, width: int | None = None) -> None:
    """Print what rich can draw: in color on a terminal, else as plain text."""
    if is_live():
        _terminal().print(content, width=width)
        return
    print(_plain(content, columns()), flush=True)


def _plain(content: Any, width: int) -> str:
    from rich.console import Console

    plain = Console(
        file=io.StringIO(), width=width, color_system=None, force_terminal=False, force_jupyter=False,
        highlight=False, markup=False, emoji=False, no_color=True,
    )  # fmt: skip
    plain.print(content)
    return "\n".join(line.rstrip() for line in plain.file.getvalue().splitlines())  # type: ignore


def _facts(facts: Sequence[tuple[str, Sequence[str]]]) -> Any:
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True, min_width=6)
    grid.add_column(overflow="fold")
    for word, parts in facts:
        grid.add_row(Text(word, _STYLES.get(word.split()[-1], "dim")), Text("\n".join(parts)))
    return grid


def _drawn(content: Table, width: int, *, framed: bool) -> Any:
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(
        box=box.SIMPLE_HEAD if framed else None,
        title=Text(content.title) if content.title else None,
        title_justify="left",
        pad_edge=False,
        header_style="bold",
    )
    drawn.padding = (0, 1 if framed else 2, 0, 0)  # the frame already puts one blank between columns
    number = _fitting(content, width - 2 * framed)
    for heading, side in zip(content.columns[:number], content.align, strict=False):
        right = side == "r"
        drawn.add_column(Text(heading), justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in content.rows:
        drawn.add_row(*map(Text, row[:number]))
    return drawn


def _fitting(content: Table, width: int) -> int:
    """Return how many columns of a table fit: all, or all but the last columns of text."""
    from rich.cells import cell_len

    needed = [max(map(cell_len, column)) for column in zip(content.columns, *content.rows, strict=True)]
    needed = [min(n, _NARROWEST) if a == "w" else n for n, a in zip(needed, content.align, strict=True)]
    number = len(needed)
    while sum(needed[:number]) + 2 * (number - 1) > width and number > 2 and content.align[number - 1] != "r":
        number -= 1
    return number


def _bar(content: Bar | str) -> Any:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table as Grid
    from rich.text import Text

    if isinstance(content, str):
        return Text(content, "cyan")
    grid = Grid.grid(padding=(0, 1, 0, 0), expand=True)
    for ratio in (None, 1, None):
        grid.add_column(no_wrap=True, ratio=ratio)
    grid.add_row(Text(content.title, "bold"), ProgressBar(1.0, content.done), Text(content.right, "cyan"))
    return Group(grid, *map(Text, content.lines))
