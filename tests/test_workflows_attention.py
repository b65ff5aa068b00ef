"""The workflows that look into the network: where it looks for each word, and what a word's weight does."""

import numpy as np
import pytest

from graphengine import NodeError

PROMPT = "a large red star on the left on a blue background"


def test_the_map_of_a_thing_is_hot_on_the_thing_and_that_of_the_ground_beside_it(engine, workflows):
    document = workflows / "attention_maps.json"
    made = engine.submit(document, {"prompt": PROMPT, "words": ["star", "background"]}).result(60)
    thing = made["picture"].pixels[0, ..., 0] > 0.5
    star, ground = (
        image.pixels[0, ..., 0] - image.pixels[0, ..., 2] for image in made["maps"]
    )  # red is hot, blue cold
    assert star[thing].mean() > star[~thing].mean() + 0.5
    assert ground[thing].mean() < ground[~thing].mean() - 0.15


def test_looking_changes_nothing_of_the_picture(engine, workflows):
    import json

    document = json.loads((workflows / "attention_maps.json").read_text())
    watched = engine.submit(document, {"prompt": PROMPT}).result(60)["picture"].pixels
    plain = document["nodes"]["sample"]
    plain["type"] = "Sampler"
    for name in ("encoder", "words"):
        del plain["inputs"][name]
    document["inputs"] = {"prompt": document["inputs"]["prompt"]}
    document["outputs"] = {"picture": {"from": "decode.image"}}
    document["nodes"] = {
        name: document["nodes"][name] for name in ("load", "prompt", "negative", "canvas", "sample", "decode")
    }
    assert (engine.submit(document, {"prompt": PROMPT}).result(60)["picture"].pixels == watched).all()


def test_a_word_that_is_not_in_the_prompt_is_told(engine, workflows):
    with pytest.raises(NodeError, match="'heart' does not stand in the prompt"):
        engine.submit(workflows / "attention_maps.json", {"prompt": PROMPT, "words": ["heart"]}).result(60)


def test_more_weight_makes_a_colour_stronger(engine, workflows):
    prompts = [f"a (red:{weight}) circle on a blue background" for weight in (1, 2, 3)]
    made = engine.submit(workflows / "prompt_weighting.json", {"prompts": prompts, "seed": 0}).result(60)["pictures"]
    red = [
        float(np.clip(image.pixels[0, 24:40, 24:40, 0] - image.pixels[0, 24:40, 24:40, 1], 0, 1).mean())
        for image in made
    ]
    assert red[0] < red[1] < red[2]


def test_a_weight_of_one_changes_nothing(engine, workflows):
    prompts = ["a (red:1) circle on a blue background", "a red circle on a blue background"]
    first, second = engine.submit(workflows / "prompt_weighting.json", {"prompts": prompts}).result(60)["pictures"]
    assert (first.pixels == second.pixels).all()
