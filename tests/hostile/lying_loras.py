"""LoRAs whose tensors cannot be what they claim."""

import math

import torch
from attacks import Tensors

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
