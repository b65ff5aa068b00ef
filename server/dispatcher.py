"""From the queue to the workers, and what they say back to the store and the streams.

The line in memory is a picture of the queued runs in the store; the store decides.  A run is claimed there before a
worker hears of it, and its end is told to nobody before it is committed.

What happens to the runs in the hands of a worker that dies:
    one run alone      it is charged a loss; after `losses` of them it is parked as failed (`worker_lost`)
    several            nobody knows which did it: each is tried again alone, and nobody is charged
    killed by us       because of one run (time-out, cancel): that one ends, the others are simply queued again
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from graphengine.errors import Problem
from graphengine.queue import Accepted, Ending, RunStore, StoreError, Submission, Waiting, waiting
from graphengine.settings import Settings

from . import protocol
from .configuration import Configuration
from .crew import Crew
from .hub import SEQUENCE, Hub, event, sequence
from .ledger import Ledger
from .line import Line
from .process import Held, WorkerProcess
from .spare import Spare

logger = logging.getLogger(__name__)
LOOK_SECONDS, RETRY_SECONDS, PRUNE_EVERY = 0.25, 1.0, 500
LOG_LIMIT = 256 * 1024
AHEAD = 10


class Dispatcher:
    """Owns the queue in memory, and hands its runs to the crew."""

    def __init__(
        self,
        configuration: Configuration,
        settings: Settings,
        ledger: Ledger,
        hub: Hub,
        files: str,
        spares: list[Spare],
    ):
        self.configuration, self.ledger, self.hub = configuration, ledger, hub
        self.line = Line()
        self.crew = Crew(configuration, settings, files, spares, self._heard, self._lost)
        self.paused = False
        self.totals: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = 0
        self._ends: deque[float] = deque(maxlen=1000)
        self.on_end: Callable[[str], None] = lambda run: None

    @property
    def draining(self) -> bool:
        """Whether the server stops: no run is claimed any more."""
        return self.crew.dismissed

    # Coming and going

    async def start(self) -> None:
        """Take up what the store holds, and start the processes."""
        await self.ledger.do(RunStore.recover)
        self.paused = await self.ledger.do(RunStore.paused)
        for entry, client in await self.ledger.do(RunStore.waiting):
            self.hub.stream(entry.id).add([event("queued", entry.id, 0, workflow=entry.workflow)])
            self.add(entry, client)
        for name in self.crew.names:
            self.spawn(self.crew.keep(name))
        self.spawn(self._look())

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine in the background; what it raises is logged."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            logger.error("a task of the dispatcher failed", exc_info=task.exception())

    async def stop(self) -> None:
        """Claim nothing more, let runs finish for a while, give the rest back, and end the workers."""
        self.crew.dismissed = True
        until = time.monotonic() + self.configuration.drain
        while any(worker.held for worker in self.crew.workers) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for worker in self.crew.everyone:
            worker.leaving = True
            held, worker.held = list(worker.held.values()), {}
            worker.kill()
            for run in held:
                with contextlib.suppress(StoreError):
                    await self.ledger.do(lambda s, r=run: s.give_back(r.run, r.attempt, alone=False, loss=False))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # The queue

    def add(self, entry: Waiting, client: str) -> None:
        """A run waits (again): it will be taken in its turn."""
        self.line.put(entry, client)
        self.pump()

    def pump(self) -> None:
        """Give waiting runs to workers that have room."""
        while not (self.paused or self.draining):
            entry = self.line.first()
            worker = self._room(entry.alone) if entry else None
            if entry is None or worker is None:
                return
            if entry.alone:
                worker.alone = entry.id  # nothing more goes there until this run has been through
            client = self.line.client(entry.id)
            self.line.leave(entry.id)
            worker.reserved += 1
            self.spawn(self._claim(entry, client, worker))

    def _room(self, alone: bool) -> WorkerProcess | None:
        """A worker that has room."""
        return self.crew.room(alone, self._recent() // AHEAD)

    def _recent(self) -> int:
        """How many runs have ended within the last second: short ones are handed out ahead, a tenth of a second's worth."""
        now = time.monotonic()
        while self._ends and now - self._ends[0] > 1:
            self._ends.popleft()
        return len(self._ends)

    async def _claim(self, entry: Waiting, client: str, worker: WorkerProcess) -> None:
        try:
            row = await self.ledger.join(RunStore.claim, entry.id)
        except StoreError:
            await asyncio.sleep(RETRY_SECONDS)
            worker.alone = None if worker.alone == entry.id else worker.alone
            self.add(entry, client)
            return
        finally:
            worker.reserved -= 1
        if row is None:  # it was cancelled meanwhile
            worker.alone = None if worker.alone == entry.id else worker.alone
            self.pump()
            return
        await self._hand(worker, Held(entry.id, row.attempt, row.losses, time.monotonic()), row.body)

    async def _hand(self, worker: WorkerProcess, held: Held, body: str) -> None:
        """Give a claimed run to a worker, or back to the queue when that has gone meanwhile."""
        if worker not in self.crew.workers or worker.leaving:
            await self._give_back(held, alone=False, loss=False)
            return
        worker.held[held.run] = held
        worker.send(protocol.Start(run=held.run, attempt=held.attempt, body=body))

    # What workers say

    def _heard(self, worker: WorkerProcess, message: Any) -> None:
        if isinstance(message, protocol.Hello):
            worker.send(protocol.Watch(previews=self.crew.previews > 0))
            self.pump()
            return
        held = worker.held.get(message.run)
        if held is None or held.attempt != message.attempt or held.over:
            return  # news of an attempt that was given up
        if isinstance(message, protocol.News):
            self.hub.publish(message.run, message.lines.split("\n"))
        elif isinstance(message, protocol.Ended):
            held.over = True
            self.spawn(self._end(worker, held, message))

    async def _end(self, worker: WorkerProcess, held: Held, message: protocol.Ended) -> None:
        """Commit how a run ended, then tell it."""
        lines = message.lines.split("\n") if message.lines else []
        self.hub.publish(message.run, lines[:-1])
        last = lines[-1:] or [self._closing(held, message.status, message.problems)]
        ending = Ending(
            message.run,
            message.attempt,
            message.status,
            message.outputs,
            message.problems,
            log([*self.hub.stream(message.run).lines, *last]),
        )
        held_by_us = await self._commit(ending)
        worker.held.pop(message.run, None)
        if worker.alone == message.run:
            worker.alone = None
        if held_by_us:
            self._told(message.run, message.status, last)
        self.pump()

    async def _commit(self, ending: Ending) -> bool:
        """Commit an end, however long the store refuses it: what was computed is not lost to a full disk."""
        while True:
            try:
                return await self.ledger.join(RunStore.end, ending)
            except StoreError:
                await asyncio.sleep(RETRY_SECONDS)

    def _told(self, run: str, status: str, last: list[str]) -> None:
        self.totals[status] += 1
        self.hub.publish(run, last, last=True)
        self.on_end(run)
        self._ended += 1
        self._ends.append(time.monotonic())
        if self._ended % PRUNE_EVERY == 0:
            self.spawn(self.ledger.do(lambda store: store.forget(self.configuration.history_limit)))

    def _closing(self, held: Held, status: str, problems: str) -> str:
        fields = {"problems": json.loads(problems)} if status == "failed" else {}
        return event(f"run_{status}", held.run, (held.attempt + 1) * SEQUENCE - 1, **fields)

    async def _finish(self, held: Held, status: str, problem: Problem | None = None) -> None:
        """End a run that its worker cannot end any more."""
        problems = json.dumps([problem.document()] if problem else [])
        last = [self._closing(held, status, problems)]
        lines = log([*self.hub.stream(held.run).lines, *last])
        if await self._commit(Ending(held.run, held.attempt, status, "{}", problems, lines)):
            self._told(held.run, status, last)

    # When workers are lost

    async def _lost(self, worker: WorkerProcess) -> None:
        """A worker is gone: what it had in hand ends or waits again."""
        rest, worker.held = [held for held in worker.held.values() if not held.over], {}
        single = len(rest) == 1
        for held in rest:
            if held.cancel_by is not None:
                await self._finish(held, "cancelled")
            elif worker.leaving or self.draining:
                await self._give_back(held, alone=False, loss=False)
            elif single and held.losses + 1 >= self.configuration.losses:
                message = f"its worker died {self.configuration.losses} times while it ran; it is parked."
                await self._finish(held, "failed", Problem("worker_lost", message, hint="Retry it when it is mended."))
            else:
                await self._give_back(held, alone=True, loss=single)
        self.pump()

    async def _give_back(self, held: Held, *, alone: bool, loss: bool) -> None:
        while True:
            try:
                row = await self.ledger.do(lambda s: s.give_back(held.run, held.attempt, alone=alone, loss=loss))
                break
            except StoreError:
                await asyncio.sleep(RETRY_SECONDS)
        if row is None:
            return
        if row.status == "cancelled":
            self._told(held.run, "cancelled", [self._closing(held, "cancelled", "[]")])
            return
        queued = event("queued", held.run, (held.attempt + 1) * SEQUENCE - 1, workflow=row.workflow)
        self.hub.publish(held.run, [queued])
        self.add(waiting(row), row.client)

    async def _look(self) -> None:
        """Look after the workers: who is silent, whose run takes too long, who does not stop."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            self.crew.look_after(now)
            for worker in self.crew.everyone:
                for held in list(worker.held.values()):
                    if held.cancel_by is not None and now > held.cancel_by and not held.over:
                        await self._give_up(worker, held, "cancelled", None)
                    elif now - held.started > self.configuration.run_timeout and not held.over:
                        message = f"it took longer than {self.configuration.run_timeout:g} s."
                        await self._give_up(worker, held, "failed", Problem("timeout", message))

    async def _give_up(self, worker: WorkerProcess, held: Held, status: str, problem: Problem | None) -> None:
        """End a run that does not end by itself; its worker goes, and what else it had in hand is queued again."""
        held.over, worker.leaving = True, True
        del worker.held[held.run]
        worker.kill()
        self.crew.restarts += 1
        await self._finish(held, status, problem)

    # What people ask for

    async def accept(self, submission: Submission) -> Accepted:
        """Put a run into the store and the queue."""
        worker = self._free()
        if worker is None:
            made = await self.ledger.join(RunStore.accept, submission)
        else:  # accepted and claimed in one go
            worker.reserved += 1
            try:
                made = await self.ledger.join(RunStore.accept, replace(submission, claimed=True))
            finally:
                worker.reserved -= 1
        if made.new:
            self.hub.publish(made.place.id, [event("queued", made.place.id, 0, workflow=made.place.workflow)])
            if worker is None:
                self.add(made.place, made.client)
            else:
                await self._hand(worker, Held(made.place.id, 1, 0, time.monotonic()), submission.body)
        elif worker is not None:
            self.pump()
        return made

    def _free(self) -> WorkerProcess | None:
        """A worker for a run that comes now, when nothing waits before it."""
        return None if self.paused or self.draining or self.line.first() else self._room(alone=False)

    async def cancel(self, run: str) -> str | None:
        """Cancel a run in any state; its status, or None when there is none."""
        status = await self.ledger.do(lambda store: store.cancel(run))
        stream = self.hub.streams.get(run)
        if status == "cancelled" and stream and not stream.ended:
            self.line.leave(run)
            after = sequence(stream.lines[-1]) + 1 if stream.lines else SEQUENCE - 1
            self._told(run, "cancelled", [event("run_cancelled", run, after)])
        if status == "running":
            for worker in self.crew.workers:
                if held := worker.held.get(run):
                    held.cancel_by = time.monotonic() + self.configuration.grace
                    worker.send(protocol.Cancel(run=run))
        return status

    async def prioritise(self, run: str, priority: int) -> bool:
        row = await self.ledger.do(lambda store: store.prioritise(run, priority))
        if row is None or run not in self.line:
            return False
        self.add(waiting(row), self.line.client(run))
        return True

    async def pause(self, yes: bool) -> None:
        await self.ledger.do(lambda store: store.pause(yes))
        self.paused = yes
        self.pump()


def log(lines: list[str]) -> str:
    """A run's events as they are kept: without pictures, and the newest only when there are too many."""
    kept = [json.dumps(json.loads(line) | {"preview": None}) if '"preview": "' in line else line for line in lines]
    size = 0
    for number, line in enumerate(reversed(kept)):
        size += len(line) + 1
        if size > LOG_LIMIT:
            kept = kept[len(kept) - number :]
            break
    return "\n".join(kept)
