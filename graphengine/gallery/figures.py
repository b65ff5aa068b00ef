"""What is measured about the gallery's workflows: claims with their figures, each over many cases.

Each subject has a module of its own beside this one, with a function for every workflow that it measures; `measure` finds
it by its name.  Every function takes settings and a number of cases, and draws with the embedded models; the same seed
gives the same.  What they share is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from graphengine.compose import Engine
from graphengine.settings import Settings
from graphengine.training.scenes import Scene, caption, draw
from graphengine.values import Image
from graphengine.workflow import Workflow

SUBJECTS = ("process", "network", "model", "editing", "painting", "excitation")
"""Modules `..._figures`."""
SEED = 30_000


@dataclass(frozen=True)
class Figure:
    """A claim, its figure as text, and over how many cases it was measured."""

    claim: str
    value: str
    cases: int


Measure = Callable[[Settings, int], list[Figure]]


def measure(name: str) -> Measure:
    """The function of this name, in whichever module of figures it stands.

    Raises:
        ValueError: there is none.
    """
    for subject in SUBJECTS:
        found = getattr(import_module(f"graphengine.gallery.{subject}_figures"), name, None)
        if found is not None:
            return found
    raise ValueError(f"the gallery has no function {name!r} that measures; {', '.join(SUBJECTS)} were searched.")


def percent(share: float) -> str:
    return f"{share:.0%}"


def scenes(count: int, kind: str = "one thing", seed: int = SEED) -> list[Scene]:
    """Scenes whose captions training never saw."""
    from graphengine.training.evaluate import held_out

    return held_out(kind, count, seed)


def drawn(found: Sequence[Scene], seed: int = SEED) -> Image:
    random = np.random.default_rng(seed)
    return Image(np.stack([draw(scene, random) for scene in found]).astype(np.float32) / 255)


def right(found: Sequence[Scene], image: Image) -> float:
    """Share of pictures in which the checker reads every fact of their scene."""
    from graphengine.training.checker import facts, read

    levels = (image.pixels[..., :3] * 255).round().astype(np.uint8)
    return float(np.mean([facts(scene, read(picture))["all"] for scene, picture in zip(found, levels, strict=True)]))


def turned(before: np.ndarray, after: np.ndarray) -> str:
    """How many of the cases, bool `[n]` each, became right, how many wrong, and how likely chance does as much (sign test)."""
    from scipy.stats import binomtest

    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    chance = binomtest(gained, gained + lost, alternative="greater").pvalue if gained + lost else 1.0
    return f"{gained}, {lost} (p = {chance:.2g})"


def workflow(engine: Engine, name: str) -> Workflow:
    """A workflow that comes with the project."""
    found = engine.find_workflow(name)
    assert found is not None, name
    return found


def accuracy(settings: Settings, found: Sequence[Scene], **inputs: object) -> tuple[float, float]:
    """Share of pictures that show all their prompts say, and CPU seconds a picture, for one way of sampling."""
    told = {"prompts": [caption(scene) for scene in found], "seed": SEED, **inputs}
    with Engine(settings=settings) as engine:
        made = engine.submit(workflow(engine, "sampling_accuracy"), told).result()
    return made["accuracy"], made["seconds"] / len(found)
