"""What every family of models offers, whatever its networks look like.

A sampler knows one thing, `denoised = denoise(x, sigma)`; nodes know three, the classes below.  What a network predicts,
how it counts time, how it packs latents, what else it wants to be told: all of that stays inside the family's adapter.

A family is one module in `families/` with three classes, `Denoiser`, `Text` and `VAE`; each is made of a
`Source`, a device and a number format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from graphengine.diffusion.guidance import ClassifierFree, Guidance
from graphengine.diffusion.sigmas import Schedule
from graphengine.errors import CheckpointError
from graphengine.models.control_net import ControlAdapter, Steering, joined
from graphengine.models.ip_adapter import PictureTokens

if TYPE_CHECKING:
    import numpy as np

    from graphengine.trajectory import LevelFeatures
    from graphengine.values import Conditioning, Latent


NEGATIVE = "negative."
"""Begins the names of extras that take the place of others where a prompt is the negative one."""

Size = tuple[int, int]
"""Width and height in pixels."""
BESIDE = "beside"
"""The extra that holds what a network reads in channels beside the latent's."""


@dataclass(frozen=True, eq=False)
class Changing:
    """Features that change with the noise level, of some rows of a batch."""

    features: LevelFeatures
    rows: tuple[int, int]

    def put(self, features: Tensor, sigma: float) -> None:
        """Write those of a level into the batch's `[B, N, D]`."""
        found = self.features.at(sigma)
        features[slice(*self.rows), : found.shape[1]] = found.to(features)

    def moved(self, by: int) -> Changing:
        return replace(self, rows=(self.rows[0] + by, self.rows[1] + by))


@dataclass(frozen=True, eq=False)
class Prompts:
    """The conditioning of a batch on the device.

    `features` `[B, N, D]`; `extras` `[B, ...]` each, `mask` `[B, N]` among them where lengths differ; `guidance` is
    the scale for networks that are told it; `controls` the pictures that steer, `pictures` those that are shown;
    `references` scaled latents `[B, C, h, w]` of the pictures that are spoken of, each of a size of its own; `changing`
    what takes the place of features at some noise level.
    """

    features: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    guidance: float = 1.0
    controls: tuple[Steering, ...] = ()
    pictures: tuple[PictureTokens, ...] = ()
    references: tuple[Tensor, ...] = ()
    changing: tuple[Changing, ...] = ()

    @classmethod
    def of(
        cls, conditioning: Conditioning, batch: int, device: str, guidance: float = 1.0, negative: bool = False
    ) -> Prompts:
        """One prompt for every picture of the batch, or one each.  Raises ValueError when numbers do not go together.

        A negative prompt is read from the extras `negative.features`, `negative.mask`, ... where its family has them.
        """

        def shared(tensor: Tensor, what: str = "prompts") -> Tensor:
            if tensor.shape[0] not in (1, batch):
                raise ValueError(f"{tensor.shape[0]} {what} cannot be shared out over {batch} pictures.")
            return tensor.to(device).expand(batch, *tensor.shape[1:])

        parts = {"features": conditioning.features, **conditioning.extras}
        turned = {name.removeprefix(NEGATIVE): parts.pop(name) for name in list(parts) if name.startswith(NEGATIVE)}
        extras = {name: shared(tensor) for name, tensor in (parts | turned if negative else parts).items()}
        references = tuple(shared(each.samples, "reference pictures") for each in conditioning.references)
        changing = (Changing(conditioning.by_level, (0, batch)),) if conditioning.by_level else ()
        return cls(extras.pop("features"), extras, guidance, references=references, changing=changing)

    def told(self, beside: Tensor | None) -> Prompts:
        """These prompts with what the network reads beside the latent, `[B or 1, extra, h, w]`."""
        if beside is None:
            return self
        rows = beside.expand(self.features.shape[0], *beside.shape[1:])
        return replace(self, extras={**self.extras, BESIDE: rows})

    def __add__(self, other: Prompts) -> Prompts:
        """Both as one batch; the shorter is padded, and then both have a mask."""
        length = max(self.features.shape[1], other.features.shape[1])
        first, second = self._padded(length), other._padded(length)
        if first.features.shape[1] != self.features.shape[1] or second.features.shape[1] != other.features.shape[1]:
            first, second = first._masked(self.features.shape[1]), second._masked(other.features.shape[1])
        extras = {name: torch.cat([tensor, second.extras[name]]) for name, tensor in first.extras.items()}
        controls = joined(self.controls, other.controls, len(self.features))
        pictures = (*self.pictures, *(each.moved(len(self.features)) for each in other.pictures))
        references = tuple(torch.cat(pair) for pair in zip(self.references, other.references, strict=True))
        changing = (*self.changing, *(each.moved(len(self.features)) for each in other.changing))
        features = torch.cat([first.features, second.features])
        parts = {"controls": controls, "pictures": pictures, "references": references, "changing": changing}
        return replace(first, features=features, extras=extras, **parts)

    def at(self, sigma: Tensor) -> Prompts:
        """These prompts with the controls that steer, the pictures that are shown and the features of a noise level."""
        if not (self.controls or self.pictures or self.changing):
            return self
        level, features = float(sigma), self.features
        if self.changing:
            features = features.clone()
            for each in self.changing:
                each.put(features, level)
        controls = tuple(control for control in self.controls if control.steers(level))
        pictures = tuple(each for each in self.pictures if each.shown(level))
        return replace(self, features=features, controls=controls, pictures=pictures)

    def _padded(self, length: int) -> Prompts:
        missing = length - self.features.shape[1]
        if not missing:
            return self
        features = torch.nn.functional.pad(self.features, (0, 0, 0, missing))
        extras = dict(self.extras)
        if "mask" in extras:
            extras["mask"] = torch.nn.functional.pad(extras["mask"], (0, missing))
        return replace(self, features=features, extras=extras)

    def _masked(self, real: int) -> Prompts:
        if "mask" in self.extras:
            return self
        mask = torch.zeros(self.features.shape[:2], dtype=torch.bool, device=self.features.device)
        mask[:, :real] = True
        return replace(self, extras={**self.extras, "mask": mask})


@dataclass(frozen=True, eq=False)
class Encoded:
    """What a text encoder makes of one prompt, on the CPU: features `[1, N, D]`, extras `[1, ...]`.

    `cut` are the words that did not fit, `unknown` those that the model's language does not have.
    """

    features: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    cut: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


class DenoiserAdapter(ABC):
    """A loaded denoiser."""

    device: str
    schedule: Schedule
    embeds_guidance: bool = False
    """Whether the network is told the guidance scale, instead of being run twice."""
    beside: int = 0
    """Channels that the network reads beside the latent's own, as `Latent.beside` has them."""
    reads_mask: bool = False
    """Whether a mask is among them: then nothing else keeps the latent outside it."""
    reads_references: bool = False
    """Whether the network reads the latents of reference pictures, as `Prompts.references` has them."""

    def schedule_for(self, shape: tuple[int, ...]) -> Schedule:
        """The noise levels for latents `[B, C, h, w]` of this shape."""
        return self.schedule

    def read_beside(self, latent: Latent) -> Tensor | None:
        """What the network is given of a `Latent.beside` that has the right channels, `[B or 1, any, h, w]`."""
        return latent.beside

    def guidance(self, scale: float) -> Guidance:
        """The family's classifier-free guidance."""
        return ClassifierFree(scale)

    def check_control(self, network: ControlAdapter) -> None:
        """Refuse a network that cannot steer this denoiser.  Raises CheckpointError."""
        raise CheckpointError(f"{network.name} cannot steer this model: its family takes no ControlNet.")

    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        """Estimate of the clean latents.

        Args:
            x: noisy latents float32 `[B, C, h, w]`; variance-exploding, or on the flow's straight line.
            sigma: 0-dim, the noise level of the whole batch.
            prompts: of a batch of B.
        """


class TextAdapter(Protocol):
    """A loaded text encoder."""

    def encode(self, text: str) -> Encoded:
        """A prompt as its denoiser reads it."""
        ...


class VAEAdapter(Protocol):
    """A loaded autoencoder."""

    def encode(self, pixels: np.ndarray) -> Tensor:
        """Scaled latents `[B, C, h, w]` on the CPU (the mean, not a draw) of pixels `[B, H, W, 3]` in 0..1."""
        ...

    def decode(self, samples: Tensor) -> np.ndarray:
        """Pixels float32 `[B, H, W, 3]` in 0..1 of scaled latents."""
        ...


@runtime_checkable
class RefersToPictures(Protocol):
    """An autoencoder of models that read reference pictures."""

    def reference_size(self, width: int, height: int) -> tuple[Size, Size]:
        """How such models were shown a picture of a size: what it is resized to, and the middle of that that is kept."""
        ...


@runtime_checkable
class SeesPictures(Protocol):
    """A text encoder that sees pictures beside the words."""

    def encode_seeing(self, text: str, pictures: list[np.ndarray], resize: bool = True) -> Encoded:
        """A prompt and pictures, float32 `[H, W, 3]` in 0..1 each, as their denoiser reads them.

        With `resize` they are seen at the size at which they were shown in training, otherwise as they are.

        Raises:
            CheckpointError: this checkpoint's text encoder has no eyes.
        """
        ...


Part = Callable[..., DenoiserAdapter | TextAdapter | VAEAdapter]
"""A class of a family's module: made of a source, a device and a number format."""
