"""What stands behind every request: configuration, store, queue, streams, files.  Put together in `app`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from graphengine.errors import Problem
from graphengine.queue import ENDED, RunReader, document
from graphengine.settings import Settings

from .api import Refusal
from .configuration import Configuration
from .content import ContentFolder
from .desk import Desk
from .dispatcher import Dispatcher
from .hub import SEQUENCE, Hub, Stream, event
from .ledger import Ledger
from .process import WorkerLost
from .protocol import Answer

ASK_SECONDS, ASK_PAUSE = 20.0, 0.1


@dataclass
class House:
    """The parts of a running server."""

    configuration: Configuration
    settings: Settings
    ledger: Ledger
    reader: RunReader
    hub: Hub
    dispatcher: Dispatcher
    content: ContentFolder
    desk: Desk
    _random: Random = field(default_factory=Random)

    def new_id(self) -> str:
        """An id for a run.  It names and hides nothing, so the system need not be asked for each, which is slow."""
        return f"{self._random.getrandbits(80):020x}"

    @property
    def workflow_folder(self) -> Path:
        return self.settings.input_folder / "workflows"

    async def check(self, body: str) -> dict[str, Any]:
        """What `answer.check` says of a submission.  Raises GraphError, WorkerLost, TimeoutError."""
        told = self.desk.check(body)
        if told is None:
            asked = await self.ask("check", body)
            told = json.loads(asked.body) | {"submission": asked.submission}
        return told

    async def ask(self, what: str, body: str = "") -> Answer:
        """Ask the clerk about a workflow; the answer's body is JSON text.  Raises GraphError, WorkerLost, TimeoutError."""
        until = time.monotonic() + ASK_SECONDS
        while True:
            try:
                return await self.dispatcher.crew.clerk.ask(what, body, max(0.1, until - time.monotonic()))
            except WorkerLost:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(ASK_PAUSE)  # the next clerk is on its way

    async def row(self, run: str) -> dict[str, Any]:
        """Everything about a run.  Raises Refusal 404."""
        row = await asyncio.to_thread(self.reader.run, run) if is_id(run) else None
        if row is None:
            raise Refusal(404, f"There is no run {run[:60]!r}; it may have been forgotten.")
        return row

    async def run(self, run: str) -> dict[str, Any]:
        return document(await self.row(run))

    async def stream(self, run: str) -> Stream:
        """The events of a run, live or as they were kept.  Raises Refusal 404."""
        found = self.hub.streams.get(run)
        if found is not None:
            return found
        row = await self.row(run)
        if row["status"] not in ENDED:
            return self.hub.stream(run)
        lines: list[str] = str(row["events"]).split("\n") if row["events"] else []
        if not lines:  # it ended without ever having been started
            fields = {"problems": json.loads(row["problems"])} if row["problems"] else {}
            lines = [
                event("queued", run, 0, workflow=row["workflow"]),
                event(f"run_{row['status']}", run, SEQUENCE - 1, **fields),
            ]
        return Stream(run, lines, ended=True)


def is_id(text: str) -> bool:
    return len(text) <= 32 and text.isalnum() and text.isascii()


def body_digest(body: str) -> str:
    return hashlib.blake2b(body.encode(), digest_size=16).hexdigest()


def unknown(what: str, name: str) -> Refusal:
    return Refusal(
        404, f"There is no {what} {name[:60]!r}.", [Problem("not_found", f"there is no {what} {name[:60]!r}.")]
    )
