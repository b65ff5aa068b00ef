"""What a run will do: which outputs come from the cache, which nodes compute, and when a value may go.

The plan starts at the targets and pulls: a target that the cache knows needs nothing upstream.  Lazy inputs are
not pulled; when a node asks for one, `pull` extends the plan.  Outputs found in the cache are held by the plan, so
nothing that was promised can be evicted before it is used, and an entry that turns out damaged is simply work.

Glossary
    hits      position -> outputs, taken from the cache
    work      positions to compute, in topological order
    readers   how many reads are still to come, by position; at zero the value is freed, unless it is wanted.  Its last
              item counts reads of given values, whose position is -1
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from graphengine.cache import Cache
from graphengine.fingerprint import Keys
from graphengine.graph import Graph, Task


@dataclass
class Plan:
    """One run's share of a graph."""

    graph: Graph
    keys: Keys
    wanted: frozenset[int]
    hits: dict[int, dict[str, Any]] = field(default_factory=dict)
    work: list[int] = field(default_factory=list)
    readers: list[int] = field(default_factory=list)

    @classmethod
    def make(cls, graph: Graph, keys: Keys, cache: Cache | None, targets: Iterable[int]) -> Plan:
        """Plan for the targets.  Without a cache everything is work."""
        plan = cls(graph, keys, frozenset(targets), readers=[0] * (len(graph.tasks) + 1))
        if cache and cache.disk:
            cache.disk.refresh()
        plan.work, _ = plan.pull(plan.wanted, cache)
        return plan

    def pull(self, positions: Iterable[int], cache: Cache | None) -> tuple[list[int], list[int]]:
        """Make these positions part of the plan: returns what is to be computed for them, in topological order, and
        which hits they need.
        """
        tasks, keys, hits, readers = self.graph.tasks, self.keys.keys, self.hits, self.readers
        get = cache.get if cache else None
        pending = list(positions)
        seen = set(pending)
        added: list[int] = []
        met: list[int] = []
        while pending:
            position = pending.pop()
            if position in hits:
                met.append(position)
                continue
            task = tasks[position]
            facts = task.info.facts
            found = get(keys[position]) if get and facts.cached else None
            if found is not None and (not facts.effect or (not task.mapped and stands(task, found))):
                hits[position] = found
                met.append(position)
                continue
            added.append(position)
            for _, source, _, _, _, lazy in task.wires:
                readers[source] += 1
                if source not in seen and source >= 0 and not lazy:
                    seen.add(source)
                    pending.append(source)
        added.sort()
        return added, met


def stands(task: Task, outputs: dict[str, Any]) -> bool:
    """Whether a cached effect still holds: its node is asked, e.g. whether the file is still there.

    A mapped node is never taken as a whole: each of its items is asked when its turn comes.
    """
    node = task.info.type
    return node.stands(node.Outputs.model_construct(**outputs))
