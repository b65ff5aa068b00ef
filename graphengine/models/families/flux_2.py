"""FLUX.2 dev and klein (Black Forest Labs 2025): a rectified flow in a transformer, words from three layers of a chat model.

The autoencoder's latents are cut into patches of 2 x 2 cells and normalised by statistics that it has learnt of them; that is
the space of noise here.  The shift of the noise levels was fitted to the number of tokens and of steps.  dev has a
Mistral 3 and is told the guidance scale, klein has a Qwen3; both read the padding of a prompt like words.  Reference
pictures are read as tokens after those that are drawn, told apart by the first of their four positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphengine.diffusion.flow import FlowSchedule, denoised_from_velocity
from graphengine.diffusion.guidance import Guidance, Plain
from graphengine.errors import CheckpointError
from graphengine.models.autoencoder import to_pixels, to_signal
from graphengine.models.family import DenoiserAdapter, Encoded, Prompts, Size
from graphengine.models.language import LanguageModel
from graphengine.models.network import diffusers_network
from graphengine.models.source import Source

LENGTH = 512
"""Tokens of a prompt, with what the chat adds and with padding."""
MISTRAL_LAYERS, QWEN_LAYERS = (10, 20, 30), (9, 18, 27)
ROLE = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object "
    "relationships, object\nattribution and actions without speculation."
)
"""What Mistral was told of itself in training."""
USUAL_STEPS = 50
"""Steps that the trained levels are taken for, where a schedule asks for levels and not for a number of steps."""
APART, LARGEST = 10, 1024**2
"""How far the first positions of two pictures lie from each other, and the most pixels of a reference picture."""


@dataclass(frozen=True, eq=False)
class FittedSchedule(FlowSchedule):
    """A flow whose shift is a line in the number of steps, through two lines in the number of tokens."""

    tokens: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any], tokens: int) -> FlowSchedule:
        if not config.get("use_dynamic_shifting"):
            return FlowSchedule.from_config(config)
        return cls(math.exp(fitted_mu(tokens, USUAL_STEPS)), tokens=tokens)

    def trailing(self, steps: int) -> Tensor:
        return FlowSchedule(math.exp(fitted_mu(self.tokens, steps)), self.top).trailing(steps)


def fitted_mu(tokens: int, steps: int) -> float:
    """The logarithm of the shift; from 4300 tokens on steps do not matter."""
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    return at_200 + (steps - 200) * (at_200 - at_10) / 190


class Denoiser(DenoiserAdapter):
    """Flux2Transformer2DModel behind the sampler's contract."""

    reads_references = True

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel

        part = source.denoiser
        self.network = diffusers_network(
            Flux2Transformer2DModel, source.config(part), source.tensors(part, dtype), f"{source.name}/{part}", device
        )
        self.embeds_guidance = bool(self.network.config.guidance_embeds)
        self.schedule, self._scheduler = FlowSchedule(), source.scheduler
        self._distilled = bool(source.index.get("is_distilled"))
        self.device, self._dtype = device, dtype

    def schedule_for(self, shape: tuple[int, ...]) -> FlowSchedule:
        return FittedSchedule.of(self._scheduler, tokens=shape[-2] * shape[-1])

    def guidance(self, scale: float) -> Guidance:
        """None for a klein that was distilled: it was taught what guidance would have made."""
        return Plain() if self._distilled else super().guidance(scale)

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        batch, height, width = len(x), x.shape[-2], x.shape[-1]
        scale = torch.full((batch,), prompts.guidance, device=x.device) if self.embeds_guidance else None
        pictures = (x, *prompts.references)
        tokens = [picture.to(x.device, self._dtype).flatten(2).transpose(1, 2) for picture in pictures]
        places = [_places(APART * n, p.shape[-2], p.shape[-1], 1, x.device) for n, p in enumerate(pictures)]
        output = self.network(
            hidden_states=torch.cat(tokens, dim=1),
            encoder_hidden_states=prompts.features.to(self._dtype),
            timestep=sigma.to(x.device, torch.float32).expand(batch),
            guidance=scale,
            img_ids=torch.cat(places),
            txt_ids=_places(0, 1, 1, prompts.features.shape[1], x.device),
            return_dict=False,
        )[0][:, : height * width]
        velocity = output.to(x.dtype).transpose(1, 2).unflatten(2, (height, width))
        return denoised_from_velocity(velocity, x, sigma)


def _places(picture: int, rows: int, columns: int, words: int, device: torch.device) -> Tensor:
    """Where tokens lie, `[N, 4]`: picture, row, column and place in the text."""
    axes = (torch.arange(length, device=device) for length in (rows, columns, words))
    return torch.cartesian_prod(torch.tensor([picture], device=device), *axes)


class Text:
    """Three layers of Mistral 3 or Qwen3, side by side."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        part = source.class_of("text_encoder")
        if part not in ("Mistral3ForConditionalGeneration", "Qwen3ForCausalLM"):
            raise CheckpointError(
                f"{source.name}/text_encoder is a {part}; "
                "expected a Mistral3ForConditionalGeneration or a Qwen3ForCausalLM."
            )
        self._told = part.startswith("Mistral3")
        self._layers = MISTRAL_LAYERS if self._told else QWEN_LAYERS
        self._model = LanguageModel(source, device, dtype)
        if (count := self._model.network.config.num_hidden_layers) < self._layers[-1]:
            raise CheckpointError(
                f"{source.name}/text_encoder has {count} layers; expected at least {self._layers[-1]}."
            )

    def encode(self, text: str) -> Encoded:
        ids, cut = self._model.tokens(self._written(text), LENGTH, text, special=not self._told)
        states = self._model.run(*self._model.padded(ids, LENGTH))
        return Encoded(torch.cat([states[layer] for layer in self._layers], dim=-1).cpu(), cut=cut)

    def _written(self, text: str) -> str:
        if not self._told:
            messages = [{"role": "user", "content": text}]
            return self._model.chat(messages, add_generation_prompt=True, enable_thinking=False)
        parts = {"system": ROLE, "user": text.replace("[IMG]", "")}  # which would stand for a picture
        messages = [{"role": role, "content": [{"type": "text", "text": said}]} for role, said in parts.items()]
        return self._model.chat(messages, add_generation_prompt=False)


class VAE:
    """AutoencoderKLFlux2 with patches of its latents, normalised."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2

        tensors = source.tensors("vae", dtype)
        self.network = diffusers_network(
            AutoencoderKLFlux2, source.config("vae"), tensors, f"{source.name}/vae", device
        )
        statistics = self.network.bn
        self._mean = statistics.running_mean.float()[:, None, None]
        self._deviation = (statistics.running_var.float() + statistics.eps).sqrt()[:, None, None]
        self._device, self._dtype = device, dtype
        self._side = 2 ** len(self.network.config.block_out_channels)

    def reference_size(self, width: int, height: int) -> tuple[Size, Size]:
        """No more than `LARGEST` pixels; of the rest the middle, in whole patches."""
        scale = min(1.0, math.sqrt(LARGEST / (width * height)))
        size = int(width * scale), int(height * scale)
        kept = size[0] // self._side * self._side, size[1] // self._side * self._side
        if not all(kept):
            raise ValueError(
                f"the reference picture is {width} x {height}; expected {self._side} x {self._side} or more."
            )
        return size, kept

    @torch.no_grad()
    def encode(self, pixels: np.ndarray) -> Tensor:
        moments = self.network.encode(to_signal(pixels).to(self._device, self._dtype)).latent_dist
        patches = torch.nn.functional.pixel_unshuffle(moments.mode().float(), 2)
        return ((patches - self._mean) / self._deviation).cpu()

    @torch.no_grad()
    def decode(self, samples: Tensor) -> np.ndarray:
        patches = samples.to(self._device) * self._deviation + self._mean
        latents = torch.nn.functional.pixel_shuffle(patches, 2)
        return to_pixels(self.network.decode(latents.to(self._dtype), return_dict=False)[0])
