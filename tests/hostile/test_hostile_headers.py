"""Headers of safetensors files, single files and LoRAs that lie are refused with a sentence."""

import json
import shutil

import pytest
import torch
from attacks import entry, safetensors, use
from lying_loras import LORAS, NAMES
from safetensors.torch import save_file

from graphengine.errors import CheckpointError
from graphengine.models import lora
from graphengine.models.checkpoint import find, find_file
from graphengine.models.memory import ModelMemory
from graphengine.models.variant import variant
from graphengine.models.weights import read_header
from graphengine.testing import settings
from graphengine.values import Patch

# Headers


GIANT = 2**63
HEADERS: dict[str, bytes] = {
    "length 2^63": safetensors("{}", length=GIANT),
    "length 2^64 - 1": safetensors("{}", length=2**64 - 1),
    "length beyond the end": safetensors("{}", length=3),
    "length of nothing": safetensors("", length=0),
    "overlap": safetensors(json.dumps({"a": entry(), "b": entry()}), bytes(4)),
    "half overlap": safetensors(json.dumps({"a": entry((2,), (0, 8)), "b": entry((2,), (4, 12))}), bytes(12)),
    "gap": safetensors(json.dumps({"a": entry(), "b": entry((1,), (8, 12))}), bytes(12)),
    "late start": safetensors(json.dumps({"a": entry((1,), (4, 8))}), bytes(8)),
    "negative offset": safetensors(json.dumps({"a": entry((1,), (-4, 0))}), bytes(4)),
    "reversed": safetensors(json.dumps({"a": entry((1,), (4, 0))}), bytes(4)),
    "huge offsets": safetensors(json.dumps({"a": entry((1,), (GIANT, GIANT + 4))}), bytes(4)),
    "product beyond 64 bits": safetensors(json.dumps({"a": entry((2**32, 2**32), (0, 0))})),
    "product beyond 64 bits, right": safetensors(json.dumps({"a": entry((2**33, 2**33), (0, 2**68))})),
    "nothing, very wide": safetensors(json.dumps({"a": entry((0, 2**62), (0, 0))})),
    "negative sides": safetensors(json.dumps({"a": entry((-1, -1), (0, 4))}), bytes(4)),
    "many sides": safetensors(json.dumps({"a": entry([1] * 5000, (0, 4))}), bytes(4)),
    "side that is true": safetensors(json.dumps({"a": entry([True])}), bytes(4)),
    "side in words": safetensors(json.dumps({"a": entry(["1"])}), bytes(4)),
    "side with a fraction": safetensors(json.dumps({"a": entry([1.0])}), bytes(4)),
    "NaN": safetensors('{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}', bytes(4)),
    "Infinity": safetensors('{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 4]}}', bytes(4)),
    "1e400": safetensors('{"a": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 4]}}', bytes(4)),
    "a number of 100,000 digits": safetensors('{"a": ' + "9" * 100_000 + "}"),
    "name twice": safetensors('{"a": %s, "a": %s}' % ((json.dumps(entry()),) * 2), bytes(4)),
    "shape twice": safetensors('{"a": {"dtype":"F32","shape":[9],"shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "deep": safetensors('{"a":' * 50_000 + "1" + "}" * 50_000),
    "deep list": safetensors('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "many containers": safetensors('{"a":[' + "[]," * 2_000_000 + "1]}"),
    "unknown format": safetensors(json.dumps({"a": entry(dtype="F31")}), bytes(4)),
    "format os": safetensors(json.dumps({"a": entry(dtype="os.system")}), bytes(4)),
    "format that is a list": safetensors(json.dumps({"a": entry(dtype=["F32"])}), bytes(4)),
    "format that is an object": safetensors(json.dumps({"a": entry(dtype={"__class__": "os"})}), bytes(4)),
    "__class__": safetensors(json.dumps({"__class__": "os.system", "a": entry()}), bytes(4)),
    "__reduce__": safetensors(json.dumps({"__reduce__": ["os.system", ["true"]]}), bytes(4)),
    "no UTF-8": safetensors(b'{"\xff\xfe": 1}'),
    "UTF-16": safetensors("{}".encode("utf-16-le")),
    "JSON and more": safetensors('{} {"a": 1}'),
    "three offsets": safetensors(json.dumps({"a": entry((1,), (0, 2, 4))}), bytes(4)),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    path.write_bytes(HEADERS[kind])
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_header(path)
    (tmp_path / "loras").mkdir()
    shutil.move(path, tmp_path / "loras")
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        lora.read(
            find_file("a.safetensors", "loras", settings(tmp_path).model_copy(update={"model_folders": (tmp_path,)}))
        )


def test_a_hundred_megabytes_of_spaces_and_a_million_names_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors(b"{" + b" " * 100_000_000 + b"}"))
    with pytest.raises(CheckpointError, match="no safetensors file"):
        read_header(path)
    one = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    path.write_bytes(safetensors("{" + ",".join(one % number for number in range(1_000_000)) + "}"))
    with pytest.raises(CheckpointError):
        read_header(path)
    path.write_bytes(safetensors("{" + ",".join(one % number for number in range(50_000)) + "}"))
    with pytest.raises(CheckpointError, match="header is damaged"):
        read_header(path)


# Single files


@pytest.mark.parametrize(
    "tensors",
    [
        {"model.diffusion_model.input_blocks.0.0.weight": (1,)},
        {"model.diffusion_model.x.attn2.to_k.weight": (320, 768)},
        {
            "model.diffusion_model.x.attn2.to_k.weight": (320, 768),
            "model.diffusion_model.input_blocks.0.0.weightless": (1,),
            "first_stage_model.decoder.conv_in.weight": (1,),
            "cond_stage_model.transformer.x": (1,),
        },
        {
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
            "model.diffusion_model.input_blocks.0.0.weight": (),
            "first_stage_model.decoder.conv_in.weight": (),
            "first_stage_model.encoder.conv_in.weight": (),
            "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (),
        },
    ],
)
def test_a_single_file_of_some_right_names_is_refused(tmp_path, tensors):
    (tmp_path / "models").mkdir()
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "models" / "m.safetensors")
    with pytest.raises(CheckpointError):
        use(tmp_path / "models" / "m.safetensors")


# LoRAs


@pytest.mark.parametrize("kind", LORAS)
def test_a_lora_that_lies_is_refused(tmp_path, kind):
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "a.safetensors"
    save_file({NAMES[half]: tensor for half, tensor in LORAS[kind].items()}, path)
    plain = ModelMemory(settings(tmp_path)).denoiser(find("tiny", settings(tmp_path)).handles()[0])
    with pytest.raises(CheckpointError):
        variant(plain, (Patch("lora", path.name, (1.0,), path.name, str(path)),))


@pytest.mark.parametrize("layer", ["__class__", "__init__.__globals__", "forward", "..", "conv_in.__dict__", ""])
def test_a_lora_reaches_nothing_but_layers(tmp_path, canary, layer):
    path = tmp_path / "a.safetensors"
    save_file({f"unet.{layer}.lora_A.weight": torch.ones(1, 1), f"unet.{layer}.lora_B.weight": torch.ones(1, 1)}, path)
    plain = ModelMemory(settings(tmp_path)).denoiser(find("tiny", settings(tmp_path)).handles()[0])
    with pytest.raises(CheckpointError, match="made for another family"):
        variant(plain, (Patch("lora", path.name, (1.0,), path.name, str(path)),))
