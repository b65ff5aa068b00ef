"""PixArt-alpha (Chen et al. 2023) and PixArt-Sigma (Chen et al. 2024): small diffusion transformers that T5 guides.

The network also predicts a variance, in the second half of its channels, which no sampler here asks for.  The 1024-pixel
PixArt-alpha is told the picture's size and shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphengine.diffusion.sigmas import NoiseSchedule
from graphengine.models.autoencoder import KLAutoencoder
from graphengine.models.families import stable_diffusion
from graphengine.models.family import Encoded, Prompts
from graphengine.models.network import diffusers_network
from graphengine.models.source import Source
from graphengine.models.t5 import T5Encoder

ALPHA_LENGTH, SIGMA_LENGTH = 120, 300
"""Tokens of a prompt that the two were trained with."""
ALPHA_SCALING = 0.18215
"""PixArt-alpha has the autoencoder of Stable Diffusion 1, PixArt-Sigma that of XL; nothing else tells all of them apart."""

VAE = KLAutoencoder


class Denoiser(stable_diffusion.Denoiser):
    """PixArtTransformer2DModel, which older checkpoints call Transformer2DModel, behind the sampler's contract."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

        self.schedule = self._noise = NoiseSchedule.from_config(source.scheduler)
        self.prediction = str(source.scheduler.get("prediction_type", "epsilon"))
        self.device, self._dtype = device, dtype
        config, tensors = source.config("transformer"), source.tensors("transformer", dtype)
        where = f"{source.name}/transformer"
        self.network = diffusers_network(PixArtTransformer2DModel, config, tensors, where, device)
        told = self.network.use_additional_conditions
        self._factor = 2 ** (len(source.config("vae")["block_out_channels"]) - 1) if told else 1

    def _call(self, scaled: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        output = self.network(
            scaled,
            encoder_hidden_states=prompts.features.to(self._dtype),
            encoder_attention_mask=prompts.extras.get("mask"),
            timestep=timestep.expand(scaled.shape[0]),
            added_cond_kwargs=self._size(scaled),
            return_dict=False,
        )[0]
        return output[:, : scaled.shape[1]]

    def _size(self, scaled: Tensor) -> dict[str, Tensor | None]:
        """Height and width in pixels `[B, 2]` and their ratio `[B, 1]`, for networks that are told them."""
        if not self.network.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        batch, _, height, width = scaled.shape
        size = torch.tensor([[height * self._factor, width * self._factor]], device=scaled.device, dtype=self._dtype)
        ratio = torch.tensor([[height / width]], device=scaled.device, dtype=self._dtype)
        return {"resolution": size.expand(batch, 2), "aspect_ratio": ratio.expand(batch, 1)}


class Text:
    """The features of a T5."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        self._encoder = T5Encoder(source, "text_encoder", "tokenizer", device, dtype)
        scaling = source.config("vae").get("scaling_factor", ALPHA_SCALING)
        self._length = ALPHA_LENGTH if scaling == ALPHA_SCALING else SIGMA_LENGTH

    def encode(self, text: str) -> Encoded:
        ids, mask, cut = self._encoder.tokens(text.lower().strip(), self._length)
        return Encoded(self._encoder.run(ids[:, : int(mask.sum())]).cpu(), cut=cut)
