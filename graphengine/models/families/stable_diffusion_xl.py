"""SDXL and its refiner (Podell et al. 2023): the U-Net is also told a pooled prompt, and numbers about the picture.

The numbers are the original size and the crop, and then the wanted size; the refiner has an aesthetic score in its place.
Features are the last but one layers of both CLIP encoders side by side; the refiner has only the second.
What is unwanted has a low score, and is zeros where nothing is said: so the networks were trained.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphengine.errors import CheckpointError
from graphengine.models.autoencoder import KLAutoencoder
from graphengine.models.clip import ClipEncoder
from graphengine.models.families import stable_diffusion
from graphengine.models.family import NEGATIVE, Encoded, Prompts
from graphengine.models.source import Source

SIZES, SCORED = 6, 5
"""Numbers about the picture: height and width, top and left of the crop, then height and width again, or a score."""
BEAUTIFUL, UGLY = 6.0, 2.5
"""Aesthetic scores of what is wanted and of what is not."""


class Denoiser(stable_diffusion.Denoiser):
    """UNet2DConditionModel with a pooled prompt and the picture's size, or its aesthetic score."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        if str(source.scheduler.get("_class_name")).startswith("EDM"):
            raise CheckpointError(f"{source.name} was trained with EDM preconditioning; only epsilon and v are known.")
        self._scored = _numbers(source) == SCORED
        super().__init__(source, device, dtype)
        self._factor = 2 ** (len(source.config("vae").get("block_out_channels") or [1, 1, 1, 1]) - 1)

    def _added(self, scaled: Tensor, prompts: Prompts) -> Mapping[str, Tensor]:
        return {
            "text_embeds": prompts.extras["pooled"].to(self._dtype),
            "time_ids": self._picture(scaled, prompts),
        }

    def _picture(self, latents: Tensor, prompts: Prompts) -> Tensor:
        """The numbers `[B, 6 or 5]`: a picture of the latents' size, uncropped."""
        size = latents.new_tensor([side * self._factor for side in latents.shape[-2:]], dtype=torch.float32)
        shared = torch.cat([size, torch.zeros_like(size)]).expand(len(latents), -1)
        last = prompts.extras["score"] if self._scored else size.expand(len(latents), -1)
        return torch.cat([shared, last.to(shared.dtype)], dim=1)


def _numbers(source: Source) -> int:
    """How many numbers about the picture the network reads.  Raises CheckpointError when it is neither of the two."""
    unet = source.config("unet")
    pooled = int(source.config(source.texts[-1]).get("projection_dim", 512))  # 512: transformers leaves defaults out
    width = int(unet.get("projection_class_embeddings_input_dim") or 0)
    each = int(unet.get("addition_time_embed_dim") or 0)
    for count in (SIZES, SCORED):
        if width == pooled + count * each:
            return count
    raise CheckpointError(
        f"{source.name}/unet reads {width} values about the prompt and the picture; expected {pooled} of the prompt, "
        f"and {SIZES} or {SCORED} times {each} of the picture."
    )


class Text:
    """Two CLIP text encoders, or the refiner's one; the last one projects, and gives the pooled prompt."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        last = source.texts[-1]
        if source.class_of(last) != "CLIPTextModelWithProjection":
            raise CheckpointError(
                f"{source.name}/{last} is a {source.class_of(last)}; expected a CLIPTextModelWithProjection."
            )
        self._encoders = [
            ClipEncoder(source, part, part.replace("text_encoder", "tokenizer"), device, dtype) for part in source.texts
        ]
        self._zeroed = bool(source.index.get("force_zeros_for_empty_prompt", _numbers(source) == SIZES))

    def places(self, text: str) -> list[tuple[int, int] | None]:
        """Where in the text each row of the features stands; both encoders cut words alike."""
        return self._encoders[0].places(text)

    def encode(self, text: str) -> Encoded:
        tokens = [encoder.tokens(text) for encoder in self._encoders]
        outputs = [encoder.run(ids) for encoder, (ids, _) in zip(self._encoders, tokens, strict=True)]
        features = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1).cpu()
        pooled = outputs[-1].text_embeds.cpu()
        extras = {
            "pooled": pooled,
            "score": torch.tensor([[BEAUTIFUL]]),
            f"{NEGATIVE}score": torch.tensor([[UGLY]]),
        }
        if self._zeroed and not text:
            extras |= {f"{NEGATIVE}features": torch.zeros_like(features), f"{NEGATIVE}pooled": torch.zeros_like(pooled)}
        return Encoded(features, extras, max((cut for _, cut in tokens), key=len))


class VAE(KLAutoencoder):
    """KLAutoencoder in float32 where float16 is asked for and the config says that it would overflow."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        overflows = dtype == torch.float16 and source.config("vae").get("force_upcast", True)
        super().__init__(source, device, torch.float32 if overflows else dtype)
