"""Checking a workflow against the registry: every problem is collected, and what is right becomes tasks.

Each pass walks nodes and links once and none recurses.  The order of the passes: which types there are, tasks with
their wires and literals, the signature.  Mostly no node reads one that is written later; when one does, an order is
found first (and with it cycles, and links to nothing).

Glossary
    static    the part of a task's cache key that does not depend on anything upstream
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from pydantic import ValidationError

from graphengine.errors import GraphError, Problem, did_you_mean
from graphengine.graph import Given, Graph, Task, Wire
from graphengine.node import Input, NodeInfo
from graphengine.ports import Feed, Port, feed
from graphengine.registry import Registry
from graphengine.workflow import Link, Workflow

_wire = tuple.__new__
"""Makes a Wire in half the time, and graphs have many."""


class Way(NamedTuple):
    """How outputs of one port feed one input: the same for all links alike, so it is found out once."""

    feed: Feed
    lazy: bool
    told: bytes
    """What the key says of it."""
    direct: bool


class _OutOfOrder(Exception):
    """A node reads what no node before it makes."""


class Builder:
    """Collects problems while it turns specs into tasks."""

    def __init__(self, registry: Registry, given: dict[str, Given]):
        self.registry, self.given = registry, given
        self.problems: list[Problem] = []
        self._ways: dict[tuple[NodeInfo, str, Input, bool, bool], Way] = {}
        self._ordered = False

    def build(self, workflow: Workflow, problems: list[Problem]) -> Graph:
        """The graph of a flat workflow; `problems` are those that were found on the way to it.

        Raises:
            GraphError: with every problem.
        """
        self.problems += problems
        infos = self._infos(workflow)
        known = self.problems.copy()
        try:
            tasks, index = self._tasks(workflow, infos, infos)
        except _OutOfOrder:
            self.problems, self._ordered = known, True
            tasks, index = self._tasks(workflow, infos, self._order(workflow, infos))
        self._signature(workflow, infos)
        if self.problems:
            raise GraphError(self.problems)
        outputs = {name: (index[link.node], link.port) for name, link in workflow.outputs.items()}
        effects = [index[name] for name, info in infos.items() if info.facts.effect and "/" not in name]
        targets = sorted({position for position, _ in outputs.values()} | set(effects))
        if not targets:
            targets = _ends(tasks)
        return Graph(workflow, tasks, index, outputs, targets, self.given)

    def fault(
        self, code: str, message: str, node: str | None, port: str | None = None, hint: str | None = None
    ) -> None:
        self.problems.append(Problem(code, message, node, port, hint))

    def _infos(self, workflow: Workflow) -> dict[str, NodeInfo]:
        nodes = workflow.nodes
        found = {kind: self.registry.find(kind) for kind in {spec[0] for spec in nodes.values()}}
        if None in found.values():
            for name, spec in nodes.items():
                if found[spec.type] is None:
                    hint = self.registry.hint(spec.type)
                    self.fault("unknown_type", f"there is no node type {spec.type!r}.", name, hint=hint)
        return {name: info for name, spec in nodes.items() if (info := found[spec[0]])}

    def _tasks(
        self, workflow: Workflow, infos: Mapping[str, NodeInfo], order: Iterable[str]
    ) -> tuple[list[Task], dict[str, int]]:
        """Tasks in this order, and where each node's is."""
        nodes, tasks, index = workflow.nodes, [], {}
        for name in order:
            tasks.append(self.task(name, infos[name], nodes[name][1], index, tasks))
            index[name] = len(index)
        return tasks, index

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
        found, direct, told = 0, not info.lazy, b""  # `told` says in the key how it is linked
        for key, target in info.inputs.items():
            if key not in inputs:
                if target.required:
                    self._lacks(name, target)
                continue
            found += 1
            value = inputs[key]
            kind = type(value)
            if kind is Link:
                position = index.get(value[0])
                if position is None:
                    told += self._given(target, value, None, wires)
                    direct = False
                elif way := self._way(name, target, value, tasks[position], True):
                    wires.append(_wire(Wire, (key, position, value[1], way[0], None, way[1])))
                    told += way[2]
                    direct = direct and way[3]
            elif kind is list and any(type(item) is Link for item in value):
                items, links = self._slots(name, target, value, index, tasks, wires)
                lists.append((key, items))
                told += repr(items).encode() + links if target.in_key else b""
                direct = False
            elif kind is target.exact:
                literals[key] = value
            else:
                self._literal(name, target, value, literals)
        if found < len(inputs):
            self._unknown(name, info, inputs)
        mapped = not direct and any(wire.feed is Feed.MAP for wire in wires)
        static = _static(info, literals) + told
        return Task(name, info, literals, tuple(wires), static, mapped, direct, tuple(lists))

    def again(self, task: Task, inputs: Mapping[str, Any]) -> Task:
        """A task with other literals and the same links."""
        literals: dict[str, Any] = {}
        for key in task.literals:
            self._literal(task.id, task.info.inputs[key], inputs[key], literals)
        links = task.static.removeprefix(_static(task.info, task.literals))
        return replace(task, literals=literals, static=_static(task.info, literals) + links)

    def _literal(self, name: str, target: Input, value: Any, literals: dict[str, Any]) -> None:
        if target.validate is None:
            self._unlinked(name, target, value, literals)
            return
        try:
            literals[target.name] = target.validate(value)
        except ValidationError as error:
            self.fault("wrong_value", _told(value, error), name, target.name)

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

    def _unlinked(self, name: str, target: Input, value: Any, literals: dict[str, Any]) -> None:
        if value is None and target.port.optional:
            literals[target.name] = None
        else:
            message = f"wants {target.port.label}, which must be linked, got {value!r:.60}."
            self.fault("not_a_literal", message, name, target.name)

    def _slots(
        self,
        name: str,
        target: Input,
        value: list[Any],
        index: Mapping[str, int],
        tasks: list[Task],
        wires: list[Wire],
    ) -> tuple[list[Any], bytes]:
        """A list written with links in it: its literals in place, and how its links are told in the key.

        Links are filled in when it runs; till then `...` stands for them, which no literal is, so that the key tells
        where they are.
        """
        key = target.name
        if not target.port.many:
            self.fault("wrong_value", f"wants {target.port.label}, got a list.", name, key)
        items: list[Any] = []
        told: list[bytes] = []
        way, alike, port = None, None, ""  # those of the last link: most lists are of links that are alike
        for slot, link in enumerate(value):
            if type(link) is not Link:
                items.append(link)
                if target.port.many:
                    self._item(name, target, slot, link)
                continue
            items.append(...)
            position = index.get(link[0])
            if position is None:
                told.append(self._given(target, link, slot, wires))
                continue
            source = tasks[position]
            if alike is None or source.info is not alike.info or source.mapped is not alike.mapped or port != link[1]:
                way, alike, port = self._way(name, target, link, source, False), source, link[1]
            if way:
                wires.append(_wire(Wire, (key, position, link[1], way[0], slot, way[1])))
                told.append(way[2])
        return items, b"".join(told)

    def _item(self, name: str, target: Input, slot: int, item: Any) -> None:
        """Check a literal among the items of a list."""
        if target.validate is None:
            message = f"item {slot + 1}: wants {Port(target.port.type).label}, which must be linked, got {item!r:.60}."
            self.fault("wrong_value", message, name, target.name)
            return
        try:
            target.validate([item])
        except ValidationError as error:
            self.fault("wrong_value", f"item {slot + 1}: {_told(item, error)}", name, target.name)

    def _given(self, target: Input, link: Link, slot: int | None, wires: list[Wire]) -> bytes:
        """The wire of a link to a given value; a link to nothing was told by `_order`, or is part of a cycle."""
        if not self._is_given(link):
            if not self._ordered:
                raise _OutOfOrder
            return b""
        how = self._how(self.given[link.node].port, False, target.port, slot is None)
        wires.append(Wire(target.name, -1, link.node, how or Feed.PLAIN, slot, False))
        return f"{target.name}<{link.node};".encode() if target.in_key else b""

    def _way(self, name: str, target: Input, link: Link, source: Task, whole: bool) -> Way | None:
        """How a link feeds an input, or an item of its list; None, and a problem, when it cannot."""
        place = (source.info, link[1], target, source.mapped, whole)
        way = self._ways.get(place)
        if way is None:
            way = self._new_way(name, target, link, source, whole)
            if way:
                self._ways[place] = way
        return way

    def _new_way(self, name: str, target: Input, link: Link, source: Task, whole: bool) -> Way | None:
        port = source.info.outputs.get(link.port)
        if port is None:
            hint = did_you_mean(link.port, source.info.outputs)
            message = f"{link.node} ({source.info.name}) has no output {link.port!r}."
            self.fault("no_port", message, name, target.name, hint)
            return None
        how = self._how(port, source.mapped, target.port, whole)
        if how is None:
            self._refuse(name, target, link, port, source)
            return None
        lazy = target.port.lazy and how is not Feed.MAP  # the items must be counted before it can run
        told = f"{target.name}<{link.port};".encode() if target.in_key else b""
        return Way(how, lazy, told, how is Feed.PLAIN and not lazy)

    def _how(self, source: Port, mapped: bool, target: Port, whole: bool) -> Feed | None:
        """How an output feeds an input; an item of a list of links must be one item."""
        made = feed(source.listed() if mapped else source, target if whole else Port(target.type))
        return made if whole or made is Feed.PLAIN else None

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


def _static(info: NodeInfo, literals: dict[str, Any]) -> bytes:
    """Literals as bytes.  `repr` tells 1 from 1.0, "1" and True."""
    if info.outside_key:
        literals = {key: value for key, value in literals.items() if key not in info.outside_key}
    return repr(literals).encode()


def _told(value: Any, error: ValidationError) -> str:
    reason = error.errors(include_url=False)[0]["msg"]
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{reason[0].lower()}{reason[1:]}, got {shown}."


def _ends(tasks: list[Task]) -> list[int]:
    read = {wire.source for task in tasks for wire in task.wires}
    return [position for position in range(len(tasks)) if position not in read]
