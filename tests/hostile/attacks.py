"""What attacks on model files are made of, and how the tests use a checkpoint."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import graphengine
from graphengine.errors import AssetError, CheckpointError
from graphengine.models.checkpoint import find
from graphengine.models.memory import ModelMemory
from graphengine.testing import settings

TINY = Path(graphengine.__file__).parent / "checkpoints" / "tiny"


class Canary:
    """Unpickling one makes a file."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def use(model: Path, *parts: str) -> None:
    """Find a checkpoint and load its parts (all of them by default)."""
    place = settings(model.parent.parent)
    denoiser, encoder, vae = find(model.name, place).handles()
    memory = ModelMemory(place)
    if "vae" in parts or not parts:
        memory.vae(vae)
    if "text" in parts or not parts:
        memory.text_encoder(encoder).encode("a red star above a blue square")
    if "unet" in parts or not parts:
        memory.denoiser(denoiser)


def refused(model: Path, *parts: str, match: str | None = None) -> str:
    """The sentence with which a checkpoint is refused."""
    with pytest.raises((CheckpointError, AssetError), match=match) as caught:
        use(model, *parts)
    told = str(caught.value)
    assert 10 < len(told) < 1200
    assert "Traceback" not in told
    return told


def weights(model: Path, part: str = "unet") -> Path:
    return next((model / part).glob("*.safetensors"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def safetensors(header: str | bytes, numbers: bytes = b"", length: int | None = None) -> bytes:
    """A file with a header that is written as it is."""
    raw = header if isinstance(header, bytes) else header.encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + numbers


def entry(shape: Any = (1,), offsets: Any = (0, 4), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def plant(model: Path, canary: Path) -> None:
    """Python files everywhere, under every name that a library might look for."""
    code = f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\nEvilTokenizer = MyPipeline = Evil\n"
    for part in (".", "unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        for name in (
            "modeling",
            "pipeline",
            "tokenization_x",
            "my_pipeline",
            "__init__",
            "evil",
            part.strip(".") or "a",
        ):
            (model / part / f"{name}.py").write_text(code)


def flip(path: Path, place: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << bit)]))


Tensors = dict[str, torch.Tensor]
