"""FLUX.2 with reference pictures: klein with two, which are cropped, and dev with one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from families import flux_2
from families.flux_edit import picture, referring, save_pictures
from families.harness import STEPS, Case, generator

SIZES = {"first": (90, 70), "second": (64, 101)}


def make(told: bool, folder: Path) -> Any:
    pipe = flux_2.make(folder, told=told)
    pipe.vae.quant_conv.weight.data *= 20  # pictures that differ among the many words
    pipe.vae.save_pretrained(folder / "vae")
    save_pictures(folder.parent, SIZES)
    pipe.pictures = folder.parent
    return pipe


def latents(names: tuple[str, ...], pipe: Any, prompt: str, negative: str) -> Tensor:
    told = pipe.transformer.config.guidance_embeds
    unwanted = {} if told else {"negative_prompt_embeds": pipe.encode_prompt(negative)[0]}
    made = pipe(
        image=[picture(pipe, name) for name in names],
        prompt=prompt,
        height=flux_2.HEIGHT,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=generator(),
        output_type="latent",
        **unwanted,
    ).images
    if told:
        return made.transpose(1, 2).unflatten(2, (flux_2.HEIGHT // 16, 4))
    mean, deviation = flux_2.statistics(pipe.vae)
    return (pipe._patchify_latents(made) - mean) / deviation


CASES = [
    Case(
        f"FLUX.2 {name} with references",
        partial(make, told),
        partial(latents, names),
        flux_2.decode,
        height=flux_2.HEIGHT,
        negative=not told,
        amend=partial(referring, names=names, resize="as_trained"),
    )
    for name, told, names in (("klein", False, ("first", "second")), ("dev", True, ("second",)))
]
