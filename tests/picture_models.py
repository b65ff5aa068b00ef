"""Small random models that read a picture beside the latent, and SDXL with its refiner, as diffusers' pipelines.

The posterior of their autoencoders has a variance of e^-30 everywhere: where a pipeline draws from it and an engine takes the mean,
both get the same.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families.harness import library
from families.stable_diffusion import TOKENIZER, autoencoder, clip, tokenizer
from families.stable_diffusion_xl import WIDTHS, parts
from families.stable_diffusion_xl import unet as xl_unet
from PIL import Image

CERTAIN = -30.0
"""Logarithm of a variance: the least that an AutoencoderKL knows."""
WIDTH, HEIGHT = 96, 64
SCALE, SCALE_XL = 0.18215, 0.13025


def scheduler(prediction: str) -> Any:
    return library("diffusers").DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing="trailing",
        prediction_type=prediction,
        clip_sample=False,
        steps_offset=1,
    )


def certain(scale: float) -> Any:
    made = autoencoder(scaling_factor=scale)
    made.quant_conv.weight.data[4:] = 0
    made.quant_conv.bias.data[4:] = CERTAIN
    return made


def unet(channels: int) -> Any:
    made = library("diffusers").UNet2DConditionModel(
        in_channels=channels,
        out_channels=4,
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
        layers_per_block=1,
    )
    return made.eval()


def inpainting(folder: Path, prediction: str = "epsilon", channels: int = 9) -> Any:
    """A U-Net that reads a mask and a masked picture; with 4 channels, none that does."""
    pipe = library("diffusers").StableDiffusionInpaintPipeline(
        certain(SCALE),
        clip(),
        tokenizer(),
        unet(channels),
        scheduler(prediction),
        None,
        None,
        None,
        requires_safety_checker=False,
    )
    return _saved(pipe, folder)


def instructed(folder: Path, channels: int = 8) -> Any:
    """A U-Net that reads a picture to edit."""
    pipe = library("diffusers").StableDiffusionInstructPix2PixPipeline(
        certain(SCALE),
        clip(),
        tokenizer(),
        unet(channels),
        scheduler("epsilon"),
        None,
        None,
        None,
        requires_safety_checker=False,
    )
    return _saved(pipe, folder)


def inpainting_xl(folder: Path) -> Any:
    """SDXL with a U-Net that reads a mask and a masked picture."""
    plain = xl_unet(sum(WIDTHS.values()), 6)
    config = {name: value for name, value in plain.config.items() if not name.startswith("_")}
    made = type(plain)(**(config | {"in_channels": 9})).eval()
    pipe = library("diffusers").StableDiffusionXLInpaintPipeline(
        unet=made, **(parts("epsilon", False) | {"vae": certain(SCALE_XL)})
    )
    pipe.save_pretrained(folder)
    return quiet(pipe)


def _saved(pipe: Any, folder: Path) -> Any:
    pipe.save_pretrained(folder)
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    return quiet(pipe)


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pictures(folder: Path) -> tuple[Image.Image, Image.Image]:
    """A picture and a mask, saved as `picture.png` and `mask.png`; the mask's edges lie inside cells, some of it is grey."""
    random = np.random.default_rng(3)
    picture = Image.fromarray(random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    levels = np.zeros((HEIGHT, WIDTH), np.uint8)
    levels[13:50, 21:77] = 255
    levels[30:40, 80:92] = 128
    levels[0:12, 0:20] = 127
    mask = Image.fromarray(levels)
    picture.save(folder / "picture.png")
    mask.save(folder / "mask.png")
    return picture, mask


def seeded(make: Any, *args: Any, **options: Any) -> Any:
    """What `make` makes, the same every time."""
    torch.manual_seed(0)
    return make(*args, **options)
