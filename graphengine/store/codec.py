"""Outputs to bytes and back: JSON for the structure, safetensors for the arrays, a checksum over both.

    8 bytes   magic "GECACHE1"
    32 bytes  blake2b of everything that follows
    8 bytes   length of the JSON, little-endian
    JSON      {"outputs": skeleton, "parts": ..., "seconds": ..., "framework": "numpy" or "torch"}
    rest      safetensors

A skeleton is JSON in which an array stands as {"$array": name} and a value object as
{"$value": class, "fields": {...}}.  Nothing is ever pickled, and only `Value` classes that are already imported are
made.  safetensors alone lets a flipped bit through; the checksum does not.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Any

from graphengine.values import Value, value_class

MAGIC, CHECK = b"GECACHE1", 32
HEADER = len(MAGIC) + CHECK + 8


class NotStorable(Exception):
    """An output holds something that may not be written, such as a handle on weights."""


class Damaged(Exception):
    """The bytes are not what was written."""


def encode(outputs: dict[str, Any], notes: dict[str, Any]) -> bytes:
    """Bytes of a node's outputs.  Raises NotStorable."""
    found: dict[int, tuple[str, Any]] = {}
    skeleton = {name: _skeleton(value, found) for name, value in outputs.items()}
    arrays = dict(found.values())
    torch_arrays = [a for a in arrays.values() if type(a).__module__.startswith("torch")]
    framework = "torch" if torch_arrays else "numpy"
    if framework == "torch":
        import torch
        from safetensors.torch import save

        blob = save(_apart({n: torch.as_tensor(_writable(a)).contiguous().cpu() for n, a in arrays.items()}))
        kinds = {n: "numpy" for n, a in arrays.items() if not isinstance(a, torch.Tensor)}
    else:
        from numpy import ascontiguousarray
        from safetensors.numpy import save

        blob = save({name: ascontiguousarray(array) for name, array in arrays.items()})
        kinds = {}
    document = {"outputs": skeleton, "framework": framework, "numpy": sorted(kinds), **notes}
    text = json.dumps(document).encode()
    body = len(text).to_bytes(8, "little") + text + blob
    return MAGIC + hashlib.blake2b(body, digest_size=CHECK).digest() + body


def _writable(array: Any) -> Any:
    """torch warns about read-only arrays, and rightly: a copy is what gets written anyway."""
    return array.copy() if type(array).__module__ == "numpy" else array.detach()


def _apart(tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors of which no two share memory, which safetensors does not write."""
    places: set[int] = set()
    made = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        made[name] = tensor.clone() if place in places else tensor
        places.add(place)
    return made


def _skeleton(value: Any, arrays: dict[int, tuple[str, Any]]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_skeleton(item, arrays) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) and not key.startswith("$") for key in value):
            raise NotStorable("a mapping with keys that are no plain texts")
        return {key: _skeleton(item, arrays) for key, item in value.items()}
    if isinstance(value, Value):
        if not value.stored:
            raise NotStorable(type(value).__name__)
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return {
            "$value": kind,
            "fields": {f.name: _skeleton(getattr(value, f.name), arrays) for f in fields(value)},  # pyright: ignore[reportArgumentType] - every Value is a dataclass
        }
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        # the same array twice, as lists have it that were made of equal items, is written once
        return {"$array": arrays.setdefault(id(value), (f"a{len(arrays)}", value))[0]}
    raise NotStorable(type(value).__name__)


def verify(data: bytes) -> dict[str, Any]:
    """The JSON part of an entry whose checksum is right.  Raises Damaged."""
    if len(data) < HEADER or not data.startswith(MAGIC):
        raise Damaged("not a cache entry")
    body = memoryview(data)[len(MAGIC) + CHECK :]
    if hashlib.blake2b(body, digest_size=CHECK).digest() != data[len(MAGIC) : len(MAGIC) + CHECK]:
        raise Damaged("the checksum is wrong")
    length = int.from_bytes(body[:8], "little")
    return json.loads(bytes(body[8 : 8 + length]))


def decode(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs and notes of an entry.  Raises Damaged, also when a value's class is not imported any more."""
    document = verify(data)
    start = HEADER + int.from_bytes(data[HEADER - 8 : HEADER], "little")
    if document["framework"] == "torch":
        from safetensors.torch import load
    else:
        from safetensors.numpy import load
    arrays: dict[str, Any] = load(data[start:])
    for name in document["numpy"]:
        arrays[name] = arrays[name].numpy()
    try:
        outputs = {name: _value(item, arrays) for name, item in document["outputs"].items()}
    except (TypeError, ValueError, KeyError) as error:
        raise Damaged(f"it does not fit this version: {error}") from error
    return outputs, document


def _value(item: Any, arrays: dict[str, Any]) -> Any:
    if isinstance(item, list):
        return [_value(child, arrays) for child in item]
    if not isinstance(item, dict):
        return item
    if "$array" in item:
        return arrays[item["$array"]]
    if "$value" in item:
        kind = value_class(item["$value"])
        if kind is None:
            raise KeyError(f"the value class {item['$value']} is not known")
        return kind(**{name: _value(child, arrays) for name, child in item["fields"].items()})
    return {key: _value(child, arrays) for key, child in item.items()}
