"""Finding a checkpoint and telling what it is, from its own files, before anything is loaded.

A checkpoint is a folder in the diffusers layout.  `find` turns a name into a `Checkpoint`: its folder, its family,
the class of each part, and a digest of every byte that matters.  Pickled weights are refused: opening one runs
whatever its author wished.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphengine.errors import CheckpointError, did_you_mean
from graphengine.fingerprint import digest, file_digest
from graphengine.models.assets import inside
from graphengine.settings import Settings
from graphengine.values import VAE, Denoiser, LatentSpace, TextEncoder

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
HEADER_LIMIT = 100 * 2**20
PARTS = ("unet", "vae", "text_encoder")
FAMILIES = {("UNet2DConditionModel", "AutoencoderKL", "CLIPTextModel"): "stable_diffusion"}
"""Which classes of denoiser, autoencoder and text encoder make which family."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be loaded: where it is, what it is, and its digest."""

    name: str
    folder: Path
    family: str
    digest: str
    configs: dict[str, dict[str, Any]]

    def handles(self) -> tuple[Denoiser, TextEncoder, VAE]:
        """Handles on its three parts."""
        common = (self.name, self.digest, self.family, str(self.folder))
        vae = self.configs["vae"]
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        space = LatentSpace(int(vae["latent_channels"]), factor, self.digest)
        return Denoiser(*common), TextEncoder(*common), VAE(*common, space=space)


def folders(settings: Settings) -> Iterator[Path]:
    """Where checkpoints are looked for: the user's folders first, then those that come with the project."""
    yield from settings.model_folders
    yield Path(__file__).parent.parent / "checkpoints"


def available(settings: Settings) -> list[str]:
    """Names of everything that looks like a checkpoint."""
    return sorted(
        {
            path.name
            for folder in folders(settings)
            if folder.is_dir()
            for path in folder.iterdir()
            if (path / "unet").is_dir() or (path / "model_index.json").is_file()
        }
    )


def find(name: str, settings: Settings) -> Checkpoint:
    """The checkpoint of a name.

    Raises:
        CheckpointError: there is none, it is pickled, incomplete, damaged, or of an unknown architecture.
        AssetError: the name leads out of the model folders.
    """
    for folder in folders(settings):
        path = inside(folder, name, "checkpoint")
        if path.is_dir():
            return _read(name, path)
        if path.is_file():
            raise CheckpointError(_refusal(path))
    hint = did_you_mean(name, available(settings)) or ""
    raise CheckpointError(f"there is no checkpoint {name!r} in the model folders. {hint}".rstrip())


def _refusal(path: Path) -> str:
    if path.suffix in PICKLES:
        return (
            f"{path.name} is a pickle, which can run code when it is opened; it is refused. "
            "Convert it to safetensors with a tool that you trust."
        )
    return f"{path.name} is a single file; only folders in the diffusers layout can be loaded."


def _read(name: str, folder: Path) -> Checkpoint:
    configs = {part: _config(folder, part) for part in PARTS}
    configs["scheduler"] = _json(folder / "scheduler" / "scheduler_config.json")
    kinds = tuple(str(configs[p].get("_class_name") or (configs[p].get("architectures") or ["?"])[0]) for p in PARTS)
    family = FAMILIES.get(kinds)  # pyright: ignore[reportArgumentType] - three parts, three names
    if family is None:
        known = "; ".join(" + ".join(classes) for classes in FAMILIES)
        raise CheckpointError(f"{name} is of an unknown architecture: saw {' + '.join(kinds)}, know {known}.")
    files = [weights(folder / part) for part in PARTS]
    for file in files:
        check_header(file)
    sums = {str(f.relative_to(folder)): file_digest(f) for f in files}
    _check_sums(folder, sums)
    text = json.dumps({"configs": configs, "sums": sums, "words": _vocabulary(folder)}, sort_keys=True)
    return Checkpoint(name, folder, family, digest(text.encode()).hex(), configs)


def _config(folder: Path, part: str) -> dict[str, Any]:
    if not (folder / part).is_dir():
        raise CheckpointError(f"{folder.name} has no {part} folder; a checkpoint needs {', '.join(PARTS)}.")
    return _json(folder / part / "config.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.parent.name}/{path.name} cannot be read: {error}.") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path.parent.name}/{path.name} is not an object.")
    return document


def _vocabulary(folder: Path) -> list[str]:
    return [file_digest(path) for path in sorted((folder / "tokenizer").glob("*")) if path.is_file()]


def weights(folder: Path) -> Path:
    """The safetensors file of a part.  Raises CheckpointError when there is none, or only a pickle."""
    found = sorted(folder.glob("*.safetensors"), key=lambda path: (len(path.name), path.name))
    if found:
        return found[0]
    pickled = [path for path in folder.iterdir() if path.suffix in PICKLES]
    if pickled:
        raise CheckpointError(_refusal(pickled[0]))
    raise CheckpointError(f"{folder.parent.name}/{folder.name} holds no .safetensors file.")


def check_header(path: Path) -> None:
    """Refuse a file whose safetensors header and length do not agree: a download that broke off, or no weights."""
    where = f"{path.parent.name}/{path.name}"
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_LIMIT):
            raise CheckpointError(f"{where} is no safetensors file, or it is truncated: {size} bytes.")
        try:
            header = json.loads(file.read(length))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            raise CheckpointError(f"{where}: the safetensors header is damaged.") from None
    if missing := 8 + length + max(ends, default=0) - size:
        what = f"{missing} bytes are missing" if missing > 0 else f"{-missing} bytes too many"
        raise CheckpointError(f"{where} is truncated or damaged: {what}.")


def _check_sums(folder: Path, sums: dict[str, str]) -> None:
    """A checkpoint may carry `checksums.json`; then a flipped bit is found out."""
    path = folder / "checksums.json"
    if path.is_file():
        expected = _json(path)
        for name, found in sums.items():
            if name in expected and expected[name] != found:
                raise CheckpointError(f"{folder.name}/{name} is damaged: its checksum is not the recorded one.")
