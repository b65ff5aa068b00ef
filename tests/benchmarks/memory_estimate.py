"""What `graphengine check --memory` foretells beside what a fresh process then takes: the error of the forecast.

    tiny    the embedded model at 64 px, 1 and 8 pictures, and at 256 px
    FILE    a full-size single file with random weights (`python tests/full_size.py sd1 FOLDER` makes one), at 256 px
            and at every further side that is named

Each row is a run of `graphengine run workflows/text_to_image.json` in a process of its own, two steps, without a cache;
what counts is the most that was resident (`ru_maxrss`).  The goal is an error of at most a quarter.

    python tests/benchmarks/memory_estimate.py [FILE [SIDE ...]]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from measure import TEXT_TO_IMAGE, environment, judged, python, table

GRAPHENGINE = ("-m", "graphengine")
LIMIT = 0.25
MIB = 2**20


def run(checkpoint: str, side: int, batch: int, models: Path | None) -> list[str]:
    """A row: what was told, what was taken, and the error."""
    values = {"load.checkpoint": f'"{checkpoint}"', "canvas.width": side, "canvas.height": side, "canvas.batch": batch}
    sets = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        env = environment(GRAPHENGINE_CACHE_FOLDER=f"{folder}/cache", GRAPHENGINE_DEVICE="cpu")
        if models:
            env |= {"GRAPHENGINE_MODEL_FOLDERS": str(models), "GRAPHENGINE_CACHE_FOLDER": str(models / "cache")}
        told = python([*GRAPHENGINE, "check", TEXT_TO_IMAGE, "--memory", "--json", *sets], env)
        memory = json.loads(told.out)["memory"]
        steps = ["--set", "sample.steps=2", "--no-cache", "--out", f"{folder}/out"]
        taken = python([*GRAPHENGINE, "run", TEXT_TO_IMAGE, *sets, *steps], env).rss
    wrong = abs(memory["peak"] - taken) / taken
    worst = max(memory["steps"], key=lambda step: step["peak"])["node"]
    figures = (f"{memory['peak'] / MIB:,.0f}", f"{taken / MIB:,.0f}", judged(wrong, LIMIT))
    return [f"{checkpoint}, {batch} x {side} px", *figures, worst]


def main(arguments: list[str]) -> None:
    rows = [run("tiny", side, batch, None) for side, batch in ((64, 1), (64, 8), (256, 1))]
    if arguments:
        file = Path(arguments[0]).absolute()
        rows += [run(file.name, int(side), 1, file.parent) for side in arguments[1:] or ["256"]]
    table("the most memory of a run, MiB", ("model", "told", "taken", "error", "at"), rows)


if __name__ == "__main__":
    main(sys.argv[1:])
