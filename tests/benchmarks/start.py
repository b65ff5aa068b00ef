"""What starting costs: light commands against their limit, and one picture from a cold process against diffusers.

    light      `graphengine --help` and `graphengine check workflows/text_to_image.json`: CPU seconds, torch not imported
    picture    `graphengine run workflows/text_to_image.json` (cache off; cache on in a new folder) and a bare diffusers
               script with the same weights, scheduler, steps, guidance and size; both save a PNG
    memory     the largest resident size of each of these processes

Every figure is that of a process of its own, the best of several, in turns; one round before warms the page cache and
the bytecode.  OMP_NUM_THREADS and OMP_WAIT_POLICY are the same for all (set them to choose them).

    python tests/benchmarks/start.py [rounds; 3]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measure import TEXT_TO_IMAGE, TINY, Process, environment, judged, python, table

LIGHT_LIMIT, RATIO_LIMIT = 0.5, 1.0
GRAPHENGINE = ("-m", "graphengine")
LIGHT = {"--help": ("--help",), "check": ("check", str(TEXT_TO_IMAGE))}

WATCHED = """
import sys
from graphengine.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
assert "torch" not in sys.modules, "torch was imported"
"""

DIFFUSERS = """
import sys, torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(
    sys.argv[1], local_files_only=True, safety_checker=None, dtype=torch.float32
)
pipe.scheduler = DPMSolverMultistepScheduler.from_config(
    pipe.scheduler.config, prediction_type="v_prediction", timestep_spacing="trailing"
)
pipe.set_progress_bar_config(disable=True)
picture = pipe(
    "a large red circle on a blue background", negative_prompt="", num_inference_steps=20, guidance_scale=3.0,
    width=64, height=64, generator=torch.Generator().manual_seed(0),
).images[0]
picture.save(sys.argv[2])
"""


def light(arguments: tuple[str, ...]) -> Process:
    return python([*GRAPHENGINE, *arguments])


def imports_torch(arguments: tuple[str, ...]) -> bool:
    """Whether a command imports torch: it is run inside a script that looks at the end."""
    try:
        python(["-c", WATCHED, *arguments])
    except RuntimeError as error:
        if "torch was imported" in str(error):
            return True
        raise
    return False


def picture(*options: str) -> Process:
    """`graphengine run` with new folders for results and cache."""
    with tempfile.TemporaryDirectory() as folder:
        env = environment(GRAPHENGINE_CACHE_FOLDER=f"{folder}/cache", GRAPHENGINE_DEVICE="cpu")
        made = python([*GRAPHENGINE, "run", TEXT_TO_IMAGE, "--out", f"{folder}/out", *options], env)
        assert len([*Path(folder, "out").glob("*.png")]) == 1, made.out
    return made


def peer() -> Process:
    with tempfile.TemporaryDirectory() as folder:
        made = python(["-c", DIFFUSERS, TINY, f"{folder}/picture.png"])
        assert Path(folder, "picture.png").is_file()
    return made


def least(sides: dict[str, Callable[[], Process]], rounds: int) -> dict[str, Process]:
    """The best process of each side by CPU time, with the least memory of all its rounds; the first is not counted."""
    found: dict[str, list[Process]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, start in sides.items():
            made = start()
            if number:
                found[name].append(made)
    chosen = {name: min(made, key=lambda process: process.cpu) for name, made in found.items()}
    return {
        name: Process(best.cpu, min(p.wall for p in found[name]), min(p.rss for p in found[name]), best.out)
        for name, best in chosen.items()
    }


def main(rounds: int) -> None:
    took = least({name: lambda a=arguments: light(a) for name, arguments in LIGHT.items()}, 2 * rounds)
    rows = [
        [f"graphengine {name}", judged(p.cpu, LIGHT_LIMIT), f"{p.rss / 2**20:.0f}", str(imports_torch(LIGHT[name]))]
        for name, p in took.items()
    ]
    table("Light commands", ["", "CPU s", "MiB", "torch imported"], rows)

    sides = {"diffusers script": peer, "run --no-cache": lambda: picture("--no-cache"), "run, new cache": picture}
    took = least(sides, rounds)
    base = took["diffusers script"]
    rows = [
        [
            name,
            f"{p.cpu:.2f}",
            f"{p.wall:.2f}",
            judged(p.cpu / base.cpu, RATIO_LIMIT),
            f"{p.rss / 2**20:.0f}",
            judged(p.rss / base.rss, RATIO_LIMIT),
        ]
        for name, p in took.items()
    ]
    title = f"One picture from a cold process, OMP_NUM_THREADS={environment()['OMP_NUM_THREADS']}"
    table(title, ["", "CPU s", "wall s", "CPU / diffusers", "MiB", "memory / diffusers"], rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
