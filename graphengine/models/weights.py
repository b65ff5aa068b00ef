"""Files of weights: their headers, checked before anything is believed, and their tensors, mapped and not copied.

A safetensors file is a length, a JSON header and raw numbers.  The header alone says every tensor's name, shape and
format, so what a file is can be told, and a damaged or disguised one refused, without reading the numbers.  Pickled
weights are refused: opening one runs whatever its author wished.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
HEADER_LIMIT = 100 * 2**20
WIDTHS = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of a number, by the format's name in a header."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count


def refusal(path: Path) -> str:
    """Why a pickled file is not opened, and what to do."""
    return (
        f"{path.name} is a pickle, which can run code when it is opened; it is refused. "
        "Convert it to safetensors with a tool that you trust."
    )


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name.

    Raises:
        CheckpointError: the file is none, is pickled, or its header, its tensors and its length do not agree.
    """
    where = f"{path.parent.name}/{path.name}"
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if start[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
            raise CheckpointError(refusal(path))
        if size < 8 or length > min(size - 8, HEADER_LIMIT):
            raise CheckpointError(f"{where} is no safetensors file, or it is truncated: {size} bytes.")
        try:
            header = json.loads(file.read(length))
            tensors, ends = _tensors(header)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            raise CheckpointError(f"{where}: the safetensors header is damaged.") from None
    if missing := 8 + length + max(ends, default=0) - size:
        what = f"{missing} bytes are missing" if missing > 0 else f"{-missing} bytes too many"
        raise CheckpointError(f"{where} is truncated or damaged: {what}.")
    return tensors


def _tensors(header: dict[str, Any]) -> tuple[dict[str, TensorInfo], list[int]]:
    tensors, ends = {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (int(place) for place in entry["data_offsets"])
        shape = tuple(int(side) for side in entry["shape"])
        info = TensorInfo(str(entry["dtype"]), shape)
        if min(shape, default=0) < 0 or begin < 0 or end - begin != info.numbers * WIDTHS[info.dtype]:
            raise ValueError(name)
        tensors[name] = info
        ends.append(end)
    return tensors, ends


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a part in the diffusers layout: one, or the shards that its index names.

    Raises:
        CheckpointError: there is none, only a pickle, or a shard is missing.
    """
    for index in sorted(folder.glob("*.safetensors.index.json")):
        if index.name.count(".") > 3:  # a variant, such as .fp16.
            continue
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise CheckpointError(f"{folder.name}/{index.name} cannot be read.") from None
        shards = [folder / Path(str(name)).name for name in names]
        absent = [shard.name for shard in shards if not shard.is_file()]
        if absent:
            raise CheckpointError(f"{folder.parent.name}/{folder.name} lacks {', '.join(absent)}.")
        return shards
    found = sorted(folder.glob("*.safetensors"), key=lambda path: (len(path.name), path.name))
    if found:
        return found[:1]
    pickled = [path for path in folder.iterdir() if path.suffix in PICKLES]
    if pickled:
        raise CheckpointError(refusal(pickled[0]))
    raise CheckpointError(f"{folder.parent.name}/{folder.name} holds no .safetensors file.")


def load_tensors(files: list[Path], dtype: torch.dtype | None, prefix: str = "") -> dict[str, Tensor]:
    """Tensors by name from mapped files; those whose name starts with `prefix`, without it.

    Numbers are converted to `dtype` (None keeps what the file has), whole numbers stay.

    Raises:
        CheckpointError: a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no dict
                    if name.startswith(prefix):
                        tensor = file.get_tensor(name)
                        wanted = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
                        tensors[name[len(prefix) :]] = wanted
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path.parent.name}/{path.name} is damaged: {error}") from error
    return tensors
