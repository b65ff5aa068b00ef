"""The one writer of the run store: a thread that takes steps from the event loop and commits them in groups.

Whoever wants to change a run hands over a step, a function of the store, and awaits its result, which comes when the
transaction is on disk.  Steps that arrive while one transaction is being committed go into the next one together, so
a hundred clients share the price of one fsync; and what many want alike (accept, claim, end) is one statement.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from graphengine.queue import RunStore, StoreError

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
Item = TypeVar("Item")
GROUP = 256


@dataclass(slots=True)
class Step:
    """Something to be done to the store: `call` with the store or, when `alike`, with all such items of the group."""

    call: Callable[..., Any]
    future: asyncio.Future[Any]
    item: Any = None
    alike: bool = False


class Ledger:
    """Opens the store in a thread of its own and writes to it until it is closed."""

    def __init__(self, url: str):
        self._steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[int] = self._loop.create_future()
        self._thread = threading.Thread(target=self._write, args=(url,), name="ledger", daemon=True)
        self.healthy = True
        self.epoch = 0

    async def open(self) -> None:
        """Raises StoreError when the store cannot be opened."""
        self._thread.start()
        self.epoch = await self._opened

    async def close(self) -> None:
        """Commit what was handed over, and close the store."""
        self._steps.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    async def do(self, step: Callable[[RunStore], Result]) -> Result:
        """Run a step in the next transaction; returns when that is on disk.

        Raises:
            StoreError: it could not be committed, for example because the disk is full; nothing was changed.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self._steps.put(Step(step, future))
        return await future

    async def join(self, step: Callable[[RunStore, Sequence[Item]], Sequence[Result]], item: Item) -> Result:
        """Like `do`, for a step that takes many items: those of one transaction are handed to it together."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._steps.put(Step(step, future, item, alike=True))
        return await future

    def _write(self, url: str) -> None:
        try:
            store = RunStore(url)
        except Exception as error:
            told = error if isinstance(error, StoreError) else StoreError(f"the run store cannot be opened: {error}.")
            self._loop.call_soon_threadsafe(self._opened.set_exception, told)
            return
        self._loop.call_soon_threadsafe(self._opened.set_result, store.epoch)
        running = True
        while running:
            group: list[Step] = []
            step = self._steps.get()
            while step is not None and len(group) < GROUP:
                group.append(step)
                try:
                    step = self._steps.get_nowait()
                except queue.Empty:
                    break
            else:
                if step is None:
                    running = False
                else:
                    group.append(step)
            if group:
                self._tell(self._commit(store, group))
        store.close()

    def _commit(self, store: RunStore, group: list[Step]) -> list[tuple[asyncio.Future[Any], Any]]:
        """One transaction for the whole group; when that fails, one for each, so that a fault stays with its own."""
        try:
            with store.connection.begin():
                done = _do(store, group)
            self.healthy = True
            return done
        except Exception as error:
            store.connection.rollback()
            if len(group) > 1:
                return [pair for step in group for pair in self._commit(store, [step])]
            logger.warning("the run store took no change: %s", error)
            self.healthy = False
            return [(group[0].future, StoreError(f"the run store took no change: {getattr(error, 'orig', error)}."))]

    def _tell(self, results: list[tuple[asyncio.Future[Any], Any]]) -> None:
        def tell() -> None:
            for future, result in results:
                if future.cancelled():
                    continue
                if isinstance(result, StoreError):
                    future.set_exception(result)
                else:
                    future.set_result(result)

        try:
            self._loop.call_soon_threadsafe(tell)
        except RuntimeError:  # the loop was closed: nobody waits any more
            return


def _do(store: RunStore, group: list[Step]) -> list[tuple[asyncio.Future[Any], Any]]:
    """The results of steps.  Whoever needs one step done before another awaits it first, so any order will do."""
    done, alike = [], defaultdict[Callable[..., Any], list[Step]](list)
    for step in group:
        if step.alike:
            alike[step.call].append(step)
        else:
            done.append((step.future, step.call(store)))
    for call, steps in alike.items():
        results = call(store, [step.item for step in steps])
        done += [(step.future, result) for step, result in zip(steps, results, strict=True)]
    return done
