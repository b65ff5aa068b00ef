"""Scores by a CLIP: equal to transformers' own, the best picture chosen by them, and what is refused."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pillow
from transformers.models.clip.configuration_clip import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPModel, CLIPVisionModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from graphengine import Engine, GraphError, Image, NodeError
from graphengine.models.clip_score import TOKENIZER
from graphengine.testing import settings

SIZE, PROMPT = 32, "a red circle on a blue background"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A small random CLIP in a model folder, and the folder."""
    folder = tmp_path_factory.mktemp("models")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 49408, "eos_token_id": 49407}
    vision = sizes | {"image_size": SIZE, "patch_size": 8}
    torch.manual_seed(1)
    model: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    model.save_pretrained(folder / "clip_vision" / "small")
    CLIPVisionModelWithProjection(model.config.vision_config).save_pretrained(folder / "clip_vision" / "eyes")
    return model, folder


@pytest.fixture(scope="module")
def engine(clip, tmp_path_factory):
    own = settings(tmp_path_factory.mktemp("scores")).model_copy(update={"model_folders": (clip[1],)})
    with Engine(settings=own) as engine:
        yield engine


GIVEN = {"checkpoint": "tiny", "clip": "small", "width": 64, "height": 64, "steps": 2, "count": 3}


def scored(engine, **inputs):
    nodes = {
        "clip": {"type": "LoadCLIP", "inputs": {"clip": inputs.pop("clip", "small")}},
        "draw": {"type": "DrawScenes", "inputs": {"count": 3, "seed": 1}},
        "score": {
            "type": "CLIPScore",
            "inputs": {"clip": {"from": "clip.clip"}, "image": {"from": "draw.image"}} | inputs,
        },
    }
    outputs = {name: {"from": f"{node}.{name}"} for node, name in (("score", "scores"), ("draw", "image"))}
    return engine.submit({"graphengine": 1, "name": "scored", "outputs": outputs, "nodes": nodes}).result(60)


def test_the_scores_are_those_of_transformers(engine, clip):
    prompts = [PROMPT, "a star", "a green ring above a heart"]
    made = scored(engine, prompts=prompts)
    pixels = CLIPImageProcessorPil(size=SIZE, crop_size=SIZE)(made["image"].pil(), return_tensors="pt")["pixel_values"]
    words = CLIPTokenizer.from_pretrained(TOKENIZER)(prompts, padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        told = clip[0](pixel_values=pixels, **words)
    wanted = 100 * (told.text_embeds * told.image_embeds).sum(-1).clamp(min=0)
    assert np.allclose(made["scores"], wanted.tolist(), atol=1e-3)
    assert len(set(made["scores"])) == 3


def test_one_prompt_goes_for_all_pictures(engine):
    assert scored(engine, prompts=[PROMPT])["scores"] == scored(engine, prompts=[PROMPT] * 3)["scores"]


def test_a_prompt_longer_than_the_model_reads_is_scored_by_its_beginning(engine):
    long = " ".join(["circle"] * 90)
    assert scored(engine, prompts=[long])["scores"] == scored(engine, prompts=[f"{long} star"])["scores"]


def test_the_workflow_keeps_the_picture_with_the_best_score(engine, workflows):
    document = json.loads((workflows / "clip_score.json").read_text())
    document["outputs"]["every"] = {"from": "decode.image"}
    made = engine.submit(document, GIVEN).result(100)
    best = int(np.argmax(made["scores"]))
    assert made["score"] == made["scores"][best]
    assert np.array_equal(made["image"].pixels, made["every"].pixels[best : best + 1])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("smal", "Did you mean small"),
        ("eyes", "eyes is a CLIPVisionModelWithProjection; expected a CLIPModel"),
        ("../small", "small"),
    ],
)
def test_what_is_no_clip_is_refused_before_anything_runs(engine, name, told):
    with pytest.raises(GraphError, match=told):
        scored(engine, clip=name, prompts=[PROMPT])


def test_prompts_that_do_not_go_with_the_pictures_are_refused(engine):
    with pytest.raises(NodeError, match="2 prompts for 3 pictures"):
        scored(engine, prompts=[PROMPT, PROMPT])


@pytest.mark.parametrize("change", [{"projection_dim": 8}, {"vision_config": {"image_size": -1}}])
def test_a_config_that_does_not_fit_the_weights_is_refused_with_a_sentence(engine, clip, change):
    folder = clip[1] / "clip_vision"
    shutil.copytree(folder / "small", folder / "bad", dirs_exist_ok=True)
    path = folder / "bad" / "config.json"
    document = json.loads((folder / "small" / "config.json").read_text())
    for key, value in change.items():
        document[key] = document[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(document))
    with pytest.raises(NodeError, match="bad"):
        scored(engine, clip="bad", prompts=[PROMPT])


def test_pictures_of_any_shape_are_read_by_their_middle():
    from graphengine.models.ip_adapter_reading import prepared

    wide = pillow.new("RGB", (64, 32), "blue")
    wide.paste("red", (16, 0, 48, 32))
    assert np.ptp(prepared(wide, SIZE)[0]) < 0.5
    assert Image(np.zeros((1, 4, 8, 3), np.float32)).size == (8, 4)
