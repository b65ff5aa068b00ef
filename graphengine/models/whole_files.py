"""Which published model the parts of a file, or of several, make together: told by the text encoders among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphengine.errors import CheckpointError, did_you_mean
from graphengine.models.files_source import FilePart, FilesSource
from graphengine.models.identify import Identity, Match, identify, matches
from graphengine.models.published import MODEL_OF, check_plain_numbers
from graphengine.models.weights import read_header

ENCODERS = {
    "sd1": ("clip_l",),
    "sd2": ("clip_h",),
    "sdxl": ("clip_l", "clip_g"),
    "aura_flow": ("pile_t5_xl",),
    "chroma": ("t5_xxl",),
    "flux_2_dev": ("mistral_small_3",),
    "flux_2_klein_4b": ("qwen_3_4b",),
    "flux_2_klein_9b": ("qwen_3_8b",),
    "flux_dev": ("clip_l", "t5_xxl"),
    "flux_schnell": ("clip_l", "t5_xxl"),
    "lumina_2": ("gemma_2_2b",),
    "pixart_alpha": ("t5_xxl",),
    "pixart_sigma": ("t5_xxl",),
    "qwen_image": ("qwen_2_5_vl_7b",),
    "sana_0_6b": ("gemma_2_2b",),
    "sana_1_6b": ("gemma_2_2b",),
    "sd3": ("clip_l", "clip_g", "t5_xxl"),
    "z_image": ("qwen_3_4b",),
}
"""The text encoders of each model, in their order."""
SPARED = {"sd3": "t5_xxl"}
"""Those that a model works without."""


def text_source(paths: list[Path], model: str = "auto") -> FilesSource:
    """The text encoders in files as those of a model.

    Raises:
        CheckpointError: a file holds none, or they make no model's, or those of several and it is not said whose.
    """
    if model not in (*ENCODERS, "auto"):
        hint = did_you_mean(model, dict.fromkeys(ENCODERS)) or ""
        raise CheckpointError(
            f"there is no kind {model!r} of text encoders; known are {', '.join(ENCODERS)}. {hint}".rstrip()
        )
    found = {part.kind: part for path in paths for part in _encoders(path)}
    fits = [name for name in ENCODERS if _fit(name, found)]
    told = f"{' and '.join(path.name for path in paths)} hold the text encoders {', '.join(found) or 'of nothing'}"
    if not fits or model not in (*fits, "auto"):
        wanted = f"{model} has {', '.join(ENCODERS[model])}" if model in ENCODERS else "no model has just those"
        raise CheckpointError(f"{told}, and {wanted}. Give the files of all of a model's text encoders.")
    if model == "auto" and len(fits) > 1:
        raise CheckpointError(f"{told}, as {', '.join(fits)} have them; say which in `kind`.")
    model = fits[0] if model == "auto" else model
    return FilesSource(paths[0], model, _in_order(model, found))


def whole_source(path: Path) -> FilesSource | None:
    """A whole checkpoint with a transformer; None for other files.

    Raises:
        CheckpointError: the file is damaged or nothing that is known, or parts are missing.
    """
    header = read_header(path)
    try:
        found = identify(header)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} is of an unknown architecture. {error}") from None
    if (model := MODEL_OF.get(found.variant)) is None:
        return None
    rows = {match.part: match for match in matches(header)}
    encoders = {kind: _part(path, match, kind) for kind, match in rows.items() if match.row.head[0] == "text_encoder"}
    if missing := _missing(model, found, encoders):
        raise CheckpointError(
            f"{path.name} holds a {found.kind} of {found.family} ({found.variant}), but lacks {', '.join(missing)}: "
            "it is not a whole checkpoint. Load its parts with LoadDenoiser, LoadTextEncoder and LoadVAE."
        )
    parts = {"transformer": _part(path, rows["denoiser"], found.variant), "vae": _part(path, rows["vae"], "vae")}
    return FilesSource(path, model, parts | _in_order(model, encoders))


def is_complete(path: Path) -> bool:
    """Whether nothing is missing in a file with a transformer and more; other files are not looked into."""
    try:
        whole_source(path)
    except CheckpointError:
        return False
    return True


def _missing(model: str, found: Identity, encoders: Mapping[str, FilePart]) -> list[str]:
    wanted = [kind for kind in ENCODERS[model] if kind != SPARED.get(model)]
    return [word for word in ("denoiser", "vae") if word not in found.parts] + [k for k in wanted if k not in encoders]


def _part(path: Path, match: Match, kind: str) -> FilePart:
    _, family, layout, _ = match.row.head
    check_plain_numbers((name for name in read_header(path) if name.startswith(match.prefix)), path.name)
    return FilePart(path, match.prefix, kind, family, layout)


def _encoders(path: Path) -> list[FilePart]:
    found: list[Any] = [match for match in matches(read_header(path)) if match.row.head[0] == "text_encoder"]
    if not found:
        raise CheckpointError(f"{path.name} holds no text encoder that is known.")
    return [_part(path, match, match.variant) for match in found]


def _fit(model: str, found: Mapping[str, FilePart]) -> bool:
    wanted = set(ENCODERS[model])
    return set(found) in (wanted, wanted - {SPARED.get(model)})


def _in_order(model: str, found: Mapping[str, FilePart]) -> dict[str, FilePart]:
    """Text encoders by the names of the parts that they are in a folder."""
    return {
        "text_encoder" + (f"_{place}" if place > 1 else ""): found[kind]
        for place, kind in enumerate(ENCODERS[model], 1)
        if kind in found
    }
