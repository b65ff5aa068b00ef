"""Where things lie and how much they may take: one frozen object, handed down, never global.

Every field can be set by an environment variable `GRAPHENGINE_<FIELD>` (lists separated as in PATH) or by an
option of the command line, which wins.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path, user_data_path
from pydantic import BaseModel, ConfigDict, Field

from graphengine.machine import WEIGHTS_SHARE, total_memory

GIB = 2**30
NARROW_SHARE = 0.3
"""Of the memory for weights: a denoiser that would take more on a CPU is kept narrow."""


def _data(name: str) -> Path:
    return user_data_path("graphengine", appauthor=False) / name


class Settings(BaseModel):
    """Folders, budgets and the device."""

    model_config = ConfigDict(frozen=True)

    input_folder: Path = Field(default_factory=Path.cwd, description="where images are read from")
    output_folder: Path = Field(default=Path("output"), description="where results are written")
    cache_folder: Path = Field(
        default_factory=lambda: user_cache_path("graphengine", appauthor=False),
        description="where computed outputs are kept",
    )
    model_folders: tuple[Path, ...] = Field(
        default_factory=lambda: (_data("models"),), description="where checkpoints are looked for"
    )
    model_paths_file: Path | None = Field(
        default=None, description="more such folders by kind, in the form of ComfyUI's extra_model_paths.yaml"
    )
    plugin_folders: tuple[Path, ...] = Field(
        default_factory=lambda: (_data("plugins"),), description="where plugins are looked for"
    )
    memory_budget: int = Field(default=2 * GIB, ge=0, description="bytes of outputs kept in memory")
    model_budget: int = Field(
        default=0, ge=0, description="bytes of weights kept loaded; 0 for four fifths of the device's memory"
    )
    offload: str = Field(
        default="auto",
        pattern="^(auto|always|never)$",
        description=(
            "whether weights stay on the host and go to the device block by block; auto is when they do not fit. "
            "On a CPU, never also means that large models are not kept in half precision"
        ),
    )
    autoencoder_limit: int = Field(
        default=0,
        ge=0,
        description="bytes an autoencoder may take at once before it works in pieces; 0 for what is free",
    )
    disk_budget: int = Field(default=10 * GIB, ge=0, description="bytes of outputs kept on disk; 0 for none")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, mps")
    dtype: str = Field(
        default="auto", pattern="^(auto|float32|float16|bfloat16)$", description="auto is float32 on a CPU"
    )
    threads: int = Field(default=4, ge=1, le=64, description="runs in flight at once")
    pixel_limit: int = Field(
        default=64_000_000, ge=1, description="largest picture (or batch of them) that is opened or made, in pixels"
    )

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Settings from the environment; `overrides` that are not None win."""
        values: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            text = os.environ.get(f"GRAPHENGINE_{name.upper()}")
            if text:
                many = field.annotation == tuple[Path, ...]
                values[name] = text.split(os.pathsep) if many else text
        values.update({key: value for key, value in overrides.items() if value is not None})
        return cls.model_validate(values)

    def check_pixels(self, width: int, height: int, batch: int = 1) -> None:
        """Refuse a batch of pictures that is too large, before any memory is taken.  Raises ValueError."""
        if width * height * batch > self.pixel_limit:
            asked = f"{batch} x {width} x {height}" if batch > 1 else f"{width} x {height}"
            raise ValueError(f"{asked} pixels are more than the {self.pixel_limit:,} that are allowed at once.")

    def resolved_device(self) -> str:
        """The device that "auto" means here, found without importing torch."""
        if self.device != "auto":
            return self.device
        if os.environ.get("CUDA_VISIBLE_DEVICES") != "" and Path("/dev/nvidia0").exists():
            return "cuda"
        apple = sys.platform == "darwin" and os.uname().machine == "arm64"
        return "mps" if apple else "cpu"

    def resolved_dtype(self) -> str:
        """The number format that "auto" means on the device."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if self.resolved_device().startswith("cuda") else "float32"

    def keeps_narrow(self, numbers: int) -> bool:
        """Whether a denoiser of so many numbers keeps its large matrices in half precision, where its file has them so.

        They do on a CPU when they would take much of the memory for weights; see `models.narrow`.
        """
        if self.offload == "never" or (self.resolved_device(), self.resolved_dtype()) != ("cpu", "float32"):
            return False
        return 4 * numbers > NARROW_SHARE * (self.model_budget or WEIGHTS_SHARE * total_memory())

    def numerics(self) -> dict[str, str]:
        """The settings that change the bits of a result: part of every device node's cache key."""
        return {
            "device": self.resolved_device().split(":")[0],
            "dtype": self.resolved_dtype(),
            "torch": _version("torch"),
            **({"autoencoder_limit": str(self.autoencoder_limit)} if self.autoencoder_limit else {}),
        }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result depends on: part of every recipe."""
    names = ("graphengine-diffusion", "torch", "diffusers", "transformers", "numpy", "pillow")
    return {name: _version(name) for name in names}


def bundled_workflows() -> Path:
    """The folder of the workflows that come with the project: inside a wheel, or beside the package in a checkout."""
    here = Path(__file__).parent
    inside = here / "workflows"
    return inside if inside.is_dir() else here.parent / "workflows"
