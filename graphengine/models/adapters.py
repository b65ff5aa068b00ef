"""Adapters, which hold changes of layers and no layers: what their names say of the network they were made for.

The methods are LoRA (Hu et al., 2021, arXiv:2106.09685), LoHa and LoKr (Yeh et al., 2023, arXiv:2309.14859), DoRA (Liu
et al., 2024, arXiv:2402.09353), OFT (Qiu et al., 2023, arXiv:2306.07280) and full differences.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

from graphengine.models.layouts import read_table
from graphengine.models.part_layouts import ADAPTERS
from graphengine.models.weights import TensorInfo

BEGINNINGS = (
    ("lora_unet_", "denoiser", "kohya"),
    ("lora_te1_", "text_encoder", "kohya"),
    ("lora_te2_", "text_encoder_2", "kohya"),
    ("lora_te3_", "text_encoder_3", "kohya"),
    ("lora_te_", "text_encoder", "kohya"),
    ("lora_transformer_", "denoiser", "onetrainer"),
    ("lycoris_", "denoiser", "lycoris"),
    ("base_model.model.unet.", "denoiser", "peft"),
    ("base_model.model.transformer.", "denoiser", "peft"),
    ("base_model.model.", "denoiser", "peft"),
    ("model.diffusion_model.", "denoiser", "comfyui"),
    ("diffusion_model.", "denoiser", "comfyui"),
    ("unet.", "denoiser", "peft"),
    ("transformer.", "denoiser", "peft"),
    ("text_encoder.", "text_encoder", "peft"),
    ("text_encoder_2.", "text_encoder_2", "peft"),
    ("text_encoder_3.", "text_encoder_3", "peft"),
    ("text_encoders.clip_l.", "text_encoder", "comfyui"),
    ("text_encoders.clip_g.", "text_encoder_2", "comfyui"),
    ("text_encoders.t5xxl.", "text_encoder_3", "comfyui"),
    ("", "denoiser", "peft"),
)
"""How the name of a changed layer begins, the part that it is in, and who writes so."""

ENDINGS: dict[str, tuple[str, int | None, int | None]] = {
    "lora_down.weight": ("lora", None, 1),
    "lora_up.weight": ("lora", 0, None),
    "lora_mid.weight": ("lora", None, None),
    "lora_A.weight": ("lora", None, 1),
    "lora_B.weight": ("lora", 0, None),
    "lora_B.bias": ("lora", None, None),
    "lora.down.weight": ("lora", None, 1),
    "lora.up.weight": ("lora", 0, None),
    "lora_linear_layer.down.weight": ("lora", None, 1),
    "lora_linear_layer.up.weight": ("lora", 0, None),
    "alpha": ("", None, None),
    "dora_scale": ("dora", None, None),
    "lora_magnitude_vector": ("dora", None, None),
    "lora_magnitude_vector.weight": ("dora", None, None),
    "hada_w1_a": ("loha", 0, None),
    "hada_w1_b": ("loha", None, 1),
    "hada_w2_a": ("loha", None, None),
    "hada_w2_b": ("loha", None, None),
    "hada_t1": ("loha", None, None),
    "hada_t2": ("loha", None, None),
    "lokr_w1": ("lokr", 0, 1),
    "lokr_w1_a": ("lokr", 0, None),
    "lokr_w1_b": ("lokr", None, 1),
    "lokr_w2": ("lokr", 0, 1),
    "lokr_w2_a": ("lokr", 0, None),
    "lokr_w2_b": ("lokr", None, 1),
    "lokr_t2": ("lokr", None, None),
    "oft_blocks": ("oft", None, None),
    "oft_diag": ("oft", None, None),
    "diff": ("full", 0, 1),
    "diff_b": ("full", None, None),
}
"""How the names of an adapter's tensors end: the method, and which side is the layer's output and which its input."""

OLD = re.compile(r"_lora(\d?)$")
NUMBER = re.compile(r"(?<=_)\d{1,6}(?=_|$)")
WORD = re.compile(r"(?P<start>\^?)(?P<name>[^\[>]+)(?:\[(?P<sides>[\d,*]+)\]|>(?P<above>\d+))?")
ROWS = read_table(ADAPTERS)
SIZES = 8

Side = int | None


@dataclass
class Layers:
    """The layers that an adapter changes: their outputs and inputs, by name without numbers, and the highest numbers."""

    sizes: dict[str, set[tuple[Side, Side]]] = field(default_factory=dict)
    heights: dict[str, int] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    layouts: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    named: int = 0

    @property
    def method(self) -> str:
        """How the layers are changed.  A DoRA is a LoRA with magnitudes."""
        return "dora" if self.methods["dora"] else self.methods.most_common(1)[0][0]

    @cached_property
    def text(self) -> str:
        """All names, each after a line's end: one search tells that none holds a word."""
        return "".join(f"\n{layer}" for layer in self.sizes)

    def width(self, names: str) -> int | None:
        """The inputs of a layer whose name holds one of these."""
        for name in names.split("|"):
            if name in self.text:
                found = (size[1] for layer, sizes in self.sizes.items() if name in layer for size in sizes if size[1])
                if (width := next(found, None)) is not None:
                    return width
        return None


def ending(name: str) -> tuple[str, str, str] | None:
    """A tensor's layer, how its name ends, and who writes so if the ending tells; None for what is no adapter's."""
    pieces = name.rsplit(".", 3)
    for place in range(1, len(pieces)):
        last = ".".join(pieces[place:])
        if last in ENDINGS:
            writer = "diffusers" if last.startswith("lora.") or "_layer" in last else ""
            return ".".join(pieces[:place]), last, writer
    if len(pieces) == 4 and pieces[1] in ("lora_A", "lora_B"):  # PEFT puts the adapter's name between
        return pieces[0], f"{pieces[1]}.weight", ""
    if len(pieces) == 4 and pieces[2] in ("down", "up") and (old := OLD.search(pieces[1])):
        writer = "xlabs" if old[1] else "diffusers"
        layer = f"{pieces[0].removesuffix('.processor')}.{pieces[1][: old.start()]}{old[1]}"  # 1: picture, 2: text
        return layer, f"lora_{pieces[2]}.weight", writer
    return None


def read_layers(tensors: Mapping[str, TensorInfo]) -> Layers:
    """The layers that the tensors change."""
    layers = Layers()
    sides: dict[str, list[Side]] = {}
    for name, info in tensors.items():
        if (found := ending(name)) is None:
            continue
        layer, last, writer = found
        method, *axes = ENDINGS[last]
        layers.named += 1
        if method:
            layers.methods[method] += 1
        size = sides.setdefault(layer, [None, None])
        for place, axis in enumerate(axes):
            if axis is not None and axis < len(info.shape):
                size[place] = (size[place] or 1) * info.shape[axis]  # a Kronecker product has the product of the sides
        if writer:
            layers.layouts[writer] += 1
    for layer, (out, inner) in sides.items():
        _enter(layers, layer, out, inner)
    return layers


def _enter(layers: Layers, layer: str, out: Side, inner: Side) -> None:
    beginning, part, layout = next(row for row in BEGINNINGS if layer.startswith(row[0]))
    layers.parts.setdefault(part, beginning)
    layers.layouts[layout] += 0 if layers.layouts["diffusers"] or layers.layouts["xlabs"] else 1
    flat = layer[len(beginning) :].replace(".", "_")
    end = 0
    for number in NUMBER.finditer(flat):
        stem = flat[end : number.start() - 1]
        layers.heights[stem] = max(layers.heights.get(stem, 0), int(number[0]))
        end = number.end() + 1
    name = NUMBER.sub("#", flat) if part == "denoiser" else f"{part}:{NUMBER.sub('#', flat)}"
    sizes = layers.sizes.setdefault(name, set())
    if len(sizes) < SIZES:
        sizes.add((out, inner))


@dataclass(frozen=True, slots=True)
class Word:
    """One condition on the layers: part of a name or its beginning, and sides or a number to be above."""

    name: str
    start: bool
    sides: tuple[Side, ...]
    above: int | None

    def fits(self, layers: Layers) -> bool:
        """Whether a layer is as the word says."""
        if self.above is not None:
            return layers.heights.get(self.name, -1) > self.above
        if (f"\n{self.name}" if self.start else self.name) not in layers.text:
            return False
        return not self.sides or any(
            all(want in (None, side) for want, side in zip(self.sides, size, strict=False))
            for layer, sizes in layers.sizes.items()
            if self.name in layer
            for size in sizes
        )


@cache
def _word(text: str) -> Word:
    found = WORD.fullmatch(text)
    assert found is not None, text
    sides = (found["sides"] or "").split(",") if found["sides"] else []
    above = int(found["above"]) if found["above"] else None
    return Word(found["name"], bool(found["start"]), tuple(None if side == "*" else int(side) for side in sides), above)


def _holds(words: str, layers: Layers) -> bool:
    for word in words.split():
        fits = any(_word(choice).fits(layers) for choice in word.removeprefix("!").split("|"))
        if fits == word.startswith("!"):
            return False
    return True


def made_for(layers: Layers) -> tuple[str, str, int | None] | None:
    """The family and the variant that the layers belong to and the width that both have; None when no row fits."""
    for row in ROWS:
        family, width = row.head
        if _holds(row.tells, layers):
            for variant, words in row.variants.items():
                if _holds(words, layers):
                    return family, variant, layers.width(width)
    return None
