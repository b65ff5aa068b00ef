"""Cache keys: a name for what a node would compute, made before it is computed.

    key(node) = H(type, plugin and its version, digest of its code, literals, outside facts, numerics, upstream keys)

with H = blake2b of 16 bytes.  Keys are made bottom-up in one pass, so the cost is linear; tensors are never hashed.
A node with `cached=False` gets a random key, which salts everything behind it.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

from graphengine.errors import AssetError, CheckpointError, GraphError, Problem
from graphengine.graph import Graph, Task
from graphengine.node import Node, NodeInfo
from graphengine.settings import Settings

SIZE = 16
LARGE = 64 * 2**20
"""Bytes from which on a file's digest is worth remembering between processes."""
NUMERIC_ROOMS = ("diffusion", "models")


def digest(*parts: bytes) -> bytes:
    """blake2b of the parts, 16 bytes."""
    return blake2b(b"".join(parts), digest_size=SIZE).digest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal text; remembered by path, inode, size and time of change."""
    status = path.stat()
    return _file_digest(str(path), status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_digest(path: str, inode: int, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_digest(path: Path, folder: Path) -> str:
    """`file_digest` of a large file, remembered in `folder` so that the next process need not read gigabytes again."""
    status = path.stat()
    if status.st_size < LARGE:
        return file_digest(path)
    note = folder / "digests" / f"{digest(str(path.resolve()).encode()).hex()}.json"
    facts = [status.st_ino, status.st_size, status.st_mtime_ns]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text())
        if known["facts"] == facts:
            return str(known["sha256"])
    made = file_digest(path)
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        beside = note.with_name(f"{note.name}.{os.getpid()}")
        beside.write_text(json.dumps({"facts": facts, "sha256": made}))
        beside.replace(note)
    return made


@lru_cache(maxsize=4096)
def code_digest(node: type[Node]) -> bytes:
    """Digest of the file that defines a node; for built-in nodes also of the numeric code they stand on."""
    try:
        source = Path(inspect.getfile(node)).read_bytes()
    except (OSError, TypeError):
        source = node.__qualname__.encode()
    if node.__module__.startswith("graphengine."):
        source += _wings_digest()
    return digest(source)


@lru_cache(maxsize=1)
def _wings_digest() -> bytes:
    here = Path(__file__).parent
    files = [path for room in NUMERIC_ROOMS for path in (here / room).rglob("*.py")]
    return digest(*(path.read_bytes() for path in sorted(files)))


@lru_cache(maxsize=256)
def _plugin_version(plugin: str) -> str:
    name = "graphengine-diffusion" if plugin == "graphengine" else plugin
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "0"


class Fingerprinter:
    """Makes keys under one set of settings."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._numerics = json.dumps(settings.numerics(), sort_keys=True).encode()
        self._identities: dict[NodeInfo, bytes] = {}

    def identity(self, info: NodeInfo) -> bytes:
        """The part of the key that a node type contributes: name, version, plugin, code, and numerics."""
        known = self._identities.get(info)
        if known:
            return known
        facts = info.facts
        text = f"{info.name}\0{facts.version}\0{info.plugin}\0{_plugin_version(info.plugin)}\0"
        made = digest(text.encode(), code_digest(info.type), self._numerics if facts.lane == "gpu" else b"")
        self._identities[info] = made
        return made

    def outside(self, task: Task, inputs: Mapping[str, Any] | None = None) -> bytes | None:
        """A node's facts from outside the graph as canonical JSON.

        `inputs` defaults to what is written in the workflow; None comes back when the facts depend on an input that is
        linked, and so can be had only when the node's turn comes.

        Raises:
            GraphError: a file is missing, damaged or out of bounds; it names the node.
        """
        known = {key: item.default for key, item in task.info.inputs.items() if not item.required}
        try:
            facts = task.info.type.outside(known | dict(inputs or task.literals), self.settings)
        except KeyError as error:
            if inputs is None and error.args[0] in {wire.input for wire in task.wires}:
                return None
            raise
        except (AssetError, CheckpointError, OSError) as error:
            raise GraphError([Problem("outside", str(error), task.id)]) from error
        return json.dumps(facts, sort_keys=True).encode()

    def key(self, task: Task, outside: bytes, upstream: Iterable[bytes]) -> bytes:
        """The key of one task."""
        if not task.info.facts.cached:
            return os.urandom(SIZE)
        parts = b"".join((self.identity(task.info), task.static, outside, *upstream))
        return blake2b(parts, digest_size=SIZE).digest()

    def keys(self, graph: Graph) -> Keys:
        """Keys of all tasks.  Raises GraphError with every outside fact that could not be had."""
        made = Keys(graph, [], {}, set(), set())
        keys, known, problems = made.keys, self._identities, []
        for position, task in enumerate(graph.tasks):
            info = task.info
            if task.direct and info.plain:  # as `key` does it, without its calls: graphs have many such nodes
                parts = (known.get(info) or self.identity(info)) + task.static
                for wire in task.wires:
                    parts += keys[wire[1]]
                keys.append(blake2b(parts, digest_size=SIZE).digest())
                continue
            if not info.facts.cached:
                made.unstable.add(position)
            if info.has_outside:
                try:
                    self._note_outside(made, position, task)
                except GraphError as error:
                    problems += error.problems
            keys.append(self._key_at(made, position))
        if problems:
            raise GraphError(problems)
        return made

    def _note_outside(self, keys: Keys, position: int, task: Task) -> None:
        facts = self.outside(task)
        if facts is None:
            keys.late.add(position)
            keys.unstable.add(position)
        else:
            keys.outside[position] = facts

    def _key_at(self, keys: Keys, position: int) -> bytes:
        task = keys.graph.tasks[position]
        if position in keys.late:
            return os.urandom(SIZE)
        return self.key(task, keys.outside.get(position, b""), keys.upstream(task))

    def rekey(self, old: Keys, graph: Graph, changed: Iterable[int]) -> Keys:
        """Keys of a graph that differs from the old one in these tasks: only they and their cone are made anew."""
        dirty = set(changed)
        outside = dict(old.outside)
        for position in old.outside:
            fresh = self.outside(graph.tasks[position])
            if fresh is not None and fresh != outside[position]:
                outside[position] = fresh
                dirty.add(position)
        dirty |= old.unstable
        if not dirty:
            return Keys(graph, old.keys, outside, old.unstable, old.late, old.readers)
        made = Keys(graph, old.keys.copy(), outside, old.unstable, old.late, old.readers)
        readers = made.reader_lists()
        cone = list(dirty)
        for position in cone:  # grows while it is walked
            for reader in readers.get(position, ()):
                if reader not in dirty:
                    dirty.add(reader)
                    cone.append(reader)
        for position in sorted(cone):
            made.keys[position] = self._key_at(made, position)
        return made


class Keys:
    """The keys of a graph's tasks, by position, with what was used to make them.

    `unstable` tasks never have the same key twice; `late` ones have outside facts that depend on a linked input;
    `readers` maps a position to those who read it.
    """

    def __init__(
        self,
        graph: Graph,
        keys: list[bytes],
        outside: dict[int, bytes],
        unstable: set[int],
        late: set[int],
        readers: dict[int, list[int]] | None = None,
    ):
        self.graph, self.keys, self.outside = graph, keys, outside
        self.unstable, self.late = unstable, late
        self.readers = {} if readers is None else readers

    def upstream(self, task: Task) -> list[bytes]:
        """Keys of what feeds a task, in the order of its wires; inputs that are no part of the key are left out."""
        keys, given, inputs = self.keys, self.graph.given, task.info.inputs
        return [
            keys[wire.source] if wire.source >= 0 else given[wire.port].key
            for wire in task.wires
            if inputs[wire.input].in_key
        ]

    def reader_lists(self) -> dict[int, list[int]]:
        """Who reads whom, made once per shape of graph and shared by its variants."""
        if not self.readers:
            for position, task in enumerate(self.graph.tasks):
                for wire in task.wires:
                    self.readers.setdefault(wire.source, []).append(position)
        return self.readers


def parts(task: Task, keys: Keys, position: int, identity: bytes) -> dict[str, Any]:
    """What a key was made of, in readable form: what `explain` compares."""
    inputs: dict[str, Any] = {k: v for k, v in task.literals.items() if task.info.inputs[k].in_key}
    for wire, key in zip(task.wires, keys.upstream(task), strict=False):
        source = keys.graph.tasks[wire.source].id if wire.source >= 0 else "given"
        name = wire.input if wire.slot is None else f"{wire.input}[{wire.slot}]"
        inputs[name] = {"from": f"{source}.{wire.port}", "key": key.hex()}
    outside: Mapping[str, Any] = json.loads(keys.outside.get(position, b"{}"))
    return {"type": task.info.name, "identity": identity.hex(), "inputs": inputs, "outside": outside}
