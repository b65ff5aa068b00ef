"""Workflows used as nodes: `{"type": "workflow.hires", ...}` is replaced by the nodes of the workflow `hires`.

Inner nodes are called `outer/inner`.  The inputs of the outer node are the declared inputs of the inner workflow,
its outputs the declared outputs.  Effects inside are not wanted for themselves: only what the outputs need runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from graphengine.errors import Problem, did_you_mean
from graphengine.workflow import Link, NodeSpec, Workflow

PREFIX = "workflow."


def flatten(workflow: Workflow, find: Callable[[str], Workflow | None]) -> tuple[Workflow, list[Problem]]:
    """The workflow without subgraphs, and what is wrong with those that could not be replaced."""
    if not any(kind.startswith(PREFIX) for kind in {spec[0] for spec in workflow.nodes.values()}):
        return workflow, []
    problems: list[Problem] = []
    nodes: dict[str, NodeSpec] = {}
    moved: dict[Link, Link] = {}
    pending: deque[tuple[str, NodeSpec, tuple[str, ...]]] = deque(
        (name, spec, ()) for name, spec in workflow.nodes.items()
    )
    while pending:
        name, spec, above = pending.popleft()
        if not spec.type.startswith(PREFIX):
            nodes[name] = spec
            continue
        inner_name = spec.type.removeprefix(PREFIX)
        inner = find(inner_name)
        if inner_name in above:
            path = " -> ".join([*above, inner_name])
            problems.append(Problem("cycle", f"the workflow contains itself: {path}.", name))
        elif inner is None:
            problems.append(Problem("unknown_type", f"there is no workflow {inner_name!r}.", name))
        else:
            problems += _check_inputs(name, spec, inner)
            for inner_id, inner_spec in inline(name, inner, spec.inputs).items():
                pending.append((inner_id, inner_spec, (*above, inner_name)))
            for port, link in inner.outputs.items():
                moved[Link(name, port)] = Link(f"{name}/{link.node}", link.port)
    nodes = {name: _relinked(spec, moved) for name, spec in nodes.items()}
    outputs = {name: _follow(link, moved) for name, link in workflow.outputs.items()}
    return replace(workflow, nodes=nodes, outputs=outputs), problems


def _check_inputs(name: str, spec: NodeSpec, inner: Workflow) -> list[Problem]:
    return [
        Problem(
            "unknown_input",
            f"the workflow {inner.name} declares no input {key!r}.",
            name,
            key,
            did_you_mean(key, inner.inputs),
        )
        for key in spec.inputs
        if key not in inner.inputs
    ]


def inline(name: str, inner: Workflow, inputs: Mapping[str, Any]) -> dict[str, NodeSpec]:
    """The nodes of a workflow under the ids `name/...`, with its declared inputs set to `inputs`."""
    values = {link: inputs[key] for key, declared in inner.inputs.items() if key in inputs for link in declared.to}
    made = {}
    for inner_id, spec in inner.nodes.items():
        own = {key: _prefixed(value, name) for key, value in spec.inputs.items()}
        own |= {link.port: value for link, value in values.items() if link.node == inner_id}
        made[f"{name}/{inner_id}"] = NodeSpec(spec.type, own)
    return made


def _prefixed(value: Any, name: str) -> Any:
    if isinstance(value, Link):
        return Link(f"{name}/{value.node}", value.port)
    return [_prefixed(item, name) for item in value] if isinstance(value, list) else value


def _relinked(spec: NodeSpec, moved: dict[Link, Link]) -> NodeSpec:
    def move(value: Any) -> Any:
        if isinstance(value, Link):
            return _follow(value, moved)
        return [move(item) for item in value] if isinstance(value, list) else value

    return NodeSpec(spec.type, {key: move(value) for key, value in spec.inputs.items()})


def _follow(link: Link, moved: dict[Link, Link]) -> Link:
    while link in moved:
        link = moved[link]
    return link
