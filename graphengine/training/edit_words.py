"""How an edit is asked for: several wordings of each kind, as people type them.

A thing is called "it" when it stands alone, else by what sets it apart: its shape, its colour, both, or its place.
The wordings are the only source of words: what the tokenizer has to know is read off them.
"""

from __future__ import annotations

import re

import numpy as np

from graphengine.training.edit_scenes import Edit, Placed, View
from graphengine.training.scenes import COLOURS, PATTERNS, POSITIONS, SHAPES, SIZES

WORDINGS: dict[str, tuple[str, ...]] = {
    "colour": (
        "make {it} {colour}",
        "make {it} {colour}",
        "turn {it} {colour}",
        "paint {it} {colour}",
        "color {it} {colour}",
        "change {it} to {colour}",
        "change the colour of {it} to {colour}",
    ),
    "shape": (
        "turn {it} into {a_shape}",
        "make {it} {a_shape}",
        "change {it} into {a_shape}",
        "change {it} to {a_shape}",
        "replace {it} with {a_shape}",
    ),
    "background": (
        "make the background {ground}",
        "make the background {ground}",
        "change the background to {ground}",
        "turn the background {ground}",
        "paint the background {ground}",
        "put it on {a_ground} background",
        "on {a_ground} background",
        "{ground} background",
    ),
    "patterned": (
        "put it on {a_ground} background",
        "on {a_ground} background",
        "change to {a_ground} background",
        "{ground} background",
    ),
    "add": (
        "add {a_thing} {where}",
        "add {a_thing} {where}",
        "put {a_thing} {where}",
        "place {a_thing} {where}",
        "draw {a_thing} {where}",
    ),
    "remove": (
        "remove {it}",
        "delete {it}",
        "erase {it}",
        "take {it} away",
        "take away {it}",
        "get rid of {it}",
    ),
    "move": (
        "move {it} {way}",
        "move {it} {way}",
        "shift {it} {way}",
        "put {it} {position}",
        "place {it} {position}",
        "move {it} {short_way}",
    ),
    "larger": ("make {it} larger", "make {it} bigger", "enlarge {it}", "make {it} grow", "scale {it} up"),
    "smaller": ("make {it} smaller", "shrink {it}", "make {it} shrink", "scale {it} down"),
    "size": ("make {it} {size}",),
    "identity": (
        "",
        "do nothing",
        "change nothing",
        "leave it as it is",
        "keep it as it is",
        "keep everything as it is",
    ),
}
WAYS = {
    "on the left": ("to the left", "left"),
    "on the right": ("to the right", "right"),
    "at the top": ("to the top", "up"),
    "at the bottom": ("to the bottom", "down"),
    "in the center": ("to the center", "to the middle"),
}
"""Where to, in full and in short."""
SIDES = {
    "on the left": ("to the left of {it}", "left of {it}"),
    "on the right": ("to the right of {it}", "right of {it}"),
    "at the top": ("above {it}", "above"),
    "at the bottom": ("below {it}", "below"),
}
"""Where a second thing stands, as seen from the first."""
FURTHER = "the thing shape one picture please grey centre colour with and , ."


def words() -> list[str]:
    """Every word of the instructions."""
    text = [FURTHER, *COLOURS, *SHAPES, *SIZES, *PATTERNS, *POSITIONS, "medium a an"]
    text += [wording for wordings in (*WORDINGS.values(), *WAYS.values(), *SIDES.values()) for wording in wordings]
    plain = re.sub(r"\{\w+\}", " ", " ".join(text))
    return sorted(set(plain.split()))


def say(edit: Edit, random: np.random.Generator, varied: bool = True) -> str:
    """Ask for an edit in words; not `varied`, always in the first wording with plain names."""
    kind = _kind(edit, random, varied)
    wordings = WORDINGS[kind]
    wording = wordings[int(random.integers(len(wordings)))] if varied else wordings[0]
    text = wording.format(**_filling(edit, random, varied))
    return _typed(text, random) if varied and text else text


def _kind(edit: Edit, random: np.random.Generator, varied: bool) -> str:
    if edit.kind == "background" and edit.after.pattern != "plain":
        return "patterned"
    if edit.kind != "size":
        return edit.kind
    sizes = list(SIZES)
    steps = sizes.index(str(edit.changed.size)) - sizes.index(str(edit.thing.size))
    if abs(steps) == 1 and (not varied or random.random() < 0.7):
        return "larger" if steps > 0 else "smaller"
    return "size"


def _filling(edit: Edit, random: np.random.Generator, varied: bool) -> dict[str, str]:
    will, after = edit.changed, edit.after
    it = _name(edit.after if edit.kind == "add" else edit.before, edit.index, random, varied)
    straight = "in the center" in (edit.thing.position, will.position)  # "up" from the left says too little
    ground = {
        "plain": after.ground,
        "gradient": f"{after.ground} to {after.second_ground} gradient",
    }.get(after.pattern, f"{after.ground} and {after.second_ground} {after.pattern}")
    described = " ".join(word for word in (will.size, will.colour, will.shape) if word)
    return {
        "it": it,
        "colour": will.colour,
        "a_shape": _article(will.shape),
        "ground": ground,
        "a_ground": _article(ground),
        "a_thing": _article(described),
        "where": _where(edit, random, varied) if edit.kind == "add" else "",
        "way": WAYS[will.position][0],
        "short_way": WAYS[will.position][straight],
        "position": will.position,
        "size": str(will.size),
    }


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _name(view: View, index: int, random: np.random.Generator, varied: bool) -> str:
    """What a thing is called in a view: short when it stands alone, else what sets it apart."""
    it, others = view.things[index], [other for at, other in enumerate(view.things) if at != index]
    full = f"the {it.colour} {it.shape}"
    if not others:
        names = ["it", "it", "it", f"the {it.shape}", f"the {it.shape}", full, "the shape"]
        return names[int(random.integers(len(names)))] if varied else "it"
    by_shape = all(other.shape != it.shape for other in others)
    by_colour = all(other.colour != it.colour for other in others)
    names = [full] + [f"the {it.shape}"] * 3 * by_shape + [f"the {it.colour} {_one(random)}"] * 2 * by_colour
    names += [f"the {_one(random)} {it.position}"]
    if not varied:
        return f"the {it.shape}" if by_shape else full
    return names[int(random.integers(len(names)))]


def _one(random: np.random.Generator) -> str:
    return ("one", "thing", "shape")[int(random.integers(3))]


def _where(edit: Edit, random: np.random.Generator, varied: bool) -> str:
    """Where the added thing comes to stand."""
    will = edit.changed
    if not varied or random.random() < 0.5:
        return will.position
    options = SIDES[will.position]
    return options[int(random.integers(len(options)))].format(it=_known(edit.before.things[0], random))


def _known(it: Placed, random: np.random.Generator) -> str:
    return ("it", f"the {it.shape}", f"the {it.colour} {it.shape}")[int(random.integers(3))]


def _typed(text: str, random: np.random.Generator) -> str:
    """Other spellings, "please", a full stop."""
    for british, other in (("gray", "grey"), ("center", "centre"), ("colour", "color")):
        if random.random() < 0.3:
            text = text.replace(british, other)
    if random.random() < 0.04:
        text = f"please {text}"
    if random.random() < 0.04:
        text = f"{text}."
    return text
