"""The catalogue of node types: name -> `NodeInfo`.  Names are taken once and never overwritten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graphengine.errors import did_you_mean
from graphengine.node import Node, NodeInfo, describe


class Registry:
    """Node types by name, and what became of plugins that could not be loaded.

    `broken` maps a plugin's name to the sentence that says why; a workflow that needs one of its nodes is told so.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, NodeInfo] = {}
        self.broken: dict[str, str] = {}

    def add(self, node: type[Node], prefix: str = "", plugin: str = "graphengine") -> NodeInfo:
        """Add a class.  Raises ValueError when the name is taken, TypeError when it is no node."""
        info = describe(node, prefix, plugin)
        if info.name in self._nodes:
            owner = self._nodes[info.name].plugin
            raise ValueError(f"the node name {info.name} is taken by {owner}; nothing is overwritten")
        self._nodes[info.name] = info
        return info

    def find(self, name: str) -> NodeInfo | None:
        return self._nodes.get(name)

    def hint(self, name: str) -> str | None:
        """What to try instead of a name that is not here."""
        plugin = name.split(".")[0]
        if plugin in self.broken:
            return f"The plugin {plugin} could not be loaded: {self.broken[plugin]}"
        return did_you_mean(name, self._nodes) or "`graphengine nodes` lists them."

    def names(self) -> list[str]:
        return sorted(self._nodes)

    def __iter__(self) -> Iterator[NodeInfo]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def extend(self, nodes: Iterable[type[Node]]) -> None:
        for node in nodes:
            self.add(node)
