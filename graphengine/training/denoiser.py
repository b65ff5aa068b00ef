"""Training the denoiser: a small U-Net learns to predict the velocity of noised latents from a caption.

The network predicts v (Salimans & Ho 2022, eq. 9) under the linear schedule of Ho et al. 2020.  Timesteps are
stratified over the batch, a tenth of the captions are empty so that classifier-free guidance has its second
branch (Ho & Salimans 2022, section 3.2), and the text encoder keeps learning at a small rate.

Two choices make it quick on a CPU: attention by plain matrix products (the fused kernel's backward pass is slow
for 64 tokens), and latents that are encoded once.  Captions are drawn anew at every visit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from graphengine.training.language import tokenize, vary
from graphengine.training.optimiser import Optimiser
from graphengine.training.scenes import Scene, caption
from graphengine.training.trainer import Stage

TRAIN_TIMESTEPS, BETA_START, BETA_END = 1000, 1e-4, 0.02
EMPTY_CAPTIONS, TEXT_RATE = 0.1, 0.15


@dataclass(frozen=True)
class Scheme:
    """How long and how fast: the settings of one training."""

    steps: int
    batch: int = 128
    rate: float = 2e-3
    seed: int = 0


def build(text_width: int = 128) -> UNet2DConditionModel:
    """The untrained U-Net on 8 x 8 latents; the pooled caption joins the time embedding."""
    config: dict[str, Any] = dict(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(96, 160),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
        cross_attention_dim=text_width,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    model = UNet2DConditionModel(**config)
    with torch.no_grad():  # residual branches start near the identity
        for name, parameter in model.named_parameters():
            if name.endswith(("conv2.weight", "to_out.0.weight", "ff.net.2.weight", "proj_out.weight")):
                parameter.mul_(0.1)
        model.conv_out.weight.mul_(0.1)
    return model


def alphas_cumprod() -> Tensor:
    """abar of the linear schedule, float32 `[1000]` (Ho et al. 2020, section 4)."""
    betas = torch.linspace(BETA_START, BETA_END, TRAIN_TIMESTEPS, dtype=torch.float64)
    return (1 - betas).cumprod(0).float()


def train(
    latents: Tensor,
    scenes: list[Scene],
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    folder: Path,
    scheme: Scheme,
    look: Callable[[Stage], None] | None = None,
) -> Stage:
    """Train on scaled latents `[n, 8, 8, 8]` of the scenes; returns the stage with its moving averages.

    `look(stage)` is called at every checkpoint and at the end.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(scheme.seed)
    unet: Any = build()
    unet.to(device, memory_format=torch.channels_last)
    unet.set_attn_processor(AttnProcessor())
    nn.Module.to(text, device).train()
    optimiser = Optimiser([(unet, 1.0), (text, TEXT_RATE)], scheme.rate)
    modules = {"unet": unet, "text": text}
    stage = Stage("denoiser", modules, optimiser, scheme.steps, folder, average_decay=0.999)
    abar = alphas_cumprod().to(device)

    def loss(step: int) -> Tensor:
        random = np.random.default_rng((scheme.seed, step))
        generator = torch.Generator().manual_seed(scheme.seed * 1_000_003 + step)
        rows = random.integers(0, len(scenes), scheme.batch)
        captions = [vary(caption(scenes[row]), random) for row in rows]
        empty = random.random(scheme.batch) < EMPTY_CAPTIONS
        ids = tokenize(tokenizer, ["" if e else c for c, e in zip(captions, empty, strict=True)])
        clean = latents[torch.from_numpy(rows)].to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        strata = (torch.arange(scheme.batch) + torch.rand(scheme.batch, generator=generator)).to(device)
        timesteps = (strata / scheme.batch * TRAIN_TIMESTEPS).long()
        signal, spread = abar[timesteps].sqrt()[:, None, None, None], (1 - abar[timesteps]).sqrt()[:, None, None, None]
        with torch.autocast(device, torch.bfloat16):
            features = text(input_ids=ids.to(device)).last_hidden_state
            noised = (signal * clean + spread * noise).contiguous(memory_format=torch.channels_last)
            predicted = unet(noised, timesteps, features).sample.float()
        return (predicted - (signal * noise - spread * clean)).square().mean()

    stage.run(loss, (lambda done: look(stage)) if look else None)
    return stage
