"""The workflows for people's own checkpoints run, each on a small random model of its family."""

import pytest
from families import flux, stable_diffusion, stable_diffusion_3, stable_diffusion_xl
from test_patches import kohya, weight

from graphengine import Engine
from graphengine.models.checkpoint import find
from graphengine.models.memory import ModelMemory
from graphengine.testing import settings

MODELS = {
    "stable_diffusion_1": stable_diffusion.CASES[0],
    "stable_diffusion_xl": stable_diffusion_xl.CASES[0],
    "stable_diffusion_3": stable_diffusion_3.CASES[0],
    "flux": flux.CASES[0],
}


def run(own, workflows, name, **inputs):
    size = {"width": 64, "height": 64, "steps": 2, "checkpoint": "model"}
    with Engine(settings=own, cached=False) as engine:
        return engine.submit(workflows / f"{name}.json", size | inputs).result()["image"]


@pytest.mark.parametrize("name", MODELS)
def test_a_workflow_of_a_family_draws_with_a_model_of_the_family(name, tmp_path, workflows):
    MODELS[name].make(tmp_path / "model")
    own = settings(tmp_path).model_copy(update={"model_folders": (tmp_path,)})
    first, second = (run(own, workflows, name, prompt=words) for words in ("a red star", "a blue ring"))
    assert first.size == (64, 64)
    assert abs(first.pixels - second.pixels).max() > 0


def test_the_lora_workflow_draws_another_picture_with_more_strength(tmp_path, workflows):
    stable_diffusion.CASES[0].make(tmp_path / "model")
    own = settings(tmp_path).model_copy(update={"model_folders": (tmp_path,)})
    plain = ModelMemory(own).denoiser(find("model", own).handles()[0])
    (tmp_path / "loras").mkdir()
    kohya(tmp_path / "loras" / "style.safetensors", tuple(weight(plain).shape))
    none, full = (run(own, workflows, "lora", lora="style.safetensors", strength=value) for value in (0.0, 1.0))
    assert abs(none.pixels - full.pixels).max() > 0
