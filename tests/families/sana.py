"""Sana with DPM-Solver++ on the flow's levels, and with Euler steps."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from torch import Tensor

from families.harness import STEPS, Case, generator, library
from families.vocabulary import WORDS

PIECES = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n", *string.ascii_letters, *string.punctuation]


def tokenizer() -> Any:
    """A GemmaTokenizer (BPE) of letters and of the words that the cases use."""
    vocabulary, merges = list(PIECES), []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            merged = word[:end]
            if merged not in vocabulary:
                vocabulary.append(merged)
                merges.append((word[: end - 1], word[end - 1]))
    return library("transformers").GemmaTokenizer(
        vocab={piece: index for index, piece in enumerate(vocabulary)}, merges=merges, add_bos_token=True
    )


def gemma() -> Any:
    transformers = library("transformers")
    config = transformers.Gemma2Config(
        vocab_size=256,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.5,
    )
    return transformers.Gemma2Model(config).eval()


def autoencoder() -> Any:
    """Six levels, as 32 times smaller wants."""
    widths = [8, 8, 8, 8, 8, 8]
    return (
        library("diffusers")
        .AutoencoderDC(
            latent_channels=4,
            attention_head_dim=4,
            encoder_block_types=["ResBlock"] * 5 + ["EfficientViTBlock"],
            decoder_block_types=["ResBlock"] * 5 + ["EfficientViTBlock"],
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            encoder_layers_per_block=[1] * 6,
            decoder_layers_per_block=[1] * 6,
            encoder_qkv_multiscales=[[]] * 5 + [[5]],
            decoder_qkv_multiscales=[[]] * 5 + [[5]],
            upsample_block_type="interpolate",
            downsample_block_type="Conv",
            scaling_factor=0.41407,
        )
        .eval()
    )


def make(scheduler: str, folder: Path, **settings: Any) -> Any:
    diffusers = library("diffusers")
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=4,
        cross_attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=16,
        sample_size=32,
    ).eval()
    solver = getattr(diffusers, scheduler)(**settings)
    pipe = diffusers.SanaPipeline(tokenizer(), gemma(), autoencoder(), transformer, solver)
    pipe.save_pretrained(folder)
    return pipe


def latents(pipe: Any, prompt: str, negative: str) -> Tensor:
    return pipe(
        prompt,
        negative,
        height=128,
        width=128,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=generator(),
        use_resolution_binning=False,
        output_type="latent",
    ).images


def decode(pipe: Any, samples: Tensor) -> Any:
    signal = pipe.vae.decode(samples / pipe.vae.config.scaling_factor).sample
    return (signal / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def make_solver(folder: Path) -> Any:
    settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return make("DPMSolverMultistepScheduler", folder, **settings)


def make_euler(folder: Path) -> Any:
    return make("FlowMatchEulerDiscreteScheduler", folder, shift=3.0)


CASES = [
    Case("Sana", make_solver, latents, decode, size=128, sampler="dpmpp_2m"),
    Case("Sana with Euler steps", make_euler, latents, decode, size=128, schedule="normal"),
]
