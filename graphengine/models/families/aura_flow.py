"""AuraFlow (fal, 2024): a flow model of SD3's kind without CLIP, on the latents of Stable Diffusion XL.

Its text encoder is a UMT5.  The features of padding are zeros, and the network reads them: 256 tokens, always.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphengine.diffusion.flow import FlowSchedule, denoised_from_velocity
from graphengine.models.autoencoder import KLAutoencoder
from graphengine.models.family import DenoiserAdapter, Encoded, Prompts
from graphengine.models.network import diffusers_network
from graphengine.models.source import Source
from graphengine.models.t5 import T5Encoder

LENGTH = 256
"""Tokens of a prompt, padding included."""

VAE = KLAutoencoder


class Denoiser(DenoiserAdapter):
    """AuraFlowTransformer2DModel behind the sampler's contract; its time is the noise level itself."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.transformers.auraflow_transformer_2d import AuraFlowTransformer2DModel

        self.schedule = FlowSchedule.from_config(source.scheduler)
        self.device, self._dtype = device, dtype
        config, tensors = source.config("transformer"), source.tensors("transformer", dtype)
        where = f"{source.name}/transformer"
        self.network = diffusers_network(AuraFlowTransformer2DModel, config, tensors, where, device)

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        velocity = self.network(
            x.to(self._dtype),
            encoder_hidden_states=prompts.features.to(self._dtype),
            timestep=sigma.to(x.device).expand(x.shape[0]),
            return_dict=False,
        )[0]
        return denoised_from_velocity(velocity.to(x.dtype), x, sigma)


class Text:
    """The features of a UMT5, zero where there is no word."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        self._encoder = T5Encoder(source, "text_encoder", "tokenizer", device, dtype)

    def encode(self, text: str) -> Encoded:
        ids, mask, cut = self._encoder.tokens(text, LENGTH)
        return Encoded(self._encoder.run(ids, mask).cpu() * mask[..., None], cut=cut)
