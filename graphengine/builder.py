"""Checking a workflow against the registry: every problem is collected, and what is right becomes tasks.

Each pass walks nodes and links once and none recurses.  The order of the passes: which types there are, the order of
the nodes (and cycles), tasks with their wires and literals, links to nothing, the signature.

Glossary
    parted    a spec's inputs, told apart into literals, links, and lists that have links in them
    static    the part of a task's cache key that does not depend on anything upstream
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from graphengine.errors import GraphError, Problem, did_you_mean
from graphengine.graph import Given, Graph, Task, Wire
from graphengine.node import Input, NodeInfo
from graphengine.ports import Feed, Port, feed
from graphengine.registry import Registry
from graphengine.workflow import Link, Workflow


class Parted(NamedTuple):
    """A spec's inputs, told apart: literals, links with their slots, and the lists that have links in them."""

    inputs: Mapping[str, Any]
    literals: dict[str, Any]
    links: list[tuple[str, int | None, Link]]
    lists: dict[str, list[Any]]


def part(inputs: Mapping[str, Any]) -> Parted:
    literals: dict[str, Any] = {}
    links: list[tuple[str, int | None, Link]] = []
    lists: dict[str, list[Any]] = {}
    for key, value in inputs.items():
        kind = type(value)
        if kind is Link:
            links.append((key, None, value))
        elif kind is list and any(type(item) is Link for item in value):
            lists[key] = value
            links += [(key, slot, item) for slot, item in enumerate(value) if type(item) is Link]
        else:
            literals[key] = value
    return Parted(inputs, literals, links, lists)


def static_key(
    info: NodeInfo, literals: dict[str, Any], wires: tuple[Wire, ...], lists: tuple[tuple[str, list[Any]], ...]
) -> bytes:
    """Literals and the shape of the wiring as bytes.  `repr` tells 1 from 1.0, "1" and True, and orders nothing."""
    inputs = info.inputs
    parts = [f"{name}={_canonical(value)}" for name, value in literals.items() if inputs[name].in_key]
    if lists:
        parts += [f"{name}={_canonical(value)}" for name, value in lists if inputs[name].in_key]
    if len(parts) > 1:
        parts.sort()
    for name, _, port, _, slot, _ in wires:
        if inputs[name].in_key:
            parts.append(f"{name}<{port}/{slot}")
    return "\0".join(parts).encode("utf-8", "surrogatepass")


def _canonical(value: Any) -> str:
    if type(value) in (int, str, float, bool):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{_canonical(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return repr(value)


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
        parted = {name: part(spec.inputs) for name, spec in workflow.nodes.items()}
        order = self._order(parted, infos)
        index = {name: position for position, name in enumerate(order)}
        tasks: list[Task] = []
        for name in order:
            tasks.append(self._task(name, infos[name], parted[name], index, tasks))
        self._missing(parted)
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

    def _order(self, parted: Mapping[str, Parted], infos: Mapping[str, NodeInfo]) -> list[str]:
        """Topological order by counting (Kahn 1962); what is left over stands in or behind a cycle."""
        waiting: dict[str, int] = {}
        readers: dict[str, list[str]] = {}
        for name in infos:
            count = 0
            for _, _, (source, _) in parted[name].links:
                if source in infos:
                    readers.setdefault(source, []).append(name)
                    count += 1
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

    def _task(self, name: str, info: NodeInfo, parted: Parted, index: Mapping[str, int], tasks: list[Task]) -> Task:
        wires: list[Wire] = []
        mapped = False
        for key, slot, link in parted.links:
            target = info.inputs.get(key)
            wire = self._wire(name, target, link, slot, index, tasks) if target else None
            if wire:
                wires.append(wire)
                mapped = mapped or wire.feed is Feed.MAP
        lists = tuple(
            (key, self._list_items(name, info.inputs[key], value))
            for key, value in parted.lists.items()
            if key in info.inputs
        )
        literals = self.literals(name, info, parted)
        made = tuple(wires)
        return Task(name, info, literals, made, static_key(info, literals, made, lists), mapped, lists)

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
        self, name: str, target: Input, link: Link, slot: int | None, index: Mapping[str, int], tasks: list[Task]
    ) -> Wire | None:
        position = index.get(link.node)
        if position is None:
            given = self.given.get(link.node) if link.port == "given" else None
            if given is None:
                return None  # told by _missing, or part of a cycle
            how = self._how(given.port, False, target.port, slot)
            return Wire(target.name, -1, link.node, how or Feed.PLAIN, slot, False)
        source = tasks[position]
        port = source.info.outputs.get(link.port)
        if port is None:
            hint = did_you_mean(link.port, source.info.outputs)
            self.fault(
                "no_port", f"{link.node} ({source.info.name}) has no output {link.port!r}.", name, target.name, hint
            )
            return None
        how = self._how(port, source.mapped, target.port, slot)
        if how is None:
            self._refuse(name, target, link, port, source)
            return None
        lazy = target.port.lazy and how is not Feed.MAP  # the items must be counted before it can run
        return Wire(target.name, position, link.port, how, slot, lazy)

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

    def literals(self, name: str, info: NodeInfo, parted: Parted) -> dict[str, Any]:
        """Validated literal inputs; faults in names, presence and values are collected."""
        known, values = info.inputs, {}
        for key, value in parted.literals.items():
            target = known.get(key)
            if target is None:
                self._unknown(name, info, key)
            elif target.validate is None:
                if value is None and target.port.optional:
                    values[key] = None
                    continue
                message = f"wants {target.port.label}, which must be linked, got {value!r:.60}."
                self.fault("not_a_literal", message, name, key)
            else:
                try:
                    values[key] = target.validate(value)
                except ValidationError as error:
                    self.fault("wrong_value", _told(value, error), name, key)
        for key, _, _ in parted.links:
            if key not in known:
                self._unknown(name, info, key)
        for key in info.required:
            if key not in parted.inputs:
                hint = "Link it." if known[key].validate is None else None
                self.fault("missing_input", f"wants {known[key].port.label}, got nothing.", name, key, hint)
        return values

    def _unknown(self, name: str, info: NodeInfo, key: str) -> None:
        self.fault("unknown_input", f"{info.name} has no input {key!r}.", name, key, did_you_mean(key, info.inputs))

    def _missing(self, parted: Mapping[str, Parted]) -> None:
        """Links to nodes that are not there."""
        for name, part in parted.items():
            for key, _, link in part.links:
                if link.node not in parted and not (link.port == "given" and link.node in self.given):
                    hint = did_you_mean(link.node, parted)
                    self.fault("no_node", f"there is no node {link.node!r}.", name, key, hint)

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


def _told(value: Any, error: ValidationError) -> str:
    reason = error.errors(include_url=False)[0]["msg"]
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{reason[0].lower()}{reason[1:]}, got {shown}."


def _ends(tasks: list[Task]) -> list[int]:
    read = {wire.source for task in tasks for wire in task.wires}
    return [position for position in range(len(tasks)) if position not in read]
