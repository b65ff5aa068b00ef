"""Stable Diffusion 1.x and 2.x and their kin: a U-Net on the latents of an AutoencoderKL, guided by a CLIP text encoder.

Some U-Nets read further channels beside the latent's: a mask and the masked picture's latent, to inpaint (Rombach et al.
2022), or the latent of a picture to edit by an instruction (Brooks et al. 2023), which is not scaled.

The embedded model `tiny` is one of them.  Only the modules that are used are imported: diffusers' and
transformers' top levels would cost seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from graphengine.diffusion.forward import denoised_from, scale_input
from graphengine.diffusion.sigmas import NoiseSchedule
from graphengine.errors import CheckpointError
from graphengine.models.autoencoder import KLAutoencoder
from graphengine.models.clip import ClipEncoder
from graphengine.models.control_net import ControlAdapter, Step, steered
from graphengine.models.family import BESIDE, DenoiserAdapter, Encoded, Prompts
from graphengine.models.ip_adapter import arguments
from graphengine.models.network import diffusers_network
from graphengine.models.source import Source

VAE = KLAutoencoder


class Denoiser(DenoiserAdapter):
    """UNet2DConditionModel behind the sampler's contract."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        self.schedule = self._noise = NoiseSchedule.from_config(source.scheduler)
        self.prediction = str(source.scheduler.get("prediction_type", "epsilon"))
        self.device, self._dtype = device, dtype
        config, tensors = source.config("unet"), source.tensors("unet", dtype)
        self._read_channels(source, config)
        self.network = diffusers_network(UNet2DConditionModel, config, tensors, f"{source.name}/unet", device)

    def _read_channels(self, source: Source, config: Mapping[str, Any]) -> None:
        """What the network reads beside the latent.  Raises CheckpointError when it is nothing that is known."""
        own, read = int(config.get("out_channels", 4)), int(config.get("in_channels", 4))
        if read not in (own, 2 * own, 2 * own + 1):
            raise CheckpointError(
                f"{source.name}/unet reads {read} channels; expected {own} of the latent, {2 * own} with a picture "
                f"to edit, or {2 * own + 1} with a mask and a masked picture."
            )
        self.beside, self.reads_mask = read - own, read == 2 * own + 1
        edits = self.beside and not self.reads_mask and not source.index.get("is_cosxl_edit")
        self._beside_scale = float(source.config("vae").get("scaling_factor") or 0.18215) if edits else 1.0

    def denoise(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        timestep = self._noise.timestep_at(sigma)
        nearest = timestep.round()  # a schedule on whole timesteps asks for exactly them
        timestep = torch.where((timestep - nearest).abs() < 1e-3, nearest, timestep)
        scaled = scale_input(x, sigma).to(self._dtype)
        if self.beside:
            scaled = torch.cat([scaled, (prompts.extras[BESIDE] / self._beside_scale).to(self._dtype)], dim=1)
        output = self._call(scaled, timestep.to(x.device), prompts)
        return denoised_from(output.to(x.dtype), self.prediction, x, sigma)

    def _call(self, scaled: Tensor, timestep: Tensor, prompts: Prompts) -> Tensor:
        step = Step(scaled, timestep, prompts.features.to(self._dtype), self._added(scaled, prompts))
        return self.network(
            scaled,
            timestep,
            step.features,
            added_cond_kwargs=step.added or None,
            return_dict=False,
            **steered(prompts.controls, step),
            **arguments(prompts.pictures),
        )[0]

    def _added(self, scaled: Tensor, prompts: Prompts) -> Mapping[str, Tensor]:
        """What the network is told besides."""
        return {}

    def check_control(self, network: ControlAdapter) -> None:
        network.check(self.network.config)


class Text:
    """One CLIP text encoder; the features are its last layer's, normalised."""

    def __init__(self, source: Source, device: str, dtype: torch.dtype):
        self._encoder = ClipEncoder(source, "text_encoder", "tokenizer", device, dtype)

    def places(self, text: str) -> list[tuple[int, int] | None]:
        """Where in the text each row of the features stands."""
        return self._encoder.places(text)

    def encode(self, text: str) -> Encoded:
        ids, cut = self._encoder.tokens(text)
        return Encoded(self._encoder.features(ids), cut=cut, unknown=self._encoder.unknown(text))
