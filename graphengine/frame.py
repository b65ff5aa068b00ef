"""The state of a run while it is executed: frames, jobs, and what all runs of an engine share.

Glossary
    frame    a graph being walked: its plan, what is to be done (last first), its values by position
    job      (position, item): item PLAIN for an ordinary node, GATHER for the end of a mapped one, else its number
    work     positions whose jobs are PLAIN; jobs go before them
    spread   a mapped node on its way: how many items, and what has been gathered
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from graphengine.errors import Problem
from graphengine.fingerprint import Fingerprinter
from graphengine.graph import FindWorkflow
from graphengine.plan import Plan
from graphengine.registry import Registry
from graphengine.settings import Settings

TOLD = 2000
"""Letters of an error that are told."""
PLAIN, GATHER = -1, -2
ITEMS = "*"
"""Beside the outputs of a mapped node: the keys of its single runs, so that a list that grows computes what is new."""
Job = tuple[int, int]
Claim = tuple[bytes, float, str]
"""What a job computes: its key, when it began, and the name of its node with those of the frames around it."""
Outputs = dict[str, Any]


@dataclass
class Spread:
    """A mapped node on its way: how many items, and what has been gathered."""

    count: int
    results: list[Outputs]
    keys: list[bytes]
    started: float


@dataclass
class Frame:
    """A graph being walked."""

    plan: Plan
    prefix: str = ""
    parent: tuple[Frame, Job, Claim] | None = None
    jobs: list[Job] = field(default_factory=list)
    spreads: dict[int, Spread] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks, self.keys = self.plan.graph.tasks, self.plan.keys.keys
        self.readers, self.wanted = self.plan.readers, self.plan.wanted
        self.work = self.plan.work[::-1]
        self.values: list[Outputs | None] = [None] * len(self.readers)
        for position, outputs in self.plan.hits.items():
            self.values[position] = outputs

    def outputs(self, position: int) -> Outputs:
        """What a task gave; it must still be kept."""
        outputs = self.values[position]
        assert outputs is not None
        return outputs


@dataclass(frozen=True)
class Tools:
    """What every run of an engine shares."""

    registry: Registry
    settings: Settings
    fingerprinter: Fingerprinter
    find_workflow: FindWorkflow
    models: Any
    lanes: Mapping[str, threading.Lock]


def wrong_input(name: str, error: ValidationError) -> Problem:
    first = error.errors(include_url=False)[0]
    port = ".".join(map(str, first["loc"]))
    return Problem("wrong_value", f"{first['msg']}, got {first['input']!r:.60}.", name, port)


def sentence(error: BaseException) -> str:
    """What an error says, as a sentence: short, and text that can be sent, whatever the error is made of."""
    try:
        text = str(error).strip() or "no reason given"
    except Exception:
        text = "it cannot say why"
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) > TOLD:
        text = f"{text[:TOLD]} ..."
    kind = type(error).__name__
    plain = kind in ("ValueError", "AssetError", "CheckpointError", "RuntimeError")
    told = text if plain else f"{kind}: {text}"
    return told if told.endswith((".", "!", "?")) else told + "."
