"""Weights under a budget: who leaves, who stays, and what is never held."""

import json
import shutil
from pathlib import Path

import pytest

import graphengine
from graphengine import Engine
from graphengine.models.checkpoint import find
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
