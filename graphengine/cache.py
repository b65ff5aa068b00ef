"""Outputs by key, in memory and on disk, each computed once however many runs want it.

`get` looks in memory, then on disk.  `claim` is the single flight: of all runs that need a key that is not there,
one is told to compute it and the others wait for it.  Values are shared between runs, which is safe because they
are frozen; a node that is found to have changed one has it thrown out with `forget`.

Glossary
    entry     a node's outputs by port
    flight    a key that a run is computing now; None until somebody waits for it, then an Event
    worth     an output goes to disk when computing it took `DISK_SECONDS`, needed a device, or records an effect
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from graphengine.store.disk import DiskStore
from graphengine.values import nbytes

DISK_SECONDS = 0.005
WAIT_SECONDS = 0.05
PLAIN = frozenset((int, float, str, bool, type(None)))
SMALLEST = 64
"""Bytes that an entry counts at least."""
Outputs = dict[str, Any]


class Cache:
    """Memory tier under a byte budget (least recently used goes first) over an optional disk tier."""

    def __init__(self, memory_budget: int, disk: DiskStore | None = None):
        self.memory_budget, self.disk = memory_budget, disk
        self.memory_bytes = 0
        self._entries: OrderedDict[bytes, Outputs] = OrderedDict()
        self._flights: dict[bytes, threading.Event | None] = {}
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Outputs | None:
        """Outputs of a key, or None."""
        outputs = self._entries.get(key)
        if outputs is not None:
            with self._lock:
                if key in self._entries:
                    self._entries.move_to_end(key)
            return outputs
        if self.disk and self.disk.has(key):
            outputs = self.disk.read(key)
            if outputs is not None:
                self._remember(key, outputs)
            return outputs
        return None

    def where(self, key: bytes) -> str | None:
        """Which tier would answer: "memory", "disk" or None.  Reads nothing."""
        if key in self._entries:
            return "memory"
        return "disk" if self.disk and self.disk.has(key) else None

    def claim(self, key: bytes, check: Callable[[], None]) -> Outputs | None:
        """Outputs, when they are there or another run is just computing them; None: compute them, then `settle`.

        `check` is called while waiting and may raise `Cancelled`.
        """
        while True:
            with self._lock:
                if key not in self._flights:
                    outputs = self._entries.get(key)
                    if outputs is None:
                        self._flights[key] = None
                    return outputs
                landed = self._flights[key] = self._flights[key] or threading.Event()
            while not landed.wait(WAIT_SECONDS):
                check()

    def settle(self, key: bytes, outputs: Outputs) -> None:
        """End a flight with its outputs."""
        size = _size(outputs)
        with self._lock:
            landed = self._flights.pop(key, None)
            self._insert(key, outputs, size)
        if landed:
            landed.set()

    def give_back(self, key: bytes) -> None:
        """End a flight that failed: one of those who wait takes over."""
        with self._lock:
            landed = self._flights.pop(key, None)
        if landed:
            landed.set()

    def store(self, key: bytes, outputs: Outputs, notes: dict[str, Any]) -> bool:
        """Write outputs to the disk tier; False when it has none or cannot hold them."""
        return self.disk is not None and self.disk.write(key, outputs, notes)

    def forget(self, keys: list[bytes]) -> None:
        """Drop entries from memory: what they hold can no longer be trusted."""
        with self._lock:
            for key in keys:
                outputs = self._entries.pop(key, None)
                if outputs is not None:
                    self.memory_bytes -= _size(outputs)

    def forget_all(self) -> None:
        """Drop everything from memory; the disk tier, whose entries are checked when they are read, stays."""
        with self._lock:
            self._entries.clear()
            self.memory_bytes = 0

    def _remember(self, key: bytes, outputs: Outputs) -> None:
        size = _size(outputs)
        with self._lock:
            self._insert(key, outputs, size)

    def _insert(self, key: bytes, outputs: Outputs, size: int) -> None:
        entries = self._entries
        if key in entries:
            size -= _size(entries[key])
        entries[key] = outputs
        self.memory_bytes = held = self.memory_bytes + size
        if held > self.memory_budget:
            self._shrink()

    def _shrink(self) -> None:
        while self.memory_bytes > self.memory_budget and len(self._entries) > 1:
            self.memory_bytes -= _size(self._entries.popitem(last=False)[1])


def _size(outputs: Outputs) -> int:
    size = SMALLEST
    for value in outputs.values():
        if type(value) not in PLAIN:
            size += nbytes(value)
    return size
