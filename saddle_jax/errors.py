"""What can end a run, each with the exit code that a script can rely on."""

from __future__ import annotations

import difflib
import sys
import traceback
from collections.abc import Iterable, Sequence


class SaddleError(Exception):
    """An expected failure: one clear message, one exit code, no traceback."""

    exit_code = 70


class ConfigError(SaddleError):
    """Everything that is wrong with the command line or the config, told at once."""

    exit_code = 2

    def __init__(self, problems: Sequence[str] | str):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        count = len(self.problems)
        lines = [f"config error ({count} problem{'s' if count != 1 else ''})"]
        lines += [f"  - {problem}" for problem in self.problems]
        super().__init__("\n".join(lines))


class DataError(SaddleError):
    """The data set is missing, unreadable or not what the config says."""

    exit_code = 3


class CheckpointError(SaddleError):
    """A checkpoint is missing, damaged or belongs to another model, or the disk refuses what a run has to write."""

    exit_code = 4


class NonFiniteError(SaddleError):
    """The loss or its gradient stopped being a number."""

    exit_code = 5


class OperatorError(SaddleError):
    """What should be a Hessian is not fixed or not symmetric; no spectrum of it would mean anything."""


class WorkdirInUse(SaddleError):
    """Another process trains in the same directory."""

    exit_code = 6


class Preempted(SaddleError):
    """SIGTERM or SIGINT was honoured, or a stall found: the same command resumes."""

    exit_code = 75


def tell(error: BaseException, who: str = "") -> int:
    """Print what ended the program, after `who` it befell; return the exit code."""
    if isinstance(error, SaddleError):
        print(f"{who}{error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        print(f"{who}interrupted before the first step; the same command starts again", file=sys.stderr)
        return Preempted.exit_code
    traceback.print_exception(error)
    return SaddleError.exit_code


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" where a known word is near, and nothing where none is."""
    near = difflib.get_close_matches(word, list(known), n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""
