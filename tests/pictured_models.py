"""Small IP-Adapters and CLIP vision models beside a small checkpoint, and both ways of drawing with them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from families import stable_diffusion, stable_diffusion_xl
from families.harness import NEGATIVE, PROMPT, SEED, STEPS, generator, library
from safetensors.torch import save_file

from graphengine import Engine
from graphengine.testing import settings

MAKERS = {"SD": partial(stable_diffusion.make, "epsilon"), "SDXL": stable_diffusion_xl.base}
SEES, HIDDEN, PIXELS = 24, 32, 16
"""Widths of what the vision model sees as a whole and in each place, and the side of its pictures."""
QUERIES, INNER = 5, 64


@dataclass(frozen=True)
class Show:
    """One picture that is shown: by which adapter, which picture, and how."""

    adapter: str = "plain"
    picture: int = 0
    strength: float = 0.8
    start: float = 0.0
    end: float = 1.0


def vision() -> Any:
    transformers = library("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=3,
        num_attention_heads=2,
        patch_size=4,
        image_size=PIXELS,
        projection_dim=SEES,
    )
    return transformers.CLIPVisionModelWithProjection(config).eval()


def projector(kind: str, width: int) -> dict[str, torch.Tensor]:
    """The tensors that make tokens of what is seen, in the names of the published files."""
    shapes: dict[str, tuple[int, ...]] = {}
    if kind == "plain":
        shapes = {"proj.weight": (4 * width, SEES), "proj.bias": (4 * width,)}
        shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    elif kind == "full":
        shapes = {"proj.0.weight": (HIDDEN, HIDDEN), "proj.0.bias": (HIDDEN,), "proj.2.weight": (width, HIDDEN)}
        shapes |= {"proj.2.bias": (width,), "proj.3.weight": (width,), "proj.3.bias": (width,)}
    else:
        shapes = {"latents": (1, QUERIES, INNER), "proj_in.weight": (INNER, HIDDEN), "proj_in.bias": (INNER,)}
        shapes |= {"proj_out.weight": (width, INNER), "proj_out.bias": (width,)}
        shapes |= {"norm_out.weight": (width,), "norm_out.bias": (width,)}
        for layer in range(4):
            for norm in ("0.norm1", "0.norm2", "1.0"):
                shapes |= {f"layers.{layer}.{norm}.{end}": (INNER,) for end in ("weight", "bias")}
            shapes |= {
                f"layers.{layer}.0.to_q.weight": (INNER, INNER),
                f"layers.{layer}.0.to_kv.weight": (2 * INNER, INNER),
            }
            shapes |= {f"layers.{layer}.0.to_out.weight": (INNER, INNER)}
            shapes |= {
                f"layers.{layer}.1.1.weight": (4 * INNER, INNER),
                f"layers.{layer}.1.3.weight": (INNER, 4 * INNER),
            }
    return {f"image_proj.{name}": drawn(shape) for name, shape in shapes.items()}


def drawn(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape) * (1 if len(shape) == 1 else shape[-1] ** -0.5)


def adapter(kind: str, unet: Any) -> dict[str, torch.Tensor]:
    """The tensors of an IP-Adapter for a U-Net."""
    made = projector(kind, unet.config.cross_attention_dim)
    layers = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(layers):
        layer = unet.get_submodule(name.removesuffix(".processor"))
        for part, own in (("k", layer.to_k), ("v", layer.to_v)):
            made[f"ip_adapter.{2 * number + 1}.to_{part}_ip.weight"] = drawn(tuple(own.weight.shape)) * 2
    return made


def pictures(folder: Path) -> list[PIL.Image.Image]:
    random = np.random.default_rng(2)
    made = [PIL.Image.fromarray(random.integers(0, 256, (h, w, 3), np.uint8)) for h, w in ((40, 64), (50, 23))]
    for number, picture in enumerate(made):
        picture.save(folder / f"picture{number}.png")
    return made


class Place:
    """A folder with a small checkpoint, a vision model, IP-Adapters and two pictures."""

    def __init__(self, folder: Path, family: str):
        torch.manual_seed(0)
        self.folder, self.family = folder, family
        self.pipe = MAKERS[family](folder / "model")
        self.vision = vision()
        self.vision.save_pretrained(folder / "clip_vision" / "small")
        (folder / "ipadapter").mkdir()
        self.adapters = {kind: adapter(kind, self.pipe.unet) for kind in ("plain", "full", "plus")}
        self.adapters["second"] = adapter("plain", self.pipe.unet)
        for kind, tensors in self.adapters.items():
            save_file(tensors, folder / "ipadapter" / f"{kind}.safetensors")
        self.pictures = pictures(folder)
        self.settings = settings(folder).model_copy(update={"model_folders": (folder,)})

    def theirs(self, *shows: Show) -> torch.Tensor:
        """What diffusers draws."""
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        parts = dict(self.pipe.components) | {
            "unet": copy.deepcopy(self.pipe.unet),
            "image_encoder": self.vision,
            "feature_extractor": CLIPImageProcessorPil(size=PIXELS, crop_size=PIXELS),
        }
        more = {"requires_safety_checker": False} if self.family == "SD" else {"add_watermarker": False}
        made = type(self.pipe)(**parts, **more)
        made.set_progress_bar_config(disable=True)
        files = [f"{show.adapter}.safetensors" for show in shows]
        made.load_ip_adapter(str(self.folder), "ipadapter", files, image_encoder_folder=None, local_files_only=True)
        made.set_ip_adapter_scale([show.strength for show in shows])
        with torch.no_grad():
            return made(
                PROMPT,
                negative_prompt=NEGATIVE,
                ip_adapter_image=[self.pictures[show.picture] for show in shows],
                height=64,
                width=64,
                num_inference_steps=STEPS,
                guidance_scale=3.0,
                generator=generator(),
                output_type="latent",
            ).images

    def nodes(
        self, *shows: Show, prompt: str = PROMPT, name: str = "sample", negative: tuple[Show, ...] = (), **sampler: Any
    ) -> dict:
        """A workflow's nodes, one sampler of them named `name`."""
        made: dict[str, Any] = {
            "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "model"}},
            "see": {"type": "LoadCLIPVision", "inputs": {"clip_vision": "small"}},
            "empty": {"type": "EmptyLatent", "inputs": {"vae": link("load.vae"), "width": 64, "height": 64}},
        }
        ends = {}
        for side, text, own in (("positive", prompt, shows), ("negative", NEGATIVE, negative)):
            made[f"{name}_{side}"] = {
                "type": "EncodeText",
                "inputs": {"encoder": link("load.text_encoder"), "text": text},
            }
            ends[side] = f"{name}_{side}.conditioning"
            for number, show in enumerate(own):
                file, picture = f"load_{show.adapter}", f"picture{show.picture}"
                made[file] = {"type": "LoadIPAdapter", "inputs": {"ip_adapter": f"{show.adapter}.safetensors"}}
                made[picture] = {"type": "LoadImage", "inputs": {"file": f"{picture}.png"}}
                made[f"{name}_{side}{number}"] = {
                    "type": "ApplyIPAdapter",
                    "inputs": {
                        "conditioning": link(ends[side]),
                        "ip_adapter": link(f"{file}.ip_adapter"),
                        "clip_vision": link("see.clip_vision"),
                        "image": link(f"{picture}.image"),
                        **{key: getattr(show, key) for key in ("strength", "start", "end")},
                    },
                }
                ends[side] = f"{name}_{side}{number}.conditioning"
        inputs = {
            "denoiser": link("load.denoiser"),
            "positive": link(ends["positive"]),
            "negative": link(ends["negative"]),
            "latent": link("empty.latent"),
            "seed": SEED,
            "steps": STEPS,
            "guidance": 3.0,
            "sampler": "euler",
            "schedule": "simple",
        }
        return made | {name: {"type": "Sampler", "inputs": inputs | sampler}}

    def run(self, nodes: dict, *names: str) -> list[torch.Tensor]:
        outputs = {name: link(f"{name}.latent") for name in names}
        with Engine(settings=self.settings, cached=False) as engine:
            made = engine.submit({"graphengine": 1, "name": "w", "nodes": nodes, "outputs": outputs}).result()
        return [made[name].samples for name in names]

    def ours(self, *shows: Show, **changes: Any) -> torch.Tensor:
        return self.run(self.nodes(*shows, **changes), "sample")[0]


def link(source: str) -> dict[str, str]:
    return {"from": source}
