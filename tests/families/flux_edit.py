"""FLUX.1 with pictures: Fill, Canny and Depth, which read them beside the latent, and Kontext, which refers to them."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from families.flux import HEIGHT, WIDTH, flux_autoencoder
from families.harness import STEPS, Case, generator, library
from families.stable_diffusion import TOKENIZER, clip, decode, tokenizer
from families.vocabulary import t5_encoder, t5_tokenizer

CERTAIN = -30.0
"""Logarithm of a variance: the least that an AutoencoderKL knows; what is drawn from it is its mean."""
REFERENCE = (112, 80)


def save_pictures(folder: Path, names: dict[str, tuple[int, int]]) -> None:
    """Pictures of noise in blocks, by name and size."""
    random = np.random.default_rng(5)
    for name, size in names.items():
        blocks = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8))
        blocks.resize(size, Image.Resampling.BICUBIC).save(folder / f"{name}.png")


def save_mask(folder: Path, size: tuple[int, int]) -> None:
    """A mask whose edges lie inside cells, some of it grey."""
    levels = np.zeros((size[1], size[0]), np.uint8)
    levels[13:50, 21:77] = 255
    levels[30:40, 80:92] = 128
    levels[0:12, 0:20] = 127
    Image.fromarray(levels).save(folder / "mask.png")


def picture(pipe: Any, name: str) -> Image.Image:
    return Image.open(pipe.pictures / f"{name}.png")


def make(pipeline: str, channels: int, folder: Path, **more: Any) -> Any:
    diffusers = library("diffusers")
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=channels,
        out_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    ).eval()
    vae = flux_autoencoder()
    vae.encoder.conv_out.weight.data[16:] = 0
    vae.encoder.conv_out.bias.data[16:] = CERTAIN
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=8, max_image_seq_len=64
    )
    parts = (scheduler, vae, clip(), tokenizer(), t5_encoder(), t5_tokenizer(), transformer)
    pipe = getattr(diffusers, pipeline)(*parts, **more)
    pipe.save_pretrained(folder)
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    save_pictures(folder.parent, {"picture": (WIDTH, HEIGHT), "reference": REFERENCE})
    save_mask(folder.parent, (WIDTH, HEIGHT))
    pipe.pictures = folder.parent
    return pipe


def called(pipe: Any, prompt: str, **inputs: Any) -> Tensor:
    """Noise is given, as some pipelines draw more of it than that of the latents."""
    noise = library("torch").randn((1, 16, HEIGHT // 8, WIDTH // 8), generator=generator())
    tokens = pipe(
        prompt=prompt,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        latents=pipe._pack_latents(noise, 1, 16, HEIGHT // 8, WIDTH // 8),
        output_type="latent",
        **inputs,
    ).images
    return pipe._unpack_latents(tokens, HEIGHT, WIDTH, pipe.vae_scale_factor)


def filled(pipe: Any, prompt: str, negative: str) -> Tensor:
    return called(pipe, prompt, image=picture(pipe, "picture"), mask_image=picture(pipe, "mask"))


def followed(pipe: Any, prompt: str, negative: str) -> Tensor:
    return called(pipe, prompt, control_image=picture(pipe, "picture"))


def referred(resize: bool, pipe: Any, prompt: str, negative: str) -> Tensor:
    image = picture(pipe, "reference")
    return called(pipe, prompt, image=image, max_area=WIDTH * HEIGHT, _auto_resize=resize)


def image(name: str) -> dict[str, Any]:
    return {"type": "LoadImage", "inputs": {"file": f"{name}.png"}}


def filling(nodes: dict[str, Any]) -> None:
    nodes |= {"picture": image("picture"), "mask_picture": image("mask")}
    inputs = {"image": {"from": "mask_picture.image"}, "channel": "luminance"}
    nodes["mask"] = {"type": "ChannelMask", "inputs": inputs}
    inputs = {"image": {"from": "picture.image"}, "mask": {"from": "mask.mask"}, "vae": {"from": "load.vae"}}
    nodes["empty"] = {"type": "InpaintLatent", "inputs": inputs}


def following(nodes: dict[str, Any]) -> None:
    nodes["picture"] = image("picture")
    inputs = {"image": {"from": "picture.image"}, "vae": {"from": "load.vae"}}
    nodes["empty"] = {"type": "InstructLatent", "inputs": inputs}


def referring(nodes: dict[str, Any], names: tuple[str, ...] = ("reference",), resize: str = "none") -> None:
    """The positive prompt refers to pictures."""
    end = nodes["sample"]["inputs"]["positive"]
    for name in names:
        nodes[name] = image(name)
        inputs = {"conditioning": end, "vae": {"from": "load.vae"}, "image": {"from": f"{name}.image"}}
        nodes[f"refer_{name}"] = {"type": "ReferencePicture", "inputs": inputs | {"resize": resize}}
        end = {"from": f"refer_{name}.conditioning"}
    nodes["sample"]["inputs"]["positive"] = end


def case(name: str, pipeline: str, channels: int, latents: Any, amend: Any) -> Case:
    made = partial(make, pipeline, channels)
    return Case(f"FLUX.1 {name}", made, latents, decode, size=WIDTH, height=HEIGHT, negative=False, amend=amend)


KONTEXT = partial(case, pipeline="FluxKontextPipeline", channels=64)
CASES = [
    case("Fill", "FluxFillPipeline", 384, filled, filling),
    case("Canny", "FluxControlPipeline", 128, followed, following),
    KONTEXT("Kontext", latents=partial(referred, False), amend=referring),
]
AS_TRAINED = KONTEXT("Kontext 1024", latents=partial(referred, True), amend=partial(referring, resize="as_trained"))
"""With the reference at the size of training: a million pixels, which take a while."""
