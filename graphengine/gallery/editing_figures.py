"""Measuring edits by words: how near an inversion comes back, and what an edit changes and keeps.

A case is a drawn picture of one thing, words for it, and the same words with another colour of the thing.  *Told* cases
stand where the model's language puts them, so that the words say all there is to see; *free* ones stand anywhere and have
any size, so that what is kept must come from the picture.  The checker judges, knowing only the picture that should come
out (`edit_score.judge`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphengine.gallery.bench import BATCH, Bench
from graphengine.gallery.figures import Figure, percent
from graphengine.settings import Settings
from graphengine.training.edit_scenes import Edit, Placed, View, draw_view, random_edit, random_view
from graphengine.training.edit_score import EditEvaluation, evaluate_edits, judge
from graphengine.training.scenes import MARGIN, POSITIONS, SIZES, Scene, Thing, caption
from graphengine.trajectory import Trajectory
from graphengine.values import Conditioning, Latent

SEED = 30_000
STEPS, FIXED_POINT = 20, 2
GUIDANCE, ROUNDS, CLOSE, LOOSE = 3.0, 10, 0.05, 0.02
"""With which a negative prompt is fitted to an inversion: closely to come back, loosely to change a word."""
MASK_STRENGTH, MASK_THRESHOLD = 0.3, 0.3
"""What is best for `tiny`: steps, iterations, and how the mask is made."""
SHARES = ("changed", "kept", "all")
WORDS_REACH = 0.24
"""About how far from the centre the positions of the model's language lie, as a share of the side."""


@dataclass(frozen=True)
class Batch:
    """Edits, their pictures before (uint8 `[B, H, W, 3]`), and the words before and after."""

    edits: Sequence[Edit]
    before: np.ndarray
    source: Sequence[str]
    target: Sequence[str]

    @property
    def untouched(self) -> np.ndarray:
        """Where the edit changes nothing, bool `[B, H, W]`."""
        after = np.stack([draw_view(edit.after) for edit in self.edits])
        return (self.before == after).all(axis=-1)


def colour_edits(count: int, free: bool = False, seed: int = SEED) -> list[Edit]:
    """Changes of the colour of one thing on plain ground, the same for the same seed."""
    random, found = np.random.default_rng(seed), []
    while len(found) < count:
        edit = random_edit(random_view(random, 0.0, 0.0), random, "colour")
        if edit is not None:
            found.append(_freed(edit, random) if free else edit)
    return found


def _freed(edit: Edit, random: np.random.Generator) -> Edit:
    """The edit of a thing of any size at any place; the words are the nearest."""
    radius = float(random.uniform(SIZES["small"], SIZES["large"]))
    reach = 0.5 - 1.2 * radius - MARGIN
    centre = float(0.5 + random.uniform(-reach, reach)), float(0.5 + random.uniform(-reach, reach))

    def away(position: str) -> float:
        dx, dy = POSITIONS[position]
        return float(np.hypot(0.5 + dx * WORDS_REACH - centre[0], 0.5 + dy * WORDS_REACH - centre[1]))

    position, size = min(POSITIONS, key=away), min(SIZES, key=lambda size: abs(SIZES[size] - radius))

    def moved(view: View) -> View:
        thing = replace(view.things[0], centre=centre, radius=radius, position=position, size=size)
        return replace(view, things=(thing,))

    return replace(edit, before=moved(edit.before), after=moved(edit.after))


def words(view: View) -> str:
    """A view of one thing in the model's language."""
    return caption(Scene(tuple(_spoken(it) for it in view.things), view.ground, view.pattern, view.second_ground))


def _spoken(it: Placed) -> Thing:
    size = None if it.size == "medium" else it.size
    return Thing(it.colour, it.shape, size, None if it.position == "in the center" else it.position)


def batches(edits: Sequence[Edit]) -> Iterator[Batch]:
    """Edits in batches, drawn and described."""
    for start in range(0, len(edits), BATCH):
        part = edits[start : start + BATCH]
        before = np.stack([draw_view(edit.before) for edit in part])
        yield Batch(part, before, [words(edit.before) for edit in part], [words(edit.after) for edit in part])


def round_trip(bench: Bench, count: int, steps: int = 50, fixed_point: int = FIXED_POINT) -> dict[str, float]:
    """PSNR in dB against the decoded original, `mean` and `least`, of pictures inverted and sampled with their own words."""
    found: list[float] = []
    for batch in batches(colour_edits(count)):
        latent, prompt = bench.latent(batch.before), bench.prompts(batch.source)
        way = bench.run("DDIMInversion", positive=prompt, latent=latent, steps=steps, fixed_point=fixed_point).inversion
        own = {"positive": prompt, "latent": latent, "inversion": way, "steps": steps, "guidance": 1.0}
        found += _likeness(bench, bench.run("Sampler", sampler="ddim", **own).latent, latent)
    return {"mean": float(np.mean(found)), "least": min(found)}


def inversion_edits(
    bench: Bench,
    count: int,
    free: bool = False,
    start: float = 0.0,
    guidance: float = 1.0,
    masked: bool = False,
    steps: int = STEPS,
    fixed_point: int = FIXED_POINT,
    null_text: bool = False,
) -> dict[str, float]:
    """What edits by inversion change and keep (see `shares`).

    Args:
        start: the share of the steps that sampling leaves out.
        masked: within the mask of what the words change.
        null_text: with a negative prompt that is fitted to the inversion.
    """

    def edit(batch: Batch) -> Latent:
        latent, source, target = bench.latent(batch.before), *(bench.prompts(it) for it in (batch.source, batch.target))
        own = {"steps": steps, "latent": latent, "share": 1 - start, "fixed_point": fixed_point}
        way = bench.run("DDIMInversion", positive=source, **own).inversion
        if masked:
            own = {"strength": MASK_STRENGTH, "threshold": MASK_THRESHOLD}
            mask = bench.run("DifferenceMask", source=source, target=target, latent=latent, **own).mask
            latent = bench.run("SetLatentMask", latent=latent, mask=mask).latent
        negative = bench.prompts([""])
        if null_text:
            negative = fitted(bench, latent, source, way, guidance, LOOSE)
        own = {"latent": latent, "inversion": way, "steps": steps, "guidance": guidance, "start": start}
        return bench.run("Sampler", sampler="ddim", positive=target, negative=negative, **own).latent

    return shares(bench, colour_edits(count, free), edit)


def fitted(
    bench: Bench, latent: Latent, source: Conditioning, way: Trajectory, guidance: float, rate: float
) -> Conditioning:
    """The negative prompt that keeps guided sampling on the way of an inversion."""
    own = {"latent": latent, "inversion": way, "guidance": guidance, "rounds": ROUNDS, "rate": rate}
    return bench.run("NullText", positive=source, negative=bench.prompts([""]), **own).negative


def guided_round_trip(bench: Bench, count: int, null_text: bool, steps: int = STEPS) -> dict[str, float]:
    """As `round_trip`, but sampled with guidance: with an empty negative prompt, or one that is fitted."""
    found: list[float] = []
    for batch in batches(colour_edits(count)):
        latent, prompt = bench.latent(batch.before), bench.prompts(batch.source)
        way = bench.run("DDIMInversion", positive=prompt, latent=latent, steps=steps, fixed_point=FIXED_POINT).inversion
        negative = fitted(bench, latent, prompt, way, GUIDANCE, CLOSE) if null_text else bench.prompts([""])
        own = {"positive": prompt, "latent": latent, "inversion": way, "steps": steps, "guidance": GUIDANCE}
        found += _likeness(bench, bench.run("Sampler", sampler="ddim", negative=negative, **own).latent, latent)
    return {"mean": float(np.mean(found)), "least": min(found)}


def _likeness(bench: Bench, made: Latent, wanted: Latent) -> list[float]:
    """PSNR in dB of each decoded latent against another's."""
    first, second = (bench.run("VAEDecode", latent=latent).image.pixels for latent in (made, wanted))
    error = np.square(first - second).mean(axis=(1, 2, 3))
    return (-10 * np.log10(np.maximum(error, 1e-12))).tolist()


def strength_edits(
    bench: Bench, count: int, strength: float, free: bool = False, guidance: float = 3.0
) -> dict[str, float]:
    """What plain image-to-image changes and keeps at a strength (see `shares`)."""

    def edit(batch: Batch) -> Latent:
        latent, target, empty = bench.latent(batch.before), bench.prompts(batch.target), bench.prompts([""])
        own = {"steps": 10, "guidance": guidance, "denoise": strength, "seed": SEED}
        return bench.run("Sampler", latent=latent, positive=target, negative=empty, **own).latent

    return shares(bench, colour_edits(count, free), edit)


def shares(bench: Bench, edits: Sequence[Edit], edit: Callable[[Batch], Latent]) -> dict[str, float]:
    """Of many edits: the share in which the colour is `changed`, all else is `kept`, and both (`all`), each in 0..1.

    `outside` is how far pixels are moved where nothing should change, in levels of 0..255.
    """
    held, moved, places = [], 0.0, 0
    for batch in batches(edits):
        pictures = bench.pictures(edit(batch))
        held += [judge(*pair) for pair in zip(batch.edits, pictures, strict=True)]
        untouched = batch.untouched
        moved += float(np.abs(pictures.astype(float) - batch.before).mean(axis=-1)[untouched].sum())
        places += int(untouched.sum())
    counted = {fact: sum(it[fact] for it in held) / len(held) for fact in SHARES}
    return counted | {"outside": moved / places}


STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)


def strengths(
    bench: Bench, count: int, free: bool = True, values: Sequence[float] = STRENGTHS
) -> list[dict[str, float]]:
    """A row for each strength of image-to-image: `strength`, and what `strength_edits` tells."""
    return [{"strength": value} | strength_edits(bench, count, value, free) for value in values]


# One function for each workflow


def edit_by_inversion(settings: Settings, cases: int) -> list[Figure]:
    bench = Bench.of("tiny", settings)
    plain, fixed = round_trip(bench, cases, fixed_point=0), round_trip(bench, cases)
    ways = {
        "by inversion": inversion_edits(bench, cases),
        "by inversion within a mask": inversion_edits(bench, cases, masked=True),
        "by null-text inversion, guidance 2": inversion_edits(bench, cases, start=0.1, guidance=2.0, null_text=True),
        "by image to image, strength 0.5": strength_edits(bench, cases, 0.5),
    }
    return [
        Figure(
            "there and back in 50 steps without and with fixed-point iterations",
            f"{plain['mean']:.1f}, {fixed['mean']:.1f} dB",
            cases,
        ),
        *(
            Figure(f"colour changed and the rest kept, {way}", percent(found["all"]), cases)
            for way, found in ways.items()
        ),
    ]


def null_text(settings: Settings, cases: int) -> list[Figure]:
    bench = Bench.of("tiny", settings)
    loose, kept = (guided_round_trip(bench, cases, null_text) for null_text in (False, True))
    told = f"{loose['mean']:.1f}, {kept['mean']:.1f} dB"
    return [Figure(f"there and back at guidance {GUIDANCE:g}, with an empty and with a fitted prompt", told, cases)]


def image_to_image(settings: Settings, cases: int) -> list[Figure]:
    rows = strengths(Bench.of("tiny", settings), cases)
    told = ", ".join(f"{row['strength']:g}: {percent(row['changed'])} and {percent(row['kept'])}" for row in rows)
    return [Figure("at each strength, colour as the prompt says and layout kept", told, cases)]


def instruct_edit(settings: Settings, cases: int) -> list[Figure]:
    made = evaluate_edits(EditEvaluation(count=cases), settings)
    told = {kind: scores["all"][0] / scores["all"][1] for kind, scores in made.items()}
    return [Figure(f"{kind}: done as told, and the rest kept", percent(share), cases) for kind, share in told.items()]
