"""FLUX.2: klein with guidance and distilled, and dev, which is told the guidance scale."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from families.harness import STEPS, Case, generator, library
from families.language import WIDTH, lively, mistral3, mistral_tokenizer, qwen3, qwen_tokenizer

HEIGHT = 32


def transformer(told: bool) -> Any:
    made = library("diffusers").Flux2Transformer2DModel(
        in_channels=32,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=told,
    )
    return lively(made)


def autoencoder() -> Any:
    """With statistics of its latents that are not 0 and 1."""
    made = library("diffusers").AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8), latent_channels=8, norm_num_groups=4, layers_per_block=1
    )
    made.bn.running_mean.normal_()
    made.bn.running_var.uniform_(0.5, 2)
    return made.eval()


def make(folder: Path, told: bool = False, distilled: bool = False) -> Any:
    diffusers = library("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    parts = (scheduler, autoencoder())
    if told:
        words = mistral3(num_hidden_layers=31), mistral_tokenizer()
        pipe = diffusers.Flux2Pipeline(*parts, *words, transformer(told))
    else:
        words = qwen3(num_hidden_layers=28), qwen_tokenizer()
        pipe = diffusers.Flux2KleinPipeline(*parts, *words, transformer(told), is_distilled=distilled)
    pipe.save_pretrained(folder)
    return pipe


def latents(pipe: Any, prompt: str, negative: str) -> Tensor:
    """klein's pipeline undoes normalisation and patches, which are part of the space here; dev's leaves tokens."""
    told = pipe.transformer.config.guidance_embeds
    unwanted = {} if told else {"negative_prompt_embeds": pipe.encode_prompt(negative)[0]}
    made = pipe(
        prompt=prompt,
        height=HEIGHT,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=generator(),
        output_type="latent",
        **unwanted,
    ).images
    if told:
        return made.transpose(1, 2).unflatten(2, (HEIGHT // 16, 4))
    mean, deviation = statistics(pipe.vae)
    return (pipe._patchify_latents(made) - mean) / deviation


def statistics(vae: Any) -> tuple[Tensor, Tensor]:
    variance = vae.bn.running_var + vae.config.batch_norm_eps
    return vae.bn.running_mean[:, None, None], variance.sqrt()[:, None, None]


def decode(pipe: Any, samples: Tensor) -> np.ndarray:
    mean, deviation = statistics(pipe.vae)
    signal = pipe.vae.decode(pipe._unpatchify_latents(samples * deviation + mean)).sample
    return (signal / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


CASES = [
    Case("FLUX.2 klein base", make, latents, decode, height=HEIGHT),
    Case("FLUX.2 klein", partial(make, distilled=True), latents, decode, height=HEIGHT, negative=False),
    Case("FLUX.2 dev", partial(make, told=True), latents, decode, height=HEIGHT, negative=False),
]
