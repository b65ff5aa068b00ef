"""Compares a family with diffusers: the same weights, seed and steps, float32, by way of the nodes.

Each module beside this one holds `CASES`; `python tests/families/table.py` prints what `compare` finds of all of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphengine import Engine
from graphengine.testing import settings

PROMPT, NEGATIVE, OTHER = "a large red circle on a blue background", "a small star", "a green square on the left"
SEED, STEPS = 7, 4
LIMIT, CONTROL = 1e-5, 1e-3
"""The greatest relative error that counts as equal, and the least that a changed prompt must make."""


@dataclass(frozen=True)
class Case:
    """One checkpoint of a family.

    `make(folder)` saves a small random pipeline in the diffusers layout into `folder` and returns it (float32,
    evaluation mode); `latents(pipe, prompt, negative)` runs it with SEED and STEPS, and gives its final latents `[1, C, h, w]`
    as the Sampler node has them: scaled and unpacked.  `decode(pipe, latents)` gives pixels `[1, H, W, 3]` in 0..1.
    """

    name: str
    make: Callable[[Path], Any]
    latents: Callable[[Any, str, str], Tensor]
    decode: Callable[[Any, Tensor], np.ndarray]
    size: int = 64
    height: int | None = None
    """Of the picture, where it is no square of `size`."""
    unwanted: str = NEGATIVE
    sampler: str = "euler"
    schedule: str = "simple"
    guidance: float = 3.0
    negative: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    """More inputs of the Sampler node."""
    amend: Callable[[dict[str, Any]], None] | None = None
    """Changes the nodes, where pictures are read; `make` saves those beside its folder."""


@dataclass(frozen=True)
class Found:
    """Relative errors of the latents and of the picture, and the least that a control made of the latents."""

    name: str
    latents: float
    picture: float
    control: float

    @property
    def equal(self) -> bool:
        return self.latents < LIMIT and self.picture < LIMIT and self.control > CONTROL


def library(name: str) -> Any:
    """diffusers or transformers, imported when a case is made and not when tests are collected."""
    return importlib.import_module(name)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def compare(case: Case, folder: Path) -> Found:
    """Make the checkpoint in `folder / "model"` and run it both ways, with controls that must not be equal."""
    torch.manual_seed(0)
    pipe = case.make(folder / "model")
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        theirs = case.latents(pipe, PROMPT, case.unwanted).float()
        pixels = case.decode(pipe, theirs)
    ours, picture = run(case, folder, PROMPT)
    controls = [error(run(case, folder, OTHER)[0], theirs), error(run(case, folder, PROMPT, STEPS + 1)[0], theirs)]
    return Found(case.name, error(ours, theirs), error(torch.tensor(picture), torch.tensor(pixels)), min(controls))


def run(case: Case, folder: Path, prompt: str, steps: int = STEPS) -> tuple[Tensor, np.ndarray]:
    """Latents and pixels by the nodes, which name no family."""
    sampler = {
        "denoiser": {"from": "load.denoiser"},
        "positive": {"from": "positive.conditioning"},
        "latent": {"from": "empty.latent"},
        "seed": SEED,
        "steps": steps,
        "guidance": case.guidance,
        "sampler": case.sampler,
        "schedule": case.schedule,
        **({"negative": {"from": "negative.conditioning"}} if case.negative else {}),
        **case.extra,
    }
    encode = {"encoder": {"from": "load.text_encoder"}}
    nodes = {
        "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "model"}},
        "positive": {"type": "EncodeText", "inputs": encode | {"text": prompt}},
        "negative": {"type": "EncodeText", "inputs": encode | {"text": case.unwanted}},
        "empty": {
            "type": "EmptyLatent",
            "inputs": {"vae": {"from": "load.vae"}, "width": case.size, "height": case.height or case.size},
        },
        "sample": {"type": "Sampler", "inputs": sampler},
        "decode": {
            "type": "VAEDecode",
            "inputs": {"vae": {"from": "load.vae"}, "latent": {"from": "sample.latent"}},
        },
    }
    if case.amend:
        case.amend(nodes)
    outputs = {"latent": {"from": "sample.latent"}, "image": {"from": "decode.image"}}
    workflow = {"graphengine": 1, "name": "family", "nodes": nodes, "outputs": outputs}
    own = settings(folder).model_copy(update={"model_folders": (folder,)})
    with Engine(settings=own, cached=False) as engine:
        made = engine.submit(workflow).result()
    return made["latent"].samples, made["image"].pixels


def error(ours: Tensor, theirs: Tensor) -> float:
    """The length of the difference by the length of what is right."""
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())
