"""Files in GGUF, the format of llama.cpp: a header of metadata and tensors, then numbers that are often packed in blocks.

The header is walked here, with every length held against the file before it is believed; of the metadata only the
alignment and original shapes are used, for what a file is follows from its tensors.  Packed numbers are unpacked when
they are loaded, a tensor at a time and a piece of a large one at a time, by the reference code of the `gguf` package.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from graphengine.errors import CheckpointError
from graphengine.models.weights import LONGEST, MOST_SIDES, MOST_TENSORS, TensorInfo

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
METADATA_LIMIT, MOST_ENTRIES, MOST_ITEMS, LONGEST_NAME, MOST_NESTED = 64 * 2**20, 2**14, 2**21, 2**10, 2
USUAL_ALIGNMENT, MOST_ALIGNMENT = 32, 2**16
ALIGNMENT, SHAPES = "general.alignment", "comfy.gguf.orig_shape."
STRING, ARRAY, BOOL, NAME = 8, 9, 7, "utf-8"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d"}
"""How values of metadata are written, by the number of their type."""
PACKINGS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2),
}
"""Name, numbers in a block and bytes of a block, by the number of a tensor's type."""
PIECE = 2**18
"""Numbers that are unpacked at once."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor in a file: what it is, its type, and where it lies, in bytes from the beginning."""

    info: TensorInfo
    packing: int
    begin: int
    end: int


class _Damaged(Exception):
    """The header does not agree with itself or with the file."""


class _Reader:
    """Walks a header, which may have so many bytes and no more."""

    def __init__(self, file: IO[bytes], left: int):
        self._file, self.left, self._items = file, left, MOST_ITEMS

    def bytes(self, count: int) -> bytes:
        if count > self.left:
            raise _Damaged("it ends in the middle, or is too long")
        self.left -= count
        return self._file.read(count)

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}")))[0]

    def skip(self, count: int) -> None:
        if count > self.left:
            raise _Damaged("a list is longer than the file")
        self.left -= count
        self._file.seek(count, 1)

    def string(self, most: int) -> str:
        length = self.number("Q")
        if length > most:
            raise _Damaged(f"a name has {length:,} bytes")
        return self.bytes(length).decode(NAME)

    def value(self, kept: bool, depth: int = 0) -> Any:
        """A value of metadata, which is passed over when it is not kept."""
        kind = self.number("I")
        if kind == STRING:
            return self.skip(self.number("Q"))
        if kind != ARRAY:
            return self.number(_scalar(kind))
        return self._array(kept, depth)

    def _array(self, kept: bool, depth: int) -> Any:
        if depth >= MOST_NESTED:
            raise _Damaged("its lists are nested too deep")
        kind, count = self.number("I"), self.number("Q")
        if kind in (ARRAY, STRING):
            self._items -= count
            if count * 8 > self.left or self._items < 0:
                raise _Damaged("a list is too long")
            for _ in range(count):
                self._array(False, depth + 1) if kind == ARRAY else self.skip(self.number("Q"))
            return None
        form = _scalar(kind)
        if kept and count <= MOST_SIDES:
            return [self.number(form) for _ in range(count)]
        return self.skip(count * struct.calcsize(form))


def _scalar(kind: int) -> str:
    if kind not in SCALARS:
        raise _Damaged(f"it has a value of the unknown type {kind}")
    return SCALARS[kind]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a file by name.

    Raises:
        CheckpointError: the file is none, its header lies, or its numbers are packed in a way that is not known.
    """
    return {name: place.info for name, place in places(path).items()}


def places(path: Path) -> dict[str, Place]:
    """Where the tensors of a file lie, by name.  Raises CheckpointError."""
    where, size = f"{path.parent.name}/{path.name}", path.stat().st_size
    try:
        with path.open("rb") as file:
            return _walk(file, size)
    except (_Damaged, UnicodeDecodeError, struct.error, OverflowError) as error:
        told = error if isinstance(error, _Damaged) else "it is not written as it should be"
        raise CheckpointError(f"{where}: the GGUF header is damaged, or the file is truncated: {told}.") from None


def _walk(file: IO[bytes], size: int) -> dict[str, Place]:
    reader = _Reader(file, min(size, METADATA_LIMIT))
    magic, version = reader.bytes(4), reader.number("I")
    if magic != MAGIC or version not in VERSIONS:
        raise _Damaged(f"its version is {version}; known are {' and '.join(map(str, VERSIONS))}")
    tensors, entries = reader.number("Q"), reader.number("Q")
    if tensors > MOST_TENSORS or entries > MOST_ENTRIES:
        raise _Damaged(f"it tells of {tensors:,} tensors and {entries:,} entries")
    alignment, shapes = _metadata(reader, entries)
    found: dict[str, tuple[TensorInfo, int, int, int]] = {}
    for _ in range(tensors):
        name, entry = _tensor(reader, shapes)
        if name in found:
            raise _Damaged(f"{name[:80]} stands twice")
        found[name] = entry
    start = -(-file.tell() // alignment) * alignment
    return _placed(found, start, alignment, size)


def _metadata(reader: _Reader, entries: int) -> tuple[int, dict[str, tuple[int, ...]]]:
    """The alignment, and shapes of tensors that the format could not hold as they were."""
    alignment, shapes, seen = USUAL_ALIGNMENT, dict[str, tuple[int, ...]](), set[str]()
    for _ in range(entries):
        key = reader.string(LONGEST_NAME)
        if key in seen:
            raise _Damaged(f"{key[:80]} stands twice")
        seen.add(key)
        value = reader.value(kept=key.startswith(SHAPES))
        if key == ALIGNMENT:
            alignment = value
        elif key.startswith(SHAPES) and isinstance(value, list):
            shapes[key.removeprefix(SHAPES)] = tuple(value)
    if type(alignment) is not int or not 0 < alignment <= MOST_ALIGNMENT or alignment & (alignment - 1):
        raise _Damaged(f"its alignment is {str(alignment)[:30]}")
    return alignment, shapes


def _tensor(reader: _Reader, shapes: dict[str, tuple[int, ...]]) -> tuple[str, tuple[TensorInfo, int, int, int]]:
    """A tensor's name, and what it is, its type, its place behind the header and its bytes."""
    name, sides = reader.string(LONGEST_NAME), reader.number("I")
    if sides > MOST_SIDES:
        raise _Damaged(f"{name[:80]} has {sides} sides")
    shape = tuple(reader.number("Q") for _ in range(sides))[::-1]
    packing, offset = reader.number("I"), reader.number("Q")
    if packing not in PACKINGS:
        known = ", ".join(name for name, _, _ in PACKINGS.values())
        raise _Damaged(f"{name[:80]} is packed in the unknown type {packing}; known are {known}")
    kind, block, width = PACKINGS[packing]
    plain = TensorInfo(kind, shape)
    if max((*shape, offset)) >= LONGEST or plain.numbers >= LONGEST or (shape[-1] if shape else 1) % block:
        raise _Damaged(f"{name[:80]} has the shape {list(shape)}, at {offset}, in blocks of {block}")
    info = TensorInfo(kind, shapes.get(name, shape))
    if any(type(side) is not int or side < 0 for side in info.shape) or info.numbers != plain.numbers:
        raise _Damaged(f"{name[:80]} has the shape {list(shape)}, which was never {list(info.shape)}")
    return name, (info, packing, offset, plain.numbers // block * width)


def _placed(
    found: dict[str, tuple[TensorInfo, int, int, int]], start: int, alignment: int, size: int
) -> dict[str, Place]:
    """The tensors in the file: they lie one behind the other, each at a multiple of the alignment."""
    made: dict[str, Place] = {}
    reached = 0
    for name, (info, packing, offset, length) in sorted(found.items(), key=lambda entry: entry[1][2]):
        if offset != reached:
            raise _Damaged(f"{name[:80]} lies at {offset}, and not at {reached}")
        made[name] = Place(info, packing, start + offset, start + offset + length)
        reached = -(-(offset + length) // alignment) * alignment
    end = max((place.end for place in made.values()), default=start)
    if made and not end <= size <= start + reached:
        what = f"{end - size} bytes are missing" if size < end else f"{size - start - reached} bytes too many"
        raise _Damaged(what)
    return {name: made[name] for name in found}


def load_tensors(path: Path, dtype: torch.dtype | None, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors whose names start with a prefix, and their names without it; packed ones as `dtype`, or float32.

    Raises:
        CheckpointError: the file is damaged.
    """
    import numpy as np

    found = places(path)
    mapped = np.memmap(path, np.uint8, mode="c") if found else np.zeros(0, np.uint8)  # of which no change is written
    for name, place in found.items():
        if name.startswith(prefix):
            yield name[len(prefix) :], _unpacked(mapped[place.begin : place.end], place, dtype)


def _unpacked(raw: Any, place: Place, dtype: torch.dtype | None) -> Tensor:
    import torch

    name, block, width = PACKINGS[place.packing]
    plain = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}.get(name)
    if plain is not None:
        if not raw.size:
            return torch.empty(place.info.shape, dtype=dtype or plain)
        made = torch.from_numpy(raw).view(plain).reshape(place.info.shape)
        return made.to(dtype or plain)
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    made = torch.empty(place.info.numbers, dtype=dtype or torch.float32)
    step = PIECE // block
    for first in range(0, raw.size // width, step):
        blocks = raw[first * width : (first + step) * width].reshape(1, -1)  # as one row: it works row by row
        numbers = torch.from_numpy(dequantize(blocks, GGMLQuantizationType(place.packing))).flatten()
        made[first * block : first * block + numbers.numel()] = numbers
    return made.reshape(place.info.shape)
