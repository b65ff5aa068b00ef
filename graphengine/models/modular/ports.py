"""The declared overlay: which block of which pipeline plays which role, and which of its inputs are typed ports.

diffusers cuts most pipelines alike: text becomes embeddings, pictures become latents, noise is removed, latents are
decoded.  This table says which ports the nodes of these four roles have for a pipeline; a port that is not in it is
refused with a sentence, and whatever else a block takes is reached by the generic node.  It is data, and a test holds it
to what diffusers ships.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphengine.errors import CheckpointError

INPUTS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "negative": ("negative_prompt",),
    "image": ("image",),
    "mask": ("mask_image",),
    "width": ("width",),
    "height": ("height",),
    "frames": ("num_frames",),
    "steps": ("num_inference_steps",),
    "seed": ("generator",),
    "count": ("num_images_per_prompt", "num_videos_per_prompt"),
    "strength": ("strength",),
    "guidance": ("guidance_scale",),
}
"""What diffusers calls a port."""
GUIDER = "guider"
"""Stands in the table for guidance that is no input of the block but a setting of the pipeline's guider."""
SUFFIX = "ModularPipeline"


@dataclass(frozen=True)
class Role:
    """A block with typed ports: its name in the pipeline, its ports, and what of its outputs a person gets.

    `always` are inputs that are never a person's to choose.
    """

    block: str
    ports: tuple[str, ...]
    gives: str = ""
    always: Mapping[str, str] = field(default_factory=dict)


def _roles(text: str, pictures: str, denoise: str, gives: str = "images") -> dict[str, Role]:
    """The four roles of a pipeline by their ports; one without a picture encoder has three."""
    roles = {
        "text": Role("text_encoder", tuple(text.split())),
        "pictures": Role("vae_encoder", tuple(pictures.split())),
        "denoise": Role("denoise", tuple(denoise.split())),
        "decode": Role("decode", (), gives, {"output_type": "np"}),
    }
    return {role: made for role, made in roles.items() if made.ports or made.gives}


GUIDED = "prompt negative"
PICTURE = "image width height seed"
DRAW = "width height steps seed count"
FILM = "width height frames steps seed count"
NONE = ""
OVERLAY: Mapping[str, Mapping[str, Role]] = {
    "Anima": _roles(GUIDED, PICTURE, f"{DRAW} strength guider"),
    "ErnieImage": _roles(GUIDED, NONE, f"{DRAW} guider"),
    "Flux": _roles("prompt", PICTURE, f"{DRAW} strength guidance"),
    "FluxKontext": _roles("prompt", "image seed", f"{DRAW} guidance"),
    "Flux2": _roles("prompt", PICTURE, f"{DRAW} guidance"),
    "Flux2Klein": _roles("prompt", PICTURE, DRAW),
    "Flux2KleinBase": _roles("prompt", PICTURE, f"{DRAW} guider"),
    "Flux3": _roles(GUIDED, "image", f"{DRAW} guider"),
    "Flux3Distilled": _roles("prompt", "image", DRAW),
    "Helios": _roles(GUIDED, PICTURE, f"{FILM} guider", "videos"),
    "HeliosPyramid": _roles(GUIDED, PICTURE, "width height frames seed count guider", "videos"),
    "HeliosPyramidDistilled": _roles(GUIDED, PICTURE, "width height frames seed count guider", "videos"),
    "HunyuanVideo15": _roles(GUIDED, "image width height", f"{FILM} guider", "videos"),
    "Ideogram4": _roles("prompt", NONE, DRAW),
    "Krea2": _roles(GUIDED, NONE, f"{DRAW} guider"),
    "Krea2Turbo": _roles("prompt", NONE, DRAW),
    "LTX": _roles(GUIDED, PICTURE, f"{FILM} guider", "videos"),
    "LTX2": _roles(GUIDED, PICTURE, f"{FILM} guider", "videos"),
    "LTX25": _roles(GUIDED, PICTURE, f"{FILM} guider", "videos"),
    "QwenImage": _roles(GUIDED, "image mask width height seed", f"{DRAW} strength guider"),
    "QwenImage21": _roles(f"{GUIDED} image", "image seed", f"{DRAW} guider"),
    "QwenImage21Turbo": _roles("prompt image", "image seed", DRAW),
    "QwenImageEdit": _roles(f"{GUIDED} image", "image mask seed", f"{DRAW} strength guider"),
    "QwenImageEditPlus": _roles(f"{GUIDED} image", "image seed", f"{DRAW} guider"),
    "QwenImageLayered": _roles(f"{GUIDED} image", "image seed", "steps seed count guider"),
    "StableDiffusion3": _roles(GUIDED, PICTURE, f"{DRAW} strength guider"),
    "StableDiffusionXL": _roles(GUIDED, "image mask width height seed", f"{DRAW} strength guider"),
    "Wan": _roles(GUIDED, NONE, f"{FILM} guider", "videos"),
    "Wan22": _roles(GUIDED, NONE, f"{FILM} guider", "videos"),
    "Wan22Image2Video": _roles(GUIDED, "image width height frames seed", f"{FILM} guider", "videos"),
    "Wan22Vace": _roles(GUIDED, NONE, f"{FILM} guider", "videos"),
    "WanImage2Video": _roles(GUIDED, "image width height frames seed", f"{FILM} guider", "videos"),
    "ZImage": _roles(GUIDED, PICTURE, f"{DRAW} strength guider"),
}
"""By the class of a pipeline, without `ModularPipeline`."""
UNTYPED = (
    "Cosmos3Distilled",
    "Cosmos3Omni",
    "Echo",
    "MiniMaxH3",
    "MiniMaxMusic3",
    "WanAnimate2",
    "WanAnimate2Distilled",
)
"""Pipelines whose blocks are cut otherwise: they want sounds, films or actions, for which there are no typed ports."""


def role(pipeline: str, name: str, name_of_folder: str) -> Role:
    """The block that plays a role in a pipeline.  Raises CheckpointError when none is declared."""
    declared = OVERLAY.get(pipeline.removesuffix(SUFFIX), {})
    if name in declared:
        return declared[name]
    has = f"it has ports for {', '.join(declared)}" if declared else "no typed ports are declared for it"
    raise CheckpointError(
        f"{name_of_folder} is a {pipeline}; {has}, none for {name}. ModularBlock runs every block of it."
    )


def named(role: Role, given: Mapping[str, Any], known: Iterable[str]) -> tuple[dict[str, Any], float | None]:
    """What is given by port, under the names that diffusers has for it, and the guider's scale; None is not given.

    Raises:
        ValueError: the block has no such port.
    """
    inputs, made, scale = set(known), dict[str, Any](role.always), None
    ports = ["guidance" if port == GUIDER else port for port in role.ports]
    for port, value in given.items():
        if value is None:
            continue
        if port not in ports:
            raise ValueError(f"the block {role.block} of this pipeline takes no {port}; it takes {', '.join(ports)}.")
        if port == "guidance" and GUIDER in role.ports:
            scale = value
        else:
            made[next(name for name in INPUTS[port] if name in inputs)] = value
    return made, scale
