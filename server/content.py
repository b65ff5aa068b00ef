"""Files by the digest of their bytes: what was uploaded, and what runs have made.

A file is called `<sha256>.<ending>` and never changes; it is written beside its place and linked into it, so it is
there whole or not at all.  Its type comes from its first bytes, never from what somebody calls it, and only types
that a browser shows without running anything are taken.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graphengine.errors import AssetError

TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Content:
    """A stored file: its digest, its name in the folder, its size in bytes and its media type."""

    digest: str
    name: str
    bytes: int
    type: str


def ending(head: bytes) -> str | None:
    """The ending of a picture by its first bytes, None when it is none that is taken."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return None


class ContentFolder:
    """A folder of such files; any number of processes may add to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def beside(self) -> Path:
        """A path to write to before the digest is known."""
        return self.folder / f".{secrets.token_hex(8)}.part"

    def add(self, write: Callable[[Path], object]) -> Content:
        """Let `write` fill a file and take it in.  Raises AssetError when it is no picture or the disk is full."""
        part = self.beside()
        try:
            write(part)
            return self.adopt(part)
        except OSError as error:
            raise AssetError(f"the file could not be kept: {error.strerror or error}.") from error
        finally:
            part.unlink(missing_ok=True)

    def adopt(self, part: Path) -> Content:
        """Give a file in the folder its name.  Raises AssetError when it is not of a type that is taken."""
        with part.open("rb") as file:
            suffix = ending(file.read(16))
            if suffix is None:
                raise AssetError(f"only pictures are taken: {', '.join(TYPES)}.")
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path = self.folder / f"{digest}.{suffix}"
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        return Content(digest, path.name, path.stat().st_size, TYPES[suffix])

    def find(self, digest: str) -> Content | None:
        """The file of a digest, or None."""
        if not DIGEST.fullmatch(digest):
            return None
        for suffix, kind in TYPES.items():
            path = self.folder / f"{digest}.{suffix}"
            if path.is_file():
                return Content(digest, path.name, path.stat().st_size, kind)
        return None

    def path(self, content: Content) -> Path:
        return self.folder / content.name

    def sweep(self) -> None:
        """Remove what was being written when the server was killed; call it while nobody writes."""
        for part in self.folder.glob(".*.part"):
            part.unlink(missing_ok=True)
