"""Sana (Xie et al. 2024): linear attention over latents that are 32 times smaller than the picture.

Gemma 2 reads the prompt behind a long instruction to enhance it; of the instruction only the first and the last token are kept.
A negative prompt is read without the instruction.  DPM-Solver++ on the flow's levels calls the network at whole timesteps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphengine.diffusion.flow import TRAIN_TIMESTEPS, FlowSchedule, denoised_from_velocity
from graphengine.errors import CheckpointError
from graphengine.models.autoencoder import to_pixels, to_signal
from graphengine.models.family import NEGATIVE, DenoiserAdapter, Encoded, Prompts
from graphengine.models.language import LanguageModel
from graphengine.models.network import diffusers_network
from graphengine.models.source import Source

LENGTH = 300
"""Tokens of a prompt that the network sees, the first among them."""
SOLVER_TOP = 1 - 1 / TRAIN_TIMESTEPS
"""Where DPM-Solver++ begins: at level 1 its logarithm of the signal would be infinite."""
INSTRUCTION = (
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for "
    "image generation. Evaluate the level of detail in the user prompt:\n"
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
    "relationships to create vivid and concrete scenes.\n"
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.\n"
    "Here are examples of how to transform or refine prompts:\n"
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
    "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.\n"
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
    "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
    "skyscrapers.\n"
    "Please generate only the enhanced description for the prompt below and avoid including any additional commentary "
    "or evaluations:\n"
    "User Prompt: "
)
"""What the models were trained to see before a prompt."""


class Denoiser(DenoiserAdapter):
    """SanaTransformer2DModel behind the sampler's contract."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel

        config, scheduler = source.config("transformer"), source.scheduler
        if config.get("guidance_embeds"):
            raise CheckpointError(
                f"{source.name} is a distilled Sana that is told its guidance (Sana-Sprint); only Sana can be loaded."
            )
        self._whole = bool(scheduler.get("use_flow_sigmas"))
        solver = FlowSchedule(float(scheduler.get("flow_shift", 1.0)), SOLVER_TOP)
        self.schedule = solver if self._whole else FlowSchedule.from_config(scheduler)
        self.device, self._dtype = device, dtype
        self._timestep_scale = float(config.get("timestep_scale", 1.0))
        tensors = source.tensors("transformer", dtype)
        self.network = diffusers_network(SanaTransformer2DModel, config, tensors, f"{source.name}/transformer", device)

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        velocity = self.network(
            x.to(self._dtype),
            encoder_hidden_states=prompts.features.to(self._dtype),
            timestep=self._timestep(sigma).to(x.device).expand(x.shape[0]),
            encoder_attention_mask=prompts.extras.get("mask"),
            return_dict=False,
        )[0]
        velocity = velocity[:, : x.shape[1]]  # a second half would be a learned variance
        return denoised_from_velocity(velocity.to(x.dtype), x, sigma)

    def _timestep(self, sigma: Tensor) -> Tensor:
        timestep = sigma.double() * TRAIN_TIMESTEPS
        if self._whole:
            timestep = (timestep + 1e-3).floor()  # a level may have lost its last digits in other coordinates
        return timestep.float() * self._timestep_scale


class Text:
    """Gemma 2 without its head; the features are its last layer's, normalised."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        self._model = LanguageModel(source, device, dtype)
        self._instruction = self._model.tokens(INSTRUCTION, len(INSTRUCTION))[0].shape[1]

    def encode(self, text: str) -> Encoded:
        prompt = text.lower().strip()
        plain, _ = self._model.tokens(prompt, LENGTH)
        ids, cut = self._model.tokens(INSTRUCTION + prompt, self._instruction + LENGTH - 2, prompt)
        features = self._features(ids)
        features = torch.cat([features[:, :1], features[:, self._instruction - 1 :]], dim=1)
        return Encoded(features, {f"{NEGATIVE}features": self._features(plain)}, cut)

    def _features(self, ids: Tensor) -> Tensor:
        return self._model.run(ids)[-1].cpu()


class VAE:
    """AutoencoderDC (Chen et al. 2024), which has no variance: a picture has one latent."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC

        config, tensors = source.config("vae"), source.tensors("vae", dtype)
        self.network = diffusers_network(AutoencoderDC, config, tensors, f"{source.name}/vae", device)
        self._device, self._dtype = device, dtype
        self._scale = float(config.get("scaling_factor") or 1.0)

    @torch.no_grad()
    def encode(self, pixels: np.ndarray) -> Tensor:
        latents = self.network.encode(to_signal(pixels).to(self._device, self._dtype), return_dict=False)[0]
        return (latents.float() * self._scale).cpu()

    @torch.no_grad()
    def decode(self, samples: Tensor) -> np.ndarray:
        latents = samples.to(self._device) / self._scale
        return to_pixels(self.network.decode(latents.to(self._dtype), return_dict=False)[0])
