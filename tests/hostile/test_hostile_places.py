"""Links, pipes, folders and shards that lead elsewhere are refused with a sentence."""

import json
import os
import shutil

import pytest
import torch
from attacks import Canary, change, refused, use, weights

from graphengine.models.checkpoint import find
from graphengine.testing import settings


@pytest.mark.parametrize(
    "shard", ["../../secret.safetensors", "/elsewhere/secret.safetensors", "..", "", "a/b.safetensors", 5]
)
def test_an_index_that_names_shards_elsewhere_is_refused(model, tmp_path, shard):
    shutil.copy(weights(model), tmp_path / "secret.safetensors")
    index = model / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    refused(model, match="no shard beside it")


@pytest.mark.parametrize(
    "content", ["[", "[" * 100_000, "[]", '{"weight_map": 5}', '{"weight_map": {"a": ["b"]}}', "{}"]
)
def test_a_damaged_index_is_refused(model, content):
    (model / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(content)
    refused(model)


def test_an_index_that_names_a_pickle_is_refused(model, canary):
    torch.save({"a": Canary(canary)}, model / "unet" / "a.bin")
    index = model / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "a.bin"}}))
    refused(model)


@pytest.mark.parametrize(
    "name",
    ["unet/diffusion_pytorch_model.safetensors", "unet/config.json", "tokenizer/vocab.json", "vae", "tokenizer"],
)
def test_a_link_out_of_the_model_folders_is_refused(model, tmp_path, name):
    secret = tmp_path / "secret"
    shutil.move(model / name, secret)
    (model / name).symlink_to(secret)
    refused(model, match="link that leads out")


def test_a_link_within_the_model_folders_is_followed(model):
    shutil.move(model / "vae", model.parent / "shared")
    (model / "vae").symlink_to("../shared")
    use(model, "vae")


def test_links_without_an_end_are_refused(model):
    shutil.rmtree(model / "vae")
    (model / "vae").symlink_to("vae")
    (model / "unet" / "again").symlink_to("..")
    refused(model)


@pytest.mark.parametrize(
    "name", ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json"]
)
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nothing", "dangling"])
def test_what_is_no_file_where_one_is_expected_is_refused(model, name, kind):
    path = model / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to("not there")
    refused(model)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler", "tokenizer"])
def test_a_file_where_a_folder_is_expected_is_refused(model, part):
    shutil.rmtree(model / part)
    (model / part).write_bytes(b"{}")
    refused(model)


@pytest.mark.parametrize("name", ["unet/config.json", "model_index.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[]", '{"a":' * 5000, "\ufeff{}", '"x"', "{" + " " * 5_000_000 + "}"]
)
def test_a_config_that_is_none_is_refused(model, name, content):
    (model / name).write_text(content)
    refused(model)


# Parts of embedded checkpoints


def test_a_part_may_be_that_of_an_embedded_checkpoint(model):
    before = find("tiny", settings(model.parent.parent)).handles()
    shutil.rmtree(model / "vae")
    change(model / "model_index.json", vae=["graphengine", "tiny"])
    use(model)
    assert find("m", settings(model.parent.parent)).handles()[2].space == before[2].space


@pytest.mark.parametrize("name", ["../../etc", "nothing", "", ".", "tiny/vae", None, ["tiny"], 7])
def test_a_part_of_another_place_is_refused(model, name):
    change(model / "model_index.json", vae=["graphengine", name])
    refused(model, match="embedded checkpoints that have one")


def test_a_part_of_an_embedded_checkpoint_has_one_name(model):
    change(model / "model_index.json", vae=["graphengine"])
    refused(model, match="embedded checkpoints that have one")
