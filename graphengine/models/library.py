"""Where models lie: folders by kind, as ComfyUI lays them out, in one order and with one way of naming what is there.

A model folder may hold models as they are, or be ComfyUI's `models` with a folder for each kind (`checkpoints`, `loras`,
`vae`, ...), or a YAML file in the form of ComfyUI's `extra_model_paths.yaml`, which names such folders.  A model's name is
its path in its folder, `sd/v15.safetensors`, and nothing leads out: no `..`, and no symbolic link.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from graphengine.errors import AssetError, CheckpointError, did_you_mean
from graphengine.models.assets import inside
from graphengine.models.model_paths import read_paths
from graphengine.models.weights import PICKLES, refusal
from graphengine.settings import Settings

KINDS = {
    "checkpoints": ("checkpoints", "diffusers"),
    "diffusion_models": ("diffusion_models", "unet"),
    "text_encoders": ("text_encoders", "clip"),
    "vae": ("vae",),
    "loras": ("loras",),
    "controlnet": ("controlnet", "t2i_adapter"),
    "embeddings": ("embeddings",),
    "clip_vision": ("clip_vision",),
    "ipadapter": ("ipadapter",),
    "style_models": ("style_models",),
    "upscale_models": ("upscale_models",),
    "vae_approx": ("vae_approx",),
    "model_patches": ("model_patches",),
    "photomaker": ("photomaker",),
    "gligen": ("gligen",),
    "hypernetworks": ("hypernetworks",),
}
"""Kinds of models, and what their folders are called."""
KIND_OF = {folder: kind for kind, names in KINDS.items() for folder in names}
WEIGHTS = (".safetensors", ".sft", ".gguf")
PARTS = ("unet", "transformer", "vae")
DEPTH = 8
BUNDLED = Path(__file__).parent.parent / "checkpoints"


@dataclass(frozen=True)
class Place:
    """A folder in which models are looked for: those of a kind, or of any.  `root` is what no link may lead out of."""

    folder: Path
    kind: str | None
    root: Path


@dataclass(frozen=True)
class Found:
    """Something that looks like a model; `wrong` says why it is not opened, `hidden` what has its name and comes first."""

    name: str
    place: Place
    path: Path
    wrong: str = ""
    hidden: str = ""


def places(settings: Settings) -> list[Place]:
    """Every folder that models are looked for in: a YAML file's defaults, the user's folders, and the engine's own.

    Raises:
        AssetError: a file of model paths cannot be read.
    """
    first: list[Place] = []
    found: list[Place] = []
    more = [settings.model_paths_file] if settings.model_paths_file else []
    for folder in (*settings.model_folders, *more):
        if folder.suffix in (".yaml", ".yml") and not folder.is_dir():
            for named in read_paths(folder):
                place = Place(named.folder, KIND_OF.get(named.kind, named.kind), named.folder)
                (first if named.default else found).append(place)
        else:
            found += _kinds_of(folder)
    return [*first, *found, *_kinds_of(BUNDLED)]


def of_kind(kind: str, settings: Settings) -> list[Place]:
    """The folders in which a kind is looked for.  Raises AssetError."""
    return [place for place in places(settings) if place.kind in (kind, None)]


def _kinds_of(folder: Path) -> Iterator[Place]:
    base = os.fspath(folder)
    for name, kind in KIND_OF.items() if folder.is_dir() else ():
        if os.path.isdir(f"{base}{os.sep}{name}"):  # noqa: PTH112 - in every run, and a Path takes three times as long
            yield Place(folder / name, kind, folder)
    yield Place(folder, None, folder)


def resolved(place: Place, name: str, what: str = "model") -> Path:
    """The path of a name in a place.  Raises AssetError when it leads out, also by way of a symbolic link."""
    if place.root != place.folder:
        inside(place.root, place.folder.relative_to(place.root).as_posix(), "folder")
    return inside(place.folder, name, what)


def find(name: str, kind: str, settings: Settings, what: str = "model") -> Path | None:
    """The first model of a name among those of a kind; what is no model is taken only when there is nothing else.

    Raises:
        AssetError: the name leads out of the model folders.
    """
    second = None
    for place in of_kind(kind, settings):
        if not place.folder.is_dir():
            continue
        path = resolved(place, name, what)
        if path.is_file() or is_model(path):
            return path
        second = second or (path if path.exists() else None)
    return second


def find_part(name: str, kind: str, settings: Settings, what: str) -> Path:
    """The file or folder of a kind that is no whole checkpoint, `what` being what it is called.

    Raises:
        CheckpointError: there is none.  AssetError: the name leads out of the model folders.
    """
    path = find(name, kind, settings, what)
    if path is None:
        raise CheckpointError(f"there is no {what} {name!r}. {_hint(name, kind, settings)}")
    return path


def find_file(name: str, kind: str, settings: Settings) -> Path:
    """A file of a kind.

    Raises:
        CheckpointError: there is none, or it is a pickle.  AssetError: the name leads out of the model folders.
    """
    path = find(name, kind, settings, kind.rstrip("s"))
    if path is not None and path.is_file():
        if path.suffix in PICKLES:
            raise CheckpointError(refusal(path))
        return path
    raise CheckpointError(f"there is no file {name!r} among the {kind}. {_hint(name, kind, settings)}")


def _hint(name: str, kind: str, settings: Settings) -> str:
    parts = [found.name for found in _those_of(kind, settings) if not is_checkpoint(found.path)]
    return did_you_mean(name, sorted({*parts})) or f"Put it into the folder {kind!r} of a model folder."


def names(kind: str, settings: Settings) -> list[str]:
    """Names of everything that looks like a model of a kind and can be had."""
    return sorted({found.name for found in _those_of(kind, settings)})


def _those_of(kind: str, settings: Settings) -> Iterator[Found]:
    return (found for place in of_kind(kind, settings) for found in _walk(place) if not found.wrong)


def listing(settings: Settings) -> Iterator[Found]:
    """Everything in the model folders, folder by folder; what cannot be had says why.

    Raises:
        AssetError: a file of model paths cannot be read.
    """
    walked: set[Path] = set()
    seen: dict[tuple[str | None, str], Path] = {}
    for place in places(settings):
        if place.folder.resolve() in walked:
            continue
        walked.add(place.folder.resolve())
        if place.root == place.folder and place.kind and not place.folder.is_dir():
            yield Found(place.folder.name, place, place.folder, f"there is no folder {place.folder}.")
        for found in _walk(place):
            first = seen.setdefault((place.kind, found.name), found.path)
            if first != found.path:
                found = replace(found, hidden=f"{first} has the same name and comes before it.")
            yield found


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint in the diffusers layout, or as much of one as there is."""
    return (path / "model_index.json").is_file() or any((path / part).is_dir() for part in PARTS)


def is_model(path: Path) -> bool:
    """Whether a folder is a checkpoint in the diffusers layout, or a part of one."""
    if (path / "model_index.json").is_file() or any((path / part / "config.json").is_file() for part in PARTS):
        return True
    return (path / "config.json").is_file() and any(entry.suffix in WEIGHTS for entry in path.iterdir())


def _walk(place: Place) -> Iterator[Found]:
    """What a place holds, in the order of the alphabet; links are followed to files and checkpoints only."""
    if not place.folder.is_dir():
        return
    try:
        if place.root != place.folder:
            resolved(place, "any")
    except AssetError as error:
        yield Found(place.folder.name, place, place.folder, str(error))
        return
    pending = [(place.folder, 0)]
    while pending:
        folder, depth = pending.pop()
        below: list[tuple[Path, int]] = []
        for path in _entries(folder):
            if depth == 0 and place.kind is None and path.name in KIND_OF and path.is_dir():
                continue
            found = _seen(place, path)
            if found is not None:
                yield found
            elif path.is_dir() and not path.is_symlink() and depth < DEPTH:
                below.append((path, depth + 1))
        pending += reversed(below)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _seen(place: Place, path: Path) -> Found | None:
    """A file of weights, a checkpoint's folder, or a link that leads out; None for what is no model."""
    name = path.relative_to(place.folder).as_posix()
    weights = path.suffix in (*WEIGHTS, *PICKLES)
    if path.is_symlink() and (weights or path.is_dir()):
        try:
            resolved(place, name)
        except AssetError as error:
            return Found(name, place, path, str(error))
        if not path.exists():
            return Found(name, place, path, "the link leads nowhere.")
    try:
        known = path.is_file() if weights else path.is_dir() and is_model(path)
    except OSError as error:
        return Found(name, place, path, f"it cannot be read: {error.strerror}.")
    return Found(name, place, path) if known else None
