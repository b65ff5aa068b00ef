"""What is measured of edits and of painting, on a few drawn pictures and the embedded model."""

import numpy as np
import pytest

from graphengine.gallery import editing_figures as editing
from graphengine.gallery import painting_figures as painting
from graphengine.gallery.bench import Bench
from graphengine.testing import settings
from graphengine.training.edit_scenes import draw_view
from graphengine.training.edit_score import judge


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench.of("tiny", settings(tmp_path_factory.mktemp("bench")))


def test_free_edits_keep_the_picture_inside_and_the_words_near():
    for edit in editing.colour_edits(30, free=True):
        thing = edit.before.things[0]
        assert all(thing.radius < place < 1 - thing.radius for place in thing.centre)
        assert judge(edit, draw_view(edit.after))["changed"]
        assert thing.colour in editing.words(edit.before) and thing.colour not in editing.words(edit.after).split()[:3]


def test_the_same_cases_come_again_and_others_with_another_seed():
    assert editing.colour_edits(5) == editing.colour_edits(5) != editing.colour_edits(5, seed=1)


def test_inversion_comes_back_and_the_nearer_the_more_iterations(bench):
    plain, iterated = (editing.round_trip(bench, 3, steps=12, fixed_point=times) for times in (0, 2))
    assert 30 < plain["mean"] < iterated["mean"] - 5


@pytest.mark.parametrize("masked", [False, True])
def test_an_edit_by_inversion_changes_the_colour_and_keeps_the_rest(bench, masked):
    told = editing.inversion_edits(bench, 4, start=0.4, masked=masked, steps=10, fixed_point=1)
    assert told["all"] >= 0.75 and told["outside"] < 4


def test_with_guidance_only_a_fitted_negative_prompt_comes_back(bench):
    empty, fitted = (editing.guided_round_trip(bench, 1, null_text, steps=10) for null_text in (False, True))
    assert empty["mean"] < 35 < fitted["least"]


def test_more_strength_changes_more_and_keeps_less(bench):
    rows = editing.strengths(bench, 6, values=(0.0, 0.2, 1.0))
    assert [row["strength"] for row in rows] == [0.0, 0.2, 1.0]
    assert rows[0]["changed"] == 0 and rows[0]["kept"] == 1 and rows[2]["changed"] > 0.8
    assert rows[0]["outside"] < rows[1]["outside"] < rows[2]["outside"]


def test_full_strength_ignores_the_picture(bench):
    prompt, empty = bench.prompts(["a red star on a blue background"]), bench.prompts([""])
    made = []
    for level in (0, 200):
        latent = bench.latent(np.full((1, 64, 64, 3), level, np.uint8))
        own = {"positive": prompt, "negative": empty, "steps": 4, "denoise": 1.0}
        made.append(bench.pictures(bench.run("Sampler", latent=latent, **own).latent))
    assert (made[0] == made[1]).all()


def test_what_is_painted_inside_a_mask_is_what_was_asked_and_nothing_moves_outside(bench):
    found = painting.inpainting(bench, 4)
    assert found["outside"] == 0 and found["followed"] >= 0.75 and found["kept"] >= 0.75


def test_what_is_painted_beyond_a_side_leaves_the_picture_alone(bench):
    found = painting.outpainting(bench, "top", 3, steps=10, repeats=1)
    assert found["moved"] == 0 and 0 <= found["median"] < 50 and set(found) >= {"seam", "inside", "weaker", "clean"}
    with pytest.raises(ValueError, match="a picture has the sides left, top, right, bottom, not 'front'"):
        painting.outpainting(bench, "front", 1)
