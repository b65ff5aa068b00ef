"""Qwen-Image (Wu et al. 2025): words and image patches in two streams that attend to each other.

Words come from the last layer of a Qwen2.5-VL, which is asked to describe a picture; what the question adds in front is
left off.  Guidance keeps the length of every patch's velocity.  The autoencoder is made for video: pictures are films of
one frame, and each of its channels has a mean and a standard deviation.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphengine.diffusion.flow import FlowSchedule, denoised_from_velocity
from graphengine.diffusion.guidance import Guidance, NormKept
from graphengine.errors import CheckpointError
from graphengine.models.autoencoder import to_pixels, to_signal
from graphengine.models.family import DenoiserAdapter, Encoded, Prompts
from graphengine.models.language import LanguageModel
from graphengine.models.network import diffusers_network
from graphengine.models.packing import pack, patch_count, unpack
from graphengine.models.source import Source

BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
"""What a prompt stood between in training."""
BEFORE_LENGTH, LENGTH = 34, 1024
"""Tokens of what stands before, which are left off, and the most that are kept."""


class Denoiser(DenoiserAdapter):
    """QwenImageTransformer2DModel behind the sampler's contract."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope, QwenImageTransformer2DModel

        part = source.denoiser
        config = source.config(part)
        for other in ("use_layer3d_rope", "use_additional_t_cond", "guidance_embeds"):
            if config.get(other):
                raise CheckpointError(
                    f"{source.name}/{part} has {other}: it makes layers, edits, or is told its guidance; "
                    "only plain text to image is known."
                )
        self.schedule, self._scheduler = FlowSchedule.from_config(source.scheduler), source.scheduler
        self.device, self._dtype = device, dtype
        self.network = diffusers_network(
            QwenImageTransformer2DModel, config, source.tensors(part, dtype), f"{source.name}/{part}", device
        )
        axes = list(self.network.config.axes_dims_rope)
        self.network.pos_embed = QwenEmbedRope(10000, axes, scale_rope=True)  # plain tensors: no file has them

    def schedule_for(self, shape: tuple[int, ...]) -> FlowSchedule:
        return FlowSchedule.from_config(self._scheduler, patch_count(shape))

    def guidance(self, scale: float) -> Guidance:
        return NormKept(scale, patch=2)

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        mask = prompts.extras.get("mask")
        output = self.network(
            hidden_states=pack(x.to(self._dtype)),
            timestep=sigma.to(x.device, torch.float32).expand(len(x)),
            encoder_hidden_states=prompts.features.to(self._dtype),
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, x.shape[-2] // 2, x.shape[-1] // 2)]] * len(x),
            return_dict=False,
        )[0]
        return denoised_from_velocity(unpack(output.to(x.dtype), x.shape), x, sigma)


class Text:
    """Qwen2.5-VL without its eyes."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        self._model = LanguageModel(source, device, dtype)

    def encode(self, text: str) -> Encoded:
        ids, cut = self._model.tokens(BEFORE + text + AFTER, BEFORE_LENGTH + LENGTH, text)
        return Encoded(self._model.run(ids)[-1][:, BEFORE_LENGTH:].cpu(), cut=cut)


class VAE:
    """AutoencoderKLQwenImage on films of one frame."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage

        tensors = source.tensors("vae", dtype)
        self.network = diffusers_network(
            AutoencoderKLQwenImage, source.config("vae"), tensors, f"{source.name}/vae", device
        )
        config = self.network.config
        self._mean = torch.tensor(config.latents_mean, device=device)[:, None, None]
        self._deviation = torch.tensor(config.latents_std, device=device)[:, None, None]
        self._device, self._dtype = device, dtype

    @torch.no_grad()
    def encode(self, pixels: np.ndarray) -> Tensor:
        film = to_signal(pixels).to(self._device, self._dtype)[:, :, None]
        latents = self.network.encode(film).latent_dist.mode()[:, :, 0].float()
        return ((latents - self._mean) / self._deviation).cpu()

    @torch.no_grad()
    def decode(self, samples: Tensor) -> np.ndarray:
        latents = samples.to(self._device) * self._deviation + self._mean
        return to_pixels(self.network.decode(latents.to(self._dtype)[:, :, None], return_dict=False)[0][:, :, 0])
