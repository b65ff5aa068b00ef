"""Parts that lie alone: a VAE, a denoiser or a text encoder without the rest of its checkpoint.

A part has a folder of its own with a `config.json`, or is in a file.  What an adapter asks of the other parts is answered
from the configs of the published model that the part belongs to, so only parts of those models can be told so.  The
autoencoders of some models have the very same tensors and differ by how their latents are scaled: the caller says which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from graphengine.errors import CheckpointError, did_you_mean
from graphengine.fingerprint import digest, file_digest, remembered_digest
from graphengine.models import library
from graphengine.models.checkpoint import AUTOENCODERS, Checkpoint, at, check_links
from graphengine.models.companion import companion, is_companion
from graphengine.models.families import FAMILY_OF, VAES, family_of, prompts_of
from graphengine.models.files_source import FilesSource
from graphengine.models.identify import Identity, identify
from graphengine.models.part_source import PartSource, published
from graphengine.models.published import model_of, standard, transformer
from graphengine.models.single_file import MODELS
from graphengine.models.source import DENOISERS, Source, read_json
from graphengine.models.vae_files import KINDS, vae_source
from graphengine.models.weights import PICKLES, TensorInfo, read_header, refusal
from graphengine.models.whole_files import is_complete, text_source
from graphengine.settings import Settings
from graphengine.values import VAE, Denoiser, Handle, LatentSpace, TextEncoder

Role = Literal["denoiser", "text_encoder", "vae"]
PLACES: dict[Role, str] = {"denoiser": "diffusion_models", "text_encoder": "text_encoders", "vae": "vae"}
"""The kind of folder in which each part lies when it is alone."""
TEXTS = {"clip_l": "sd1", "clip_h": "sd2"}
"""Published models with one text encoder, by what that is."""
CLIP_WIDTHS = {768: "clip_l", 1024: "clip_h"}


def find(
    name: str, role: Role, settings: Settings, kind: str = "auto", more: tuple[str, ...] = ()
) -> Denoiser | TextEncoder | VAE:
    """A handle on a part: of a whole checkpoint, in a folder of its own, or in a file; `more` are further text encoders.

    Raises:
        CheckpointError: there is none, it is damaged, or it cannot be told what it is.
        AssetError: the name leads out of the model folders.
    """
    path = _where(name, role, settings)
    if role == "text_encoder" and (more or kind != "auto" or (path.is_file() and not is_whole(path))):
        return _texts([path, *(_where(each, role, settings) for each in more)], settings, name, kind)
    return handle_at(path, role, settings, name, kind)


def _where(name: str, role: Role, settings: Settings) -> Path:
    kinds = (PLACES[role], "checkpoints")
    paths = [path for each in kinds if (path := library.find(name, each, settings, role)) is not None]
    path = next((path for path in paths if path.is_file() or library.is_model(path)), paths[0] if paths else None)
    if path is None:
        known = [word for each in kinds for word in library.names(each, settings)]
        hint = did_you_mean(name, dict.fromkeys(known)) or ""
        raise CheckpointError(f"there is no {role} {name!r} in the model folders. {hint}".rstrip())
    return path


def _texts(paths: list[Path], settings: Settings, name: str, kind: str) -> TextEncoder:
    """A handle on text encoders in files.  Raises CheckpointError."""
    for path in paths:
        if path.suffix in PICKLES:
            raise CheckpointError(refusal(path))
        if not path.is_file():
            raise CheckpointError(f"{path.name} is no file; text encoders are put together from files alone.")
        check_links(path, settings)
    source = text_source(paths, kind)
    prompts = standard(source.model)
    sums, places = _digest_of_texts(source, settings), tuple(map(str, paths))
    family = FAMILY_OF[prompts]
    more = {"kind": prompts, "model": source.model, "beside": places[1:]}
    return TextEncoder(name, sums, family, places[0], alone=True, **more)


def _digest_of_texts(source: FilesSource, settings: Settings) -> str:
    files = [source.parts[part].path for part in source.texts]
    sums = [remembered_digest(file, settings.cache_folder) for file in files]
    words = [file_digest(path) for folder in source.tokenizers for path in sorted(folder.iterdir()) if path.is_file()]
    return digest(json.dumps([source.model, source.configs, sums, words], sort_keys=True).encode()).hex()


def handle_at(path: Path, role: Role, settings: Settings, name: str, kind: str) -> Denoiser | TextEncoder | VAE:
    """A handle on the part that lies at a place.  Raises CheckpointError."""
    if path.suffix in PICKLES:
        raise CheckpointError(refusal(path))
    if (path / "config.json").is_file() and (path.parent / "model_index.json").is_file():
        path = path.parent
        name = str(PurePosixPath(name).parent) if "/" in name else path.name
    if is_whole(path):
        denoiser, encoder, vae = at(path, settings, name).handles()
        if role == "vae" and vae.space and kind not in ("auto", vae.space.kind):
            raise CheckpointError(f"the latents of {name} are of the kind {_told(vae.space)}, not {kind}.")
        return {"denoiser": denoiser, "text_encoder": encoder, "vae": vae}[role]
    check_links(path, settings)
    source = _source(path, role, kind)
    place, sums = str(path), _digest(source, settings)
    if role == "denoiser" and (goes_with := companion(path, settings)) is not None:
        driver = family_of(source.class_of(source.part), source.config(source.part))
        common = (name, sums, driver or "", place)
        return Denoiser(*common, alone=True, space=goes_with.space, prompts=goes_with.prompts)
    prompts = standard(source.model)
    family = FAMILY_OF.get(prompts, "")
    if role == "text_encoder":
        return TextEncoder(name, sums, family, place, alone=True, kind=prompts)
    space = Checkpoint(name, path, family, sums, {"vae": source.config("vae")}).space
    if role == "denoiser":
        if source.part == "transformer":
            prompts = prompts_of(family, source.config("transformer")) or sums
        return Denoiser(name, sums, family, place, alone=True, space=space, prompts=prompts)
    if kind not in ("auto", space.kind):
        raise CheckpointError(f"the config of {name} says that its latents are of the kind {_told(space)}, not {kind}.")
    seen = source.class_of("vae")
    if (driver := VAES.get(space.kind) or VAES.get(seen)) is None:
        raise CheckpointError(f"{name} is an autoencoder of an unknown class: {seen}. Known are {', '.join(VAES)}.")
    return VAE(name, sums, driver, place, alone=True, space=space)


def source_of(handle: Handle) -> PartSource | FilesSource:
    """The part that a handle names.  Raises CheckpointError."""
    if isinstance(handle, TextEncoder) and handle.model:
        return text_source([Path(handle.folder), *map(Path, handle.beside)], handle.model)
    return _source(Path(handle.folder), _role(handle), _kind(handle))


def digest_of(handle: Handle, settings: Settings) -> str:
    """The digest that a handle on the same place would have now.  Raises CheckpointError."""
    source = source_of(handle)
    return _digest_of_texts(source, settings) if isinstance(source, FilesSource) else _digest(source, settings)


def is_whole(path: Path) -> bool:
    """Whether a denoiser, a VAE and a text encoder lie at a place together.  Raises CheckpointError."""
    if path.is_file():
        return {"denoiser", "vae"} < set(_identity(path, read_header(path)).parts) and is_complete(path)
    source = Source(path)
    return any(source.has(part) for part in DENOISERS) and source.has("vae") and bool(source.texts)


def _role(handle: Handle) -> Role:
    return "denoiser" if isinstance(handle, Denoiser) else "vae" if isinstance(handle, VAE) else "text_encoder"


def _kind(handle: Handle) -> str:
    space = handle.space if isinstance(handle, VAE) else None
    return space.kind if space and space.kind in KINDS else "auto"


def _told(space: LatentSpace) -> str:
    return space.kind if space.kind in AUTOENCODERS.values() else "of no standard"


def _digest(source: PartSource, settings: Settings) -> str:
    files = source.files(source.part)
    for file in files:
        read_header(file)
    sums = [remembered_digest(file, settings.cache_folder) for file in files]
    reads = source.part == "text_encoder"
    words = [file_digest(path) for path in sorted(source.tokenizer().iterdir()) if path.is_file()] if reads else []
    goes_with = companion(source.beside, settings) if source.beside else None
    facts = [source.part, source.configs, sums, words] + ([goes_with.digest] if goes_with else [])
    text = json.dumps(facts, sort_keys=True)
    return digest(text.encode()).hex()


def _source(path: Path, role: Role, kind: str) -> PartSource:
    return _in_file(path, role, kind) if path.is_file() else _in_folder(path, role)


# Folders


def _in_folder(path: Path, role: Role) -> PartSource:
    part = next((each for each in DENOISERS if (path / each).is_dir()), "unet") if role == "denoiser" else role
    folder, beside = (path / part, path) if (path / part).is_dir() else (path, None)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{path.name} holds no {role}: there is no config.json in it, nor a folder {part}.")
    config = read_json(folder / "config.json")
    seen = str(config.get("_class_name") or (config.get("architectures") or ["?"])[0])
    if role == "vae":
        if not seen.startswith("Autoencoder"):
            raise CheckpointError(f"{path.name} is no VAE but a {seen}.")
        return PartSource(folder, "vae", "", {"vae": config})
    own = {part: config}
    if role == "denoiser":
        family = family_of(seen, config)
        model = model_of(prompts_of(family, config), config) if family else None
        scheduler = path / "scheduler" / "scheduler_config.json"
        own |= {"scheduler": read_json(scheduler)} if scheduler.is_file() else {}
        if family and is_companion(path):
            return PartSource(folder, part, "", own, beside=path)
        words = None
    else:
        clip = CLIP_WIDTHS.get(config.get("hidden_size", 0)) if seen.startswith("CLIPTextModel") else None
        model, words = TEXTS.get(clip or ""), beside if beside and (beside / "tokenizer").is_dir() else None
    if not published(model or ""):
        raise CheckpointError(f"{path.name} holds a {seen} that is not told by itself; {_what_is(role)}")
    return PartSource(folder, part, model or "", own, beside=words)


def _what_is(role: Role) -> str:
    told = "Stable Diffusion 1, 2 and XL" if role == "denoiser" else "Stable Diffusion 1 and 2"
    return f"alone are loaded only those of {told}. Load it from a whole checkpoint."


# Files


def _identity(path: Path, header: Mapping[str, TensorInfo]) -> Identity:
    try:
        return identify(header)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from None


def _in_file(path: Path, role: Role, kind: str) -> PartSource:
    header = read_header(path)
    found, prefix = _identity(path, header), _identity(path, header).parts.get(role)
    if prefix is None:
        raise CheckpointError(
            f"{path.name} holds no {role} that can be loaded alone, but a {found.kind} of {found.family}"
            f" ({found.variant}). {_what_is(role) if role != 'vae' else ''}".rstrip()
        )
    if role == "vae" and (source := vae_source(path, header, kind)) is not None:
        return source
    if (known := transformer(found, header, prefix, path.name)) is not None:
        return PartSource(path, "transformer", *known, prefix, names=(found.family, found.layout))
    return PartSource(path, "unet", *_unet(path, header, prefix), prefix)


def _unet(path: Path, header: Mapping[str, TensorInfo], prefix: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The published model that a U-Net belongs to, and the configs in which it differs from it."""
    found = identify(header)
    model = MODELS.get(found.variant, "")
    made = published(model)
    if not made:
        raise CheckpointError(
            f"{path.name} holds a denoiser of {found.family} ({found.variant}); {_what_is('denoiser')}"
        )
    entry = next(
        header[name] for name in (f"{prefix}input_blocks.0.0.weight", f"{prefix}conv_in.weight") if name in header
    )
    own = {"unet": made["unet"] | {"in_channels": entry.shape[1]}, "scheduler": made["scheduler"]}
    if "v_pred" in header:
        own["scheduler"] |= {"prediction_type": "v_prediction"}
    return model, own
