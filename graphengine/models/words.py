"""Words of a prompt and the rows of features that they have become: tokenizers cut words where they like."""

from __future__ import annotations

import re
from typing import Any

from graphengine.errors import CheckpointError
from graphengine.models import prompt_weights

_WORD = re.compile(r"\w+(?:['-]\w+)*")


def words_of(text: str) -> list[str]:
    """The different words of a text, in order and in small letters."""
    return list(dict.fromkeys(match[0].casefold() for match in _WORD.finditer(text)))


def rows_of(adapter: Any, prompt: str, words: list[str]) -> list[tuple[int, ...]]:
    """For each word, or row of words, the rows of a prompt's features that belong to it, wherever it stands.

    Args:
        adapter: the text encoder that the prompt was encoded with.
        prompt: as it was given, weights and all.
        words: in whatever case; `red circle` are the rows of both words, where they stand side by side.

    Raises:
        CheckpointError: the encoder does not say which row is which token.
        ValueError: a word does not stand in the prompt, or was cut off.
    """
    if not hasattr(adapter, "places"):
        raise CheckpointError("the text encoder of this model does not say which token is which; CLIP's do.")
    text = prompt_weights.bare(adapter, prompt).text
    places = adapter.places(text)
    return [_rows(text, places, word) for word in words]


def _rows(text: str, places: prompt_weights.Places, word: str) -> tuple[int, ...]:
    spaced = r"\s+".join(map(re.escape, word.split()))
    if not spaced:
        raise ValueError("a word to look for is empty.")
    begin, end = (r"\b" if re.match(r"\w", letter) else "" for letter in (word.strip()[0], word.strip()[-1]))
    spans = [match.span() for match in re.finditer(begin + spaced + end, text, re.IGNORECASE)]
    if not spans:
        raise ValueError(f"{word!r} does not stand in the prompt; it has {', '.join(words_of(text)) or 'no words'}.")
    rows = tuple(
        row for row, place in enumerate(places) if place and any(place[0] < e and b < place[1] for b, e in spans)
    )
    if not rows:
        raise ValueError(f"{word!r} was cut off: the prompt is too long for the model.")
    return rows
