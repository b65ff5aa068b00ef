"""The queued runs in memory, in the order in which they are taken: a picture of what the store holds."""

from __future__ import annotations

import heapq
from collections import Counter

from graphengine.queue import Waiting


class Line:
    """Who waits, and for whom.  `clients` counts the waiting runs of each client."""

    def __init__(self) -> None:
        self.clients: Counter[str] = Counter()
        self._waiting: dict[str, Waiting] = {}
        self._client_of: dict[str, str] = {}
        self._heap: list[tuple[tuple[int, int, int], str]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, run: str) -> bool:
        return run in self._waiting

    def put(self, entry: Waiting, client: str) -> None:
        """A run waits, or waits at another place from now on."""
        self.clients[client] += entry.id not in self._client_of
        self._waiting[entry.id], self._client_of[entry.id] = entry, client
        heapq.heappush(self._heap, (entry.order, entry.id))

    def first(self) -> Waiting | None:
        """Whose turn it is."""
        while self._heap:
            order, run = self._heap[0]
            entry = self._waiting.get(run)
            if entry is not None and entry.order == order:
                return entry
            heapq.heappop(self._heap)  # it has left, or has another place now
        return None

    def client(self, run: str) -> str:
        """For whom a waiting run is."""
        return self._client_of[run]

    def leave(self, run: str) -> None:
        """A run waits no more; what nobody waits for may leave, too."""
        if self._waiting.pop(run, None):
            client = self._client_of.pop(run)
            self.clients[client] -= 1
            if not self.clients[client]:
                del self.clients[client]
