"""Qwen-Image-Edit and Edit-Plus: Qwen2.5-VL sees the pictures, and their latents are further frames.

diffusers' pipelines do not tell Qwen2.5-VL which tokens are those of pictures, without which transformers 5 gives them the
positions of words.  Here they are told, so that positions are those of training.  Their sizes of training, a million
pixels, are the pictures' own here.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from families import qwen_image
from families.flux_edit import image, picture, referring, save_pictures
from families.harness import STEPS, Case, generator, library
from families.language import QWEN_SPECIAL, WIDTH, lively, qwen_tokenizer, qwen_vl

SPECIAL = [*QWEN_SPECIAL, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
PAD = "<|image_pad|>"
EYES = {"depth": 2, "fullatt_block_indexes": [1], "hidden_size": 32}
SIZES = {"first": (96, 64), "second": (64, 128)}
PROCESSOR = {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 1280, "processor_class": "Qwen2_5_VLProcessor"}


class Processor:
    """What a Qwen2VLProcessor, which would need torchvision, makes of words and pictures."""

    def __init__(self, tokenizer: Any):
        home = "transformers.models.qwen2_vl.image_processing_pil_qwen2_vl"
        self.tokenizer, self.images = (
            tokenizer,
            library(home).Qwen2VLImageProcessorPil(**{name: PROCESSOR[name] for name in ("min_pixels", "max_pixels")}),
        )

    def __call__(self, text: list[str], images: Any, **options: Any) -> Any:
        made = self.images.preprocess(images if isinstance(images, list) else [images], return_tensors="pt")
        written = text[0]
        for grid in made["image_grid_thw"]:
            written = written.replace(PAD, "<>" * (int(grid.prod()) // 4), 1)
        words = self.tokenizer([written.replace("<>", PAD)], return_tensors="pt")
        return library("transformers").BatchFeature({**words, **made})


def make(several: bool, folder: Path) -> Any:
    diffusers = library("diffusers")
    kind = diffusers.QwenImageEditPlusPipeline if several else diffusers.QwenImageEditPipeline
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
        zero_cond_t=several,
    )
    vae = diffusers.AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1).eval()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    tokenizer = qwen_tokenizer(SPECIAL)
    pad = tokenizer.convert_tokens_to_ids(PAD)
    model = qwen_vl(EYES, image_token_id=pad, video_token_id=pad + 1)
    plain = model.forward

    def told(input_ids: Tensor, **inputs: Any) -> Any:
        return plain(input_ids=input_ids, mm_token_type_ids=(input_ids == pad).int(), **inputs)

    pipe = kind(scheduler, vae, model, tokenizer, None, lively(transformer))
    pipe.save_pretrained(folder)
    (folder / "processor").mkdir()
    (folder / "processor" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    pipe.processor, model.forward, pipe.pictures = Processor(tokenizer), told, folder.parent
    save_pictures(folder.parent, SIZES)
    return pipe


def latents(names: tuple[str, ...], pipe: Any, prompt: str, negative: str) -> Tensor:
    pictures = [picture(pipe, name) for name in names]
    several = "Plus" in type(pipe).__name__
    ratios = {each.width / each.height: each.size for each in pictures}

    def own(area: int, ratio: float) -> Any:
        return ratios[ratio] if several else (*ratios[ratio], None)

    with patch(f"{type(pipe).__module__}.calculate_dimensions", own):
        tokens = pipe(
            pictures if several else pictures[0],
            prompt,
            negative_prompt=negative,
            height=qwen_image.HEIGHT,
            width=64,
            num_inference_steps=STEPS,
            true_cfg_scale=3.0,
            generator=generator(),
            output_type="latent",
        ).images
    return pipe._unpack_latents(tokens, qwen_image.HEIGHT, 64, pipe.vae_scale_factor)[:, :, 0]


def seeing(nodes: dict[str, Any], names: tuple[str, ...]) -> None:
    """Both prompts are encoded with the pictures, and the positive one refers to them."""
    for side in ("positive", "negative"):
        nodes[side]["type"] = "EncodeTextSeeing"
        nodes[side]["inputs"] |= {"images": [{"from": f"{name}.image"} for name in names], "resize": "none"}
    nodes |= {name: image(name) for name in names}
    referring(nodes, names)


CASES = [
    Case(
        name,
        partial(make, len(pictures) > 1),
        partial(latents, pictures),
        qwen_image.decode,
        height=qwen_image.HEIGHT,
        amend=partial(seeing, names=pictures),
    )
    for name, pictures in (("Qwen-Image-Edit", ("first",)), ("Qwen-Image-Edit Plus", ("first", "second")))
]
