"""Chroma (Lodestone Rock 2025): FLUX.1 with neither pooled vector nor embedded guidance, and so truly guided.

It was trained to attend to the words of a prompt and to one token of padding, and to nothing after that.  Here what it may not
attend to is not there at all: features end after that token, and prompts of unequal length go through apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graphengine.models.autoencoder import KLAutoencoder
from graphengine.models.families import flux
from graphengine.models.family import Encoded, Prompts
from graphengine.models.source import Source
from graphengine.models.t5 import T5Encoder

VAE = KLAutoencoder
LONGEST = 512


class Denoiser(flux.Denoiser):
    """ChromaTransformer2DModel behind the sampler's contract."""

    reads_references = False

    def _model_class(self) -> Any:
        from diffusers.models.transformers.transformer_chroma import ChromaTransformer2DModel

        return ChromaTransformer2DModel

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        mask = prompts.extras.get("mask")
        if mask is None:
            return super().denoise(x, sigma, prompts)
        lengths = mask.sum(1)
        clean = torch.empty_like(x)
        for length in lengths.unique().tolist():
            rows = lengths == length
            alike = replace(prompts, features=prompts.features[rows, :length], extras={})
            clean[rows] = super().denoise(x[rows], sigma, alike)
        return clean

    def _velocity(self, tokens: Tensor, places: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        batch, length = prompts.features.shape[:2]
        return self.network(
            tokens.to(self._dtype),
            encoder_hidden_states=prompts.features.to(self._dtype),
            timestep=sigma.expand(batch),
            img_ids=places,
            txt_ids=places.new_zeros(length, 3),
            return_dict=False,
        )[0]


class Text:
    """T5, whose features end one token after the last word's."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        self._t5 = T5Encoder(source, "text_encoder", "tokenizer", device, dtype)

    def encode(self, text: str) -> Encoded:
        ids, mask, cut = self._t5.tokens(text, LONGEST)
        kept = int(mask.sum()) + 1
        return Encoded(self._t5.run(ids[:, :kept], mask[:, :kept]).cpu(), cut=cut)
