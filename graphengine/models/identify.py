"""What a file of weights is, told by the names and shapes in its header and by nothing else.

A file's name, its folder and its metadata are what somebody wrote; the tensors are what will be loaded.  The rows of
`layouts` and `part_layouts` are looked up under every prefix that is in use, so the work does not grow with the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from math import prod

from graphengine.errors import CheckpointError
from graphengine.models.adapters import made_for, read_layers
from graphengine.models.layouts import NAMES, TABLE, UNETS, Layout, read_table
from graphengine.models.part_layouts import PARTS, PREFIXES
from graphengine.models.weights import TensorInfo

SINGLE = ("denoiser", "vae", "controlnet")
"""Kinds of which a file has one at most."""
CHANGES = ("lora", "controlnet", "t2i_adapter", "ip_adapter", "textual_inversion", "motion_module")
CLOSE = {
    ("stable_diffusion_xl", "sdxl"): ("stable_diffusion_xl", "kolors"),
    ("flux", "flux_or_chroma"): ("flux", "chroma"),
    ("flux_2", "flux_2_klein_4b_or_flux"): ("flux_2", "flux", "chroma"),
    ("pixart", "pixart_or_sana_0_6b"): ("pixart", "sana"),
}
"""LoRAs that change only layers which several families have, with equal names and shapes."""
WORD = re.compile(r"(?P<mark>[!^]?)(?P<name>[^\[]+)(?:\[(?P<sides>[\d,*]+)\])?")
SHOWN, LONGEST, ENCODERS = 4, 80, 16


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file holds.

    `kind` is "checkpoint" for several parts, and else the one part: "denoiser", "vae", "text_encoder", "lora" and so on.
    `layout` names the way in which the denoiser's tensors are called; `parts` says what stands before them, part by
    part (text encoders by their own names, such as "clip_l"), so that a file of ComfyUI's is the original layout under
    a prefix.  `parameters` counts the numbers as they are stored.  `width` is that of the text features or tokens, by
    which an adapter and a denoiser are compared; `method` is how an adapter changes its layers.
    """

    kind: str
    family: str
    variant: str
    layout: str
    parts: Mapping[str, str] = field(default_factory=dict)
    parameters: int = 0
    dtypes: Mapping[str, int] = field(default_factory=dict)
    width: int | None = None
    method: str = ""


@dataclass(frozen=True, slots=True)
class Word:
    """One condition on one tensor."""

    name: str
    sides: tuple[int | None, ...]
    mark: str

    def told(self) -> str:
        """The condition as people write it."""
        sides = ", ".join("any" if side is None else str(side) for side in self.sides)
        return f"{self.name} [{sides}{', ...' if len(self.sides) == 1 else ''}]" if sides else self.name


@dataclass(frozen=True, slots=True)
class Match:
    """A row that fits under a prefix."""

    row: Layout
    variant: str
    prefix: str

    @property
    def part(self) -> str:
        kind = self.row.head[0]
        return self.variant if kind in ("text_encoder", "image_encoder") else kind


@cache
def rows() -> tuple[Layout, ...]:
    """The whole table."""
    unets = [row for names in NAMES for row in read_table(UNETS.format_map(names))]
    return (*unets, *read_table(TABLE), *read_table(PARTS))


@cache
def conditions(words: str) -> tuple[tuple[Word, ...], ...]:
    """A row's words, each as its choices."""

    def word(text: str) -> Word:
        found = WORD.fullmatch(text)
        assert found is not None, text
        sides = (found["sides"] or "").split(",") if found["sides"] else []
        return Word(found["name"], tuple(None if side == "*" else int(side) for side in sides), found["mark"])

    return tuple(tuple(word(choice) for choice in choices.split("|")) for choices in words.split())


def identify(tensors: Mapping[str, TensorInfo]) -> Identity:
    """What the tensors of a file are.

    Raises:
        CheckpointError: no known layout fits; it says what was seen, and what the nearest layout has besides.
    """
    if not tensors:
        raise CheckpointError("The file holds no tensors.")
    parameters = sum(info.numbers for info in tensors.values())
    dtypes = dict(Counter(info.dtype for info in tensors.values()))
    layers = read_layers(tensors)
    if 3 * layers.named >= len(tensors) and layers.methods and "lora_controlnet" not in tensors:
        if (found := made_for(layers)) is None:
            raise CheckpointError(f"The file is an adapter of no known network: it changes {_some(layers.sizes)}.")
        family, variant, width = found
        layout = layers.layouts.most_common(1)[0][0]
        return Identity("lora", family, variant, layout, layers.parts, parameters, dtypes, width, layers.method)
    found = matches(tensors)
    if not found:
        raise CheckpointError(_unknown(tensors))
    main, parts = found[0], {match.part: match.prefix for match in reversed(found)}
    kind, family, layout, measured = main.row.head
    several = len(parts) > 1
    return Identity(
        kind="checkpoint" if several else kind,
        family=family,
        variant=main.variant,
        layout=layout,
        parts={match.part: parts[match.part] for match in found},
        parameters=parameters,
        dtypes=dtypes,
        width=_width(tensors, main.prefix + measured),
    )


def matches(tensors: Mapping[str, TensorInfo]) -> list[Match]:
    """Every part that a file holds, and what stands before its names."""
    return list(_matches(tensors))


def _matches(tensors: Mapping[str, TensorInfo]) -> Iterator[Match]:
    """The rows that fit, denoisers first; one for each prefix, and one for each kind of which a file has but one."""
    encoders = _encoder_prefixes(tensors)
    seen: set[tuple[str, str]] = set()
    for row in rows():
        kind = row.head[0]
        for prefix in (*PREFIXES.get(kind, ("",)), *(encoders if kind == "text_encoder" else ())):
            place = (kind, "" if kind in SINGLE else prefix)
            if place in seen or not _holds(row.tells, tensors, prefix):
                continue
            for variant, words in row.variants.items():
                if _holds(words, tensors, prefix):
                    seen.add(place)
                    yield Match(row, variant, prefix)
                    break


def _encoder_prefixes(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """The prefixes of the text encoders in a file of ComfyUI's, which names them."""
    names = {name.split(".", 2)[1] for name in tensors if name.startswith("text_encoders.")}
    return [
        f"text_encoders.{name}.{below}"
        for name in islice(sorted(names), ENCODERS)
        for below in ("transformer.", "transformer.model.", "model.", "")
    ]


def _holds(words: str, tensors: Mapping[str, TensorInfo], prefix: str) -> bool:
    return all(any(_fits(word, tensors, prefix) for word in choices) for choices in conditions(words))


def _fits(word: Word, tensors: Mapping[str, TensorInfo], prefix: str) -> bool:
    if word.name == "?":
        info = next(iter(tensors.values())) if len(tensors) == 1 else None
        return info is not None and (
            not word.sides or (len(info.shape) == len(word.sides) and _begins(info.shape, word))
        )
    name = word.name if word.mark == "^" else prefix + word.name
    info = tensors.get(name)
    if word.mark == "!" or info is None or not word.sides:
        return (info is None) == (word.mark == "!")
    if f"{name}.absmax" in tensors or f"{name}.quant_map" in tensors:  # packed, and flat: only the count is left
        known = [side for side in word.sides if side is not None]
        exact = len(known) == len(word.sides) == 2
        return info.numbers in (prod(known), -(-prod(known) // 2)) if exact else True
    shape = info.shape
    if info.dtype == "U8" and f"{name}_scale" in tensors and shape:  # two numbers in a byte
        shape = (*shape[:-1], 2 * shape[-1])
    return _begins(shape, word)


def _begins(shape: tuple[int, ...], word: Word) -> bool:
    return len(shape) >= len(word.sides) and all(
        want in (None, side) for want, side in zip(word.sides, shape, strict=False)
    )


def _width(tensors: Mapping[str, TensorInfo], name: str) -> int | None:
    info = tensors.get(name)
    if info is None or not info.shape or f"{name}.absmax" in tensors:
        return None
    return info.shape[-1] * (2 if info.dtype == "U8" and f"{name}_scale" in tensors else 1)


def _unknown(tensors: Mapping[str, TensorInfo]) -> str:
    """What was seen, and the layout that lacks the least."""
    tops: dict[str, str] = {}
    for name in tensors:
        tops.setdefault(name.split(".", 1)[0], name)
        if len(tops) == SHOWN:
            break
    seen = ", ".join(f"{_short(name)} {_sides(tensors[name])}" for name in tops.values())
    told = f"No known layout has these tensors: {seen} ({len(tensors)} in all)."
    score, near = max(_nearness(tensors), key=lambda found: found[0])
    if not score:
        return told
    kind, family, layout, _ = near.row.head
    variant = "" if near.variant == family else f" ({near.variant})"
    lacks = _lacks(f"{near.row.tells} {near.row.variants[near.variant]}", tensors, near.prefix)
    return f"{told} The nearest is {kind} {family}{variant} in the {layout} layout, but {'; '.join(lacks[:SHOWN])}."


def _nearness(tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[float, Match]]:
    """How much of a row there is, from 0 to 1: a tensor of another shape counts half."""
    for row in rows():
        for prefix in PREFIXES.get(row.head[0], ("",)):
            for variant, words in row.variants.items():
                wanted = [c for c in conditions(f"{row.tells} {words}") if c[0].mark != "!" and c[0].name != "?"]
                there = [any(prefix + word.name in tensors for word in choices) for choices in wanted]
                right = [any(_fits(word, tensors, prefix) for word in choices) for choices in wanted]
                yield (sum(there) + sum(right)) / max(2 * len(wanted), 1), Match(row, variant, prefix)


def _lacks(words: str, tensors: Mapping[str, TensorInfo], prefix: str) -> list[str]:
    """What keeps the words from holding."""
    found = []
    for choices in conditions(words):
        word = choices[0]
        if any(_fits(choice, tensors, prefix) for choice in choices):
            continue
        name = word.name if word.mark == "^" else prefix + word.name
        if word.mark == "!":
            found.append(f"it should not have {name}")
        elif name in tensors:
            found.append(f"{name} is {_sides(tensors[name])} instead of {word.told().removeprefix(word.name).strip()}")
        else:
            found.append(f"{prefix if word.mark != '^' else ''}{word.told()} is missing")
    return list(dict.fromkeys(found))


def _short(name: str) -> str:
    plain = "".join(letter if letter.isprintable() else "?" for letter in name[: LONGEST + 1])
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 3]}..."


def _sides(info: TensorInfo) -> str:
    return str(list(info.shape[:6]))


def _some(names: Mapping[str, object]) -> str:
    return ", ".join(_short(name) for name in islice(names, SHOWN)) or "nothing"


def compatible(lora: Identity, denoiser: Identity) -> None:
    """Refuse an adapter (a LoRA, a ControlNet, an embedding...) that was made for another network.

    Raises:
        CheckpointError: it does not fit; the sentence says what each of the two is.
    """
    if lora.kind not in CHANGES:
        raise CheckpointError(f"A {_named(lora)} is nothing that can be put on a denoiser.")
    if denoiser.kind not in ("denoiser", "checkpoint"):
        raise CheckpointError(f"A {_named(denoiser)} is no denoiser, so no {lora.kind} can be put on it.")
    families = (CLOSE if lora.kind == "lora" else {}).get((lora.family, lora.variant), (lora.family,))
    if lora.kind == "motion_module":
        families = {"sd1": ("stable_diffusion",), "sdxl": ("stable_diffusion_xl",)}[lora.variant]
    widths = [lora.width, denoiser.width]
    if denoiser.family not in families or (None not in widths and widths[0] != widths[1]):
        ours, theirs = (f" (width {width})" if width else "" for width in widths)
        raise CheckpointError(
            f"This {lora.kind} was made for {lora.family} {lora.variant}{ours}, "
            f"and the denoiser is {denoiser.family} {denoiser.variant}{theirs}: their layers do not fit."
        )


def _named(identity: Identity) -> str:
    return f"{identity.kind} of {identity.family}"
