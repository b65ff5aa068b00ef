"""Models in GGUF: their numbers are those that the format's own library reads, and they draw what safetensors draw."""

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from original_files import build, original
from test_single_files_of_families import FAMILY, latents

from graphengine.errors import CheckpointError
from graphengine.models import gguf_file
from graphengine.models.inventory import inventory
from graphengine.models.weights import TensorInfo, load_tensors, read_header
from graphengine.testing import settings

PLAIN = ("F32", "F16", "BF16")
PACKED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")


def write(path, tensors, architecture="flux", entries=()):
    """A GGUF file of arrays, each as it is, or as raw blocks with the type that they are packed in."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in entries:
        writer.add_array(name, value)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def blocks(kind, rows=6, columns=512):
    """Random blocks of a type, whose scales are ordinary numbers."""
    block, width = GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(1).integers(0, 256, (rows, columns // block, width), np.uint8)
    scales = {
        "Q2_K": (80, 82),
        "Q3_K": (108,),
        "Q4_1": (0, 2),
        "Q5_1": (0, 2),
        "Q4_K": (0, 2),
        "Q5_K": (0, 2),
        "Q6_K": (208,),
    }
    for place in scales.get(kind.name, (0,)):
        raw[..., place : place + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("name", PACKED)
def test_packed_numbers_are_those_that_the_formats_library_reads(tmp_path, name, monkeypatch):
    monkeypatch.setattr(gguf_file, "PIECE", 1024)
    kind = GGMLQuantizationType[name]
    raw = blocks(kind)
    path = write(tmp_path / "a.gguf", {"weight": (raw, kind)})
    assert read_header(path) == {"weight": TensorInfo(name, (6, 512))}
    wanted = torch.from_numpy(gguf.quants.dequantize(raw, kind))
    assert torch.isfinite(wanted).all() and wanted.std() > 0
    assert torch.equal(load_tensors([path], torch.float32)["weight"], wanted)
    assert torch.equal(load_tensors([path], torch.bfloat16)["weight"], wanted.bfloat16())


@pytest.mark.parametrize("name", PLAIN)
def test_plain_numbers_are_read_as_they_are(tmp_path, name):
    wanted = torch.randn(3, 5).to({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[name])
    raw = wanted.view(torch.int16).numpy().view(np.uint8) if name == "BF16" else wanted.numpy()
    path = write(tmp_path / "a.gguf", {"a": (raw, GGMLQuantizationType[name] if name == "BF16" else None)})
    assert read_header(path)["a"] == TensorInfo(name, (3, 5))
    assert torch.equal(load_tensors([path], None)["a"], wanted)
    assert torch.equal(load_tensors([path], torch.float32)["a"], wanted.float())


def test_a_shape_that_the_format_could_not_hold_is_put_back(tmp_path):
    wanted = np.arange(48, dtype=np.float32)
    entries = [("comfy.gguf.orig_shape.conv.weight", [2, 3, 2, 2, 2])]
    path = write(tmp_path / "a.gguf", {"conv.weight": (wanted.reshape(6, 8), None)}, entries=entries)
    assert read_header(path)["conv.weight"].shape == (2, 3, 2, 2, 2)
    assert torch.equal(load_tensors([path], None)["conv.weight"].flatten(), torch.from_numpy(wanted))


def test_tensors_under_a_prefix_are_read_alone(tmp_path):
    one = np.ones((2, 32), np.float32)
    path = write(tmp_path / "a.gguf", {"unet.a": (one, None), "vae.a": (one * 2, None)})
    assert {name: float(tensor[0, 0]) for name, tensor in load_tensors([path], None, "vae.").items()} == {"a": 2.0}


def test_metadata_of_a_vocabulary_is_passed_over(tmp_path):
    words = [f"word{number}" for number in range(20_000)]
    path = write(tmp_path / "a.gguf", {"a": (np.ones(4, np.float32), None)}, entries=[("tokenizer.ggml.tokens", words)])
    assert list(read_header(path)) == ["a"]


def test_what_a_file_is_called_does_not_say_how_it_is_read(tmp_path):
    path = write(tmp_path / "a.gguf", {"a": (np.ones(4, np.float32), None)}).rename(tmp_path / "a.safetensors")
    assert list(read_header(path)) == list(load_tensors([path], None)) == ["a"]


def packed(tensors):
    """Matrices in Q8_0 where their rows are long enough, and all else in 32 bits; and what they are then."""
    kind, made, plain = GGMLQuantizationType.Q8_0, {}, {}
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            raw = gguf.quants.quantize(tensor.numpy(), kind)
            made[name], plain[name] = (raw, kind), torch.from_numpy(gguf.quants.dequantize(raw, kind))
        else:
            made[name], plain[name] = (tensor.numpy(), None), tensor
    return made, plain


@pytest.mark.parametrize("model", ["flux_dev", "sd3"])
def test_a_denoiser_in_gguf_draws_what_its_unpacked_numbers_draw(tmp_path, model):
    models = tmp_path / "models"
    network = build(model, models / "folder")
    layout = {"flux_dev": "bfl", "sd3": "original"}[model]
    raw, plain = packed(original(network.state_dict(), FAMILY[model], layout))
    write(models / "small.gguf", raw)
    from original_files import save

    save(plain, models / "plain.safetensors")
    prompt = {"width": 4096, "pooled": {"flux_dev": 768, "sd3": 2048}[model]}
    folder, file, same = latents(tmp_path, ["folder", "small.gguf", "plain.safetensors"], model, prompt)
    assert torch.equal(file, same)
    assert 1e-4 < (file - folder).norm() / folder.norm() < 0.2


def test_the_list_of_models_tells_what_a_gguf_holds(tmp_path):
    models = tmp_path / "models"
    network = build("flux_dev", models / "folder")
    raw, _ = packed(original(network.state_dict(), "flux", "bfl"))
    write(models / "small.gguf", raw)
    (found,) = [entry for entry in inventory(settings(tmp_path)) if entry.name == "small.gguf"]
    assert (found.kind, found.family, found.variant, found.wrong) == ("denoiser", "flux", "flux_guided", "")
    assert set(found.formats) == {"Q8_0", "F32"} and found.parameters == sum(p.numel() for p in network.parameters())


def test_a_damaged_gguf_is_an_entry_with_a_sentence(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "bad.gguf").write_bytes(b"GGUF" + bytes(20))
    (found,) = [entry for entry in inventory(settings(tmp_path)) if entry.name == "bad.gguf"]
    assert "the GGUF header is damaged" in found.wrong
    with pytest.raises(CheckpointError, match="its version is 0"):
        read_header(tmp_path / "models" / "bad.gguf")
