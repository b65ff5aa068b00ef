"""Patched networks: a variant has modules of its own and shares every tensor that no patch changes.

A loaded network is never written to, so a branch of a graph that uses it plainly cannot see what another branch has put
on top; there is nothing to undo.  Patches that commute are applied in one fixed order, whatever order they were given in.

    lora        low-rank differences of weights (Hu et al. 2021), in kohya's or peft's names
    clip_skip   features of an earlier layer of a CLIP text encoder
    tiled       an autoencoder that works on overlapping tiles, for less memory
    freeu       backbone and skip scaling of a U-Net (Si et al. 2024)
    pictures    cross-attention to pictures besides the text (IP-Adapter; Ye et al. 2023)
    perturbed   self-attention without attention, or blurred (Ahn et al. 2024, Hong 2024)
    watched     cross-attention that is told to whoever listens; nothing else changes
    open        levels of a U-Net that are told to whoever listens; nothing else changes
    unskipped   a U-Net without the skip connections of one level
    words       words of prompts that stand for learned vectors (textual inversion; Gal et al. 2022)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from graphengine.errors import CheckpointError
from graphengine.models import anatomy, attention, ip_adapter, ldm, lora, narrow, perturbed, textual_inversion
from graphengine.models.network import twin
from graphengine.values import Patch

Network = Callable[[nn.Module, str], nn.Module]
TARGETS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def variant(adapter: Any, patches: tuple[Patch, ...]) -> Any:
    """An adapter like the given one with patches applied.  Raises CheckpointError when one does not fit."""
    made = adapter
    for patch in sorted(patches, key=lambda patch: (patch.kind, patch.digest, patch.values)):
        made = APPLY[patch.kind](made, patch)
    return made


def _with_networks(adapter: Any, change: Network) -> Any:
    """A copy of an adapter whose networks are `change(network, target)`; targets are denoiser, text_encoder, ..."""
    made = copy.copy(adapter)
    encoders = iter(TARGETS)
    for name, value in vars(adapter).items():
        if isinstance(value, nn.Module):
            setattr(made, name, change(value, "denoiser"))
        elif isinstance(getattr(value, "network", None), nn.Module):
            setattr(made, name, _inner(value, change, next(encoders)))
        elif isinstance(value, list) and value and isinstance(getattr(value[0], "network", None), nn.Module):
            setattr(made, name, [_inner(item, change, next(encoders)) for item in value])
    return made


with_networks = _with_networks


def _inner(part: Any, change: Network, target: str) -> Any:
    made = copy.copy(part)
    made.network = change(part.network, target)
    return made


# LoRA


def _lora(adapter: Any, patch: Patch) -> Any:
    weights = lora.read(Path(patch.place))
    used: set[tuple[str, str]] = set()
    targets: set[str] = set()

    def change(network: nn.Module, target: str) -> nn.Module:
        targets.add(target)
        own = {name: low for (wanted, name), low in weights.items() if wanted == target}
        if not own:
            return network
        made, names = twin(network), module_names(network)
        for name, low in own.items():
            module = made.get_submodule(names[name]) if name in names else None
            if isinstance(module, nn.Module) and isinstance(getattr(module, "weight", None), Tensor):
                _add(module, low, patch)
                used.add((target, name))
        return made

    made = _with_networks(adapter, change)
    missing = [name for target, name in weights if target in targets and (target, name) not in used]
    if missing:
        raise CheckpointError(
            f"the LoRA {patch.name} does not fit this model: {len(missing)} of its layers are not there, "
            f"such as {missing[0]}. It was made for another family."
        )
    return made


def _add(module: Any, low: lora.Low, patch: Patch) -> None:
    weight = module.weight
    if math.prod(low.shape) != weight.numel():
        raise CheckpointError(
            f"the LoRA {patch.name} does not fit this model: {low.name} changes {list(low.shape)}, "
            f"the layer has {list(weight.shape)}. It was made for another family."
        )
    delta = low.difference(weight.device)
    changed = weight.float() + patch.values[0] * delta.reshape(weight.shape)
    module.weight = nn.Parameter(changed.to(narrow.dtype_of(module)), requires_grad=False)


def module_names(network: nn.Module) -> dict[str, str]:
    """Names under which files know the modules of a network, dots as underscores, by their path here."""
    file_names: dict[str, str] = {}
    if type(network).__name__ == "UNet2DConditionModel":
        file_names = {new: old for old, new in ldm.unet_table(network.config).items()}  # pyright: ignore[reportArgumentType]
    found: dict[str, str] = {}
    for path, module in network.named_modules():
        if isinstance(getattr(module, "weight", None), Tensor):
            for name in (path, path.removeprefix("text_model."), *_in_files(path, file_names)):
                found[name.replace(".", "_")] = path
    return found


def _in_files(path: str, file_names: dict[str, str]) -> Iterator[str]:
    """What a module is called in single files."""
    stem = path
    while stem and stem not in file_names:
        stem = stem.rpartition(".")[0]
    if stem:
        yield file_names[stem] + path[len(stem) :]


# Others


def _clip_skip(adapter: Any, patch: Patch) -> Any:
    made = copy.copy(adapter)
    for name, value in vars(adapter).items():
        if hasattr(value, "skip"):
            skipping = copy.copy(value)
            skipping.skip = int(patch.values[0])
            setattr(made, name, skipping)
    return made


def _freeu(adapter: Any, patch: Patch) -> Any:
    def change(network: nn.Module, target: str) -> nn.Module:
        made: Any = twin(network)
        if not hasattr(made, "enable_freeu"):
            raise CheckpointError(f"FreeU scales the skips of a U-Net; this model is a {type(network).__name__}.")
        made.enable_freeu(*patch.values)
        return made

    return _with_networks(adapter, change)


def _tiled(adapter: Any, patch: Patch) -> Any:
    def change(network: nn.Module, target: str) -> nn.Module:
        made: Any = twin(network)
        if hasattr(made, "enable_tiling"):
            made.enable_tiling()
        return made

    return _with_networks(adapter, change)


def _perturbed(adapter: Any, patch: Patch) -> Any:
    def change(network: nn.Module, target: str) -> nn.Module:
        made = twin(network)
        perturbed.disturb(made, patch.name, patch.values[0])
        return made

    return _with_networks(adapter, change)


def _pictures(adapter: Any, patch: Patch) -> Any:
    def change(network: nn.Module, target: str) -> nn.Module:
        made = twin(network)
        ip_adapter.install(made, patch)
        return made

    return _with_networks(adapter, change)


def _watched(adapter: Any, patch: Patch) -> Any:
    def change(network: nn.Module, target: str) -> nn.Module:
        made = twin(network)
        attention.watch(made, patch.name)
        return made

    return _with_networks(adapter, change)


def _open(adapter: Any, patch: Patch) -> Any:
    def change(network: nn.Module, target: str) -> nn.Module:
        made = twin(network)
        anatomy.open_levels(made)
        return made

    return _with_networks(adapter, change)


def _unskipped(adapter: Any, patch: Patch) -> Any:
    def change(network: nn.Module, target: str) -> nn.Module:
        made = twin(network)
        anatomy.remove_skips(made, int(patch.values[0]))
        return made

    return _with_networks(adapter, change)


APPLY: dict[str, Callable[[Any, Patch], Any]] = {
    "lora": _lora,
    "clip_skip": _clip_skip,
    "freeu": _freeu,
    "open": _open,
    "perturbed": _perturbed,
    "pictures": _pictures,
    "words": textual_inversion.learned,
    "tiled": _tiled,
    "unskipped": _unskipped,
    "watched": _watched,
}
