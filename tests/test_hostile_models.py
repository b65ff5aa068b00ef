"""Model files that were made to harm, or were harmed: refused with a sentence, nothing run, no hang, no huge allocation.

Every attack that could run code would make a file, the canary, and the test looks whether it is there.
"""

import json
import math
import os
import pickle
import resource
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import graphengine
from graphengine import Engine, GraphError, NodeError
from graphengine.errors import AssetError, CheckpointError
from graphengine.models import lora, template
from graphengine.models.checkpoint import find, find_file
from graphengine.models.memory import ModelMemory
from graphengine.models.source import Source
from graphengine.models.t5 import T5Encoder
from graphengine.models.variant import variant
from graphengine.models.weights import read_header
from graphengine.testing import settings
from graphengine.values import Patch

TINY = Path(graphengine.__file__).parent / "checkpoints" / "tiny"
SECONDS, MEGABYTES = 4.0, 600
"""What an attack may cost at most; the machine is shared, so the time is generous."""


class Canary:
    """Unpickling one makes a file."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code out of a model file was run"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint under the name `m`, without its checksums."""
    folder = tmp_path / "models" / "m"
    shutil.copytree(TINY, folder)
    (folder / "checksums.json").unlink()
    return folder


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Neither much time nor much memory is spent, and the limit makes a huge allocation fail instead of the machine."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before, began = peak(), time.perf_counter()
    resource.setrlimit(resource.RLIMIT_AS, (size + 6 * 2**30, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert peak() - before < MEGABYTES
    assert time.perf_counter() - began < SECONDS + 10 * (before == 0)


def peak() -> float:
    """Megabytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "linux" else 2**20)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """The libraries are imported before anything is measured."""
    memory = ModelMemory(settings(Path("/nonexistent")))
    denoiser, encoder, vae = find("tiny", settings(Path("/nonexistent"))).handles()
    memory.denoiser(denoiser)
    memory.text_encoder(encoder).encode("a red star")
    memory.vae(vae)


def use(model: Path, *parts: str) -> None:
    """Find a checkpoint and load its parts (all of them by default)."""
    place = settings(model.parent.parent)
    denoiser, encoder, vae = find(model.name, place).handles()
    memory = ModelMemory(place)
    if "vae" in parts or not parts:
        memory.vae(vae)
    if "text" in parts or not parts:
        memory.text_encoder(encoder).encode("a red star above a blue square")
    if "unet" in parts or not parts:
        memory.denoiser(denoiser)


def refused(model: Path, *parts: str, match: str | None = None) -> str:
    """The sentence with which a checkpoint is refused."""
    with pytest.raises((CheckpointError, AssetError), match=match) as caught:
        use(model, *parts)
    told = str(caught.value)
    assert 10 < len(told) < 1200
    assert "Traceback" not in told
    return told


def weights(model: Path, part: str = "unet") -> Path:
    return next((model / part).glob("*.safetensors"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def safetensors(header: str | bytes, numbers: bytes = b"", length: int | None = None) -> bytes:
    """A file with a header that is written as it is."""
    raw = header if isinstance(header, bytes) else header.encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + numbers


def entry(shape: Any = (1,), offsets: Any = (0, 4), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# Pickles


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


# Code that configs name


CLAIMS: dict[str, dict[str, Any]] = {
    "auto_map": {"auto_map": {"AutoModel": "modeling.Evil", "AutoConfig": "modeling.Config", "AutoTokenizer": "a.B"}},
    "old auto_map": {"auto_map": ["tokenization_x.Evil", None]},
    "trust": {"trust_remote_code": True},
    "pipeline": {"custom_pipeline": "pipeline"},
    "class": {"__class__": "os.system"},
    "reduce": {"__reduce__": ["os.system", ["touch canary"]]},
    "deep class": {"inner": [{"deeper": {"__class__": "os"}}]},
    "quantised": {"quantization_config": {"quant_method": "custom", "modules": ["os"]}},
    "kernel": {"attn_implementation": "evil/kernel"},
    "inner kernel": {"_attn_implementation": "evil/kernel:run"},
}


def plant(model: Path, canary: Path) -> None:
    """Python files everywhere, under every name that a library might look for."""
    code = f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\nEvilTokenizer = MyPipeline = Evil\n"
    for part in (".", "unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        for name in (
            "modeling",
            "pipeline",
            "tokenization_x",
            "my_pipeline",
            "__init__",
            "evil",
            part.strip(".") or "a",
        ):
            (model / part / f"{name}.py").write_text(code)


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("part", ["unet", "text_encoder", "tokenizer", "scheduler"])
def test_a_config_that_asks_for_code_is_refused(model, canary, monkeypatch, claim, part):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # a library asks, and somebody says yes
    monkeypatch.chdir(model)
    plant(model, canary)
    name = {"tokenizer": "tokenizer_config.json", "scheduler": "scheduler_config.json"}.get(part, "config.json")
    change(model / part / name, **CLAIMS[claim])
    refused(model, match="code that a model names is never run")


@pytest.mark.parametrize(
    "entry",
    [
        {"unet": ["os", "system"]},
        {"unet": ["pipeline", "Evil"]},
        {"unet": ["modeling", "Evil"]},
        {"vae": ["diffusers.pipelines.evil", "Evil"]},
        {"tokenizer": ["evil", "EvilTokenizer"]},
        {"_class_name": ["pipeline", "MyPipeline"]},
        {"safety_checker": ["subprocess", "run"]},
        {"custom_pipeline": "my_pipeline"},
        {"__class__": ["os", "system"]},
        {"scheduler": [["os"], {"a": 1}]},
    ],
)
def test_a_model_index_that_asks_for_code_is_refused(model, canary, monkeypatch, entry):
    monkeypatch.chdir(model)
    plant(model, canary)
    change(model / "model_index.json", **entry)
    refused(model)


def test_python_files_in_a_checkpoint_are_never_imported(model, canary, monkeypatch):
    monkeypatch.chdir(model)
    plant(model, canary)
    use(model)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("unet", {"_class_name": "os.system"}),
        ("unet", {"_class_name": ["modeling", "Evil"]}),
        ("unet", {"_class_name": "../modeling"}),
        ("unet", {"act_fn": "os.system"}),
        ("unet", {"down_block_types": ["os.system", "modeling.Evil"]}),
        ("unet", {"mid_block_type": "modeling.Evil"}),
        ("unet", {"encoder_hid_dim_type": "modeling.Evil"}),
        ("vae", {"down_block_types": ["os", "os", "os", "os"]}),
        ("text_encoder", {"hidden_act": "os.system"}),
        ("text_encoder", {"dtype": "os.system"}),
        ("text_encoder", {"num_hidden_layers": {"a": 1}}),
        ("text_encoder", {"num_attention_heads": 0}),
        ("unet", {"block_out_channels": "abc"}),
        ("unet", {"block_out_channels": []}),
        ("unet", {"layers_per_block": -1}),
        ("unet", {"norm_num_groups": 0}),
        ("vae", {"block_out_channels": [24, 48, 80, {}]}),
        ("vae", {"block_out_channels": 5}),
        ("vae", {"latent_channels": "x"}),
        ("vae", {"scaling_factor": math.nan}),
        ("vae", {"scaling_factor": "x"}),
        ("scheduler", {"num_train_timesteps": 10**12}),
        ("scheduler", {"num_train_timesteps": -1}),
        ("vae", {"latent_channels": 5000}),
        ("vae", {"block_out_channels": [24] * 5000}),
    ],
)
def test_odd_values_in_a_config_are_refused(model, canary, monkeypatch, part, values):
    monkeypatch.chdir(model)
    plant(model, canary)
    change(model / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **values)
    refused(model)


@pytest.mark.parametrize(
    "claim", [{"architectures": ["os"]}, {"architectures": 5}, {"architectures": {"a": 1}}, {"to_dict": "os.system"}]
)
def test_what_a_config_calls_its_text_encoder_chooses_no_class(model, canary, monkeypatch, claim):
    monkeypatch.chdir(model)
    plant(model, canary)
    change(model / "text_encoder" / "config.json", **claim)
    use(model, "text")


# Sizes


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("unet", {"block_out_channels": [10**9, 10**9]}),
        ("unet", {"block_out_channels": [10**6, 10**6]}),
        ("unet", {"block_out_channels": [96] * 100_000}),
        ("unet", {"layers_per_block": 10**9}),
        ("unet", {"layers_per_block": 10**5}),
        ("unet", {"transformer_layers_per_block": 10**6}),
        ("unet", {"cross_attention_dim": 10**18}),
        ("unet", {"in_channels": 2**63}),
        ("unet", {"time_embedding_dim": 10**6}),
        ("unet", {"num_class_embeds": 10**6}),
        ("vae", {"block_out_channels": [10**9] * 4}),
        ("vae", {"latent_channels": 10**9}),
        ("vae", {"layers_per_block": 10**6}),
        ("text_encoder", {"num_hidden_layers": 10**9}),
        ("text_encoder", {"num_hidden_layers": 10**6}),
        ("text_encoder", {"num_hidden_layers": 10**6, "hidden_size": 4, "intermediate_size": 1}),
        ("text_encoder", {"hidden_size": 10**9}),
        ("text_encoder", {"hidden_size": 10**6}),
        ("text_encoder", {"vocab_size": 10**9}),
        ("text_encoder", {"max_position_embeddings": 10**9}),
        ("text_encoder", {"max_position_embeddings": 10**12}),
        ("text_encoder", {"intermediate_size": 10**6}),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(model, part, values):
    change(model / part / "config.json", **values)
    began = time.perf_counter()
    refused(model, "text" if part == "text_encoder" else part)
    assert time.perf_counter() - began < 2.5


# Headers


GIANT = 2**63
HEADERS: dict[str, bytes] = {
    "length 2^63": safetensors("{}", length=GIANT),
    "length 2^64 - 1": safetensors("{}", length=2**64 - 1),
    "length beyond the end": safetensors("{}", length=3),
    "length of nothing": safetensors("", length=0),
    "overlap": safetensors(json.dumps({"a": entry(), "b": entry()}), bytes(4)),
    "half overlap": safetensors(json.dumps({"a": entry((2,), (0, 8)), "b": entry((2,), (4, 12))}), bytes(12)),
    "gap": safetensors(json.dumps({"a": entry(), "b": entry((1,), (8, 12))}), bytes(12)),
    "late start": safetensors(json.dumps({"a": entry((1,), (4, 8))}), bytes(8)),
    "negative offset": safetensors(json.dumps({"a": entry((1,), (-4, 0))}), bytes(4)),
    "reversed": safetensors(json.dumps({"a": entry((1,), (4, 0))}), bytes(4)),
    "huge offsets": safetensors(json.dumps({"a": entry((1,), (GIANT, GIANT + 4))}), bytes(4)),
    "product beyond 64 bits": safetensors(json.dumps({"a": entry((2**32, 2**32), (0, 0))})),
    "product beyond 64 bits, right": safetensors(json.dumps({"a": entry((2**33, 2**33), (0, 2**68))})),
    "nothing, very wide": safetensors(json.dumps({"a": entry((0, 2**62), (0, 0))})),
    "negative sides": safetensors(json.dumps({"a": entry((-1, -1), (0, 4))}), bytes(4)),
    "many sides": safetensors(json.dumps({"a": entry([1] * 5000, (0, 4))}), bytes(4)),
    "side that is true": safetensors(json.dumps({"a": entry([True])}), bytes(4)),
    "side in words": safetensors(json.dumps({"a": entry(["1"])}), bytes(4)),
    "side with a fraction": safetensors(json.dumps({"a": entry([1.0])}), bytes(4)),
    "NaN": safetensors('{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}', bytes(4)),
    "Infinity": safetensors('{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 4]}}', bytes(4)),
    "1e400": safetensors('{"a": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 4]}}', bytes(4)),
    "a number of 100,000 digits": safetensors('{"a": ' + "9" * 100_000 + "}"),
    "name twice": safetensors('{"a": %s, "a": %s}' % ((json.dumps(entry()),) * 2), bytes(4)),
    "shape twice": safetensors('{"a": {"dtype":"F32","shape":[9],"shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "deep": safetensors('{"a":' * 50_000 + "1" + "}" * 50_000),
    "deep list": safetensors('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "many containers": safetensors('{"a":[' + "[]," * 2_000_000 + "1]}"),
    "unknown format": safetensors(json.dumps({"a": entry(dtype="F31")}), bytes(4)),
    "format os": safetensors(json.dumps({"a": entry(dtype="os.system")}), bytes(4)),
    "format that is a list": safetensors(json.dumps({"a": entry(dtype=["F32"])}), bytes(4)),
    "format that is an object": safetensors(json.dumps({"a": entry(dtype={"__class__": "os"})}), bytes(4)),
    "__class__": safetensors(json.dumps({"__class__": "os.system", "a": entry()}), bytes(4)),
    "__reduce__": safetensors(json.dumps({"__reduce__": ["os.system", ["true"]]}), bytes(4)),
    "no UTF-8": safetensors(b'{"\xff\xfe": 1}'),
    "UTF-16": safetensors("{}".encode("utf-16-le")),
    "JSON and more": safetensors('{} {"a": 1}'),
    "three offsets": safetensors(json.dumps({"a": entry((1,), (0, 2, 4))}), bytes(4)),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    path.write_bytes(HEADERS[kind])
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_header(path)
    (tmp_path / "loras").mkdir()
    shutil.move(path, tmp_path / "loras")
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        lora.read(
            find_file("a.safetensors", "loras", settings(tmp_path).model_copy(update={"model_folders": (tmp_path,)}))
        )


def test_a_hundred_megabytes_of_spaces_and_a_million_names_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors(b"{" + b" " * 100_000_000 + b"}"))
    with pytest.raises(CheckpointError, match="no safetensors file"):
        read_header(path)
    one = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    path.write_bytes(safetensors("{" + ",".join(one % number for number in range(1_000_000)) + "}"))
    with pytest.raises(CheckpointError):
        read_header(path)
    path.write_bytes(safetensors("{" + ",".join(one % number for number in range(50_000)) + "}"))
    with pytest.raises(CheckpointError, match="header is damaged"):
        read_header(path)


# Tokenizers


WORDS = {"[U]": 0, "a": 1, "red": 2, "star": 3}


def rules(**changes: Any) -> dict[str, Any]:
    """A small tokenizer.json."""
    values: dict[str, Any] = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    values |= {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}}
    values["model"] = {"type": "WordLevel", "vocab": WORDS, "unk_token": "[U]"}
    return values | changes


def sequence(*steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def replace(old: Any, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": old, "content": new}


def nested(depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "Lowercase"}
    for _ in range(depth):
        made = sequence(made)
    return made


def twice() -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2,
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {},
    }


def slow(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def padding(**changes: Any) -> dict[str, Any]:
    values = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    return values | {"pad_type_id": 0, "pad_token": "[U]"} | changes


def token(number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": 4 + number, "content": f"<{number}>"} | flags


BOMBS: dict[str, Any] = {
    "a text that doubles 40 times": rules(normalizer=sequence(*[replace({"String": "a"}, "aa")] * 40)),
    "one letter to a million": rules(normalizer=replace({"String": "a"}, "a" * 1_000_000)),
    "a beginning of a million": rules(normalizer={"type": "Prepend", "prepend": "a" * 1_000_000}),
    "two tables": rules(normalizer=sequence(*[{"type": "Precompiled", "precompiled_charsmap": "AAAA"}] * 2)),
    "a damaged table": rules(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "tokens that double 40 times": rules(post_processor={"type": "Sequence", "processors": [twice()] * 40}),
    "padding to 10^10": rules(padding=padding(strategy={"Fixed": 10**10})),
    "padding to a multiple": rules(padding=padding(pad_to_multiple_of=10**10)),
    "a regex that backtracks": rules(pre_tokenizer=slow("(a+)+$")),
    "a regex that is none": rules(pre_tokenizer=slow("((")),
    "100,000 added tokens": rules(added_tokens=[token(number) for number in range(100_000)]),
    "deep": rules(normalizer=nested(100)),
    "no model": rules(model=None),
    "another model": rules(model={"type": "os.system"}),
    "ids beyond the embedding": rules(model={"type": "WordLevel", "vocab": {"[U]": 10**6}, "unk_token": "[U]"}),
    "negative ids": rules(model={"type": "WordLevel", "vocab": {"[U]": -1}, "unk_token": "[U]"}),
    "merges of nothing": rules(model={"type": "BPE", "vocab": {}, "merges": [["a", "b"]] * 10}),
    "no list": [],
    "nothing": {},
}


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


# Places


@pytest.mark.parametrize(
    "shard", ["../../secret.safetensors", "/tmp/secret.safetensors", "..", "", "a/b.safetensors", 5]
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


# Damage


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


def flip(path: Path, place: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << bit)]))


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


Tensors = dict[str, torch.Tensor]


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


# Single files


@pytest.mark.parametrize(
    "tensors",
    [
        {"model.diffusion_model.input_blocks.0.0.weight": (1,)},
        {"model.diffusion_model.x.attn2.to_k.weight": (320, 768)},
        {
            "model.diffusion_model.x.attn2.to_k.weight": (320, 768),
            "model.diffusion_model.input_blocks.0.0.weightless": (1,),
            "first_stage_model.decoder.conv_in.weight": (1,),
            "cond_stage_model.transformer.x": (1,),
        },
        {
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
            "model.diffusion_model.input_blocks.0.0.weight": (),
            "first_stage_model.decoder.conv_in.weight": (),
            "first_stage_model.encoder.conv_in.weight": (),
            "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (),
        },
    ],
)
def test_a_single_file_of_some_right_names_is_refused(tmp_path, tensors):
    (tmp_path / "models").mkdir()
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "models" / "m.safetensors")
    with pytest.raises(CheckpointError):
        use(tmp_path / "models" / "m.safetensors")


# LoRAs


LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"
LORAS: dict[str, Tensors] = {
    "a product of 10^12 numbers": {"down": torch.ones(1, 2**20), "up": torch.ones(2**20, 1)},
    "alpha of many": {"down": torch.ones(2, 128), "up": torch.ones(160, 2), "alpha": torch.ones(5)},
    "alpha of none": {"down": torch.ones(2, 128), "up": torch.ones(160, 2), "alpha": torch.ones(0)},
    "alpha that is no number": {"down": torch.ones(2, 128), "up": torch.ones(160, 2), "alpha": torch.tensor(math.nan)},
    "rank 0": {"down": torch.ones(0, 128), "up": torch.ones(160, 0), "alpha": torch.tensor(1.0)},
    "whole numbers": {"down": torch.ones(2, 128, dtype=torch.int64), "up": torch.ones(160, 2, dtype=torch.int64)},
    "halves that do not fit": {"down": torch.ones(2, 128), "up": torch.ones(160, 3)},
    "a half with kernels": {"down": torch.ones(2, 128), "up": torch.ones(160, 2, 3, 3)},
    "flat": {"down": torch.ones(2), "up": torch.ones(2)},
    "one half": {"down": torch.ones(2, 128)},
}
NAMES = {"down": f"{LAYER}.lora_down.weight", "up": f"{LAYER}.lora_up.weight", "alpha": f"{LAYER}.alpha"}


@pytest.mark.parametrize("kind", LORAS)
def test_a_lora_that_lies_is_refused(tmp_path, kind):
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "a.safetensors"
    save_file({NAMES[half]: tensor for half, tensor in LORAS[kind].items()}, path)
    plain = ModelMemory(settings(tmp_path)).denoiser(find("tiny", settings(tmp_path)).handles()[0])
    with pytest.raises(CheckpointError):
        variant(plain, (Patch("lora", path.name, (1.0,), path.name, str(path)),))


@pytest.mark.parametrize("layer", ["__class__", "__init__.__globals__", "forward", "..", "conv_in.__dict__", ""])
def test_a_lora_reaches_nothing_but_layers(tmp_path, canary, layer):
    path = tmp_path / "a.safetensors"
    save_file({f"unet.{layer}.lora_A.weight": torch.ones(1, 1), f"unet.{layer}.lora_B.weight": torch.ones(1, 1)}, path)
    plain = ModelMemory(settings(tmp_path)).denoiser(find("tiny", settings(tmp_path)).handles()[0])
    with pytest.raises(CheckpointError, match="made for another family"):
        variant(plain, (Patch("lora", path.name, (1.0,), path.name, str(path)),))


# By way of nodes


def workflow(checkpoint: str, lora_file: str = "") -> dict[str, Any]:
    nodes: dict[str, Any] = {
        "load": {"type": "LoadCheckpoint", "inputs": {"checkpoint": checkpoint}},
        "empty": {"type": "EmptyLatent", "inputs": {"vae": {"from": "load.vae"}}},
    }
    both = {"denoiser": {"from": "load.denoiser"}, "text_encoder": {"from": "load.text_encoder"}}
    source = "load"
    if lora_file:
        nodes["lora"], source = {"type": "LoadLora", "inputs": both | {"lora": lora_file}}, "lora"
    nodes["prompt"] = {
        "type": "EncodeText",
        "inputs": {"encoder": {"from": f"{source}.text_encoder"}, "text": "a red star"},
    }
    link = {"from": "prompt.conditioning"}
    inputs = {"denoiser": {"from": f"{source}.denoiser"}, "positive": link, "latent": {"from": "empty.latent"}}
    nodes["sample"] = {"type": "Sampler", "inputs": inputs | {"guidance": 1.0, "steps": 1}}
    return {"graphengine": 1, "name": "hostile", "nodes": nodes, "outputs": {"x": {"from": "sample.latent"}}}


def run(folder: Path, document: dict[str, Any]) -> str:
    """What a workflow that must fail tells."""
    with Engine(settings=settings(folder)) as engine, pytest.raises((NodeError, GraphError)) as caught:
        engine.submit(document).result()
    told = str(caught.value)
    assert "Traceback" not in told
    return told


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_load_lora_opens_no_pickle(tmp_path, canary, protocol):
    (tmp_path / "models" / "loras").mkdir(parents=True)
    for name in ("a.safetensors", "a.pt", "a.bin"):
        (tmp_path / "models" / "loras" / name).write_bytes(pickle.dumps(Canary(canary), protocol))
        told = run(tmp_path, workflow("tiny", name))
        assert "is a pickle" in told or "no safetensors file" in told


def test_load_lora_follows_no_path_and_no_link_out(tmp_path):
    (tmp_path / "models" / "loras").mkdir(parents=True)
    save_file({"a": torch.zeros(1)}, tmp_path / "secret.safetensors")
    (tmp_path / "models" / "loras" / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    for name in ("../../secret.safetensors", str(tmp_path / "secret.safetensors"), "link.safetensors"):
        assert "outside" in run(tmp_path, workflow("tiny", name))


def test_load_lora_reads_no_pipe(tmp_path):
    (tmp_path / "models" / "loras").mkdir(parents=True)
    os.mkfifo(tmp_path / "models" / "loras" / "a.safetensors")
    run(tmp_path, workflow("tiny", "a.safetensors"))


def test_load_lora_with_a_product_that_fits_nowhere(tmp_path):
    (tmp_path / "models" / "loras").mkdir(parents=True)
    halves = LORAS["a product of 10^12 numbers"]
    save_file({NAMES[half]: tensor for half, tensor in halves.items()}, tmp_path / "models" / "loras" / "a.safetensors")
    assert "made for another family" in run(tmp_path, workflow("tiny", "a.safetensors"))


def test_encode_text_tells_a_bomb_with_its_node(model, canary):
    folder = model / "tokenizer"
    (folder / "tokenizer.json").write_text(json.dumps(BOMBS["a text that doubles 40 times"]))
    told = run(model.parent.parent, workflow("m"))
    assert "prompt" in told
    assert "times as long" in told


def test_encode_text_runs_no_code_of_a_tokenizer(model, canary, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    plant(model, canary)
    change(model / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.Evil", None]})
    assert "never run" in run(model.parent.parent, workflow("m"))


def test_a_checkpoint_with_an_absurd_size_is_told_with_its_node(model):
    change(model / "text_encoder" / "config.json", num_hidden_layers=10**9)
    told = run(model.parent.parent, workflow("m"))
    assert "prompt" in told
    assert "num_hidden_layers" in told
