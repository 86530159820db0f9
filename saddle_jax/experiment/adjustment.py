"""How a trained classifier is adjusted to rare classes afterwards, as text and as recorded in a run. Needs no JAX.

`saddle_jax.posthoc` applies it.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from saddle_jax.errors import ConfigError, DataError, did_you_mean
from saddle_jax.host.files import write_atomically

KINDS = ("none", "logit", "tau_norm")
_EXPECTED = "expected none, logit, logit:TAU, tau_norm, or tau_norm:TAU"


class Adjustment(NamedTuple):
    """An adjustment of the classifier; with `tau` 0 it changes nothing."""

    kind: str = "none"  # one of KINDS
    tau: float | None = None  # strength, 0 or more; None in a user's request means the recorded one

    def __str__(self) -> str:
        return self.kind if self.tau is None else f"{self.kind}:{self.tau:g}"


def parse(text: str) -> Adjustment:
    """Read "none", "logit", "logit:1.5", "tau_norm", or "tau_norm:0.7".

    Raises:
      ConfigError: the text is none of these.
    """
    kind, colon, number = text.partition(":")
    if kind not in KINDS:
        raise ConfigError(f"--adjust: found {text!r}, {_EXPECTED}.{did_you_mean(kind, KINDS)}")
    if not colon:
        return Adjustment(kind)
    try:
        tau = float(number)
    except ValueError:
        tau = math.nan
    if kind == "none" or not math.isfinite(tau) or tau < 0:
        raise ConfigError(f"--adjust: found {text!r}, {_EXPECTED}, where TAU is a number of 0 or more")
    return Adjustment(kind, tau)


def resolve(text: str, workdir: pathlib.Path, step: int | None = None) -> Adjustment:
    """Return the adjustment that the text asks for, with the tau that `--mode eval` recorded if the text has none.

    Args:
      workdir: directory of the run.
      step: step of the checkpoint that is adjusted; None takes the latest step with a record.

    Raises:
      ConfigError: the text can't be read, or no tau is recorded.
      DataError: the record can't be read.
    """
    asked = parse(text)
    if asked.kind == "none" or asked.tau is not None:
        return asked
    found = recorded(workdir, asked.kind)
    if step is None and found:
        step = max(found)
    if step not in found:
        where = f" for step {step}, only for {', '.join(map(str, sorted(found)))}" if found else ""
        checkpoint = "" if step is None else f" --checkpoint {step}"
        raise ConfigError(
            f"--adjust: found {text!r}, but {workdir} has no tau recorded{where}. "
            f"Fix: --mode eval --workdir {workdir}{checkpoint} --adjust {text}, which chooses it on the validation "
            f"images; or --adjust {text}:TAU"
        )
    return Adjustment(asked.kind, found[step])


def recorded(workdir: pathlib.Path, kind: str) -> dict[int, float]:
    """Return the recorded tau of each step.

    Raises:
      DataError: the record can't be read.
    """
    try:
        return {int(step): float(choice["tau"]) for step, choice in _read(workdir).get(kind, {}).items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(workdir, error) from error


def record(workdir: pathlib.Path, step: int, adjustment: Adjustment, details: Mapping[str, Any]) -> pathlib.Path:
    """Write the choice for a step into eval/adjustment.json, in place of an earlier one of its kind; return the path.

    Args:
      details: what else is known of the choice, as JSON values.
    """
    choices = _read(workdir)
    of_kind = {**choices.get(adjustment.kind, {}), str(step): {"tau": adjustment.tau, **details}}
    write_atomically(_path(workdir), json.dumps({**choices, adjustment.kind: of_kind}, indent=1))
    return _path(workdir)


def _path(workdir: pathlib.Path) -> pathlib.Path:
    return workdir / "eval" / "adjustment.json"


def _read(workdir: pathlib.Path) -> dict[str, Any]:
    try:
        return dict(json.loads(_path(workdir).read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(workdir, error) from error


def _unreadable(workdir: pathlib.Path, error: Exception) -> DataError:
    return DataError(
        f"{_path(workdir)} can't be read ({type(error).__name__}: {error}). Fix: delete it, and choose again with "
        "--mode eval --adjust"
    )
