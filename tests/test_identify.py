"""What a file of weights is follows from names and shapes alone."""

import itertools
import json
import re
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest

from graphengine.errors import CheckpointError
from graphengine.models.identify import Identity, compatible, identify
from graphengine.models.weights import TensorInfo, read_header

FIXTURES = sorted(Path(__file__).parent.joinpath("layouts").glob("*.json"))
PUBLISHED = {"sd1_diffusers": 859_520_964, "sdxl_diffusers": 2_567_463_684, "flux_dev_bfl": 11_901_408_320}


def numbers(span: str) -> list[str]:
    if not span.startswith("{"):
        return [span]
    ends = [[int(end) for end in part.split("-")] for part in span[1:-1].split(",")]
    return [str(number) for first, *last in ends for number in range(first, (last or [first])[0] + 1)]


@cache
def load(name: str) -> tuple[dict[str, TensorInfo], dict[str, object]]:
    """The tensors of a fixture, with the lines of equal blocks written out, and what is expected of them."""
    document = json.loads((FIXTURES[0].parent / f"{name}.json").read_text(encoding="utf-8"))
    tensors = {}
    for line, shape in document["tensors"].items():
        pieces = [numbers(piece) for piece in re.split(r"(\{[\d,-]+\})", line)]
        for name in map("".join, itertools.product(*pieces)):
            tensors[name] = TensorInfo("F16", tuple(shape))
    return tensors, document["expected"]


def known(name: str) -> Identity:
    return identify(load(name)[0])


def tensors(*names: str, shape: tuple[int, ...] = (8, 8)) -> dict[str, TensorInfo]:
    return {name: TensorInfo("F32", shape) for name in names}


@pytest.mark.parametrize("name", [path.stem for path in FIXTURES])
def test_a_published_layout_is_told(name):
    found, expected = load(name)
    told = asdict(identify(found))
    assert {key: told[key] for key in expected} == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parameters_are_those_that_were_published(name):
    assert known(name).parameters == PUBLISHED[name]


def test_the_order_of_the_tensors_is_all_the_same():
    for name in ("sd1_checkpoint", "flux_dev_comfyui", "sdxl_lora_kohya"):
        found, _ = load(name)
        assert identify(dict(reversed(found.items()))) == identify(found)


def test_a_files_name_plays_no_role(tmp_path):
    header = {"clip_l": {"dtype": "F16", "shape": [1, 768], "data_offsets": [0, 1536]}}
    text = json.dumps(header).encode()
    told = []
    for name in ("sdxl_base.safetensors", "flux_lora.safetensors"):
        (tmp_path / name).write_bytes(len(text).to_bytes(8, "little") + text + bytes(1536))
        told.append(identify(read_header(tmp_path / name)))
    assert told[0] == told[1]
    assert (told[0].kind, told[0].variant) == ("textual_inversion", "sd1")


def test_numbers_of_four_bits_do_not_hide_a_layout():
    found = dict(load("flux_fill_bfl")[0])
    for name, info in list(found.items()):
        if len(info.shape) == 2:
            found[name] = TensorInfo("U8", (info.numbers // 2, 1))
            found[f"{name}.absmax"] = TensorInfo("F32", (info.numbers // 64,))
    assert identify(found).variant == "flux_fill"


def test_the_formats_of_the_numbers_are_counted():
    found = dict(load("clip_l")[0])
    name = next(iter(found))
    found[name] = TensorInfo("F32", found[name].shape)
    assert identify(found).dtypes == {"F32": 1, "F16": len(found) - 1}


def test_an_unknown_file_is_told_with_what_was_seen():
    with pytest.raises(CheckpointError) as raised:
        identify(tensors("stem.weight", "stem.bias", "trunk.0.weight"))
    assert str(raised.value) == (
        "No known layout has these tensors: stem.weight [8, 8], trunk.0.weight [8, 8] (3 in all)."
    )


def test_an_unknown_file_is_told_with_the_nearest_layout_and_what_it_lacks():
    found = dict(load("flux_dev_bfl")[0])
    found["img_in.weight"] = TensorInfo("F16", (3072, 100))
    with pytest.raises(CheckpointError) as raised:
        identify(found)
    assert "The nearest is denoiser flux (flux_dev) in the bfl layout" in str(raised.value)
    assert "img_in.weight is [3072, 100] instead of [3072, 64]" in str(raised.value)


def test_a_missing_tensor_is_named():
    found = {name: info for name, info in load("sd1_diffusers")[0].items() if name != "conv_out.weight"}
    with pytest.raises(CheckpointError, match=r"denoiser stable_diffusion \(sd1\).*conv_out\.weight is missing"):
        identify(found)


def test_an_adapter_of_no_known_network_is_told():
    with pytest.raises(CheckpointError, match="adapter of no known network: it changes trunk_#_to_q"):
        identify(tensors("trunk.0.to_q.lora_A.weight", "trunk.0.to_q.lora_B.weight"))


def test_an_adapter_that_two_networks_could_have_fits_both():
    layers = [f"double_blocks.{place}.img_attn.proj" for place in range(5)]
    found = tensors(*(f"{layer}.lora_A.weight" for layer in layers), shape=(16, 3072))
    found |= tensors(*(f"{layer}.lora_B.weight" for layer in layers), shape=(3072, 16))
    told = identify(found)
    assert told.variant == "flux_2_klein_4b_or_flux"
    for denoiser in ("flux_dev_bfl", "flux_2_klein_4b_bfl", "chroma_comfyui"):
        compatible(told, known(denoiser))
    with pytest.raises(CheckpointError):
        compatible(told, known("flux_2_dev_bfl"))


def test_a_file_without_tensors_is_told():
    with pytest.raises(CheckpointError, match="holds no tensors"):
        identify({})


@pytest.mark.parametrize("ending", ["weight", "lora_A.weight", "hada_w1_a"])
def test_a_header_of_a_hundred_thousand_tensors_is_refused(ending):
    words = itertools.product("abcdefghij", repeat=5)
    names = [f"{''.join(word)}.{place}.{'x' * 60}.{ending}" for place, word in enumerate(words)]
    with pytest.raises(CheckpointError):
        identify(tensors(*names))


def test_a_model_is_told_among_a_hundred_thousand_other_tensors():
    many = tensors(*(f"other.{place}.weight" for place in range(100_000)))
    assert identify(many | load("sdxl_checkpoint")[0]).variant == "sdxl"


@pytest.mark.parametrize("shape", [(), (0,), (0, 0, 0, 0), (10**30, 10**30), (1,) * 2000])
def test_strange_shapes_are_of_no_known_model(shape):
    for name in ("sd1_checkpoint", "flux_dev_bfl", "clip_l", "sd1_lora_kohya", "sd1_loha", "sdxl_embedding"):
        with pytest.raises(CheckpointError):
            identify({tensor: TensorInfo("F16", shape) for tensor in load(name)[0]})


def test_strange_names_are_shown_short_and_without_control_characters():
    with pytest.raises(CheckpointError) as raised:
        identify(tensors("a\n\x1b[31m" + "b" * 10_000, "", ".", "..", "text_encoders.", "[3]", "lora_unet_"))
    assert len(str(raised.value)) < 1000
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("adapter", "denoiser"),
    [
        ("sd1_lora_kohya", "sd1_checkpoint"),
        ("sd1_lora_kohya", "sd1_inpaint_diffusers"),
        ("sd1_loha", "sd1_lcm_diffusers"),
        ("sd2_lora_kohya", "sd2_diffusers"),
        ("sdxl_lora_peft", "sdxl_checkpoint"),
        ("sdxl_lora_self_attention", "sdxl_inpaint_diffusers"),
        ("sdxl_lora_peft", "kolors_diffusers"),
        ("sd1_controlnet_ldm", "sd1_diffusers"),
        ("sdxl_controlnet_diffusers", "sdxl_ldm_unet"),
        ("sd1_embedding", "sd1_checkpoint"),
        ("sd1_motion_module", "sd1_checkpoint"),
        ("sdxl_ip_adapter", "sdxl_diffusers"),
        ("flux_lora_kohya", "flux_dev_comfyui"),
        ("flux_lora_peft", "flux_schnell_diffusers"),
        ("flux_lora_comfyui", "chroma_comfyui"),
        ("flux_2_klein_4b_lora", "flux_2_klein_4b_diffusers"),
        ("wan_14b_lora_peft", "wan_2_2_i2v_14b_original"),
        ("qwen_image_lora_peft", "qwen_image_diffusers"),
        ("z_image_lora_peft", "z_image_original"),
        ("sd35_large_lora_peft", "sd35_large_original"),
        ("ltx_video_lora_peft", "ltx_video_2b_diffusers"),
    ],
)
def test_an_adapter_of_the_family_is_accepted(adapter, denoiser):
    compatible(known(adapter), known(denoiser))


@pytest.mark.parametrize(
    ("adapter", "denoiser"),
    [
        ("sd1_lora_kohya", "sd2_diffusers"),
        ("sd1_lora_kohya", "sdxl_checkpoint"),
        ("sdxl_lora_kohya", "sdxl_refiner_diffusers"),
        ("sdxl_lora_peft", "flux_dev_bfl"),
        ("sd1_controlnet_diffusers", "sdxl_diffusers"),
        ("sdxl_controlnet_ldm", "kolors_diffusers"),
        ("sd1_ip_adapter", "sdxl_diffusers"),
        ("sd1_motion_module", "sdxl_diffusers"),
        ("flux_lora_kohya", "chroma_diffusers"),
        ("flux_lora_peft", "flux_2_dev_diffusers"),
        ("flux_2_klein_4b_lora", "flux_2_dev_bfl"),
        ("wan_14b_lora_peft", "wan_t2v_1_3b_original"),
        ("sd3_medium_lora_peft", "sd35_large_diffusers"),
        ("hunyuan_video_lora_peft", "flux_dev_diffusers"),
    ],
)
def test_an_adapter_of_another_family_is_refused(adapter, denoiser):
    with pytest.raises(CheckpointError, match=r"^This \w+ was made for .+, and the denoiser is .+ do not fit\.$"):
        compatible(known(adapter), known(denoiser))


def test_a_refusal_says_what_both_are():
    with pytest.raises(CheckpointError) as raised:
        compatible(known("sd1_lora_kohya"), known("sdxl_checkpoint"))
    assert str(raised.value) == (
        "This lora was made for stable_diffusion sd1 (width 768), "
        "and the denoiser is stable_diffusion_xl sdxl (width 2048): their layers do not fit."
    )


def test_only_adapters_can_be_put_on_a_denoiser():
    with pytest.raises(CheckpointError, match="nothing that can be put on a denoiser"):
        compatible(known("kl_4_vae"), known("sd1_checkpoint"))
    with pytest.raises(CheckpointError, match="is no denoiser"):
        compatible(known("sd1_lora_kohya"), known("clip_l"))
