"""What attend-and-excite is measured by: a second thing that is asked for in a picture of one, before and after.

The embedded model draws both things of a prompt when it begins with noise.  Image to image at a small strength keeps most of
the picture, and then the new thing is often overlooked.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from graphengine.gallery.bench import Bench
from graphengine.gallery.figures import SEED, Figure, percent, scenes, turned
from graphengine.settings import Settings
from graphengine.training.scenes import Scene, Thing, caption, draw

STRENGTH, STEPS, SCALE = 0.2, 6, 3.0


def attend_and_excite(settings: Settings, cases: int) -> list[Figure]:
    """Both things right without and with it, over the same pictures and noise; and how sure it is that this is no chance."""
    bench, found = Bench.of("tiny", settings), scenes(cases, "two things")
    negative = bench.prompts([""])
    both: dict[bool, list[bool]] = {False: [], True: []}
    spent = dict.fromkeys(both, 0.0)
    for number, scene in enumerate(found):
        asked = replace(scene, relation="and")
        first = Scene((Thing(scene.things[0].colour, scene.things[0].shape),), scene.ground)
        latent = bench.latent(draw(first, np.random.default_rng(SEED + number))[None])
        prompt = bench.run("EncodeText", encoder=bench.encoder, text=caption(asked)).conditioning
        words = {"encoder": bench.encoder, "prompt": prompt, "words": [scene.things[1].shape], "guidance": SCALE}
        own = {"positive": prompt, "negative": negative, "latent": latent, "steps": STEPS, "denoise": STRENGTH}
        own |= {"seed": SEED + number, "sampler": "euler", "schedule": "simple"}
        for excited in both:
            began = time.process_time()
            guidance = bench.run("AttendAndExcite", **words).guidance if excited else SCALE
            made = bench.run("Sampler", guidance=guidance, **own).latent
            spent[excited] += time.process_time() - began
            both[excited].append(_both(asked, bench.pictures(made)[0]))
    before, after = np.array(both[False]), np.array(both[True])
    return [
        Figure(
            "both things as the prompt says, before and after",
            f"{percent(float(before.mean()))}, {percent(float(after.mean()))}",
            cases,
        ),
        Figure("pictures that became right, that became wrong", turned(before, after), cases),
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
