"""How `tiny` was made: the optimiser, the loop, its resumption, and a checkpoint that loads."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from graphengine.errors import CheckpointError
from graphengine.models import checkpoint
from graphengine.testing import settings
from graphengine.training import autoencoder, denoiser, language
from graphengine.training.evaluate import held_out, training_scenes
from graphengine.training.optimiser import Optimiser, orthogonalise
from graphengine.training.package import write_checkpoint
from graphengine.training.scenes import caption, draw, random_scene
from graphengine.training.tiny import plot_loss
from graphengine.training.trainer import Stage


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return language.write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer")


def test_orthogonalising_brings_the_singular_values_near_one():
    made = orthogonalise(torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(0)))
    values = torch.linalg.svdvals(made.float())
    assert values.min() > 0.5 and values.max() < 1.4


def small_stage(folder, steps, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    return model, Stage("small", {"model": model}, Optimiser([(model, 1.0)], 1e-2), steps, folder, warm_up=2)


def small_loss(model):
    def loss(step):
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(step))
        return (model(x) - x).square().mean()

    return loss


def test_the_loss_falls(tmp_path):
    model, stage = small_stage(tmp_path, 150)
    before = small_loss(model)(1).item()
    stage.run(small_loss(model))
    assert small_loss(model)(1).item() < before / 4


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path):
    whole, stage = small_stage(tmp_path / "whole", 20)
    stage.run(small_loss(whole))
    half, stage = small_stage(tmp_path / "half", 20)

    def interrupted(step):
        if step == 9:
            raise KeyboardInterrupt
        return small_loss(half)(step)

    with pytest.raises(KeyboardInterrupt):
        stage.run(interrupted)
    resumed, stage = small_stage(tmp_path / "half", 20, seed=1)
    assert stage.done == 9
    stage.run(small_loss(resumed))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_log_becomes_a_plot(tmp_path):
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps({"step": i, "loss": 1 / i}) for i in (1, 2, 3)))
    plot_loss(tmp_path / "x.jsonl", tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_every_word_is_one_token_and_any_text_is_some(tokenizer):
    assert [word for word in language.words() if len(tokenizer.tokenize(word)) != 1] == []
    assert tokenizer.tokenize("Zebra über ☂")


def test_case_makes_no_difference(tokenizer):
    assert tokenizer.tokenize("A Red CIRCLE") == tokenizer.tokenize("a red circle")


def test_every_caption_fits(tokenizer):
    random = np.random.default_rng(0)
    longest = max(len(tokenizer(caption(random_scene(random, 0.5, 0.5)))["input_ids"]) for _ in range(500))
    assert longest <= language.MAX_TOKENS


def test_attributes_name_their_classes():
    random = np.random.default_rng(0)
    for _ in range(50):
        numbers = language.attributes(random_scene(random, 0.5, 0.5))
        assert all(0 <= n < len(options) for n, options in zip(numbers, language.ATTRIBUTES.values(), strict=True))


def test_held_out_prompts_are_not_in_the_training_set():
    seen = {caption(scene) for scene in training_scenes()[0]}
    assert not seen & {caption(scene) for scene in held_out("one thing", 50, 1)}


def test_a_few_steps_of_everything_make_a_checkpoint_that_loads(tmp_path, tokenizer):
    random = np.random.default_rng(0)
    scenes = [random_scene(random) for _ in range(8)]
    pictures = np.stack([draw(scene, random) for scene in scenes])
    vae = autoencoder.train(pictures, tmp_path, 5, 2, 1e-3, 0)
    text, _ = language.teach(tokenizer, tmp_path, 2, 4, 1e-3, 0)
    latents = autoencoder.encode(vae, pictures) * vae.config["scaling_factor"]
    stage = denoiser.train(latents, scenes, text, tokenizer, tmp_path, denoiser.Scheme(steps=2, batch=4))
    parts = {"unet": stage.modules["unet"], "vae": vae, "text_encoder": stage.modules["text"]}
    language.write_tokenizer(tmp_path / "tokenizer")
    write_checkpoint(parts, tmp_path / "tokenizer", tmp_path / "models" / "new")
    found = checkpoint.find("new", settings(tmp_path))
    assert found.family == "stable_diffusion" and len(found.digest) == 32


def test_a_checkpoint_that_is_not_there_gets_a_hint(tmp_path):
    with pytest.raises(CheckpointError, match="Did you mean tiny"):
        checkpoint.find("tinny", settings(tmp_path))
