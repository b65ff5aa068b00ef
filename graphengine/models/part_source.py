"""One part of a model as adapters read it, where the rest of its checkpoint is not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.models import ldm
from graphengine.models.original_names import renamed, table_of
from graphengine.models.source import Source
from graphengine.models.weights import load_tensors, read_header, weight_files

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HERE = Path(__file__).parent


@dataclass(frozen=True)
class PartSource(Source):
    """One part as adapters read it; `own` are its config and others that were found, `beside` is the rest of its folder.

    `names` are the family and the layout of a transformer whose tensors have its makers' names.
    """

    part: str = ""
    model: str = ""
    own: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    prefix: str = ""
    beside: Path | None = None
    names: tuple[str, str] = ("", "")

    @property
    def name(self) -> str:
        return self.folder.stem if self.folder.is_file() else self.folder.name

    @property
    def index(self) -> dict[str, Any]:
        return {}

    @cached_property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The published model's configs, under those that were found."""
        return published(self.model) | dict(self.own)

    def has(self, part: str) -> bool:
        return part in self.configs and part != "scheduler"

    def config(self, part: str) -> dict[str, Any]:
        return dict(self.configs[part])

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        return self.configs["scheduler"]

    @cached_property
    def texts(self) -> list[str]:
        return sorted(part for part in self.configs if part.startswith("text_encoder"))

    def files(self, part: str) -> list[Path]:
        return [self.folder] if self.folder.is_file() else weight_files(self.folder)

    def numbers(self, role: str) -> int:
        headers = [read_header(file) for file in self.files(self.part)]
        return sum(info.numbers for each in headers for name, info in each.items() if name.startswith(self.prefix))

    def tokenizer(self, part: str = "tokenizer") -> Path:
        return self.beside / part if self.beside else HERE / "tokenizers" / "clip"

    def tokenizer_options(self, part: str = "tokenizer") -> dict[str, Any]:
        return {"pad_token": "!"} if self.model == "sd2" and not self.beside else {}

    def tensors(self, part: str, dtype: torch.dtype) -> dict[str, Tensor]:
        found = load_tensors(self.files(part), dtype, self.prefix)
        if table := table_of(*self.names):
            return renamed(table, found)
        if "input_blocks.0.0.weight" in found:
            return ldm.renamed(found, ldm.unet_table(self.config(part)))
        if "decoder.mid.block_1.conv1.weight" in found:
            return ldm.renamed(found, ldm.vae_table(self.config(part)))
        return ldm.open_clip(found) if "ln_final.weight" in found else found


def published(model: str) -> dict[str, dict[str, Any]]:
    """The configs of a published model; none for what is not known."""
    path = HERE / "configs" / f"{model}.json"
    return json.loads(path.read_text(encoding="utf-8")) if model and path.is_file() else {}
