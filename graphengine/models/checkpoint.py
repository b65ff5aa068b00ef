"""Finding a checkpoint and telling what it is, from its own files, before anything is loaded.

A checkpoint is a folder in the diffusers layout, or a single file.  `find` turns a name into a `Checkpoint`: where it
is, its family, the kind of its latents and prompts, and a digest of every byte that matters.

Glossary
    kind     what latents or prompts are compatible with: the name of a standard, or else the checkpoint's own digest
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphengine.errors import CheckpointError, did_you_mean
from graphengine.fingerprint import digest, file_digest, remembered_digest
from graphengine.models import library
from graphengine.models.families import FAMILIES, family_of, prompts_of
from graphengine.models.files_source import FilesSource
from graphengine.models.identify import compatible, identify
from graphengine.models.single_file import SingleFile
from graphengine.models.source import DENOISERS, OWN, Source, read_json
from graphengine.models.weights import PICKLES, VOCABULARY_LIMIT, read_header, refusal
from graphengine.models.whole_files import whole_source
from graphengine.settings import Settings
from graphengine.values import VAE, Denoiser, LatentSpace, TextEncoder

LIBRARIES = ("diffusers", "transformers")
"""Where the classes of a checkpoint may come from; anything else would run its author's code."""
MOST_CHANNELS, MOST_REDUCED = 4096, 1024
AUTOENCODERS = {
    ("AutoencoderKL", 4, 0.18215, 0.0, 512): "sd",
    ("AutoencoderKL", 4, 0.13025, 0.0, 512): "sdxl",
    ("AutoencoderKL", 16, 1.5305, 0.0609, 512): "sd3",
    ("AutoencoderKL", 16, 0.3611, 0.1159, 512): "flux",
    ("AutoencoderDC", 32, 0.41407, 0.0, 1024): "sana",
    ("AutoencoderKLFlux2", 32, 1.0, 0.0, 512): "flux_2",
    ("AutoencoderKLQwenImage", 16, 1.0, 0.0, 384): "qwen_image",
}
"""Standards: class, channels, scaling, shift and widest layer of an autoencoder."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be loaded: where it is (`folder`, or a file), what it is, and its digest."""

    name: str
    folder: Path
    family: str
    digest: str
    configs: dict[str, dict[str, Any]]
    kinds: tuple[str, str] = ("", "")
    """Digests of its vae and of its text encoders; empty where they are not told apart from the rest."""

    @property
    def space(self) -> LatentSpace:
        """The space of its latents.  Raises CheckpointError when the VAE's config tells none."""
        try:
            space = self._space()
        except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
            raise CheckpointError(f"{self.name}: the config of the vae tells no latents: {error}.") from error
        if not (0 < space.channels <= MOST_CHANNELS and 0 < space.factor <= MOST_REDUCED):
            told = f"{str(space.channels)[:30]} channels, reduced {str(space.factor)[:30]} times"
            raise CheckpointError(f"{self.name}: the config of the vae tells of latents with {told}.")
        return space

    def _space(self) -> LatentSpace:
        vae = self.configs["vae"]
        channels = int(vae.get("latent_channels") or vae.get("z_dim") or 4)
        steps = [int(vae.get("base_dim") or 1) * int(step) for step in vae.get("dim_mult") or [1, 1, 1, 1]]
        widths = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or steps
        usual = (
            0.18215 if vae.get("_class_name") == "AutoencoderKL" else 1
        )  # of its class, where old configs are silent
        scaling, shift = float(vae.get("scaling_factor") or usual), float(vae.get("shift_factor") or 0)
        standard = AUTOENCODERS.get((str(vae.get("_class_name")), channels, scaling, shift, widths[-1]))
        patch = vae.get("patch_size")
        side = int(patch[0]) if isinstance(patch, list) else 1  # of patches that latents are normalised in
        return LatentSpace(channels * side**2, 2 ** (len(widths) - 1) * side, standard or self.kinds[0] or self.digest)

    @property
    def prompts(self) -> str:
        """The kind of its prompts."""
        denoiser = next((self.configs[part] for part in DENOISERS if part in self.configs), {})
        return prompts_of(self.family, denoiser) or self.kinds[1] or self.digest

    def handles(self) -> tuple[Denoiser, TextEncoder, VAE]:
        """Handles on its three parts."""
        common = (self.name, self.digest, self.family, str(self.folder))
        space, prompts = self.space, self.prompts
        return (
            Denoiser(*common, space=space, prompts=prompts),
            TextEncoder(*common, kind=prompts),
            VAE(*common, space=space),
        )


def folders(settings: Settings) -> Iterator[Path]:
    """Where checkpoints are looked for: the user's folders first, then those that come with the project."""
    yield from (place.folder for place in library.of_kind("checkpoints", settings))


def available(settings: Settings) -> list[str]:
    """Names of everything that looks like a checkpoint."""
    return library.names("checkpoints", settings)


def find(name: str, settings: Settings) -> Checkpoint:
    """The checkpoint of a name.

    Raises:
        CheckpointError: there is none, it is pickled, incomplete, damaged, or of an unknown architecture.
        AssetError: the name leads out of the model folders.
    """
    path = library.find(name, "checkpoints", settings, "checkpoint")
    if path is not None:
        return at(path, settings, name)
    hint = did_you_mean(name, available(settings)) or ""
    raise CheckpointError(f"there is no checkpoint {name!r} in the model folders. {hint}".rstrip())


def find_file(name: str, kind: str, settings: Settings) -> Path:
    """A file of a kind (`loras`, `controlnet`, ...): in the folder of that name in a model folder, or beside it.

    Raises:
        CheckpointError: there is none, or it is a pickle.  AssetError: the name leads out of the model folders.
    """
    return library.find_file(name, kind, settings)


def check_fits(adapter: Path, denoiser: Denoiser) -> None:
    """Refuse a LoRA that was made for another family, before any weights are read.

    What is no published layout cannot be compared here; its layers are when the LoRA is applied.

    Raises:
        CheckpointError: it does not fit, or is damaged.
    """
    own = read_header(adapter)
    try:
        source = source_of(Path(denoiser.folder))
        headers = [read_header(file) for file in source.files(source.denoiser)]
        model = identify({name: info for header in headers for name, info in header.items()})
        lora = identify(own)
    except CheckpointError:
        return
    try:
        compatible(lora, model)
    except CheckpointError as error:
        raise CheckpointError(f"{adapter.name} does not go with {denoiser.checkpoint}. {error}") from None


def at(path: Path, settings: Settings, name: str = "") -> Checkpoint:
    """The checkpoint at a place.  Raises CheckpointError."""
    check_links(path, settings)
    read = _read_file if path.is_file() else _read
    return read(name or path.name, path, settings.cache_folder)


def _read(name: str, folder: Path, cache: Path) -> Checkpoint:
    source = Source(folder)
    _check_index(folder)
    denoiser = source.denoiser
    for part, there in (("vae", source.has("vae")), ("text_encoder", source.texts)):
        if not there:
            raise CheckpointError(
                f"{folder.name} has no {part} folder; a checkpoint needs a denoiser, a vae and a text_encoder."
            )
    parts = [denoiser, "vae", *source.texts]
    configs = {part: source.config(part) for part in parts}
    configs["scheduler"] = source.scheduler
    configs["model_index"] = source.index
    seen = source.class_of(denoiser)
    family = family_of(seen, configs[denoiser])
    if family is None:
        raise CheckpointError(
            f"{name} is of an unknown architecture: its denoiser is a {seen}; known are {', '.join(FAMILIES)}."
        )
    files = [file for part in parts for file in source.files(part)]
    for file in files:
        read_header(file)
    sums = {f"{file.parent.name}/{file.name}": remembered_digest(file, cache) for file in files}
    _check_sums(folder, sums)
    words = [_vocabulary(source.tokenizer(f"tokenizer{part.removeprefix('text_encoder')}")) for part in source.texts]
    if source.has("processor"):  # of pictures, which the text encoder sees as the pipeline says
        words += [_vocabulary(source.place("processor")), [source.pipeline]]

    def told(*parts: str) -> str:
        own = {name: found for name, found in sums.items() if name.partition("/")[0] in parts}
        facts = {
            "configs": {part: configs[part] for part in parts},
            "sums": own,
            "words": words if parts != ("vae",) else [],
        }
        return digest(json.dumps(facts, sort_keys=True).encode()).hex()

    whole = told(*parts, "scheduler", "model_index")
    return Checkpoint(name, folder, family, whole, configs, (told("vae"), told(*source.texts)))


def source_of(folder: Path) -> Source:
    """The parts of a checkpoint by its place.  Raises CheckpointError."""
    return file_source(folder) if folder.is_file() else Source(folder)


def file_source(path: Path) -> SingleFile | FilesSource:
    """The parts of a whole checkpoint in a file.  Raises CheckpointError."""
    return whole_source(path) or SingleFile(path)


def _read_file(name: str, path: Path, cache: Path) -> Checkpoint:
    if path.suffix in PICKLES:
        raise CheckpointError(refusal(path))
    source = file_source(path)
    seen = source.class_of(source.denoiser)
    family = family_of(seen, source.config(source.denoiser))
    if family is None:
        raise CheckpointError(f"{name} is of an unknown architecture: its denoiser is a {seen}.")
    configs = {part: source.config(part) for part in source.configs}
    text = json.dumps({"configs": configs, "sum": remembered_digest(path, cache)}, sort_keys=True)
    return Checkpoint(name, path, family, digest(text.encode()).hex(), configs)


def _check_index(folder: Path) -> None:
    """Refuse a checkpoint that asks for classes of anybody else's."""
    if not (folder / "model_index.json").is_file():
        return
    for part, entry in read_json(folder / "model_index.json").items():
        if isinstance(entry, list) and entry and entry[0] not in (None, OWN, *LIBRARIES):
            raise CheckpointError(
                f"{folder.name}: the part {part} wants code from {str(entry[0])[:60]!r}; "
                f"only classes of {' and '.join(LIBRARIES)} are loaded."
            )


def check_links(path: Path, settings: Settings) -> None:
    """Refuse a checkpoint with a symbolic link that leads out of its model folder."""
    here = path.resolve()
    roots = [
        root for place in library.of_kind("checkpoints", settings) if here.is_relative_to(root := place.root.resolve())
    ]
    for folder, below, files in os.walk(here):
        for name in (*below, *files):
            entry = Path(folder, name)
            target = Path(os.path.realpath(entry))  # which follows a circle of links without failing
            if entry.is_symlink() and not any(target.is_relative_to(root) for root in (here, *roots)):
                raise CheckpointError(f"{path.name}/{entry.relative_to(here)} is a link that leads out of the models.")


def _vocabulary(folder: Path) -> list[str]:
    """Digests of a tokenizer's files.  Raises CheckpointError."""
    files = [path for path in sorted(folder.glob("*")) if path.is_file()]
    for path in files:
        if path.stat().st_size > VOCABULARY_LIMIT:
            raise CheckpointError(f"{folder.parent.name}/{folder.name}/{path.name} has too many bytes for a tokenizer.")
    return [file_digest(path) for path in files]


def _check_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """A checkpoint may carry `checksums.json`; then a flipped bit is found out."""
    path = folder / "checksums.json"
    if path.is_file():
        expected = read_json(path)
        for name, found in sums.items():
            if name in expected and expected[name] != found:
                raise CheckpointError(f"{folder.name}/{name} is damaged: its checksum is not the recorded one.")
