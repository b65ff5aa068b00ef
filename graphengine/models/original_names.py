"""Names that transformers have in the files of their makers, and those that diffusers gives them, as tables of text.

A line is a name in the file and what it becomes; a line that ends in `:` is a block, and those below it lie inside.  `#`
is the number of a block.  A tensor with several names is cut along its first side, into equal pieces, except that those
marked `=` have as many rows as the tensor has columns; `~` swaps the halves of one that is twice as high as wide (scale
and shift stand in the other order); `-` leaves it out.  Cuts are views: nothing is copied but what is swapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from graphengine.errors import CheckpointError
from graphengine.models.original_tables import TABLES

if TYPE_CHECKING:
    from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
LEFT_OUT = "-"


@dataclass(frozen=True, slots=True)
class Piece:
    """What becomes of the rows `begin` to `end` of a tensor, or of the whole one; `swapped` puts the second half first."""

    name: str
    begin: int = 0
    end: int | None = None
    swapped: bool = False


@cache
def table_of(family: str, layout: str) -> Mapping[str, tuple[str, ...]] | None:
    """The table of a layout; empty for diffusers' own names, None for a layout that is not known."""
    if layout == "diffusers":
        return {}
    text = TABLES.get((family, layout))
    return dict(_lines(text)) if text is not None else None


def _lines(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    old = new = ""
    for line in text.strip().splitlines():
        words = line.split()
        if not words:
            continue
        if line.endswith(":"):
            old, new = words[0], words[1].rstrip(":")
        elif line.startswith(" "):
            yield f"{old}.{words[0]}", tuple(_below(new, word) for word in words[1:])
        else:
            yield words[0], tuple(words[1:])


def _below(block: str, word: str) -> str:
    mark = word[0] if word[0] in "=~" else ""
    return word if word == LEFT_OUT else f"{mark}{block}.{word.removeprefix(mark)}"


def pieces(table: Mapping[str, tuple[str, ...]], shapes: Shapes) -> Iterator[tuple[str, Piece]]:
    """Every tensor's name with what becomes of it; one that the table does not know keeps its name.

    Raises:
        CheckpointError: a tensor cannot be cut as the table says.
    """
    for name, shape in shapes.items():
        found = _find(table, name)
        if found is None:
            yield name, Piece(name)
            continue
        wanted, number, rest = found
        columns = _columns(name, shapes)
        ends = [word.replace("#", number) + rest for word in wanted if word != LEFT_OUT]
        if len(ends) == 1:
            swapped = ends[0].startswith("~") and bool(shape) and shape[0] == 2 * columns
            yield name, Piece(ends[0].lstrip("~"), swapped=swapped)
        elif ends:
            yield from ((name, piece) for piece in _cut(name, shape, ends, columns))


def _find(table: Mapping[str, tuple[str, ...]], name: str) -> tuple[tuple[str, ...], str, str] | None:
    """What the longest beginning of a name becomes, the number in it, and the rest of the name."""
    parts = name.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdecimal()), len(parts))
    number = parts[place] if place < len(parts) else ""
    hashed = [*parts[:place], "#", *parts[place + 1 :]]
    for length in range(len(parts), 0, -1):
        rest = "".join(f".{part}" for part in parts[length:])
        for stem in (".".join(parts[:length]), ".".join(hashed[:length])):
            if stem in table:
                return table[stem], number, rest
    return None


def _columns(name: str, shapes: Shapes) -> int:
    """The columns of a weight, and for a bias those of its weight."""
    shape = shapes[name]
    if len(shape) < 2:
        shape = shapes.get(f"{name.rpartition('.')[0]}.weight", ())
    return shape[1] if len(shape) > 1 else 0


def _cut(name: str, shape: tuple[int, ...], ends: list[str], columns: int) -> Iterator[Piece]:
    fixed = sum(end.startswith("=") for end in ends)
    free, rows = len(ends) - fixed, shape[0] if shape else 0
    share, over = divmod(rows - fixed * columns, free or 1)
    if over or share < 0 or (not free and rows != fixed * columns) or (fixed and not columns):
        raise CheckpointError(f"{name} has {rows} rows and {columns} columns, which do not make {len(ends)} tensors.")
    begin = 0
    for end in ends:
        size = columns if end.startswith("=") else share
        yield Piece(end.removeprefix("="), begin, begin + size)
        begin += size


def renamed_shapes(table: Mapping[str, tuple[str, ...]], shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors by diffusers' names.  Raises CheckpointError."""
    made: dict[str, tuple[int, ...]] = {}
    for name, piece in pieces(table, shapes):
        shape = shapes[name]
        made[piece.name] = shape if piece.end is None else (piece.end - piece.begin, *shape[1:])
    return made


def renamed(table: Mapping[str, tuple[str, ...]], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by diffusers' names.  Raises CheckpointError."""
    import torch

    made: dict[str, Tensor] = {}
    for name, piece in pieces(table, {name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        tensor = tensors[name]
        if piece.swapped:
            half = tensor.shape[0] // 2
            made[piece.name] = torch.cat([tensor[half:], tensor[:half]])
        else:
            made[piece.name] = tensor if piece.end is None else tensor[piece.begin : piece.end]
    return made
