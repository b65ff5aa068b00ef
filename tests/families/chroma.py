"""Chroma.

The pipeline is given its masks as truths: of its own accord it makes numbers of them, which attention adds to the scores,
so that nothing is masked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from families.flux import flux_autoencoder
from families.harness import STEPS, Case, generator, library
from families.stable_diffusion import decode
from families.vocabulary import t5_encoder, t5_tokenizer

SIZE = 64


def make(folder: Path) -> Any:
    diffusers = library("diffusers")
    transformer = diffusers.ChromaTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=32,
        approximator_hidden_dim=32,
        approximator_layers=1,
    ).eval()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = diffusers.ChromaPipeline(scheduler, flux_autoencoder(), t5_encoder(), t5_tokenizer(), transformer)
    pipe.save_pretrained(folder)
    return pipe


def latents(pipe: Any, prompt: str, negative: str) -> Tensor:
    wanted, _, mask, unwanted, _, other_mask = pipe.encode_prompt(prompt, negative)
    tokens = pipe(
        prompt_embeds=wanted,
        prompt_attention_mask=mask.bool(),
        negative_prompt_embeds=unwanted,
        negative_prompt_attention_mask=other_mask.bool(),
        height=SIZE,
        width=SIZE,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=generator(),
        output_type="latent",
    ).images
    return pipe._unpack_latents(tokens, SIZE, SIZE, pipe.vae_scale_factor)


CASES = [Case("Chroma", make, latents, decode, size=SIZE)]
