"""Weights that were cut, flipped, swapped or changed under way are refused with a sentence."""

import json
import math
import os
import pickle
import shutil
from collections.abc import Callable

import pytest
import torch
from attacks import TINY, Canary, Tensors, flip, refused, use, weights
from safetensors.torch import load_file, save_file

from graphengine.errors import CheckpointError
from graphengine.models.checkpoint import find
from graphengine.models.memory import ModelMemory
from graphengine.models.source import Source
from graphengine.testing import settings


def cases_of_truncation(size: int) -> list[int]:
    with weights(TINY, "vae").open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    return [0, 1, 7, 8, 9, 100, header - 1, header, header + 1, size // 3, size // 2, size - 4, size - 1]


def test_a_file_that_was_cut_anywhere_is_refused(model):
    path = weights(model, "vae")
    for size in sorted(cases_of_truncation(path.stat().st_size), reverse=True):
        os.truncate(path, size)
        refused(model, "vae", match="truncated|missing|no safetensors|damaged")


def test_bytes_after_the_end_are_refused(model):
    with weights(model, "vae").open("ab") as file:
        file.write(b"\0")
    refused(model, match="too many")


def test_flipped_bits_are_found_by_the_checksums(model):
    shutil.copy(TINY / "checksums.json", model)
    path = weights(model, "vae")
    size = path.stat().st_size
    for place in (9, 1000, size // 2, size - 1):
        flip(path, place, 3)
        refused(model, match="checksum|damaged|truncated")
        flip(path, place, 3)
    use(model, "vae")


def test_flipped_bits_without_checksums_crash_nothing(model):
    path = weights(model, "vae")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    kept = 0
    for place in [*range(8), *range(8, 8 + length, length // 30)]:
        flip(path, place, place % 7)
        try:
            use(model, "vae")
            kept += 1
        except CheckpointError as error:
            assert len(str(error)) > 10
        flip(path, place, place % 7)
    assert kept < 10
    flip(path, 8 + length + 1003, 6)
    use(model, "vae")


@pytest.mark.parametrize(
    "sums",
    [
        {"unet/diffusion_pytorch_model.safetensors": "0" * 64},
        {"unet/diffusion_pytorch_model.safetensors": None},
        {"unet/diffusion_pytorch_model.safetensors": ["os"]},
        {"unet/diffusion_pytorch_model.safetensors": {"__class__": "os"}},
    ],
)
def test_checksums_that_lie_are_told(model, sums):
    (model / "checksums.json").write_text(json.dumps(sums))
    refused(model)


def test_checksums_of_files_elsewhere_are_not_looked_at(model):
    (model / "checksums.json").write_text(json.dumps({"../../../etc/passwd": "0", "/dev/zero": "0", "": "x"}))
    use(model, "vae")


def first(tensors: Tensors) -> str:
    return next(name for name in sorted(tensors) if tensors[name].ndim > 1)


CHANGES: dict[str, Callable[[Tensors], Tensors]] = {
    "whole numbers": lambda t: {name: tensor.to(torch.int32) for name, tensor in t.items()},
    "one of bytes": lambda t: t | {first(t): t[first(t)].to(torch.uint8)},
    "truths": lambda t: t | {first(t): t[first(t)].bool()},
    "wrong shape": lambda t: t | {first(t): t[first(t)][:1].clone()},
    "one side more": lambda t: t | {first(t): t[first(t)][None].clone()},
    "all of one number": lambda t: {name: torch.zeros(1) for name in t},
    "one missing": lambda t: {name: tensor for name, tensor in t.items() if name != first(t)},
    "most missing": lambda t: {first(t): t[first(t)]},
    "none": lambda t: {"": torch.zeros(0)},
    "another architecture": lambda t: {"blocks.0.attn.qkv.weight": torch.zeros(8, 8)},
}


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("kind", CHANGES)
def test_weights_that_do_not_fit_are_refused(model, part, kind):
    save_file(CHANGES[kind](load_file(weights(model, part))), weights(model, part))
    refused(model, "text" if part == "text_encoder" else part, match="does not fit|damaged")


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_tensors_beyond_those_of_the_network_are_refused(model, part):
    more = {"__class__": torch.zeros(1), "evil.weight": torch.zeros(4)}
    save_file(load_file(weights(model, part)) | more, weights(model, part))
    refused(model, part, match="does not fit")


def test_weights_of_another_part_are_refused(model):
    shutil.copy(weights(model, "vae"), weights(model, "unet"))
    refused(model, "unet", match="does not fit")


def test_numbers_that_are_none_make_no_crash(model):
    tensors = {name: torch.full_like(tensor, math.nan) for name, tensor in load_file(weights(model, "vae")).items()}
    save_file(tensors, weights(model, "vae"))
    use(model, "vae")


def test_a_file_that_changes_while_it_is_loaded_fails_the_run(model, monkeypatch):
    place = settings(model.parent.parent)
    vae = find("m", place).handles()[2]
    loaded = Source.tensors

    def changing(self: Source, part: str, dtype: torch.dtype) -> Tensors:
        made = loaded(self, part, dtype)
        flip(weights(model, "vae"), weights(model, "vae").stat().st_size - 2)
        return made

    monkeypatch.setattr(Source, "tensors", changing)
    with pytest.raises(CheckpointError, match="was changed while the run went on"):
        ModelMemory(place).vae(vae)


@pytest.mark.parametrize("harm", ["change", "cut", "remove", "pickle"])
def test_a_file_that_changes_after_it_was_found_fails_the_run(model, canary, harm):
    place = settings(model.parent.parent)
    vae = find("m", place).handles()[2]
    path = weights(model, "vae")
    if harm == "change":
        flip(path, path.stat().st_size - 2)
    elif harm == "cut":
        os.truncate(path, 1000)
    elif harm == "pickle":
        path.write_bytes(pickle.dumps(Canary(canary)))
    else:
        shutil.rmtree(model)
    with pytest.raises(CheckpointError):
        ModelMemory(place).vae(vae)
