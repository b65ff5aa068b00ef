"""Training the autoencoder: pictures of 64 x 64 become 8 x 8 latents of 8 channels, and come back.

The loss is L1 + 2 MSE + 3e-4 KL (Rombach et al. 2022, section 3.1, without the adversary, which drawn shapes do
not need).  Noise of 0.12 latent standard deviations is added before the decoder, so that it forgives the small
errors that a denoiser leaves.  Most steps see 32 x 32 crops: four times as many pictures for the same time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from graphengine.training.optimiser import Optimiser
from graphengine.training.trainer import Stage

KL_WEIGHT, MSE_WEIGHT, DECODER_NOISE = 3e-4, 2.0, 0.12


def build() -> AutoencoderKL:
    """The untrained autoencoder: eight times smaller on each side, eight channels."""
    config: dict[str, Any] = dict(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(24, 48, 80, 112),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return AutoencoderKL(**config)


def to_signal(pictures: np.ndarray | Tensor) -> Tensor:
    """uint8 `[n, h, w, 3]` to float `[n, 3, h, w]` in -1..1."""
    return torch.as_tensor(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(signal: Tensor) -> np.ndarray:
    """float `[n, 3, h, w]` in -1..1 to uint8 `[n, h, w, 3]`."""
    levels = ((signal.float() + 1) * 127.5).round().clamp(0, 255)
    return levels.byte().permute(0, 2, 3, 1).cpu().numpy()


def train(pictures: np.ndarray, folder: Path, steps: int, batch: int, rate: float, seed: int) -> AutoencoderKL:
    """Train on uint8 `[n, 64, 64, 3]`; returns the averaged model with its scaling factor set."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    model: Any = build()
    model.to(device, memory_format=torch.channels_last)
    stage = Stage("autoencoder", {"vae": model}, Optimiser([(model, 1.0)], rate), steps, folder)
    stage.average_decay = 0.995

    def loss(step: int) -> Tensor:
        target = to_signal(_visit(pictures, batch, seed, step)).to(device)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        with torch.autocast(device, torch.bfloat16):
            posterior = model.encode(target).latent_dist
            mean, deviation = posterior.mean.float(), posterior.std.float()
            spread = (deviation**2 + (DECODER_NOISE * mean.detach().std()) ** 2).sqrt()
            noise = torch.randn(mean.shape, generator=generator).to(device)
            restored = model.decode(mean + spread * noise).sample.float()
        kl = 0.5 * (mean**2 + deviation**2 - 1 - 2 * deviation.log()).mean()
        error = restored - target
        return error.abs().mean() + MSE_WEIGHT * (error**2).mean() + KL_WEIGHT * kl

    stage.run(loss)
    stage.averaged()
    latents = encode(model, pictures[:2000])
    model.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    return model


def _visit(pictures: np.ndarray, batch: int, seed: int, step: int) -> np.ndarray:
    """Four times in five a large batch of crops, else a smaller one of whole pictures."""
    random = np.random.default_rng((seed, step))
    if step % 5 == 4:
        return pictures[random.integers(0, len(pictures), batch)]
    rows = random.integers(0, len(pictures), 3 * batch)
    tops, lefts = random.integers(0, 33, (2, len(rows)))
    return np.stack([pictures[r, t : t + 32, c : c + 32] for r, t, c in zip(rows, tops, lefts, strict=True)])


@torch.inference_mode()
def encode(model: Any, pictures: np.ndarray, batch: int = 64) -> Tensor:
    """Latent means, unscaled, float32 `[n, 8, 8, 8]` on the CPU, of uint8 `[n, 64, 64, 3]`."""
    means = [
        model.encode(to_signal(pictures[i : i + batch]).to(model.device)).latent_dist.mean.cpu()
        for i in range(0, len(pictures), batch)
    ]
    return torch.cat(means)


@torch.inference_mode()
def decode(model: Any, latents: Tensor, batch: int = 64) -> np.ndarray:
    """Pictures, uint8 `[n, 64, 64, 3]`, of unscaled latents."""
    parts = [
        to_pictures(model.decode(latents[i : i + batch].to(model.device)).sample) for i in range(0, len(latents), batch)
    ]
    return np.concatenate(parts)
