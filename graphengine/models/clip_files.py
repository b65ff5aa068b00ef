"""CLIPs in the folder `clip_vision` of a model folder, whole or only their eyes: their files and digest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from graphengine.errors import CheckpointError
from graphengine.fingerprint import digest, remembered_digest
from graphengine.models.source import read_json
from graphengine.models.weights import read_header, weight_files
from graphengine.settings import Settings

KIND = "clip_vision"


@dataclass(frozen=True)
class ClipFiles:
    """A CLIP: its name, where it is, its config, its files and its digest."""

    name: str
    place: Path
    config: dict[str, Any]
    files: list[Path]
    digest: str

    @classmethod
    def read(cls, name: str, place: Path, config: dict[str, Any], files: list[Path], settings: Settings) -> Self:
        """With the digest of its files."""
        sums = [remembered_digest(file, settings.cache_folder) for file in files]
        return cls(name, place, config, files, digest(json.dumps([config, sums], sort_keys=True).encode()).hex())

    def numbers(self) -> int:
        """How many numbers its weights are.  Raises CheckpointError."""
        return sum(info.numbers for file in self.files for info in read_header(file).values())


def in_folder(path: Path, wanted: str, name: str) -> tuple[dict[str, Any], list[Path]]:
    """The config and the files of weights of a folder in transformers' layout.  Raises CheckpointError if it is another class."""
    config = read_json(path / "config.json")
    seen = (config.get("architectures") or [config.get("model_type")])[0]
    if seen != wanted:
        raise CheckpointError(f"{name} is a {str(seen)[:60]}; expected a {wanted}.")
    return config, weight_files(path)
