"""Names to paths, and never outside the folder that was meant: no `..`, no absolute path, no link that leads away."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from graphengine.errors import AssetError, did_you_mean


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
        raise AssetError(f"the {what} {name!r} lies outside the folder {root}; only what is inside may be used.")
    return path


def existing(folder: Path, name: str, what: str = "file") -> Path:
    """Like `inside`, for a file that must be there; the error names the nearest file."""
    path = inside(folder, name, what)
    if not path.is_file():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, beside)
        raise AssetError(f"there is no {what} {name!r} in {folder.resolve()}.{' ' + hint if hint else ''}")
    return path


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then rename it: all or nothing, also on a full disk.

    Raises:
        AssetError: the disk would not take it; nothing is left behind.
    """
    beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        os.replace(beside, path)
    except OSError as error:
        raise AssetError(f"could not write {path.name}: {error.strerror or error}.") from error
    finally:
        beside.unlink(missing_ok=True)


def next_free(folder: Path, stem: str, suffix: str) -> Path:
    """`stem_00001.png`, or the first number after the highest that is taken."""
    start = Path(stem).name
    place = inside(folder, f"{stem}_00001{suffix}", "output").parent
    taken = [0]
    if place.is_dir():
        for entry in place.iterdir():
            number = entry.stem.removeprefix(f"{start}_")
            if entry.suffix == suffix and entry.stem.startswith(f"{start}_") and number.isdigit():
                taken.append(int(number))
    return place / f"{start}_{max(taken) + 1:05d}{suffix}"
