"""What lies in the model folders: one entry for each file and checkpoint, made from headers and configs alone.

Whatever is damaged or missing is an entry with a sentence: looking at a folder full of downloads never fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from graphengine.errors import CheckpointError, GraphEngineError, did_you_mean
from graphengine.fingerprint import remembered_digest
from graphengine.models import library
from graphengine.models.checkpoint import file_source
from graphengine.models.families import FAMILIES, family_of
from graphengine.models.identify import identify
from graphengine.models.library import Found
from graphengine.models.published import MODEL_OF
from graphengine.models.single_file import MODELS
from graphengine.models.source import DENOISERS, Source, read_json
from graphengine.models.weights import PICKLES, TensorInfo, read_header, refusal, weight_files
from graphengine.settings import Settings

FAULTS = (GraphEngineError, OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)
"""What reading a file raises that somebody else has made."""
HOLDS = {
    "checkpoints": ("checkpoint",),
    "diffusion_models": ("denoiser", "checkpoint"),
    "text_encoders": ("text_encoder",),
    "vae": ("vae", "checkpoint"),
    "loras": ("lora",),
    "controlnet": ("controlnet", "t2i_adapter", "checkpoint"),
    "embeddings": ("textual_inversion",),
    "clip_vision": ("image_encoder",),
    "ipadapter": ("ip_adapter",),
    "upscale_models": ("upscaler",),
}
"""Which kinds of file belong into which folder; other folders may hold anything."""
DRIVEN = ("checkpoint", "denoiser")
"""Kinds of which the engine must know the family."""
CLASSES = {
    "ControlNet": "controlnet",
    "T2IAdapter": "t2i_adapter",
    "Autoencoder": "vae",
    "CLIPModel": "clip",
    "CLIPVision": "image_encoder",
    "CLIPText": "text_encoder",
    "T5": "text_encoder",
    "UMT5": "text_encoder",
    "UNet": "denoiser",
    "Transformer2D": "denoiser",
}
"""What a part is, by a piece of the name of its class."""


@dataclass(frozen=True)
class Entry:
    """A model: its name, where it lies, what it is, and what is missing or wrong.

    `formats` counts tensors by the format of their numbers; `parts` says what stands before the names of each part.
    """

    name: str
    folder: str
    path: str
    kind: str = "?"
    family: str = ""
    variant: str = ""
    layout: str = ""
    method: str = ""
    parameters: int = 0
    formats: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    parts: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    wrong: str = ""


def inventory(settings: Settings) -> Iterator[Entry]:
    """An entry for everything in the model folders.

    Raises:
        AssetError: a file of model paths cannot be read.
    """
    for found in library.listing(settings):
        yield entry(found)


def named(name: str, settings: Settings) -> list[Entry]:
    """The entries of a name.

    Raises:
        CheckpointError: there is none.  AssetError: a file of model paths cannot be read.
    """
    every = list(library.listing(settings))
    found = [entry(each) for each in every if each.name == name]
    if not found:
        hint = did_you_mean(name, dict.fromkeys(each.name for each in every)) or ""
        raise CheckpointError(f"there is no model {name!r} in the model folders. {hint}".rstrip())
    return found


def digests(entry: Entry, settings: Settings) -> dict[str, str]:
    """The SHA-256 of each file of weights; of one that cannot be read, why not."""
    made = {}
    for file in entry.files:
        try:
            made[file] = remembered_digest(Path(file), settings.cache_folder)
        except OSError as error:
            made[file] = f"it cannot be read: {error.strerror}."
    return made


def entry(found: Found) -> Entry:
    """What something in the model folders is."""
    start = Entry(found.name, found.place.kind or "", str(found.path), wrong=found.wrong)
    if found.wrong:
        return start
    try:
        if found.path.is_file():
            made = _file(found.path, start)
        else:
            made = _checkpoint(found.path, start) if library.is_checkpoint(found.path) else _part(found.path, start)
    except FAULTS as error:
        made = replace(start, wrong=_sentence(error))
    return replace(made, wrong=" ".join(filter(None, (found.hidden, made.wrong))))


def _sentence(error: BaseException) -> str:
    if isinstance(error, GraphEngineError):
        return str(error)
    told = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return f"it cannot be read: {str(told)[:200]}."


def _file(path: Path, start: Entry) -> Entry:
    if path.suffix in PICKLES:
        return replace(start, bytes=path.stat().st_size, files=(str(path),), kind="pickle", wrong=refusal(path))
    status = path.stat()
    made = replace(
        _content(path, status.st_ino, status.st_size, status.st_mtime_ns), name=start.name, folder=start.folder
    )
    return made if made.wrong else replace(made, wrong=_amiss(path, made))


@lru_cache(maxsize=4096)
def _content(path: Path, inode: int, size: int, changed: int) -> Entry:
    """What a file of weights is by itself; remembered until it changes, for people look again and again."""
    made = Entry("", "", str(path), bytes=size, files=(str(path),))
    try:
        header = read_header(path)
        made = _measured(made, [header])
        identity = identify(header)
    except FAULTS as error:
        return replace(made, wrong=_sentence(error))
    return replace(
        made,
        kind=identity.kind,
        family=identity.family,
        variant=identity.variant,
        layout=identity.layout,
        method=identity.method,
        parts=dict(identity.parts),
    )


def _measured(entry: Entry, headers: list[dict[str, TensorInfo]]) -> Entry:
    infos = [info for header in headers for info in header.values()]
    formats = dict(Counter(info.dtype for info in infos).most_common())
    return replace(entry, parameters=sum(info.numbers for info in infos), formats=formats)


def _amiss(path: Path, entry: Entry) -> str:
    """Why a sound file is of no use, or not where it lies."""
    known = set(FAMILIES.values()) | {"stable_diffusion_xl"}
    if entry.kind in DRIVEN and entry.family not in known:
        return f"the family {entry.family} is not supported."
    wanted = HOLDS.get(entry.folder)
    if wanted and entry.kind not in wanted:
        return f"this is a {entry.kind}, and lies among the {entry.folder}."
    if entry.kind == "checkpoint":
        try:
            file_source(path).configs  # noqa: B018 - what it is lacking is told by the attempt
        except CheckpointError as error:
            return str(error)
    if entry.kind == "denoiser" and entry.variant not in {**MODELS, **MODEL_OF}:
        return f"a denoiser of {entry.family} ({entry.variant}) cannot be loaded from a file that holds nothing else."
    return ""


def _checkpoint(folder: Path, start: Entry) -> Entry:
    """A checkpoint in the diffusers layout, or as much of it as there is; a denoiser by itself is one, too.

    What it takes from an embedded checkpoint is there and not counted.
    """
    source, faults = Source(folder), list[str]()
    denoiser = next((part for part in DENOISERS if source.has(part)), None)
    texts = source.texts
    missing = [
        word
        for word, there in (("denoiser", denoiser), ("vae", source.has("vae")), ("text_encoder", texts))
        if not there
    ]
    by_itself = missing == ["vae", "text_encoder"]
    faults += [f"it lacks {', '.join(missing)}."] if missing and not by_itself else []
    parts = [part for part in (denoiser, "vae", *texts) if part and (folder / part).is_dir()]
    files, headers = _weights([folder / part for part in parts], faults)
    kind = "denoiser" if by_itself else "checkpoint"
    made = replace(start, kind=kind, layout="diffusers", parts={part: f"{part}/" for part in parts}, files=files)
    made = _measured(replace(made, bytes=_size(files)), headers)
    if denoiser:
        try:
            seen = source.class_of(denoiser)
            family = family_of(seen, source.config(denoiser))
            faults += [] if family else [f"it is of an unknown architecture: its denoiser is a {seen}."]
            made = replace(made, family=family or "", variant=seen)
        except FAULTS as error:
            faults.append(_sentence(error))
    return replace(made, wrong=" ".join(faults))


def _part(folder: Path, start: Entry) -> Entry:
    """A part in a folder of its own."""
    faults: list[str] = []
    files, headers = _weights([folder], faults)
    made = _measured(replace(start, layout="diffusers", files=files, bytes=_size(files)), headers)
    config: dict[str, Any] = read_json(folder / "config.json")
    seen = str(config.get("_class_name") or (config.get("architectures") or ["?"])[0])
    kind = next((kind for piece, kind in CLASSES.items() if piece in seen), "?")
    family = (family_of(seen, config) or "") if kind == "denoiser" else ""
    faults += [f"a {seen} is nothing that is known."] if kind == "?" and not faults else []
    return replace(made, kind=kind, family=family, variant=seen, wrong=" ".join(faults))


def _weights(folders: list[Path], faults: list[str]) -> tuple[tuple[str, ...], list[dict[str, TensorInfo]]]:
    """Files of weights and their headers; what cannot be read is told in `faults`."""
    files, headers = [], []
    for folder in folders:
        try:
            for file in weight_files(folder):
                files.append(str(file))
                headers.append(read_header(file))
        except FAULTS as error:
            faults.append(_sentence(error))
    return tuple(files), headers


def _size(files: tuple[str, ...]) -> int:
    return sum(Path(file).stat().st_size for file in files)
