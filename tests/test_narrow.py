"""Denoisers that stay in half precision on a CPU: the same results to the bit, in less memory, patches included."""

import pytest
import torch
from torch import nn

from graphengine.models import narrow, weights
from graphengine.models.checkpoint import find
from graphengine.models.estimate import Part
from graphengine.models.family import Prompts
from graphengine.models.library import BUNDLED
from graphengine.models.memory import ModelMemory
from graphengine.testing import settings
from graphengine.values import Patch

LORA = BUNDLED / "loras" / "tiny-few-step.safetensors"
BUDGET = 64 * 2**20
"""Of which a third is less than tiny's denoiser would take."""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Settings under which tiny is large, and its matrices too."""
    monkeypatch.setattr(weights, "NARROW_FROM", 2**12)
    return settings(tmp_path).model_copy(update={"model_budget": BUDGET})


def drawn(own, *patches):
    memory = ModelMemory(own)
    handle = find("tiny", own).handles()[0]
    for patch in patches:
        handle = handle.patched(patch)
    generator = torch.Generator().manual_seed(0)
    x, words = (torch.randn(shape, generator=generator) for shape in ((2, 8, 8, 8), (2, 32, 128)))
    with torch.no_grad():
        return memory.denoiser(handle).denoise(x * 5, torch.tensor(5.0), Prompts(words)), memory


def layers(memory) -> set[type]:
    (made,) = [part for (handle, _), part in memory._parts.items() if not handle.patches]
    return {type(layer) for layer in made.network.modules()}


def test_a_narrow_denoiser_computes_the_same_to_the_bit(small, tmp_path):
    made, memory = drawn(small)
    assert {narrow.NarrowLinear, narrow.NarrowConv2d} <= layers(memory)
    assert torch.equal(made, drawn(settings(tmp_path))[0])


def test_it_takes_little_more_than_half_of_the_memory(small, tmp_path):
    assert drawn(small)[1].held < 0.6 * drawn(settings(tmp_path))[1].held


def test_a_lora_on_a_narrow_denoiser_is_added_in_full_precision(small, tmp_path):
    patch = Patch("lora", LORA.name, (0.7,), "lora", str(LORA))
    made, memory = drawn(small, patch)
    assert narrow.NarrowLinear in layers(memory)
    assert torch.equal(made, drawn(settings(tmp_path), patch)[0])


def test_its_siblings_do_not_see_a_patch(small):
    memory, handle = ModelMemory(small), find("tiny", small).handles()[0]
    x, sigma, words = torch.ones(1, 8, 8, 8), torch.tensor(5.0), Prompts(torch.ones(1, 32, 128))
    with torch.no_grad():
        before = memory.denoiser(handle).denoise(x, sigma, words)
        patched = memory.denoiser(handle.patched(Patch("lora", LORA.name, (1.0,), "lora", str(LORA))))
        assert not torch.allclose(patched.denoise(x, sigma, words), before, rtol=1e-3)
        assert torch.equal(memory.denoiser(handle).denoise(x, sigma, words), before)


def test_gradients_are_those_of_a_wide_denoiser(small, tmp_path):
    found = []
    for own in (small, settings(tmp_path)):
        x = torch.ones(1, 8, 8, 8, requires_grad=True)
        denoiser = ModelMemory(own).denoiser(find("tiny", own).handles()[0])
        denoiser.denoise(x, torch.tensor(5.0), Prompts(torch.ones(1, 32, 128))).square().sum().backward()
        found.append(x.grad)
    assert torch.equal(*found)


def test_weights_that_the_file_has_in_full_precision_are_plain():
    layer = nn.Sequential(nn.Linear(2048, 1024))
    narrow.widen_as_it_runs(layer, torch.float32)
    assert type(layer[0]) is nn.Linear


@pytest.mark.parametrize(
    ("changed", "expected"),
    [({}, True), ({"offload": "never"}, False), ({"dtype": "bfloat16"}, False), ({"model_budget": 2**40}, False)],
)
def test_only_what_is_large_is_kept_narrow_and_nothing_where_that_was_forbidden(small, changed, expected):
    own = small.model_copy(update=changed)
    assert own.keeps_narrow(Part(find("tiny", own).handles()[0], own).numbers) is expected


def test_the_forecast_knows_of_it(small):
    memory = drawn(small)[1]
    assert Part(find("tiny", small).handles()[0], small).weights == pytest.approx(memory.held, rel=0.01)
