"""Students that need few calls: what they are taught, their files, and the node that teaches them."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from graphengine import Engine, NodeError, Workflow
from graphengine.diffusion.guidance import ClassifierFree
from graphengine.diffusion.samplers import ddim
from graphengine.diffusion.sigmas import sigma_schedule
from graphengine.models import checkpoint, library
from graphengine.models.family import Prompts
from graphengine.models.memory import ModelMemory
from graphengine.models.variant import variant
from graphengine.testing import settings
from graphengine.training.distillation import Lesson, Teacher, clean_between, stepped, train
from graphengine.training.few_step import CONTROL, OPEN, SLOW, STUDENT, draw_open, open_scenes
from graphengine.training.low_rank import adapted, write_lora
from graphengine.training.open_scenes import settled
from graphengine.training.scenes import Scene, Thing, caption
from graphengine.values import Patch

LESSON = Lesson(steps=2, batch=2, rank=2)
SHAPE = (1, 8, 8, 8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    own = settings(tmp_path_factory.mktemp("distillation"))
    return ModelMemory(own).denoiser(checkpoint.find("tiny", own).handles()[0])


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def examples(generator, count):
    return torch.randn((count, 8, 8, 8), generator=generator), Prompts(noise(1, 1, 32, 128).expand(count, -1, -1))


EMPTY = Prompts(noise(2, 1, 32, 128))


# What is taught


def test_the_estimate_between_two_places_leads_from_one_to_the_other():
    x, landed = noise(0, 2, 3, 8, 4, 4)
    for sigma, following in ((158.0, 6.0), (1.5, 0.6), (0.6, 0.0)):
        levels = torch.tensor(sigma), torch.tensor(following)
        assert torch.allclose(stepped(x, clean_between(x, landed, *levels), *levels), landed, atol=1e-4)


def test_the_teacher_stands_on_the_levels_of_the_sampler(tiny):
    teacher = Teacher(tiny, LESSON, EMPTY, SHAPE)
    quick = sigma_schedule("simple", tiny.schedule, LESSON.student_steps)
    assert torch.equal(torch.stack([teacher.ends(row)[0] for row in range(4)]), quick[:-1])
    assert teacher.ends(3)[1] == 0


def test_the_teacher_lands_where_guided_ddim_steps_do(tiny):
    words, x = Prompts(noise(3, 1, 32, 128)), noise(4, *SHAPE)
    teacher, guidance = Teacher(tiny, LESSON, EMPTY, SHAPE), ClassifierFree(LESSON.guidance)
    sigmas = sigma_schedule("simple", tiny.schedule, 8)[2:5]

    def denoise(x, sigma):
        both = tiny.denoise(torch.cat([x, x]), sigma, words + EMPTY)
        return guidance.combine(both[:1], both[1:], x, float(sigma))

    with torch.no_grad():
        *_, last = ddim(denoise, x * sigmas[0], sigmas, lambda: x)
        assert torch.allclose(teacher.landed(x * sigmas[0], 1, words), last.x, atol=1e-4)


@pytest.mark.parametrize("guidance", [3.0, 0.0])
def test_a_lesson_goes_on_where_it_was_and_leaves_the_teacher_alone(tiny, tmp_path, guidance):
    before = {name: tensor.clone() for name, tensor in tiny.network.state_dict().items()}
    train(tiny, examples, EMPTY, replace(LESSON, steps=1, guidance=guidance), tmp_path)
    stage = train(tiny, examples, EMPTY, replace(LESSON, steps=2, guidance=guidance), tmp_path)
    assert stage.done == 2
    assert any(tensor.abs().max() > 0 for name, tensor in stage.averages["lora"].items() if name.endswith("up"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.network.state_dict().items())


# Low-rank differences


def test_before_the_first_step_the_student_is_the_teacher(tiny):
    student, _ = adapted(tiny.network, 2)
    inputs = (noise(0, *SHAPE), torch.tensor([499]), noise(1, 1, 32, 128))
    with torch.no_grad():
        assert torch.allclose(student(*inputs).sample, tiny.network(*inputs).sample, atol=1e-5)


def test_a_teacher_in_half_precision_has_a_student_in_full(tiny):
    student, _ = adapted(copy.deepcopy(tiny.network).bfloat16(), 2)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


def test_the_file_says_what_was_learned(tiny, tmp_path):
    student, lows = adapted(tiny.network, 2)
    with torch.no_grad():
        for seed, low in enumerate(lows.values()):
            up: Any = low.up
            up += 0.05 * noise(seed, *up.shape)
    path = tmp_path / "made.safetensors"
    write_lora(tiny.network, lows.state_dict(), path)
    made = variant(tiny, (Patch("lora", "made", (1.0,), "made", str(path)),))
    inputs = (noise(0, *SHAPE), torch.tensor([499]), noise(1, 1, 32, 128))
    with torch.no_grad():
        wanted, seen = (network(*inputs).sample for network in (student, made.network))
    assert (wanted - seen).abs().max() < 0.02 * wanted.abs().max()


@pytest.mark.parametrize("name", [OPEN, STUDENT, CONTROL])
def test_the_files_that_come_along_are_small(name):
    assert (library.BUNDLED / "loras" / f"{name}.safetensors").stat().st_size < 3e6


# The node


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with Engine(settings=settings(tmp_path_factory.mktemp("distil"))) as engine:
        yield engine


SMALL = {"pictures": 16, "steps": 3, "batch": 1, "rank": 2, "student_steps": 1}


def test_distilling_brings_the_student_nearer_to_its_teacher(engine, workflows):
    document = Workflow.load(workflows / "distill.json").document()
    document["outputs"]["loss"] = {"from": "student.loss"}
    sizes = {"pictures": 32, "steps": 12, "batch": 3, "rank": 4, "student_steps": 1, "name": "near"}
    made = engine.submit(document, sizes).result(200)
    losses = made["loss"].y
    assert len(losses) == 12 and sum(losses[-4:]) < 0.9 * sum(losses[:4])
    assert made["lora"].endswith("near.safetensors")


def test_a_student_is_loaded_from_its_file_as_it_came_from_the_node(engine, workflows):
    made = engine.submit(workflows / "distill.json", SMALL | {"student_steps": 4, "steps": 1}).result(100)
    own = engine.settings.model_copy(update={"model_folders": (engine.settings.output_folder,)})
    folder = engine.settings.output_folder / "loras"
    folder.mkdir()
    (engine.settings.output_folder / "student.safetensors").rename(folder / "student.safetensors")
    document = Workflow.load(workflows / "few_step.json").document()
    document["nodes"]["student"]["inputs"] |= {"lora": "student.safetensors", "denoiser": {"from": "load.denoiser"}}
    prompt = "a green square left of an orange ring on a white background"
    with Engine(settings=own) as other:
        again = other.submit(document, {"prompt": prompt, "pictures": 1}).result(100)
    assert np.array_equal(again["student"].pixels, made["taught"].pixels)
    assert not np.array_equal(made["taught"].pixels, made["quick"].pixels)


def test_distilling_goes_on_where_it_was_stopped(engine, workflows):
    small = SMALL | {"steps": 7, "name": "again"}
    first = engine.submit(workflows / "distill.json", small)
    for event in first.events():
        if event.event == "node_progress" and event.node == "student" and event.done >= 3:
            first.cancel()
    second = engine.submit(workflows / "distill.json", small)
    second.result(100)
    done = [event.done for event in second.events() if event.event == "node_progress" and event.node == "student"]
    assert done[0] > 3


def test_a_patched_teacher_teaches_what_it_draws(engine, workflows):
    document = Workflow.load(workflows / "distill.json").document()
    lora = {"denoiser": {"from": "load.denoiser"}, "text_encoder": {"from": "load.text_encoder"}}
    lora |= {"lora": f"{CONTROL}.safetensors", "text_strength": 0.0}
    document["nodes"]["teacher"] = {"type": "LoadLora", "inputs": lora}
    document["nodes"]["student"]["inputs"]["denoiser"] = {"from": "teacher.denoiser"}
    document["outputs"]["denoiser"] = {"from": "student.denoiser"}
    made = engine.submit(document, SMALL | {"name": "patched"}).result(100)
    assert [patch.name for patch in made["denoiser"].patches] == [f"{CONTROL}.safetensors", "patched.safetensors"]


def test_examples_and_prompts_that_do_not_go_together_are_refused(engine, workflows):
    document = Workflow.load(workflows / "distill.json").document()
    document["nodes"]["positive"]["inputs"]["prompts"] = [{"from": "prompt.conditioning"}] * 3
    with pytest.raises(NodeError, match="3 prompts for 8 examples"):
        engine.submit(document, SMALL | {"pictures": 8}).result(60)


@pytest.mark.parametrize("name", ["../student.safetensors", "/elsewhere/student.safetensors"])
def test_a_file_outside_the_output_folder_is_refused(engine, workflows, name):
    with pytest.raises(Exception, match="output"):
        engine.submit(workflows / "distill.json", SMALL | {"name": name}).result(60)


# The LoRAs that come along


def test_the_student_is_right_in_four_calls_far_more_often_than_its_teacher(tmp_path):
    quick = replace(SLOW, steps=4, guidance=1.0, sampler="ddim")
    found, own = open_scenes(60, 1), settings(tmp_path)
    ways = quick, replace(quick, lora=f"{SLOW.lora},{STUDENT}.safetensors")
    hasty, taught = (settled(found, draw_open(found, way, own)) for way in ways)
    assert taught.share >= 0.85  # nine tenths of what the teacher reaches in forty, as the gallery measures it
    assert taught.share >= hasty.share + 0.1
    assert taught.spread >= 0.8 * hasty.spread


def test_pictures_of_one_open_prompt_differ_in_where_things_are(engine, workflows):
    scene = Scene((Thing("green", "square"), Thing("orange", "ring")), "white", relation="and")
    made = engine.submit(workflows / "few_step.json", {"prompt": caption(scene), "seed": 3}).result(120)
    for name in ("teacher", "student"):
        found = settled([scene] * 8, (made[name].pixels * 255).round().astype(np.uint8))
        assert found.share > 0.7 and len(found.places) > 2


def test_without_strength_the_student_is_its_teacher(engine, workflows):
    made = engine.submit(workflows / "few_step.json", {"strength": 0.0, "pictures": 1}).result(120)
    assert np.array_equal(made["student"].pixels, made["hasty"].pixels)
