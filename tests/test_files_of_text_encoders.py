"""Text encoders in files of their own, in one or several, in whole checkpoints and in GGUF."""

import json
import os
import shutil

import gguf
import pytest
import torch
from families.harness import PROMPT, library
from families.vocabulary import t5_encoder, t5_tokenizer
from original_files import build, lively, original, save
from test_gguf import packed, write
from test_identify import load

from graphengine import Engine
from graphengine.errors import CheckpointError
from graphengine.models import alone, checkpoint
from graphengine.models.files_source import HERE
from graphengine.models.identify import matches, rows
from graphengine.models.memory import ModelMemory
from graphengine.models.original_names import renamed_shapes, table_of
from graphengine.models.whole_files import ENCODERS, whole_source
from graphengine.testing import settings
from graphengine.values import TextEncoder


def clip(width):
    """A CLIP text encoder of two layers and all of CLIP's words, which share a few rows of numbers."""
    transformers = library("transformers")
    sizes = {"hidden_size": width, "projection_dim": width, "intermediate_size": 64, "num_attention_heads": width // 64}
    acts = {"hidden_act": "quick_gelu" if width == 768 else "gelu"}
    words = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}
    config = transformers.CLIPTextConfig(num_hidden_layers=2, **sizes, **acts, **words)
    with torch.device("meta"):
        made = transformers.CLIPTextModelWithProjection(config)
    generator = torch.Generator().manual_seed(width)
    tensors = {}
    for name, tensor in made.state_dict().items():
        rows = min(tensor.shape[0], 49)
        some = torch.randn((rows, *tensor.shape[1:]), generator=generator) * 0.1
        tensors[name] = some.repeat(-(-tensor.shape[0] // rows), *[1] * (tensor.ndim - 1))[: tensor.shape[0]].half()
    made.load_state_dict(tensors, assign=True)
    return made


def t5():
    return lively(t5_encoder(4096, d_kv=32, d_ff=64, relative_attention_max_distance=128)).half()


def with_texts(folder, encoders, files, padded=()):
    """Put text encoders and their tokenizers into a checkpoint's folder, with the same weights as in the files."""
    for (part, encoder), file in zip(encoders.items(), files, strict=True):
        encoder.config.architectures = [type(encoder).__name__]
        encoder.config.save_pretrained(folder / part)
        (folder / part / "model.safetensors").unlink()
        os.link(file, folder / part / "model.safetensors")
        words = folder / part.replace("text_encoder", "tokenizer")
        if part == max(encoders):
            t5_tokenizer().save_pretrained(words)
            continue
        shutil.copytree(HERE / "tokenizers" / "clip", words)
        if part in padded:
            config = json.loads((words / "tokenizer_config.json").read_text())
            (words / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "!"}))


def below(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Model folders with FLUX and SD3 as folders, as a whole file, and as files of their text encoders."""
    folder = tmp_path_factory.mktemp("texts")
    models = folder / "models"
    small, big, words = clip(768), clip(1280), t5()
    (models / "text_encoders").mkdir(parents=True)
    texts = {"clip_l": small.state_dict(), "clip_g": big.state_dict(), "t5xxl": words.state_dict()}
    texts["t5xxl"].pop("encoder.embed_tokens.weight", None)
    files = {name: models / "text_encoders" / f"{name}.safetensors" for name in texts}
    for name, tensors in texts.items():
        save(tensors, files[name])
    build("flux_dev", models / "flux")
    with_texts(models / "flux", {"text_encoder": small, "text_encoder_2": words}, [files["clip_l"], files["t5xxl"]])
    config = json.loads((models / "flux" / "text_encoder" / "config.json").read_text())
    (models / "flux" / "text_encoder" / "config.json").write_text(
        json.dumps(config | {"architectures": ["CLIPTextModel"]})
    )
    network = build("sd3", models / "sd3")
    encoders = {"text_encoder": small, "text_encoder_2": big, "text_encoder_3": words}
    with_texts(models / "sd3", encoders, files.values(), ("text_encoder_2",))
    t5_tokenizer().save_pretrained(models / "tokenizers" / "t5")
    vae = {"decoder.conv_in.weight": torch.zeros(512, 16, 3, 3), "encoder.down.0.block.0.conv1.weight": torch.zeros(1)}
    vae |= {"decoder.mid.block_1.conv1.weight": torch.zeros(1)}
    whole = below("model.diffusion_model.", original(network.state_dict(), "stable_diffusion_3", "original"))
    whole |= below("first_stage_model.", vae)
    (models / "checkpoints").mkdir()
    for name, tensors in texts.items():
        whole |= below(f"text_encoders.{name}.transformer.", tensors)
    save(whole, models / "checkpoints" / "whole.safetensors")
    return folder


@pytest.fixture
def own(place):
    return settings(place)


def encoded(handle, own):
    found = ModelMemory(own).text_encoder(handle).encode(PROMPT)
    return [found.features, *found.extras.values()]


def test_a_whole_file_draws_bit_for_bit_what_its_folder_draws(own):
    made = []
    for name in ("sd3", "whole.safetensors"):
        nodes = {
            "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": name}},
            "text": {"type": "EncodeText", "inputs": {"encoder": {"from": "load.text_encoder"}, "text": PROMPT}},
            "empty": {"type": "EmptyLatent", "inputs": {"vae": {"from": "load.vae"}, "width": 64, "height": 96}},
            "draw": {
                "type": "Sampler",
                "inputs": {
                    "denoiser": {"from": "load.denoiser"},
                    "positive": {"from": "text.conditioning"},
                    "latent": {"from": "empty.latent"},
                    "steps": 2,
                    "guidance": 1.0,
                },
            },
        }
        workflow = {"graphengine": 1, "name": "w", "nodes": nodes, "outputs": {"latent": {"from": "draw.latent"}}}
        with Engine(settings=own, cached=False) as engine:
            made.append(engine.submit(workflow).result()["latent"].samples)
    assert torch.equal(*made)


def test_two_files_encode_as_the_folder_that_they_are_from(own):
    handle = alone.find("clip_l.safetensors", "text_encoder", own, "flux_dev", ("t5xxl.safetensors",))
    _, folder, _ = checkpoint.find("flux", own).handles()
    assert isinstance(handle, TextEncoder) and handle.kind == folder.kind == "flux"
    assert all(torch.equal(*pair) for pair in zip(encoded(handle, own), encoded(folder, own), strict=True))


def test_three_files_are_put_into_the_order_that_their_model_has_them_in(own):
    more = ("t5xxl.safetensors", "clip_l.safetensors")
    handle = alone.find("clip_g.safetensors", "text_encoder", own, "auto", more)
    source = alone.source_of(handle)
    assert isinstance(handle, TextEncoder) and handle.kind == "sd3"
    assert [source.files(part)[0].stem for part in source.texts] == ["clip_l", "clip_g", "t5xxl"]
    assert source.tokenizer_options("tokenizer_2") == {"pad_token": "!"}


def test_the_order_of_the_files_and_where_they_lie_make_no_other_digest(own):
    first = alone.find("clip_l.safetensors", "text_encoder", own, "flux_dev", ("t5xxl.safetensors",))
    second = alone.find("t5xxl.safetensors", "text_encoder", own, "flux_dev", ("clip_l.safetensors",))
    assert first.digest == second.digest
    assert (
        first.digest
        != alone.find("clip_l.safetensors", "text_encoder", own, "flux_schnell", ("t5xxl.safetensors",)).digest
    )


def test_encoders_that_several_models_have_ask_whose_they_are(own):
    with pytest.raises(CheckpointError, match=r"as chroma, pixart_alpha, pixart_sigma have them; say which in `kind`"):
        alone.find("t5xxl.safetensors", "text_encoder", own)


def test_encoders_that_are_not_all_there_are_refused_with_those_that_are_wanted(own):
    with pytest.raises(CheckpointError, match=r"flux_dev has clip_l, t5_xxl\. Give the files"):
        alone.find("t5xxl.safetensors", "text_encoder", own, "flux_dev")


def test_a_kind_that_there_is_not_is_told_with_the_nearest(own):
    with pytest.raises(CheckpointError, match="Did you mean chroma"):
        alone.find("t5xxl.safetensors", "text_encoder", own, "croma")


def test_scaled_numbers_of_eight_bits_are_refused_and_not_taken_as_they_are(own, place):
    path = place / "models" / "text_encoders" / "scaled.safetensors"
    tensors = {name: tensor for name, tensor in t5().state_dict().items() if "embed_tokens" not in name}
    save(tensors | {"scaled_fp8": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"scaled numbers of few bits \(scaled_fp8\)"):
        alone.find("scaled.safetensors", "text_encoder", own, "chroma")


def test_a_tokenizer_that_is_missing_is_told_with_its_place(own, tmp_path):
    other = settings(tmp_path)
    (tmp_path / "models").mkdir()
    shutil.copy(own.model_folders[0] / "text_encoders" / "t5xxl.safetensors", tmp_path / "models")
    with pytest.raises(CheckpointError, match=r"put the folder of its tokenizer .* as tokenizers/t5"):
        alone.find("t5xxl.safetensors", "text_encoder", other, "chroma")


def test_a_tokenizer_that_changes_makes_another_digest(own, place):
    first = alone.find("t5xxl.safetensors", "text_encoder", own, "chroma").digest
    note = place / "models" / "tokenizers" / "t5" / "note.txt"
    note.write_text("changed")
    assert alone.find("t5xxl.safetensors", "text_encoder", own, "chroma").digest != first
    note.unlink()


def test_a_whole_file_without_t5_is_one_of_stable_diffusion_3(own, place, monkeypatch):
    path = place / "models" / "checkpoints" / "whole.safetensors"
    source = whole_source(path)
    assert source and source.texts == ["text_encoder", "text_encoder_2", "text_encoder_3"]
    from graphengine.models import whole_files

    every = whole_files.read_header(path)
    less = {name: info for name, info in every.items() if "t5xxl" not in name}
    monkeypatch.setattr(whole_files, "read_header", lambda path: less)
    source = whole_source(path)
    assert source and source.texts == ["text_encoder", "text_encoder_2"]
    fewer = {name: info for name, info in less.items() if "clip_l" not in name}
    monkeypatch.setattr(whole_files, "read_header", lambda path: fewer)
    with pytest.raises(CheckpointError, match="lacks clip_l: it is not a whole checkpoint"):
        whole_source(path)


def test_every_published_model_has_text_encoders_that_a_layout_tells():
    told = {variant for row in rows() if row.head[0] == "text_encoder" for variant in row.variants}
    assert {kind for kinds in ENCODERS.values() for kind in kinds} <= told


def test_the_parts_of_a_published_whole_file_are_found_under_their_prefixes():
    header, expected = load("flux_dev_comfyui")
    assert {match.part: match.prefix for match in matches(header)} == expected["parts"]


# GGUF


def llama_names(tensors):
    """T5's names as llama.cpp has them, by the table of the format's own package."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 2)
    return {str(names.get_name(name, (".weight",))): tensor for name, tensor in tensors.items()}


def test_the_names_of_a_t5_in_gguf_are_those_of_the_formats_library():
    shapes = {name: tuple(tensor.shape) for name, tensor in t5().state_dict().items() if "embed_tokens" not in name}
    table = table_of("t5", "gguf")
    assert table
    assert renamed_shapes(table, llama_names(shapes)) == shapes


def test_a_t5_in_gguf_encodes_as_its_unpacked_numbers(own, place):
    tensors = {name: tensor.float() for name, tensor in t5().state_dict().items() if "embed_tokens" not in name}
    raw, plain = packed(tensors)
    texts = place / "models" / "text_encoders"
    write(texts / "t5.gguf", llama_names(raw), "t5encoder")
    save(plain, texts / "plain.safetensors")
    made = [encoded(alone.find(name, "text_encoder", own, "chroma"), own) for name in ("t5.gguf", "plain.safetensors")]
    assert torch.equal(made[0][0], made[1][0])
