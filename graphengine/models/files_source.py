"""Parts of a model in single files, one or several, as adapters read them: text encoders, or a whole checkpoint.

What the files do not hold is of the published model that they belong to: configs in `configs/`, under what shapes tell,
and CLIP's tokenizer in `tokenizers/clip`.  Other tokenizers are the user's, in a folder near the text encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import CheckpointError
from graphengine.models import ldm
from graphengine.models.original_names import renamed, renamed_shapes, table_of
from graphengine.models.part_source import published
from graphengine.models.source import Source
from graphengine.models.transformer_shapes import TABLES, derived
from graphengine.models.weights import load_tensors, read_header

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HERE = Path(__file__).parent
CLIP = ("clip_l", "clip_h", "clip_g")
TOKENIZERS = {
    "gemma_2_2b": "gemma_2",
    "mistral_small_3": "mistral_3",
    "pile_t5_xl": "pile_t5",
    "qwen_2_5_vl_7b": "qwen_2_5_vl",
    "qwen_3_4b": "qwen_3",
    "qwen_3_8b": "qwen_3",
    "t5_xxl": "t5",
}
"""What the folder of a text encoder's tokenizer is called."""
FOLDER = "tokenizers"
PADDED_WITH_ZEROS = (("sd2", "clip_h"), ("sd3", "clip_g"), ("sdxl", "clip_g"), ("sdxl_refiner", "clip_g"))


@dataclass(frozen=True)
class FilePart:
    """Where a part lies: its file, what stands before its names, what it is (`clip_l`, ...), and how it is called."""

    path: Path
    prefix: str
    kind: str
    family: str
    layout: str

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by the names of diffusers or transformers.  Raises CheckpointError."""
        header = read_header(self.path)
        own = {key[len(self.prefix) :]: info.shape for key, info in header.items() if key.startswith(self.prefix)}
        return renamed_shapes(table_of(self.family, self.layout) or {}, own)

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return sum(info.numbers for key, info in read_header(self.path).items() if key.startswith(self.prefix))


@dataclass(frozen=True)
class FilesSource(Source):
    """The parts of a published model that lie in files.  Raises CheckpointError where a file is damaged."""

    model: str = ""
    parts: Mapping[str, FilePart] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.folder.stem

    @property
    def index(self) -> dict[str, Any]:
        return {}

    @cached_property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The published model's configs, with what the shapes tell."""
        made = published(self.model)
        for part, lies in self.parts.items():
            if part in made:
                made[part] = _told(made[part], lies)
        return made

    def has(self, part: str) -> bool:
        return part in self.parts

    def config(self, part: str) -> dict[str, Any]:
        return dict(self.configs[part])

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        return self.configs["scheduler"]

    @cached_property
    def texts(self) -> list[str]:
        return sorted(part for part in self.parts if part.startswith("text_encoder"))

    def files(self, part: str) -> list[Path]:
        return [self.parts[part].path]

    def numbers(self, role: str) -> int:
        wanted = {"denoiser": [self.denoiser] if role == "denoiser" else [], "vae": ["vae"], "text": self.texts}[role]
        return sum(self.parts[part].numbers for part in wanted)

    def tokenizer(self, part: str = "tokenizer") -> Path:
        lies = self.parts[part.replace("tokenizer", "text_encoder")]
        if lies.kind in CLIP:
            return HERE / "tokenizers" / "clip"
        name = TOKENIZERS[lies.kind]
        for folder in _near(lies.path, name):
            if folder.is_dir() and not folder.is_symlink():
                return folder
        raise CheckpointError(
            f"{lies.path.name} holds a text encoder {lies.kind}, whose tokenizer is not in the file; "
            f"put the folder of its tokenizer (tokenizer.json and others) beside it, as {FOLDER}/{name}."
        )

    @property
    def tokenizers(self) -> Iterator[Path]:
        """The folders of its tokenizers.  Raises CheckpointError when one is missing."""
        for part in self.texts:
            yield self.tokenizer(part.replace("text_encoder", "tokenizer"))

    def tokenizer_options(self, part: str = "tokenizer") -> dict[str, Any]:
        kind = self.parts[part.replace("tokenizer", "text_encoder")].kind
        return {"pad_token": "!"} if (self.model, kind) in PADDED_WITH_ZEROS else {}

    def tensors(self, part: str, dtype: torch.dtype) -> dict[str, Tensor]:
        lies = self.parts[part]
        found = load_tensors([lies.path], dtype, lies.prefix)
        if lies.layout == "open_clip":
            return ldm.open_clip(found)
        if part == "vae" and lies.layout == "ldm":
            return ldm.renamed(found, ldm.vae_table(self.config("vae")))
        return renamed(table_of(lies.family, lies.layout) or {}, found)


def _near(path: Path, name: str) -> Iterator[Path]:
    """Where the tokenizer of a file may lie: in a folder called as the file, or among the tokenizers."""
    yield path.with_suffix("")
    for folder in (path.parent, path.parent.parent):
        yield folder / FOLDER / name


def _told(facts: Mapping[str, Any], lies: FilePart) -> dict[str, Any]:
    """A part's config with what its shapes tell, where there is a table for its class."""
    kind = facts.get("_class_name") or (facts.get("architectures") or [""])[0]
    if kind not in TABLES or lies.layout == "open_clip":
        return dict(facts)
    shapes = lies.shapes
    if kind.startswith("CLIP"):
        shapes = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    try:
        made = derived({**facts, "_class_name": kind}, shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{lies.path.name} holds no whole {lies.kind}: {error}") from None
    return {entry: value for entry, value in made.items() if entry != "_class_name" or entry in facts}
