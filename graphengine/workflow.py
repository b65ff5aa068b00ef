"""The workflow document: what is stored, sent over HTTP, embedded in pictures, and nothing more.

`Workflow.load` takes a path, JSON text or a dict and reports every fault of form at once.  What the nodes mean is
not looked at here: that is `graph.Graph.build`.

Glossary
    spec       one node as written: its type and its inputs
    link       `{"from": "node.port"}` in the file, `Link(node, port)` in memory
    signature  the declared `inputs` and `outputs`: what makes a workflow a typed function
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from graphengine.errors import GraphError, Problem, did_you_mean

VERSION = 1
DEPTH_LIMIT = 64
NODE_FIELDS = {"type", "inputs", "comment", "position"}
SCALARS = (str, int, float, bool, type(None))
FIELDS = ("graphengine", "name", "description", "inputs", "outputs", "nodes", "$schema")
INTEGER_LIMIT = 2**63
Form = tuple[list[str], list[str], list[int], list[type]]


class Link(NamedTuple):
    """Where an input comes from: a node's output port."""

    node: str
    port: str

    def __str__(self) -> str:
        return f"{self.node}.{self.port}"


class NodeSpec(NamedTuple):
    """One node as written: type and inputs (literals, `Link`s, or lists that may hold links)."""

    type: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Declared:
    """A declared input of a workflow: the ports it sets, and how it is told to people."""

    to: tuple[Link, ...]
    description: str = ""


@dataclass(frozen=True)
class Workflow:
    """A workflow document.  Treat it as frozen: change it with `with_nodes` or `dataclasses.replace`."""

    nodes: Mapping[str, NodeSpec]
    name: str = "workflow"
    description: str = ""
    inputs: Mapping[str, Declared] = field(default_factory=dict)
    outputs: Mapping[str, Link] = field(default_factory=dict)
    text: str = field(default="", init=False, compare=False, repr=False)
    """What it was read from; a copy that differs has none."""

    @classmethod
    def load(cls, source: Workflow | Mapping[str, Any] | str | Path) -> Workflow:
        """Read a workflow from a path, JSON text, or a parsed document.

        Raises:
            GraphError: with every fault of form.  FileNotFoundError and OSError pass through.
        """
        if isinstance(source, Workflow):
            return source
        if isinstance(source, Path) or (isinstance(source, str) and not source.lstrip().startswith("{")):
            path = Path(source)
            return cls._parsed(path.read_text(encoding="utf-8"), path.name)
        return cls._parsed(source) if isinstance(source, str) else _Reader().workflow(source)

    @classmethod
    def _parsed(cls, text: str, name: str = "workflow") -> Workflow:
        made = _Reader().workflow(parse_json(text, name))
        object.__setattr__(made, "text", text)
        _ = made.form  # worked out while it is read, which takes far longer, so that no run has to
        return made

    @cached_property
    def form(self) -> Form:
        """What `==` does not tell of nodes: the order of nodes and inputs, and the types of all values and of lists' items."""
        inputs = [spec[1] for spec in self.nodes.values()]
        values = [*chain.from_iterable(map(dict.values, inputs))]
        kinds, lengths = [*map(type, values)], [*map(len, inputs)]
        if list in kinds:
            lists = [value for value in values if type(value) is list]
            lengths += map(len, lists)
            kinds = [kind for kind in kinds if kind is not list]
            kinds += map(type, chain.from_iterable(lists))
        return [*self.nodes], [*chain.from_iterable(inputs)], lengths, kinds

    def document(self) -> dict[str, Any]:
        """The JSON document; `Workflow.load` of it gives an equal workflow."""
        signature = {
            name: {"to": [str(link) for link in declared.to] if len(declared.to) != 1 else str(declared.to[0])}
            | ({"description": declared.description} if declared.description else {})
            for name, declared in self.inputs.items()
        }
        return {
            "graphengine": VERSION,
            "name": self.name,
            "description": self.description,
            "inputs": signature,
            "outputs": {name: {"from": str(link)} for name, link in self.outputs.items()},
            "nodes": {
                name: {"type": spec.type, "inputs": {k: _written(v) for k, v in spec.inputs.items()}}
                for name, spec in self.nodes.items()
            },
        }

    def with_inputs(self, values: Mapping[tuple[str, str], Any]) -> Workflow:
        """A copy in which the inputs (node, port) have these values."""
        nodes = dict(self.nodes)
        for (node, port), value in values.items():
            nodes[node] = NodeSpec(nodes[node].type, {**nodes[node].inputs, port: value})
        return replace(self, nodes=nodes)


def _written(value: Any) -> Any:
    if isinstance(value, Link):
        return {"from": str(value)}
    return [_written(item) for item in value] if isinstance(value, list) else value


def parse_json(text: str, name: str = "workflow") -> Any:
    """Parse JSON strictly: no duplicate keys, no NaN or Infinity, 64-bit integers, at most 64 levels.

    Raises:
        GraphError: with the place of the fault.
    """
    faults: list[Problem] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) != len(items):
            keys = [key for key, _ in items]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            faults.append(Problem("duplicate_key", f"{name}: the key {', '.join(twice)} stands twice in one object."))
        return made

    def constant(word: str) -> float:
        faults.append(Problem("not_a_number", f"{name}: {word} is no number in JSON."))
        return 0.0

    def integer(digits: str) -> int:
        value = int(digits) if len(digits) < 25 else 2 * INTEGER_LIMIT
        if not -INTEGER_LIMIT <= value < 2 * INTEGER_LIMIT:
            faults.append(Problem("integer_too_large", f"{name}: {digits[:24]} does not fit into 64 bits."))
            return 0
        return value

    def real(digits: str) -> float:
        value = float(digits)
        return constant(digits) if value in (float("inf"), float("-inf")) else value

    try:
        document = json.loads(
            text, object_pairs_hook=pairs, parse_constant=constant, parse_int=integer, parse_float=real
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise GraphError([Problem("not_json", f"{name} is not JSON: {place}.")]) from None
    except RecursionError:
        document = None
    if document is None or _too_deep(document):
        faults = [Problem("too_deep", f"{name}: nested deeper than {DEPTH_LIMIT} levels.")]
    if faults:
        raise GraphError(faults)
    return document


def _too_deep(document: Any) -> bool:
    """Whether objects and lists are nested beyond the limit; walks level by level, without recursion."""
    level = [document] if type(document) in (dict, list) else []
    for _ in range(DEPTH_LIMIT):
        level = [
            child
            for item in level
            for child in (item.values() if type(item) is dict else item)
            if type(child) in (dict, list)
        ]
        if not level:
            return False
    return True


class _Reader:
    """Turns a parsed document into a Workflow, collecting every fault on the way.

    A name that stands in many places becomes one string: that saves memory, and finding it in a dict is quicker.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._names: dict[str, str] = {}

    def fault(
        self, code: str, message: str, node: str | None = None, port: str | None = None, hint: str | None = None
    ) -> None:
        self.problems.append(Problem(code, message, node, port, hint))

    def workflow(self, document: Any) -> Workflow:
        if not isinstance(document, Mapping):
            raise GraphError([Problem("not_a_workflow", "a workflow is a JSON object.")])
        self._header(document)
        nodes = dict(self._nodes(document.get("nodes")))
        inputs = dict(self._inputs(document.get("inputs", {})))
        outputs = dict(self._outputs(document.get("outputs", {})))
        if self.problems:
            raise GraphError(self.problems)
        return Workflow(
            nodes=nodes,
            name=document.get("name", "workflow"),
            description=document.get("description", ""),
            inputs=inputs,
            outputs=outputs,
        )

    def _header(self, document: Mapping[str, Any]) -> None:
        version = document.get("graphengine")
        if version is None:
            self.fault("no_version", 'this is not a workflow: "graphengine": 1 is missing.')
        elif version != VERSION or isinstance(version, bool):
            self.fault(
                "wrong_version",
                f"the workflow says version {version!r}; this engine reads version {VERSION}.",
                hint="Update the engine, or export the workflow again.",
            )
        for key in document:
            if key not in FIELDS:
                self.fault("unknown_field", f"a workflow has no field {key!r}.", hint=did_you_mean(str(key), FIELDS))
        for key in ("name", "description"):
            if not isinstance(document.get(key, ""), str):
                self.fault("wrong_form", f"{key} is a text.")

    def _section(self, section: Any, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if not _is_object(section):
            self.fault("wrong_form", f"{name} is an object that maps names to objects.")
            return
        for key, entry in section.items():
            if _is_object(entry):
                yield key, entry
            else:
                self.fault("wrong_form", f"{name}.{key} is an object, got {_kind(entry)}.")

    def _nodes(self, section: Any) -> Iterator[tuple[str, NodeSpec]]:
        if section is None:
            self.fault("no_nodes", "the workflow has no nodes.")
            return
        for name, entry in self._section(section, "nodes"):
            self._names.setdefault(name, name)
            if not name or "." in name or "/" in name:
                self.fault("bad_name", f"{name!r} cannot be a node's id: it may not be empty or hold . or /", name)
            if not entry.keys() <= NODE_FIELDS:
                for key in entry.keys() - NODE_FIELDS:
                    hint = did_you_mean(str(key), NODE_FIELDS)
                    self.fault("unknown_field", f"a node has no field {key!r}.", name, hint=hint)
            kind, inputs = entry.get("type"), entry.get("inputs", {})
            if not isinstance(kind, str):
                self.fault("no_type", 'a node needs a "type", the name of a node class.', name)
            elif not _is_object(inputs):
                self.fault("wrong_form", f"inputs is an object, got {_kind(inputs)}.", name)
            else:
                kind = self._names.setdefault(kind, kind)
                yield name, NodeSpec(kind, {k: self._value(v, name, k) for k, v in inputs.items()})

    def _value(self, value: Any, node: str, port: str) -> Any:
        if type(value) in SCALARS:
            return value
        if _is_object(value) and "from" in value:
            if len(value) > 1:
                self.fault("bad_link", 'a link is {"from": "node.port"} and nothing more.', node, port)
            return self._link(value["from"], node, port)
        if isinstance(value, list):
            return [self._value(item, node, port) for item in value]
        return value

    def _link(self, text: Any, node: str | None = None, port: str | None = None) -> Link:
        if isinstance(text, str):
            source, dot, output = text.partition(".")
            if source and output and dot and "." not in output:
                return Link(self._names.setdefault(source, source), intern(output))
        self.fault("bad_link", f'a link is "node.port", got {text!r}.', node, port)
        return Link("?", "?")

    def _inputs(self, section: Any) -> Iterator[tuple[str, Declared]]:
        for name, entry in self._section(section, "inputs"):
            targets = entry.get("to")
            targets = targets if isinstance(targets, list) else [targets]
            links = tuple(self._link(target, port=f"inputs.{name}") for target in targets)
            yield name, Declared(links, str(entry.get("description", "")))

    def _outputs(self, section: Any) -> Iterator[tuple[str, Link]]:
        for name, entry in self._section(section, "outputs"):
            yield name, self._link(entry.get("from"), port=f"outputs.{name}")


def _is_object(value: Any) -> bool:
    """A JSON object, or any mapping.  Asking for the usual type first matters: it is asked for every node and value."""
    return type(value) is dict or isinstance(value, Mapping)


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
