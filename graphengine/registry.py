"""The catalogue of node types: name -> `NodeInfo`.  Names are taken once and never overwritten.

A type may be known by its name alone until somebody asks for it (`add_later`): to make the classes of a hundred node
types, and to import what they need, takes longer than to run most workflows that use five of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from graphengine.errors import did_you_mean
from graphengine.node import Node, NodeInfo, describe


class Registry:
    """Node types by name, and what became of plugins that could not be loaded.

    `broken` maps a plugin's name to the sentence that says why; a workflow that needs one of its nodes is told so.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, NodeInfo] = {}
        self._later: dict[str, Callable[[], Iterable[type[Node]]]] = {}
        self._loading = threading.Lock()
        self.broken: dict[str, str] = {}

    def add(self, node: type[Node], prefix: str = "", plugin: str = "graphengine") -> NodeInfo:
        """Add a class.  Raises ValueError when the name is taken, TypeError when it is no node."""
        info = describe(node, prefix, plugin)
        known = self.find(info.name)
        if known:
            raise ValueError(f"the node name {info.name} is taken by {known.plugin}; nothing is overwritten")
        self._nodes[info.name] = info
        return info

    def add_later(self, names: Iterable[str], load: Callable[[], Iterable[type[Node]]]) -> None:
        """Take names for built-in nodes; `load` gives their classes and is called when the first of them is asked for."""
        self._later |= dict.fromkeys(names, load)

    def find(self, name: str) -> NodeInfo | None:
        info = self._nodes.get(name)
        if info is None and name in self._later:
            self._load(name)
            info = self._nodes.get(name)
        return info

    def _load(self, name: str) -> None:
        with self._loading:
            load = self._later.get(name)
            if load is None:
                return  # another thread has
            for node in load():
                info = describe(node)
                self._nodes[info.name] = info
            self._later = {key: value for key, value in self._later.items() if value is not load}

    def _load_all(self) -> None:
        while self._later:
            self._load(next(iter(self._later)))

    def hint(self, name: str) -> str | None:
        """What to try instead of a name that is not here."""
        plugin = name.split(".")[0]
        if plugin in self.broken:
            return f"The plugin {plugin} could not be loaded: {self.broken[plugin]}"
        return did_you_mean(name, self.names()) or "`graphengine nodes` lists them."

    def names(self) -> list[str]:
        return sorted({*self._nodes, *self._later})

    def __iter__(self) -> Iterator[NodeInfo]:
        self._load_all()
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self.names())

    def extend(self, nodes: Iterable[type[Node]]) -> None:
        for node in nodes:
            self.add(node)
