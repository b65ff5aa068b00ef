"""Folders that hold a modular pipeline of diffusers, read before anything is loaded; diffusers itself is not imported.

`modular_model_index.json`, or else an ordinary `model_index.json`, names the *components*: networks, tokenizers, a
scheduler, each in a folder of its own.  Only what lies in the model folder counts: an index may point at a hub, and
nothing is ever looked for there.  An index that names code of its own is refused.

Glossary
    entry    what an index says of a component: the library and the name of its class, and its folder
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from graphengine.errors import CheckpointError, did_you_mean
from graphengine.fingerprint import digest, remembered_digest
from graphengine.models import library
from graphengine.models.assets import inside
from graphengine.models.checkpoint import check_links
from graphengine.models.source import Source, read_json
from graphengine.models.weights import PICKLES, VOCABULARY_LIMIT, read_header, weight_files
from graphengine.settings import Settings

INDEXES = ("modular_model_index.json", "model_index.json")
OWN_BLOCKS = "modular_config.json"
"""Where a folder says that it brings blocks of its own, which would be code."""


@dataclass(frozen=True)
class Entry:
    """What an index says of a component: its class, and its folder inside that of the pipeline."""

    library: str
    name: str
    part: str


@dataclass(frozen=True)
class ModularFolder:
    """A pipeline that can be opened: its name, its folder, what its index says, and a digest of all that matters."""

    name: str
    path: Path
    said: dict[str, Any]
    modular: bool
    """Whether the index is one of a modular pipeline."""
    entries: dict[str, Entry]
    digest: str = ""

    @property
    def class_name(self) -> str:
        """The class of pipeline that the index was made for."""
        return str(self.said.get("_class_name") or "")

    @cached_property
    def source(self) -> Source:
        """The files of its components."""
        return Source(self.path)

    def has(self, component: str) -> bool:
        """Whether a component lies in the folder."""
        return component in self.entries and (self.path / self.entries[component].part).is_dir()

    def files(self, component: str) -> list[Path]:
        """The weights of a component; none where it is no network.  Raises CheckpointError."""
        folder = self.path / self.entries[component].part
        weighs = any(path.suffix in (".safetensors", *PICKLES) for path in folder.iterdir())
        return weight_files(folder) if weighs else []

    def numbers(self, component: str) -> int:
        """How many numbers the weights of a component hold.  Raises CheckpointError."""
        headers = [read_header(file) for file in self.files(component)]
        return sum(info.numbers for header in headers for info in header.values())


def find(name: str, settings: Settings) -> ModularFolder:
    """The pipeline of a name.

    Raises:
        CheckpointError: there is none, it names code of its own, it is pickled or damaged.
        AssetError: the name leads out of the model folders.
    """
    path = library.find(name, "checkpoints", settings, "pipeline")
    if path is None:
        hint = did_you_mean(name, library.names("checkpoints", settings)) or ""
        raise CheckpointError(f"there is no pipeline {name!r} in the model folders. {hint}".rstrip())
    return at(path, settings, name)


def at(path: Path, settings: Settings, name: str = "") -> ModularFolder:
    """The pipeline in a folder.  Raises CheckpointError."""
    name = name or path.name
    if not path.is_dir():
        raise CheckpointError(f"{name} is no folder; a modular pipeline is one with {' or '.join(INDEXES)} in it.")
    check_links(path, settings)
    index = next((path / each for each in INDEXES if (path / each).is_file()), None)
    if index is None:
        raise CheckpointError(f"{name} holds no pipeline: there is neither {' nor '.join(INDEXES)} in it.")
    said = read_json(index)
    if (path / OWN_BLOCKS).is_file():
        read_json(path / OWN_BLOCKS)  # which refuses an `auto_map`
    if not isinstance(said.get("_class_name"), str):
        raise CheckpointError(
            f"{name}/{index.name} names the class {str(said.get('_class_name'))[:60]!r}; expected one of diffusers. "
            "Code that a model names is never run."
        )
    entries = {key: _entry(path, key, value) for key, value in said.items() if _is_entry(value)}
    found = ModularFolder(name, path, said, index.name == INDEXES[0], {k: e for k, e in entries.items() if e.name})
    return ModularFolder(name, path, said, found.modular, found.entries, _digest(found, settings))


def _is_entry(value: Any) -> bool:
    """`[library, class]` of an ordinary index, or `[library, class, how it is loaded]` of a modular one."""
    if not isinstance(value, list) or len(value) not in (2, 3):
        return False
    return all(item is None or isinstance(item, str) for item in value[:2]) and isinstance(value[-1], dict | str | None)


def _entry(path: Path, component: str, value: list[Any]) -> Entry:
    more = value[2] if len(value) == 3 else {}
    hint = more.get("type_hint") or (None, None)
    library_name, class_name = (value[place] or hint[place] or "" for place in (0, 1))
    part = str(more.get("subfolder") or component)
    return Entry(
        str(library_name), str(class_name), inside(path, part, "component").relative_to(path.resolve()).as_posix()
    )


def _digest(folder: ModularFolder, settings: Settings) -> str:
    """A digest of the index and of every file of its components."""
    sums: dict[str, str] = {}
    for component, entry in folder.entries.items():
        if not folder.has(component):
            continue
        weights = folder.files(component)
        for file in weights:
            read_header(file)
        for file in (*weights, *_facts(folder.path / entry.part)):
            sums[f"{entry.part}/{file.name}"] = remembered_digest(file, settings.cache_folder)
    return digest(json.dumps([folder.said, sums], sort_keys=True).encode()).hex()


def _facts(folder: Path) -> list[Path]:
    """The small files of a component: configs, vocabularies.  Raises CheckpointError for one that is not small."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in (".json", ".txt", ".model")]
    files += [path for path in sorted(folder.glob("*.jinja")) if path.is_file()]
    for path in files:
        if path.stat().st_size > VOCABULARY_LIMIT:
            raise CheckpointError(f"{folder.parent.name}/{folder.name}/{path.name} has too many bytes for a config.")
    return files
