"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): a rectified flow in a transformer that prompts and latents go through together.

A prompt is 77 tokens of two CLIP encoders side by side, padded to the width of T5, and then the tokens of T5; the CLIP
encoders' pooled vectors join the timestep.  T5 may be missing from a checkpoint: its tokens are zeros then.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphengine.diffusion.flow import TRAIN_TIMESTEPS, FlowSchedule, denoised_from_velocity
from graphengine.models.autoencoder import KLAutoencoder
from graphengine.models.clip import ClipEncoder
from graphengine.models.family import DenoiserAdapter, Encoded, Prompts
from graphengine.models.network import diffusers_network
from graphengine.models.packing import patch_count
from graphengine.models.source import Source
from graphengine.models.t5 import T5Encoder

VAE = KLAutoencoder
LONGEST = 256
"""T5's tokens of a prompt."""
USUAL = 4096
"""Tokens of a picture of 1024 x 1024."""


class Denoiser(DenoiserAdapter):
    """SD3Transformer2DModel behind the sampler's contract."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

        config = source.config("transformer")
        self._patch = int(config.get("patch_size", 2))
        self._scheduler = {"max_shift": 1.16} | source.scheduler
        self.schedule = FlowSchedule.from_config(self._scheduler, USUAL)
        self.device, self._dtype = device, dtype
        tensors = source.tensors("transformer", dtype)
        self.network = diffusers_network(SD3Transformer2DModel, config, tensors, f"{source.name}/transformer", device)

    def schedule_for(self, shape: tuple[int, ...]) -> FlowSchedule:
        return FlowSchedule.from_config(self._scheduler, patch_count(shape, self._patch))

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        velocity = self.network(
            x.to(self._dtype),
            encoder_hidden_states=prompts.features.to(self._dtype),
            pooled_projections=prompts.extras["pooled"].to(self._dtype),
            timestep=(sigma * TRAIN_TIMESTEPS).to(x).expand(len(x)),
            return_dict=False,
        )[0]
        return denoised_from_velocity(velocity.to(x.dtype), x, sigma)


class Text:
    """Two CLIP encoders, of whose layers the last but one is read, and T5 where the checkpoint has it."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        self._clips = [
            ClipEncoder(source, "text_encoder", "tokenizer", device, dtype),
            ClipEncoder(source, "text_encoder_2", "tokenizer_2", device, dtype),
        ]
        whole = source.has("text_encoder_3")
        self._t5 = T5Encoder(source, "text_encoder_3", "tokenizer_3", device, dtype) if whole else None
        self._width = int(source.config("transformer").get("joint_attention_dim", 4096))

    def encode(self, text: str) -> Encoded:
        tokens = [clip.tokens(text) for clip in self._clips]
        outputs = [clip.run(ids) for clip, (ids, _) in zip(self._clips, tokens, strict=True)]
        pooled = torch.cat([output.text_embeds for output in outputs], -1)
        words = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        words = torch.nn.functional.pad(words, (0, self._width - words.shape[-1]))
        if self._t5:
            ids, _, cut = self._t5.tokens(text, LONGEST)
            more = self._t5.run(ids)
        else:
            cut = tokens[0][1]
            more = words.new_zeros(1, LONGEST, self._width)
        return Encoded(torch.cat([words, more], 1).cpu(), {"pooled": pooled.cpu()}, cut)
