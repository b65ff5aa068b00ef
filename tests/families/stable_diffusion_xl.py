"""SDXL, epsilon and v, with a negative prompt and with none, and its refiner."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from families.harness import STEPS, Case, generator, library
from families.stable_diffusion import autoencoder, clip, decode, tokenizer

WIDTHS = {"text_encoder": 32, "text_encoder_2": 48}
"""Of the features of the text encoders; the second one's is the pooled prompt's too."""
EACH = 8
"""Values that a number about the picture becomes."""


def unet(features: int, numbers: int) -> Any:
    """A small U-Net that reads features of a width and so many numbers about the picture."""
    made = library("diffusers").UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=features,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=EACH,
        projection_class_embeddings_input_dim=WIDTHS["text_encoder_2"] + EACH * numbers,
        norm_num_groups=8,
        layers_per_block=1,
    )
    return made.eval()


def parts(prediction: str, only_second: bool) -> dict[str, Any]:
    """Everything of a pipeline but its U-Net; the second tokenizer pads with another word, as the published one does."""
    second = tokenizer()
    second.pad_token = "!"
    return {
        "vae": autoencoder(scaling_factor=0.13025),
        "text_encoder": None if only_second else clip(WIDTHS["text_encoder"]),
        "text_encoder_2": clip(WIDTHS["text_encoder_2"], projects=True),
        "tokenizer": None if only_second else tokenizer(),
        "tokenizer_2": second,
        "scheduler": library("diffusers").DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            timestep_spacing="trailing",
            prediction_type=prediction,
            clip_sample=False,
            steps_offset=1,
        ),
        "add_watermarker": False,
    }


def base(folder: Path, prediction: str = "epsilon") -> Any:
    made = library("diffusers").StableDiffusionXLPipeline(
        unet=unet(sum(WIDTHS.values()), 6), **parts(prediction, False)
    )
    made.save_pretrained(folder)
    return made


def refiner(folder: Path) -> Any:
    made = library("diffusers").StableDiffusionXLImg2ImgPipeline(
        unet=unet(WIDTHS["text_encoder_2"], 5),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        **parts("epsilon", True),
    )
    made.save_pretrained(folder)
    return made


def latents(pipe: Any, prompt: str, negative: str, height: int = 64) -> Tensor:
    return pipe(
        prompt,
        negative_prompt=negative or None,
        height=height,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=generator(),
        output_type="latent",
    ).images


def refined(pipe: Any, prompt: str, negative: str) -> Tensor:
    """All steps from pure noise: the pipeline noises no picture where it is given latents."""
    noise = torch.randn(1, 4, 8, 8, generator=generator())
    return pipe(
        prompt,
        image=torch.zeros_like(noise),
        latents=noise,
        strength=1.0,
        negative_prompt=negative or None,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        output_type="latent",
    ).images


CASES = [
    Case("SDXL epsilon", base, latents, decode),
    Case("SDXL v", partial(base, prediction="v_prediction"), partial(latents, height=96), decode, height=96),
    Case("SDXL nothing unwanted", base, latents, decode, unwanted=""),
    Case("SDXL refiner", refiner, refined, decode),
    Case("SDXL refiner nothing unwanted", refiner, refined, decode, unwanted=""),
]
