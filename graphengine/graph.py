"""From a workflow and a registry to a checked graph, or to every reason why it cannot run.

`Graph.build` walks the nodes a constant number of times and never recurses, so a chain of 100,000 is as good as
one of ten.  The result is a list of tasks in topological order; a task knows its upstream tasks by position.

Glossary
    task       one node, checked: its NodeInfo, its literals (validated), its wires
    wire       one link into an input: which task, which port, how it feeds, and its slot in a list of links
    given      a value that comes from outside the graph (a fragment's inputs): it has a key and no task
    target     a task whose outputs are wanted: declared outputs, effects, or what the caller names
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import compress
from operator import ne
from typing import Any, NamedTuple

from graphengine.errors import GraphError, Problem, did_you_mean
from graphengine.node import NodeInfo
from graphengine.ports import Feed, Port
from graphengine.registry import Registry
from graphengine.subgraph import flatten
from graphengine.workflow import Link, NodeSpec, Workflow

SURE = {Link, str, int, bool, type(None)}
"""Values of these types that are equal and of one type are equal to the letter; -0.0 and [True] are not [1]."""
FindWorkflow = Callable[[str], Workflow | None]


class Wire(NamedTuple):
    """One link into an input."""

    input: str
    source: int
    port: str
    feed: Feed
    slot: int | None
    lazy: bool


class Given(NamedTuple):
    """A value from outside: its type, its cache key, and itself."""

    port: Port
    key: bytes
    value: Any


@dataclass(slots=True)
class Task:
    """One node, checked.

    `static` is the part of its cache key that does not depend on anything upstream; `mapped` says that it runs once per
    item of a list, `direct` that its inputs are its literals and whole outputs of other tasks, as most nodes' are.
    """

    id: str
    info: NodeInfo
    literals: dict[str, Any]
    wires: tuple[Wire, ...]
    static: bytes
    mapped: bool
    direct: bool
    lists: tuple[tuple[str, list[Any]], ...]


@dataclass
class Graph:
    """A workflow that can run.  `tasks` is in topological order; `index` finds a task by its node's id."""

    workflow: Workflow
    tasks: list[Task]
    index: dict[str, int]
    outputs: dict[str, tuple[int, str]]
    targets: list[int]
    given: dict[str, Given] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        workflow: Workflow,
        registry: Registry,
        find_workflow: FindWorkflow = lambda name: None,
        given: Mapping[str, Given] | None = None,
    ) -> Graph:
        """Check a workflow against the registry.

        Raises:
            GraphError: with every problem, each naming its node and port.
        """
        from graphengine.builder import Builder

        return Builder(registry, dict(given or {})).build(*flatten(workflow, find_workflow))

    def changed(self, workflow: Workflow, registry: Registry) -> tuple[Graph, list[int]] | None:
        """The graph of a workflow that differs from this one's in literals only, and the tasks that changed.

        None when more has changed; then build anew.  Raises GraphError like `build`.
        """
        was = self.workflow
        if workflow.text and workflow.text == was.text and not self.given:
            return self, []
        if self.given or (workflow.outputs, workflow.inputs) != (was.outputs, was.inputs):
            return None
        before = was.nodes
        if workflow.form[0] != was.form[0] and before.keys() != workflow.nodes.keys():
            return None
        different = _different(was, workflow)
        if not different:
            return self, []
        if not all(_same_links(before[n], workflow.nodes[n]) for n in different):
            return None
        if any(name not in self.index for name in different):
            return None
        from graphengine.builder import Builder

        builder = Builder(registry, {})
        tasks, positions = self.tasks.copy(), [self.index[name] for name in different]
        for name, position in zip(different, positions, strict=True):
            tasks[position] = builder.again(tasks[position], workflow.nodes[name].inputs)
        if builder.problems:
            raise GraphError(builder.problems)
        return Graph(workflow, tasks, self.index, self.outputs, self.targets), sorted(positions)

    def select(self, targets: Iterable[str] | None) -> list[int]:
        """Positions of the wanted tasks; names are node ids or declared outputs.  None means all of them.

        Raises:
            GraphError: a name that is neither.
        """
        if targets is None:
            return self.targets
        chosen, problems = [], []
        for name in targets:
            node = name.split(".")[0]
            if name in self.outputs:
                chosen.append(self.outputs[name][0])
            elif node in self.index:
                chosen.append(self.index[node])
            else:
                hint = did_you_mean(name, [*self.outputs, *self.index])
                problems.append(Problem("unknown_target", f"there is no node or output {name!r}.", hint=hint))
        if problems:
            raise GraphError(problems)
        return sorted(set(chosen))


def _different(was: Workflow, workflow: Workflow) -> list[str]:
    """Nodes that are not equal to the letter: to Python 1, 1.0 and True are the same, to a cache they are not."""
    old, new = was.nodes, workflow.nodes
    if was.form == workflow.form and SURE.issuperset(workflow.form[3]):
        return [*compress(new, map(ne, old.values(), new.values()))]
    return [name for name, spec in new.items() if old[name] != spec or not _alike_inputs(old[name], spec)]


def _alike_inputs(old: NodeSpec, new: NodeSpec) -> bool:
    return all(_same(old.inputs[key], value) for key, value in new.inputs.items())


def _same(old: Any, new: Any) -> bool:
    """Whether two equal values are equal to the letter."""
    if type(old) is not type(new):
        return False
    if type(new) in SURE:
        return True
    if type(new) is list:
        kinds = [*map(type, new)]
        if SURE.issuperset(kinds):
            return kinds == [*map(type, old)]
    return repr(old) == repr(new)


def _same_links(old: NodeSpec, new: NodeSpec) -> bool:
    if old.type != new.type or old.inputs.keys() != new.inputs.keys():
        return False
    return all(
        old.inputs[key] == value or not (_has_link(value) or _has_link(old.inputs[key]))
        for key, value in new.inputs.items()
    )


def _has_link(value: Any) -> bool:
    return type(value) is Link or (type(value) is list and any(type(item) is Link for item in value))
