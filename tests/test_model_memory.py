"""Weights under a budget: who leaves, who stays, and what is never held."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import graphengine
from graphengine import Context, Engine, Node, Ports
from graphengine.events import NodeNote
from graphengine.models.autoencoder import KLAutoencoder
from graphengine.models.checkpoint import find
from graphengine.models.families import stable_diffusion
from graphengine.models.memory import ModelMemory
from graphengine.testing import settings

TINY = Path(graphengine.__file__).parent / "checkpoints" / "tiny"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three checkpoints with the same weights and different digests."""
    folder = tmp_path_factory.mktemp("models")
    for name in "abc":
        shutil.copytree(TINY, folder / name)
        path = folder / name / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"comment": name}))
    return folder


@pytest.fixture
def own(models, tmp_path):
    return settings(tmp_path).model_copy(update={"model_folders": (models,)})


def whole(own) -> int:
    """Bytes of one checkpoint's three parts."""
    memory = ModelMemory(own)
    load(memory, own, "a")
    return memory.held


def load(memory: ModelMemory, own, name: str) -> None:
    denoiser, text, vae = find(name, own).handles()
    memory.text_encoder(text)
    memory.denoiser(denoiser)
    memory.vae(vae)


def test_what_is_asked_for_twice_is_loaded_once(own):
    memory = ModelMemory(own)
    denoiser = find("a", own).handles()[0]
    assert memory.denoiser(denoiser) is memory.denoiser(denoiser)


def test_the_least_recently_used_leaves_first(own):
    size = whole(own)
    memory = ModelMemory(own.model_copy(update={"model_budget": 2 * size}))
    load(memory, own, "a")
    load(memory, own, "b")
    first = memory.denoiser(find("a", own).handles()[0])
    load(memory, own, "c")
    assert memory.held <= 2 * size
    assert memory.denoiser(find("a", own).handles()[0]) is first


def test_fifty_runs_over_three_models_stay_under_a_budget_for_two(own):
    budget = 2 * whole(own)
    workflow = json.loads((Path(graphengine.__file__).parents[1] / "workflows" / "text_to_image.json").read_text())
    with Engine(settings=own.model_copy(update={"model_budget": budget}), cached=False) as engine:
        for number in range(50):
            inputs = {"checkpoint": "abc"[number % 3], "steps": 1, "seed": number}
            made = engine.submit(workflow, inputs).result()
            assert made["image"].size == (64, 64)
        memory = engine._tools.models._memory
        assert 0 < memory.held <= memory.peak <= budget


def test_a_model_that_is_larger_than_the_budget_is_loaded_all_the_same(own):
    memory = ModelMemory(own.model_copy(update={"model_budget": 1}))
    load(memory, own, "a")
    assert memory.vae(find("a", own).handles()[2]) is not None


def test_a_checkpoint_that_changes_while_a_run_goes_on_fails_it(own, models, tmp_path):
    shutil.copytree(models / "a", tmp_path / "models" / "moving")
    own = own.model_copy(update={"model_folders": (tmp_path / "models",)})
    denoiser = find("moving", own).handles()[0]
    (tmp_path / "models" / "moving" / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"beta_schedule": "linear"})
    )
    with pytest.raises(graphengine.CheckpointError, match="was changed while the run went on"):
        ModelMemory(own).denoiser(denoiser)


class Exhausted:
    """Makes a method of the adapters fail as a full device does, so many times."""

    def __init__(self, monkeypatch, owner: type, method: str, times: int):
        self.left, real = times, getattr(owner, method)

        def call(adapter, *arguments, **options):
            if self.left:
                self.left -= 1
                raise torch.OutOfMemoryError("injected")
            return real(adapter, *arguments, **options)

        monkeypatch.setattr(owner, method, call)


def drawn(own, **inputs):
    workflow = json.loads((Path(graphengine.__file__).parents[1] / "workflows" / "text_to_image.json").read_text())
    with Engine(settings=own, cached=False) as engine:
        run = engine.submit(workflow, {"checkpoint": "a", "steps": 2, **inputs})
        image = run.result()["image"]
        notes = [(event.node, event.note) for event in run.events() if isinstance(event, NodeNote)]
        return image.pixels, notes, run.recipe()


PLACES = [(stable_diffusion.Denoiser, "denoise"), (stable_diffusion.Text, "encode"), (KLAutoencoder, "decode")]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("owner", "method"), PLACES, ids=lambda value: getattr(value, "__name__", value))
def test_a_run_that_runs_out_of_memory_ends_with_its_picture_and_a_note(own, monkeypatch, owner, method, times):
    wanted, none, _ = drawn(own, batch=2)
    assert none == []
    Exhausted(monkeypatch, owner, method, times)
    pixels, notes, recipe = drawn(own, batch=2)
    assert len(notes) == times
    assert "out of memory" in notes[0][1]
    assert recipe["notes"] == {notes[0][0]: [note for _, note in notes]}
    assert np.abs(pixels - wanted).max() < 0.01


def test_pictures_are_drawn_one_by_one_when_a_batch_does_not_fit(own, monkeypatch):
    wanted, _, _ = drawn(own, batch=3)
    real, sizes = stable_diffusion.Denoiser.denoise, []

    def small(adapter, x, sigma, prompts):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("injected")
        return real(adapter, x, sigma, prompts)

    monkeypatch.setattr(stable_diffusion.Denoiser, "denoise", small)
    pixels, notes, _ = drawn(own, batch=3)
    assert len(notes) == 2
    assert set(sizes) == {6, 2}
    assert np.abs(pixels - wanted).max() < 0.01


def test_memory_that_is_never_enough_fails_the_run_with_a_sentence(own, monkeypatch):
    Exhausted(monkeypatch, KLAutoencoder, "decode", 100)
    with pytest.raises(graphengine.NodeError, match="injected"):
        drawn(own)


def test_nothing_is_held_after_memory_ran_out_that_was_not_held_before(own, monkeypatch):
    workflow = json.loads((Path(graphengine.__file__).parents[1] / "workflows" / "text_to_image.json").read_text())
    with Engine(settings=own, cached=False) as engine:
        engine.submit(workflow, {"checkpoint": "a", "steps": 1}).result()
        memory = engine._tools.models._memory
        before = memory.held
        Exhausted(monkeypatch, stable_diffusion.Denoiser, "denoise", 1)
        engine.submit(workflow, {"checkpoint": "a", "steps": 1, "seed": 1}).result()
        assert memory.held <= before


def test_a_node_without_a_model_is_tried_again_too(tmp_path):
    class Hungry(Node):
        """Runs out of memory once."""

        class Outputs(Ports):
            text: str

        def run(self, ctx: Context) -> Outputs:
            if not ctx.frugal:
                raise MemoryError
            return self.Outputs(text="fed")

    workflow = {"graphengine": 1, "name": "w", "nodes": {"n": {"type": "Hungry"}}, "outputs": {"t": {"from": "n.text"}}}
    with Engine(nodes=[Hungry], settings=settings(tmp_path)) as engine:
        assert engine.submit(workflow).result() == {"t": "fed"}
