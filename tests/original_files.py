"""Small random transformers as their makers would have saved them: in a folder of diffusers', and in a file of old names."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from graphengine import Conditioning, Context, Node, Ports
from graphengine.models.original_names import table_of
from graphengine.models.part_source import published

FORMATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
SMALL: dict[str, dict[str, Any]] = {
    "aura_flow": {"num_mmdit_layers": 1, "num_single_dit_layers": 1, "num_attention_heads": 1}
    | {"caption_projection_dim": 256, "pos_embed_max_size": 64},
    "chroma": {"num_layers": 1, "num_single_layers": 2, "num_attention_heads": 1}
    | {"approximator_hidden_dim": 32, "approximator_layers": 2},
    "flux_dev": {"num_layers": 1, "num_single_layers": 2, "num_attention_heads": 1, "guidance_embeds": True},
    "flux_schnell": {"num_layers": 2, "num_single_layers": 1, "num_attention_heads": 1},
    "flux_2_klein_4b": {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 1, "guidance_embeds": False}
    | {"joint_attention_dim": 7680},
    "flux_2_dev": {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 1, "joint_attention_dim": 15360},
    "lumina_2": {"num_layers": 1, "num_refiner_layers": 1, "hidden_size": 192, "num_attention_heads": 2}
    | {"num_kv_heads": 1, "cap_feat_dim": 2304, "multiple_of": 256},
    "pixart_alpha": {"num_layers": 1, "num_attention_heads": 2, "cross_attention_dim": 144, "caption_channels": 4096}
    | {"use_additional_conditions": True},
    "pixart_sigma": {"num_layers": 2, "num_attention_heads": 1, "cross_attention_dim": 72, "caption_channels": 4096}
    | {"use_additional_conditions": False},
    "qwen_image": {"num_layers": 1, "num_attention_heads": 1},
    "sana_1_6b": {"num_layers": 1, "num_attention_heads": 7, "cross_attention_dim": 224}
    | {"num_cross_attention_heads": 2},
    "sd3": {"num_layers": 3, "num_attention_heads": 2, "caption_projection_dim": 128, "pos_embed_max_size": 16}
    | {"dual_attention_layers": [0, 1], "qk_norm": "rms_norm"},
    "z_image": {"n_layers": 1, "n_refiner_layers": 1, "n_heads": 1, "n_kv_heads": 1, "dim": 128, "cap_feat_dim": 2560},
}
"""What is small in each model; the rest is as published."""


def save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file whose numbers begin at a multiple of 64 bytes: elsewhere a CPU's last digits differ."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": FORMATS[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)


def lively(network: Any) -> Any:
    """The network with random numbers everywhere, so that no tensor may go astray unseen."""
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
        noise = torch.randn(parameter.shape, generator=generator) * scale
        parameter.data = noise if parameter.ndim > 1 else parameter.data + noise
    return network.eval()


def build(model: str, folder: Path) -> Any:
    """A checkpoint's folder with a small transformer; of the other parts there is no more than configs tell."""
    configs = published(model)
    config = configs["transformer"] | SMALL[model]
    made = getattr(importlib.import_module("diffusers"), config["_class_name"])
    network = lively(made.from_config({key: value for key, value in config.items() if key != "_class_name"}))
    network.save_pretrained(folder / "transformer")
    save(network.state_dict(), folder / "transformer" / "diffusion_pytorch_model.safetensors")
    for part, config in configs.items():
        if part != "transformer":
            (folder / part).mkdir()
            name = "scheduler_config.json" if part == "scheduler" else "config.json"
            (folder / part / name).write_text(json.dumps(config))
            save_file({"unread": torch.zeros(1)}, folder / part / "model.safetensors")
    return network


def original(tensors: Mapping[str, Tensor], family: str, layout: str) -> dict[str, Tensor]:
    """A transformer's tensors by their makers' names: the table of names, read from right to left."""
    table = table_of(family, layout)
    assert table is not None
    places = {
        word.lstrip("=~"): (old, at, word.startswith("~"))
        for old, words in table.items()
        for at, word in enumerate(words)
    }
    found: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        old, at, swaps = _place(name, places)
        columns = tensors[f"{name.rpartition('.')[0]}.weight"].shape[1] if swaps else 0
        swapped = swaps and tensor.shape[0] == 2 * columns
        found.setdefault(old, {})[at] = torch.cat(tensor.chunk(2)[::-1]) if swapped else tensor
    return {old: torch.cat([at[key] for key in sorted(at)]).contiguous() for old, at in found.items()}


def _place(name: str, places: Mapping[str, tuple[str, int, bool]]) -> tuple[str, int, bool]:
    parts = name.split(".")
    number = next((part for part in parts if part.isdecimal()), "")
    at = parts.index(number) if number else len(parts)
    for word in (parts, [*parts[:at], "#", *parts[at + 1 :]]):
        for length in range(len(word), 0, -1):
            if (stem := ".".join(word[:length])) in places:
                old, piece, swaps = places[stem]
                return ".".join([old.replace("#", number), *word[length:]]), piece, swaps
    return name, 0, False


class RandomPrompt(Node):
    """A prompt that no encoder has made: features `[1, length, width]`, and a pooled vector where a width is given."""

    kind: str
    width: int
    pooled: int = 0
    length: int = 9

    class Outputs(Ports):
        conditioning: Conditioning

    def run(self, ctx: Context) -> Outputs:
        generator = torch.Generator().manual_seed(self.width)
        features = torch.randn(1, self.length, self.width, generator=generator)
        extras = {"pooled": torch.randn(1, self.pooled, generator=generator)} if self.pooled else {}
        return self.Outputs(conditioning=Conditioning(features, self.kind, "", extras))
