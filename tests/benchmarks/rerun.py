"""What a second process computes again: `graphengine run` twice over one cache folder, told by its own events.

    first       an empty cache
    seed        a new process, only the seed is another: prompts must come from the cache
    same        a new process, nothing is another: there must be no work at all

Printed are the CPU seconds of each, their ratio to the first, and which nodes it computed and which it took from
the cache (events `planned` and `node_started` of `--json`).  Handles on models are never kept on disk, so `load`,
which only looks up the checkpoint, is computed whenever something behind it is.

    python tests/benchmarks/rerun.py [rounds; 3]
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass

from measure import TEXT_TO_IMAGE, Process, environment, judged, python, table

SEED_KEEPS = {"prompt", "negative"}
SAME_LIMIT, SEED_LIMIT = 0.3, 1.0


@dataclass(frozen=True)
class Rerun:
    """One process, the nodes that it computed, and those that the cache gave."""

    process: Process
    computed: list[str]
    hits: list[str]


def run(folder: str, seed: int) -> Rerun:
    env = environment(GRAPHENGINE_CACHE_FOLDER=f"{folder}/cache", GRAPHENGINE_DEVICE="cpu")
    options = ["--seed", str(seed), "--out", f"{folder}/out", "--json"]
    made = python(["-m", "graphengine", "run", TEXT_TO_IMAGE, *options], env)
    events = [json.loads(line) for line in made.out.splitlines()]
    plan = next(event for event in events if event["event"] == "planned")
    computed = [event["node"] for event in events if event["event"] == "node_started"]
    assert sorted(computed) == sorted(plan["work"]), (computed, plan["work"])
    assert events[-1]["event"] == "run_finished"
    return Rerun(made, computed, plan["hits"])


def main(rounds: int) -> None:
    took: dict[str, list[Rerun]] = {"first": [], "seed": [], "same": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            took["first"].append(run(folder, 0))
            took["seed"].append(run(folder, 1))
            took["same"].append(run(folder, 1))
    best = {name: min(runs, key=lambda made: made.process.cpu) for name, runs in took.items()}
    first = best["first"].process.cpu
    limits = {"first": 1.0, "seed": SEED_LIMIT, "same": SAME_LIMIT}
    rows = [
        [
            name,
            f"{made.process.cpu:.2f}",
            judged(made.process.cpu / first, limits[name]),
            ", ".join(made.computed) or "nothing",
            ", ".join(made.hits) or "nothing",
        ]
        for name, made in best.items()
    ]
    table("A second process over the same cache", ["", "CPU s", "/ first", "computed", "from the cache"], rows)
    again = {node for made in took["seed"] for node in made.computed} & SEED_KEEPS
    idle = all(not made.computed for made in took["same"])
    print(f"other seed: {'MISSED, computed ' + ', '.join(sorted(again)) if again else 'prompts not computed again'}")
    print(f"nothing changed: {'no work' if idle else 'MISSED, something was computed'}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
