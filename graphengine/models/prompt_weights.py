"""Weights in prompts: which words count for more, and which for less.

`(word)` counts 1.1 times, `[word]` 1 / 1.1 times, `(word:1.3)` 1.3 times, and nested brackets multiply.  A bracket with a
backslash before it is a letter like any other, and so is one that is never closed.  A weight w moves the features of a
word's tokens away from those that the empty prompt has in their place, or towards them: z = e + w (z - e).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from graphengine.models.family import Encoded

STEP, LARGEST = 1.1, 20.0
"""What a bracket multiplies with, and the largest weight that a word may have."""
PAIRS = {")": "(", "]": "["}
ESCAPED = "()[]\\"
_END = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")
Places = list[tuple[int, int] | None]
"""For each row of a prompt's features: where its token begins and ends in the text, None for marks and padding."""


@dataclass(frozen=True)
class Weighted:
    """A prompt without its brackets, and the weight of each of its letters.

    `told` says whether a weight stands there as a number, which nobody writes by chance.
    """

    text: str
    weights: tuple[float, ...]
    told: bool

    @property
    def even(self) -> bool:
        """Whether all letters have the weight 1."""
        return all(weight == 1 for weight in self.weights)


def parse(prompt: str) -> Weighted:
    """Read the weights of a prompt.

    Raises:
        ValueError: a weight is larger than 20 or smaller than -20.
    """
    factors, skipped = _brackets(prompt)
    letters: list[str] = []
    weights: list[float] = []
    now, stack = 1.0, []
    for place, letter in _letters(prompt):
        if place in factors:
            stack.append(now)
            now *= factors[place]
            if abs(now) > LARGEST:
                raise ValueError(f"a weight of {now:.4g} stands in the prompt; expected -{LARGEST:g} to {LARGEST:g}.")
        elif place in skipped:
            now = stack.pop() if prompt[place] in PAIRS else now
        else:
            letters.append(letter)
            weights.append(now)
    return Weighted("".join(letters), tuple(weights), any(prompt[place] == ":" for place in skipped))


def _letters(prompt: str) -> Iterator[tuple[int, str]]:
    """Places and letters; one with a backslash before it has a place below 0, where no bracket is."""
    place = 0
    while place < len(prompt):
        if prompt[place] == "\\" and prompt[place + 1 : place + 2] in tuple(ESCAPED):
            yield -1, prompt[place + 1]
            place += 2
        else:
            yield place, prompt[place]
            place += 1


def _brackets(prompt: str) -> tuple[dict[int, float], set[int]]:
    """Factors of the brackets that are closed, by the place where they open, and the places left out for their ends."""
    factors: dict[int, float] = {}
    skipped: set[int] = set()
    opened: list[int] = []
    for place, letter in _letters(prompt):
        if place < 0:
            continue
        if letter in "([":
            opened.append(place)
        elif letter in PAIRS and opened and prompt[opened[-1]] == PAIRS[letter]:
            begin = opened.pop()
            # a number is short: looking at a few letters keeps the time in proportion to the prompt
            number = _END.search(prompt[max(begin + 1, place - 24) : place]) if letter == ")" else None
            factors[begin] = float(number[1]) if number else STEP if letter == ")" else 1 / STEP
            skipped |= set(range(place - len(number[0]) if number else place, place + 1))
    return factors, skipped


def bare(adapter: Any, prompt: str) -> Weighted:
    """What an encoder reads of a prompt.

    Brackets are letters for encoders that do not say which row of their features is which token.

    Raises:
        ValueError: such a one is given a weight as a number.
    """
    made = parse(prompt)
    if hasattr(adapter, "places"):
        return made
    if made.told:
        raise ValueError(
            "a weight stands in the prompt, but the text encoder of this model reads no weights; CLIP's do. "
            "Say it in words, or write \\( for a bracket that belongs to the text."
        )
    return Weighted(prompt, (1.0,) * len(prompt), False)


def encode(adapter: Any, prompt: str) -> Encoded:
    """A prompt as its denoiser reads it, its words weighted.  Raises ValueError like `bare`, and for weights too large."""
    read = bare(adapter, prompt)
    made = adapter.encode(read.text)
    if read.even:
        return made
    places: Places = adapter.places(read.text)
    row = [1.0 if place is None else read.weights[place[0]] for place in places]
    weights = torch.tensor(row, dtype=made.features.dtype)[None, :, None]
    empty = adapter.encode("").features
    moved = torch.where(weights == 1, made.features, empty + weights * (made.features - empty))
    return replace(made, features=moved)
