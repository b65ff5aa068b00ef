"""What the engine costs per node, against a plain Python loop over the same functions in the same order.

Nodes do next to nothing (they add integers), so all that is left is the engine: checks, keys, plan, events, cache.
Measured from a parsed `Workflow` to the finished event, CPU time of all threads, best of several, all graphs in turns: a
host that is shared is slow for seconds at a time, and so it is slow for all of them.  All threads have one core, for the
system counts the time of one that runs on another core only when it stops.  Garbage is collected as rarely as in the
processes that `graphengine run` and `graphengine serve` start:

    fresh      new engine that has run one other node, disk tier on in an empty folder
    same       the same engine, an equal workflow parsed anew
    changed    the same engine, a workflow parsed anew whose last node has another literal (another one each time)
    loop       `values[name] = function(*[values[source] for source in sources], literal)` for every node

    python tests/benchmarks/overhead.py [largest number of nodes; 100000]
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import cost, judged, table
from rich.progress import track

from graphengine import Context, Node, Ports, Settings, Workflow
from graphengine.cache import Cache
from graphengine.collector import rarely
from graphengine.compose import Models
from graphengine.engine import Engine
from graphengine.registry import Registry
from graphengine.store.disk import DiskStore

FRESH_LIMIT, CHANGED_LIMIT, SAME_LIMIT, GROWTH_LIMIT = 25, 4, 1, 12
ROUNDS = 12
AT_A_TIME = {100: 20, 1_000: 3, 10_000: 1, 100_000: 1}
WIDTH = 10
PRIME = 1_000_003


def add(*numbers: int) -> int:
    return sum(numbers) % PRIME


class Number(Ports):
    """One number."""

    number: int


class Add(Node):
    """Two numbers as one."""

    a: int = 0
    b: int = 0
    Outputs = Number

    def run(self, ctx: Context) -> Number:
        return Number(number=add(self.a, self.b))


class Mix(Add):
    """Three numbers as one."""

    c: int = 0

    def run(self, ctx: Context) -> Number:
        return Number(number=add(self.a, self.b, self.c))


class Total(Node):
    """Many numbers as one."""

    numbers: list[int]
    b: int = 0
    Outputs = Number

    def run(self, ctx: Context) -> Number:
        return Number(number=add(*self.numbers, self.b))


Step = tuple[str, Callable[..., int], list[str], int]


@dataclass
class Case:
    """A graph twice: as the nodes of a document, and as the steps of a plain loop; `literal` is the last one's input."""

    nodes: dict[str, dict[str, Any]]
    steps: list[Step]
    outputs: list[str]
    literal: str

    def workflow(self, last: int) -> Workflow:
        """The workflow, parsed from text, its last node having `last` as its literal."""
        name, spec = next(reversed(self.nodes.items()))
        nodes = self.nodes | {name: {**spec, "inputs": {**spec["inputs"], self.literal: last}}}
        outputs = {f"number_{i}": {"from": f"{node}.number"} for i, node in enumerate(self.outputs)}
        return Workflow.load(json.dumps({"graphengine": 1, "name": "bench", "outputs": outputs, "nodes": nodes}))

    def loop(self) -> dict[str, int]:
        values: dict[str, int] = {}
        for name, function, sources, literal in self.steps:
            values[name] = function(*[values[source] for source in sources], literal)
        return values


def _link(node: str) -> dict[str, str]:
    return {"from": f"{node}.number"}


def _adder(source: str | None, literal: int) -> dict[str, Any]:
    return {"type": "Add", "inputs": {"a": _link(source) if source else 0, "b": literal}}


def chain(size: int) -> Case:
    """Every node reads the one before."""
    names = [f"node_{i}" for i in range(size)]
    nodes = {name: _adder(before, 1) for before, name in itertools.pairwise([None, *names]) if name}
    steps: list[Step] = [(names[0], add, [], 1)]
    steps += [(name, add, [before], 1) for before, name in itertools.pairwise(names)]
    return Case(nodes, steps, [names[-1]], "b")


def wide(size: int) -> Case:
    """One source, many readers, one node that collects them in a list."""
    names = [f"node_{i}" for i in range(1, size - 1)]
    nodes = {"source": _adder(None, 1)} | {name: _adder("source", i) for i, name in enumerate(names)}
    nodes["last"] = {"type": "Total", "inputs": {"numbers": [_link(name) for name in names], "b": 1}}
    steps: list[Step] = [("source", add, [], 1)]
    steps += [(name, add, ["source"], i) for i, name in enumerate(names)]
    return Case(nodes, [*steps, ("last", add, names, 1)], ["last"], "b")


def layered(size: int) -> Case:
    """Layers of ten; every node reads two of the layer before."""
    nodes: dict[str, Any] = {}
    steps: list[Step] = []
    for i in range(size):
        layer, row = divmod(i, WIDTH)
        name = f"node_{layer}_{row}"
        if layer == 0:
            nodes[name] = _adder(None, row)
            steps.append((name, add, [], row))
        else:
            sources = [f"node_{layer - 1}_{r % WIDTH}" for r in (row, row + 1)]
            nodes[name] = {"type": "Mix", "inputs": {"a": _link(sources[0]), "b": _link(sources[1]), "c": row}}
            steps.append((name, add, sources, row))
    return Case(nodes, steps, list(nodes)[-WIDTH:], "c" if size > WIDTH else "b")


@contextmanager
def fresh_engine() -> Iterator[Engine]:
    """An engine that knows nothing of what is measured; its thread has started."""
    registry = Registry()
    registry.extend([Add, Mix, Total])
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(2**31, DiskStore(Path(folder), 2**30))
        settings = Settings.load(cache_folder=folder)
        with Engine(registry, settings, cache, Models(settings)) as engine:
            engine.submit(chain(1).workflow(0)).result()
            yield engine


class Timing:
    """Microseconds a node of one case, the best so far: loop, fresh, same, changed."""

    def __init__(self, case: Case):
        self.case, self.size = case, len(case.nodes)
        self.best = {"loop": float("inf"), "fresh": float("inf"), "same": float("inf"), "changed": float("inf")}
        self._expected = list(case.loop().values())[-len(case.outputs) :]

    def measure(self, number: int) -> None:
        """Once more, as the measurement of this number; checks that the engine computes what the loop does."""
        case, first = self.case, self.case.steps[-1][3]
        for _ in range(3):
            self._note("loop", case.loop)
        with fresh_engine() as engine:
            for name, last in (("fresh", first), ("same", first), ("changed", first + number + 1)):
                workflow = case.workflow(last)
                self._note(name, lambda w=workflow: engine.submit(w).result())
                made = list(engine.submit(workflow).result().values())
                assert (made == self._expected) == (name != "changed")

    def _note(self, name: str, work: Callable[[], object]) -> None:
        self.best[name] = min(self.best[name], cost(work).cpu / self.size * 1e6)


def main(largest: int) -> None:
    rarely()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    shapes = {"chain": chain, "wide": wide, "layered": layered}
    sizes = [size for size in AT_A_TIME if size <= largest]
    timings = {
        (name, size): Timing(build(size))
        for name, build in shapes.items()
        for size in sizes
        if size < 100_000 or name == "chain"
    }
    for number in track(range(ROUNDS), "All graphs in turns"):
        for timing in timings.values():
            gc.freeze()  # the benchmark's own documents are nothing that the engine's collections should walk
            times = AT_A_TIME[timing.size]
            for i in range(times if timing.size < 100_000 or number < 2 else 0):
                timing.measure(number * times + i)
    rows: list[list[str]] = []
    for (name, size), timing in timings.items():
        loop, fresh, same, changed = timing.best.values()
        ratio = judged(fresh / loop, FRESH_LIMIT, 1)
        known = judged(changed, CHANGED_LIMIT), judged(same, SAME_LIMIT)
        small = timings.get((name, size // 10))
        growth = judged(10 * fresh / small.best["fresh"], GROWTH_LIMIT, 1) if small and size == 10_000 else ""
        rows.append([f"{name} {size:,}", f"{loop:.2f}", f"{fresh:.2f}", ratio, *known, growth])
    head = ["us per node", "loop", "fresh", "fresh / loop", "changed", "same", "10,000 / 1,000"]
    table("Engine against a plain loop over the same functions", head, rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
