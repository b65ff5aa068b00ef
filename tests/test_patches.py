"""LoRA, clip skip and FreeU: what they change, and that nobody else sees it."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_identify import load

import graphengine
from graphengine import Engine, NodeError
from graphengine.errors import CheckpointError
from graphengine.models import lora
from graphengine.models.checkpoint import check_fits, find
from graphengine.models.memory import ModelMemory
from graphengine.models.variant import variant
from graphengine.testing import settings
from graphengine.values import Denoiser, Patch

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
TEXT_LAYER = "encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    return ModelMemory(settings(tmp_path_factory.mktemp("memory")))


@pytest.fixture(scope="module")
def handles(tmp_path_factory):
    return find("tiny", settings(tmp_path_factory.mktemp("handles"))).handles()


def halves(shape: tuple[int, ...], rank: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *shape[1:], generator=generator)
    return down, torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator)


def kohya(path: Path, shape: tuple[int, ...], layer: str = LAYER, start: str = "lora_unet_", seed: int = 0) -> Path:
    down, up = halves(shape, seed=seed)
    name = start + layer.replace(".", "_")
    save_file(
        {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}, path
    )
    return path


def patch(path: Path, strength: float = 1.0) -> Patch:
    return Patch("lora", path.name, (strength,), path.name, str(path))


def weight(adapter, layer: str = LAYER) -> torch.Tensor:
    return adapter.network.get_submodule(layer).weight


def test_a_lora_adds_the_product_of_its_halves_times_strength_and_alpha_by_rank(memory, handles, tmp_path):
    plain = memory.denoiser(handles[0])
    shape = tuple(weight(plain).shape)
    made = variant(plain, (patch(kohya(tmp_path / "a.safetensors", shape), 0.5),))
    down, up = halves(shape)
    assert torch.allclose(weight(made), weight(plain) + 0.5 * 0.5 * up @ down)


def test_both_ways_of_naming_say_the_same(memory, handles, tmp_path):
    plain = memory.denoiser(handles[0])
    shape = tuple(weight(plain).shape)
    down, up = halves(shape)
    save_file(
        {f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up * 0.5}, tmp_path / "b.safetensors"
    )
    first = variant(plain, (patch(kohya(tmp_path / "a.safetensors", shape)),))
    second = variant(plain, (patch(tmp_path / "b.safetensors"),))
    assert torch.allclose(weight(first), weight(second))


def test_the_plain_network_is_not_touched_and_shares_what_is_not_changed(memory, handles, tmp_path):
    plain = memory.denoiser(handles[0])
    before = {name: tensor.clone() for name, tensor in plain.network.state_dict().items()}
    made = variant(plain, (patch(kohya(tmp_path / "a.safetensors", tuple(weight(plain).shape))),))
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.network.state_dict().items())
    assert made.network.conv_in.weight is plain.network.conv_in.weight
    assert made.network is not plain.network


def test_the_order_of_loras_plays_no_role(memory, handles, tmp_path):
    plain = memory.denoiser(handles[0])
    shape = tuple(weight(plain).shape)
    one, two = (patch(kohya(tmp_path / f"{i}.safetensors", shape, seed=i), 0.1 + i) for i in range(2))
    assert torch.equal(weight(variant(plain, (one, two))), weight(variant(plain, (two, one))))
    assert handles[0].patched(one).patched(two) == handles[0].patched(two).patched(one)


def test_a_lora_can_change_the_text_encoder(memory, handles, tmp_path):
    plain = memory.text_encoder(handles[1])
    shape = tuple(plain._encoder.network.get_submodule(TEXT_LAYER).weight.shape)
    path = kohya(tmp_path / "t.safetensors", shape, TEXT_LAYER, "lora_te_text_model_")
    made = variant(plain, (patch(path),))
    assert not torch.equal(made.encode("a red star").features, plain.encode("a red star").features)


def test_a_lora_for_another_model_is_refused_with_a_sentence(memory, handles, tmp_path):
    plain = memory.denoiser(handles[0])
    other = patch(kohya(tmp_path / "o.safetensors", (8, 8), "down_blocks.9.attentions.0.proj"))
    with pytest.raises(CheckpointError, match="made for another family"):
        variant(plain, (other,))
    wide = patch(kohya(tmp_path / "w.safetensors", (64, 2048)))
    with pytest.raises(CheckpointError, match="made for another family"):
        variant(plain, (wide,))


@pytest.mark.parametrize("name", ["x.hada_w1_a", "x.lokr_w1", "x.dora_scale"])
def test_relatives_of_lora_are_refused_by_name(tmp_path, name):
    save_file({name: torch.zeros(2, 2)}, tmp_path / "r.safetensors")
    with pytest.raises(CheckpointError, match="not a plain LoRA"):
        lora.read(tmp_path / "r.safetensors")


def test_a_file_without_pairs_is_no_lora(tmp_path):
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "r.safetensors")
    with pytest.raises(CheckpointError, match="is no LoRA"):
        lora.read(tmp_path / "r.safetensors")


def test_clip_skip_reads_an_earlier_layer(memory, handles):
    plain = memory.text_encoder(handles[1])
    skipped = memory.text_encoder(handles[1].patched(Patch("clip_skip", "1", (1.0,)))).encode("a red star").features
    network = plain._encoder.network
    states = plain._encoder.run(plain._encoder.tokens("a red star")[0]).hidden_states
    assert torch.equal(skipped, network.final_layer_norm(states[-2]))
    assert not torch.equal(skipped, plain.encode("a red star").features)


def test_a_branch_beside_a_patched_one_draws_bit_for_bit_what_it_draws_alone(tmp_path):
    model = tmp_path / "models"
    (model / "loras").mkdir(parents=True)
    own = settings(tmp_path).model_copy(update={"model_folders": (model,)})
    plain = ModelMemory(own).denoiser(find("tiny", own).handles()[0])
    kohya(model / "loras" / "a.safetensors", tuple(weight(plain).shape))

    def branch(name: str, denoiser: str) -> dict:
        link = {"from": "prompt.conditioning"}
        inputs = {"denoiser": {"from": denoiser}, "positive": link, "latent": {"from": "empty.latent"}}
        return {name: {"type": "Sampler", "inputs": inputs | {"guidance": 1.0, "steps": 2}}}

    nodes = {
        "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "tiny"}},
        "prompt": {"type": "EncodeText", "inputs": {"encoder": {"from": "load.text_encoder"}, "text": "a red star"}},
        "empty": {"type": "EmptyLatent", "inputs": {"vae": {"from": "load.vae"}}},
        **branch("plain", "load.denoiser"),
    }
    patched = {
        "lora": {
            "type": "LoadLora",
            "inputs": {
                "denoiser": {"from": "load.denoiser"},
                "text_encoder": {"from": "load.text_encoder"},
                "lora": "a.safetensors",
            },
        },
        **branch("changed", "lora.denoiser"),
        "free": {"type": "FreeU", "inputs": {"denoiser": {"from": "load.denoiser"}}},
        **branch("freed", "free.denoiser"),
    }

    def run(extra: dict) -> dict:
        made = {"graphengine": 1, "name": "branches", "nodes": patched | nodes if extra else nodes}
        made["outputs"] = {n: {"from": f"{n}.latent"} for n in made["nodes"] if n in ("plain", "changed", "freed")}
        with Engine(settings=own, cached=False) as engine:
            return {n: latent.samples for n, latent in engine.submit(made).result().items()}

    alone, together = run({}), run(patched)
    assert torch.equal(alone["plain"], together["plain"])
    assert not torch.equal(together["plain"], together["changed"])
    assert not torch.equal(together["plain"], together["freed"])


def test_a_lora_that_is_not_there_is_told_with_the_nearest_name(tmp_path):
    (tmp_path / "loras").mkdir()
    save_file({"w": torch.zeros(1)}, tmp_path / "loras" / "style.safetensors")
    own = settings(tmp_path).model_copy(update={"model_folders": (tmp_path,)})
    handles = {"denoiser": {"from": "load.denoiser"}, "text_encoder": {"from": "load.text_encoder"}}
    nodes = {
        "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": "tiny"}},
        "lora": {"type": "LoadLora", "inputs": handles | {"lora": "stile.safetensors"}},
    }
    with (
        Engine(settings=own) as engine,
        pytest.raises((NodeError, graphengine.GraphError), match=r"style\.safetensors"),
    ):
        engine.submit({"graphengine": 1, "name": "w", "nodes": nodes}).result()


def header_alone(path: Path, layout: str) -> Path:
    """A file with the names and shapes of a published layout, and a hole where the numbers would be."""
    place, header = 0, {}
    for name, info in load(layout)[0].items():
        header[name] = {"dtype": "F16", "shape": info.shape, "data_offsets": [place, place + 2 * info.numbers]}
        place += 2 * info.numbers
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + place)
    return path


def test_a_lora_of_another_family_is_refused_before_any_weights_are_read(tmp_path):
    model = header_alone(tmp_path / "model.safetensors", "sdxl_checkpoint")
    denoiser = Denoiser("model", "digest", "stable_diffusion_xl", str(model))
    check_fits(header_alone(tmp_path / "right.safetensors", "sdxl_lora_kohya"), denoiser)
    with pytest.raises(
        CheckpointError, match=r"wrong\.safetensors does not go with model.*made for stable_diffusion sd1"
    ):
        check_fits(header_alone(tmp_path / "wrong.safetensors", "sd1_lora_kohya"), denoiser)
