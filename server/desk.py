"""Checks small workflows of built-in nodes in the server itself; whatever else there is goes to the clerk.

A question to another process costs more than checking ten nodes does.  Only what can neither block nor surprise is
checked here: nodes that ship with the engine and ask for nothing outside the graph (no file, no model), in a body of a
few kilobytes.  A submission with a fault is left to the clerk as well, who knows the plugins and finds the words.
"""

from __future__ import annotations

from typing import Any

from graphengine import plugins
from graphengine.engine import Engine
from graphengine.errors import GraphError
from graphengine.registry import Registry
from graphengine.settings import Settings

from . import answer

BODY_LIMIT, NODE_LIMIT = 16 * 1024, 100


class Desk:
    """An engine that knows the built-in nodes only, and runs nothing."""

    def __init__(self, settings: Settings, node_limit: int):
        registry = Registry()
        plugins.load_built_in(registry)
        self._node_limit = min(NODE_LIMIT, node_limit)
        self._engine = Engine(registry, settings, None)

    def check(self, body: str) -> dict[str, Any] | None:
        """What `answer.check` says; None when that has to be asked of the clerk."""
        if len(body) > BODY_LIMIT or '"from"' not in body:  # a workflow given by its name, most likely
            return None
        try:
            workflow, submitted = answer.read(self._engine, body, self._node_limit)
            infos = (self._engine.registry.find(spec.type) for spec in workflow.nodes.values())
            if any(info is None or info.has_outside for info in infos):
                return None
            return answer.checked(self._engine, body, workflow, submitted)
        except GraphError:
            return None
