"""Learned words (textual inversion; Gal et al. 2022): vectors that a word in a prompt stands for.

The words are put on top of a CLIP text encoder: the prompt is cut at them, what lies between is read as ever, and the
vectors take their places in a twin of the network.  The tokenizer and its table are shared and never written to.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphengine.errors import CheckpointError
from graphengine.models.clip import ClipEncoder
from graphengine.models.network import known_ids, refusing, twin
from graphengine.models.weights import load_tensors, read_header
from graphengine.values import Patch

ENCODERS = {"clip_l": 0, "text_encoders_0": 0, "clip_g": 1, "text_encoders_1": 1}
"""Names in files that say which of two encoders the vectors are for."""
MOST = 75
"""Vectors of a word: as many tokens as a CLIP text encoder reads."""


def read(path: Path) -> dict[int | None, Tensor]:
    """The vectors `[n, D]` of a file by encoder, 0 or 1, or None where it does not say.

    Known are a single tensor of any name (diffusers' `<token>`, `emb_params`), and `clip_l` with `clip_g`.

    Raises:
        CheckpointError: it is damaged, or no embedding.
    """
    header = read_header(path)
    named = {name: place for name, place in ENCODERS.items() if name in header}
    if len(header) == 1 and not named:
        places: dict[str, int | None] = dict.fromkeys(header)
    else:
        places = dict(named)
    shapes = [header[name].shape for name in places]
    if not places or len(places) != len(header) or len(set(places.values())) != len(places):
        raise CheckpointError(
            f"{path.name} is no embedding of a CLIP text encoder: it holds {', '.join(list(header)[:4]) or 'nothing'}; "
            "expected one tensor, or clip_l and clip_g."
        )
    if not all(len(shape) in (1, 2) and all(shape) for shape in shapes):
        raise CheckpointError(
            f"{path.name} is no embedding: its tensors have the shapes {', '.join(map(str, shapes))}."
        )
    if any(len(shape) == 2 and shape[0] > MOST for shape in shapes):
        raise CheckpointError(f"{path.name} has more than {MOST} vectors; a prompt has no room for them.")
    tensors = load_tensors([path], None)
    found = {place: tensors[name].reshape(-1, tensors[name].shape[-1]) for name, place in places.items()}
    if not all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in found.values()):
        raise CheckpointError(f"{path.name} is no embedding: its numbers are no finite fractions.")
    return found


def words_of(token: str, file: str) -> str:
    """The words that stand for an embedding, line by line: the one that is given, or two made of the file's name.

    Raises:
        ValueError: the word is blank, or has more than one line.
    """
    if token and (not token.strip() or "\n" in token):
        raise ValueError(f"{token!r} is no word that a prompt could hold.")
    stem = Path(file).stem
    return token.strip() or f"<{stem}>\nembedding:{stem}"


def learned(adapter: Any, patch: Patch) -> Any:
    """A text adapter like the given one that knows a word more.  Raises CheckpointError when the vectors do not fit."""
    vectors = read(Path(patch.place))
    encoders = list(_encoders(adapter))
    others = [encoder for encoder in encoders if not isinstance(encoder, ClipEncoder)]
    if others or not encoders:
        kinds = ", ".join(type(encoder.network).__name__ for encoder in others) or "none"
        raise CheckpointError(f"{patch.name.split()[0]} goes with CLIP text encoders alone; this model has {kinds}.")
    made = copy.copy(adapter)
    pairs = zip(encoders, _shared_out(vectors, encoders, patch), strict=True)
    taught = {id(encoder): Taught(encoder, patch.name.split("\n"), own) for encoder, own in pairs}
    for name, value in vars(adapter).items():
        if isinstance(value, list):
            setattr(made, name, [taught.get(id(item), item) for item in value])
        else:
            setattr(made, name, taught.get(id(value), value))
    return made


def _encoders(adapter: Any) -> Iterator[Any]:
    for value in vars(adapter).values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(getattr(item, "network", None), nn.Module):
                yield item


def _shared_out(vectors: Mapping[int | None, Tensor], encoders: list[Any], patch: Patch) -> list[Tensor]:
    """The vectors for each encoder.  A lone encoder takes those of its width."""
    found: list[Tensor] = []
    for place, encoder in enumerate(encoders):
        width = encoder.network.get_input_embeddings().weight.shape[-1]
        offered = list(vectors.values()) if len(encoders) == 1 else [vectors[place]] if place in vectors else []
        fits = [tensor for tensor in offered if tensor.shape[-1] == width]
        if not fits:
            held = " and ".join(str(tensor.shape[-1]) for tensor in vectors.values())
            wanted = " and ".join(str(each.network.get_input_embeddings().weight.shape[-1]) for each in encoders)
            raise CheckpointError(
                f"the embedding {Path(patch.place).name} has vectors of width {held}, and the text encoders of this "
                f"model read {wanted}: it was made for another model."
            )
        found.append(fits[0])
    return found


class Taught(ClipEncoder):
    """A CLIP encoder that knows learned words; everything but these it shares with the one it was made of."""

    def __init__(self, plain: ClipEncoder, words: list[str], vectors: Tensor):
        vars(self).update(vars(plain))
        before = self.network.get_input_embeddings()
        known = len(before.own) if isinstance(before, _Table) else 0
        places = tuple(-1 - place for place in range(known, known + len(vectors)))
        own = {word.lower(): places for word in words}
        self._words: dict[str, tuple[int, ...]] = {**getattr(plain, "_words", {}), **own}
        if len(self._words) != len(own) + len(getattr(plain, "_words", {})):
            raise CheckpointError(f"two embeddings have the word {words[0]}; give one of them another.")
        self.network = twin(self.network)
        self.network.set_input_embeddings(_Table(before, vectors))

    def tokens(self, text: str) -> tuple[Tensor, tuple[str, ...]]:
        """Token ids `[1, 77]`, below 0 for learned vectors, and the words that did not fit."""
        pieces = _cut(text, self._words)
        if len(pieces) == 1:
            return super().tokens(text)
        with refusing("the tokenizer cannot read the prompt"):
            begin, *_, end = self._tokenizer("")["input_ids"]
            ids, names = self._read(pieces)
            room = self._length - 2
            row = [begin, *ids[:room], end]
            row += [self._tokenizer.pad_token_id] * (self._length - len(row))
            known_ids(torch.tensor([place for place in row if place >= 0]), self.network)
        return torch.tensor([row]), tuple(name.removesuffix("</w>") for name in names[room:])

    def places(self, text: str) -> list[tuple[int, int] | None]:
        """Where the token of each row stands in the text; every vector of a learned word stands where the word does."""
        pieces = _cut(text, self._words)
        if len(pieces) == 1:
            return super().places(text)
        rows: list[tuple[int, int] | None] = [None]
        begin = 0
        for number, piece in enumerate(pieces):
            if number % 2:
                rows += [(begin, begin + len(piece))] * len(self._vectors(piece))
            elif piece.strip():
                offsets = self._tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)[
                    "offset_mapping"
                ]
                rows += [(begin + first, begin + last) for first, last in offsets]
            begin += len(piece)
        rows = rows[: self._length - 1]
        return rows + [None] * (self._length - len(rows))

    def read(self, text: str) -> list[tuple[int, str]]:
        """Every token with its id, also those that are cut; ids of learned vectors are below 0."""
        pieces = _cut(text, self._words)
        if len(pieces) == 1:
            return super().read(text)
        (begin, *_, end), (ids, names) = super().read(""), self._read(pieces)
        return [begin, *zip(ids, names, strict=True), end]

    def _vectors(self, word: str) -> tuple[int, ...]:
        """The ids of a word, in whatever case."""
        return next(own for known, own in self._words.items() if re.fullmatch(re.escape(known), word, re.IGNORECASE))

    def _read(self, pieces: list[str]) -> tuple[list[int], list[str]]:
        """Token ids of pieces, of which every second is a learned word, and what the tokens are called."""
        ids: list[int] = []
        names: list[str] = []
        for number, piece in enumerate(pieces):
            if number % 2:
                places = self._vectors(piece)
                ids += places
                names += repeat(piece, len(places))
            else:
                read = self._tokenizer(piece, add_special_tokens=False)["input_ids"] if piece.strip() else []
                ids += read
                names += self._tokenizer.convert_ids_to_tokens(read)
        return ids, names


def _cut(text: str, words: Mapping[str, object]) -> list[str]:
    """A text cut at words, in whatever case: what lies between them, and at every second place a word."""
    ordered = sorted(words, key=len, reverse=True)
    choices = "|".join(_start(word) + re.escape(word) + _end(word) for word in ordered)
    return re.split(f"({choices})", text, flags=re.IGNORECASE)


def _start(word: str) -> str:
    return r"(?<!\w)" if re.match(r"\w", word) else ""


def _end(word: str) -> str:
    return r"(?![\w-])" if re.search(r"\w$", word) else ""


class _Table(nn.Module):
    """A table of embeddings with vectors of its own below 0: -1 is the first."""

    def __init__(self, plain: Any, vectors: Tensor):
        super().__init__()
        self.weight: Tensor = plain.weight
        self.num_embeddings: int = plain.num_embeddings
        more = vectors.to(plain.weight)
        own = torch.cat([plain.own, more]) if isinstance(plain, _Table) else more
        self.own = nn.Parameter(own, requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings `[B, N, D]` of token ids `[B, N]`."""
        plain = functional.embedding(ids.clamp(min=0), self.weight)
        own = functional.embedding((-1 - ids).clamp(min=0), self.own)
        return torch.where((ids < 0)[..., None], own, plain)
