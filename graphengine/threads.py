"""A pool of threads for work that tells its own results.

`concurrent.futures` would make a future with its own condition for each piece of work, which costs as much as ten trivial
nodes and is read by nobody: runs have a journal.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], object]


class Threads:
    """At most so many threads, started when there is work and none is idle.

    They end with `close`, when the pool is let go of, or with the interpreter, each time after the work that was handed in.
    """

    def __init__(self, most: int, name: str):
        self._most, self._name = most, name
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._idle: list[None] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closing = weakref.finalize(self, _end, self._queue, self._threads)

    def do(self, work: Work) -> None:
        """Have a thread do this, as soon as one is free.  Raises RuntimeError when the pool is closed."""
        if not self._closing.alive:
            raise RuntimeError("the pool of threads is closed.")
        self._queue.put(work)
        try:
            self._idle.pop()
        except IndexError:
            self._start()

    def close(self) -> None:
        """End the threads, after all that was handed in is done."""
        self._closing()

    def _start(self) -> None:
        with self._lock:
            if len(self._threads) < self._most:
                name = f"{self._name}_{len(self._threads)}"
                thread = threading.Thread(target=_serve, args=(self._queue, self._idle), name=name, daemon=True)
                self._threads.append(thread)
                thread.start()


def _serve(queue: SimpleQueue[Work | None], idle: list[None]) -> None:
    """What a thread does; it knows the pool's parts but not the pool, so that that can be let go of."""
    while (work := queue.get()) is not None:
        try:
            work()
        except BaseException:
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
        del work  # a run is not kept until the next one
        idle.append(None)  # one that is served by a thread that was busy leaves a mark too many, when no more may start


def _end(queue: SimpleQueue[Work | None], threads: list[threading.Thread]) -> None:
    for _ in threads:
        queue.put(None)
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join()
