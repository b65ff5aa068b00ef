"""Files that are not what they say: pictures, checkpoints, and a disk that is full.  Refused, and nothing is lost."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image as pillow

import graphengine
from graphengine.cli import main
from graphengine.errors import CheckpointError
from graphengine.models.checkpoint import find
from graphengine.testing import settings

TINY = Path(graphengine.__file__).parent / "checkpoints" / "tiny"
READ = {"graphengine": 1, "name": "read", "nodes": {"load": {"type": "LoadImage", "inputs": {"file": "picture.png"}}}}
LOAD = {"graphengine": 1, "name": "load", "nodes": {"load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "m"}}}}


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """Run a workflow with the command line in a folder of its own; returns what it tells after exit code 2."""
    monkeypatch.chdir(tmp_path)

    def run(document):
        Path("workflow.json").write_text(json.dumps(document))
        with pytest.raises(SystemExit) as ended:
            main(["run", "workflow.json"])
        text = capsys.readouterr().err
        assert ended.value.code == 2, text
        assert "Traceback" not in text
        return text

    return run


def png(path: Path, size: tuple[int, int] = (32, 32)) -> Path:
    pillow.effect_noise(size, 60).save(path)
    return path


def header_only(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


# Pictures


def test_a_truncated_picture_is_told_with_its_node(tmp_path, told):
    whole = png(tmp_path / "picture.png").read_bytes()
    (tmp_path / "picture.png").write_bytes(whole[: len(whole) // 2])
    text = told(READ)
    assert "load" in text
    assert "picture.png is damaged" in text


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"GIF89a" + bytes(50), b"%PDF-1.7\n"])
def test_what_is_no_picture_is_told_with_the_formats_that_are(tmp_path, told, content):
    (tmp_path / "picture.png").write_bytes(content)
    assert "PNG, JPEG, WEBP can be read" in told(READ)


@pytest.mark.parametrize("size", [(30_000, 30_000), (2**31 - 1, 2**31 - 1), (10_000, 10_000)])
def test_a_decompression_bomb_is_refused_before_it_is_opened(tmp_path, told, size):
    (tmp_path / "picture.png").write_bytes(header_only(*size))
    text = told(READ)
    assert "pixels" in text or "too large" in text


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "folder/../../secret.png", "link.png", "inner/link.png"]
)
def test_a_picture_outside_the_input_folder_is_refused(tmp_path, told, monkeypatch, name):
    secret = png(tmp_path / "secret.png")
    inner = tmp_path / "work"
    (inner / "inner").mkdir(parents=True)
    monkeypatch.chdir(inner)
    for link in (inner / "link.png", inner / "inner" / "link.png"):
        link.symlink_to(secret)
    document = {**READ, "nodes": {"load": {"type": "LoadImage", "inputs": {"file": name}}}}
    assert "lies outside the folder" in told(document)


@pytest.mark.parametrize("name", ["../out", "/elsewhere/out", "link/out"])
def test_a_picture_is_not_saved_outside_the_output_folder(tmp_path, told, name):
    png(tmp_path / "picture.png")
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "link").symlink_to(outside)
    save = {"type": "SaveImage", "inputs": {"image": {"from": "load.image"}, "name": name}}
    assert "lies outside the folder" in told({**READ, "nodes": READ["nodes"] | {"save": save}})
    assert not list(outside.iterdir())


# Checkpoints


@pytest.fixture
def model(tmp_path):
    """A copy of a real checkpoint under the name `m`, without its checksums, to be damaged."""
    folder = tmp_path / "models" / "m"
    shutil.copytree(TINY, folder)
    (folder / "checksums.json").unlink()
    return folder


def weights(model: Path, part: str = "unet") -> Path:
    return next((model / part).glob("*.safetensors"))


def test_a_truncated_checkpoint_says_how_much_is_missing(model, told):
    os.truncate(weights(model), weights(model).stat().st_size - 1000)
    assert "1000 bytes are missing" in told(LOAD)


@pytest.mark.parametrize("content", [b"", b"\x08", bytes(64), b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"])
def test_weights_that_are_no_safetensors_are_refused(model, told, content):
    weights(model).write_bytes(content)
    assert "safetensors" in told(LOAD)


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "{",
        '{"a": 1}',
        '{"a": {"data_offsets": [0]}}',
        '{"a": {"data_offsets": ["x", "y"]}}',
        "[" * 100_000,
        "nul",
    ],
)
def test_a_damaged_safetensors_header_is_refused(model, told, header):
    weights(model).write_bytes(len(header).to_bytes(8, "little") + header.encode())
    text = told(LOAD)
    assert "header is damaged" in text or "truncated or damaged" in text


def test_a_flipped_bit_is_found_where_a_checkpoint_has_checksums(model, told):
    shutil.copy(TINY / "checksums.json", model)
    with weights(model).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    assert "its checksum is not the recorded one" in told(LOAD)


class Canary:
    """Unpickling one makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickled_checkpoint_is_refused_and_not_opened(tmp_path, told):
    (tmp_path / "models").mkdir()
    canary = tmp_path / "canary"
    (tmp_path / "models" / "m.ckpt").write_bytes(pickle.dumps(Canary(canary)))
    document = {**LOAD, "nodes": {"load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "m.ckpt"}}}}
    assert "is a pickle" in told(document)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.pt", "diffusion_pytorch_model.safetensors"])
def test_pickled_weights_in_a_folder_are_refused_under_any_name(tmp_path, model, told, name):
    canary = tmp_path / "canary"
    weights(model).unlink()
    (model / "unet" / name).write_bytes(pickle.dumps(Canary(canary)))
    text = told(LOAD)
    assert "is a pickle" in text or "no safetensors file" in text
    assert not canary.exists()


def test_an_unknown_architecture_is_told_with_what_was_seen_and_what_is_known(model, told):
    config = json.loads((model / "unet" / "config.json").read_text())
    (model / "unet" / "config.json").write_text(json.dumps(config | {"_class_name": "FancyTransformer"}))
    text = told(LOAD)
    assert "FancyTransformer" in text
    assert "UNet2DConditionModel" in text


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_missing_part_is_named(model, told, part):
    shutil.rmtree(model / part)
    assert f"no {part} folder" in told(LOAD)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00"])
def test_a_damaged_config_is_named(model, told, content):
    (model / "unet" / "config.json").write_text(content)
    assert "unet/config.json" in told(LOAD)


def test_weights_of_another_shape_are_refused_when_they_are_loaded(model, tmp_path, told):
    config = json.loads((model / "vae" / "config.json").read_text())
    (model / "vae" / "config.json").write_text(json.dumps(config | {"layers_per_block": 7}))
    png(tmp_path / "picture.png", (64, 64))
    encode = {"type": "VAEEncode", "inputs": {"image": {"from": "read.image"}, "vae": {"from": "load.vae"}}}
    nodes = LOAD["nodes"] | {"read": READ["nodes"]["load"], "encode": encode}
    assert "encode" in told({**LOAD, "nodes": nodes})


def test_weights_from_before_a_change_of_the_file_are_not_used(model, tmp_path):
    place = settings(tmp_path)
    before = find("m", place).digest
    with weights(model).open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x01\x02\x03\x04")
    assert find("m", place).digest != before


def test_a_checkpoint_outside_the_model_folders_is_refused(tmp_path, told):
    document = {**LOAD, "nodes": {"load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "../elsewhere"}}}}
    assert "lies outside the folder" in told(document)


def test_a_checkpoint_that_is_not_there_is_told_with_the_nearest(tmp_path):
    with pytest.raises(CheckpointError, match="Did you mean tiny"):
        find("tny", settings(tmp_path))


# A full disk


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
from graphengine.cli import main
main(["run", "workflow.json"])
"""


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    """No file may grow past 2,000 bytes here, which a write feels as it feels a full disk."""
    png(tmp_path / "picture.png", (64, 64))
    save = {"type": "SaveImage", "inputs": {"image": {"from": "load.image"}}}
    (tmp_path / "workflow.json").write_text(json.dumps({**READ, "nodes": READ["nodes"] | {"save": save}}))
    done = subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "could not write image.png" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "output").glob("*"))
