"""What a run tells its listeners: frozen models, one line of JSON each.

The executor appends bare values to the run's journal, because making a model costs as much as a trivial node;
`Journal.read` turns them into models when somebody listens.  Every event keeps its number, so a listener that
comes late or comes back reads on from any point.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Event(BaseModel):
    """The common part: which run, its number within the run (from 0), and seconds since the epoch.

    Every kind adds its name as `event`.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, defer_build=True)

    run: str
    seq: int
    time: float


class Queued(Event):
    event: Literal["queued"] = "queued"
    workflow: str = ""


class Planned(Event):
    """`hits` came from the cache, `work` will be computed; what neither names is not needed."""

    event: Literal["planned"] = "planned"
    hits: list[str]
    work: list[str]


class NodeStarted(Event):
    event: Literal["node_started"] = "node_started"
    node: str


class NodeProgress(Event):
    """`done` of `total`; `preview` is an Image that shows the state, or None."""

    event: Literal["node_progress"] = "node_progress"
    node: str
    done: int
    total: int
    preview: Any = None


class NodeNote(Event):
    """Something was done otherwise than asked, and the run goes on: it ran out of memory, for example."""

    event: Literal["node_note"] = "node_note"
    node: str
    note: str


class NodeFinished(Event):
    event: Literal["node_finished"] = "node_finished"
    node: str
    seconds: float


class NodeFailed(Event):
    event: Literal["node_failed"] = "node_failed"
    node: str
    problem: dict[str, str]


class RunFinished(Event):
    event: Literal["run_finished"] = "run_finished"
    seconds: float


class RunFailed(Event):
    event: Literal["run_failed"] = "run_failed"
    problems: list[dict[str, str]]


class RunCancelled(Event):
    event: Literal["run_cancelled"] = "run_cancelled"


AnyEvent = Annotated[
    Queued
    | Planned
    | NodeStarted
    | NodeProgress
    | NodeNote
    | NodeFinished
    | NodeFailed
    | RunFinished
    | RunFailed
    | RunCancelled,
    Field(discriminator="event"),
]
_events: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent, config=ConfigDict(defer_build=True))


def parse_event(line: str) -> Event:
    """An event from a line of JSON.  Raises pydantic.ValidationError."""
    return _events.validate_json(line)


class Journal:
    """The events of one run, in order: appended by one thread, read by any number.

    Glossary: `_said` is all events one behind another, each as its model and the values of its fields (an object for
    each would cost memory, and have the garbage collector walk them); `_times` is when they were, in seconds since the
    epoch; `_starts` is where they begin, as far as anybody has read.  `_ended` is set with the last event, and then the
    lock `_open` is let go of: to wait for one costs a fraction of waiting for a condition.
    """

    def __init__(self, run: str):
        self.run = run
        self._said: list[Any] = []
        self._times = array("d")
        self._starts = [0]
        self._waiting = 0
        self._changed = threading.Condition()
        self._ended = False
        self._open = threading.Lock()
        self._open.acquire()

    def add(self, *event: Any) -> None:
        """Append one event: its model and the values of all of its own fields, in their order.

        Wakes listeners only when there are any.
        """
        self._said += event
        self._times.append(time.time())
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def end(self, *event: Any) -> None:
        """Append the last event: nothing is added after it."""
        self.add(*event)
        with self._changed:
            first, self._ended = not self._ended, True
            self._changed.notify_all()
        if first:
            self._open.release()

    def __len__(self) -> int:
        return len(self._times)

    @property
    def ended(self) -> bool:
        return self._ended

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the last event; False when it has not come within `timeout` seconds."""
        if not self._ended:
            if not self._open.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
                return False
            self._open.release()
        return True

    def entries(self, start: int) -> list[tuple[type[Event], float, dict[str, Any]]]:
        """What has been added from number `start` on: kind, seconds since the epoch, the kind's own fields."""
        return [self._entry(position) for position in range(start, len(self))]

    def read(self, after: int = -1, timeout: float | None = None) -> Iterator[Event]:
        """Events with a number above `after`, waiting for new ones until the run has ended.

        Stops early when nothing new came for `timeout` seconds.
        """
        position = after + 1
        while True:
            while position < len(self):
                model, moment, fields = self._entry(position)
                yield model(run=self.run, seq=position, time=moment, **fields)
                position += 1
            if self._ended and position >= len(self):
                return
            with self._changed:
                self._waiting += 1
                try:
                    fresh = self._changed.wait_for(lambda seen=position: seen < len(self) or self._ended, timeout)
                finally:
                    self._waiting -= 1
            if not fresh:
                return

    def _entry(self, position: int) -> tuple[type[Event], float, dict[str, Any]]:
        said, starts = self._said, self._starts
        if position >= len(starts):
            with self._changed:  # of two readers one counts on
                while len(starts) <= position:
                    starts.append(starts[-1] + 1 + len(_names(said[starts[-1]])))
        model, first = said[starts[position]], starts[position] + 1
        names = _names(model)
        return model, self._times[position], dict(zip(names, said[first : first + len(names)], strict=True))


@cache
def _names(model: type[Event]) -> tuple[str, ...]:
    return tuple(name for name in model.__annotations__ if name != "event")
