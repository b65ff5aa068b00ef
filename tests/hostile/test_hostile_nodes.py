"""What harms is told by way of the nodes, with the node that met it."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from attacks import Canary, change, plant
from bombs import BOMBS
from lying_loras import LORAS, NAMES
from safetensors.torch import save_file

from graphengine import Engine, GraphError, NodeError
from graphengine.testing import settings


def workflow(checkpoint: str, lora_file: str = "") -> dict[str, Any]:
    nodes: dict[str, Any] = {
        "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": checkpoint}},
        "empty": {"type": "EmptyLatent", "inputs": {"vae": {"from": "load.vae"}}},
    }
    both = {"denoiser": {"from": "load.denoiser"}, "text_encoder": {"from": "load.text_encoder"}}
    source = "load"
    if lora_file:
        nodes["lora"], source = {"type": "LoadLora", "inputs": both | {"lora": lora_file}}, "lora"
    nodes["prompt"] = {
        "type": "EncodeText",
        "inputs": {"encoder": {"from": f"{source}.text_encoder"}, "text": "a red star"},
    }
    link = {"from": "prompt.conditioning"}
    inputs = {"denoiser": {"from": f"{source}.denoiser"}, "positive": link, "latent": {"from": "empty.latent"}}
    nodes["sample"] = {"type": "Sampler", "inputs": inputs | {"guidance": 1.0, "steps": 1}}
    return {"graphengine": 1, "name": "hostile", "nodes": nodes, "outputs": {"x": {"from": "sample.latent"}}}


def run(folder: Path, document: dict[str, Any]) -> str:
    """What a workflow that must fail tells."""
    with Engine(settings=settings(folder)) as engine, pytest.raises((NodeError, GraphError)) as caught:
        engine.submit(document).result()
    told = str(caught.value)
    assert "Traceback" not in told
    return told


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_load_lora_opens_no_pickle(tmp_path, canary, protocol):
    (tmp_path / "models" / "loras").mkdir(parents=True)
    for name in ("a.safetensors", "a.pt", "a.bin"):
        (tmp_path / "models" / "loras" / name).write_bytes(pickle.dumps(Canary(canary), protocol))
        told = run(tmp_path, workflow("tiny", name))
        assert "is a pickle" in told or "no safetensors file" in told


def test_load_lora_follows_no_path_and_no_link_out(tmp_path):
    (tmp_path / "models" / "loras").mkdir(parents=True)
    save_file({"a": torch.zeros(1)}, tmp_path / "secret.safetensors")
    (tmp_path / "models" / "loras" / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    for name in ("../../secret.safetensors", str(tmp_path / "secret.safetensors"), "link.safetensors"):
        assert "outside" in run(tmp_path, workflow("tiny", name))


def test_load_lora_reads_no_pipe(tmp_path):
    (tmp_path / "models" / "loras").mkdir(parents=True)
    os.mkfifo(tmp_path / "models" / "loras" / "a.safetensors")
    run(tmp_path, workflow("tiny", "a.safetensors"))


def test_load_lora_with_a_product_that_fits_nowhere(tmp_path):
    (tmp_path / "models" / "loras").mkdir(parents=True)
    halves = LORAS["a product of 10^12 numbers"]
    save_file({NAMES[half]: tensor for half, tensor in halves.items()}, tmp_path / "models" / "loras" / "a.safetensors")
    assert "made for another family" in run(tmp_path, workflow("tiny", "a.safetensors"))


def test_encode_text_tells_a_bomb_with_its_node(model, canary):
    folder = model / "tokenizer"
    (folder / "tokenizer.json").write_text(json.dumps(BOMBS["a text that doubles 40 times"]))
    told = run(model.parent.parent, workflow("m"))
    assert "prompt" in told
    assert "times as long" in told


def test_encode_text_runs_no_code_of_a_tokenizer(model, canary, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    plant(model, canary)
    change(model / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.Evil", None]})
    assert "never run" in run(model.parent.parent, workflow("m"))


def test_a_checkpoint_with_an_absurd_size_is_told_with_its_node(model):
    change(model / "text_encoder" / "config.json", num_hidden_layers=10**9)
    told = run(model.parent.parent, workflow("m"))
    assert "prompt" in told
    assert "num_hidden_layers" in told
