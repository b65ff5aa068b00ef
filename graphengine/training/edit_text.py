"""The language of edits: the embedded model's tokenizer and encoder, with the words of instructions learned as well.

New merges are put behind the old ones, and new tokens behind the old tokens, so whatever could be read before is read
as before.  The encoder is then taught alone, as it was for captions: from an instruction it must name the kind of
edit, what it addresses and what is asked; at the same time its features of captions must stay what they were.
"""

from __future__ import annotations

import copy
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from graphengine.training.edit_scenes import KINDS, Edit, random_edit, random_view
from graphengine.training.edit_words import say
from graphengine.training.language import WIDTH, tokenize, vary
from graphengine.training.optimiser import Optimiser
from graphengine.training.scenes import COLOURS, PATTERNS, POSITIONS, SHAPES, SIZES, caption, random_scene
from graphengine.training.trainer import Stage

LESSON_BATCH, LESSON_RATE = 96, 2e-3
ATTRIBUTES: dict[str, list[str | None]] = {
    "kind": [*KINDS],
    "colour": [None, *COLOURS],
    "shape": [None, *SHAPES],
    "size": [None, *SIZES],
    "position": [None, *POSITIONS],
    "ground": [None, *COLOURS],
    "second_ground": [None, *COLOURS],
    "pattern": [None, *PATTERNS],
}
"""What an instruction asks for, None where it says nothing of it."""


def extend_tokenizer(source: Path, folder: Path, vocabulary: list[str]) -> CLIPTokenizer:
    """Copy a tokenizer (`vocab.json`, `merges.txt`) and make each word of `vocabulary` one token of the copy."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    tokens: dict[str, int] = json.loads((folder / "vocab.json").read_text())
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(lines[1:])}
    for word in vocabulary:
        pieces = _pieces(word, ranks)
        while len(pieces) > 1:
            pair = pieces[0], pieces[1]
            ranks[pair] = len(ranks)
            tokens.setdefault("".join(pair), len(tokens))
            pieces = _pieces(word, ranks)
    (folder / "vocab.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    rows = [lines[0], *(" ".join(pair) for pair in sorted(ranks, key=ranks.__getitem__))]
    (folder / "merges.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def _pieces(word: str, ranks: dict[tuple[str, ...], int]) -> list[str]:
    """A word of ASCII letters under byte-pair merges, the earliest merge first (Sennrich et al. 2016)."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while True:
        pairs = [(ranks[pair], at) for at, pair in enumerate(pairwise(pieces)) if pair in ranks]
        if not pairs:
            return pieces
        at = min(pairs)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


def widen_embedding(model: CLIPTextModel, count: int, seed: int) -> CLIPTextModel:
    """A copy of an encoder for `count` tokens: old rows as they were, new ones like a fresh encoder's."""
    grown: Any = copy.deepcopy(model)
    embedding: Any = grown.get_input_embeddings()
    old = embedding.weight.detach()
    rows = torch.randn(count, old.shape[1], generator=torch.Generator().manual_seed(seed)) * old.std()
    rows[: len(old)] = old
    grown.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=False))
    grown.config.vocab_size = count
    return grown


def attributes(edit: Edit) -> list[int]:
    """What an edit asks for, as class numbers, one per entry of `ATTRIBUTES`."""
    will, after = edit.changed, edit.after
    told = {
        "colour": (edit.kind in ("colour", "add"), will.colour),
        "shape": (edit.kind in ("shape", "add"), will.shape),
        "size": (edit.kind == "add", will.size),
        "position": (edit.kind in ("move", "add"), will.position),
        "ground": (edit.kind == "background", after.ground),
        "second_ground": (edit.kind == "background", after.second_ground),
        "pattern": (edit.kind == "background", after.pattern),
    }
    values = [edit.kind, *(value if said else None for said, value in told.values())]
    return [options.index(value) for options, value in zip(ATTRIBUTES.values(), values, strict=True)]


class Reader(nn.Module):
    """One attention query and one linear head per attribute, over the encoder's features; used only to teach."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(ATTRIBUTES), WIDTH) * 0.1)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, len(options)) for options in ATTRIBUTES.values())

    def forward(self, features: Tensor) -> list[Tensor]:
        weights = (self.queries @ features.mT / WIDTH**0.5).softmax(-1)
        read = weights @ features
        return [head(read[:, index]) for index, head in enumerate(self.heads)]


def some_edits(count: int, random: np.random.Generator) -> list[Edit]:
    """Edits of every kind, some turned round, a twentieth asking for nothing."""
    edits: list[Edit] = []
    while len(edits) < count:
        edit = random_edit(random_view(random), random)
        if edit is not None:
            edit = edit.turned() if random.random() < 0.5 else edit
            edits.append(edit.nothing() if random.random() < 0.05 else edit)
    return edits


def teach(
    model: CLIPTextModel, tokenizer: CLIPTokenizer, folder: Path, steps: int, seed: int
) -> tuple[CLIPTextModel, float]:
    """Teach an encoder to read instructions; returns it, and the share of attributes that can be read."""
    torch.manual_seed(seed)
    before, reader = copy.deepcopy(model).eval(), Reader()
    optimiser = Optimiser([(model, 0.3), (reader, 1.0)], LESSON_RATE)
    stage = Stage("lesson", {"text": model, "reader": reader}, optimiser, steps, folder, average_decay=0.99)

    def loss(step: int) -> Tensor:
        random = np.random.default_rng((seed, step))
        edits = some_edits(LESSON_BATCH, random)
        ids = tokenize(tokenizer, [say(edit, random) for edit in edits])
        answers = torch.tensor([attributes(edit) for edit in edits])
        outputs = reader(model(input_ids=ids).last_hidden_state)
        read = sum(nn.functional.cross_entropy(o, answers[:, i]) for i, o in enumerate(outputs))
        known = tokenize(tokenizer, [vary(caption(random_scene(random)), random) for _ in range(LESSON_BATCH // 3)])
        with torch.no_grad():
            wanted = before(input_ids=known).last_hidden_state
        kept = (model(input_ids=known).last_hidden_state - wanted).square().mean()
        return read + 4 * kept

    stage.run(loss)
    stage.averaged()
    return model, readable(model, reader, tokenizer, 600, seed + 1)


@torch.inference_mode()
def readable(model: CLIPTextModel, reader: Reader, tokenizer: CLIPTokenizer, count: int, seed: int) -> float:
    """Share of attributes that the reader names right over `count` new instructions."""
    random = np.random.default_rng(seed)
    edits = some_edits(count, random)
    ids = tokenize(tokenizer, [say(edit, random) for edit in edits])
    outputs = reader(model(input_ids=ids).last_hidden_state)
    answers = torch.tensor([attributes(edit) for edit in edits])
    return float(torch.stack([(o.argmax(-1) == answers[:, i]).float().mean() for i, o in enumerate(outputs)]).mean())
