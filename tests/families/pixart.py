"""PixArt-alpha, which is told the picture's size and has the old name of its class, and PixArt-Sigma."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from families.harness import STEPS, Case, generator, library
from families.stable_diffusion import autoencoder, decode
from families.vocabulary import t5_encoder, t5_tokenizer


def transformer(kind: str, sample_size: int) -> Any:
    """A sample size of 128 makes a network that is told the picture's size."""
    model = getattr(library("diffusers"), kind)(
        num_attention_heads=6,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=48,
        attention_bias=True,
        sample_size=sample_size,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=32,
        use_additional_conditions=sample_size == 128,
    )
    return model.eval()


def scheduler() -> Any:
    return library("diffusers").DPMSolverMultistepScheduler(timestep_spacing="trailing")


def make_alpha(folder: Path) -> Any:
    pipe = library("diffusers").PixArtAlphaPipeline(
        t5_tokenizer(), t5_encoder(), autoencoder(), transformer("Transformer2DModel", 128), scheduler()
    )
    pipe.save_pretrained(folder)
    return pipe


def make_sigma(folder: Path) -> Any:
    vae = autoencoder(scaling_factor=0.13025)
    pipe = library("diffusers").PixArtSigmaPipeline(
        t5_tokenizer(), t5_encoder(), vae, transformer("PixArtTransformer2DModel", 64), scheduler()
    )
    pipe.save_pretrained(folder)
    return pipe


def latents(pipe: Any, prompt: str, negative: str) -> Tensor:
    return pipe(
        prompt,
        negative,
        height=64,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=generator(),
        clean_caption=False,
        use_resolution_binning=False,
        output_type="latent",
    ).images


CASES = [
    Case("PixArt-alpha", make_alpha, latents, decode, sampler="dpmpp_2m"),
    Case("PixArt-Sigma", make_sigma, latents, decode, sampler="dpmpp_2m"),
]
