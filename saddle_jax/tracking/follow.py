"""Follow a run's own files while they grow, and send what is new to a tracker, each step once. Does not need JAX.

Training knows nothing of this. The run's trackers/<tracker>/state.json records what has been sent. After a crash, or
when the run is resumed, another process continues from there.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from saddle_jax.host import console
from saddle_jax.host.files import write_atomically
from saddle_jax.report.runs import is_number
from saddle_jax.tracking import about as about_lib
from saddle_jax.tracking import pictures
from saddle_jax.tracking.about import About
from saddle_jax.training import metrics

_POLL = 1.0  # seconds between looks at the files
_RETRY = 60.0  # seconds until a failed send is tried again
_AT_ONCE = 100  # records


class Record(NamedTuple):
    """Scalars of a step."""

    kind: str  # records of a kind have rising steps: "train", "eval/<split>", or "best"
    step: int
    values: dict[str, float]


class Classes(NamedTuple):
    """The accuracy of every class in an evaluation."""

    split: str
    names: Sequence[str]
    counts: Sequence[int]  # training images
    accuracies: Sequence[float | None]  # in percent; None without images

    def rows(self) -> list[tuple[str, int, float | None]]:
        """Return a row for each class: its name, training images, and accuracy."""
        return list(zip(self.names, self.counts, self.accuracies, strict=True))

    def known(self) -> list[float]:
        """Return the accuracies of the classes that have images."""
        return [accuracy for accuracy in self.accuracies if accuracy is not None]


class Tracker(Protocol):
    """A service that shows a run. Each method may raise; it is then given the same data again later."""

    def scalars(self, records: Sequence[Record]) -> None:
        """Add scalars."""

    def classes(self, step: int, classes: Classes) -> None:
        """Add the accuracies by class of an evaluation after `step` steps."""

    def picture(self, step: int, name: str, path: pathlib.Path) -> None:
        """Add a PNG."""

    def close(self, finished: bool) -> None:
        """Send the rest. If the run has not `finished`, it may be resumed."""


@dataclasses.dataclass
class State:
    """What a tracker knows about a run."""

    path: pathlib.Path
    own: dict[str, str] = dataclasses.field(default_factory=dict)  # the tracker's own: id, and where to look
    sent: dict[str, int] = dataclasses.field(default_factory=dict)  # last step of each kind

    @property
    def folder(self) -> pathlib.Path:
        return self.path.parent

    def save(self) -> None:
        """Write the state."""
        write_atomically(self.path, json.dumps({"own": self.own, "sent": self.sent}, indent=1))

    def is_new(self, kind: str, step: int) -> bool:
        """Return whether the data of this kind at a step have not been sent."""
        return step > self.sent.get(kind, -1)

    def note(self, kind: str, step: int) -> None:
        """Record that they have been sent."""
        self.sent[kind] = step
        self.save()


def make_folder(run: pathlib.Path, name: str) -> pathlib.Path:
    """Return the folder of the tracker of this name in a run's directory; create it if it is missing."""
    folder = run / "trackers" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_state(folder: pathlib.Path) -> State:
    """Return what the tracker with this folder knows about its run."""
    path = folder / "state.json"
    return State(path, **_read(path))


def follow(folder: pathlib.Path, name: str, make: Callable[[About, State], Tracker], ended: threading.Event) -> None:
    """Send the run's records as they are written, until it has ended and all are sent.

    Raises:
      Exception: the tracker could not be created, or could not send the rest. Until the run has ended, failed sends
        are tried again.
    """
    about, state = about_lib.read(folder), read_state(make_folder(folder, name))
    tracker = make(about, state)
    state.save()
    tail, waiting = _Tail(folder / "metrics.jsonl"), collections.deque[Record]()
    while True:
        last = ended.is_set()
        results = _read(folder / "results.json") if last else {}
        waiting += itertools.chain(tail.new(), _best(results))
        try:
            _send_views(about, state, tracker)
            while waiting:
                _send(list(itertools.islice(waiting, _AT_ONCE)), about, state, tracker)
                for _ in range(min(_AT_ONCE, len(waiting))):
                    waiting.popleft()
            if last:
                tracker.close(bool(results))
                return state.save()
        except Exception as error:
            if last:
                raise
            console.say("note", f"{type(error).__name__}: {error}; trying again in {_RETRY:.0f} s")
            ended.wait(_RETRY)
        ended.wait(_POLL)


def _send(records: Sequence[Record], about: About, state: State, tracker: Tracker) -> None:
    """Send the records that have not been sent, and the classes' accuracies in the newest evaluation on each split."""
    newest = {record.kind: record.step for record in records}
    if new := [record for record in records if state.is_new(record.kind, record.step)]:
        tracker.scalars(new)
        for kind, step in newest.items():
            state.note(kind, max(step, state.sent.get(kind, 0)))
    for kind, step in newest.items():
        split = kind.partition("/")[2]
        if split and state.is_new(f"classes/{split}", step):
            _send_classes(split, step, about, tracker)
            state.note(f"classes/{split}", step)
        if split == "test" and state.is_new("confusion", step):
            _send_confusion(step, about, state, tracker)
            state.note("confusion", step)


def _send_classes(split: str, step: int, about: About, tracker: Tracker) -> None:
    accuracies = _read(about.folder / "eval" / f"{step}-{split}.json").get("class_accuracy", ())
    if len(accuracies) == len(about.names):
        tracker.classes(step, Classes(split, about.names, about.counts_C, accuracies))


def _send_confusion(step: int, about: About, state: State, tracker: Tracker) -> None:
    if png := pictures.draw_confusion(about, step):
        path = state.folder / "confusion.png"
        write_atomically(path, png)
        tracker.picture(step, "confusion", path)


def _send_views(about: About, state: State, tracker: Tracker) -> None:
    """Send the sheet of augmented training images, once there is one. Seeds of an experiment share it."""
    experiment = about.folder.parent if about.group else about.folder
    path = experiment / "plots" / "views.png"
    if state.is_new("views", 0) and path.is_file():
        tracker.picture(0, "views", path)
        state.note("views", 0)


def _best(results: Mapping[str, Any]) -> Iterator[Record]:
    """Yield the test accuracies of the best step, for tables of runs."""
    if best := results.get("best"):
        figures = {name: best[name] for name in ("accuracy", "balanced_accuracy", "top5")}
        figures |= {name: group["accuracy"] for name, group in best["groups"].items()}
        yield Record("best", best["step"], _numbers({f"best/test/{name}": value for name, value in figures.items()}))


class _Tail:
    """The records of a metrics.jsonl that grows."""

    def __init__(self, path: pathlib.Path):
        self._path, self._offset = path, 0

    def new(self) -> Iterator[Record]:
        """Yield the records that have been completed since the last call."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._offset += len(complete)
        for record in filter(None, map(metrics.parse, complete.decode(errors="replace").splitlines())):
            evaluated = (key.rpartition("/")[0] for key in record if key.startswith("eval/"))
            values = _numbers({name: value for name, value in record.items() if name != "step"})
            yield Record(next(evaluated, "train"), record["step"], values)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that exist; a record has None for the others."""
    return {name: value for name, value in values.items() if is_number(value)}


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Return what a JSON file holds, or nothing if it can't be read."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}
