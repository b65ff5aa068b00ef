"""The tensors of published files, from the real classes without memory for their weights, and how fixtures are written.

The configs are those of the published models; where a class's defaults are the model, none is written.
"""

import importlib
import itertools
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from renames import Shapes

HERE = Path(__file__).parent
diffusers: Any = importlib.import_module("diffusers")
transformers: Any = importlib.import_module("transformers")
SD1 = {"cross_attention_dim": 768}
SD2 = {"cross_attention_dim": 1024, "use_linear_projection": True, "attention_head_dim": [5, 10, 20, 20]}
SDXL = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER = SDXL | {
    "block_out_channels": [384, 768, 1536, 1536],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": 4,
    "attention_head_dim": [6, 12, 24, 24],
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
X4 = SD2 | {
    "in_channels": 7,
    "block_out_channels": [256, 512, 512, 1024],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 8,
    "only_cross_attention": [True, True, True, False],
    "num_class_embeds": 1000,
}
UNCLIP = SD2 | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048}
KOLORS = SDXL | {
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "projection_class_embeddings_input_dim": 5632,
}
KL = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}
DC_AE = {
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
    "downsample_block_type": "Conv",
    "upsample_block_type": "interpolate",
}
KL_16 = KL | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
SD3 = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192}
SD35 = {"pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"}
LARGE = {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"}
KLEIN = {"guidance_embeds": False, "num_layers": 5, "num_single_layers": 20}
CONTROL = {"num_layers": 5, "num_single_layers": 10, "guidance_embeds": True}
IMAGES = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
SMALL_WAN = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}

Expected = tuple[str, str, str, str]


def shapes(maker: Any) -> Shapes:
    """The tensors that a network would have."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in maker().state_dict().items()}


def made(name: str, **config: Any) -> Shapes:
    return shapes(lambda: getattr(diffusers, name)(**config))


def below(prefix: str, tensors: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in tensors.items()}


def clip(width: int, layers: int, heads: int, prefix: str = "text_model.", projection: bool = False) -> Shapes:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    config = transformers.CLIPTextConfig(intermediate_size=4 * width, projection_dim=width, **sizes)
    found = shapes(lambda: transformers.CLIPTextModel(config))
    found = {prefix + name.removeprefix("text_model."): shape for name, shape in found.items()}
    return found | ({"text_projection.weight": (width, width)} if projection else {})


def open_clip(width: int, layers: int) -> Shapes:
    found: Shapes = {
        "positional_embedding": (77, width),
        "text_projection": (width, width),
        "logit_scale": (),
        "token_embedding.weight": (49408, width),
    }
    for name, rows in (
        ("ln_final", width),
        *((f"transformer.resblocks.{n}.ln_{k}", width) for n in range(layers) for k in (1, 2)),
    ):
        found |= {f"{name}.weight": (rows,), f"{name}.bias": (rows,)}
    for layer in range(layers):
        block = f"transformer.resblocks.{layer}."
        found |= {f"{block}attn.in_proj_weight": (3 * width, width), f"{block}attn.in_proj_bias": (3 * width,)}
        for name, out, inner in (
            ("attn.out_proj", width, width),
            ("mlp.c_fc", 4 * width, width),
            ("mlp.c_proj", width, 4 * width),
        ):
            found |= {f"{block}{name}.weight": (out, inner), f"{block}{name}.bias": (out,)}
    return found


def t5(vocabulary: int = 32128, each: bool = False) -> Shapes:
    sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": vocabulary}
    config = (transformers.UMT5Config if each else transformers.T5Config)(feed_forward_proj="gated-gelu", **sizes)
    return shapes(lambda: (transformers.UMT5EncoderModel if each else transformers.T5EncoderModel)(config))


def ip_adapter(sides: list[int], width: int, image: int) -> Shapes:
    """The keys and values of pictures: the layers with odd numbers, since the even ones attend to themselves."""
    found: Shapes = {"image_proj.proj.weight": (4 * width, image), "image_proj.proj.bias": (4 * width,)}
    found |= {"image_proj.norm.weight": (width,), "image_proj.norm.bias": (width,)}
    for place, side in enumerate(sides):
        found |= {f"ip_adapter.{2 * place + 1}.to_{which}_ip.weight": (side, width) for which in "kv"}
    return found


def esrgan() -> Shapes:
    """A real-ESRGAN with its 23 blocks of three dense ones."""
    sides = {"conv_first": (64, 3), "conv_last": (3, 64)}
    sides |= dict.fromkeys(("conv_body", "conv_up1", "conv_up2", "conv_hr"), (64, 64))
    for block, dense, layer in itertools.product(range(23), (1, 2, 3), range(1, 6)):
        sides[f"body.{block}.rdb{dense}.conv{layer}"] = (64 if layer == 5 else 32, 32 + 32 * layer)
    weights: Shapes = {f"{name}.weight": (*size, 3, 3) for name, size in sides.items()}
    return weights | {f"{name}.bias": (size[0],) for name, size in sides.items()}


def low_rank(tensors: Shapes, only: str, start: str, writer: str, rank: int = 16) -> Shapes:
    """A LoRA of the layers whose names hold the pattern `only`."""
    down, up = ("lora_A", "lora_B") if writer in ("peft", "comfyui") else ("lora_down", "lora_up")
    found: Shapes = {}
    for name, shape in tensors.items():
        layer = name.removesuffix(".weight")
        if layer == name or len(shape) not in (2, 4) or not re.search(only, layer):
            continue
        layer = start + (layer if writer in ("peft", "comfyui") else layer.replace(".", "_"))
        found[f"{layer}.{down}.weight"] = (rank, *shape[1:])
        found[f"{layer}.{up}.weight"] = (shape[0], rank, *(1 for _ in shape[2:]))
        if writer == "kohya":
            found[f"{layer}.alpha"] = ()
    return found


def kronecker(tensors: Shapes, only: str, start: str) -> Shapes:
    """A LoKr with a factor of 4."""
    found: Shapes = {}
    for name, shape in tensors.items():
        layer = name.removesuffix(".weight")
        if layer != name and len(shape) == 2 and re.search(only, layer):
            place = start + layer.replace(".", "_")
            found |= {
                f"{place}.lokr_w1": (4, 4),
                f"{place}.lokr_w2": (shape[0] // 4, shape[1] // 4),
                f"{place}.alpha": (),
            }
    return found


def products(tensors: Shapes, only: str, start: str, rank: int = 8) -> Shapes:
    """A LoHa."""
    found: Shapes = {}
    for name, shape in tensors.items():
        layer = name.removesuffix(".weight")
        if layer != name and len(shape) == 2 and re.search(only, layer):
            place = start + layer.replace(".", "_")
            for number in (1, 2):
                found |= {f"{place}.hada_w{number}_a": (shape[0], rank), f"{place}.hada_w{number}_b": (rank, shape[1])}
            found[f"{place}.alpha"] = ()
    return found


def folded(tensors: Shapes) -> dict[str, list[int]]:
    """Equal tensors whose names differ in one number share a line, number by number from the last."""
    lines: dict[tuple[str, ...], list[int]] = {
        tuple(re.split(r"(\d+)", name)): list(shape) for name, shape in tensors.items()
    }
    for place in range(max(map(len, lines)) - 1, 0, -1):
        if place % 2:
            groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)
            for pieces, shape in lines.items():
                if place < len(pieces):
                    groups[(pieces[:place], pieces[place + 1 :], tuple(shape))].append(pieces[place])
                else:
                    groups[(pieces, None, tuple(shape))] = []
            lines = {
                (*head, span(numbers), *tail) if tail is not None else head: list(shape)
                for (head, tail, shape), numbers in groups.items()
            }
    return {"".join(pieces): shape for pieces, shape in sorted(lines.items())}


def span(numbers: list[str]) -> str:
    """Numbers as ranges: {0-2,5}."""
    if len(numbers) == 1:
        return numbers[0]
    ranges: list[list[int]] = []
    for number in sorted(map(int, numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return "{" + ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges) + "}"


def write(name: str, expected: Expected, tensors: Shapes, **more: Any) -> None:
    """One fixture, one tensor a line."""
    kind, family, variant, layout = expected
    wanted = {"kind": kind, "family": family, "variant": variant, "layout": layout} | more
    lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(shape)}" for key, shape in folded(tensors).items())
    text = f'{{\n  "expected": {json.dumps(wanted)},\n  "tensors": {{\n{lines}\n  }}\n}}\n'
    (HERE / f"{name}.json").write_text(text, encoding="utf-8")
