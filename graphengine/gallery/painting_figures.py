"""Measuring what is painted into pictures and around them: does it show what was asked, does it fit, is all else untouched?

inpainting    a thing is painted over by another; the checker reads both things of the picture that comes out
outpainting   a picture goes on beyond one of its sides; the seam is held against the gradients inside the picture
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphengine.gallery.bench import BATCH, Bench, image, levels
from graphengine.gallery.figures import Figure, percent
from graphengine.settings import Settings
from graphengine.training.checker import facts, read
from graphengine.training.scenes import COLOURS, SHAPES, Scene, Thing, caption, contrast, draw, random_scene
from graphengine.values import Mask

SEED = 40_000
SIDES = ("left", "top", "right", "bottom")
LEAST_CONTRAST = 60.0


def inpainting(bench: Bench, count: int, steps: int = 20, guidance: float = 3.0) -> dict[str, float]:
    """One half of a picture is painted over with another thing.

    Returns `followed`, the share in which the new thing has the colour and the shape asked for, `kept`, the share in which
    the other thing and the ground are as before, and `outside`, the greatest difference of any pixel outside the mask.
    """
    random, held, outside = np.random.default_rng(SEED), [], 0.0
    mask = np.zeros((1, 64, 64), np.float32)
    mask[..., 32:] = 1
    for start in range(0, count, BATCH):
        scenes = [_pair(random) for _ in range(min(BATCH, count - start))]
        wanted = [Scene((it.things[0], _thing(it.ground, random)), it.ground, relation="left of") for it in scenes]
        before = image(np.stack([draw(scene, random) for scene in scenes]))
        latent = bench.run("VAEEncode", image=before).latent
        latent = bench.run("SetLatentMask", latent=latent, mask=Mask(mask)).latent
        own = {"positive": bench.prompts([caption(scene) for scene in wanted]), "negative": bench.prompts([""])}
        own |= {"steps": steps, "guidance": guidance, "seed": SEED + start}
        painted = bench.run("VAEDecode", latent=bench.run("Sampler", latent=latent, **own).latent).image
        after = bench.run("Composite", base=before, overlay=painted, mask=Mask(mask)).image
        outside = max(outside, float(np.abs(after.pixels - before.pixels)[:, mask[0] == 0].max()))
        held += [facts(scene, read(picture)) for scene, picture in zip(wanted, levels(after), strict=True)]
    followed = sum(it["second"] for it in held) / count
    return {
        "followed": followed,
        "kept": sum(it["first"] and it["background"] for it in held) / count,
        "outside": outside,
    }


def _pair(random: np.random.Generator) -> Scene:
    """A thing to the left of another, on plain ground."""
    scene = random_scene(random, 1.0, 0.0)
    return Scene(scene.things, scene.ground, relation="left of")


def _thing(ground: str, random: np.random.Generator) -> Thing:
    """A thing that can be seen on a ground."""
    while True:
        colour = list(COLOURS)[int(random.integers(len(COLOURS)))]
        if contrast(colour, ground) >= LEAST_CONTRAST:
            return Thing(colour, SHAPES[int(random.integers(len(SHAPES)))])


def outpainting(
    bench: Bench,
    side: str,
    count: int,
    amount: int = 16,
    windows: bool = True,
    steps: int = 30,
    repeats: int = 20,
    words: bool = False,
    guidance: float = 1.0,
    patterned: float = 0.0,
    denoise: float = 0.85,
) -> dict[str, float]:
    """Pictures of one thing go on by `amount` pixels beyond a side, with the words for the picture or without any.

    With `windows` off the whole canvas is painted at once.  Returns the mean gradient across the `seam`, its `median` over
    the pictures, and the mean one `inside`, in levels of 0..255 a pixel along the axis of the side; `weaker`, the share of
    pictures whose seam is no stronger than their inside, `clean`, the share with nothing but plain ground in what was
    added, and `moved`, the greatest difference of any pixel of the picture itself.
    """
    if side not in SIDES:
        raise ValueError(f"a picture has the sides {', '.join(SIDES)}, not {side!r}.")
    random, rows, moved = np.random.default_rng(SEED), [], 0.0
    for start in range(0, count, BATCH):
        scenes = [random_scene(random, 0.0, patterned) for _ in range(min(BATCH, count - start))]
        given = image(np.stack([draw(scene, random) for scene in scenes]))
        border = bench.run("Pad", image=given, **{side: amount})
        window = 64 if windows else 64 + amount
        own = {"window": window, "most": 0.25 if windows else 1.0, "steps": steps, "seed": SEED + start}
        texts = [caption(scene) for scene in scenes] if words else [""]
        own |= {"positive": bench.prompts(texts), "negative": bench.prompts([""]), "guidance": guidance}
        own |= {"repeats": repeats, "denoise": denoise, "image": border.image, "mask": border.mask}
        after = bench.run("PaintWindows", **own).image
        known = border.mask.alpha == 0
        moved = max(moved, float(np.abs(after.pixels - border.image.pixels)[known].max()))
        rows += [_seam(_leftwards(picture, side), amount) for picture in levels(after)]
    seam, inside, odd = np.array(rows).T
    return {
        "seam": float(seam.mean()),
        "median": float(np.median(seam)),
        "inside": float(inside.mean()),
        "weaker": float((seam <= inside).mean()),
        "clean": float((odd < ODD).mean()),
        "moved": moved,
    }


ODD = 40.0
"""Distance in RGB, 0..255, from the ground beside it that a pixel of plain ground does not have."""


def _leftwards(picture: np.ndarray, side: str) -> np.ndarray:
    """The picture turned so that the side lies to the left."""
    turned = picture if side in ("left", "right") else picture.transpose(1, 0, 2)
    return turned if side in ("left", "top") else turned[:, ::-1]


def _seam(picture: np.ndarray, amount: int) -> Sequence[float]:
    """Mean gradient across the seam, the mean of all others, and the greatest distance of an added pixel from the ground."""
    pixels = picture.astype(float)
    gradients = np.abs(np.diff(pixels, axis=1)).mean(axis=(0, 2))
    ground = np.median(pixels[:, amount], axis=0)
    odd = float(np.linalg.norm(pixels[:, :amount] - ground, axis=-1).max())
    return float(gradients[amount - 1]), float(gradients[amount:].mean()), odd


# One function for each workflow


def inpaint(settings: Settings, cases: int) -> list[Figure]:
    made = inpainting(Bench.of("tiny", settings), cases)
    return [
        Figure("inside is what the prompt says", percent(made["followed"]), cases),
        Figure("greatest change of a pixel outside", f"{made['outside']:g}", cases),
    ]


def outpaint(settings: Settings, cases: int) -> list[Figure]:
    bench = Bench.of("tiny", settings)
    made = {side: outpainting(bench, side, cases) for side in SIDES}
    seams = ", ".join(
        f"{side} {found['median']:.1f}, {found['seam']:.1f} and {found['inside']:.1f}" for side, found in made.items()
    )
    return [
        Figure("gradient across the seam, median and mean, and mean inside, in levels of 255", seams, cases),
        Figure(
            "greatest change of a pixel of the picture", f"{max(found['moved'] for found in made.values()):g}", cases
        ),
    ]
