"""Finding a ControlNet or T2I-Adapter and telling what it is, before its weights are read.

Both lie in a folder of that kind (`controlnet`, `t2i_adapter`): a folder in the diffusers layout with its `config.json`, or a
single safetensors file of a ControlNet, in the names of diffusers or in the original ones.  A single file has the
config of the published model that it was made for, which its tensors tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import CheckpointError
from graphengine.fingerprint import digest, remembered_digest
from graphengine.models import ldm, library
from graphengine.models.families import family_of
from graphengine.models.identify import identify
from graphengine.models.single_file import HERE, MODELS
from graphengine.models.source import read_json
from graphengine.models.weights import PICKLES, TensorInfo, load_tensors, read_header, refusal, weight_files
from graphengine.settings import Settings
from graphengine.values import ControlNet

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KIND, CONFIG = "controlnet", "config.json"
CONTROLNET, T2I_ADAPTER = "ControlNetModel", "T2IAdapter"
STEERED = "UNet2DConditionModel"
"""The class of network that both of them steer."""
HINT_LAYERS = 8
"""Convolutions of the part that reads the hint."""
ORIGINAL, LAYOUTS = "ldm", ("ldm", "diffusers")
UNION = "task_embedding"
"""A tensor that only a union of several ControlNets has."""


@dataclass(frozen=True)
class ControlFile:
    """A ControlNet or T2I-Adapter: where it is, its config and its digest; `prefix` begins original names."""

    name: str
    place: Path
    config: dict[str, Any]
    files: list[Path]
    digest: str
    prefix: str | None = None

    @property
    def kind(self) -> str:
        """The class of the network."""
        return str(self.config["_class_name"])

    @property
    def width(self) -> int:
        """Of the text features that it reads; 0 when it reads none."""
        return int(self.config.get("encoder_hid_dim") or self.config.get("cross_attention_dim") or 0)

    def handle(self) -> ControlNet:
        """A handle on it."""
        told = self.config
        if str(told.get("adapter_type")).endswith("_xl"):
            told = {"addition_embed_type": "text_time"}
        family = family_of(STEERED, told) or ""
        return ControlNet(self.name, self.digest, family, str(self.place), width=self.width)

    @property
    def numbers(self) -> int:
        """How many numbers its weights are."""
        return sum(info.numbers for file in self.files for info in read_header(file).values())

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The weights in diffusers' names.  Raises CheckpointError."""
        if self.prefix is None:
            return load_tensors(self.files, dtype)
        return ldm.renamed(load_tensors(self.files, dtype, self.prefix), table(self.config))


def find(name: str, settings: Settings) -> ControlFile:
    """The ControlNet of a name.

    Raises:
        CheckpointError: there is none, it is pickled, damaged, or something else.
        AssetError: the name leads out of the model folders.
    """
    return at(library.find_part(name, KIND, settings, "ControlNet"), settings, name)


def at(path: Path, settings: Settings, name: str = "") -> ControlFile:
    """The ControlNet at a place.  Raises CheckpointError."""
    name = name or path.name
    if path.is_dir():
        config, files, prefix = _folder(path, name), weight_files(path), None
        for file in files:
            read_header(file)
    elif path.suffix in PICKLES:
        raise CheckpointError(refusal(path))
    else:
        files = [path]
        config, prefix = single(read_header(path), name)
    sums = {file.name: remembered_digest(file, settings.cache_folder) for file in files}
    text = json.dumps({"config": config, "sums": sums if path.is_dir() else list(sums.values())}, sort_keys=True)
    return ControlFile(name, path, config, files, digest(text.encode()).hex(), prefix)


def _folder(path: Path, name: str) -> dict[str, Any]:
    if not (path / CONFIG).is_file():
        raise CheckpointError(f"{name} has no {CONFIG}; a folder of a ControlNet needs one beside its weights.")
    config = read_json(path / CONFIG)
    seen = config.get("_class_name")
    if seen not in (CONTROLNET, T2I_ADAPTER):
        raise CheckpointError(f"{name} is a {str(seen)[:60]}; expected a {CONTROLNET} or a {T2I_ADAPTER}.")
    return config


def single(header: Mapping[str, TensorInfo], name: str) -> tuple[dict[str, Any], str | None]:
    """The config of a single file by its header, and what begins its names when they are the original ones.

    Raises:
        CheckpointError: it is no ControlNet, or one for no published model.
    """
    try:
        found = identify(header)
    except CheckpointError as error:
        raise CheckpointError(f"{name} is no ControlNet. {error}") from None
    told = f"{name} holds a {found.kind} of {found.family} ({found.variant}, {found.layout} layout)"
    model = MODELS.get(found.variant)
    if found.kind != "controlnet" or found.layout not in LAYOUTS or model is None or UNION in header:
        only = "a single file must be a ControlNet for a published Stable Diffusion 1.x, 2.x or XL, and no union of several"
        raise CheckpointError(f"{told}; {only}.")
    published = json.loads((HERE / "configs" / f"{model}.json").read_text(encoding="utf-8"))["unet"]
    prefix = found.parts["controlnet"] if found.layout == ORIGINAL else None
    return {**published, "_class_name": CONTROLNET}, prefix


def table(config: Mapping[str, Any]) -> ldm.Table:
    """The original names of a ControlNet's tensors, by its config."""
    return {**ldm.unet_table(config), "middle_block_out.0": "controlnet_mid_block", **dict(_own_names(config))}


def _own_names(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    levels = len(config["block_out_channels"])
    for number in range(levels * (int(config["layers_per_block"]) + 1)):
        yield f"zero_convs.{number}.0", f"controlnet_down_blocks.{number}"
    blocks = ["conv_in", *(f"blocks.{number}" for number in range(HINT_LAYERS - 2)), "conv_out"]
    for number, block in enumerate(blocks):
        yield f"input_hint_block.{2 * number}", f"controlnet_cond_embedding.{block}"
