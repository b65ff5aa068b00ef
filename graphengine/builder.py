"""Checking a workflow against the registry: every problem is collected, and what is right becomes tasks.

Each pass walks nodes and links once and none recurses.  The order of the passes: which types there are, the order of
the nodes (and cycles), tasks with their wires and literals, links to nothing, the signature.

Glossary
    static    the part of a task's cache key that does not depend on anything upstream
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from graphengine.errors import GraphError, Problem, did_you_mean
from graphengine.graph import Given, Graph, Task, Wire
from graphengine.node import Input, NodeInfo
from graphengine.ports import Feed, Port, feed
from graphengine.registry import Registry
from graphengine.workflow import Link, Workflow


class Builder:
    """Collects problems while it turns specs into tasks."""

    def __init__(self, registry: Registry, given: dict[str, Given]):
        self.registry, self.given = registry, given
        self.problems: list[Problem] = []
        self._feeds: dict[tuple[int, int, bool, bool], Feed | None] = {}

    def build(self, workflow: Workflow, problems: list[Problem]) -> Graph:
        """The graph of a flat workflow; `problems` are those that were found on the way to it.

        Raises:
            GraphError: with every problem.
        """
        self.problems += problems
        infos = self._infos(workflow)
        order = self._order(workflow, infos)
        index = {name: position for position, name in enumerate(order)}
        tasks: list[Task] = []
        for name in order:
            tasks.append(self.task(name, infos[name], workflow.nodes[name].inputs, index, tasks))
        self._signature(workflow, infos)
        if self.problems:
            raise GraphError(self.problems)
        outputs = {name: (index[link.node], link.port) for name, link in workflow.outputs.items()}
        effects = [i for i, task in enumerate(tasks) if task.info.facts.effect and "/" not in task.id]
        targets = sorted({position for position, _ in outputs.values()} | set(effects))
        if not targets:
            targets = _ends(tasks)
        return Graph(workflow, tasks, index, outputs, targets, self.given)

    def fault(
        self, code: str, message: str, node: str | None, port: str | None = None, hint: str | None = None
    ) -> None:
        self.problems.append(Problem(code, message, node, port, hint))

    def _infos(self, workflow: Workflow) -> dict[str, NodeInfo]:
        infos: dict[str, NodeInfo] = {}
        for name, spec in workflow.nodes.items():
            info = self.registry.find(spec.type)
            if info:
                infos[name] = info
            else:
                self.fault(
                    "unknown_type", f"there is no node type {spec.type!r}.", name, hint=self.registry.hint(spec.type)
                )
        return infos

    def _order(self, workflow: Workflow, infos: Mapping[str, NodeInfo]) -> list[str]:
        """Topological order by counting (Kahn 1962); what is left over stands in or behind a cycle."""
        waiting: dict[str, int] = {}
        readers: dict[str, list[str]] = {}
        nodes = workflow.nodes
        for name in infos:
            count = 0
            for key, value in nodes[name].inputs.items():
                kind = type(value)
                for link in (value,) if kind is Link else value if kind is list else ():
                    if type(link) is not Link:
                        continue
                    if link.node in infos:
                        readers.setdefault(link.node, []).append(name)
                        count += 1
                    elif link.node not in nodes and not self._is_given(link):
                        hint = did_you_mean(link.node, nodes)
                        self.fault("no_node", f"there is no node {link.node!r}.", name, key, hint)
            waiting[name] = count
        order = [name for name, count in waiting.items() if not count]
        for name in order:  # grows while it is walked
            for reader in readers.get(name, ()):
                waiting[reader] -= 1
                if not waiting[reader]:
                    order.append(reader)
        if len(order) < len(infos):
            self._cycles(readers, set(infos) - set(order))
        return order

    def _cycles(self, readers: Mapping[str, list[str]], left: set[str]) -> None:
        import networkx

        edges = ((s, r) for s in left for r in readers.get(s, ()) if r in left)
        graph = networkx.DiGraph(edges)
        for component in networkx.strongly_connected_components(graph):
            start = min(component)
            if len(component) > 1 or graph.has_edge(start, start):
                names = [edge[0] for edge in networkx.find_cycle(graph.subgraph(component), start)]
                path = " -> ".join([*names[:12], "..." if len(names) > 12 else names[0]])
                self.fault(
                    "cycle", f"the nodes feed each other in a circle: {path}.", names[0], hint="Cut one of these links."
                )

    def task(
        self, name: str, info: NodeInfo, inputs: Mapping[str, Any], index: Mapping[str, int], tasks: list[Task]
    ) -> Task:
        """One node, checked; `tasks` holds at least everything that it reads.

        Inputs are taken in the order in which the node declares them, so that the key does not depend on how the
        workflow was written down.
        """
        literals: dict[str, Any] = {}
        wires: list[Wire] = []
        lists: list[tuple[str, list[Any]]] = []
        found = 0
        for key, target in info.inputs.items():
            if key not in inputs:
                if target.required:
                    self._lacks(name, target)
                continue
            found += 1
            value = inputs[key]
            kind = type(value)
            if kind is Link:
                self._wire(name, target, value, None, index, tasks, wires)
            elif kind is list and any(type(item) is Link for item in value):
                lists.append((key, self._list_items(name, target, value)))
                for slot, item in enumerate(value):
                    if type(item) is Link:
                        self._wire(name, target, item, slot, index, tasks, wires)
            else:
                self._literal(name, target, value, literals)
        if found < len(inputs):
            self._unknown(name, info, inputs)
        mapped = any(wire.feed is Feed.MAP for wire in wires) if wires else False
        static = _static(info, literals, wires, lists)
        return Task(name, info, literals, tuple(wires), static, mapped, tuple(lists))

    def _is_given(self, link: Link) -> bool:
        return link.port == "given" and link.node in self.given

    def _lacks(self, name: str, target: Input) -> None:
        hint = "Link it." if target.validate is None else None
        self.fault("missing_input", f"wants {target.port.label}, got nothing.", name, target.name, hint)

    def _unknown(self, name: str, info: NodeInfo, inputs: Mapping[str, Any]) -> None:
        for key in inputs:
            if key not in info.inputs:
                hint = did_you_mean(key, info.inputs)
                self.fault("unknown_input", f"{info.name} has no input {key!r}.", name, key, hint)

    def _literal(self, name: str, target: Input, value: Any, literals: dict[str, Any]) -> None:
        if target.validate is not None:
            try:
                literals[target.name] = target.validate(value)
            except ValidationError as error:
                self.fault("wrong_value", _told(value, error), name, target.name)
        elif value is None and target.port.optional:
            literals[target.name] = None
        else:
            message = f"wants {target.port.label}, which must be linked, got {value!r:.60}."
            self.fault("not_a_literal", message, name, target.name)

    def _list_items(self, name: str, target: Input, value: list[Any]) -> list[Any]:
        """A list written with links in it: literals stay in place, links are filled in when it runs."""
        if not target.port.many:
            self.fault("wrong_value", f"wants {target.port.label}, got a list.", name, target.name)
        if target.validate is None and not all(isinstance(item, Link) for item in value):
            self.fault("wrong_value", f"wants {target.port.label}: every item must be a link.", name, target.name)
        if target.validate and target.port.many:
            for slot, item in enumerate(value):
                if not isinstance(item, Link):
                    try:
                        target.validate([item])
                    except ValidationError as error:
                        self.fault("wrong_value", f"item {slot + 1}: {_told(item, error)}", name, target.name)
        return [None if isinstance(item, Link) else item for item in value]

    def _wire(
        self,
        name: str,
        target: Input,
        link: Link,
        slot: int | None,
        index: Mapping[str, int],
        tasks: list[Task],
        wires: list[Wire],
    ) -> None:
        position = index.get(link.node)
        if position is None:
            if self._is_given(link):  # else it was told by _order, or is part of a cycle
                how = self._how(self.given[link.node].port, False, target.port, slot)
                wires.append(Wire(target.name, -1, link.node, how or Feed.PLAIN, slot, False))
            return
        source = tasks[position]
        port = source.info.outputs.get(link.port)
        if port is None:
            hint = did_you_mean(link.port, source.info.outputs)
            message = f"{link.node} ({source.info.name}) has no output {link.port!r}."
            self.fault("no_port", message, name, target.name, hint)
            return
        how = self._how(port, source.mapped, target.port, slot)
        if how is None:
            self._refuse(name, target, link, port, source)
            return
        lazy = target.port.lazy and how is not Feed.MAP  # the items must be counted before it can run
        wires.append(Wire(target.name, position, link.port, how, slot, lazy))

    def _how(self, source: Port, mapped: bool, target: Port, slot: int | None) -> Feed | None:
        """How an output feeds an input; an item of a list of links must be one item."""
        place = (id(source), id(target), mapped, slot is None)
        if place not in self._feeds:
            made = feed(source.listed() if mapped else source, target if slot is None else Port(target.type))
            self._feeds[place] = made if slot is None or made is Feed.PLAIN else None
        return self._feeds[place]

    def _refuse(self, name: str, target: Input, link: Link, port: Port, source: Task) -> None:
        fitting = [n for n, p in source.info.outputs.items() if feed(p, target.port)]
        hint = f"Did you mean {link.node}.{fitting[0]}?" if fitting else None
        message = f"wants {target.port.label}, got {port.label} from {link}."
        self.fault("wrong_type", message, name, target.name, hint)

    def _signature(self, workflow: Workflow, infos: Mapping[str, NodeInfo]) -> None:
        for name, declared in workflow.inputs.items():
            for link in declared.to:
                info = infos.get(link.node)
                self._declared(f"inputs.{name}", "input", link, workflow, info and info.inputs)
        for name, link in workflow.outputs.items():
            info = infos.get(link.node)
            self._declared(f"outputs.{name}", "output", link, workflow, info and info.outputs)

    def _declared(self, where: str, kind: str, link: Link, workflow: Workflow, ports: Mapping[str, Any] | None) -> None:
        if link.node not in workflow.nodes:
            hint = did_you_mean(link.node, workflow.nodes)
            self.fault("no_node", f"there is no node {link.node!r}.", None, where, hint)
        elif ports is not None and link.port not in ports:
            hint = did_you_mean(link.port, ports)
            self.fault("no_port", f"{link.node} has no {kind} {link.port!r}.", None, where, hint)


def _static(info: NodeInfo, literals: dict[str, Any], wires: list[Wire], lists: list[tuple[str, list[Any]]]) -> bytes:
    """Literals and the shape of the wiring as bytes.  `repr` tells 1 from 1.0, "1" and True."""
    if info.outside_key:
        literals = {key: value for key, value in literals.items() if key not in info.outside_key}
        lists = [entry for entry in lists if entry[0] not in info.outside_key]
        wires = [wire for wire in wires if wire.input not in info.outside_key]
    shape = [f"{name}<{port}" if slot is None else f"{name}[{slot}]<{port}" for name, _, port, _, slot, _ in wires]
    return f"{literals!r}{lists!r}{shape!r}".encode()


def _told(value: Any, error: ValidationError) -> str:
    reason = error.errors(include_url=False)[0]["msg"]
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{reason[0].lower()}{reason[1:]}, got {shown}."


def _ends(tasks: list[Task]) -> list[int]:
    read = {wire.source for task in tasks for wire in task.wires}
    return [position for position in range(len(tasks)) if position not in read]
