"""Edits by instruction: pairs that differ in one thing only, the words for them, and the model that learned them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image as pillow
from transformers import CLIPTextModel, CLIPTokenizer

from graphengine.models import checkpoint
from graphengine.testing import settings
from graphengine.training import editing, language
from graphengine.training.checker import read
from graphengine.training.edit_scenes import (
    KINDS,
    combination,
    draw_view,
    is_held_out,
    settle,
)
from graphengine.training.edit_score import Case, edit_cases, edit_sheet, judge, score_edits
from graphengine.training.edit_text import ATTRIBUTES, attributes, extend_tokenizer, some_edits, widen_embedding
from graphengine.training.edit_words import say, words
from graphengine.training.scenes import COLOURS, caption, coverage, random_scene

TINY = editing.BASE
SHIPPED = TINY.with_name("tiny-edit")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return extend_tokenizer(TINY / "tokenizer", tmp_path_factory.mktemp("tokenizer") / "tokenizer", words())


def covered(*things):
    """How much of every pixel each thing covers."""
    return [coverage(it.shape, (it.centre[0] * 64, it.centre[1] * 64), it.radius * 64, 64) for it in things]


# Pairs


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "background"])
def test_what_an_edit_does_not_name_stays_to_the_pixel(kind):
    for case in edit_cases(kind, 12, 1):
        before, after = draw_view(case.edit.before), draw_view(case.edit.after)
        differs = (before != after).any(-1)
        assert not (differs & ~np.any(covered(case.edit.thing, case.edit.changed), 0)).any()
        assert differs.any() == (kind != "identity")


def test_another_background_leaves_the_things():
    for case in edit_cases("background", 12, 1):
        before, after = draw_view(case.edit.before), draw_view(case.edit.after)
        assert case.edit.before.things == case.edit.after.things
        assert (before == after)[np.max(covered(*case.edit.after.things), axis=0) == 1].all() and not (before == after)[
            0, 0
        ].all()


def test_every_edit_has_a_way_back():
    for edit in some_edits(60, np.random.default_rng(0)):
        back = edit.turned()
        assert (back.before, back.after, back.turned()) == (edit.after, edit.before, edit)


def test_everything_in_a_pair_can_be_seen():
    for edit in some_edits(200, np.random.default_rng(1)):
        assert edit.before.visible() and edit.after.visible()


def test_no_combination_that_is_measured_is_trained_on():
    trained = {combination(edit) for edit in editing.training_edits(400)[1]}
    cases = [case for kind in KINDS if kind != "identity" for case in edit_cases(kind, 20, 2)]
    assert not trained & {combination(case.edit) for case in cases}


def test_training_pairs_point_at_their_pictures():
    views, edits, rows = editing.training_edits(30)
    for edit, (before, after) in zip(edits, rows, strict=True):
        assert (views[before], views[after]) == (edit.before, edit.after) and not is_held_out(edit)


# Words


def test_every_word_of_an_instruction_is_one_token(tokenizer):
    random = np.random.default_rng(3)
    known = set(words())
    for edit in some_edits(300, random):
        said = say(edit, random).replace(".", " .").split()
        assert set(said) <= known, said
    assert [word for word in known if len(tokenizer.tokenize(word)) != 1] == []


def test_an_instruction_names_one_thing_only():
    random = np.random.default_rng(4)
    for edit in some_edits(300, random):
        if edit.kind in ("colour", "shape", "remove") and len(edit.before.things) == 2:
            said, own = say(edit, random), edit.thing
            other = edit.before.things[1 - edit.index]
            assert any(w in said for w in {own.shape, own.colour, own.position} - {other.shape, other.colour})


def test_every_instruction_fits(tokenizer):
    random = np.random.default_rng(5)
    said = [say(edit, random) for edit in some_edits(300, random)]
    assert max(len(tokenizer(text)["input_ids"]) for text in said) <= language.MAX_TOKENS


def test_what_the_old_tokenizer_reads_is_read_as_before(tokenizer):
    old, random = CLIPTokenizer.from_pretrained(TINY / "tokenizer"), np.random.default_rng(6)
    for _ in range(100):
        text = language.vary(caption(random_scene(random, 0.5, 0.3)), random)
        assert old(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_a_widened_encoder_reads_old_words_as_before(tokenizer):
    model = CLIPTextModel.from_pretrained(TINY / "text_encoder", dtype=torch.float32)
    ids = language.tokenize(tokenizer, ["a red circle on a blue background"])
    with torch.no_grad():
        old, new = (m(input_ids=ids).last_hidden_state for m in (model, widen_embedding(model, len(tokenizer), 0)))
    assert torch.equal(old, new)


def test_attributes_name_their_classes():
    for edit in some_edits(100, np.random.default_rng(7)):
        assert all(0 <= n < len(options) for n, options in zip(attributes(edit), ATTRIBUTES.values(), strict=True))


# Training


def test_a_widened_network_does_not_mind_what_its_new_channels_read():
    unet = UNet2DConditionModel.from_pretrained(TINY / "unet", low_cpu_mem_usage=False, torch_dtype=torch.float32)
    x, words, t = torch.randn(1, 8, 8, 8), torch.randn(1, 32, 128), torch.tensor([500])
    with torch.no_grad():
        old = unet(x, t, words).sample
        new = editing.widened(unet, 8)(torch.cat([x, torch.randn(1, 8, 8, 8)], 1), t, words).sample
    assert torch.allclose(old, new, atol=1e-5)


def few_pairs(views=20):
    drawn, edits, rows = editing.training_edits(views)
    latents = 1 + torch.rand(len(drawn), 8, 8, 8, generator=torch.Generator().manual_seed(0))
    return editing.Pairs(edits, torch.from_numpy(rows), latents)


def test_no_text_asks_for_the_picture_as_it_was_and_no_picture_is_zeros(tokenizer):
    ids, before, after = editing.visit(few_pairs(), tokenizer, 600, np.random.default_rng(8))
    mute = (ids == language.tokenize(tokenizer, [""])).all(1)
    blind = (before == 0).flatten(1).all(1)
    assert torch.equal(before[mute & ~blind], after[mute & ~blind])
    shares = [float(it.float().mean()) for it in (mute & ~blind, blind & ~mute, mute & blind)]
    assert all(0.03 < share < 0.08 for share in shares)
    assert (after != 0).flatten(1).all(1).all()


def test_a_few_steps_make_a_checkpoint_that_reads_a_picture(tmp_path, tokenizer):
    plan = editing.EditPlan(steps=2, batch=4)
    text = CLIPTextModel.from_pretrained(TINY / "text_encoder", dtype=torch.float32)
    text = widen_embedding(text, len(tokenizer), 0)
    stage = editing.train(few_pairs(), editing._unet(TINY), text, tokenizer, 0.2, tmp_path, plan)
    extend_tokenizer(TINY / "tokenizer", tmp_path / "tokenizer", words())
    editing.write(stage, tmp_path)
    own = settings(tmp_path).model_copy(update={"model_folders": (tmp_path / "checkpoints",)})
    found = checkpoint.find("tiny-edit", own)
    assert found.folder.is_relative_to(tmp_path) and not (found.folder / "vae").exists()
    assert found.family == "stable_diffusion" and found.configs["unet"]["in_channels"] == 16
    assert found.configs["vae"] == checkpoint.find("tiny", own).configs["vae"]


# Measuring


@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_that_was_asked_for_is_right_and_the_unchanged_one_is_not(kind):
    cases = edit_cases(kind, 15, 9)
    assert score_edits(cases, [draw_view(case.edit.after) for case in cases])["all"] == (15, 15)
    unchanged = score_edits(cases, [draw_view(case.edit.before) for case in cases])
    assert unchanged["all"] == ((15, 15) if kind == "identity" else (0, 15))


def test_a_right_change_with_another_background_is_not_kept():
    edit = edit_cases("colour", 1, 10)[0].edit
    free = next(
        colour for colour in COLOURS if replace(edit.after, ground=colour).visible() and colour != edit.before.ground
    )
    other = replace(edit.after, ground=free, pattern="plain")
    assert judge(edit, draw_view(other)) == {"changed": True, "kept": False, "all": False}


def test_cases_come_again_for_a_seed_and_stand_on_a_sheet():
    cases = {"colour": edit_cases("colour", 3, 11)}
    assert cases["colour"] == edit_cases("colour", 3, 11)
    sheet = edit_sheet(cases, {"colour": [draw_view(case.edit.after) for case in cases["colour"]]})
    assert sheet.size[0] > 3 * 128 and isinstance(cases["colour"][0], Case)


# The model that ships


def edited(engine, workflows, scene, instruction, **inputs):
    """A drawn scene and what the workflow makes of it, as readings."""
    picture = draw_view(settle(scene, np.random.default_rng(0)))
    Path(engine.settings.input_folder).mkdir(exist_ok=True, parents=True)
    pillow.fromarray(picture).save(Path(engine.settings.input_folder) / "before.png")
    given = {"image": "before.png", "instruction": instruction} | inputs
    image = engine.submit(workflows / "instruct_edit.json", given).result(60)["image"]
    return read(picture), read((image.pixels[0] * 255).round().astype(np.uint8))


@pytest.mark.parametrize("kind", ["colour", "background", "remove", "identity"])
def test_the_workflow_does_what_it_is_told_and_keeps_the_rest(engine, workflows, kind):
    cases, right = edit_cases(kind, 3, 7), []
    for number, case in enumerate(cases):
        picture = engine.settings.input_folder / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(draw_view(case.edit.before)).save(picture)
        inputs = {"image": picture.name, "instruction": case.instruction}
        made = engine.submit(workflows / "instruct_edit.json", inputs).result(100)["image"]
        right.append(judge(case.edit, (made.pixels[0] * 255).round().astype(np.uint8))["all"])
    assert sum(right) >= 2
