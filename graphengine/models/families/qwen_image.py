"""Qwen-Image (Wu et al. 2025): words and image patches in two streams that attend to each other.

Words come from the last layer of a Qwen2.5-VL, which is asked to describe a picture; what the question adds in front is
left off.  Guidance keeps the length of every patch's velocity.  The autoencoder is made for video: pictures are films of
one frame, and each of its channels has a mean and a standard deviation.

Qwen-Image-Edit reads the latents of pictures to edit as further frames, and Qwen2.5-VL sees them beside the words: one
picture as large as its latent, or several small ones with numbers (Edit-Plus, 2509 and later).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from graphengine.diffusion.flow import FlowSchedule, denoised_from_velocity
from graphengine.diffusion.guidance import Guidance, NormKept
from graphengine.errors import CheckpointError
from graphengine.models.autoencoder import to_pixels, to_signal
from graphengine.models.eyes import Eyes, positions
from graphengine.models.family import DenoiserAdapter, Encoded, Prompts, Size
from graphengine.models.language import LanguageModel
from graphengine.models.network import diffusers_network
from graphengine.models.packing import pack, patch_count, unpack
from graphengine.models.source import Source
from graphengine.planes import as_picture

BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
"""What a prompt stood between in training."""
BEFORE_LENGTH, LENGTH = 34, 1024
"""Tokens of what stands before, which are left off, and the most that are kept."""
BEFORE_EDIT = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where "
    "appropriate.<|im_end|>\n<|im_start|>user\n"
)
BEFORE_EDIT_LENGTH, MARKS = 64, 16
"""Tokens of what stands before an instruction, which are left off, and the most that stand around a picture."""
PAD = "<|image_pad|>"
"""The token that stands for one of a picture."""
LATENT_AREA, SEEN_AREA = 1024**2, 384**2
"""Pixels of pictures in training, and of those that Qwen2.5-VL sees in Edit-Plus."""


class Denoiser(DenoiserAdapter):
    """QwenImageTransformer2DModel behind the sampler's contract."""

    reads_references = True

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope, QwenImageTransformer2DModel

        part = source.denoiser
        config = source.config(part)
        for other in ("use_layer3d_rope", "use_additional_t_cond", "guidance_embeds"):
            if config.get(other):
                raise CheckpointError(
                    f"{source.name}/{part} has {other}: it makes layers, or is told its guidance; "
                    "only text to image and editing are known."
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
        mask, pictures = prompts.extras.get("mask"), (x, *prompts.references)
        shapes = [
            (1, picture.shape[-2] // 2, picture.shape[-1] // 2) for picture in pictures if patch_count(picture.shape)
        ]
        output = self.network(
            hidden_states=torch.cat([pack(picture.to(x.device, self._dtype)) for picture in pictures], dim=1),
            timestep=sigma.to(x.device, torch.float32).expand(len(x)),
            encoder_hidden_states=prompts.features.to(self._dtype),
            encoder_hidden_states_mask=mask,
            img_shapes=[shapes] * len(x),
            return_dict=False,
        )[0][:, : patch_count(x.shape)]
        return denoised_from_velocity(unpack(output.to(x.dtype), x.shape), x, sigma)


class Text:
    """Qwen2.5-VL; it has its eyes where a checkpoint has a processor of pictures."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        self._model = LanguageModel(source, device, dtype)
        self._eyes = Eyes(source, device, dtype) if source.has("processor") else None
        self._several = "Plus" in source.pipeline
        self._name, self._device = source.name, device

    def encode(self, text: str) -> Encoded:
        ids, cut = self._model.tokens(BEFORE + text + AFTER, BEFORE_LENGTH + LENGTH, text)
        return Encoded(self._model.run(ids)[-1][:, BEFORE_LENGTH:].cpu(), cut=cut)

    @torch.no_grad()
    def encode_seeing(self, text: str, pictures: list[np.ndarray], resize: bool = True) -> Encoded:
        if self._eyes is None:
            raise CheckpointError(f"{self._name} has no processor, and so sees no pictures: it was not made to edit.")
        if len(pictures) > 1 and not self._several:
            raise ValueError(f"{self._name} sees one picture beside the words, not {len(pictures)}.")
        area = SEEN_AREA if self._several else LATENT_AREA
        seen = [
            self._eyes.see(as_picture(each, area_size(each.shape[1], each.shape[0], area) if resize else None))
            for each in pictures
        ]
        marks = [f"<|vision_start|>{PAD * len(features)}<|vision_end|>" for features, _ in seen]
        if self._several:
            marks = [f"Picture {number}: {mark}" for number, mark in enumerate(marks, 1)]
        prompt = text.replace(PAD, "")
        length = BEFORE_EDIT_LENGTH + sum(MARKS + len(features) for features, _ in seen) + LENGTH
        ids, cut = self._model.tokens(BEFORE_EDIT + "".join(marks) + prompt + AFTER, length, prompt)
        states = self._run(ids, [features for features, _ in seen], [grid for _, grid in seen])
        return Encoded(states[:, BEFORE_EDIT_LENGTH:].cpu(), cut=cut)

    def _run(self, ids: Tensor, features: list[Tensor], grids: list[tuple[int, int]]) -> Tensor:
        """The last states `[1, N, D]` of tokens, with features in place of those that stand for pictures."""
        network, (mark, _) = self._model.network, self._model.tokens(PAD, 2, special=False)
        places = ids[0] == mark[0, 0]
        if mark.shape[1] != 1 or int(places.sum()) != sum(map(len, features)):
            raise CheckpointError(f"the tokenizer of {self._name} has no token {PAD}, and so sees no pictures.")
        words = network.get_input_embeddings()(ids.to(self._device)).clone()
        if features:
            words[0, places] = torch.cat(features).to(words)
        where = positions(places, grids).to(words.device)
        made = network(inputs_embeds=words, position_ids=where, output_hidden_states=True, use_cache=False)
        return made.hidden_states[-1]


def area_size(width: int, height: int, area: int) -> Size:
    """A size of about so many pixels with sides that go together like these, in multiples of 32."""
    wide = math.sqrt(area * width / height)
    high = wide * height / width
    return max(1, round(wide / 32)) * 32, max(1, round(high / 32)) * 32


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

    def reference_size(self, width: int, height: int) -> tuple[Size, Size]:
        """About `LATENT_AREA` pixels."""
        size = area_size(width, height, LATENT_AREA)
        return size, size

    @torch.no_grad()
    def encode(self, pixels: np.ndarray) -> Tensor:
        film = to_signal(pixels).to(self._device, self._dtype)[:, :, None]
        latents = self.network.encode(film).latent_dist.mode()[:, :, 0].float()
        return ((latents - self._mean) / self._deviation).cpu()

    @torch.no_grad()
    def decode(self, samples: Tensor) -> np.ndarray:
        latents = samples.to(self._device) * self._deviation + self._mean
        return to_pixels(self.network.decode(latents.to(self._dtype)[:, :, None], return_dict=False)[0][:, :, 0])
