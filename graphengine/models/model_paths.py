"""ComfyUI's `extra_model_paths.yaml`: sections, each with a base path and with folders by kind.

    a_title:
        base_path: ~/ComfyUI/models    # what the paths below start from; itself from the file's own folder
        is_default: true               # looked at before all others
        loras: |
            loras
            $MORE/loras

Paths may begin with `~` and hold environment variables.  The file is data: nothing that it says is executed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from graphengine.errors import AssetError

BASE, DEFAULT = "base_path", "is_default"
NO_MODELS = (BASE, DEFAULT, "custom_nodes", "configs", "download_model_base")
"""Keys that name no folder of models."""
LIMIT = 2**20


@dataclass(frozen=True, slots=True)
class NamedFolder:
    """A folder that a file names: the kind of what lies there, and whether it comes before all others."""

    kind: str
    folder: Path
    default: bool


@dataclass(frozen=True, slots=True)
class _Written:
    """A path as it is written."""

    kind: str
    base: str
    path: str
    default: bool


def read_paths(path: Path) -> list[NamedFolder]:
    """The folders that a file of model paths names, in its order.

    Raises:
        AssetError: it is missing or no such file; the sentence says on which line.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise AssetError(f"the file of model paths {path.name} cannot be read: {error.strerror}.") from error
    if status.st_size > LIMIT:
        raise AssetError(f"{path.name} is no file of model paths: it is {status.st_size:,} bytes long.")
    beside = path.resolve().parent

    def folder(row: _Written) -> Path:
        return Path(os.path.normpath(beside / _expanded(row.base) / _expanded(row.path)))

    return [NamedFolder(row.kind, folder(row), row.default) for row in _read(path, status.st_mtime_ns, status.st_size)]


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path.strip()))  # noqa: PTH111 - Path's raises where there is no home


@lru_cache(maxsize=16)
def _read(path: Path, changed: int, size: int) -> tuple[_Written, ...]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise AssetError(f"{path.name}, line {line}: {error.problem or 'this is no YAML'}.") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise AssetError(f"{path.name} cannot be read: {error}.") from None
    return tuple(_rows(document, path.name, text))


def _rows(document: Any, name: str, text: str) -> Iterator[_Written]:
    sections = {} if document is None else document
    if not isinstance(sections, dict):
        raise _refusal(name, text, (), "expected sections with a base_path and folders by kind")
    for title, section in sections.items():
        if section is None:
            continue
        if not isinstance(section, dict):
            raise _refusal(name, text, (title,), "expected a section with a base_path and folders by kind")
        base, default = section.get(BASE, ""), section.get(DEFAULT, False)
        if not isinstance(base, str):
            raise _refusal(name, text, (title, BASE), "expected the path of a folder")
        if not isinstance(default, bool):
            raise _refusal(name, text, (title, DEFAULT), "expected true or false")
        for kind, value in section.items():
            if kind in NO_MODELS or value is None:
                continue
            lines = value if isinstance(value, list) else [value]
            if not all(isinstance(line, str) and "\0" not in line for line in lines):
                raise _refusal(name, text, (title, kind), "expected paths of folders, one on a line")
            for written in _lines(lines):
                yield _Written(str(kind), base, written, default)


def _lines(texts: list[str]) -> Iterator[str]:
    """Lines without what follows `#`, which in a text of several lines is no comment of YAML's."""
    for text in texts:
        for line in text.splitlines():
            path = f" {line}".split(" #")[0].strip()
            if path:
                yield path


def _refusal(name: str, text: str, keys: tuple[Any, ...], expected: str) -> AssetError:
    """An error that names the line of a key, which a parsed document does not know any more."""
    import yaml

    node, line = yaml.compose(text, Loader=yaml.SafeLoader), 1
    for key in keys:
        for written, value in node.value if isinstance(node, yaml.MappingNode) else []:
            if str(written.value) == str(key):
                node, line = value, written.start_mark.line + 1
    return AssetError(f"{name}, line {line}: {expected}.")
