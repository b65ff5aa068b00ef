"""Names to paths, and never outside the folder that was meant: no `..`, no absolute path, no link that leads away."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphengine.errors import AssetError, did_you_mean
from graphengine.settings import Settings, bundled_workflows

PART = re.compile(r"\..+\.[0-9a-f]{8}\.\w+")
"""The name of a file that is being written."""
LEFT_SECONDS = 3600


def inside(folder: Path, name: str, what: str = "file") -> Path:
    """The resolved path of `name` in `folder`.

    Raises:
        AssetError: it would lie outside the folder, also by way of a symbolic link.
    """
    if not name or "\0" in name or len(name) > 1024:
        raise AssetError(f"{name[:60]!r} is no name of a {what}.")
    root = folder.resolve()
    try:
        path = (root / name).resolve()
    except (OSError, RuntimeError) as error:
        raise AssetError(f"{name!r} cannot be followed: {error}.") from error
    if not path.is_relative_to(root) or path == root:
        raise AssetError(f"the {what} {name!r} lies outside the folder {root.name!r}; only what is inside may be used.")
    return path


def existing(folder: Path, name: str, what: str = "file") -> Path:
    """Like `inside`, for a file that must be there; the error names the nearest file."""
    path = inside(folder, name, what)
    if not path.is_file():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, beside)
        raise AssetError(
            f"there is no {what} {name!r} in the folder {folder.resolve().name!r}.{' ' + hint if hint else ''}"
        )
    return path


def input_picture(settings: Settings, name: str) -> Path:
    """A picture in the input folder, or an example that comes with the workflows: those run from any folder.

    Raises:
        AssetError: there is none, or it would lie outside.
    """
    path = inside(settings.input_folder, name, "image")
    folder, _, file = name.partition("/")
    if folder == "workflows" and file and not path.is_file():
        shipped = inside(bundled_workflows(), file, "image")
        if shipped.is_file():
            return shipped
    return existing(settings.input_folder, name, "image")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then rename it: all or nothing, also on a full disk.

    Raises:
        AssetError: the disk would not take it; nothing is left behind.
    """
    with _filled(path, write) as beside:
        os.replace(beside, path)


def write_numbered(folder: Path, stem: str, suffix: str, write: Callable[[Path], None]) -> Path:
    """Write `stem_00001.png`, or under the first number after the highest that is taken; returns the path.

    All or nothing, like `write_atomically`.  A number is taken by linking the whole file to it, which fails when it
    is there already, so two processes never write over each other.  When a file of this name holds the very same
    bytes, that one is returned: a run that is taken up again after a crash leaves no second copy.
    """
    start = Path(stem).name
    place = inside(folder, f"{stem}_00001{suffix}", "output").parent
    with _filled(place / f"{start}{suffix}", write) as beside:
        taken = _numbered(place, start, suffix)
        size = beside.stat().st_size
        for path in taken.values():
            if path.stat().st_size == size and path.read_bytes() == beside.read_bytes():
                return path
        number = max(taken, default=0) + 1
        while True:
            path = place / f"{start}_{number:05d}{suffix}"
            try:
                os.link(beside, path)
                return path
            except FileExistsError:
                number += 1


def _numbered(place: Path, start: str, suffix: str) -> dict[int, Path]:
    """Files `start_NUMBER.suffix` of a folder, by number."""
    found = {}
    for entry in place.iterdir():
        if PART.fullmatch(entry.name):
            _forget_old(entry)
            continue
        number = entry.stem.removeprefix(f"{start}_")
        if entry.suffix == suffix and entry.stem.startswith(f"{start}_") and number.isascii() and number.isdigit():
            found[int(number)] = entry
    return found


def _forget_old(part: Path) -> None:
    """Delete what a killed process has left: nobody writes one file for an hour."""
    with suppress(OSError):
        if time.time() - part.stat().st_mtime > LEFT_SECONDS:
            part.unlink()


@contextmanager
def _filled(path: Path, write: Callable[[Path], None]) -> Iterator[Path]:
    """A hidden file beside `path` that `write` has filled and that is on the disk; it is gone afterwards."""
    beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        yield beside
    except OSError as error:
        raise AssetError(f"could not write {path.name}: {error.strerror or error}.") from error
    finally:
        beside.unlink(missing_ok=True)
