"""Small real nodes for tests of the engine, and the graphs they make.  `calls` tells what ran."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from graphengine import Context, Field, Lazy, Link, Node, Ports, Workflow
from graphengine.workflow import Declared, NodeSpec

calls: list[str] = []


class Constant(Node):
    """A whole number."""

    value: int = Field(0, ge=-1000, le=10**9)

    class Outputs(Ports):
        value: int

    def run(self, ctx: Context) -> Outputs:
        calls.append(ctx.node)
        return self.Outputs(value=self.value)


class Add(Node):
    """The sum of two numbers."""

    a: int
    b: int = 1

    class Outputs(Ports):
        value: int

    def run(self, ctx: Context) -> Outputs:
        calls.append(ctx.node)
        return self.Outputs(value=self.a + self.b)


class Total(Node):
    """The sum of a list."""

    numbers: list[int]

    class Outputs(Ports):
        value: int

    def run(self, ctx: Context) -> Outputs:
        calls.append(ctx.node)
        return self.Outputs(value=sum(self.numbers))


class Count(Node):
    """The numbers below n, as a list."""

    n: int = Field(3, ge=0)

    class Outputs(Ports):
        numbers: list[int]

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(numbers=list(range(self.n)))


class Choose(Node):
    """One of two numbers; the other is not computed."""

    first: bool
    a: Lazy[int]
    b: Lazy[int]

    class Outputs(Ports):
        value: int

    def run(self, ctx: Context) -> Outputs:
        return self.Outputs(value=(self.a if self.first else self.b).get())


class AddTimes(Node):
    """Adds one again and again: an expansion that is as long as `times`."""

    a: int
    times: int

    class Outputs(Ports):
        value: int

    def run(self, ctx: Context) -> Outputs | Workflow:
        if self.times == 0:
            return self.Outputs(value=self.a)
        nodes = {
            "add": NodeSpec("Add", {"a": 0}),
            "rest": NodeSpec("AddTimes", {"a": Link("add", "value"), "times": self.times - 1}),
        }
        return Workflow(nodes, inputs={"a": Declared((Link("add", "a"),))}, outputs={"value": Link("rest", "value")})


class Wait(Node):
    """Works until it is let go, reporting all the while."""

    started: ClassVar[threading.Event] = threading.Event()
    let_go: ClassVar[threading.Event] = threading.Event()
    number: int = 0

    class Outputs(Ports):
        value: int

    def run(self, ctx: Context) -> Outputs:
        calls.append(ctx.node)
        type(self).started.set()
        done = 0
        while not type(self).let_go.wait(0.002):
            ctx.progress(done := done + 1, 1000)
        return self.Outputs(value=self.number)


class Fail(Node):
    """Raises."""

    a: int = 0

    class Outputs(Ports):
        value: int

    def run(self, ctx: Context) -> Outputs:
        raise ValueError("it cannot be done")


class Random(Node, cached=False):
    """Another number each time."""

    class Outputs(Ports):
        value: int

    def run(self, ctx: Context) -> Outputs:
        calls.append(ctx.node)
        return self.Outputs(value=len(calls))


NODES = (Constant, Add, Total, Count, Choose, AddTimes, Wait, Fail, Random)


def workflow(nodes: dict[str, Any], outputs: dict[str, str] | None = None, **more: Any) -> Workflow:
    """A workflow of `{id: (type, inputs)}`; an input "@node.port" is a link."""

    def value(item: Any) -> Any:
        if isinstance(item, list):
            return [value(child) for child in item]
        return {"from": item[1:]} if isinstance(item, str) and item.startswith("@") else item

    made = {
        name: {"type": kind, "inputs": {k: value(v) for k, v in inputs.items()}}
        for name, (kind, inputs) in nodes.items()
    }
    ends = {name: {"from": port} for name, port in (outputs or {}).items()}
    return Workflow.load({"graphengine": 1, "name": "test", "nodes": made, "outputs": ends, **more})


def chain(length: int, last: int = 1) -> Workflow:
    """n0 -> n1 -> ...: each adds one, the last adds `last`."""
    nodes: dict[str, Any] = {"n0": ("Constant", {"value": 0})}
    for i in range(1, length):
        nodes[f"n{i}"] = ("Add", {"a": f"@n{i - 1}.value", "b": last if i == length - 1 else 1})
    return workflow(nodes, {"value": f"n{length - 1}.value"})
