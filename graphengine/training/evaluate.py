"""Measuring a model by what its pictures show: held-out prompts in, the checker's readings out.

A prompt is held out when no scene of the training set has its caption.  Prompts are sampled in batches, but each picture
has its own seed, so the figures do not depend on how they are batched.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table

from graphengine.fingerprint import remembered_digest
from graphengine.models import alone, library
from graphengine.models import checkpoint as checkpoints
from graphengine.models.companion import companion
from graphengine.settings import Settings
from graphengine.training.scenes import Scene, caption, random_scene
from graphengine.values import VAE, Denoiser, Patch, TextEncoder

TRAINING_SEED, TRAINING_SCENES = 11, 40_000
BATCH = 50
KINDS = {"one thing": (0.0, 0.0), "two things": (1.0, 0.0), "patterned ground": (0.0, 1.0)}
"""Kinds of prompts: shares of scenes with two things, and of grounds that are not plain."""
Scores = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Evaluation:
    """What is measured: the model, how many prompts of each kind, and how pictures are sampled."""

    model: str = "tiny"
    count: int = 200
    steps: int = 20
    guidance: float = 3.0
    seed: int = 20_000
    sampler: str = "dpmpp_2m"
    lora: str = ""
    """Names of files, separated by commas: each goes over those before it."""


def training_scenes(count: int = TRAINING_SCENES) -> tuple[list[Scene], np.random.Generator]:
    """The scenes that the denoiser is trained on, and the generator that goes on to draw them."""
    random = np.random.default_rng(TRAINING_SEED)
    return [random_scene(random) for _ in range(count)], random


@lru_cache(maxsize=1)
def _seen() -> frozenset[str]:
    return frozenset(caption(scene) for scene in training_scenes()[0])


def held_out(kind: str, count: int, seed: int) -> list[Scene]:
    """Scenes of a kind whose captions are not in the training set."""
    random = np.random.default_rng(seed)
    found: list[Scene] = []
    while len(found) < count:
        scene = random_scene(random, *KINDS[kind])
        if caption(scene) not in _seen():
            found.append(scene)
    return found


def evaluate(
    evaluation: Evaluation, settings: Settings, sheet: Path | None = None, quiet: bool = False
) -> dict[str, Scores]:
    """Right and total per fact, for each kind of prompt; `sheet` takes the pictures as a contact sheet.

    Raises:
        CheckpointError: the model cannot be loaded.
    """
    from graphengine.models.memory import ModelMemory
    from graphengine.training.checker import score

    handles = handles_of(evaluation, settings)
    memory = ModelMemory(settings)
    batches = [
        (kind, scenes[i : i + BATCH], i)
        for kind in KINDS
        for scenes in [held_out(kind, evaluation.count, evaluation.seed)]
        for i in range(0, evaluation.count, BATCH)
    ]
    scenes: dict[str, list[Scene]] = {kind: [] for kind in KINDS}
    pictures: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for kind, batch, start in track(batches, f"measuring {evaluation.model}", disable=quiet):
        scenes[kind] += batch
        captions = [caption(scene) for scene in batch]
        pictures[kind] += list(draw_prompts(memory, handles, captions, evaluation, start))
    if sheet:
        _sheet({kind: pictures[kind][:24] for kind in KINDS}).save(sheet)
    return {kind: score(scenes[kind], pictures[kind]) for kind in KINDS}


def handles_of(evaluation: Evaluation, settings: Settings) -> tuple[Denoiser, TextEncoder, VAE]:
    """A checkpoint's three parts, or a denoiser and those that it was trained beside; with a LoRA where one is named.

    Raises:
        CheckpointError: something cannot be found.
    """
    path = library.find(evaluation.model, "checkpoints", settings)
    beside = companion(path, settings) if path else None
    denoiser, encoder, vae = (beside or checkpoints.find(evaluation.model, settings)).handles()
    if beside:
        found = alone.find(evaluation.model, "denoiser", settings)
        assert isinstance(found, Denoiser)
        denoiser = found
    for name in filter(None, evaluation.lora.split(",")):
        file = checkpoints.find_file(name.strip(), "loras", settings)
        sums = remembered_digest(file, settings.cache_folder)
        denoiser = denoiser.patched(Patch("lora", name, (1.0,), sums, str(file)))
    return denoiser, encoder, vae


def draw_prompts(memory: Any, handles: Any, captions: list[str], evaluation: Evaluation, start: int = 0) -> np.ndarray:
    """Pictures of captions, uint8 `[n, 64, 64, 3]`; picture i has the seed `evaluation.seed + start + i`."""
    import torch

    from graphengine.models.sampling import Request, sample
    from graphengine.values import Conditioning, Guider, Latent

    denoiser, encoder, vae = handles
    text = memory.text_encoder(encoder)
    features = torch.cat([text.encode(words).features for words in captions])
    positive = Conditioning(features, encoder.kind)
    negative = Conditioning(text.encode("").features, encoder.kind)
    shape = (len(captions), vae.space.channels, 8, 8)
    latent = Latent(torch.zeros(shape), vae.space, empty=True)
    guider = Guider(evaluation.guidance)
    seed = evaluation.seed + start
    request = Request(positive, negative, guider, seed, evaluation.steps, evaluation.sampler, "simple")
    samples = sample(memory.denoiser(denoiser), latent, request, lambda done, total, denoised: None)
    return (memory.vae(vae).decode(samples) * 255).round().astype(np.uint8)


def _sheet(rows: dict[str, list[np.ndarray]], columns: int = 12) -> Any:
    from PIL import Image

    flat = [picture for pictures in rows.values() for picture in pictures]
    side = flat[0].shape[0]
    canvas = Image.new("RGB", (columns * (side + 2), -(-len(flat) // columns) * (side + 2)), "white")
    for index, picture in enumerate(flat):
        place = (index % columns * (side + 2), index // columns * (side + 2))
        canvas.paste(Image.fromarray(picture), place)
    return canvas.resize((canvas.width * 2, canvas.height * 2), Image.Resampling.NEAREST)


def table(results: dict[str, Scores]) -> Table:
    """The results for people."""
    made = Table("prompts", "fact", "right", "of", "%", box=None, pad_edge=False)
    for kind, scores in results.items():
        for fact, (right, total) in scores.items():
            if total:
                made.add_row(kind, fact, str(right), str(total), f"{100 * right / total:.1f}")
    return made
