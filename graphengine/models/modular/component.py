"""Components of a modular pipeline out of its folder: networks, tokenizers, schedulers, guiders.

Their classes are those that the index names, and only classes of diffusers and transformers; where it names another
library, only the class that the blocks themselves declare.  Networks are made and filled as those of every other model:
safetensors, bounded by what the config may ask for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from graphengine.errors import CheckpointError
from graphengine.models.modular.folder import ModularFolder
from graphengine.models.network import diffusers_network, refusing, transformers_config, transformers_network
from graphengine.models.source import read_json
from graphengine.models.tokenizer import open_tokenizer
from graphengine.models.weights import load_tensors

LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
READERS = ("AutoTokenizer", "AutoProcessor")
PREPARED = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Where a processor says how it prepares pictures."""


@dataclass
class Component:
    """Something that a pipeline works with, as `ModelMemory` keeps it."""

    value: Any


class Described:
    """Stands for a network that a block asks for facts only: `config` is read, the rest loads the network."""

    def __init__(self, config: Any, load: Callable[[], Any]):
        self.config, self._load = config, load

    def __getattr__(self, name: str) -> Any:
        return getattr(self._load(), name)


def class_of(folder: ModularFolder, component: str, declared: Any) -> Any:
    """The class of a component; `declared` is what the blocks say of it.  Raises CheckpointError."""
    entry = folder.entries[component]
    if entry.name == getattr(declared, "__name__", None):
        return declared
    found = getattr(LIBRARIES.get(entry.library), entry.name, None)
    found = found or getattr(LIBRARIES.get(entry.library), entry.name.removesuffix("Fast"), None)
    if not (inspect.isclass(found) and (issubclass(found, _kinds(declared)) or found.__name__ in READERS)):
        raise CheckpointError(
            f"{folder.name}: the component {component} wants {entry.name[:60]!r} of {entry.library[:60]!r}; only networks, "
            f"tokenizers and schedulers of {' and '.join(LIBRARIES)} are loaded. Code that a model names is never run."
        )
    return found


def _kinds(declared: Any) -> tuple[Any, ...]:
    """What a component may be: nothing that would load others in its turn."""
    own = (declared,) if inspect.isclass(declared) else ()
    return (ModelMixin, SchedulerMixin, BaseGuidance, transformers.PreTrainedModel, *_readers(), *own)


def _readers() -> tuple[Any, ...]:
    return (
        transformers.PreTrainedTokenizerBase,
        transformers.ProcessorMixin,
        transformers.ImageProcessingMixin,
        transformers.FeatureExtractionMixin,
    )


def is_network(kind: Any) -> bool:
    """Whether a class has weights."""
    return inspect.isclass(kind) and issubclass(kind, (ModelMixin, transformers.PreTrainedModel))


def is_reader(kind: Any) -> bool:
    """Whether a class makes tokens of text, or what networks take of pictures."""
    return inspect.isclass(kind) and (issubclass(kind, _readers()) or kind.__name__ in READERS)


def config_of(folder: ModularFolder, component: str, kind: Any) -> Any:
    """The config of a network of diffusers, with its class's own values where it is silent.  Raises CheckpointError."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    usual = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    return FrozenDict(usual | folder.source.config(folder.entries[component].part))


def load(folder: ModularFolder, component: str, kind: Any, device: str, dtype: torch.dtype) -> Component:
    """A component of a class, on the device.  Raises CheckpointError when its files do not fit it."""
    part = folder.entries[component].part
    where, source = f"{folder.name}/{part}", folder.source
    if inspect.isclass(kind) and issubclass(kind, ModelMixin):
        config = source.config(part)
        return Component(diffusers_network(kind, config, _tensors(folder, component, kind, dtype), where, device))
    if inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel):
        config = transformers_config(kind.config_class, source.config(part), where)
        return Component(transformers_network(kind, config, source.tensors(part, dtype), where, device, dtype))
    if inspect.isclass(kind) and issubclass(kind, ConfigMixin):
        said = read_json(folder.path / part / str(kind.config_name))
        own = {name: value for name, value in said.items() if name != "_class_name"}  # by which others are imported
        with refusing(f"{where} has a config that cannot be used"):
            return Component(kind.from_config(own))
    for name in PREPARED:
        if (folder.path / part / name).is_file():
            read_json(folder.path / part / name)
    return Component(open_tokenizer(kind, source, part))


def _tensors(folder: ModularFolder, component: str, kind: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights in a format; those that the class wants exact stay in float32, as diffusers has it."""
    exact = getattr(kind, "_keep_in_fp32_modules", None) or []
    exact = {exact} if isinstance(exact, str) else set(exact)
    files = folder.files(component)
    if dtype == torch.float32 or not exact:
        return load_tensors(files, dtype)
    made = load_tensors(files, None)
    for name, tensor in made.items():
        if tensor.is_floating_point():
            made[name] = tensor.to(torch.float32 if exact & set(name.split(".")) else dtype)
    return made
