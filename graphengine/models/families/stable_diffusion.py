"""Stable Diffusion 1.x and 2.x and their kin: a U-Net on the latents of an AutoencoderKL, guided by a CLIP text encoder.

The embedded model `tiny` is one of them.  Only the modules that are used are imported: diffusers' and
transformers' top levels would cost seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphengine.diffusion.forward import denoised_from, scale_input
from graphengine.diffusion.sigmas import NoiseSchedule
from graphengine.models.autoencoder import KLAutoencoder
from graphengine.models.clip import ClipEncoder
from graphengine.models.family import DenoiserAdapter, Encoded, Prompts
from graphengine.models.network import diffusers_network
from graphengine.models.source import Source

VAE = KLAutoencoder


class Denoiser(DenoiserAdapter):
    """UNet2DConditionModel behind the sampler's contract."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        self.schedule = self._noise = NoiseSchedule.from_config(source.scheduler)
        self.prediction = str(source.scheduler.get("prediction_type", "epsilon"))
        self.device, self._dtype = device, dtype
        tensors = source.tensors("unet", dtype)
        self.network = diffusers_network(
            UNet2DConditionModel, source.config("unet"), tensors, f"{source.name}/unet", device
        )

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        timestep = self._noise.timestep_at(sigma)
        nearest = timestep.round()  # a schedule on whole timesteps asks for exactly them
        timestep = torch.where((timestep - nearest).abs() < 1e-3, nearest, timestep)
        scaled = scale_input(x, sigma).to(self._dtype)
        output = self._call(scaled, timestep.to(x.device), prompts)
        return denoised_from(output.to(x.dtype), self.prediction, x, sigma)

    def _call(self, scaled: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        return self.network(scaled, timestep, prompts.features.to(self._dtype), return_dict=False)[0]


class Text:
    """One CLIP text encoder; the features are its last layer's, normalised."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        self._encoder = ClipEncoder(source, "text_encoder", "tokenizer", device, dtype)

    def encode(self, text: str) -> Encoded:
        ids, cut = self._encoder.tokens(text)
        return Encoded(self._encoder.features(ids), cut=cut)
