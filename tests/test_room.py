"""Copies of tensors in memory that was had in one piece."""

import pytest
import torch

from graphengine.models import room


@pytest.fixture(params=["one piece", "one each"])
def pieces(request, monkeypatch):
    """Small tensors are copied into one piece of memory as well, or the system has none to give."""
    monkeypatch.setattr(room, "FROM", 0)
    if request.param == "one each":
        monkeypatch.setattr(room, "POPULATE_WRITE", 12345)  # which no system knows


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(8, 3, 3, 4, generator=generator).half().permute(0, 3, 1, 2)
    return {"plane": plane, "one": torch.tensor(2.5).half(), "none": torch.zeros(0, 4), "ids": torch.arange(5)}


def test_the_numbers_are_those_of_the_tensors(pieces):
    formats = {"plane": torch.float32, "one": torch.float64, "none": torch.float16}
    made = room.copied(tensors(), formats)
    for name, tensor in tensors().items():
        assert made[name].dtype == formats.get(name, tensor.dtype)
        assert torch.equal(made[name], tensor.to(made[name].dtype))


def test_what_is_not_named_is_not_copied(pieces):
    given = tensors()
    assert room.copied(given, {"one": torch.float32})["ids"] is given["ids"]


def test_a_copy_stays_when_the_others_have_gone(pieces):
    one = room.copied(tensors(), dict.fromkeys(("plane", "one"), torch.float32))["one"]
    assert one.item() == 2.5


def test_copies_do_not_share_numbers(pieces):
    given = tensors()
    made = room.copied(given, dict.fromkeys(given, torch.float32))
    made["plane"].fill_(7)
    assert made["one"].item() == 2.5 and torch.equal(made["ids"], given["ids"].float())
    assert torch.equal(given["plane"], tensors()["plane"])
