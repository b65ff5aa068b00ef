"""A checkpoint in one safetensors file, as people share them: told by its tensors, with configs that ship with the engine.

The file holds no config and no tokenizer.  What it is follows from names and shapes in its header; the configs of
the published models lie in `configs/`, CLIP's tokenizer in `tokenizers/clip`.  Nothing is looked up anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import CheckpointError
from graphengine.models import ldm
from graphengine.models.identify import identify
from graphengine.models.source import Source
from graphengine.models.weights import TensorInfo, load_tensors, read_header

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HERE = Path(__file__).parent
UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXTS = {
    "sd1": {"text_encoder": "cond_stage_model.transformer."},
    "sd2": {"text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "sdxl_refiner": {"text_encoder_2": "conditioner.embedders.0.model."},
}
"""Where the text encoders of a model lie in its file."""
MODELS = {
    "sd1": "sd1",
    "sd1_inpaint": "sd1",
    "sd1_instruct": "sd1",
    "sd2": "sd2",
    "sd2_inpaint": "sd2",
    "sdxl": "sdxl",
    "sdxl_inpaint": "sdxl",
    "sdxl_instruct": "sdxl",
    "sdxl_refiner": "sdxl_refiner",
}
"""The configs of a variant; how many channels the U-Net reads is told by its first layer."""


class SingleFile(Source):
    """The parts of a single file.  Raises CheckpointError when it is damaged, or nothing that is known."""

    @property
    def name(self) -> str:
        return self.folder.stem

    @cached_property
    def header(self) -> dict[str, TensorInfo]:
        """Names, formats and shapes of the tensors."""
        return read_header(self.folder)

    @cached_property
    def model(self) -> str:
        """The published model that it is a version of."""
        return model_of(self.header, self.folder.name)

    @cached_property
    def configs(self) -> dict[str, dict[str, Any]]:
        """Configs of its parts and of its scheduler."""
        made = json.loads((HERE / "configs" / f"{self.model}.json").read_text(encoding="utf-8"))
        made["unet"]["in_channels"] = self.header[f"{UNET}input_blocks.0.0.weight"].shape[1]
        if "v_pred" in self.header:  # how files of this prediction are marked
            made["scheduler"]["prediction_type"] = "v_prediction"
        return made

    def has(self, part: str) -> bool:
        return part in self.configs and part != "scheduler"

    def config(self, part: str) -> dict[str, Any]:
        return dict(self.configs[part])

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        return self.configs["scheduler"]

    @cached_property
    def texts(self) -> list[str]:
        return list(TEXTS[self.model])

    def files(self, part: str) -> list[Path]:
        return [self.folder]

    def numbers(self, role: str) -> int:
        starts = {"denoiser": (UNET,), "vae": (VAE,), "text": tuple(TEXTS[self.model].values())}[role]
        return sum(info.numbers for name, info in self.header.items() if name.startswith(starts))

    def tokenizer(self, part: str = "tokenizer") -> Path:
        return HERE / "tokenizers" / "clip"

    def tokenizer_options(self, part: str = "tokenizer") -> dict[str, Any]:
        padded_with_zeros = part == "tokenizer_2" or self.model == "sd2"
        return {"pad_token": "!"} if padded_with_zeros else {}

    def tensors(self, part: str, dtype: torch.dtype) -> dict[str, Tensor]:
        if part == "unet":
            return ldm.renamed(load_tensors([self.folder], dtype, UNET), ldm.unet_table(self.configs["unet"]))
        if part == "vae":
            return ldm.renamed(load_tensors([self.folder], dtype, VAE), ldm.vae_table(self.configs["vae"]))
        prefix = TEXTS[self.model][part]
        found = load_tensors([self.folder], dtype, prefix)
        return ldm.open_clip(found) if prefix.endswith(".model.") else found


def model_of(header: Mapping[str, TensorInfo], name: str) -> str:
    """Which published model a file holds, told by its tensors.  Raises CheckpointError with what was seen."""
    try:
        found = identify(header)
    except CheckpointError as error:
        raise CheckpointError(f"{name} is of an unknown architecture. {error}") from None
    told = f"{name} holds a {found.kind} of {found.family} ({found.variant})"
    model = MODELS.get(found.variant)
    if model is None:
        known = ", ".join(TEXTS)
        raise CheckpointError(
            f"{told}; single files of {known} can be loaded. Use a folder in the diffusers layout for others."
        )
    if found.kind != "checkpoint" or found.layout != "ldm":
        raise CheckpointError(f"{told}, and a checkpoint needs a denoiser, a vae and a text encoder as well.")
    for prefix in (VAE, *TEXTS[model].values()):
        if prefix not in found.parts.values():
            raise CheckpointError(f"{told}, but lacks {prefix}*: it is not a whole checkpoint.")
    return model
