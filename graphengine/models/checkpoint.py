"""Finding a checkpoint and telling what it is, from its own files, before anything is loaded.

A checkpoint is a folder in the diffusers layout.  `find` turns a name into a `Checkpoint`: its folder, its family,
the kind of its latents and prompts, and a digest of every byte that matters.

Glossary
    part     a folder of the checkpoint with a config and weights: `unet` or `transformer`, `vae`, `text_encoder`, ...
    kind     what latents or prompts are compatible with: the name of a standard, or else the checkpoint's own digest
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import CheckpointError, did_you_mean
from graphengine.fingerprint import digest, file_digest
from graphengine.models.assets import inside
from graphengine.models.families import FAMILIES, family_of
from graphengine.models.weights import PICKLES, load_tensors, read_header, refusal, weight_files
from graphengine.settings import Settings
from graphengine.values import VAE, Denoiser, LatentSpace, TextEncoder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DENOISERS = ("unet", "transformer")
LIBRARIES = ("diffusers", "transformers")
"""Where the classes of a checkpoint may come from; anything else would run its author's code."""
AUTOENCODERS = {
    ("AutoencoderKL", 4, 0.18215, 0.0, 512): "sd",
    ("AutoencoderKL", 4, 0.13025, 0.0, 512): "sdxl",
    ("AutoencoderKL", 16, 1.5305, 0.0609, 512): "sd3",
    ("AutoencoderKL", 16, 0.3611, 0.1159, 512): "flux",
}
"""Standards: class, channels, scaling, shift and widest layer of an autoencoder."""


@dataclass(frozen=True)
class Source:
    """The files of a checkpoint, as a family's adapters read them."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def has(self, part: str) -> bool:
        return (self.folder / part).is_dir()

    def config(self, part: str) -> dict[str, Any]:
        """The `config.json` of a part.  Raises CheckpointError."""
        return _json(self.folder / part / "config.json")

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        """The `scheduler_config.json`.  Raises CheckpointError."""
        return _json(self.folder / "scheduler" / "scheduler_config.json")

    def files(self, part: str) -> list[Path]:
        """The weights of a part.  Raises CheckpointError."""
        return weight_files(self.folder / part)

    def tensors(self, part: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """The weights of a part by name, in the names of diffusers or transformers.  Raises CheckpointError."""
        return load_tensors(self.files(part), dtype)

    def tokenizer(self, part: str = "tokenizer") -> Path:
        """The folder of a tokenizer."""
        return self.folder / part

    @cached_property
    def denoiser(self) -> str:
        """The part that removes noise.  Raises CheckpointError when there is none."""
        for part in DENOISERS:
            if self.has(part):
                return part
        raise CheckpointError(
            f"{self.name} has no unet folder (nor transformer); a checkpoint needs a denoiser, a vae and a text_encoder."
        )

    @cached_property
    def texts(self) -> list[str]:
        """The text encoders, in order."""
        return sorted(path.name for path in self.folder.glob("text_encoder*") if path.is_dir())

    def class_of(self, part: str) -> str:
        """The class that a part's config names."""
        config = self.config(part)
        return str(config.get("_class_name") or (config.get("architectures") or ["?"])[0])


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be loaded: where it is, what it is, and its digest."""

    name: str
    folder: Path
    family: str
    digest: str
    configs: dict[str, dict[str, Any]]

    @property
    def space(self) -> LatentSpace:
        """The space of its latents."""
        vae = self.configs["vae"]
        channels = int(vae.get("latent_channels") or vae.get("z_dim") or 4)
        widths = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or [1, 1, 1, 1]
        scaling, shift = float(vae.get("scaling_factor") or 1), float(vae.get("shift_factor") or 0)
        standard = AUTOENCODERS.get((str(vae.get("_class_name")), channels, scaling, shift, widths[-1]))
        return LatentSpace(channels, 2 ** (len(widths) - 1), standard or self.digest)

    def handles(self) -> tuple[Denoiser, TextEncoder, VAE]:
        """Handles on its three parts."""
        common = (self.name, self.digest, self.family, str(self.folder))
        space = self.space
        return (
            Denoiser(*common, space=space, prompts=self.digest),
            TextEncoder(*common, kind=self.digest),
            VAE(*common, space=space),
        )


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
            if any((path / part).is_dir() for part in DENOISERS) or (path / "model_index.json").is_file()
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
            if path.suffix in PICKLES:
                raise CheckpointError(refusal(path))
            raise CheckpointError(f"{path.name} is a single file; only folders in the diffusers layout can be loaded.")
    hint = did_you_mean(name, available(settings)) or ""
    raise CheckpointError(f"there is no checkpoint {name!r} in the model folders. {hint}".rstrip())


def _read(name: str, folder: Path) -> Checkpoint:
    source = Source(folder)
    _check_index(folder)
    denoiser = source.denoiser
    for part in ("vae", "text_encoder"):
        if not source.has(part):
            raise CheckpointError(
                f"{folder.name} has no {part} folder; a checkpoint needs a denoiser, a vae and a text_encoder."
            )
    parts = [denoiser, "vae", *source.texts]
    configs = {part: source.config(part) for part in parts}
    configs["scheduler"] = source.scheduler
    seen = source.class_of(denoiser)
    family = family_of(seen, configs[denoiser])
    if family is None:
        raise CheckpointError(
            f"{name} is of an unknown architecture: its denoiser is a {seen}; known are {', '.join(FAMILIES)}."
        )
    files = [file for part in parts for file in source.files(part)]
    for file in files:
        read_header(file)
    sums = {str(f.relative_to(folder)): file_digest(f) for f in files}
    _check_sums(folder, sums)
    text = json.dumps({"configs": configs, "sums": sums, "words": _vocabulary(folder)}, sort_keys=True)
    return Checkpoint(name, folder, family, digest(text.encode()).hex(), configs)


def _check_index(folder: Path) -> None:
    """Refuse a checkpoint that asks for classes of anybody else's."""
    if not (folder / "model_index.json").is_file():
        return
    for part, entry in _json(folder / "model_index.json").items():
        if isinstance(entry, list) and entry and entry[0] not in (None, *LIBRARIES):
            raise CheckpointError(
                f"{folder.name}: the part {part} wants code from {str(entry[0])[:60]!r}; "
                f"only classes of {' and '.join(LIBRARIES)} are loaded."
            )


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.parent.name}/{path.name} cannot be read: {error}.") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path.parent.name}/{path.name} is not an object.")
    return document


def _vocabulary(folder: Path) -> list[str]:
    return [file_digest(path) for path in sorted(folder.glob("tokenizer*/*")) if path.is_file()]


def _check_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """A checkpoint may carry `checksums.json`; then a flipped bit is found out."""
    path = folder / "checksums.json"
    if path.is_file():
        expected = _json(path)
        for name, found in sums.items():
            if name in expected and expected[name] != found:
                raise CheckpointError(f"{folder.name}/{name} is damaged: its checksum is not the recorded one.")
