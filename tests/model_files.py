"""Files of models that hold names and shapes and nothing else: they take no room on the disk."""

import json
from pathlib import Path

from test_identify import load

from graphengine.models.weights import TensorInfo


def write(path: Path, tensors: dict[str, TensorInfo]) -> Path:
    """A safetensors file of zeros that takes no room on the disk."""
    header, end = {}, 0
    for name, info in tensors.items():
        start, end = end, end + info.numbers * 2
        header[name] = {"dtype": "F16", "shape": list(info.shape), "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    return path


def published(path: Path, name: str) -> Path:
    """A file with the names and shapes of a published one."""
    return write(path, load(name)[0])


def empty(path: Path) -> Path:
    return write(path, {"weight": TensorInfo("F16", (2, 2))})
