"""Where the parts of a checkpoint lie: a folder in the diffusers layout.

A *part* has a config and weights: `unet` or `transformer`, `vae`, `text_encoder`, ...  Adapters ask a source for these by
part and never open a file themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import CheckpointError
from graphengine.models.weights import load_tensors, read_header, read_object, weight_files

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DENOISERS = ("unet", "transformer")
OWN = "graphengine"
EMBEDDED = Path(__file__).parent.parent / "checkpoints"
"""Whose parts another checkpoint may name as its own, instead of bringing a copy."""
MOST_TIMESTEPS = 100_000
CODE = (
    "auto_map",
    "custom_pipeline",
    "custom_pipelines",
    "trust_remote_code",
    "quantization_config",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "_experts_implementation",
    "experts_implementation",
    "use_kernels",
    "kernel_config",
    "fusion_config",
)
"""Entries of a config by which modules are imported that no family has asked for."""
HARMLESS = (None, False, "", "eager", "sdpa")


@dataclass(frozen=True)
class Source:
    """The files of a checkpoint, as a family's adapters read them."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def _said(self) -> dict[str, Any]:
        path = self.folder / "model_index.json"
        return read_json(path) if path.is_file() else {}

    @property
    def index(self) -> dict[str, Any]:
        """What `model_index.json` says beside naming the parts; empty where there is none.  Raises CheckpointError."""
        said = self._said.items()
        return {name: value for name, value in said if not name.startswith("_") and not isinstance(value, list)}

    @property
    def pipeline(self) -> str:
        """The class that `model_index.json` says it was made for; empty where there is none.  Raises CheckpointError."""
        return str(self._said.get("_class_name") or "")

    def place(self, part: str) -> Path:
        """The folder of a part: `["graphengine", NAME]` in the index means that of an embedded checkpoint.

        Raises:
            CheckpointError: there is no embedded checkpoint of that name.
        """
        named = self._said.get(part)
        if not isinstance(named, list) or named[:1] != [OWN]:
            return self.folder / part
        embedded = sorted(folder.name for folder in EMBEDDED.iterdir() if (folder / part).is_dir())
        if len(named) != 2 or named[1] not in embedded:
            raise CheckpointError(
                f"{self.name} takes its {part} from {str(named[1:])[:60]}; the embedded checkpoints that have one "
                f"are {', '.join(embedded)}."
            )
        return EMBEDDED / named[1] / part

    def has(self, part: str) -> bool:
        return self.place(part).is_dir()

    def config(self, part: str) -> dict[str, Any]:
        """The `config.json` of a part.  Raises CheckpointError, also when it asks for code."""
        return read_json(self.place(part) / "config.json")

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        """The `scheduler_config.json`.  Raises CheckpointError."""
        return read_json(self.folder / "scheduler" / "scheduler_config.json")

    def files(self, part: str) -> list[Path]:
        """The weights of a part.  Raises CheckpointError."""
        return weight_files(self.place(part))

    def tensors(self, part: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """The weights of a part by name, in the names of diffusers or transformers.  Raises CheckpointError."""
        return load_tensors(self.files(part), dtype)

    def numbers(self, role: str) -> int:
        """How many numbers the weights of a role hold: denoiser, vae, or text (all encoders).  Raises CheckpointError."""
        parts = {"denoiser": [self.denoiser], "vae": ["vae"], "text": self.texts}[role]
        headers = [read_header(file) for part in parts for file in self.files(part)]
        return sum(info.numbers for header in headers for info in header.values())

    def tokenizer(self, part: str = "tokenizer") -> Path:
        """The folder of a tokenizer."""
        return self.place(part)

    def tokenizer_options(self, part: str = "tokenizer") -> dict[str, Any]:
        """What its config does not say."""
        return {}

    @cached_property
    def denoiser(self) -> str:
        """The part that removes noise.  Raises CheckpointError when there is none."""
        for part in DENOISERS:
            if self.has(part):
                return part
        raise CheckpointError(
            f"{self.name} has no unet folder (nor transformer); a checkpoint needs a denoiser, a vae and a text_encoder."
        )

    @cached_property
    def texts(self) -> list[str]:
        """The text encoders, in order."""
        named = {part for part, entry in self._said.items() if isinstance(entry, list) and entry[:1] == [OWN]}
        found = {path.name for path in self.folder.glob("text_encoder*") if path.is_dir()} | named
        return sorted(part for part in found if part.startswith("text_encoder"))

    def class_of(self, part: str) -> str:
        """The class that a part's config names."""
        config = self.config(part)
        built = config.get("architectures")
        return str(config.get("_class_name") or (built[0] if isinstance(built, list) and built else "?"))


def read_json(path: Path) -> dict[str, Any]:
    """A config, which may hold no more than facts.  Raises CheckpointError."""
    config, where = read_object(path), f"{path.parent.name}/{path.name}"
    check_plain(config, where)
    steps = config.get("num_train_timesteps", 1)
    if type(steps) is not int or not 1 <= steps <= MOST_TIMESTEPS:
        raise CheckpointError(f"{where} has {str(steps)[:30]} timesteps; expected 1 to {MOST_TIMESTEPS:,}.")
    return config


def check_plain(config: Any, where: str) -> None:
    """Refuse a config that names code, or how to run it, at any depth.  Raises CheckpointError."""
    left = [config]
    while left:
        now = left.pop()
        if isinstance(now, list):
            left += now
        elif isinstance(now, dict):
            left += now.values()
            for name, value in now.items():
                if name.startswith("__") or (name in CODE and value not in HARMLESS):
                    raise CheckpointError(
                        f"{where} asks for {name} {str(value)[:60]!r}; code that a model names is never run."
                    )
