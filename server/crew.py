"""The processes of a server: workers, who run, and a clerk, who answers questions; each is replaced when it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from graphengine.settings import Settings

from . import protocol
from .configuration import Configuration
from .process import WorkerProcess
from .spare import Spare

logger = logging.getLogger(__name__)
CLERK = "clerk"
SOUND_SECONDS = 10
"""A process that lived for longer was sound: the next one is started without a pause."""


class Crew:
    """Keeps the processes running, and knows which worker has room.

    `heard` is told what a worker says, `lost` which one has ended, before the next takes its place.
    """

    def __init__(
        self,
        configuration: Configuration,
        settings: Settings,
        files: str,
        spares: list[Spare],
        heard: Callable[[WorkerProcess, Any], None],
        lost: Callable[[WorkerProcess], Awaitable[None]],
    ):
        self._configuration = configuration
        self._setup = {"settings": settings.model_dump(mode="json"), "files": files}
        self._spares, self._heard, self._lost = spares, heard, lost
        self._quarantine: list[str] = []
        self.workers: list[WorkerProcess] = []
        self.clerk = self._made(CLERK)
        self.dismissed = False
        """Whether the server stops: nobody is replaced any more."""
        self.restarts = 0
        self.previews = 0

    @property
    def names(self) -> list[str]:
        """Whom to keep."""
        return [CLERK, *(f"worker-{number + 1}" for number in range(self._configuration.workers))]

    @property
    def everyone(self) -> list[WorkerProcess]:
        return [self.clerk, *self.workers]

    @property
    def running(self) -> int:
        """How many runs the workers have in hand."""
        return sum(len(worker.held) for worker in self.workers)

    async def keep(self, name: str) -> None:
        """Keep one process running: start it, and again when it has ended."""
        pause = 0.1
        while not self.dismissed:
            worker = self._made(name)
            if name == CLERK:
                self.clerk = worker
            else:
                if not self.clerk.ready.is_set():  # requests first, then what runs them
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.clerk.ready.wait(), 5)
                self.workers.append(worker)
            started = time.monotonic()
            await worker.run()
            if name != CLERK:
                self.workers.remove(worker)
                await self._lost(worker)
            if worker.leaving or self.dismissed:
                continue
            self.restarts += 1
            if worker.loading and worker.loading not in self._quarantine:
                logger.warning("the plugin %s took %s down when it was imported; it is left out", worker.loading, name)
                self._quarantine.append(worker.loading)
            pause = 0.1 if time.monotonic() - started > SOUND_SECONDS else min(10.0, pause * 2)
            await asyncio.sleep(pause if not worker.ready.is_set() else 0.01)

    def _made(self, name: str) -> WorkerProcess:
        setup = protocol.Setup(
            **self._setup, node_limit=self._configuration.node_limit, quarantine=list(self._quarantine)
        )
        return WorkerProcess(name, setup, self._heard, self._spares)

    def room(self, alone: bool, ahead: int) -> WorkerProcess | None:
        """The worker that has least in hand; for a run that is to be alone, one that has nothing.

        `ahead` runs more than its capacity may be given to a worker.
        """
        fit = [w for w in self.workers if w.ready.is_set() and not w.leaving and w.alone is None]
        if not fit:
            return None
        worker = min(fit, key=lambda w: len(w.held) + w.reserved)
        load = len(worker.held) + worker.reserved
        most = 1 if alone else self._configuration.capacity + ahead
        return worker if load < most else None

    def look_after(self, now: float) -> None:
        """Give up questions that are not answered, and end who is silent."""
        for worker in self.everyone:
            worker.expire(now)
            if worker.pid and now - worker.last_beat > self._configuration.silence:
                logger.warning("worker %s has been silent for %.0f s", worker.name, now - worker.last_beat)
                worker.kill()

    def watch(self, change: int) -> None:
        """Somebody begins (+1) or ceases (-1) to look at runs under way: previews are made only then."""
        before, self.previews = self.previews > 0, self.previews + change
        if before != (self.previews > 0):
            for worker in self.workers:
                worker.send(protocol.Watch(previews=self.previews > 0))
