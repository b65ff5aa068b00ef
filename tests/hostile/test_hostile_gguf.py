"""GGUF files whose headers lie are refused with a sentence, in little time and memory."""

import random
import struct

import pytest
import torch

from graphengine.errors import CheckpointError
from graphengine.models import alone
from graphengine.models.inventory import inventory
from graphengine.models.weights import TensorInfo, load_tensors, read_header
from graphengine.testing import settings

GIANT = 2**63
STRING, ARRAY, UINT8, UINT32, INT32 = 8, 9, 0, 4, 5


def text(word):
    raw = word if isinstance(word, bytes) else word.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def items(kind, count, raw=b""):
    return struct.pack("<IQ", kind, count) + raw


def tensor(name: str | bytes = "a", shape=(32,), kind=0, offset=0, sides=None):
    count = len(shape) if sides is None else sides
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", count, *shape, kind, offset)


def gguf(tensors=(), entries=(), data=b"", version=3, counts=(None, None), magic=b"GGUF"):
    """A file of the parts that are given, with counts that may be others."""
    many = [len(part) if count is None else count for part, count in zip((tensors, entries), counts, strict=True)]
    head = magic + struct.pack("<IQQ", version, *many) + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


GOOD = gguf([tensor()], [entry("general.architecture", STRING, text("flux"))], bytes(128))
LIES = {
    "nothing but the magic": b"GGUF",
    "cut in the version": b"GGUF\x03\0",
    "version 1": gguf(version=1),
    "version 4": gguf(version=4),
    "big-endian": gguf(version=3 << 24),
    "2^63 tensors": gguf(counts=(GIANT, 0)),
    "2^64 - 1 entries": gguf(counts=(0, 2**64 - 1)),
    "more tensors than there are": gguf([tensor()], counts=(2, 0), data=bytes(128)),
    "more entries than there are": gguf(counts=(0, 3)),
    "100,000 tensors": gguf(counts=(100_000, 0)),
    "key of 2^63 bytes": gguf(entries=[struct.pack("<Q", GIANT)]),
    "key of 2^64 - 1 bytes": gguf(entries=[struct.pack("<Q", 2**64 - 1)]),
    "key of a megabyte": gguf(entries=[entry("k" * 2**20, UINT8, b"\0")]),
    "key that is no UTF-8": gguf(entries=[entry(b"\xff\xfe", UINT8, b"\0")]),
    "key twice": gguf(entries=[entry("a", UINT8, b"\0")] * 2),
    "value of an unknown type": gguf(entries=[entry("a", 99, b"\0")]),
    "string of 2^63 bytes": gguf(entries=[entry("a", STRING, struct.pack("<Q", GIANT))]),
    "list of 2^63 numbers": gguf(entries=[entry("a", ARRAY, items(UINT32, GIANT))]),
    "list of 2^61 numbers": gguf(entries=[entry("a", ARRAY, items(UINT32, 2**61))]),
    "list of 2^64 - 1 strings": gguf(entries=[entry("a", ARRAY, items(STRING, 2**64 - 1))]),
    "list of 2^63 lists": gguf(entries=[entry("a", ARRAY, items(ARRAY, GIANT))]),
    "list of an unknown type": gguf(entries=[entry("a", ARRAY, items(77, 1, bytes(8)))]),
    "lists in lists in lists": gguf(entries=[entry("a", ARRAY, items(ARRAY, 1) * 100_000)]),
    "many millions of empty strings": gguf(entries=[entry("a", ARRAY, items(STRING, 5_000_000, bytes(40_000_000)))]),
    "alignment 0": gguf([tensor()], [entry("general.alignment", UINT32, struct.pack("<I", 0))], bytes(128)),
    "alignment 3": gguf([tensor()], [entry("general.alignment", UINT32, struct.pack("<I", 3))], bytes(128)),
    "alignment 2^31": gguf([tensor()], [entry("general.alignment", UINT32, struct.pack("<I", 2**31))], bytes(128)),
    "alignment below nothing": gguf(
        [tensor()], [entry("general.alignment", INT32, struct.pack("<i", -32))], bytes(128)
    ),
    "alignment in words": gguf([tensor()], [entry("general.alignment", STRING, text("32"))], bytes(128)),
    "name of 2^63 bytes": gguf([struct.pack("<Q", GIANT)]),
    "name that is no UTF-8": gguf([tensor(b"\xc3\x28")], data=bytes(128)),
    "name twice": gguf([tensor(), tensor(offset=128)], data=bytes(256)),
    "2^32 - 1 sides": gguf([tensor(sides=2**32 - 1)], data=bytes(128)),
    "9 sides": gguf([tensor(shape=(1,) * 9)], data=bytes(128)),
    "side of 2^63": gguf([tensor(shape=(GIANT,))], data=bytes(128)),
    "product beyond 64 bits": gguf([tensor(shape=(2**33, 2**33))], data=bytes(128)),
    "product beyond 64 bits, of eight": gguf([tensor(shape=(2**47,) * 8)], data=bytes(128)),
    "nothing, very wide": gguf([tensor(shape=(0, 2**62))], data=bytes(128)),
    "unknown packing": gguf([tensor(kind=31)], data=bytes(128)),
    "packing 2^32 - 1": gguf([tensor(kind=2**32 - 1)], data=bytes(128)),
    "packing that is gone": gguf([tensor(kind=4)], data=bytes(128)),
    "row that is no block": gguf([tensor(shape=(31,), kind=8)], data=bytes(128)),
    "row shorter than its block": gguf([tensor(shape=(32, 8), kind=12)], data=bytes(144)),
    "offset 2^63": gguf([tensor(offset=GIANT)], data=bytes(128)),
    "offset beyond the end": gguf([tensor(offset=4096)], data=bytes(128)),
    "late start": gguf([tensor(offset=32)], data=bytes(160)),
    "overlap": gguf([tensor(), tensor("b")], data=bytes(128)),
    "half overlap": gguf([tensor(), tensor("b", offset=64)], data=bytes(192)),
    "gap": gguf([tensor(), tensor("b", offset=256)], data=bytes(384)),
    "crooked place": gguf([tensor(), tensor("b", offset=129)], data=bytes(257)),
    "bytes missing": gguf([tensor()], data=bytes(127)),
    "bytes too many": gguf([tensor()], data=bytes(129)),
    "another shape of more numbers": gguf(
        [tensor()], [entry("comfy.gguf.orig_shape.a", ARRAY, items(INT32, 2, struct.pack("<ii", 32, 32)))], bytes(128)
    ),
    "another shape below nothing": gguf(
        [tensor()], [entry("comfy.gguf.orig_shape.a", ARRAY, items(INT32, 2, struct.pack("<ii", -4, -8)))], bytes(128)
    ),
    "another shape of truths": gguf(
        [tensor(shape=(1,))], [entry("comfy.gguf.orig_shape.a", ARRAY, items(7, 1, b"\1"))], bytes(4)
    ),
}


def test_a_header_that_does_not_lie_is_read(tmp_path):
    (tmp_path / "a.gguf").write_bytes(GOOD)
    assert read_header(tmp_path / "a.gguf") == {"a": TensorInfo("F32", (32,))}
    assert torch.equal(load_tensors([tmp_path / "a.gguf"], None)["a"], torch.zeros(32))


@pytest.mark.parametrize("kind", LIES)
def test_a_header_that_lies_is_refused(tmp_path, kind):
    path = tmp_path / "models" / "a.gguf"
    path.parent.mkdir()
    path.write_bytes(LIES[kind])
    for read in (read_header, lambda path: load_tensors([path], torch.float32)):
        with pytest.raises(CheckpointError, match=r"a\.gguf: the GGUF header is damaged") as caught:
            read(path)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 600
    (found,) = [entry for entry in inventory(settings(tmp_path)) if entry.name == "a.gguf"]
    assert "GGUF header is damaged" in found.wrong
    with pytest.raises(CheckpointError):
        alone.find("a.gguf", "denoiser", settings(tmp_path))


def test_every_beginning_of_a_file_is_refused(tmp_path):
    path = tmp_path / "a.gguf"
    for length in range(len(GOOD)):
        path.write_bytes(GOOD[:length])
        with pytest.raises(CheckpointError):
            read_header(path)


def test_bytes_that_are_flipped_are_refused_or_read_as_something(tmp_path):
    path, dice = tmp_path / "a.gguf", random.Random(7)
    for _ in range(600):
        raw = bytearray(GOOD)
        for _ in range(dice.randint(1, 4)):
            raw[dice.randrange(len(raw) - 128)] = dice.randrange(256)
        path.write_bytes(raw)
        try:
            found = read_header(path)
            assert sum(info.numbers for info in found.values()) <= 1024
            load_tensors([path], torch.float32)
        except CheckpointError as error:
            assert len(str(error)) < 600


def test_packed_numbers_of_no_sense_are_numbers_all_the_same(tmp_path):
    path = tmp_path / "a.gguf"
    for kind, width, block in ((8, 34, 32), (12, 144, 256), (14, 210, 256)):
        path.write_bytes(gguf([tensor(shape=(block,), kind=kind)], data=b"\xff" * width))
        assert load_tensors([path], torch.float32)["a"].shape == (block,)
