"""Lumina 2 (Qin et al. 2025): one stream of words and image patches, on the latents of FLUX.

Its clock runs from 0, noise, to 1, picture, and its velocity points to the picture: both the other way round than here.
Words come from the last but one layer of a Gemma 2, before which the prompt is announced; a negative prompt is not.
Guidance keeps the length of every row of the velocity, as in diffusers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphengine.diffusion.flow import FlowSchedule, denoised_from_velocity
from graphengine.diffusion.guidance import Guidance, NormKept
from graphengine.diffusion.sigmas import Schedule
from graphengine.models.autoencoder import KLAutoencoder
from graphengine.models.family import NEGATIVE, DenoiserAdapter, Encoded, Prompts
from graphengine.models.language import LanguageModel
from graphengine.models.network import diffusers_network
from graphengine.models.packing import patch_count
from graphengine.models.source import Source

ANNOUNCED = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment "
    "based on textual prompts or user prompts. <Prompt Start> "
)
"""What stood before every prompt in training."""
LENGTH = 256
"""The longest prompt in tokens, with what stands before it."""

VAE = KLAutoencoder


class Denoiser(DenoiserAdapter):
    """Lumina2Transformer2DModel behind the sampler's contract."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.transformers.transformer_lumina2 import Lumina2RotaryPosEmbed, Lumina2Transformer2DModel

        part = source.denoiser
        self.network = diffusers_network(
            Lumina2Transformer2DModel, source.config(part), source.tensors(part, dtype), f"{source.name}/{part}", device
        )
        config = self.network.config
        self.network.rope_embedder = Lumina2RotaryPosEmbed(  # plain tensors: no file has them
            10000, config.axes_dim_rope, config.axes_lens, config.patch_size
        )
        # diffusers takes the channels for the number of tokens where the shift depends on it
        self.schedule = FlowSchedule.from_config(source.scheduler, tokens=int(config.in_channels))
        self.device, self._dtype, self._patch = device, dtype, int(config.patch_size)

    def schedule_for(self, shape: tuple[int, ...]) -> Schedule:
        patch_count(shape, self._patch)
        return self.schedule

    def guidance(self, scale: float) -> Guidance:
        return NormKept(scale, axes=(-1,))

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        features = prompts.features.to(self._dtype)
        mask = prompts.extras.get("mask")
        output = self.network(
            hidden_states=x.to(self._dtype),
            timestep=(1 - sigma).to(x.device, torch.float32).expand(len(x)),
            encoder_hidden_states=features,
            encoder_attention_mask=torch.ones_like(features[..., 0], dtype=torch.bool) if mask is None else mask,
            return_dict=False,
        )[0]
        return denoised_from_velocity(-output.to(x.dtype), x, sigma)


class Text:
    """Gemma 2; what is not wanted is read without the announcement."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        self._model = LanguageModel(source, device, dtype)

    def encode(self, text: str) -> Encoded:
        ids, cut = self._model.tokens(ANNOUNCED + text, LENGTH, text)
        bare, _ = self._model.tokens(text, LENGTH)
        unwanted = self._model.run(bare)[-2].cpu()
        return Encoded(self._model.run(ids)[-2].cpu(), {f"{NEGATIVE}features": unwanted}, cut)
