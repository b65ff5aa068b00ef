"""Z-Image and its Turbo (Tongyi 2025): one stream of words and image patches, on the latents of FLUX.

Its clock runs from 0, noise, to 1, picture, and its velocity points to the picture: both the other way round than here.
It takes and gives lists, a prompt of its own length for every picture.  Words come from the last but one layer of a Qwen3
that is asked as in a chat.  Its authors write guidance as c + g (c - u), so that g is this scale less one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphengine.diffusion.flow import FlowSchedule, denoised_from_velocity
from graphengine.models.autoencoder import KLAutoencoder
from graphengine.models.family import DenoiserAdapter, Encoded, Prompts
from graphengine.models.language import LanguageModel
from graphengine.models.network import diffusers_network
from graphengine.models.packing import patch_count
from graphengine.models.source import Source

LENGTH = 512
"""The longest prompt in tokens, with what the chat adds."""

VAE = KLAutoencoder


class Denoiser(DenoiserAdapter):
    """ZImageTransformer2DModel behind the sampler's contract."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

        self.schedule, self._scheduler = FlowSchedule.from_config(source.scheduler), source.scheduler
        self.device, self._dtype = device, dtype
        part = source.denoiser
        self.network = diffusers_network(
            ZImageTransformer2DModel, source.config(part), source.tensors(part, dtype), f"{source.name}/{part}", device
        )

    def schedule_for(self, shape: tuple[int, ...]) -> FlowSchedule:
        return FlowSchedule.from_config(self._scheduler, patch_count(shape))

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        frames = list(x.to(self._dtype)[:, :, None])
        time = (1 - sigma).to(x.device, torch.float32).expand(len(x))
        output = self.network(frames, time, _rows(prompts, self._dtype), return_dict=False)[0]
        return denoised_from_velocity(-torch.stack(output)[:, :, 0].to(x.dtype), x, sigma)


def _rows(prompts: Prompts, dtype: torch.dtype) -> list[Tensor]:
    """Features `[N, D]` of each prompt, without padding."""
    features = prompts.features.to(dtype)
    if "mask" not in prompts.extras:
        return list(features)
    return [row[mask] for row, mask in zip(features, prompts.extras["mask"], strict=True)]


class Text:
    """Qwen3, asked in its own chat template, ready to think."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        self._model = LanguageModel(source, device, dtype)

    def encode(self, text: str) -> Encoded:
        messages = [{"role": "user", "content": text}]
        written = self._model.chat(messages, add_generation_prompt=True, enable_thinking=True)
        ids, cut = self._model.tokens(written, LENGTH, text)
        return Encoded(self._model.run(ids)[-2].cpu(), cut=cut)
