"""Pictures that steer a U-Net: ControlNet (Zhang et al. 2023) and T2I-Adapter (Mou et al. 2023).

A ControlNet is half a U-Net that sees the noisy latents and the hint in every step; what it says is added to the
skip connections.  A T2I-Adapter sees only the hint, once; its features are added inside the encoder.  Several of
either add up.

Glossary
    hint       the picture that steers: edges, depth, a pose
    residuals  tensors that the U-Net adds to its own, by the name of its argument
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from graphengine.errors import CheckpointError
from graphengine.models.control_files import CONTROLNET, ControlFile
from graphengine.models.network import diffusers_network
from graphengine.planes import resize_planes

if TYPE_CHECKING:
    from graphengine.values import Control, Image

Residuals = dict[str, list[Tensor]]
DOWN, MID, INSIDE = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
)
ROUNDING = 1e-5
"""How far a noise level may be from its own step's."""
LUMINANCE = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey (ITU-R BT.601)."""


@dataclass(frozen=True, eq=False)
class Step:
    """One call of the U-Net: its inputs `[B, ...]`, and what else it is told."""

    latents: Tensor
    timestep: Tensor
    features: Tensor
    added: Mapping[str, Tensor]

    def rows(self, first: int, last: int) -> Step:
        added = {name: tensor[first:last] for name, tensor in self.added.items()}
        return replace(self, latents=self.latents[first:last], features=self.features[first:last], added=added)


class ControlAdapter(Protocol):
    """A loaded network that steers."""

    name: str
    reduction: int
    only_wanted: bool

    def check(self, config: Mapping[str, Any]) -> None:
        """Refuse a U-Net of this config.  Raises CheckpointError."""
        ...

    def seen(self, hint: Tensor) -> list[Tensor]:
        """What is computed once, of a hint `[B, 3, H, W]` in 0..1."""
        ...

    def residuals(self, step: Step, seen: list[Tensor]) -> Residuals:
        """What it adds in a step, at strength 1."""
        ...


class ControlNetwork:
    """ControlNetModel."""

    def __init__(self, file: ControlFile, device: str, dtype: torch.dtype):
        from diffusers.models.controlnets.controlnet import ControlNetModel

        known = inspect.signature(ControlNetModel.__init__).parameters
        config = {name: value for name, value in file.config.items() if name in known}
        self.name, self._dtype = file.name, dtype
        self.network = diffusers_network(ControlNetModel, config, file.tensors(dtype), file.name, device)
        self._config = self.network.config
        self.reduction = 2 ** (len(self._config.conditioning_embedding_out_channels) - 1)
        self.only_wanted = bool(self._config.global_pool_conditions)

    def check(self, config: Mapping[str, Any]) -> None:
        for key, what in (
            ("cross_attention_dim", "text features of width"),
            ("block_out_channels", "layers of widths"),
            ("layers_per_block", "layers per level, in number"),
            ("addition_embed_type", "additions of the kind"),
        ):
            ours, theirs = _plain(self._config[key]), _plain(config[key])
            if ours != theirs:
                raise _misfit(self.name, what, ours, theirs)
        if self._config.in_channels > config["in_channels"]:
            raise _misfit(self.name, "channels of latents, in number", self._config.in_channels, config["in_channels"])

    def seen(self, hint: Tensor) -> list[Tensor]:
        return [hint.to(self._dtype)]

    def residuals(self, step: Step, seen: list[Tensor]) -> Residuals:
        latents = step.latents[:, : self._config.in_channels]  # an inpainting U-Net sees more than the latents
        down, mid = self.network(
            latents,
            step.timestep,
            step.features,
            seen[0],
            added_cond_kwargs=dict(step.added),
            return_dict=False,
        )
        return {DOWN: list(down), MID: [mid]}


class T2IAdapterNetwork:
    """T2IAdapter."""

    only_wanted = False

    def __init__(self, file: ControlFile, device: str, dtype: torch.dtype):
        from diffusers.models.adapter import T2IAdapter

        self.name, self._dtype = file.name, dtype
        self.network = diffusers_network(T2IAdapter, file.config, file.tensors(dtype), file.name, device)
        self._config = self.network.config
        self._pieces = int(self._config.downscale_factor)
        self.reduction = self._pieces // (2 if self._config.adapter_type.endswith("_xl") else 1)

    def check(self, config: Mapping[str, Any]) -> None:
        ours, theirs = _plain(self._config.channels), _plain(config["block_out_channels"])
        if ours[: len(theirs)] != theirs:
            raise _misfit(self.name, "layers of widths", ours, theirs)

    def seen(self, hint: Tensor) -> list[Tensor]:
        height, width = hint.shape[-2:]
        if height % self._pieces or width % self._pieces:
            raise ValueError(f"{self.name} reads pictures of multiples of {self._pieces}, not {width} x {height}.")
        if self._config.in_channels == 1:
            shares = hint.new_tensor(LUMINANCE).reshape(1, 3, 1, 1)
            hint = (hint * shares).sum(1, keepdim=True)
        return self.network(hint.to(self._dtype))

    def residuals(self, step: Step, seen: list[Tensor]) -> Residuals:
        return {INSIDE: seen}


def load(file: ControlFile, device: str, dtype: torch.dtype) -> ControlAdapter:
    """The network of a file.  Raises CheckpointError when its weights do not fit its config."""
    return (ControlNetwork if file.kind == CONTROLNET else T2IAdapterNetwork)(file, device, dtype)


@dataclass(frozen=True, eq=False)
class Steering:
    """A control made ready for a run: what was seen of its hint, the noise levels and the batch's rows that it steers."""

    network: ControlAdapter
    control: Control
    hint: list[Tensor]
    levels: tuple[float, float]
    """The lowest and the highest."""
    rows: tuple[int, int]

    def steers(self, sigma: float) -> bool:
        return self.levels[0] * (1 - ROUNDING) <= sigma <= self.levels[1] * (1 + ROUNDING)

    def moved(self, by: int) -> Steering:
        return replace(self, rows=(self.rows[0] + by, self.rows[1] + by))

    def residuals(self, step: Step) -> Residuals:
        """What it adds to a step: zeros in the rows of others."""
        first, last = self.rows
        batch, count = len(step.latents), last - first
        seen = [tensor.repeat(count // len(tensor), 1, 1, 1) for tensor in self.hint]
        found = self.network.residuals(step.rows(first, last), seen)

        def placed(tensor: Tensor) -> Tensor:
            scaled = tensor * self.control.strength
            if count == batch:
                return scaled
            whole = scaled.new_zeros(batch, *scaled.shape[1:])
            whole[first:last] = scaled
            return whole

        return {name: [placed(tensor) for tensor in tensors] for name, tensors in found.items()}


def prepare(
    control: Control, network: ControlAdapter, size: tuple[int, int, int], device: str, sigmas: list[float]
) -> Steering | None:
    """A control for `size` (batch, height and width of the latents); None when none of the steps lies in its window.

    Args:
        sigmas: the noise level of every step.
    """
    steps = len(sigmas)
    inside = [
        sigma
        for step, sigma in enumerate(sigmas)
        if step / steps >= control.start and (step + 1) / steps <= control.end
    ]
    if not inside:
        return None
    batch, height, width = size
    if len(control.hint) not in (1, batch):
        raise ValueError(f"{len(control.hint)} hints cannot be shared out over {batch} pictures.")
    picture = _hint(control.hint, (width * network.reduction, height * network.reduction)).to(device)
    return Steering(network, control, network.seen(picture), (min(inside), max(inside)), (0, batch))


def joined(first: tuple[Steering, ...], second: tuple[Steering, ...], rows: int) -> tuple[Steering, ...]:
    """The controls of two batches as one, the first of so many rows; what steers both goes through its network once."""
    moved = {id(each.control): each.moved(rows) for each in second}
    made: list[Steering] = []
    for each in first:
        other = moved.get(id(each.control))
        if other is not None and other.rows[0] == each.rows[1]:
            made.append(replace(each, rows=(each.rows[0], moved.pop(id(each.control)).rows[1])))
        else:
            made.append(each)
    return (*made, *moved.values())


def steered(controls: Iterable[Steering], step: Step) -> dict[str, Any]:
    """The residuals of several controls together, as arguments of the U-Net."""
    total: Residuals = {}
    for control in controls:
        for name, tensors in control.residuals(step).items():
            before = total.get(name)
            total[name] = [a + b for a, b in zip(before, tensors, strict=True)] if before else tensors
    return {name: tensors[0] if name == MID else tensors for name, tensors in total.items()}


def _hint(image: Image, size: tuple[int, int]) -> Tensor:
    pixels = resize_planes(image.pixels[..., :3], size)
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _misfit(name: str, what: str, ours: Any, theirs: Any) -> CheckpointError:
    return CheckpointError(f"{name} was made for another model: it expects {what} {ours}, the denoiser has {theirs}.")
