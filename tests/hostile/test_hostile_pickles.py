"""Pickles and other code beside or instead of weights are never run."""

import json
import pickle
import zipfile

import pytest
import torch
from attacks import Canary, entry, refused, safetensors, use, weights

from graphengine.errors import CheckpointError
from graphengine.models.checkpoint import find
from graphengine.models.weights import read_header
from graphengine.testing import settings


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_pickle_under_the_name_of_a_safetensors_file_is_refused(model, canary, protocol, part):
    weights(model, part).write_bytes(pickle.dumps(Canary(canary), protocol))
    told = refused(model, match="is a pickle|no safetensors file")
    assert protocol < 2 or "is a pickle" in told


def test_a_zip_of_torch_under_the_name_of_a_safetensors_file_is_refused(model, canary):
    torch.save({"weight": Canary(canary)}, weights(model))
    assert zipfile.is_zipfile(weights(model))
    refused(model, match="is a pickle")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pth", "model.pkl"])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_pickle_instead_of_a_safetensors_file_is_refused(model, canary, name, part):
    weights(model, part).unlink()
    torch.save({"weight": Canary(canary)}, model / part / name)
    refused(model, match="is a pickle")


def test_pickles_beside_what_is_read_are_never_opened(model, canary):
    content = pickle.dumps(Canary(canary))
    for name in ("pytorch_model.bin", "diffusion_pytorch_model.bin", "model.pt", "optimizer.pt", "model.ckpt"):
        for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "."):
            (model / part / name).write_bytes(content)
    for name in ("vocab.pkl", "tokenizer.pickle", "spiece.model", "special_tokens_map.bin"):
        (model / "tokenizer" / name).write_bytes(content)
    use(model)


@pytest.mark.parametrize(
    "name", ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"]
)
def test_a_pickle_in_the_place_of_a_tokenizers_file_is_refused(model, canary, name):
    (model / "tokenizer" / name).write_bytes(pickle.dumps(Canary(canary)))
    refused(model, "text")


@pytest.mark.parametrize("name", ["m.ckpt", "m.pt", "m.bin", "m.safetensors"])
def test_a_pickled_single_file_is_refused(tmp_path, canary, name):
    (tmp_path / "models").mkdir()
    torch.save({"weight": Canary(canary)}, tmp_path / "models" / name)
    with pytest.raises(CheckpointError, match="is a pickle"):
        find(name, settings(tmp_path))


def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path):
    """A length of 640 begins as a pickle of the second protocol does, one of 19,280 as a zip."""
    for length in (0x0280, 0x4B50):
        header = json.dumps({"a": entry()}).ljust(length)
        (tmp_path / "a.safetensors").write_bytes(safetensors(header, bytes(4)))
        assert list(read_header(tmp_path / "a.safetensors")) == ["a"]
