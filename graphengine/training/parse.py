"""From a caption back to the scene that it describes: the inverse of `scenes.caption`.

Case, commas and doubled spaces play no role, and neither does which of a and an is written.
"""

from __future__ import annotations

import re

from graphengine.training.scenes import COLOURS, PATTERNS, POSITIONS, RELATIONS, SHAPES, SIZES, Scene, Thing

COLOUR = "|".join(COLOURS)
THING = rf"an? (?:(?P<size>{'|'.join(SIZES)}) )?(?P<colour>{COLOUR}) (?P<shape>{'|'.join(SHAPES)})(?: (?P<position>{'|'.join(POSITIONS)}))?"
GROUND = (
    rf"an? (?P<ground>{COLOUR})(?: (?:to|and) (?P<second>{COLOUR}) (?P<pattern>{'|'.join(PATTERNS[1:])}))? background"
)
LANGUAGE = "a [small|large] COLOUR SHAPE [on the left|...] on a COLOUR background, or two things joined by and, left of, above, ..."


def parse(text: str) -> Scene:
    """The scene of a caption.

    Raises:
        ValueError: the text is none of the language; the sentence shows what was not understood.
    """
    words = " ".join(text.lower().replace(",", " ").replace(".", " ").split())
    things, _, ground = words.rpartition(" on ")
    found = re.fullmatch(GROUND, ground)
    if found is None:
        raise ValueError(f"{ground[:80] or words[:80]!r} is no background; the checker reads: {LANGUAGE}.")
    first, relation, second = _split(things)
    made = tuple(_thing(part) for part in (first, second) if part)
    return Scene(made, found["ground"], found["pattern"] or "plain", found["second"], relation)


def _split(things: str) -> tuple[str, str | None, str]:
    for relation in RELATIONS:
        first, found, second = things.partition(f" {relation} a")
        if found:
            return first, relation, f"a{second}"
    return things, None, ""


def _thing(text: str) -> Thing:
    found = re.fullmatch(THING, text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is no thing; the checker reads: {LANGUAGE}.")
    return Thing(found["colour"], found["shape"], found["size"], found["position"])
