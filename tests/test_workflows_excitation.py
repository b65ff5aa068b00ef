"""Attend and excite: the latent is moved until no word is overlooked, and nothing else is touched."""

import json

import pytest
import torch

from graphengine import GraphError, NodeError
from graphengine.diffusion.noise import NoiseSource
from graphengine.guiding import Excitation
from graphengine.models.attention import heard_by
from graphengine.models.checkpoint import find
from graphengine.models.excitation import Exciter, overlooked
from graphengine.models.family import Prompts
from graphengine.models.memory import ModelMemory
from graphengine.models.words import rows_of, words_of
from graphengine.testing import settings

PROMPT, WORDS = "a red circle by a blue star on a white background", ["circle", "star"]
QUICK = {"count": 2, "steps": 4}


@pytest.fixture
def document(workflows):
    return json.loads((workflows / "attend_and_excite.json").read_text())


def test_the_least_attended_word_is_attended_to_more_after_every_round(tmp_path):
    own = settings(tmp_path)
    memory, (denoiser, encoder, _) = ModelMemory(own), find("tiny", own).handles()
    text = memory.text_encoder(encoder)
    words, tokens = rows_of(text, PROMPT, WORDS), rows_of(text, PROMPT, words_of(PROMPT))
    losses = []
    for rounds in (0, 3, 6):
        wanted = Excitation(tuple(words), tuple(sorted({r for rows in tokens for r in rows})), 100.0, rounds, 1.0, "")
        model = memory.denoiser(denoiser.patched(wanted.patch()))
        prompts = Prompts(text.encode(PROMPT).features)
        exciter = Exciter(wanted, model, prompts, [10.0, 5.0])
        noisy = NoiseSource([1], (8, 8, 8), "cpu", torch.float32)() * 10
        moved = exciter.moving(lambda x, sigma: x)(noisy, torch.tensor(10.0))
        with heard_by(exciter):
            exciter._maps, exciter._plane = [], (8, 8)
            model.denoise(moved, torch.tensor(10.0), prompts)
        losses.append(float(overlooked(torch.stack(exciter._maps).mean(0), wanted)))
    assert losses[0] > losses[1] > losses[2]


def test_a_strength_of_zero_changes_nothing(engine, document):
    made = engine.submit(document, {**QUICK, "strength": 0.0}).result(60)
    assert (made["before"].pixels == made["after"].pixels).all()


def test_the_branch_beside_draws_what_it_draws_alone(engine, document):
    beside = engine.submit(document, QUICK).result(60)
    alone = engine.submit(document, QUICK, targets=["before"]).result(60)
    assert not (beside["before"].pixels == beside["after"].pixels).all()
    assert (beside["before"].pixels == alone["before"].pixels).all()


def test_words_of_another_prompt_than_the_samplers_are_refused(engine, document):
    node = next(name for name, spec in document["nodes"].items() if spec["type"] == "AttendAndExcite")
    asked = document["nodes"][node]["inputs"]["prompt"]["from"].split(".")[0]
    document["nodes"]["other"] = json.loads(json.dumps(document["nodes"][asked]))
    document["nodes"]["other"]["inputs"]["text"] = "a blue star by a red circle and a heart"
    document["nodes"][node]["inputs"]["prompt"] = {"from": "other.conditioning"}
    document["nodes"][node]["inputs"]["words"] = ["heart"]
    with pytest.raises(NodeError, match="Link the conditioning of AttendAndExcite"):
        engine.submit(document, QUICK).result(60)


def test_a_word_that_is_not_in_the_prompt_is_told(engine, document):
    with pytest.raises(NodeError, match="'donkey' does not stand in the prompt"):
        engine.submit(document, {**QUICK, "words": ["donkey"]}).result(60)


def test_no_words_at_all_are_told_before_anything_runs(engine, document):
    with pytest.raises(GraphError, match=r"excite\.words"):
        engine.submit(document, {**QUICK, "words": []}).result(60)


def test_layers_that_are_not_there_are_told(engine, document):
    document["nodes"]["excite"]["inputs"]["layers"] = "cellar"
    with pytest.raises(NodeError, match="no cross-attention in a layer 'cellar'"):
        engine.submit(document, QUICK).result(60)


def test_a_sampler_that_adds_noise_is_refused(engine, document):
    document["nodes"]["after"]["inputs"]["sampler"] = "euler_ancestral"
    with pytest.raises(NodeError, match="one of the samplers euler, heun, ddim"):
        engine.submit(document, QUICK).result(60)


def test_a_thing_that_is_overlooked_comes(engine, document):
    from graphengine.training.checker import read

    texts = {
        "given": "a red circle on a white background",
        "prompt": PROMPT.replace(" by ", " and "),
        "words": ["star"],
    }
    made = engine.submit(document, {**texts, "count": 8}).result(60)
    shown = [
        sum(any(thing.shape == "star" for thing in read(picture).things) for picture in (pixels * 255).astype("uint8"))
        for pixels in (made["before"].pixels[..., :3], made["after"].pixels[..., :3])
    ]
    assert shown[1] >= shown[0] + 4
