"""Networks whose weights stay on the host and go to the device block by block."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graphengine
from graphengine import Engine
from graphengine.models.checkpoint import find
from graphengine.models.memory import ModelMemory
from graphengine.testing import settings
from graphengine.values import Patch

ROOT = Path(graphengine.__file__).parents[1]
MIB = 2**20


def streaming(monkeypatch):
    monkeypatch.setattr(ModelMemory, "streams", property(lambda memory: True))


def test_weights_that_go_to_the_device_block_by_block_draw_the_same(tmp_path):
    workflow = json.loads((ROOT / "workflows" / "text_to_image.json").read_text())
    pictures = []
    for way in ("never", "always"):
        with Engine(settings=settings(tmp_path).model_copy(update={"offload": way}), cached=False) as engine:
            pictures.append(engine.submit(workflow, {"steps": 2}).result(60)["image"].pixels)
    assert np.array_equal(*pictures)


def parts(own, *patches: Patch):
    denoiser = find("tiny", own).handles()[0]
    for patch in patches:
        denoiser = denoiser.patched(patch)
    return denoiser


def test_a_network_that_runs_by_blocks_changes_nothing_of_its_sibling(tmp_path, monkeypatch):
    streaming(monkeypatch)
    memory, handle = ModelMemory(settings(tmp_path)), parts(settings(tmp_path))
    usual: Any = memory.denoiser(handle)
    memory.easing.by_blocks = True
    streamed: Any = memory.denoiser(handle)
    assert streamed is not usual
    own = {id(tensor) for tensor in usual.network.parameters()}
    assert not own & {id(tensor) for tensor in streamed.network.parameters()}
    assert not any(module._forward_pre_hooks for module in usual.network.modules())
    assert any(module._forward_pre_hooks for module in streamed.network.modules())
    memory.easing.by_blocks = False
    assert memory.denoiser(handle) is usual


def test_another_thread_is_handed_the_usual_network(tmp_path, monkeypatch):
    streaming(monkeypatch)
    memory, handle = ModelMemory(settings(tmp_path)), parts(settings(tmp_path))
    memory.easing.by_blocks = True
    found = [memory.denoiser(handle)]
    thread = threading.Thread(target=lambda: found.append(memory.denoiser(handle)))
    thread.start()
    thread.join()
    assert found[0] is not found[1]


def test_a_patched_network_runs_by_blocks_with_its_patch(tmp_path, monkeypatch):
    patched = parts(settings(tmp_path), Patch("freeu", "FreeU", (0.5, 0.2, 1.4, 1.6)))
    x, sigma = torch.randn(1, 8, 8, 8), torch.tensor(1.0)
    results = []
    for by_blocks in (False, True):
        memory = ModelMemory(settings(tmp_path))
        streaming(monkeypatch)
        memory.easing.by_blocks = by_blocks
        text = memory.text_encoder(find("tiny", settings(tmp_path)).handles()[1]).encode("a red star")
        from graphengine.models.family import Prompts

        with torch.no_grad():
            results.append(memory.denoiser(patched).denoise(x, sigma, Prompts(text.features)))
    assert torch.equal(*results)


def test_weights_larger_than_the_device_stay_on_the_host_from_the_start_and_it_is_told(tmp_path, monkeypatch):
    streaming(monkeypatch)
    own = settings(tmp_path).model_copy(update={"model_budget": 10 * MIB})
    workflow = json.loads((ROOT / "workflows" / "text_to_image.json").read_text())
    with Engine(settings=own, cached=False) as engine:
        run = engine.submit(workflow, {"steps": 1})
        run.result(60)
        notes = run.recipe()["notes"]
    assert set(notes) == {"sample"}
    assert "larger than the device's" in notes["sample"][0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_device_holds_less_of_a_network_that_runs_by_blocks(tmp_path):
    own = settings(tmp_path).model_copy(update={"device": "cuda", "dtype": "float32"})
    used = []
    for way in ("never", "always"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with Engine(settings=own.model_copy(update={"offload": way}), cached=False) as engine:
            workflow = json.loads((ROOT / "workflows" / "text_to_image.json").read_text())
            engine.submit(workflow, {"steps": 2}).result(60)
        used.append(torch.cuda.max_memory_allocated())
    assert used[1] < used[0]


def test_what_a_variant_shares_with_a_model_that_left_is_counted(tmp_path):
    handle = parts(settings(tmp_path))
    memory = ModelMemory(settings(tmp_path).model_copy(update={"model_budget": 33 * MIB}))
    patched: Any = memory.denoiser(handle.patched(Patch("freeu", "FreeU", (0.5, 0.2, 1.4, 1.6))))
    whole = sum(tensor.nbytes for tensor in patched.network.parameters())
    memory.vae(find("tiny", settings(tmp_path)).handles()[2])  # the plain network leaves, and then the variant
    assert memory.held <= 33 * MIB
    assert whole < 33 * MIB
