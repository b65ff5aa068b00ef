"""Measuring edits: was done what the instruction asks, and was everything else kept?

The checker reads the edited picture without knowing what was asked, and its reading is held against the view that
the edit leads to: the changed attribute by itself, and all others together.  Cases are combinations of facts (such
as circle, red, blue for a change of colour) that no training pair has, whatever its place, size or ground.

Glossary
    changed     the attribute that the instruction names is as asked
    kept        every other attribute, of every thing and of the ground, is as before
    case        a view to draw, an instruction, and the view that should come out
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphengine.settings import Settings
from graphengine.training.checker import Reading, ReadThing, read
from graphengine.training.edit_scenes import (
    KINDS,
    Edit,
    Placed,
    View,
    draw_view,
    is_held_out,
    random_edit,
    random_view,
)
from graphengine.training.edit_words import say

BATCH = 50
GUIDANCE, IMAGE_GUIDANCE = 2.0, 2.0
"""Scales of the instruction and of the picture that are best for `tiny-edit`."""
NEAR, ALIKE = 0.07, 1.2
"""Greatest distance of two centres as a share of the side, and greatest ratio of two radii, that count as the same."""
SHARE_OF_PAIRS = {"remove": 1.0, "move": 0.0, "size": 0.0}
ADDED_TO_PAIRS = 0.7
FACTS = ("colour", "shape", "centre", "radius")
"""What is read of a thing."""
Scores = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """An edit and the words that ask for it."""

    edit: Edit
    instruction: str


@dataclass(frozen=True)
class EditEvaluation:
    """What is measured: the model, how many cases of each kind, and how edits are sampled."""

    model: str = "tiny-edit"
    count: int = 50
    steps: int = 20
    guidance: float = GUIDANCE
    image_guidance: float = IMAGE_GUIDANCE
    seed: int = 30_000


def edit_cases(kind: str, count: int, seed: int, held_out: bool = True) -> list[Case]:
    """Cases of a kind (one of `KINDS`), the same for the same seed."""
    random = np.random.default_rng((seed, KINDS.index(kind)))
    found: list[Case] = []
    while len(found) < count:
        edit = _some_edit(kind, random)
        if edit is not None and (kind == "identity" or is_held_out(edit) == held_out):
            found.append(Case(edit, say(edit, random)))
    return found


def _some_edit(kind: str, random: np.random.Generator) -> Edit | None:
    view = random_view(random, SHARE_OF_PAIRS.get(kind, 0.5))
    match kind:
        case "identity":
            return Edit("identity", 0, view, view)
        case "add":
            if len(view.things) == 1 and random.random() < ADDED_TO_PAIRS:
                return None
            edit = random_edit(view, random, "add" if len(view.things) == 1 else "remove")
            return edit.turned() if edit is not None and edit.kind == "remove" else edit
        case _:
            edit = random_edit(view, random, kind)
            return edit.turned() if edit is not None and kind != "remove" and random.random() < 0.5 else edit


def edit_pictures(memory: Any, handles: Any, cases: Sequence[Case], evaluation: EditEvaluation) -> np.ndarray:
    """The cases' pictures as the model edits them, uint8 `[n, 64, 64, 3]`; picture i has the seed `seed + i`."""
    import torch

    from graphengine.models.sampling import Request, sample
    from graphengine.values import Conditioning, Guider, Latent

    denoiser, encoder, vae = handles
    text, pixels = memory.text_encoder(encoder), memory.vae(vae)
    parts = []
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        before = np.stack([draw_view(case.edit.before) for case in batch]).astype(np.float32) / 255
        samples = pixels.encode(before)
        features = torch.cat([text.encode(case.instruction).features for case in batch])
        positive = Conditioning(features, encoder.kind)
        negative = Conditioning(text.encode("").features, encoder.kind)
        latent = Latent(samples, vae.space, beside=samples.clone())
        guider = Guider(evaluation.guidance, image_scale=evaluation.image_guidance)
        seed = evaluation.seed + start
        request = Request(positive, negative, guider, seed, evaluation.steps, "dpmpp_2m", "simple")
        drawn = sample(memory.denoiser(denoiser), latent, request, lambda done, total, denoised: None)
        parts.append((pixels.decode(drawn) * 255).round().astype(np.uint8))
    return np.concatenate(parts)


def judge(edit: Edit, picture: np.ndarray) -> dict[str, bool]:
    """Whether a picture shows what the edit asks for (`changed`), everything else as before (`kept`), and both."""
    reading = read(picture)
    ground, things = _ground_holds(edit.after, reading), _matched(edit.after, reading.things)
    counted = len(reading.things) == len(edit.after.things)
    others = counted and all(all(held.values()) for at, held in enumerate(things) if at != edit.index)
    own = things[edit.index] if edit.index < len(things) and edit.kind != "remove" else {}
    match edit.kind:
        case "background":
            changed, kept = ground, counted and all(all(held.values()) for held in things)
        case "add":
            changed = all(own.values())
            kept = ground and len(reading.things) <= 2 and all(all(h.values()) for h in things[: edit.index])
            kept = kept and all(all(held.values()) for held in things[edit.index + 1 :])
        case "remove":
            gone = not any(_matches(edit.thing, seen)["centre"] for seen in reading.things)
            changed, kept = gone, ground and all(all(held.values()) for held in things)
        case "identity":
            changed, kept = True, ground and counted and all(all(held.values()) for held in things)
        case kind:
            named = {"move": "centre", "size": "radius"}.get(kind, kind)
            changed = own[named]
            kept = ground and others and all(holds for fact, holds in own.items() if fact != named)
    return {"changed": changed, "kept": kept, "all": changed and kept and counted}


def _ground_holds(view: View, reading: Reading) -> bool:
    grounds = [[it.pattern, str(it.ground), str(it.second_ground)] for it in (view, reading)]
    if view.pattern in ("striped", "checkered"):
        grounds = [sorted(ground) for ground in grounds]
    return grounds[0] == grounds[1]


def _matched(view: View, seen: Sequence[ReadThing]) -> list[dict[str, bool]]:
    """For each thing of a view, which facts the nearest thing that was read confirms."""
    nothing: dict[str, bool] = dict.fromkeys(FACTS, False)
    return [_matches(it, min(seen, key=lambda other: _distance(it, other))) if seen else nothing for it in view.things]


def _matches(wanted: Placed, seen: ReadThing) -> dict[str, bool]:
    ratio = seen.radius / wanted.radius
    return {
        "colour": seen.colour == wanted.colour,
        "shape": seen.shape == wanted.shape,
        "centre": _distance(wanted, seen) < NEAR,
        "radius": 1 / ALIKE < ratio < ALIKE,
    }


def _distance(wanted: Placed, seen: ReadThing) -> float:
    return float(np.hypot(seen.centre[0] - wanted.centre[0], seen.centre[1] - wanted.centre[1]))


def score_edits(cases: Sequence[Case], pictures: Sequence[np.ndarray]) -> Scores:
    """(right, total) of `changed`, `kept` and `all` over many edited pictures, as `judge` tells them."""
    held = [judge(case.edit, picture) for case, picture in zip(cases, pictures, strict=True)]
    return {fact: (sum(it[fact] for it in held), len(held)) for fact in ("changed", "kept", "all")}


def evaluate_edits(evaluation: EditEvaluation, settings: Settings, sheet: Path | None = None) -> dict[str, Scores]:
    """Right and total for each kind of edit; `sheet` takes pictures before and after as a contact sheet.

    Raises:
        CheckpointError: the model cannot be loaded.
    """
    from graphengine.models import checkpoint as checkpoints
    from graphengine.models.memory import ModelMemory

    handles = checkpoints.find(evaluation.model, settings).handles()
    memory = ModelMemory(settings)
    cases = {kind: edit_cases(kind, evaluation.count, evaluation.seed) for kind in KINDS}
    flat = [case for some in cases.values() for case in some]
    pictures = edit_pictures(memory, handles, flat, evaluation)
    drawn = {kind: pictures[i * evaluation.count :][: evaluation.count] for i, kind in enumerate(KINDS)}
    if sheet:
        edit_sheet(cases, drawn).save(sheet)
    return {kind: score_edits(cases[kind], list(drawn[kind])) for kind in KINDS}


def edit_sheet(cases: dict[str, list[Case]], pictures: dict[str, Any], columns: int = 8, scale: int = 2) -> Any:
    """A row for each kind: pictures before and after side by side, under each its instruction."""
    from PIL import Image, ImageDraw

    wide, high = 2 * 64 * scale + 10, 64 * scale + 16
    canvas = Image.new("RGB", (columns * wide, len(cases) * high), "white")
    pen = ImageDraw.Draw(canvas)
    for row, kind in enumerate(cases):
        for column, (case, picture) in enumerate(zip(cases[kind][:columns], pictures[kind], strict=False)):
            x, y = column * wide, row * high
            for side, pixels in enumerate((draw_view(case.edit.before), picture)):
                shown = Image.fromarray(pixels).resize((64 * scale, 64 * scale), Image.Resampling.NEAREST)
                canvas.paste(shown, (x + side * 64 * scale, y))
            good = judge(case.edit, picture)["all"]
            pen.text((x + 2, y + 64 * scale + 2), case.instruction[:42] or "(nothing)", "black" if good else "red")
    return canvas
