"""Cache entries as files: one per key, written beside and renamed, read with their checksum.

    <folder>/v1/ab/abcdef....entry     an entry, see `codec`
    <folder>/v1/last/<digest>.json     what the key of a node was last made of, for `explain`
    <folder>/v1/bad/                   entries whose checksum was wrong, kept for a look

Any number of processes may share a folder: a rename is all or nothing, and a file that another process has pruned
is a miss.  Last use is a file's modification time.  A full disk costs the entry, never the run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphengine.errors import out_of_memory
from graphengine.store import codec

logger = logging.getLogger(__name__)
PRUNE_TO = 0.9
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Entry:
    """One file of the store."""

    key: str
    path: Path
    bytes: int
    used: float


class DiskStore:
    """Outputs on disk under a byte budget, least recently used first to go.

    Glossary: `_known` holds per shard when it was looked at (the number of the look), its change time, and its keys;
    `_shards` are the shards that there were at that look; `_written` counts bytes since the last look at the budget.
    """

    def __init__(self, folder: Path, budget: int):
        self.root, self.budget = folder / "v1", budget
        self._root = str(self.root)
        self._known: dict[int, tuple[int, int, set[bytes]]] = {}
        self._shards: set[int] = set()
        self._glance = -1
        self._looked = 0.0
        self._written = 0
        self.damaged = 0

    def _path(self, key: bytes) -> Path:
        name = key.hex()
        return self.root / name[:2] / f"{name}.entry"

    def refresh(self) -> None:
        """Look again, from now on, at what other processes have written, unless that was just done; once for a plan."""
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            self._look()

    def _look(self) -> None:
        self._glance += 1
        with contextlib.suppress(OSError):
            self._shards = {int(name, 16) for name in os.listdir(self._root) if len(name) == 2}

    def has(self, key: bytes) -> bool:
        """Whether there is an entry, cheaply: a shard is listed again only when it has changed since the last look."""
        if self._glance < 0:
            self._look()
        number = key[0]
        if number not in self._shards:
            return False
        known = self._known.get(number)
        if known is None or known[0] != self._glance:
            known = self._known[number] = self._list(number, known)
        return key in known[2]

    def _list(self, number: int, before: tuple[int, int, set[bytes]] | None) -> tuple[int, int, set[bytes]]:
        folder = f"{self._root}/{number:02x}"
        try:
            changed = os.stat(folder).st_mtime_ns
            if before and before[1] == changed:
                return self._glance, changed, before[2]
            names = [name[:-6] for name in os.listdir(folder) if name.endswith(".entry")]
        except OSError:
            return self._glance, 0, set()
        return self._glance, changed, set(filter(None, map(_key_of, names)))

    def read(self, key: bytes) -> dict[str, Any] | None:
        """Outputs of an entry; None when there is none or it is damaged (then it is set aside)."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
            return codec.decode(data)[0]
        except OSError:
            return None
        except Exception as error:  # a damaged entry may fail in any library that reads it
            if not out_of_memory(error):
                self._set_aside(path, error)
            return None

    def _set_aside(self, path: Path, error: Exception) -> None:
        logger.warning("cache entry %s is damaged (%s); it will be computed again", path.name, error)
        self.damaged += 1
        with contextlib.suppress(OSError):
            (self.root / "bad").mkdir(parents=True, exist_ok=True)
            os.replace(path, self.root / "bad" / path.name)

    def write(self, key: bytes, outputs: dict[str, Any], notes: dict[str, Any]) -> bool:
        """Store outputs; False when they cannot be stored or the disk will not take them."""
        if not self.budget:
            return False
        try:
            data = codec.encode(outputs, notes)
        except codec.NotStorable:
            return False
        except Exception as error:  # whatever a library makes of a value costs the entry, never the run
            logger.warning("the entry %s could not be written to the cache: %s", key.hex(), error, exc_info=True)
            return False
        if len(data) > self.budget or not self._put(self._path(key), data):
            return False
        self._shards.add(key[0])
        if key[0] in self._known:
            self._known[key[0]][2].add(key)
        self._written += len(data)
        if self._written > self.budget // 20:
            self._written = 0
            self.prune()
        return True

    def _put(self, path: Path, data: bytes) -> bool:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(data)
            os.replace(beside, path)
        except OSError as error:
            logger.warning("could not write to the cache: %s", error)
            with contextlib.suppress(OSError):
                beside.unlink()
            return False
        return True

    def note(self, name: str, parts: dict[str, Any]) -> None:
        """Remember what the key of the node `name` was last made of."""
        if self.budget:
            self._put(self.root / "last" / f"{name}.json", json.dumps(parts).encode())

    def noted(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads((self.root / "last" / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return None

    def entries(self) -> Iterator[Entry]:
        """Every entry, in no order."""
        for path in self.root.glob("[0-9a-f][0-9a-f]/*.entry"):
            with contextlib.suppress(OSError):
                status = path.stat()
                yield Entry(path.stem, path, status.st_size, status.st_mtime)

    def prune(self, budget: int | None = None) -> tuple[int, int]:
        """Delete the least recently used entries until nine tenths of the budget are left: (entries, bytes) gone."""
        limit = self.budget if budget is None else budget
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        total, count, freed = sum(entry.bytes for entry in entries), 0, 0
        if total > limit:
            for entry in entries:
                if total - freed <= limit * PRUNE_TO:
                    break
                with contextlib.suppress(OSError):
                    entry.path.unlink()
                    count, freed = count + 1, freed + entry.bytes
        return count, freed

    def verify(self) -> Iterator[tuple[Entry, str | None]]:
        """Check every entry's checksum; damaged ones are set aside and come with the reason."""
        for entry in list(self.entries()):
            try:
                codec.verify(entry.path.read_bytes())
                yield entry, None
            except OSError:
                continue
            except codec.Damaged as error:
                self._set_aside(entry.path, error)
                yield entry, str(error)


def _key_of(name: str) -> bytes | None:
    """The key that a file's name tells; None when it is not one of this store's."""
    try:
        return bytes.fromhex(name)
    except ValueError:
        return None
