"""Outputs by key, in memory and on disk, each computed once however many runs want it.

`get` looks in memory, then on disk.  `claim` is the single flight: of all runs that need a key that is not there,
one is told to compute it and the others wait for it.  Values are shared between runs, which is safe because they
are frozen; a node that is found to have changed one has it thrown out with `forget`.

Glossary
    entry     a node's outputs by port, with their size
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
        self._entries: OrderedDict[bytes, tuple[Outputs, int]] = OrderedDict()
        self._flights: dict[bytes, threading.Event | None] = {}
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Outputs | None:
        """Outputs of a key, or None."""
        entry = self._entries.get(key)
        if entry:
            with self._lock:
                if key in self._entries:
                    self._entries.move_to_end(key)
            return entry[0]
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
                    entry = self._entries.get(key)
                    if entry:
                        return entry[0]
                    self._flights[key] = None
                    return None
                landed = self._flights[key] = self._flights[key] or threading.Event()
            while not landed.wait(WAIT_SECONDS):
                check()

    def settle(self, key: bytes, outputs: Outputs | None = None) -> None:
        """End a flight: with its outputs, or without when it failed; then one of those who wait takes over."""
        size = 0 if outputs is None else _size(outputs)
        with self._lock:
            landed = self._flights.pop(key, None)
            if outputs is not None:
                self._insert(key, outputs, size)
        if landed:
            landed.set()

    def store(self, key: bytes, outputs: Outputs, notes: dict[str, Any]) -> bool:
        """Write outputs to the disk tier; False when it has none or cannot hold them."""
        return self.disk is not None and self.disk.write(key, outputs, notes)

    def forget(self, keys: list[bytes]) -> None:
        """Drop entries from memory: what they hold can no longer be trusted."""
        with self._lock:
            for key in keys:
                entry = self._entries.pop(key, None)
                if entry:
                    self.memory_bytes -= entry[1]

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
        old = self._entries.get(key)
        if old:
            self.memory_bytes -= old[1]
        self._entries[key] = (outputs, size)
        self.memory_bytes += size
        while self.memory_bytes > self.memory_budget and len(self._entries) > 1:
            _, (_, freed) = self._entries.popitem(last=False)
            self.memory_bytes -= freed


def _size(outputs: Outputs) -> int:
    size = SMALLEST
    for value in outputs.values():
        if type(value) not in PLAIN:
            size += nbytes(value)
    return size
