"""What travels along links: pictures, masks, latents, conditionings, and handles on models.

Every value is frozen.  Pictures and masks are read-only numpy arrays, so a node that writes into one is stopped
on the spot; latents and conditionings are torch tensors, whose version counters the engine watches.  A handle
(Denoiser, TextEncoder, VAE) names weights, it does not hold them: weights live in `graphengine.models.memory`.

    Image         pixels  float32 [B, H, W, C] in 0..1, C 3 (RGB) or 4 (RGBA)
    Mask          alpha   float32 [B, H, W] in 0..1; 1 means "here"
    Latent        samples float32 [B, C, h, w], in the scaled space that the denoiser works in
    Conditioning  what a prompt has become: features [B, N, D] and whatever else its family needs
    File          something that was written: path, bytes and digest

This room imports neither torch nor numpy at run time: arrays are typed for readers and checked by their shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic_core import core_schema

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from torch import Tensor

    from graphengine.guiding import Excitation, OptimisedScale, Perturbation, PicturePrompt, Projection
    from graphengine.trajectory import LevelFeatures

_kinds: dict[str, type[Value]] = {}
"""Value classes by name: how a stored value finds its class again.  Filled as classes are defined."""


class Value:
    """Anything that is not a plain number, text or truth.  Subclasses are frozen dataclasses.

    `stored` says whether the value may be written to the disk cache; handles may not.
    """

    stored: ClassVar[bool] = True

    def __init_subclass__(cls, stored: bool = True, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.stored = stored
        _kinds[f"{cls.__module__}.{cls.__qualname__}"] = cls

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """A port takes an instance as it is: no copy, no look inside."""
        return core_schema.is_instance_schema(cls)


def value_class(name: str) -> type[Value] | None:
    """The value class of a qualified name, or None when no imported module defines it."""
    return _kinds.get(name)


def _refuse(what: str, expected: str, array: Any) -> ValueError:
    return ValueError(f"{what} wants {expected}, got {array.dtype} {list(array.shape)}")


def _freeze(array: np.ndarray, owner: object, name: str) -> None:
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
        object.__setattr__(owner, name, array)


@dataclass(frozen=True, eq=False)
class Image(Value):
    """A batch of pictures: `pixels` float32 `[B, H, W, C]` in 0..1 with C 3 (RGB) or 4 (RGBA), read-only."""

    pixels: np.ndarray

    def __post_init__(self) -> None:
        pixels = self.pixels
        if pixels.ndim != 4 or pixels.shape[-1] not in (3, 4) or pixels.dtype.name != "float32":
            raise _refuse("Image", "float32 [B, H, W, 3 or 4]", pixels)
        _freeze(pixels, self, "pixels")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[2], self.pixels.shape[1]

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def pil(self) -> list[PIL.Image.Image]:
        """The pictures as 8-bit PIL images."""
        from PIL import Image as pillow

        levels = (self.pixels * 255).round().astype("uint8")
        return [pillow.fromarray(level) for level in levels]


@dataclass(frozen=True, eq=False)
class Mask(Value):
    """A batch of masks: `alpha` float32 `[B, H, W]` in 0..1, read-only; 1 means "here" (repaint, keep, show)."""

    alpha: np.ndarray

    def __post_init__(self) -> None:
        if self.alpha.ndim != 3 or self.alpha.dtype.name != "float32":
            raise _refuse("Mask", "float32 [B, H, W]", self.alpha)
        _freeze(self.alpha, self, "alpha")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.alpha.shape[2], self.alpha.shape[1]


@dataclass(frozen=True)
class LatentSpace(Value):
    """What makes two latents compatible: the autoencoder's channels and reduction, and its kind.

    `kind` is a name that all autoencoders of a standard share (`sd`, `sdxl`, `flux`, ...), and otherwise a digest.
    """

    channels: int
    factor: int
    kind: str


@dataclass(frozen=True, eq=False)
class Latent(Value):
    """Scaled latents `samples` float32 `[B, C, h, w]` and the space they lie in.

    `mask` (at picture size) limits what a sampler may repaint.  `empty` marks a canvas of zeros, which
    a sampler starts from pure noise.  `beside` `[B or 1, extra, h, w]` is what some networks read in further channels: a
    mask (1 to repaint) and the scaled latent of the masked picture, or the scaled latent of a picture to edit.
    """

    samples: Tensor
    space: LatentSpace
    mask: Mask | None = None
    empty: bool = False
    beside: Tensor | None = None

    def __post_init__(self) -> None:
        if self.samples.ndim != 4 or self.samples.shape[1] != self.space.channels:
            raise _refuse("Latent", f"[B, {self.space.channels}, h, w]", self.samples)
        if self.beside is not None:
            (batch, _, height, width), given = self.samples.shape, tuple(self.beside.shape)
            if len(given) != 4 or given[0] not in (1, batch) or given[2:] != (height, width):
                raise _refuse("Latent.beside", f"[{batch} or 1, extra, {height}, {width}]", self.beside)


@dataclass(frozen=True, eq=False)
class Conditioning(Value):
    """A prompt as its family's encoder sees it: `features` `[B, N, D]` plus named extras.

    `encoder` is the kind of its text encoder, so that a denoiser can refuse another model's prompt.  Extras are
    tensors `[B, ...]`: `pooled` `[B, P]`, `mask` `[B, N]` and what else its family needs.  `controls` are pictures that
    steer what it draws, `pictures` those that it shows as a prompt; with any of either it is not stored.  `references` are
    the latents of pictures that the words speak of, in order, for networks that read some beside the one that they draw.
    `by_level` takes the place of the features where they differ from one noise level to the next.
    """

    features: Tensor
    encoder: str
    text: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)
    controls: tuple[Control, ...] = ()
    pictures: tuple[PicturePrompt, ...] = ()
    references: tuple[Latent, ...] = ()
    by_level: LevelFeatures | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "controls", tuple(self.controls))  # the disk cache gives lists
        object.__setattr__(self, "pictures", tuple(self.pictures))
        object.__setattr__(self, "references", tuple(self.references))


@dataclass(frozen=True)
class Guider(Value):
    """How a prompt guides: the scale, the rescaling, and the share of the steps from `start` to `end`.

    `image_scale` is how strongly the picture guides that a network reads beside the latent; None weighs it not at all.
    `rule` takes the place of the family's way of guiding, `perturbation` pushes away from a worse estimate besides;
    `excitation` moves the latent until every word of a few is looked at.
    """

    scale: float
    rescale: float = 0.0
    start: float = 0.0
    end: float = 1.0
    image_scale: float | None = None
    rule: Projection | OptimisedScale | None = None
    perturbation: Perturbation | None = None
    excitation: Excitation | None = None


@dataclass(frozen=True)
class Patch(Value, stored=False):
    """Something put on top of weights: its kind (`lora`, `clip_skip`, ...), file and digest, and its numbers."""

    kind: str
    name: str
    values: tuple[float, ...] = ()
    digest: str = ""
    place: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class Handle(Value, stored=False):
    """A name for weights: the checkpoint's folder and digest, and the part that is meant.

    Two handles are equal exactly when they mean the same weights with the same patches.
    """

    checkpoint: str
    digest: str
    family: str
    folder: str = field(repr=False, compare=False)
    patches: tuple[Patch, ...] = ()
    alone: bool = field(default=False, kw_only=True)
    """Whether nothing but this part lies in the folder, instead of a whole checkpoint."""

    def patched(self, patch: Patch) -> Self:
        """A handle on the same weights with one more patch; the order in which patches were added plays no role."""
        patches = sorted((*self.patches, patch), key=lambda each: (each.kind, each.digest, each.values, each.name))
        return replace(self, patches=tuple(patches))


@dataclass(frozen=True)
class Denoiser(Handle, stored=False):
    """The network that removes noise (U-Net or transformer): the space of its latents, and the prompts it reads."""

    space: LatentSpace | None = None
    prompts: str = ""

    def vae(self) -> VAE | None:
        """The autoencoder of the same checkpoint; None where there is none."""
        return None if self.alone else VAE(self.checkpoint, self.digest, self.family, self.folder, space=self.space)


@dataclass(frozen=True)
class TextEncoder(Handle, stored=False):
    """Tokenizer and text encoder(s); `kind` names what prompts become, and is a digest where it is no standard.

    For text encoders in files of their own, `model` is the published model that they belong to, `beside` the further files.
    """

    kind: str = ""
    model: str = ""
    beside: tuple[str, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class VAE(Handle, stored=False):
    """The autoencoder between pixels and latents, with the space its latents lie in."""

    space: LatentSpace | None = None


@dataclass(frozen=True)
class ControlNet(Handle, stored=False):
    """A network that lets a picture steer a denoiser of its family; `width` is that of the prompts it reads, or 0."""

    width: int = 0


@dataclass(frozen=True, eq=False)
class Control(Value, stored=False):
    """A picture that steers by way of a network: how strongly, and in the share of the steps from `start` to `end`.

    `unwanted` says whether the branch of the negative prompt is steered too.
    """

    network: ControlNet
    hint: Image
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    unwanted: bool = True


@dataclass(frozen=True)
class File(Value):
    """Something that a node wrote: absolute path, size in bytes, and the SHA-256 of its bytes."""

    path: str
    bytes: int
    digest: str


@dataclass(frozen=True)
class Curve(Value):
    """A line of a plot: its name, and as many `y` as `x`."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("x", "y"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if len(self.x) != len(self.y):
            raise ValueError(f"Curve {self.name} has {len(self.x)} x and {len(self.y)} y.")


@dataclass(frozen=True)
class VarianceSchedule(Value):
    """How much of the data is left at each timestep: `alphas_cumprod` is abar `[T]`, falling, within 0..1."""

    alphas_cumprod: tuple[float, ...]

    def __post_init__(self) -> None:
        levels = tuple(map(float, self.alphas_cumprod))
        object.__setattr__(self, "alphas_cumprod", levels)
        if not levels or not all(0 <= level <= 1 for level in levels):
            raise ValueError("a variance schedule is a row of numbers within 0..1.")

    def at(self, timestep: int) -> float:
        """abar of a timestep.  Raises ValueError outside 0..T-1."""
        if not 0 <= timestep < len(self.alphas_cumprod):
            raise ValueError(f"timestep {timestep} lies outside 0..{len(self.alphas_cumprod) - 1}.")
        return self.alphas_cumprod[timestep]


def arrays(value: Any) -> Iterator[Any]:
    """Every array and tensor inside a value, lists and nested values included (without recursion)."""
    pending = [value]
    while pending:
        item = pending.pop()
        if hasattr(item, "nbytes") and hasattr(item, "shape"):
            yield item
        elif isinstance(item, Value):
            pending.extend(getattr(item, f.name) for f in fields(item))  # pyright: ignore[reportArgumentType] - every Value is a dataclass
        elif isinstance(item, list | tuple):
            pending.extend(item)
        elif isinstance(item, Mapping):
            pending.extend(item.values())


def nbytes(value: Any) -> int:
    """Memory that a value holds, in bytes; plain numbers count as 64."""
    return 64 + sum(array.nbytes for array in arrays(value))
