"""What the parts of checkpoints take: their weights once loaded, what is read meanwhile, and what they need to work.

All of it follows from headers, configs and settings; nothing is loaded, and torch is not imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from graphengine.models import activations, alone, control_files
from graphengine.models.activations import DEVICE, HOST_AUTOENCODER, HOST_DENOISER, Kernels
from graphengine.models.checkpoint import source_of
from graphengine.models.source import Source
from graphengine.models.weights import WIDTHS, TensorInfo, read_header, stays_narrow
from graphengine.settings import Settings
from graphengine.values import VAE, ControlNet, Denoiser, Handle, Patch, TextEncoder

NUMBERS = {"float32": 4, "float16": 2, "bfloat16": 2}
FORMATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
DOWN, UP = (
    ("lora_down.weight", "lora_A.weight", "lora.down.weight"),
    ("lora_up.weight", "lora_B.weight", "lora.up.weight"),
)
TEXT_STARTS = ("lora_te", "text_encoder", "te_", "te1_", "te2_")


@dataclass(frozen=True)
class Size:
    """A batch of pictures: how many, and their size in pixels."""

    batch: int
    width: int
    height: int

    @property
    def picture(self) -> Size:
        """One of them."""
        return Size(1, self.width, self.height)


@dataclass(frozen=True)
class Part:
    """The weights that a handle names, without its patches."""

    handle: Handle
    settings: Settings

    @property
    def role(self) -> str:
        roles = {Denoiser: "denoiser", TextEncoder: "text", VAE: "vae", ControlNet: "control"}
        return roles[type(self.handle)]

    @cached_property
    def _file(self) -> control_files.ControlFile:
        return control_files.at(Path(self.handle.folder), self.settings, self.handle.checkpoint)

    @cached_property
    def _source(self) -> Source:
        return alone.source_of(self.handle) if self.handle.alone else source_of(Path(self.handle.folder))

    @cached_property
    def _parts(self) -> list[str]:
        return {"denoiser": [self._source.denoiser], "vae": ["vae"], "text": self._source.texts}[self.role]

    @cached_property
    def numbers(self) -> int:
        """How many numbers its weights are.  Raises CheckpointError."""
        return self._file.numbers if self.role == "control" else self._source.numbers(self.role)

    @cached_property
    def configs(self) -> list[Mapping[str, Any]]:
        """Its config; of text encoders, each one's."""
        if self.role == "control":
            return [self._file.config]
        return [self._source.config(part) for part in self._parts]

    @cached_property
    def network(self) -> str:
        """The class of its network."""
        return self._file.kind if self.role == "control" else self._source.class_of(self._parts[0])

    @property
    def width(self) -> int:
        """Bytes of a number as it is held."""
        dtype = self.settings.resolved_dtype()
        overflows = self.role == "vae" and dtype == "float16" and self.configs[0].get("force_upcast", True)
        return 4 if overflows else NUMBERS[dtype]

    @cached_property
    def _infos(self) -> list[TensorInfo]:
        """What its files hold; those of a single file hold other parts as well."""
        files = self._file.files if self.role == "control" else {f for p in self._parts for f in self._source.files(p)}
        return [info for file in files for info in read_header(file).values()]

    @property
    def weights(self) -> int:
        """Bytes of its weights as they are held: at half their width where most of them stay narrow."""
        wide = self.numbers * self.width
        if self.role != "denoiser" or not self.settings.keeps_narrow(self.numbers):
            return wide
        narrow = sum(info.numbers for info in self._infos if stays_narrow(info.shape, info.dtype))
        return wide - wide // 2 * narrow // max(1, sum(info.numbers for info in self._infos))

    @cached_property
    def pages(self) -> int:
        """Bytes of its files that lie in memory beside its weights while it is loaded: none where they are the weights."""
        wanted = FORMATS[self.settings.resolved_dtype()]
        told = sum(info.numbers * WIDTHS[info.dtype] for info in self._infos if info.dtype != wanted)
        return told * self.numbers // max(1, sum(info.numbers for info in self._infos))

    def drawing(self, size: Size, branches: int, steering: Iterable[Part] = ()) -> int:
        """Bytes of one call of a denoiser: every picture goes through it `branches` times, at once."""
        nets = list(steering)
        cells = self._cells(size, branches)
        tensors = activations.denoiser(self.network, self.configs[0], cells, self.width, len(nets))
        tensors = max([tensors, *(activations.control(net.configs[0], cells, self.width) for net in nets)])
        state = 12 * size.batch * cells[1] * cells[2] * self._channels * 4
        return self._kernels(HOST_DENOISER)(tensors, activations.convolution(self.configs[0], self.width)) + state

    def coding(self, size: Size, encodes: bool = False, tiled: bool = False) -> int:
        """Bytes of an autoencoder at work on so many pictures at once, whole or in tiles."""
        config = self.configs[0]
        whole = 3 * size.batch * size.width * size.height * 4
        wide, high = size.width, size.height
        if tiled:
            side = activations.tile(config)
            wide, high = min(wide, side), min(high, side)
        tensors = activations.autoencoder(config, (size.batch, high, wide), self.width, encodes)
        needed = self._kernels(HOST_AUTOENCODER)(tensors, activations.convolution(config, self.width))
        return needed + (3 * whole if tiled else 0)  # rows of tiles, and the picture that they are put together to

    def reading(self) -> int:
        """Bytes of a text encoder at work."""
        tensors = max((activations.text(config, self.width) for config in self.configs), default=0)
        return self._kernels(HOST_DENOISER)(tensors, 0)

    def _kernels(self, host: Kernels) -> Kernels:
        return host if self.settings.resolved_device() == "cpu" else DEVICE

    @property
    def _space(self) -> tuple[int, int]:
        space = getattr(self.handle, "space", None)
        return (space.channels, space.factor) if space else (4, 8)

    @property
    def _channels(self) -> int:
        return self._space[0]

    def _cells(self, size: Size, branches: int) -> tuple[int, int, int]:
        factor = self._space[1]
        return branches * size.batch, max(1, size.height // factor), max(1, size.width // factor)


def patched_weights(part: Part, patches: Iterable[Patch]) -> int:
    """Bytes that patches add to weights: a LoRA's layers are held a second time, and other patches share all of them."""
    total = 0
    for patch in patches:
        if patch.kind == "lora" and patch.place:
            total += _changed(read_header(Path(patch.place)), part.role == "text") * part.width
    return min(total, part.weights)


def _changed(header: Mapping[str, TensorInfo], texts: bool) -> int:
    """How many weights a LoRA changes, told by its two factors."""
    total = 0
    for name, info in header.items():
        end = next((end for end in DOWN if name.endswith(end)), None)
        if end is None or name.startswith(TEXT_STARTS) != texts:
            continue
        other = header.get(name.removesuffix(end) + UP[DOWN.index(end)])
        if other is not None and info.shape and other.shape:
            total += info.numbers // max(1, info.shape[0]) * other.shape[0]
    return total
