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
from graphengine.models.families import FAMILY_OF, VAES, family_of, prompts_of
from graphengine.models.identify import identify
from graphengine.models.part_source import PartSource, published
from graphengine.models.single_file import MODELS
from graphengine.models.source import DENOISERS, Source, read_json
from graphengine.models.weights import PICKLES, TensorInfo, read_header, refusal
from graphengine.settings import Settings
from graphengine.values import VAE, Denoiser, Handle, LatentSpace, TextEncoder

Role = Literal["denoiser", "text_encoder", "vae"]
PLACES: dict[Role, str] = {"denoiser": "diffusion_models", "text_encoder": "text_encoders", "vae": "vae"}
"""The kind of folder in which each part lies when it is alone."""
TEXTS = {"clip_l": "sd1", "clip_h": "sd2"}
"""Published models with one text encoder, by what that is."""
CLIP_WIDTHS = {768: "clip_l", 1024: "clip_h"}
KINDS = {kind: facts for facts, kind in AUTOENCODERS.items() if facts[0] == "AutoencoderKL"}
"""Autoencoders that a file may hold: class, channels, scaling, shift and widest layer, by the kind of their latents."""


def find(name: str, role: Role, settings: Settings, kind: str = "auto") -> Denoiser | TextEncoder | VAE:
    """A handle on a part: of a whole checkpoint, in a folder of its own, or in a file.

    Raises:
        CheckpointError: there is none, it is damaged, or it cannot be told what it is.
        AssetError: the name leads out of the model folders.
    """
    kinds = (PLACES[role], "checkpoints")
    paths = [path for each in kinds if (path := library.find(name, each, settings, role)) is not None]
    path = next((path for path in paths if path.is_file() or library.is_model(path)), paths[0] if paths else None)
    if path is None:
        known = [word for each in kinds for word in library.names(each, settings)]
        hint = did_you_mean(name, dict.fromkeys(known)) or ""
        raise CheckpointError(f"there is no {role} {name!r} in the model folders. {hint}".rstrip())
    return handle_at(path, role, settings, name, kind)


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
    family = FAMILY_OF.get(source.model, "")
    if role == "text_encoder":
        return TextEncoder(name, sums, family, place, alone=True, kind=source.model)
    space = Checkpoint(name, path, family, sums, {"vae": source.config("vae")}).space
    if role == "denoiser":
        return Denoiser(name, sums, family, place, alone=True, space=space, prompts=source.model)
    if kind not in ("auto", space.kind):
        raise CheckpointError(f"the config of {name} says that its latents are of the kind {_told(space)}, not {kind}.")
    seen = source.class_of("vae")
    if (driver := VAES.get(space.kind) or VAES.get(seen)) is None:
        raise CheckpointError(f"{name} is an autoencoder of an unknown class: {seen}. Known are {', '.join(VAES)}.")
    return VAE(name, sums, driver, place, alone=True, space=space)


def source_of(handle: Handle) -> PartSource:
    """The part that a handle names.  Raises CheckpointError."""
    return _source(Path(handle.folder), _role(handle), _kind(handle))


def digest_of(handle: Handle, settings: Settings) -> str:
    """The digest that a handle on the same place would have now.  Raises CheckpointError."""
    return _digest(source_of(handle), settings)


def is_whole(path: Path) -> bool:
    """Whether a denoiser, a VAE and a text encoder lie at a place together.  Raises CheckpointError."""
    if path.is_file():
        parts = set(_parts(path, read_header(path)))
        return {"denoiser", "vae"} < parts
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
    text = json.dumps([source.part, source.configs, sums, words], sort_keys=True)
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
        model = prompts_of(family, config) if family else None
        scheduler = path / "scheduler" / "scheduler_config.json"
        own |= {"scheduler": read_json(scheduler)} if scheduler.is_file() else {}
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


def _parts(path: Path, header: Mapping[str, TensorInfo]) -> Mapping[str, str]:
    try:
        found = identify(header)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    return found.parts


def _in_file(path: Path, role: Role, kind: str) -> PartSource:
    header = read_header(path)
    parts = _parts(path, header)
    if role == "text_encoder":
        word = next((word for word in TEXTS if word in parts), "")
        prefix, model = parts.get(word), TEXTS.get(word, "")
        own: dict[str, dict[str, Any]] = {}
    else:
        prefix, model, own = parts.get(role), "", {}
    if prefix is None:
        found = identify(header)
        raise CheckpointError(
            f"{path.name} holds no {role} that can be loaded alone, but a {found.kind} of {found.family}"
            f" ({found.variant}). {_what_is(role) if role != 'vae' else ''}".rstrip()
        )
    if role == "vae":
        return PartSource(path, "vae", "", {"vae": _vae_config(path, header, prefix, kind)}, prefix)
    if role == "denoiser":
        model, own = _unet(path, header, prefix)
    return PartSource(path, "unet" if role == "denoiser" else role, model, own, prefix)


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


def _vae_config(path: Path, header: Mapping[str, TensorInfo], prefix: str, kind: str) -> dict[str, Any]:
    entry = header.get(f"{prefix}decoder.conv_in.weight")
    channels, widest = (entry.shape[1], entry.shape[0]) if entry and len(entry.shape) == 4 else (0, 0)
    fits = [each for each, facts in KINDS.items() if (facts[1], facts[4]) == (channels, widest)]
    levels = [
        name for name in header if name.startswith((f"{prefix}encoder.down.3.", f"{prefix}encoder.down_blocks.3."))
    ]
    if not fits or not levels:
        raise CheckpointError(f"{path.name} is no VAE that can be loaded from a file; load it from a diffusers folder.")
    if kind not in fits:
        asked = f"not {kind}" if kind != "auto" else "which look alike; set `kind`"
        raise CheckpointError(f"{path.name} holds a VAE with {channels} channels, of {' or '.join(fits)}, {asked}.")
    _, _, scaling, shift, _ = KINDS[kind]
    quantised = f"{prefix}quant_conv.weight" in header
    return published("sdxl" if kind == "sdxl" else "sd1")["vae"] | {
        "latent_channels": channels,
        "scaling_factor": scaling,
        "shift_factor": shift or None,
        "use_quant_conv": quantised,
        "use_post_quant_conv": quantised,
    }
