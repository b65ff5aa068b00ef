"""What attend-and-excite is measured by: prompts of two things in words that the model was not taught, before and after.

The embedded model knows `and`, `left of` and the like, and draws both things then.  `a red circle by a blue star` it has
never read, and now and then one of the two is missing.
"""

from __future__ import annotations

import time

import numpy as np

from graphengine.gallery.bench import Bench
from graphengine.gallery.figures import SEED, Figure, percent, scenes
from graphengine.settings import Settings
from graphengine.training.scenes import Scene, caption
from graphengine.values import Guider

STEPS = 8
UNTAUGHT = "by"


def attend_and_excite(settings: Settings, cases: int) -> list[Figure]:
    """Both things right without and with it, over the same prompts and noise; and how sure it is that this is no chance."""
    from scipy.stats import binomtest

    bench, found = Bench.of("tiny", settings), scenes(cases, "two things")
    canvas = bench.run("EmptyLatent", width=64, height=64).latent
    negative = bench.run("EncodeText", encoder=bench.encoder, text="").conditioning
    both: dict[bool, list[bool]] = {False: [], True: []}
    spent = dict.fromkeys(both, 0.0)
    for number, scene in enumerate(found):
        text = caption(scene).replace(f" {scene.relation} ", f" {UNTAUGHT} ")
        prompt = bench.run("EncodeText", encoder=bench.encoder, text=text).conditioning
        words = [thing.shape for thing in scene.things]
        own = {"positive": prompt, "negative": negative, "latent": canvas, "steps": STEPS, "seed": SEED + number}
        for excited in both:
            began = time.process_time()
            guidance = Guider(1.0)
            if excited:
                asked = {"encoder": bench.encoder, "prompt": prompt, "words": words, "guidance": guidance}
                guidance = bench.run("AttendAndExcite", **asked).guidance
            latent = bench.run("Sampler", guidance=guidance, sampler="euler", **own).latent
            spent[excited] += time.process_time() - began
            both[excited].append(_both(scene, bench.pictures(latent)[0]))
    before, after = np.array(both[False]), np.array(both[True])
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    chance = binomtest(gained, gained + lost, alternative="greater").pvalue if gained + lost else 1.0
    return [
        Figure(
            "both things as the prompt says, before and after",
            f"{percent(float(before.mean()))}, {percent(float(after.mean()))}",
            cases,
        ),
        Figure("pictures that became right, that became wrong", f"{gained}, {lost} (p = {chance:.2g})", cases),
        Figure(
            "CPU time of a picture, before and after",
            f"{spent[False] / cases:.2f}, {spent[True] / cases:.2f} s",
            cases,
        ),
    ]


def _both(scene: Scene, picture: np.ndarray) -> bool:
    from graphengine.training.checker import facts, read

    held = facts(scene, read(picture))
    return held["first"] and held["second"]
