"""Stable Diffusion 1.x and 2.x, epsilon and v."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

import graphengine
from families.harness import STEPS, Case, generator, library

TOKENIZER = Path(graphengine.__file__).parent / "checkpoints" / "tiny" / "tokenizer"
VOCABULARY = 700
"""More than the tokenizer has."""


def tokenizer() -> Any:
    return library("transformers").CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)


def clip(width: int = 32, projects: bool = False) -> Any:
    """A small CLIP text encoder that ends where the tokenizer says."""
    transformers, words = library("transformers"), tokenizer()
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=words.model_max_length,
        projection_dim=width,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    kind = transformers.CLIPTextModelWithProjection if projects else transformers.CLIPTextModel
    return kind(config).eval()


def autoencoder(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [16, 16, 16, 16],
        "norm_num_groups": 8,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    }
    return library("diffusers").AutoencoderKL(**(values | changes)).eval()


def make(prediction: str, folder: Path) -> Any:
    diffusers = library("diffusers")
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
        layers_per_block=1,
    ).eval()
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing="trailing",
        prediction_type=prediction,
        clip_sample=False,
        steps_offset=1,
    )
    pipe = diffusers.StableDiffusionPipeline(
        autoencoder(), clip(), tokenizer(), unet, scheduler, None, None, None, requires_safety_checker=False
    )
    pipe.save_pretrained(folder)
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    return pipe


def latents(pipe: Any, prompt: str, negative: str) -> Tensor:
    return pipe(
        prompt,
        negative_prompt=negative,
        height=64,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=generator(),
        output_type="latent",
    ).images


def decode(pipe: Any, samples: Tensor) -> Any:
    """Pixels of an AutoencoderKL with scaling and shift."""
    config = pipe.vae.config
    signal = pipe.vae.decode(samples / config.scaling_factor + (config.shift_factor or 0.0)).sample
    return (signal / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


CASES = [
    Case("SD 1.x epsilon", lambda folder: make("epsilon", folder), latents, decode),
    Case("SD 2.x v", lambda folder: make("v_prediction", folder), latents, decode),
]
