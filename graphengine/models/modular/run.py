"""Running one block of a modular pipeline.

A block runs on a pipeline that hands it components as it asks for them, so a node holds the weights of no more than it
uses.  A network of the pipeline that is none of the block's own is asked for facts only, such as how much its autoencoder
reduces a picture; then its config answers.  Schedulers and guiders are made anew for every run: what a block leaves in a
scheduler travels in the state, and two branches of a graph never see each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.models.modeling_utils import ModelMixin
from diffusers.modular_pipelines.modular_pipeline import (
    LoopSequentialPipelineBlocks,
    ModularPipelineBlocks,
    PipelineState,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from graphengine.blocks import ModularBlocks, ModularState
from graphengine.errors import CheckpointError
from graphengine.models.modular import component as components
from graphengine.models.modular import folder as folders
from graphengine.models.modular.pipeline import Opened, check_inputs, open_pipeline, triggers

GENERATOR = "generator"


@dataclass(frozen=True)
class Call:
    """What is wanted of a block: its path, inputs by name, what other blocks have made, and the first picture's seed.

    `written` are inputs as they stand in a workflow, which are checked.  `scale` is that of the guider; None leaves it.
    """

    path: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    written: Mapping[str, Any] = field(default_factory=dict)
    states: tuple[ModularState, ...] = ()
    seed: int | None = None
    count: int = 1
    scale: float | None = None


def opened(ctx: Any, handle: ModularBlocks) -> Opened:
    """The pipeline that a handle means, by way of a node's context.

    Raises:
        CheckpointError: its folder has changed since the run was planned.
    """
    path = Path(handle.folder)
    found = folders.at(path, ctx.settings, handle.checkpoint) if path.exists() else None
    if found is None or found.digest != handle.digest:
        raise CheckpointError(f"the pipeline {handle.checkpoint} was changed while the run went on. Run it again.")
    return open_pipeline(found)


def run(ctx: Any, pipeline: Opened, call: Call) -> ModularState:
    """What the state is after a block; its tensors lie on the CPU.

    By way of a node's context: every step of a loop is reported, and a cancel lands between any two operations.

    Raises:
        CheckpointError: there is no such block, or a component that it uses is missing or does not fit.
        ValueError: an input is unknown, of another type, or missing; or a state is of another pipeline.
    """
    block = deepcopy(pipeline.block(call.path))
    check_inputs(call.path, block, {**dict.fromkeys(call.inputs), **call.written})
    state = _merged(pipeline, call.states, ctx.models.device)
    inputs = {**call.written, **call.inputs}
    if call.seed is not None and GENERATOR in block.input_names:
        inputs[GENERATOR] = _generators(call.seed, call.count)
    for name in inputs.keys() & triggers(block) - set(block.input_names):
        state.set(name, inputs.pop(name))
    for loop in _loops(block):
        loop.progress_bar = partial(_Bar, ctx.progress)  # in place of a bar in the terminal
    given = _Components(pipeline, block, ctx.models, call)
    made = _placed(pipeline, block, given)
    try:
        # a cancel may land where a block would switch gradients on again
        with torch.set_grad_enabled(torch.is_grad_enabled()), _Watching(ctx.check):
            state = made(state=state, **inputs)
    except (AttributeError, NameError, TypeError, ValueError) as error:
        _explain(pipeline, call, given, error)
        raise
    return _kept(pipeline, state, given)


def _generators(seed: int, count: int) -> torch.Generator | list[torch.Generator]:
    """Where noise is drawn: on the CPU, picture i of several from seed + i."""
    made = [torch.Generator("cpu").manual_seed((seed + each) % 2**64) for each in range(count)]
    return made if count > 1 else made[0]


def _explain(pipeline: Opened, call: Call, given: _Components, error: Exception) -> None:
    """Say what is missing where a block fails of it."""
    where, name = call.path or "the whole pipeline", pipeline.folder.name
    if isinstance(error, NameError) and error.name:  # diffusers imports what it can do without when it is there
        raise ValueError(
            f"the block {where} needs the package {error.name}. Install it: pip install {error.name}"
        ) from error
    if given.absent and "NoneType" in str(error):
        raise CheckpointError(
            f"the block {where} uses {', '.join(sorted(given.absent))}, and no such folder lies in {name}. "
            "Put it there: nothing is fetched."
        ) from error
    if "Required input" in str(error):
        raise ValueError(
            f"the block {where} misses something: {error}. Write it, or link a state that has it."
        ) from error


class _Components:
    """Hands out components by name, and remembers which were asked for in vain."""

    def __init__(self, pipeline: Opened, block: ModularPipelineBlocks, models: Any, call: Call):
        self.pipeline, self.models, self.absent = pipeline, models, set[str]()
        self.scheduled: dict[str, Any] = {}
        """The schedulers that were handed out."""
        self._own, self._scale = set(block.component_names), call.scale
        self._left = {name: made for state in call.states for name, made in state.schedulers.items()}

    def __contains__(self, name: object) -> bool:
        return name in self.pipeline.specs

    def get(self, name: str) -> Any:
        """A component; None where there is none, as diffusers has it."""
        spec, folder = self.pipeline.specs[name], self.pipeline.folder
        if name in self._left:
            made = deepcopy(self._left[name])
        elif folder.has(name):
            made = self._load(name, spec)
        elif spec.default_creation_method == "from_config":
            made = deepcopy(spec).create()
        else:
            self.absent |= {name} & self._own
            return None
        if isinstance(made, BaseGuidance) and self._scale is not None and name.startswith("guider"):
            made = made.new(guidance_scale=self._scale, enabled=True)
        if isinstance(made, SchedulerMixin):
            self.scheduled[name] = made
        return made

    def _load(self, name: str, spec: Any) -> Any:
        folder, models = self.pipeline.folder, self.models
        kind = components.class_of(folder, name, spec.type_hint)
        load = partial(components.load, folder, name, kind)
        if not (components.is_network(kind) or components.is_reader(kind)):
            return load(models.device, models.dtype).value
        keep = partial(self._keep, name, load)
        if name in self._own or not issubclass(kind, ModelMixin):
            return keep()
        return components.Described(components.config_of(folder, name, kind), keep)

    def _keep(self, name: str, load: Callable[..., Any]) -> Any:
        folder = self.pipeline.folder
        handle = ModularBlocks(folder.name, folder.digest, "", str(folder.path))
        return self.models.kept(handle, name, partial(folder.numbers, name), load).value


def _placed(pipeline: Opened, block: ModularPipelineBlocks, given: _Components) -> Any:
    """A pipeline of one block, on the device of the models, whose components come when they are asked for."""

    class Placed(pipeline.pipeline):
        def __getattr__(self, name: str) -> Any:
            if "_given" in self.__dict__ and name in self._given:
                value = self._given.get(name)
                self.__dict__[name] = value
                return value
            return super().__getattr__(name)

        @property
        def _execution_device(self) -> torch.device:  # a block of no network would be on the CPU
            return torch.device(given.models.device)

    made = Placed(blocks=block)
    for name in made.component_names:
        made.__dict__.pop(name, None)
    said = pipeline.folder.said
    made.register_to_config(**{spec.name: said[spec.name] for spec in block.expected_configs if spec.name in said})
    made.__dict__["_given"] = given
    return made


# The state


def _merged(pipeline: Opened, states: Iterable[ModularState], device: str) -> PipelineState:
    """One state of several, the later ones above; its tensors on the device.  Raises ValueError."""
    values: dict[str, Any] = {}
    groups: dict[str, list[str]] = {}
    for state in states:
        if state.pipeline != pipeline.folder.digest:
            raise ValueError(f"what is linked was made by another pipeline than {pipeline.folder.name}.")
        values |= state.values
        for group, names in state.groups.items():
            groups[group] = list(dict.fromkeys([*groups.get(group, ()), *names]))
    return PipelineState(tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), values), groups)


def _kept(pipeline: Opened, state: PipelineState, given: _Components) -> ModularState:
    """What travels on: all but nothings and generators, which a later block has from its own seed."""
    values = {name: value for name, value in state.values.items() if value is not None and name != GENERATOR}
    values = tree_map_only(torch.Tensor, lambda tensor: tensor.detach().cpu(), values)
    groups = {group: tuple(dict.fromkeys(names)) for group, names in state.kwargs_mapping.items()}
    return ModularState(pipeline.folder.digest, values, groups, given.scheduled)


# Progress and cancelling


def _loops(block: ModularPipelineBlocks) -> Iterator[Any]:
    if isinstance(block, LoopSequentialPipelineBlocks):
        yield block
    for inner in block.sub_blocks.values():
        yield from _loops(inner)


class _Bar:
    """What a loop takes for its progress bar."""

    def __init__(self, progress: Callable[[int, int], None], iterable: Any = None, total: int | None = None):
        self._progress, self._done, self._iterable = progress, 0, iterable
        self._total = total if total is not None else len(iterable)
        progress(0, self._total)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable:
            yield item
            self.update()

    def update(self, steps: int = 1) -> None:
        self._done += steps
        self._progress(self._done, self._total)


class _Watching(TorchFunctionMode):
    """Asks between any two operations whether to go on, so that a run is cancelled inside a step."""

    def __init__(self, check: Callable[[], None]):
        super().__init__()
        self._check = check

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._check()
        return func(*args, **(kwargs or {}))
