"""Tokenizers that would run code, or take time or memory without end, are refused with a sentence."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from attacks import change, plant, refused, use
from bombs import BOMBS, rules

from graphengine.errors import CheckpointError
from graphengine.models import template
from graphengine.models.checkpoint import find
from graphengine.models.memory import ModelMemory
from graphengine.models.source import Source
from graphengine.models.t5 import T5Encoder
from graphengine.testing import settings

# Tokenizers


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("reads", ["CLIPTokenizer", "PreTrainedTokenizerFast"])
def test_a_tokenizer_that_is_a_bomb_is_refused(model, kind, reads):
    folder = model / "tokenizer"
    (folder / "tokenizer.json").write_text(json.dumps(BOMBS[kind]))
    if reads == "CLIPTokenizer":
        try_use(model)
        return
    change(folder / "tokenizer_config.json", tokenizer_class=reads)
    with pytest.raises(CheckpointError):
        t5(model).tokens("a" * 60 + "!", 16)


def try_use(model: Path) -> None:
    """A library may leave out what it does not read: no more than a sentence may come of it."""
    try:
        use(model, "text")
    except CheckpointError as error:
        assert len(str(error)) > 10


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small T5 text encoder, which takes whatever tokenizer stands beside it."""
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5EncoderModel

    folder = tmp_path_factory.mktemp("t5") / "text_encoder"
    sizes: dict[str, Any] = {"vocab_size": 32, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    T5EncoderModel(T5Config(**sizes)).save_pretrained(folder)
    return folder


ENCODER: list[Path] = []


@pytest.fixture(autouse=True)
def known_encoder(encoder: Path) -> None:
    ENCODER[:] = [encoder]


def t5(model: Path) -> T5Encoder:
    """A T5 encoder with the tokenizer of a checkpoint."""
    shutil.rmtree(model / "text_encoder")
    shutil.copytree(ENCODER[0], model / "text_encoder")
    return T5Encoder(Source(model), "text_encoder", "tokenizer", "cpu", torch.float32)


def test_a_plain_tokenizer_is_read(model):
    (model / "tokenizer" / "tokenizer.json").write_text(json.dumps(rules()))
    change(model / "tokenizer" / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", pad_token="[U]")
    ids, _, cut = t5(model).tokens("a red star", 8)
    assert ids[0, :3].tolist() == [1, 2, 3]
    assert not cut


@pytest.mark.parametrize(
    "values",
    [
        {"tokenizer_class": "EvilTokenizer"},
        {"tokenizer_class": "os.system"},
        {"tokenizer_class": ["os", "system"]},
        {"tokenizer_class": "RagTokenizer"},
        {"auto_map": {"AutoTokenizer": ["tokenization_x.EvilTokenizer", None]}},
        {"auto_map": {"AutoTokenizer": "other/repository--tokenization_x.Evil"}, "tokenizer_class": "Evil"},
        {"tokenizer_class": "T5Tokenizer", "extra_ids": 10**9},
        {"added_tokens_decoder": {str(number): {"content": f"<{number}>"} for number in range(20_000)}},
        {"added_tokens_decoder": {"x": {"content": "y"}}},
        {"added_tokens_decoder": {"1": {"__class__": "os"}}},
        {"model_max_length": "x"},
        {"model_max_length": -(10**30)},
        {"model_max_length": 1},
        {"init_inputs": [[], {}, 5, 6, 7, 8, 9]},
    ],
)
def test_a_tokenizer_config_that_asks_for_too_much_is_refused(model, canary, monkeypatch, values):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.chdir(model / "tokenizer")
    plant(model, canary)
    change(model / "tokenizer" / "tokenizer_config.json", **values)
    refused(model, "text")


def test_the_library_that_would_ask_for_permission_is_not_asked(model, canary, monkeypatch):
    """With an `auto_map` beside its class a tokenizer's own code would be offered to whoever sits at the terminal."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    plant(model, canary)
    (model / "tokenizer" / "config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": "tokenization_x.Evil"}}))
    with pytest.raises(CheckpointError, match="never run"):
        t5(model)
    (model / "tokenizer" / "config.json").write_text(json.dumps({"model_type": "rag"}))
    with pytest.raises(CheckpointError, match="model's config"):
        t5(model)


def test_a_path_in_a_tokenizer_config_leads_nowhere(model, tmp_path):
    for name, content in (("vocab.json", '{"secret": 0}'), ("merges.txt", "#version: 0.2\n")):
        (tmp_path / name).write_text(content)
    files = {"vocab_file": str(tmp_path / "vocab.json"), "merges_file": str(tmp_path / "merges.txt")}
    change(model / "tokenizer" / "tokenizer_config.json", **files, tokenizer_file="/etc/passwd", name_or_path="a/b")
    place = settings(tmp_path)
    plain = ModelMemory(place).text_encoder(find("tiny", place).handles()[1]).encode("a red star").features
    assert torch.equal(
        ModelMemory(place).text_encoder(find("m", place).handles()[1]).encode("a red star").features, plain
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", "[]"),
        ("vocab.json", "{}"),
        ("vocab.json", '{"a": "x"}'),
        ("vocab.json", '{"a": -5}'),
        ("vocab.json", '{"a": 1e400}'),
        ("vocab.json", json.dumps({"<|startoftext|>": 2**70})),
        ("merges.txt", "#version: 0.2\n" + "a " * 10_000),
        ("vocab.json", "[" * 100_000),
        ("special_tokens_map.json", "[" * 100_000),
        ("added_tokens.json", '{"a": '),
        ("tokenizer.json", "{" * 100_000),
    ],
)
def test_damaged_files_of_a_tokenizer_are_refused(model, name, content):
    (model / "tokenizer" / name).write_text(content)
    refused(model, "text")


def test_a_tokenizer_larger_than_any_is_refused_unread(model):
    path = model / "tokenizer" / "tokenizer.json"
    path.touch()
    os.truncate(path, 2**36)
    refused(model, match="bytes")


# Chat templates


@pytest.mark.parametrize(
    "written",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__init__.__globals__['os'].mkdir(canary) }}",
        "{{ cycler.__init__.__globals__.os.mkdir(canary) }}",
        "{{ raise_exception.__globals__['__builtins__']['__import__']('os').mkdir(canary) }}",
        "{{ self.__init__.__globals__ }}{{ strftime_now.__globals__['json'].codecs.open(canary, 'w') }}",
        "{{ '%s' | attr('format_map') }}{{ ''|attr('__class__')|attr('__base__') }}{{ none.x.y }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}{{ none.x.y }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**11 }}",
        "{% set n = namespace(x='aa') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{{ 'a'.center(10**11) }}",
        "{{ '%100000000000d' % 1 }}",
        "{{ 9**(9**9) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.mkdir(canary) }}",
        "{% if %}",
        "{{ raise_exception('no') }}",
        "{{ 'a' * 2**21 }}",
    ],
)
def test_a_hostile_chat_template_is_refused(canary, monkeypatch, written):
    monkeypatch.setattr(template, "SECONDS", 1)
    with pytest.raises(ValueError, match=r"\w"):
        template.render(written, {"messages": [{"role": "user", "content": "a"}], "canary": str(canary)})


def test_a_plain_chat_template_is_written():
    written = "{% for m in messages %}<{{ m.role }}>{{ m['content'] }}{{ eos }}{% endfor %}{{ messages[0] | tojson }}"
    made = template.render(written, {"messages": [{"role": "user", "content": "größe"}], "eos": "</s>"})
    assert made == '<user>größe</s>{"role": "user", "content": "größe"}'
