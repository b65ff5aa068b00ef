"""A denoiser that was trained beside a checkpoint: it reads that checkpoint's prompts and works in its latents.

Nothing in a network of no published kind tells which text encoder and autoencoder it goes with.  Its folder says it in
`companion.json`: the checkpoint's name, and the SHA-256 of the files that both were trained with, by their paths there.
"""

from __future__ import annotations

from pathlib import Path

from graphengine.errors import CheckpointError
from graphengine.fingerprint import remembered_digest
from graphengine.models import checkpoint as checkpoints
from graphengine.models.checkpoint import Checkpoint
from graphengine.models.source import read_json
from graphengine.settings import Settings

FILE = "companion.json"


def is_companion(folder: Path) -> bool:
    """Whether a folder holds a denoiser that says what it goes with."""
    return (folder / FILE).is_file()


def companion(folder: Path, settings: Settings) -> Checkpoint | None:
    """The checkpoint that a denoiser goes with; None where its folder does not say.

    Raises:
        CheckpointError: there is no such checkpoint, or its text encoder or autoencoder is another one.
    """
    if not is_companion(folder):
        return None
    told = read_json(folder / FILE)
    name, sums = told.get("checkpoint"), told.get("sums")
    if not isinstance(name, str) or not isinstance(sums, dict) or not sums:
        raise CheckpointError(
            f"{folder.name}/{FILE} says not which checkpoint it goes with; expected checkpoint and sums."
        )
    found = checkpoints.find(name, settings)
    own = found.folder.resolve()
    for path, wanted in sums.items():
        file = (own / path).resolve()
        if (
            not (file.is_file() and file.is_relative_to(own))
            or remembered_digest(file, settings.cache_folder) != wanted
        ):
            raise CheckpointError(
                f"{folder.name} was trained beside another {name}: {path} is not the one that it goes with. "
                f"Look for a second checkpoint called {name} in the model folders."
            )
    return found
