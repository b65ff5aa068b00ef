"""Writing the trained parts as a checkpoint in the diffusers layout, half precision, with checksums.

What is written here loads in `LoadCheckpoint` and in diffusers' own StableDiffusionPipeline.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from graphengine.fingerprint import file_digest
from graphengine.training.denoiser import BETA_END, BETA_START, TRAIN_TIMESTEPS

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "linear",
    "beta_start": BETA_START,
    "beta_end": BETA_END,
    "clip_sample": False,
    "num_train_timesteps": TRAIN_TIMESTEPS,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
FILES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def write_checkpoint(parts: dict[str, nn.Module], tokenizer: Path, folder: Path, index: dict[str, Any] = INDEX) -> None:
    """Write `parts` (unet, vae, text_encoder) and the tokenizer's files as the checkpoint `folder`.

    The folder is made beside its final place and swapped in, so a reader never sees half of it.
    """
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    for name, part in parts.items():
        write_part(part, beside / name, FILES[name])
    shutil.copytree(tokenizer, beside / "tokenizer")
    _json(beside / "scheduler" / "scheduler_config.json", SCHEDULER)
    _json(beside / "model_index.json", index)
    weights = sorted(beside.rglob("*.safetensors"))
    sums = {str(path.relative_to(beside)): file_digest(path) for path in weights}
    _json(beside / "checksums.json", sums)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def write_companion(transformer: nn.Module, beside: Path, folder: Path) -> None:
    """Write a transformer that goes with the checkpoint `beside` as the folder `folder`, which LoadDenoiser takes."""
    made = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(made, ignore_errors=True)
    write_part(transformer, made / "transformer", FILES["unet"])
    shutil.copytree(beside / "scheduler", made / "scheduler")
    files = [path for part in ("text_encoder", "vae") for path in sorted((beside / part).glob("*.safetensors"))]
    sums = {path.relative_to(beside).as_posix(): file_digest(path) for path in files}
    _json(made / "companion.json", {"checkpoint": beside.name, "sums": sums})
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)


def write_part(part: Any, folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    tensors = {key: value.to(torch.float16).contiguous() for key, value in part.state_dict().items()}
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
    config = part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)
    config = {k: v for k, v in config.items() if k not in ("_use_default_values", "_name_or_path")}
    if hasattr(part, "register_to_config"):
        config["_class_name"] = type(part).__name__
    else:
        config["architectures"] = [type(part).__name__]
    _json(folder / "config.json", config)


def _json(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
