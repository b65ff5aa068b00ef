"""The run store: `store` writes, `reader` reads, `schema` has the tables, `entry` what goes in and comes out."""

from graphengine.queue.entry import Accepted, Ending, Submission, Waiting, waiting
from graphengine.queue.reader import RunReader, document
from graphengine.queue.schema import ENDED, MIGRATIONS, StoreError, connect, migrate, runs
from graphengine.queue.store import RunStore

__all__ = [
    "ENDED",
    "MIGRATIONS",
    "Accepted",
    "Ending",
    "RunReader",
    "RunStore",
    "StoreError",
    "Submission",
    "Waiting",
    "connect",
    "document",
    "migrate",
    "runs",
    "waiting",
]
