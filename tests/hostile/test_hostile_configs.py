"""Configs that ask for code or for absurd sizes are refused with a sentence."""

import math
import time
from typing import Any

import pytest
from attacks import change, plant, refused, use

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
