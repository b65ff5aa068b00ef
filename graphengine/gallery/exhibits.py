"""What the gallery shows, in the order of an introduction to diffusion models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Exhibit:
    """A workflow, what it shows, the inputs it is shown with, and the function that measures it (`figures.measure`)."""

    workflow: str
    section: str
    says: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("image",)
    figures: str = ""

    @property
    def command(self) -> str:
        given = " ".join(f"--{name.replace('_', '-')} {_shown(value)}" for name, value in self.inputs.items())
        return f"graphengine run {self.workflow} {given}".rstrip()


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) and " " in value else str(value)


EXHIBITS = (
    Exhibit(
        "forward_process",
        "The forward process",
        "Data becomes noise: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, in one jump or in t small steps.",
        outputs=("image", "plot", "snr"),
        figures="forward_process",
    ),
    Exhibit(
        "reverse_process",
        "The reverse process",
        "What a sampler thinks of the clean picture after each step; also as an animation.",
        figures="reverse_process",
    ),
    Exhibit(
        "train_denoiser",
        "Training on noise prediction",
        "A network that starts from random weights learns to find the noise; the loss is drawn while it falls.",
        figures="train_denoiser",
    ),
    Exhibit(
        "latent_space",
        "The autoencoder and the latent space",
        "What the autoencoder keeps, what the channels of a latent look like, and the way from one latent to another.",
        figures="latent_space",
    ),
    Exhibit(
        "unet_anatomy",
        "The U-Net",
        "What each level holds while it draws, and what comes of it without the skip connections of one level.",
        figures="unet_anatomy",
    ),
    Exhibit(
        "attention_maps",
        "Cross-attention",
        "Where the network looks for each word.",
        figures="attention_maps",
    ),
    Exhibit(
        "text_anatomy",
        "The text encoder",
        "Tokens and their ids, what is cut, and which prompts are alike to the network.",
        figures="text_anatomy",
    ),
    Exhibit("text_to_image", "Text to image", "A prompt becomes a picture.", figures="text_to_image"),
    Exhibit(
        "scheduler_comparison",
        "Samplers and numbers of steps",
        "The same noise, samplers in rows, 1, 2, 4 and 8 steps in columns: how often it is right, and how long it takes.",
        outputs=("image", "plot"),
        figures="scheduler_comparison",
    ),
    Exhibit(
        "guidance",
        "Guidance",
        "How strongly the prompt pulls, on all the way and on a part of it.",
        outputs=("image", "plot"),
        figures="guidance",
    ),
    Exhibit(
        "prompt_weighting",
        "Weights of words",
        "`(word:1.3)` pulls more, `(word:0.5)` less.",
        figures="prompt_weighting",
    ),
    Exhibit(
        "image_to_image",
        "Image to image",
        "A picture is noised to a strength and drawn again by another prompt.",
        {"prompt": "a yellow heart on a black background", "strength": 0.6},
        figures="image_to_image",
    ),
    Exhibit(
        "inpaint", "Inpainting", "What lies in the mask is drawn anew; every pixel outside stays.", figures="inpaint"
    ),
    Exhibit("outpaint", "Outpainting", "A picture goes on beyond its sides.", figures="outpaint"),
    Exhibit(
        "edit_by_inversion",
        "Editing by inversion",
        "The noise that a picture comes from is found, and another prompt is drawn from it.",
        figures="edit_by_inversion",
    ),
    Exhibit(
        "null_text",
        "Null-text inversion",
        "Guidance leads away from the inverted picture; with a negative prompt that is fitted to it, it comes back.",
        outputs=("compared",),
        figures="null_text",
    ),
    Exhibit(
        "instruct_edit",
        "Editing by instruction",
        "A network that was trained on edits does what it is told.",
        figures="instruct_edit",
    ),
    Exhibit(
        "attend_and_excite",
        "Attend and excite",
        "A second thing is asked for in pictures that are kept for the most part; without it, it is often overlooked.",
        figures="attend_and_excite",
    ),
    Exhibit(
        "distill",
        "Distillation",
        "A student learns to land in one step where its teacher, with guidance, lands in two; the loss is drawn while it falls.",
        figures="distill",
    ),
    Exhibit(
        "few_step",
        "Few-step sampling by distillation",
        "Where things are is left open, and has to be settled on: a student does in 4 calls what its teacher does in 40.",
        figures="few_step",
    ),
    Exhibit(
        "diffusion_transformer",
        "A diffusion transformer",
        "A transformer in place of the U-Net: the same latents, prompts and samplers.",
        figures="diffusion_transformer",
    ),
    Exhibit(
        "faithfulness",
        "Faithfulness to the prompt",
        "Several pictures, read blindly, and the most faithful kept.",
        outputs=("all",),
        figures="faithfulness",
    ),
)
