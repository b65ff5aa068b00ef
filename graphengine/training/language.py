"""The text side of the embedded model: a tokenizer for its words and an encoder that knows what they mean.

The tokenizer is a real byte-level BPE trained on the vocabulary, so that every known word is one token and any
other text falls back to pieces.  The encoder (CLIPTextModel) is first taught alone, in a minute: from the caption
it must name every attribute of the scene.  A denoiser that starts from features which already separate "left of"
from "right of" learns from pictures several times sooner.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from graphengine.training.optimiser import Optimiser
from graphengine.training.scenes import (
    COLOURS,
    PATTERNS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    caption,
    random_scene,
)
from graphengine.training.trainer import Stage

MAX_TOKENS, WIDTH, LAYERS, HEADS = 32, 128, 2, 4
START, END = "<|startoftext|>", "<|endoftext|>"


def words() -> list[str]:
    """Every word of the language, and the spellings and small words that people add to it."""
    phrases = [*COLOURS, *SHAPES, *SIZES, *POSITIONS, *PATTERNS, *RELATIONS, "medium", "grey", "centre"]
    phrases += ["a an the on with to and of in background picture , ."]
    return sorted({word for phrase in phrases for word in phrase.split()})


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Train the BPE on the word list and write `vocab.json`, `merges.txt` and the tokenizer's config."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(vocab_size=4096, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(words(), trainer)
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokens = alphabet + [letter + "</w>" for letter in alphabet]
    tokens += ["".join(pair) for pair in merges] + [START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_TOKENS,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    return CLIPTokenizer.from_pretrained(folder)


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The untrained encoder: two layers of width 128."""
    special: Any = tokenizer
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=WIDTH,
        bos_token_id=special.bos_token_id,
        eos_token_id=special.eos_token_id,
        pad_token_id=special.pad_token_id,
    )
    return CLIPTextModel(config)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids, int64 `[n, 32]`, padded."""
    batch = tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return torch.as_tensor(batch["input_ids"])


def vary(text: str, random: np.random.Generator) -> str:
    """Say a caption as people type it: other spellings, a comma, "with a red circle"."""
    if random.random() < 0.2:
        text = text.replace("gray", "grey")
    if random.random() < 0.2:
        text = text.replace("center", "centre")
    if random.random() < 0.1:
        text = text.replace(" on a", ", on a", 1)
    if random.random() < 0.1:
        text = text.split(" ", 1)[1]
    return text


ATTRIBUTES: dict[str, list[str | None]] = {
    "ground": [*COLOURS],
    "second_ground": [None, *COLOURS],
    "pattern": [*PATTERNS],
    "relation": [None, *RELATIONS],
    "colour_0": [*COLOURS],
    "shape_0": [*SHAPES],
    "size_0": [None, *SIZES],
    "position_0": [None, *POSITIONS],
    "colour_1": [None, *COLOURS],
    "shape_1": [None, *SHAPES],
}


def attributes(scene: Scene) -> list[int]:
    """The scene as class numbers, one per entry of `ATTRIBUTES`."""
    second = scene.things[1] if len(scene.things) == 2 else None
    first = scene.things[0]
    values = [scene.ground, scene.second_ground, scene.pattern, scene.relation, first.colour]
    values += [first.shape, first.size, first.position]
    values += [second.colour if second else None, second.shape if second else None]
    return [options.index(v) for options, v in zip(ATTRIBUTES.values(), values, strict=True)]


class Reader(nn.Module):
    """One attention query and one linear head per attribute, over the encoder's features; used only to teach."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(ATTRIBUTES), WIDTH) * 0.1)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, len(v)) for v in ATTRIBUTES.values())

    def forward(self, features: Tensor) -> list[Tensor]:
        weights = (self.queries @ features.mT / WIDTH**0.5).softmax(-1)
        read = weights @ features
        return [head(read[:, index]) for index, head in enumerate(self.heads)]


def teach(
    tokenizer: CLIPTokenizer, folder: Path, steps: int, batch: int, rate: float, seed: int
) -> tuple[CLIPTextModel, float]:
    """Teach the encoder to make every attribute readable; returns it, and the share that can be read."""
    torch.manual_seed(seed)
    model, reader = build(tokenizer), Reader()
    optimiser = Optimiser([(model, 1.0), (reader, 1.0)], rate)
    stage = Stage("encoder", {"text": model, "reader": reader}, optimiser, steps, folder)
    stage.average_decay = 0.99

    def loss(step: int) -> Tensor:
        random = np.random.default_rng((seed, step))
        scenes = [random_scene(random, 0.5, 0.3) for _ in range(batch)]
        ids = tokenize(tokenizer, [vary(caption(scene), random) for scene in scenes])
        answers = torch.tensor([attributes(scene) for scene in scenes])
        outputs = reader(model(input_ids=ids).last_hidden_state)
        losses = [nn.functional.cross_entropy(o, answers[:, i]) for i, o in enumerate(outputs)]
        return torch.stack(losses).sum()

    stage.run(loss)
    stage.averaged()
    return model, readable(model, reader, tokenizer, 1000, seed + 1)


@torch.inference_mode()
def readable(model: CLIPTextModel, reader: Reader, tokenizer: CLIPTokenizer, count: int, seed: int) -> float:
    """Share of attributes that the reader names right over `count` new captions."""
    random = np.random.default_rng(seed)
    scenes = [random_scene(random, 0.5, 0.3) for _ in range(count)]
    outputs = reader(model(input_ids=tokenize(tokenizer, [caption(s) for s in scenes])).last_hidden_state)
    answers = torch.tensor([attributes(scene) for scene in scenes])
    right = [(o.argmax(-1) == answers[:, i]).float().mean() for i, o in enumerate(outputs)]
    return float(torch.stack(right).mean())
