"""Files of weights: their headers, checked before anything is believed, and their tensors, mapped and not copied.

A safetensors file is a length, a JSON header and raw numbers.  The header alone says every tensor's name, shape and
format, so what a file is can be told, and a damaged or disguised one refused, without reading the numbers.  Pickled
weights are refused: opening one runs whatever its author wished.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import CheckpointError, out_of_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
PROTOCOLS = tuple(bytes((0x80, version)) for version in range(6))
"""How pickles begin; lengths of headers may begin so as well, but then a header follows."""
HEADER_LIMIT = 16 * 2**20
DOCUMENT_LIMIT, VOCABULARY_LIMIT = 4 * 2**20, 64 * 2**20
MOST_TENSORS, MOST_CONTAINERS, MOST_SIDES = 2**15, 2**20, 8
LONGEST = 2**48
"""Of a side or a place in a file; products of eight such are still exact."""
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
NARROW_FROM = 2**20
"""Numbers from which on a matrix of 16 bits each stays so in a denoiser that is kept narrow; see `models.narrow`."""


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


def stays_narrow(shape: tuple[int, ...], dtype: str) -> bool:
    """Whether a tensor of a denoiser that is kept narrow stays as its file has it: large matrices of 16 bits do."""
    return dtype in ("F16", "BF16") and len(shape) in (2, 4) and math.prod(shape) >= NARROW_FROM


def refusal(path: Path) -> str:
    """Why a pickled file is not opened, and what to do."""
    return (
        f"{path.name} is a pickle, which can run code when it is opened; it is refused. "
        "Convert it to safetensors with a tool that you trust."
    )


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name, or of one in GGUF.

    Raises:
        CheckpointError: the file is none, is pickled, or its header, its tensors and its length do not agree.
    """
    where = f"{path.parent.name}/{path.name}"
    if not path.is_file():  # a folder, or a pipe that would never end
        raise CheckpointError(f"{where} is no file of weights.")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        if start[:4] == b"GGUF":
            return gguf_file().read_header(path)
        length = int.from_bytes(start[:8], "little")
        whole = size >= 8 and length <= min(size - 8, HEADER_LIMIT)
        if not (whole and start[8:] == b"{") and (start[:2] == b"PK" or start[:2] in PROTOCOLS):
            raise CheckpointError(refusal(path))
        if not whole:
            raise CheckpointError(f"{where} is no safetensors file, or it is truncated: {size} bytes.")
        file.seek(8)
        try:
            header = parse(file.read(length), only_once)
            tensors, end = _tensors(header)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CheckpointError(f"{where}: the safetensors header is damaged.") from None
    if missing := 8 + length + end - size:
        what = f"{missing} bytes are missing" if missing > 0 else f"{-missing} bytes too many"
        raise CheckpointError(f"{where} is truncated or damaged: {what}.")
    return tensors


def is_gguf(path: Path) -> bool:
    """Whether a file begins as those in GGUF do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def gguf_file() -> Any:
    """The module that reads GGUF, which needs this one."""
    from graphengine.models import gguf_file

    return gguf_file


def only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of two equal ones, two readers may believe different ones."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made


def _tensors(header: dict[str, Any]) -> tuple[dict[str, TensorInfo], int]:
    """The tensors, and where the last one ends; they lie one behind the other, without gaps."""
    if len(header) > MOST_TENSORS:
        raise ValueError(len(header))
    tensors, places = {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (_whole(place) for place in entry["data_offsets"])
        info = TensorInfo(entry["dtype"], tuple(_whole(side) for side in entry["shape"]))
        if len(info.shape) > MOST_SIDES or end - begin != info.numbers * WIDTHS[info.dtype]:
            raise ValueError(name)
        tensors[name] = info
        places.append((begin, end))
    reached = 0
    for begin, end in sorted(places):
        if begin != reached:
            raise ValueError(begin)
        reached = end
    return tensors, reached


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < LONGEST:
        raise ValueError(value)
    return value


def parse(content: bytes, pairs: Any = None) -> Any:
    """JSON with no more containers than memory is to be spent on; with `pairs`, without NaN and Infinity.

    Raises:
        ValueError: it is damaged.
    """
    if content.count(b"[") + content.count(b"{") > MOST_CONTAINERS:
        raise ValueError("it has too many parts")

    def refuse(constant: str) -> Any:
        raise ValueError(f"it has a {constant}")

    return json.loads(content.decode("utf-8"), object_pairs_hook=pairs, parse_constant=refuse if pairs else None)


def read_object(path: Path, limit: int = DOCUMENT_LIMIT, pairs: Any = None) -> dict[str, Any]:
    """A JSON object.  Raises CheckpointError when it is none, or larger than `limit` bytes."""
    where = f"{path.parent.name}/{path.name}"
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{where} cannot be read: it is no file.")
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise CheckpointError(f"{where} cannot be read: it has more than {limit:,} bytes.")
        document = parse(content, pairs)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} cannot be read: {error}.") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{where} is not an object.")
    return document


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a part in the diffusers layout: one, or the shards that its index names.

    Raises:
        CheckpointError: there is none, only a pickle, or a shard is missing.
    """
    for index in sorted(folder.glob("*.safetensors.index.json")):
        if index.name.count(".") > 3:  # a variant, such as .fp16.
            continue
        try:
            names = sorted({str(name) for name in read_object(index)["weight_map"].values()})
        except (KeyError, AttributeError):
            raise CheckpointError(f"{folder.name}/{index.name} cannot be read.") from None
        odd = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
        if odd:
            raise CheckpointError(f"{folder.name}/{index.name} names {odd[0][:60]!r}, which is no shard beside it.")
        shards = [folder / name for name in names]
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


def _mapped(path: Path, prefix: str) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is no dict
        return {name[len(prefix) :]: file.get_tensor(name) for name in names}


def _read(path: Path, prefix: str) -> dict[str, Tensor]:
    from safetensors.torch import load

    return {n[len(prefix) :]: tensor for n, tensor in load(path.read_bytes()).items() if n.startswith(prefix)}


def load_tensors(files: list[Path], dtype: torch.dtype | None, prefix: str = "") -> dict[str, Tensor]:
    """Tensors by name from mapped files; those whose name starts with `prefix`, without it.

    Numbers are converted to `dtype` (None keeps what the file has), whole numbers stay.

    Raises:
        CheckpointError: a file is damaged.
    """
    from safetensors import SafetensorError

    tensors: dict[str, Tensor] = {}
    for path in files:
        if is_gguf(path):
            tensors |= gguf_file().load_tensors(path, dtype, prefix)
            continue
        try:
            try:
                tensors |= _mapped(path, prefix)
            except MemoryError:  # no addresses are left for a map, but the allocator may have kept some memory
                tensors |= _read(path, prefix)
        except (SafetensorError, OSError) as error:
            if out_of_memory(error):
                raise
            raise CheckpointError(f"{path.parent.name}/{path.name} is damaged: {error}") from error
    if dtype is None:
        return tensors
    from graphengine.models.room import copied

    others = [n for n, tensor in tensors.items() if tensor.is_floating_point() and tensor.dtype != dtype]
    return copied(tensors, dict.fromkeys(others, dtype))
