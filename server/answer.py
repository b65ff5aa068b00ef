"""The questions that a worker answers about workflows, so that the server need not import a single node.

Each takes the body of a request as text and gives JSON text; faults are told by raising GraphError.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, get_args, get_origin

from graphengine.engine import Engine
from graphengine.errors import GraphError, Problem
from graphengine.graph import Graph
from graphengine.node import Input, NodeInfo
from graphengine.ports import Port
from graphengine.workflow import Workflow, parse_json

from .model import Submitted, parsed

LINK = {
    "type": "object",
    "properties": {"from": {"type": "string", "pattern": r"^.+\..+$"}},
    "required": ["from"],
    "additionalProperties": False,
}
PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean"}


def read(engine: Engine, body: str, node_limit: int) -> tuple[Workflow, Submitted]:
    """The workflow (given inline or by name) and the rest of a request's body.  Raises GraphError."""
    submitted = parsed(Submitted, body)
    workflow = _workflow(engine, submitted.workflow)
    if len(workflow.nodes) > node_limit:
        message = f"the workflow has {len(workflow.nodes):,} nodes; at most {node_limit:,} are taken."
        raise GraphError([Problem("too_large", message)])
    return workflow, submitted


def _workflow(engine: Engine, given: str | dict[str, Any]) -> Workflow:
    if isinstance(given, dict):
        return Workflow.load(given)
    found = engine.find_workflow(given)
    if found is None:
        raise GraphError([Problem("unknown_workflow", f"there is no workflow {given[:60]!r}.", port="workflow")])
    return found


def check(engine: Engine, body: str, node_limit: int) -> dict[str, Any]:
    """Whether a submission can run, and the submission with its workflow spelled out."""
    return checked(engine, body, *read(engine, body, node_limit))


def checked(engine: Engine, body: str, workflow: Workflow, submitted: Submitted) -> dict[str, Any]:
    """Like `check`, of a body that has been read."""
    graph, _ = engine.prepare(workflow, submitted.inputs)
    graph.select(submitted.targets)
    if isinstance(submitted.workflow, str):
        body = json.dumps(submitted.model_dump() | {"workflow": workflow.document()})
    return {
        "name": workflow.name[:256],
        "nodes": len(graph.tasks),
        "priority": submitted.priority,
        "webhook": submitted.webhook,
        "submission": body,
    }


def explain(engine: Engine, body: str, node_limit: int) -> dict[str, Any]:
    """What would be computed, and why, node by node."""
    from graphengine.forecast import forecast

    workflow, submitted = read(engine, body, node_limit)
    told = [asdict(entry) for entry in engine.explain(workflow, submitted.inputs, submitted.targets)]
    graph, _ = engine.prepare(workflow, submitted.inputs)
    names = {entry["node"] for entry in told if entry["state"] == "miss"}
    needs = forecast(graph, engine.settings, {graph.index[name] for name in names if name in graph.index})
    return {
        "hits": sum(entry["state"] == "hit" for entry in told),
        "work": sum(entry["state"] == "miss" for entry in told),
        "memory": {"needed": needs.needed, "fits": needs.fits, "measures": needs.measures()},
        "nodes": told,
    }


def catalogue(engine: Engine) -> dict[str, Any]:
    """Every node type with its ports and a JSON Schema of its inputs, and the plugins that are broken."""
    nodes = [node(info) for info in sorted(engine.registry, key=lambda info: info.name)]
    return {"nodes": nodes, "broken": engine.registry.broken}


def models(engine: Engine) -> dict[str, Any]:
    """What lies in the model folders, and what is wrong with it; not where it lies."""
    from graphengine.models.inventory import inventory

    told = ("name", "kind", "family", "variant", "parameters", "bytes", "wrong")
    return {"models": [{key: getattr(entry, key) for key in told} for entry in inventory(engine.settings)]}


def node(info: NodeInfo) -> dict[str, Any]:
    return {
        "type": info.name,
        "summary": info.summary,
        "category": info.facts.category,
        "plugin": info.plugin,
        "version": info.facts.version,
        "lane": info.facts.lane,
        "effect": info.facts.effect,
        "inputs": {
            name: {"type": item.port.label, "required": item.required, "description": item.help}
            for name, item in info.inputs.items()
        },
        "outputs": {name: port.label for name, port in info.outputs.items()},
        "schema": {
            "type": "object",
            "properties": {name: {"anyOf": [LINK, *_written(item)]} for name, item in info.inputs.items()},
            "required": [name for name, item in info.inputs.items() if item.required],
            "additionalProperties": False,
        },
    }


def _written(item: Input) -> list[dict[str, Any]]:
    return [] if item.validate is None else [value_schema(item)]


def value_schema(item: Input, default: Any = None) -> dict[str, Any]:
    """JSON Schema of a value that may be written for an input."""
    schema = _port_schema(item.port, item)
    if item.help:
        schema["description"] = item.help
    if item.models:
        schema["models"] = list(item.models)  # kinds as `models` has them: a form offers these
    default = item.default if default is None and not item.required else default
    if isinstance(default, int | float | str | bool | list):
        schema["default"] = default
    return schema


def _port_schema(port: Port, item: Input) -> dict[str, Any]:
    if port.many:
        return {"type": "array", "items": _port_schema(Port(port.type), item)}
    schema: dict[str, Any] = {}
    if get_origin(port.type) is not None and item.choices:
        return {"enum": list(get_args(port.type))}
    low, high = item.bounds
    if port.type in PLAIN:
        schema["type"] = PLAIN[port.type]  # pyright: ignore[reportArgumentType] - asked a line above
    elif (low, high) != (None, None):
        schema["type"] = "number"
    if schema.get("type") in ("integer", "number"):
        schema |= {"minimum": low} if low is not None else {}
        schema |= {"maximum": high} if high is not None else {}
    if port.optional and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    return schema


def signature(engine: Engine, body: str) -> dict[str, Any]:
    """A workflow as a typed function: the document, a JSON Schema of its declared inputs, its outputs by type."""
    given: Any = parse_json(body, "body")
    if not isinstance(given, dict | str):
        raise GraphError([Problem("form", f"a workflow is an object, got {type(given).__name__}.")])
    workflow = _workflow(engine, given)
    graph = Graph.build(workflow, engine.registry, engine.find_workflow)  # its files need not be there yet
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, declared in workflow.inputs.items():
        link = declared.to[0]
        spec, item = workflow.nodes[link.node], _target(engine, workflow, link.node, link.port)
        written = spec.inputs.get(link.port)
        if item is None or item.validate is None:
            continue
        properties[name] = value_schema(item, written) | _told(declared.description, spec.type, link.port)
        if item.required and written is None:
            required.append(name)
    outputs = {name: graph.tasks[p].info.outputs[port].label for name, (p, port) in graph.outputs.items()}
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {
        "name": workflow.name,
        "description": workflow.description,
        "inputs": schema,
        "outputs": outputs,
        "document": workflow.document(),
    }


def _target(engine: Engine, workflow: Workflow, node: str, port: str) -> Input | None:
    info = engine.registry.find(workflow.nodes[node].type)
    return info.inputs.get(port) if info else None


def _told(description: str, node_type: str, port: str) -> dict[str, Any]:
    told: dict[str, Any] = {"description": description} if description else {}
    if node_type == "LoadImage" and port == "file":
        told["format"] = "image-file"  # a form shows a file chooser
    return told
