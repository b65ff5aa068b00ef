"""Choosing and repeating."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphengine import Context, Field, Lazy, Link, Node, Ports, Settings, Workflow
from graphengine.compose import workflow_finder
from graphengine.subgraph import PREFIX, inline
from graphengine.workflow import Declared, NodeSpec


class Switch(Node, category="control"):
    """Pass on one of two inputs; what the other depends on is not computed."""

    condition: bool = Field(description="true passes on_true")
    on_true: Lazy[Any] = Field(description="computed and passed on when the condition is true")
    on_false: Lazy[Any] = Field(description="computed and passed on when it is false")

    class Outputs(Ports):
        value: Any

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(value=(self.on_true if self.condition else self.on_false).get())


class Repeat(Node, category="control"):
    """Send a value through a workflow again and again: what comes out goes in the next time."""

    value: Any = Field(description="what goes in the first time")
    times: int = Field(2, ge=0, le=10_000, description="how often")
    workflow: str | dict[str, Any] = Field(description="a workflow's name, or the workflow itself")
    input: str = Field(description="the declared input that takes the value")
    output: str = Field(description="the declared output that gives the next value")

    class Outputs(Ports):
        value: Any

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        return named(inputs, settings)

    def run(self, ctx: Context) -> Outputs | Workflow:
        if self.times == 0:
            return self.Outputs(value=self.value)
        nodes: dict[str, NodeSpec] = {}
        carried: Any = None
        first: tuple[Link, ...] = ()
        for turn in range(self.times):
            body = body_of(self.workflow, (self.input,), self.output, ctx)
            name = f"turn{turn + 1}"
            nodes |= inline(name, body, {self.input: carried} if turn else {})
            if not turn:
                first = tuple(Link(f"{name}/{to.node}", to.port) for to in body.inputs[self.input].to)
            carried = Link(f"{name}/{body.outputs[self.output].node}", body.outputs[self.output].port)
        return Workflow(nodes, "repeat", inputs={"value": Declared(first)}, outputs={"value": carried})


class ForEach(Node, category="control"):
    """Run a workflow once for each item of a list and collect what comes out, in order."""

    items: list[Any] = Field(description="what goes in, one after the other: numbers, texts or truths")
    workflow: str | dict[str, Any] = Field(description="a workflow's name, or the workflow itself")
    input: str = Field(description="the declared input that takes the item")
    output: str = Field(description="the declared output that is collected")

    class Outputs(Ports):
        results: list[Any]

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        return named(inputs, settings)

    def run(self, ctx: Context) -> Outputs | Workflow:
        if not self.items:
            return self.Outputs(results=[])
        body = body_of(self.workflow, (self.input,), self.output, ctx)
        end = body.outputs[self.output]
        nodes: dict[str, NodeSpec] = {}
        links = []
        for number, item in enumerate(self.items, 1):
            if not isinstance(item, int | float | str | bool):
                raise ValueError(
                    f"item {number} is a {type(item).__name__}; a node that takes one item maps over a list by itself."
                )
            nodes |= inline(f"item{number}", body, {self.input: item})
            links.append(Link(f"item{number}/{end.node}", end.port))
        nodes["collect"] = NodeSpec("Collect", {"items": links})
        return Workflow(nodes, "for_each", outputs={"results": Link("collect", "items")})


class Collect(Node, category="control"):
    """Several values as one list, in the order in which they are linked."""

    items: list[Any] = Field(description="the values")

    class Outputs(Ports):
        items: list[Any]

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(items=self.items)


class CountItems(Node, category="control"):
    """How many items a list has."""

    items: list[Any] = Field(description="the list")

    class Outputs(Ports):
        count: int

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(count=len(self.items))


def named(inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
    """Workflows that are used by their names stand outside the graph: their documents are part of the key."""
    find, found = workflow_finder(settings), {}
    pending = [inputs.get("workflow")]
    while pending:
        item = pending.pop()
        if isinstance(item, str) and item not in found and (workflow := find(item)):
            found[item] = workflow.document()
            pending.append(found[item])
        elif isinstance(item, dict):
            specs = item.get("nodes", {}).values()
            pending += [str(spec.get("type", "")).removeprefix(PREFIX) for spec in specs]
            pending += [spec.get("inputs", {}).get("workflow") for spec in specs]
    return found


def body_of(workflow: str | dict[str, Any], entries: tuple[str, ...], end: str, ctx: Context) -> Workflow:
    """The workflow to repeat, checked for the inputs and the output that are wanted of it.  Raises ValueError."""
    if isinstance(workflow, dict):
        body = Workflow.load(workflow)
    else:
        found = ctx.find_workflow(workflow)
        if found is None:
            raise ValueError(f"there is no workflow {workflow!r}.")
        body = found
    for entry in entries:
        if entry not in body.inputs:
            raise ValueError(f"the workflow declares no input {entry!r}; it has {', '.join(body.inputs) or 'none'}.")
    if end not in body.outputs:
        raise ValueError(f"the workflow declares no output {end!r}; it has {', '.join(body.outputs) or 'none'}.")
    return body
