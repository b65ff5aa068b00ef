"""A modular pipeline, opened: the tree of its blocks, what each takes and gives, and which components it works with.

Glossary
    path     where a block stands in the tree: `denoise`, `denoise.set_timesteps`; nothing is the whole pipeline
    loop     a block that takes its inner blocks once a step; those are no blocks by themselves
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import UnionType
from typing import Any, Union, get_args, get_origin

import diffusers
from diffusers.modular_pipelines.modular_pipeline import (
    MODULAR_PIPELINE_MAPPING,
    LoopSequentialPipelineBlocks,
    ModularPipeline,
    ModularPipelineBlocks,
)
from diffusers.modular_pipelines.modular_pipeline_utils import INPUT_PARAM_TEMPLATES
from diffusers.pipelines.auto_pipeline import _get_model

from graphengine.blocks import ModularBlocks
from graphengine.errors import CheckpointError, did_you_mean
from graphengine.models.modular.component import class_of
from graphengine.models.modular.folder import ModularFolder

for _room in ("modular_pipelines.modular_pipeline", "guiders.guider_utils"):
    logging.getLogger(f"diffusers.{_room}").setLevel(logging.CRITICAL)  # faults are told by the node that fails
PLAIN = (bool, int, float, str, list, dict)
"""What can be written in a workflow."""


@dataclass(frozen=True)
class Opened:
    """A pipeline's class in diffusers, and its blocks."""

    folder: ModularFolder
    pipeline: type[ModularPipeline]
    blocks: ModularPipelineBlocks

    def handle(self) -> ModularBlocks:
        """A handle on it."""
        family, where = str(self.blocks.model_name), str(self.folder.path)
        name = self.pipeline.__name__
        return ModularBlocks(self.folder.name, self.folder.digest, family, where, pipeline=name)

    @cached_property
    def specs(self) -> dict[str, Any]:
        """What the blocks say of each component: where several do, the first one, as diffusers has it."""
        found: dict[str, Any] = {}
        for spec in self.blocks.expected_components:
            found.setdefault(str(spec.name), spec)
        return found

    @cached_property
    def paths(self) -> dict[str, ModularPipelineBlocks]:
        """Every block that can run, by its path."""
        return dict(_walk("", self.blocks))

    def block(self, path: str) -> ModularPipelineBlocks:
        """The block at a path.  Raises CheckpointError when there is none."""
        if not path:
            return self.blocks
        if path in self.paths:
            return self.paths[path]
        outer = next(
            (name for name, block in self.paths.items() if _is_loop(block) and path.startswith(f"{name}.")), ""
        )
        if outer and path.removeprefix(f"{outer}.") in self.paths[outer].sub_blocks:
            raise CheckpointError(f"the block {path} is a part of the loop {outer}, and runs in it only.")
        hint = did_you_mean(path, self.paths) or f"There is {', '.join(self.blocks.sub_blocks)}."
        raise CheckpointError(f"{self.folder.name} has no block {path!r}. {hint}")


def open_pipeline(folder: ModularFolder) -> Opened:
    """The pipeline of a folder, by what diffusers says of its class.

    Raises:
        CheckpointError: diffusers has no modular pipeline for it, or it wants classes of anybody else's.
    """
    name = folder.class_name if folder.modular else _modular_name(folder)
    if name == ModularPipeline.__name__:  # which says no more than that its blocks are to be asked
        name = _name_of(_blocks_class(folder, "")().model_name, folder.said)
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, ModularPipeline) and kind.default_blocks_name):
        raise CheckpointError(
            f"{folder.name} was made for {folder.class_name[:60]!r}, for which diffusers has no modular pipeline; "
            "LoadCheckpoint may know it."
        )
    opened = Opened(folder, kind, _blocks_class(folder, kind.default_blocks_name)())
    for component in folder.entries:
        if component in opened.specs:
            class_of(folder, component, opened.specs[component].type_hint)
    return opened


def _modular_name(folder: ModularFolder) -> str:
    """The class of the modular pipeline for an ordinary one: diffusers' own table leaves out some, of the same name."""
    name = _name_of(_get_model(folder.class_name), folder.said)
    return name or f"{folder.class_name.removesuffix('Pipeline')}{ModularPipeline.__name__}"


def _name_of(model: str | None, said: Mapping[str, Any]) -> str:
    """The class of a model's modular pipeline; empty where there is none."""
    told = next((told for known, told in MODULAR_PIPELINE_MAPPING.items() if known == model), None)
    return told(dict(said)) if told else ""


def _blocks_class(folder: ModularFolder, usual: str) -> type[ModularPipelineBlocks]:
    """The class of the blocks that a modular index names, or the usual one.  Raises CheckpointError."""
    name = str(folder.said.get("_blocks_class_name") or usual) if folder.modular else usual
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, ModularPipelineBlocks)):
        raise CheckpointError(
            f"{folder.name} wants the blocks {name[:60]!r}, which diffusers does not have. "
            "Code that a model names is never run."
        )
    if usual and not getattr(kind, "block_classes", None):  # put together by hand: the index does not say of what
        return getattr(diffusers, usual)
    return kind


def _is_loop(block: ModularPipelineBlocks) -> bool:
    return isinstance(block, LoopSequentialPipelineBlocks)


def _walk(prefix: str, block: ModularPipelineBlocks) -> Iterator[tuple[str, ModularPipelineBlocks]]:
    for name, inner in {} if _is_loop(block) else block.sub_blocks.items():
        yield prefix + name, inner
        yield from _walk(f"{prefix}{name}.", inner)


# What is told of a block


def describe(opened: Opened, path: str) -> str:
    """A block's inputs, outputs, components and inner blocks, one a line.  Raises CheckpointError."""
    block = opened.block(path)
    lines = [f"{path or opened.folder.name}: {type(block).__name__} of {opened.pipeline.__name__}"]
    for param in block.inputs:
        if param.name:
            needed = ", needed" if param.required else f", {param.default!r}" if param.default is not None else ""
            lines.append(f"  input {param.name}: {_told(_hint(param))}{needed}")
    lines += [f"  output {param.name}: {_told(param.type_hint)}" for param in block.outputs]
    for spec in block.expected_components:
        made = spec.default_creation_method == "from_config"
        there = (
            "in the folder" if opened.folder.has(str(spec.name)) else "made as usual" if made else "not in the folder"
        )
        lines.append(f"  component {spec.name}: {_told(spec.type_hint)}, {there}")
    prefix = f"{path}." if path else ""
    lines += [
        f"  block {name}" for name in opened.paths if name.startswith(prefix) and name.count(".") == prefix.count(".")
    ]
    return "\n".join(lines)


def check_inputs(path: str, block: ModularPipelineBlocks, given: Mapping[str, Any]) -> None:
    """Refuse written inputs that a block does not have, or of another type.  Raises ValueError."""
    known = {str(param.name): param for param in block.inputs if param.name}
    for name, value in given.items():
        if name not in known and name in triggers(block):
            continue
        if name not in known:
            hint = did_you_mean(name, known) or f"There is {', '.join(known)}."
            raise ValueError(f"the block {path or 'of the whole pipeline'} has no input {name!r}. {hint}")
        hints = _hints(_hint(known[name]))
        if value is not None and hints and not any(_fits(value, hint) for hint in hints):
            told = " or ".join(_told(hint) for hint in hints)
            link = "" if any(hint in PLAIN for hint in hints) else " That cannot be written: link a state that has it."
            raise ValueError(
                f"{name} of the block {path} wants {told}, got {type(value).__name__} {value!r:.60}.{link}"
            )


def triggers(block: ModularPipelineBlocks) -> set[str]:
    """Inputs by which inner blocks are chosen; some stand in no list of inputs."""
    inner = [triggers(each) for each in block.sub_blocks.values()]
    return {name for name in getattr(block, "block_trigger_inputs", ()) if name}.union(*inner)


def _hint(param: Any) -> Any:
    """The type that diffusers says of an input, or has for its name; None where it says none."""
    return param.type_hint or INPUT_PARAM_TEMPLATES.get(param.name, {}).get("type_hint")


def _hints(hint: Any) -> list[Any]:
    """The types that an input may have, without their parameters; none where anything may come."""
    if hint is None or hint is Any:
        return []
    if get_origin(hint) in (Union, UnionType):
        inner = [_hints(option) for option in get_args(hint) if option is not type(None)]
        return [each for options in inner for each in options] if all(inner) else []
    plain = get_origin(hint) or hint
    return [plain] if isinstance(plain, type) else []


def _fits(value: Any, hint: type) -> bool:
    """Whether a written value may stand for a type; one text or number for a list of them, as diffusers takes it."""
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float)
    if hint in (tuple, set):
        return isinstance(value, list)
    return isinstance(value, hint)


def _told(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_told(option) for option in get_args(hint))
    return "anything" if hint is None else getattr(hint, "__name__", str(hint))
