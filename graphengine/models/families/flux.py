"""FLUX.1 (Black Forest Labs 2024): a rectified flow in a transformer (Peebles & Xie 2023; Esser et al. 2024).

It reads latents as tokens of 2x2 cells, a prompt as T5's features and CLIP's pooled vector.  The shift of its noise
levels grows with the number of tokens.  dev is told the guidance scale; schnell, made for few steps, is not guided.

Fill reads in further channels the latent of what is left of a picture, and the mask, every pixel of a cell as a channel of
its own.  Canny and Depth read the latent of a picture to follow.  Kontext (2025) reads the tokens of reference pictures
after those that it draws, told apart by the first of their three positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphengine.diffusion.flow import FlowSchedule, denoised_from_velocity
from graphengine.errors import CheckpointError
from graphengine.models.autoencoder import KLAutoencoder
from graphengine.models.clip import ClipEncoder
from graphengine.models.family import BESIDE, DenoiserAdapter, Encoded, Prompts, Size
from graphengine.models.network import diffusers_network
from graphengine.models.packing import pack, patch_count, unpack
from graphengine.models.source import Source
from graphengine.models.t5 import T5Encoder

if TYPE_CHECKING:
    from graphengine.values import Latent

LONGEST, LONGEST_UNGUIDED = 512, 256
"""Tokens of a prompt for networks that are told the guidance scale, and for others."""
USUAL = 4096
"""Tokens of a picture of 1024 x 1024."""
FACTOR, PATCH = 8, 2
"""How many pixels a cell of a latent is wide, and how many cells a token."""
SIZES = (
    *((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104)),
    *((1024, 1024), (1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752), (1456, 720), (1504, 688)),
    (1568, 672),
)
"""Widths and heights at which Kontext was shown pictures in training."""


class Denoiser(DenoiserAdapter):
    """FluxTransformer2DModel behind the sampler's contract."""

    reads_references = True

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        config = source.config("transformer")
        self._read_channels(config, source.name)
        self._scheduler = source.scheduler
        self.schedule = FlowSchedule.from_config(source.scheduler, USUAL)
        self.embeds_guidance = bool(config.get("guidance_embeds", False))
        self.device, self._dtype = device, dtype
        tensors = source.tensors("transformer", dtype)
        self.network = diffusers_network(self._model_class(), config, tensors, f"{source.name}/transformer", device)

    def _model_class(self) -> Any:
        from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

        return FluxTransformer2DModel

    def _read_channels(self, config: Mapping[str, Any], name: str) -> None:
        """What the network reads beside the latent.  Raises CheckpointError when it is nothing that is known."""
        taken = int(config.get("in_channels", 64))
        given = int(config.get("out_channels") or taken)
        masked = 2 * given + (FACTOR * PATCH) ** 2
        if taken not in (given, 2 * given, masked):
            raise CheckpointError(
                f"{name} reads {taken} channels and gives {given}; expected it to read {given} of the latent, "
                f"{2 * given} with a picture to follow, or {masked} with a mask and a masked picture."
            )
        if taken != given:
            self.reads_mask, self.reads_references = taken == masked, False
            self.beside = given // PATCH**2 + self.reads_mask

    def read_beside(self, latent: Latent) -> Tensor | None:
        """The mask by its pixels where it is read, `[B or 1, C + 64, h, w]` after the masked picture's latent."""
        if not self.reads_mask or latent.beside is None or latent.mask is None:
            return latent.beside
        hole = torch.from_numpy(latent.mask.alpha >= 0.5).float()[:, None]
        left, cells = latent.beside[:, 1:], torch.nn.functional.pixel_unshuffle(hole, latent.space.factor)
        count = max(len(left), len(cells))
        return torch.cat([part.expand(count, *part.shape[1:]) for part in (left, cells)], dim=1)

    def schedule_for(self, shape: tuple[int, ...]) -> FlowSchedule:
        return FlowSchedule.from_config(self._scheduler, patch_count(shape))

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        tokens, places = [pack(torch.cat([x, prompts.extras[BESIDE]], dim=1) if self.beside else x)], [positions(x)]
        for number, reference in enumerate(prompts.references, 1):
            patch_count(reference.shape)
            tokens.append(pack(reference.to(x)))
            places.append(positions(reference, number))
        velocity = self._velocity(torch.cat(tokens, dim=1), torch.cat(places), sigma.to(x), prompts)
        velocity = velocity[:, : tokens[0].shape[1]]
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


class VAE(KLAutoencoder):
    """AutoencoderKL."""

    def reference_size(self, width: int, height: int) -> tuple[Size, Size]:
        """The one of `SIZES` whose sides go together most nearly like the picture's, in whole tokens."""
        side = FACTOR * PATCH
        if min(width, height) < side:
            raise ValueError(f"the reference picture is {width} x {height}; expected {side} x {side} or more.")
        ratio = (width // side) / (height // side)
        size = min(SIZES, key=lambda size: (abs(ratio - size[0] / size[1]), size))
        return size, size


def positions(latents: Tensor, picture: int = 0) -> Tensor:
    """Where tokens lie, `[h/2 * w/2, 3]`: the picture (0 is the one that is drawn), row and column."""
    rows, columns = (torch.arange(side // 2, device=latents.device) for side in latents.shape[-2:])
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1).float()
    return torch.nn.functional.pad(grid, (1, 0), value=picture)
