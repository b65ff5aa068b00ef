"""Stable Diffusion 1.x and its kin: a U-Net on the latents of an AutoencoderKL, guided by a CLIP text encoder.

The embedded model `tiny` is one of them.  Only the modules that are used are imported: diffusers' and
transformers' top levels would cost seconds.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from graphengine.diffusion.forward import denoised_from, scale_input
from graphengine.diffusion.sigmas import NoiseSchedule
from graphengine.errors import CheckpointError
from graphengine.models.checkpoint import weights

logger = logging.getLogger(__name__)


def _config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def _weights(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors of a part in the wanted format.  Raises CheckpointError when the file is damaged."""
    try:
        return {key: value.to(dtype) for key, value in load_file(weights(folder)).items()}
    except SafetensorError as error:
        raise CheckpointError(f"{folder.parent.name}/{folder.name} is damaged: {error}") from error


def _fill(model: Any, tensors: dict[str, Tensor], folder: Path) -> None:
    """Give a model made without memory its weights.  Raises CheckpointError when they do not fit."""
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        told = str(error).split("\n")
        raise CheckpointError(
            f"{folder.parent.name}/{folder.name} does not fit its config: {' '.join(told[:3])}"
        ) from error


def _load(model_class: Any, folder: Path, dtype: torch.dtype, device: str) -> Any:
    """Make a diffusers model without initialising it, and give it the weights of a folder."""
    with torch.device("meta"):
        model = model_class.from_config(_config(folder))
    _fill(model, _weights(folder, dtype), folder)
    return model.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False)


class Denoiser:
    """UNet2DConditionModel behind the sampler's contract."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        scheduler = _config(folder / "scheduler", "scheduler_config.json")
        self.schedule = NoiseSchedule.from_config(scheduler)
        self.prediction = str(scheduler.get("prediction_type", "epsilon"))
        self.device, self._dtype = device, dtype
        self.network = _load(UNet2DConditionModel, folder / "unet", dtype, device)

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Tensor) -> Tensor:
        timestep = self.schedule.timestep_at(sigma)
        nearest = timestep.round()  # a schedule on whole timesteps asks for exactly them
        timestep = torch.where((timestep - nearest).abs() < 1e-3, nearest, timestep)
        scaled = scale_input(x, sigma).to(self._dtype)
        output = self.network(scaled, timestep.to(x.device), prompts, return_dict=False)[0]
        return denoised_from(output.to(x.dtype), self.prediction, x, sigma)


class Text:
    """CLIPTokenizer and CLIPTextModel; the features are the last layer's, normalised."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype):
        from transformers.models.clip.configuration_clip import CLIPTextConfig
        from transformers.models.clip.modeling_clip import CLIPTextModel
        from transformers.models.clip.tokenization_clip import CLIPTokenizer

        self._tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        with torch.device("meta"):
            model = CLIPTextModel(CLIPTextConfig(**_config(folder / "text_encoder")))
        tensors = _weights(folder / "text_encoder", dtype)
        if not any(key.startswith("text_model.") for key in model.state_dict()):
            tensors = {key.removeprefix("text_model."): value for key, value in tensors.items()}
        _fill(model, tensors, folder / "text_encoder")
        for module in model.modules():  # the only buffer, and no part of the weights
            if getattr(module, "position_ids", None) is not None:
                module.position_ids = torch.arange(model.config.max_position_embeddings)[None]
        self.network: Any = torch.nn.Module.to(model, device).eval().requires_grad_(False)
        self._device = device
        self._length = int(model.config.max_position_embeddings)

    @torch.no_grad()
    def encode(self, text: str) -> tuple[Tensor, list[str]]:
        made = self._tokenizer(text, padding="max_length", max_length=self._length, truncation=True)
        ids = torch.tensor([made["input_ids"]], device=self._device)
        every = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        cut = self._tokenizer.convert_ids_to_tokens(every[self._length - 2 :])
        features = self.network(input_ids=ids).last_hidden_state
        return features.cpu(), [token.removesuffix("</w>") for token in cut]


class VAE:
    """AutoencoderKL between pixels in 0..1 and scaled latents."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype):
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        self.network = _load(AutoencoderKL, folder / "vae", dtype, device)
        self._device, self._dtype = device, dtype
        self._scale = float(self.network.config.scaling_factor)
        self._shift = float(getattr(self.network.config, "shift_factor", None) or 0.0)

    @torch.no_grad()
    def encode(self, pixels: np.ndarray) -> Tensor:
        signal = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)) * 2 - 1)
        moments = self.network.encode(signal.to(self._device, self._dtype)).latent_dist
        return ((moments.mode().float() - self._shift) * self._scale).cpu()

    @torch.no_grad()
    def decode(self, samples: Tensor) -> np.ndarray:
        latents = samples.to(self._device, self._dtype) / self._scale + self._shift
        signal = self.network.decode(latents, return_dict=False)[0].float()
        pixels = (signal / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu()
        return np.ascontiguousarray(pixels.numpy())
