"""FLUX.1 dev and schnell (Black Forest Labs 2024): a rectified flow in a transformer (Peebles & Xie 2023; Esser et al. 2024).

It reads latents as tokens of 2x2 cells, a prompt as T5's features and CLIP's pooled vector.  The shift of its noise
levels grows with the number of tokens.  dev is told the guidance scale; schnell, made for few steps, is not guided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from graphengine.diffusion.flow import FlowSchedule, denoised_from_velocity
from graphengine.errors import CheckpointError
from graphengine.models.autoencoder import KLAutoencoder
from graphengine.models.clip import ClipEncoder
from graphengine.models.family import DenoiserAdapter, Encoded, Prompts
from graphengine.models.network import diffusers_network
from graphengine.models.packing import pack, patch_count, unpack
from graphengine.models.source import Source
from graphengine.models.t5 import T5Encoder

VAE = KLAutoencoder
LONGEST, LONGEST_UNGUIDED = 512, 256
"""Tokens of a prompt for networks that are told the guidance scale, and for others."""
USUAL = 4096
"""Tokens of a picture of 1024 x 1024."""


class Denoiser(DenoiserAdapter):
    """FluxTransformer2DModel behind the sampler's contract."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        config = source.config("transformer")
        _check_channels(config, source.name)
        self._scheduler = source.scheduler
        self.schedule = FlowSchedule.from_config(source.scheduler, USUAL)
        self.embeds_guidance = bool(config.get("guidance_embeds", False))
        self.device, self._dtype = device, dtype
        tensors = source.tensors("transformer", dtype)
        self.network = diffusers_network(self._model_class(), config, tensors, f"{source.name}/transformer", device)

    def _model_class(self) -> Any:
        from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

        return FluxTransformer2DModel

    def schedule_for(self, shape: tuple[int, ...]) -> FlowSchedule:
        return FlowSchedule.from_config(self._scheduler, patch_count(shape))

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        velocity = self._velocity(pack(x), positions(x), sigma.to(x), prompts)
        return denoised_from_velocity(unpack(velocity.to(x.dtype), x.shape), x, sigma)

    def _velocity(self, tokens: Tensor, places: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        batch, length = prompts.features.shape[:2]
        scale = torch.full((batch,), prompts.guidance, device=tokens.device) if self.embeds_guidance else None
        return self.network(
            tokens.to(self._dtype),
            encoder_hidden_states=prompts.features.to(self._dtype),
            pooled_projections=prompts.extras["pooled"].to(self._dtype),
            timestep=sigma.expand(batch),
            guidance=scale,
            img_ids=places,
            txt_ids=places.new_zeros(length, 3),
            return_dict=False,
        )[0]


class Text:
    """T5 gives the features, CLIP the pooled vector; padding is read like words."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        self._clip = ClipEncoder(source, "text_encoder", "tokenizer", device, dtype)
        self._t5 = T5Encoder(source, "text_encoder_2", "tokenizer_2", device, dtype)
        guided = source.config("transformer").get("guidance_embeds", False)
        self._length = LONGEST if guided else LONGEST_UNGUIDED

    def encode(self, text: str) -> Encoded:
        pooled = self._clip.run(self._clip.tokens(text)[0]).pooler_output
        ids, _, cut = self._t5.tokens(text, self._length)
        return Encoded(self._t5.run(ids).cpu(), {"pooled": pooled.cpu()}, cut)


def _check_channels(config: Mapping[str, Any], name: str) -> None:
    taken = int(config.get("in_channels", 64))
    given = int(config.get("out_channels") or taken)
    if taken != given:
        raise CheckpointError(
            f"{name} takes {taken} channels and gives {given}: it also wants a picture to fill or to follow, "
            "and only networks that take nothing beside the latents can be sampled."
        )


def positions(latents: Tensor) -> Tensor:
    """Where tokens lie, `[h/2 * w/2, 3]`: 0, row and column."""
    rows, columns = (torch.arange(side // 2, device=latents.device) for side in latents.shape[-2:])
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1).float()
    return torch.nn.functional.pad(grid, (1, 0))
