"""Modular pipelines of diffusers, and what their blocks hand on.

A modular pipeline is a tree of *blocks* that read and write one *state*: named things such as `prompt_embeds`, `latents`
or `height`.  A handle names a pipeline in a folder, as other handles name weights; a state is what the blocks that ran
have made.  States by their role have types of their own, so that latents do not reach a port for embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphengine.values import Handle, Value

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class ModularBlocks(Handle, stored=False):
    """A modular pipeline in a folder; `pipeline` is its class in diffusers, `family` what diffusers calls its model."""

    pipeline: str = ""


@dataclass(frozen=True, eq=False)
class ModularState(Value):
    """What blocks have made: `values` by name, and by `groups` the names that diffusers hands on together.

    `pipeline` is the digest of the pipeline whose blocks they were; no other takes it.  `schedulers` are those that a block
    has set up for a later one.  Only what comes back from the disk as it was is stored there.
    """

    pipeline: str
    values: Mapping[str, Any]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    schedulers: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        groups = {group: tuple(names) for group, names in self.groups.items()}  # the disk cache gives lists
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "stored", not self.schedulers and all(map(_plain, _leaves(self.values))))


class ModularEmbeddings(ModularState):
    """What a pipeline's text encoder makes of a prompt, and of a negative prompt where it has one."""


class ModularPictures(ModularState):
    """What a pipeline's encoder makes of pictures: latents, masks, sizes."""


class ModularLatents(ModularState):
    """What a pipeline has denoised, in its own form, with all that its decoder reads besides."""


def _leaves(values: Any) -> Iterator[Any]:
    """What stands in mappings and lists, at any depth."""
    left = [values]
    while left:
        now = left.pop()
        if isinstance(now, Mapping):
            left += now.values()
        elif type(now) is list:
            left += now
        else:
            yield now


def _plain(value: Any) -> bool:
    """Whether the disk cache gives a thing back as it was; a tuple would come as a list."""
    return isinstance(value, PLAIN) or type(value).__name__ in ("Tensor", "ndarray")
