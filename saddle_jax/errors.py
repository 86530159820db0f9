"""The errors that can end a run, each with an exit code that scripts can rely on."""

from __future__ import annotations

import difflib
import errno
import shutil
import sys
import textwrap
import traceback
from collections.abc import Iterable, Sequence


class SaddleError(Exception):
    """An expected failure: one clear message, one exit code, no traceback."""

    exit_code = 70


class ConfigError(SaddleError):
    """Everything that is wrong with the command line or the config, reported at once."""

    exit_code = 2

    def __init__(self, problems: Sequence[str] | str):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        count = len(self.problems)
        lines = [f"config error ({count} problem{'s' if count != 1 else ''})"]
        lines += [f"  - {problem}" for problem in self.problems]
        super().__init__("\n".join(lines))


class DataError(SaddleError):
    """The data set is missing, unreadable, or not what the config says."""

    exit_code = 3


class CheckpointError(SaddleError):
    """A checkpoint is missing, damaged, or from another model, or a run can't write to disk."""

    exit_code = 4


class NonFiniteError(SaddleError):
    """The loss or its gradient is no longer finite."""

    exit_code = 5


class OperatorError(SaddleError):
    """The operator is not a fixed, symmetric Hessian, so its spectrum would mean nothing."""


class WorkdirInUse(SaddleError):
    """Another process is training in the same directory."""

    exit_code = 6


class Preempted(SaddleError):
    """The run stopped because of SIGTERM, SIGINT, or a stall. The same command resumes it."""

    exit_code = 75


def tell(error: BaseException, who: str = "") -> int:
    """Print the error that ended the program, with `who` in front, and return the exit code."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # a path in the config
        error = ConfigError(f"found a path that is too long, {error.filename!r}. Fix: use a shorter one")
    if isinstance(error, SaddleError):
        print(_in_columns(f"{who}{error}"), file=sys.stderr)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        print(f"{who}interrupted before the first step. Fix: run the same command to start again", file=sys.stderr)
        return Preempted.exit_code
    traceback.print_exception(error)
    return SaddleError.exit_code


def _in_columns(text: str) -> str:
    """Wrap the text between words to the terminal's width. A log gets it unchanged."""
    if not sys.stderr.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )


def first_lines(lines: Sequence[str], shown: int = 10) -> list[str]:
    """Return the first few lines as a bulleted list, then a line with the number of the others."""
    more = [f"  ... and {len(lines) - shown:,} more"] if len(lines) > shown else []
    return [*(f"  - {line}" for line in lines[:shown]), *more]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" if a known word is similar, else ""."""
    near = difflib.get_close_matches(word, list(known), n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""
