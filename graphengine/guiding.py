"""What is put on top of guidance and prompts: other rules, a push away from a worse estimate, pictures that are shown.

Values like those of `graphengine.values`, for the few who deal with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphengine.values import Handle, Patch, Value

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Projection(Value):
    """Guidance in parts: what lies along the estimate counts `parallel`, no more than `longest` (0: as it is) is added.

    `momentum` is the share of the last update that goes on; below 0 it turns around (Sadat et al. 2024).
    """

    parallel: float = 0.0
    longest: float = 0.0
    momentum: float = 0.0


@dataclass(frozen=True)
class OptimisedScale(Value):
    """Guidance away from the best multiple of the unwanted, and none in the first steps (Fan et al. 2025)."""

    zero_steps: int = 1


@dataclass(frozen=True)
class Perturbation(Value):
    """How strongly a sampler is pushed away from what the network says with disturbed self-attention.

    `layers` are parts of names, separated by commas.  `blur` is that of the queries, in cells; 0 puts the identity in
    place of the attention.
    """

    scale: float
    layers: str = "mid"
    blur: float = 0.0
    start: float = 0.0
    end: float = 1.0

    def patch(self) -> Patch:
        """What makes the disturbed network of a plain one."""
        return Patch("perturbed", self.layers, (self.blur,))


@dataclass(frozen=True)
class Excitation(Value):
    """Words that shall each find a place to be looked at from, and how strongly the latent is moved until they do.

    `words` are the rows of the prompt's features that belong to each of them, `tokens` those of all its words.  `strength` is
    the length of a step along the gradient, of which there are `rounds` in each of the sampler's, up to the share `end` of
    them (Chefer et al. 2023).  `text` is the prompt; for another one the rows would be those of other words.
    """

    words: tuple[tuple[int, ...], ...]
    tokens: tuple[int, ...]
    strength: float = 100.0
    rounds: int = 8
    end: float = 0.34
    layers: str = "mid"
    text: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(map(tuple, self.words)))  # the disk cache gives lists
        object.__setattr__(self, "tokens", tuple(self.tokens))

    def patch(self) -> Patch:
        """What makes a network whose attention can be asked for of a plain one."""
        return Patch("watched", self.layers)


@dataclass(frozen=True, eq=False)
class Attention(Value):
    """Where a network looked while it drew: `maps` `[B, N, h, w]`, the attention of each cell to each of N tokens.

    It is a mean over layers, heads and steps; that of a cell adds up to 1.  `text` is the prompt, `encoder` the kind of its
    text encoder.
    """

    maps: Tensor
    text: str
    encoder: str

    def __post_init__(self) -> None:
        if self.maps.ndim != 4:
            raise ValueError(f"Attention wants [B, N, h, w], got {list(self.maps.shape)}")


@dataclass(frozen=True)
class ClipVision(Handle, stored=False):
    """A network that sees what is in a picture; `width` is that of what it sees as a whole, `hidden` of what it sees in
    each place.
    """

    width: int = 0
    hidden: int = 0


@dataclass(frozen=True)
class Clip(Handle, stored=False):
    """A CLIP with both its encoders, which tells how well a picture goes with words."""


@dataclass(frozen=True)
class IPAdapter(Handle, stored=False):
    """A network that lets a denoiser see pictures as a prompt: how it reads (`kind`), what width, and its tokens'."""

    kind: str = ""
    reads: int = 0
    width: int = 0

    def patch(self) -> Patch:
        """What makes a denoiser that sees of a plain one."""
        return Patch("pictures", self.checkpoint, (), self.digest, self.folder)


@dataclass(frozen=True, eq=False)
class PicturePrompt(Value, stored=False):
    """Tokens `[B or 1, n, D]` that an adapter has made of pictures, and `[1, n, D]` of none, for the negative branch.

    They are shown in the share of the steps from `start` to `end`.
    """

    adapter: IPAdapter
    wanted: Tensor
    unwanted: Tensor
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
