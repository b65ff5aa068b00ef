"""Small checkpoints with networks that steer them, and both ways of drawing: diffusers' pipelines and the nodes."""

import inspect
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from families import stable_diffusion, stable_diffusion_xl
from families.harness import NEGATIVE, PROMPT, SEED, STEPS, generator, library

from graphengine import Engine
from graphengine.testing import settings

SIZE = 64
NAMES = {"SD": "StableDiffusion", "SDXL": "StableDiffusionXL"}
MAKERS = {"SD": partial(stable_diffusion.make, "epsilon"), "SDXL": stable_diffusion_xl.base}


@dataclass(frozen=True)
class Use:
    """One application: which network, which picture, and how."""

    network: int = 0
    hint: int = 0
    strength: float = 0.8
    start: float = 0.0
    end: float = 1.0
    unwanted: bool = True


def known(kind: Any) -> list[str]:
    """The arguments that a class is made with."""
    return list(inspect.signature(kind.__init__).parameters)


def awake(network: Any) -> Any:
    """A network whose zero convolutions are not zero, and whose hint tells."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not parameter.any():
                parameter.normal_(0, 0.3)
            elif name.startswith("controlnet_cond_embedding") and name.endswith("weight"):
                parameter.mul_(3)
    return network.eval()


def control_nets(unet: Any, **changes: Any) -> list[Any]:
    """Two of them."""
    kind = library("diffusers").ControlNetModel
    made = [awake(kind.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16, 16))) for _ in range(2)]
    for network in made:
        network.register_to_config(**changes)
    return made


def adapters(family: str, unet: Any) -> list[Any]:
    kind = {"SD": "full_adapter", "SDXL": "full_adapter_xl"}[family]
    make = library("diffusers").T2IAdapter
    channels, pieces = list(unet.config.block_out_channels), {"SD": 8, "SDXL": 16}[family]
    made = [make(3, channels, 1, pieces, kind).eval() for _ in range(2)]
    for network in made:
        for parameter in network.parameters():
            parameter.data.mul_(3)
    return made


def hints(folder: Path) -> list[PIL.Image.Image]:
    random = np.random.default_rng(1)
    fields = [PIL.Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8)) for _ in range(2)]
    made = [image.resize((SIZE, SIZE), PIL.Image.Resampling.NEAREST) for image in fields]
    for number, image in enumerate(made):
        image.save(folder / f"hint{number}.png")
    return made


class Place:
    """A folder with a small checkpoint, two networks and two hints."""

    def __init__(self, folder: Path, family: str, networks: Any = control_nets):
        torch.manual_seed(0)
        self.folder, self.family = folder, family
        self.pipe = MAKERS[family](folder / "model")
        self.networks = networks(self.pipe.unet)
        self.hints = hints(folder)
        for number, network in enumerate(self.networks):
            network.save_pretrained(folder / "controlnet" / f"net{number}")
        self.settings = settings(folder).model_copy(update={"model_folders": (folder,)})

    def theirs(self, *uses: Use, pipeline: str = "", **changes: Any) -> torch.Tensor:
        """What diffusers draws."""
        diffusers = library("diffusers")
        kind = getattr(diffusers, pipeline or f"{NAMES[self.family]}ControlNetPipeline")
        adapts, one = "Adapter" in kind.__name__, len(uses) == 1
        networks = [self.networks[use.network] for use in uses]
        several = diffusers.MultiAdapter if adapts else list
        parts = {**self.pipe.components, "requires_safety_checker": False, "add_watermarker": False}
        parts = {name: part for name, part in parts.items() if name in known(kind)}
        made = kind(**parts, **{"adapter" if adapts else "controlnet": networks[0] if one else several(networks)})
        made.set_progress_bar_config(disable=True)

        def each(values: list[Any]) -> Any:
            return values[0] if one else values

        scale = f"{'adapter' if adapts else 'controlnet'}_conditioning_scale"
        own: dict[str, Any] = {scale: each([use.strength for use in uses])}
        if not adapts:
            own["control_guidance_start"] = each([use.start for use in uses])
            own["control_guidance_end"] = each([use.end for use in uses])
        with torch.no_grad():
            return made(
                prompt=PROMPT,
                negative_prompt=NEGATIVE,
                image=each([self.hints[use.hint] for use in uses]),
                height=SIZE,
                width=SIZE,
                num_inference_steps=STEPS,
                guidance_scale=3.0,
                generator=generator(),
                output_type="latent",
                **own,
                **changes,
            ).images

    def nodes(self, *uses: Use, prompt: str = PROMPT, name: str = "sample", negative: tuple[Use, ...] = ()) -> dict:
        """A workflow's nodes, one sampler of them named `name`."""
        made: dict[str, Any] = {
            "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "model"}},
            "empty": {"type": "EmptyLatent", "inputs": {"vae": link("load.vae"), "width": SIZE, "height": SIZE}},
        }
        ends = {}
        for side, text, own in (("positive", prompt, uses), ("negative", NEGATIVE, negative)):
            encode = {"encoder": link("load.text_encoder"), "text": text}
            made[f"{name}_{side}"] = {"type": "EncodeText", "inputs": encode}
            ends[side] = f"{name}_{side}.conditioning"
            for number, use in enumerate(own):
                net, hint, apply = f"net{use.network}", f"hint{use.hint}", f"{name}_{side}_{number}"
                made[net] = {"type": "LoadControlNet", "inputs": {"control_net": net}}
                made[hint] = {"type": "LoadImage", "inputs": {"file": f"{hint}.png"}}
                values = {key: getattr(use, key) for key in ("strength", "start", "end", "unwanted")}
                made[apply] = {
                    "type": "ApplyControlNet",
                    "inputs": {
                        "conditioning": link(ends[side]),
                        "control_net": link(f"{net}.control_net"),
                        "image": link(f"{hint}.image"),
                        **values,
                    },
                }
                ends[side] = f"{apply}.conditioning"
        made[name] = {
            "type": "Sampler",
            "inputs": {
                "denoiser": link("load.denoiser"),
                "positive": link(ends["positive"]),
                "negative": link(ends["negative"]),
                "latent": link("empty.latent"),
                "seed": SEED,
                "steps": STEPS,
                "guidance": 3.0,
                "sampler": "euler",
                "schedule": "simple",
            },
        }
        return made

    def run(self, nodes: dict, *names: str) -> list[torch.Tensor]:
        outputs = {name: link(f"{name}.latent") for name in names}
        with Engine(settings=self.settings, cached=False) as engine:
            made = engine.submit({"graphengine": 1, "name": "w", "nodes": nodes, "outputs": outputs}).result()
        return [made[name].samples for name in names]

    def ours(self, *uses: Use, **changes: Any) -> torch.Tensor:
        return self.run(self.nodes(*uses, **changes), "sample")[0]


def link(source: str) -> dict[str, str]:
    return {"from": source}
