"""How much memory a run will need, told from headers and configs before anything is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from families.harness import library

import graphengine
from graphengine import Engine, Field, Node, Ports, Workflow, machine
from graphengine.engine import bind
from graphengine.forecast import Forecast, forecast
from graphengine.models import activations
from graphengine.models.checkpoint import find
from graphengine.models.estimate import Part, Size
from graphengine.models.memory import ModelMemory
from graphengine.testing import settings
from graphengine.values import VAE, Image, Latent

ROOT = Path(graphengine.__file__).parents[1]
CONFIGS = ROOT / "graphengine" / "models" / "configs"
MIB = 2**20


def told(engine: Engine, name: str = "text_to_image", work=None, **inputs) -> Forecast:
    graph, _ = engine.prepare(bind(Workflow.load(ROOT / "workflows" / f"{name}.json"), inputs))
    return forecast(graph, engine.settings, work)


def steps(found: Forecast) -> dict:
    return {step.node: step for step in found.steps}


def test_every_node_that_works_with_a_network_has_a_step(engine):
    assert list(steps(told(engine))) == ["prompt", "negative", "sample", "decode"]


def test_weights_are_those_that_are_held_once_it_has_run(engine):
    found = told(engine)
    memory = ModelMemory(engine.settings)
    denoiser, text, vae = find("tiny", engine.settings).handles()
    memory.text_encoder(text)
    memory.denoiser(denoiser)
    memory.vae(vae)
    assert found.steps[-1].held == pytest.approx(memory.held, rel=0.02)


def test_weights_leave_within_the_budget_as_they_will(tmp_path):
    own = settings(tmp_path).model_copy(update={"model_budget": 32 * MIB})
    with Engine(settings=own, cached=False) as engine:
        found = steps(told(engine))
    assert found["sample"].held <= 32 * MIB
    assert found["decode"].held < 20 * MIB  # the denoiser has left


def test_more_pictures_need_more_work_and_no_more_weights(engine):
    one, eight = steps(told(engine)), steps(told(engine, batch=8))
    assert eight["sample"].held == one["sample"].held
    for node in ("sample", "decode"):
        assert eight[node].work > one[node].work
        assert eight[node].pieces == pytest.approx(one[node].pieces, rel=0.01)


def test_an_unguided_run_needs_less(engine):
    assert steps(told(engine, guidance=1.0))["sample"].work > 0
    document = json.loads((ROOT / "workflows" / "text_to_image.json").read_text())
    document["nodes"]["sample"]["inputs"]["guidance"] = 1
    graph, _ = engine.prepare(Workflow.load(document))
    half = steps(forecast(graph, engine.settings))["sample"].work
    assert half < steps(told(engine))["sample"].work


def test_half_precision_halves_the_weights(engine, tmp_path):
    own = settings(tmp_path).model_copy(update={"dtype": "float16"})
    with Engine(settings=own, cached=False) as half:
        assert told(half).steps[-1].held * 2 == pytest.approx(told(engine).steps[-1].held, rel=0.4)


def test_pages_of_a_file_are_told_apart_from_what_must_be_there(engine, tmp_path):
    sample = steps(told(engine))["sample"]
    assert sample.pages == pytest.approx(sample.loaded / 2, rel=0.01)  # half precision in the file
    own = settings(tmp_path).model_copy(update={"dtype": "float16"})
    with Engine(settings=own, cached=False) as half:
        assert steps(told(half))["sample"].pages == 0  # the file's pages are the weights


def test_what_comes_from_the_cache_needs_nothing(engine):
    graph, _ = engine.prepare(Workflow.load(ROOT / "workflows" / "text_to_image.json"))
    only = forecast(graph, engine.settings, [graph.index["decode"]])
    assert [step.node for step in only.steps] == ["decode"]
    assert only.needed < told(engine).needed


def test_the_size_of_a_picture_is_read_from_its_file(tmp_path):
    own = settings(tmp_path).model_copy(update={"input_folder": ROOT})
    with Engine(settings=own, cached=False) as engine:
        small = steps(told(engine, "image_to_image"))["encode"]
        assert not small.assumed
        (tmp_path / "large.png").write_bytes((ROOT / "workflows" / "example.png").read_bytes())
    from PIL import Image as pillow

    pillow.new("RGB", (512, 512)).save(tmp_path / "large.png")
    with Engine(settings=settings(tmp_path), cached=False) as engine:
        assert steps(told(engine, "image_to_image", image="large.png"))["encode"].work > small.work


class Twice(Node, lane="gpu"):
    """A node of somebody else's that decodes."""

    vae: VAE
    latent: Latent
    strength: float = Field(1.0, ge=0, le=1, description="how much")

    class Outputs(Ports):
        image: Image


def test_a_node_that_nobody_knows_is_told_by_what_it_reads(tmp_path):
    Twice.run = lambda self, ctx: self.Outputs(image=Image(np.zeros((1, 8, 8, 3), np.float32)))
    document = json.loads((ROOT / "workflows" / "text_to_image.json").read_text())
    document["nodes"]["decode"]["type"] = "Twice"
    with Engine(nodes=[Twice], settings=settings(tmp_path), cached=False) as engine:
        graph, _ = engine.prepare(Workflow.load(document))
        ours = steps(forecast(graph, engine.settings))["decode"]
        assert ours.work == steps(told(engine))["decode"].work


@pytest.mark.parametrize("free", [600, 540, 5])
def test_what_would_be_done_is_told_when_it_does_not_fit(engine, monkeypatch, free):
    monkeypatch.setattr(machine, "free_memory", lambda: free * MIB)
    monkeypatch.setattr("graphengine.forecast.resident_memory", lambda: 0)
    found = told(engine, batch=8)
    assert found.fits == (free == 600)
    measures = " ".join(found.measures())
    expected = {600: "", 540: "decode: all other models are let go of.", 5: "it lacks"}[free]
    assert expected in measures


def test_where_nobody_tells_what_is_free_nothing_is_decided_by_it(engine, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: None)
    found = told(engine, batch=8)
    assert (found.free, found.fits, found.measures()) == (None, True, [])


def test_check_tells_it_without_importing_torch(tmp_path):
    script = (
        "import sys\nfrom graphengine.cli import main\n"
        "try: main(['check', 'workflows/text_to_image.json', '--memory', '--json'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    memory = json.loads(done.stdout)["memory"]
    assert memory["peak"] >= memory["needed"] > 400 * MIB
    assert [step["node"] for step in memory["steps"]] == ["prompt", "negative", "sample", "decode"]


# Formulas


class Living(torch.utils._python_dispatch.TorchDispatchMode):  # pyright: ignore[reportAttributeAccessIssue]
    """Counts the bytes of all tensors that live, of any network, on no device."""

    def __init__(self, network):
        super().__init__()
        self.live = self.peak = 0
        self.seen = dict.fromkeys((p.untyped_storage()._cdata for p in network.parameters()), 0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        import weakref

        from torch.utils._pytree import tree_leaves

        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.seen:
                self.seen[storage._cdata] = storage.nbytes()
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.gone, storage._cdata)
        return made

    def gone(self, key):
        self.live -= self.seen.pop(key, 0)


def living(network, call) -> int:
    with Living(network) as counted, torch.no_grad():
        call()
    return counted.peak


@pytest.fixture
def no_scores(monkeypatch):
    """Attention as fused kernels do it: without the matrix of scores, which tensors without memory would have."""
    plain = torch.nn.functional
    monkeypatch.setattr(plain, "scaled_dot_product_attention", lambda query, *rest, **more: torch.empty_like(query))


@pytest.mark.parametrize(("name", "batch", "side"), [("sd1", 2, 64), ("sd2", 2, 96), ("sdxl", 2, 128), ("sdxl", 8, 64)])
def test_the_formula_of_a_u_net_is_near_what_lives_in_it(no_scores, name, batch, side):
    config = json.loads((CONFIGS / f"{name}.json").read_text())["unet"]
    with torch.device("meta"):
        network = library("diffusers").UNet2DConditionModel.from_config(config).eval()
        added = {}
        if name == "sdxl":
            added = {"added_cond_kwargs": {"text_embeds": torch.empty(batch, 1280), "time_ids": torch.empty(batch, 6)}}
        x, prompt = torch.empty(batch, 4, side, side), torch.empty(batch, 77, network.config.cross_attention_dim)
        time = torch.empty((), dtype=torch.int64)
        seen = living(network, lambda: network(x, time, prompt, **added))
    assert activations.denoiser("UNet2DConditionModel", config, (batch, side, side), 4) == pytest.approx(seen, rel=0.05)


@pytest.mark.parametrize("encodes", [False, True])
@pytest.mark.parametrize(("batch", "side"), [(1, 32), (4, 64)])
def test_the_formula_of_an_autoencoder_is_near_what_lives_in_it(no_scores, batch, side, encodes):
    config = json.loads((CONFIGS / "sd1.json").read_text())["vae"]
    with torch.device("meta"):
        network = library("diffusers").AutoencoderKL.from_config(config).eval()
        pixels, latent = torch.empty(batch, 3, side * 8, side * 8), torch.empty(batch, 4, side, side)
        seen = living(network, lambda: network.encode(pixels) if encodes else network.decode(latent))
    size = (batch, side * 8, side * 8)
    assert activations.autoencoder(config, size, 4, encodes) == pytest.approx(seen, rel=0.05)


def test_tiles_need_no_more_however_large_the_picture_is(tmp_path):
    own = settings(tmp_path)
    part = Part(find("tiny", own).handles()[2], own)
    small, large = part.coding(Size(1, 64, 64), tiled=True), part.coding(Size(1, 1024, 1024), tiled=True)
    assert large < part.coding(Size(1, 1024, 1024)) / 4
    assert large - small < 80 * MIB


# The machine


def test_a_control_group_with_less_memory_than_the_machine_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "GROUP", tmp_path)
    for name, text in (("memory.max", "1000000"), ("memory.current", "400000"), ("memory.stat", "inactive_file 100")):
        (tmp_path / name).write_text(text)
    assert machine.total_memory() == 1_000_000
    assert machine.free_memory() == 600_100


def test_a_device_that_nobody_can_ask_tells_nothing(monkeypatch):
    monkeypatch.setattr(machine, "NVML", "no_such_library.so")
    assert machine.device_memory("cuda:1") is None
    free, total = machine.device_memory("cpu") or (0, 0)
    assert 0 < free <= total
