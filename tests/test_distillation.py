"""The LoRA with which tiny needs four network calls: the steps it learns from, its file, and what it draws."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from graphengine import Engine
from graphengine.diffusion.guidance import ClassifierFree
from graphengine.diffusion.samplers import ddim
from graphengine.diffusion.sigmas import NoiseSchedule, sigma_schedule
from graphengine.models import checkpoint, library
from graphengine.models.family import Prompts
from graphengine.models.memory import ModelMemory
from graphengine.models.variant import variant
from graphengine.testing import settings
from graphengine.training.checker import facts, read
from graphengine.training.distillation import (
    CONTROL,
    NAME,
    Lesson,
    Teacher,
    adapted,
    moved,
    train,
    velocity_between,
    write_lora,
)
from graphengine.training.scenes import Scene, Thing, caption, random_scene
from graphengine.training.transformer import BASE, Data
from graphengine.values import Patch

SCENES = [
    Scene((Thing("green", "square"), Thing("orange", "ring")), "white", relation="left of"),
    Scene((Thing("blue", "star"), Thing("yellow", "diamond")), "black", relation="above"),
]
LESSON = Lesson(steps=2, batch=4, rank=2)


@pytest.fixture(scope="module")
def unet():
    return UNet2DConditionModel.from_pretrained(
        BASE / "unet", low_cpu_mem_usage=False, torch_dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    text = CLIPTextModel.from_pretrained(BASE / "text_encoder", dtype=torch.float32)
    latents = torch.randn(16, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    return Data(
        latents, [random_scene(random) for _ in range(16)], text, CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    )


def likeness(picture, other) -> float:
    return float(-10 * np.log10(np.square(picture.pixels - other.pixels).mean()))


def test_the_student_comes_closer_to_the_slow_pictures_than_tiny_in_as_many_calls(tmp_path, workflows):
    with Engine(settings=settings(tmp_path)) as engine:
        for scene in SCENES:
            made = engine.submit(workflows / "few_step.json", {"prompt": caption(scene), "seed": 4}).result(120)
            assert likeness(made["student"], made["teacher"]) > likeness(made["hasty"], made["teacher"]) + 2
            picture = (made["student"].pixels[0] * 255).round().astype(np.uint8)
            assert facts(scene, read(picture))["all"]


def test_without_strength_the_student_is_tiny(tmp_path, workflows):
    with Engine(settings=settings(tmp_path)) as engine:
        made = engine.submit(workflows / "few_step.json", {"strength": 0.0}).result(120)
    assert np.array_equal(made["student"].pixels, made["hasty"].pixels)


@pytest.mark.parametrize("name", [NAME, CONTROL])
def test_the_file_is_small(name):
    assert (library.BUNDLED / "loras" / f"{name}.safetensors").stat().st_size < 3e6


def test_the_velocity_between_two_places_leads_from_one_to_the_other():
    generator = torch.Generator().manual_seed(0)
    x, landed = torch.randn(2, 3, 8, 4, 4, generator=generator)
    for level, following in ((4e-5, 0.1), (0.3, 0.7), (0.7, 1.0)):
        levels = torch.tensor(level), torch.tensor(following)
        assert torch.allclose(moved(x, velocity_between(x, landed, *levels), *levels), landed, atol=1e-4)


def test_the_teacher_stands_on_the_levels_of_the_sampler(unet):
    teacher = Teacher(unet, LESSON, torch.zeros(1, 32, 128))
    sigmas = sigma_schedule("simple", NoiseSchedule.linear(), LESSON.student_steps * LESSON.substeps)
    assert torch.allclose(((1 - teacher.abar) / teacher.abar).sqrt(), sigmas, rtol=2e-3)


def test_the_teacher_lands_where_guided_ddim_steps_do(unet, data, tmp_path):
    own = settings(tmp_path)
    adapter = ModelMemory(own).denoiser(checkpoint.find("tiny", own).handles()[0])
    words, empty = data.features(["a red star on a blue background"]), data.features([""])
    x = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    teacher, guidance = Teacher(unet, LESSON, empty), ClassifierFree(LESSON.guidance)
    sigmas = sigma_schedule("simple", NoiseSchedule.linear(), 8)[2:5]

    def denoise(x, sigma):
        both = adapter.denoise(torch.cat([x, x]), sigma, Prompts(torch.cat([words, empty])))
        return guidance.combine(both[:1], both[1:], x, float(sigma))

    *_, last = ddim(denoise, x * (1 + sigmas[0] ** 2).sqrt(), sigmas, lambda: x)
    landed = teacher.landed(x, words, torch.tensor([1]))
    assert torch.allclose(landed, last.x / (1 + sigmas[2] ** 2).sqrt(), atol=2e-3)


def test_before_the_first_step_the_student_is_the_teacher(unet):
    student, _ = adapted(unet, 2)
    x, timestep, words = torch.randn(1, 8, 8, 8), torch.tensor([499]), torch.randn(1, 32, 128)
    with torch.no_grad():
        assert torch.equal(student(x, timestep, words).sample, unet(x, timestep, words).sample)


def test_the_file_says_what_was_learned(unet, tmp_path):
    student, lows = adapted(unet, 2)
    with torch.no_grad():
        for low in lows.values():
            up: Any = low.up
            up.normal_(std=0.05, generator=torch.Generator().manual_seed(0))
    write_lora(unet, dict(lows.state_dict()), tmp_path / "made.safetensors")
    own = settings(tmp_path)
    plain: Any = ModelMemory(own).denoiser(checkpoint.find("tiny", own).handles()[0])
    made = variant(plain, (Patch("lora", "made", (1.0,), "made", str(tmp_path / "made.safetensors")),))
    x, timestep, words = torch.randn(1, 8, 8, 8), torch.tensor([499]), torch.randn(1, 32, 128)
    with torch.no_grad():
        wanted, seen = (network(x, timestep, words).sample for network in (student, made.network))
    assert (wanted - seen).abs().max() < 0.02 * wanted.abs().max()
    assert not torch.allclose(wanted, plain.network(x, timestep, words).sample, rtol=0.1)


@pytest.mark.parametrize("guidance", [3.0, 0.0])
def test_a_lesson_goes_on_where_it_was_and_leaves_the_teacher_alone(unet, data, tmp_path, guidance):
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    train(data, unet, tmp_path, Lesson(1, 4, rank=2, guidance=guidance))
    stage = train(data, unet, tmp_path, Lesson(2, 4, rank=2, guidance=guidance))
    assert stage.done == 2
    assert any(tensor.abs().max() > 0 for name, tensor in stage.averages["lora"].items() if name.endswith("up"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
