"""What goes into the run store and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Submission:
    """A run to be accepted.  `body` is the JSON text of workflow, inputs and targets, kept as it came.

    `claimed`: a worker has room, so the run is claimed (attempt 1) in the transaction that accepts it.
    """

    id: str
    client: str
    workflow: str
    body: str
    body_digest: str
    priority: int = 0
    idempotency_key: str | None = None
    retry_of: str | None = None
    webhook: str | None = None
    claimed: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the queue needs to know of a waiting run; compares in the order in which runs are taken."""

    order: tuple[int, int, int]
    id: str
    alone: bool
    workflow: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The run of a submission: its place, how it stands, and whether it is new."""

    place: Waiting
    client: str
    status: str
    body_digest: str
    new: bool


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended.  `outputs`, `problems` and `events` are JSON."""

    id: str
    attempt: int
    status: str
    outputs: str | None = None
    problems: str | None = None
    events: str | None = None


def waiting(row: Any) -> Waiting:
    """A row as an entry of the queue."""
    return Waiting((-row.priority, row.turn, row.number), row.id, bool(row.alone), row.workflow)
