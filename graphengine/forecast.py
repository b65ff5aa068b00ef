"""How much memory a run will need, node by node, told before anything is loaded.

The graph is walked in the order in which it runs, with sizes in place of pictures.  Nodes that hand out handles are run,
because they only look at files; of all others it is known what they read: a latent and a denoiser make a sampler,
whatever its name is.  Weights come and go as `models.memory` lets them.

    pages    bytes of files that lie in memory while weights are made of them; the system takes them back when it needs to
    work     what a node needs beside the weights: a network's tensors, and what kernels take
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from graphengine.errors import GraphEngineError
from graphengine.graph import Graph, Task
from graphengine.machine import WEIGHTS_SHARE, device_memory, resident_memory, total_memory
from graphengine.models.assets import input_picture
from graphengine.models.estimate import Part, Size, patched_weights
from graphengine.node import Context, Services
from graphengine.settings import Settings
from graphengine.values import VAE, Conditioning, ControlNet, Denoiser, Handle, Image, Latent, Mask, TextEncoder

logger = logging.getLogger(__name__)
MIB = 2**20
RUNTIME = {"cpu": 475 * MIB, "cuda": 600 * MIB}
"""The process with its libraries, before any weights; on a device, what its context takes there."""
UNKNOWN = Size(1, 512, 512)
PICTURES = (Image, Mask, Latent)


@dataclass(frozen=True)
class Prompt:
    """A conditioning: the networks that steer it."""

    steering: tuple[ControlNet, ...] = ()


@dataclass(frozen=True)
class Step:
    """What one node needs, in bytes: weights held then, those that it loads, pages, work; and its work in smaller pieces."""

    node: str
    type: str
    held: int
    loaded: int
    own: int
    pages: int
    work: int
    pieces: int
    values: int
    assumed: bool = False

    def peak(self, runtime: int) -> int:
        """The most that lies in memory while it runs: when its weights are loaded, or when it works."""
        return runtime + self.values + self.held + max(self.work, self.pages)

    def needed(self, runtime: int) -> int:
        """The same without what the system can take back."""
        return runtime + self.values + self.held + self.work

    def alone(self, runtime: int) -> int:
        """What it needs when all other models are let go of."""
        return runtime + self.values + self.own + self.work

    def least(self, runtime: int) -> int:
        """What it needs when it works in smaller pieces as well."""
        return runtime + self.values + self.own + self.pieces


@dataclass(frozen=True)
class Forecast:
    """Steps of a run, and what there is: `free` and `total` bytes of the device (None where nobody tells), the budget."""

    device: str
    runtime: int
    budget: int | None
    free: int | None
    total: int | None
    steps: tuple[Step, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def worst(self) -> Step | None:
        """The node at which most lies in memory."""
        return max(self.steps, key=lambda step: step.peak(self.runtime), default=None)

    @property
    def peak(self) -> int:
        """Bytes that lie in memory at the worst moment."""
        return self.worst.peak(self.runtime) if self.worst else self.runtime

    @property
    def needed(self) -> int:
        """Bytes that must be there at the worst moment."""
        return max((step.needed(self.runtime) for step in self.steps), default=self.runtime)

    @property
    def fits(self) -> bool:
        """Whether it can be done as it is asked for; yes where nobody knows what there is."""
        return self.free is None or self.needed <= self.free

    def measures(self) -> list[str]:
        """What would be done about every node that does not fit, in the order in which it is tried."""
        if self.free is None:
            return []
        told = []
        for step in self.steps:
            if step.needed(self.runtime) <= self.free:
                continue
            if step.alone(self.runtime) <= self.free:
                what = "all other models are let go of"
            elif step.least(self.runtime) <= self.free:
                what = "all other models are let go of, and it is done in smaller pieces"
            else:
                short = -(-(step.least(self.runtime) - self.free) // MIB)
                what = f"even alone and in smaller pieces it lacks {short:,} MiB; smaller pictures, or another number format"
            told.append(f"{step.node}: {what}.")
        return told

    def document(self) -> dict[str, Any]:
        """The forecast as JSON."""
        steps = [
            {
                "node": step.node,
                "type": step.type,
                "weights": step.held,
                "loaded": step.loaded,
                "work": step.work,
                "peak": step.peak(self.runtime),
                "assumed": step.assumed,
            }
            for step in self.steps
        ]
        return {
            "device": self.device,
            "peak": self.peak,
            "needed": self.needed,
            "free": self.free,
            "total": self.total,
            "budget": self.budget,
            "fits": self.fits,
            "measures": self.measures(),
            "faults": list(self.faults),
            "steps": steps,
        }


@dataclass
class _Walk:
    """The state of a walk: what ports give, which weights are held, and what has been found."""

    settings: Settings
    budget: int | None
    values: dict[tuple[int, str], Any] = field(default_factory=dict)
    held: OrderedDict[Handle, int] = field(default_factory=OrderedDict)
    kept: int = 0
    steps: list[Step] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    # Ports

    def take(self, task: Task, position: int) -> dict[str, Any]:
        """What a task reads, by input; of a list the last."""
        found: dict[str, Any] = dict(task.literals)
        for wire in task.wires:
            value = self.values.get((wire.source, wire.port))
            if value is not None and not (isinstance(found.get(wire.input), Size) and isinstance(value, Size)):
                found[wire.input] = value
        return found

    def give(self, task: Task, position: int, inputs: Mapping[str, Any]) -> None:
        """What a task gives: handles by running it, sizes by rule."""
        kinds = {name: port.type for name, port in task.info.outputs.items()}
        handles = bool(kinds) and all(isinstance(kind, type) and issubclass(kind, Handle) for kind in kinds.values())
        if handles and task.info.plugin == "graphengine" and not task.mapped:
            self._run(task, position, inputs)
            return
        for name, kind in kinds.items():
            if not isinstance(kind, type):
                continue
            if issubclass(kind, PICTURES):
                size = self.values[position, name] = self._size(task, inputs)
                self.kept += _bytes(kind, size)
            elif issubclass(kind, Conditioning):
                self.values[position, name] = _prompt(inputs)

    def _run(self, task: Task, position: int, inputs: Mapping[str, Any]) -> None:
        context = Context(task.id, Services(self.settings, None))
        try:
            made = task.info.build(dict(inputs)).run(context)
        except (GraphEngineError, OSError, ValueError) as error:
            self.faults.append(f"{task.id}: what it hands out is not known: {str(error)[:200]}")
            return
        for name in task.info.outputs:
            self.values[position, name] = getattr(made, name)

    def _size(self, task: Task, inputs: Mapping[str, Any]) -> Size:
        """Of what a node gives: what its inputs say, else the size of what it reads, else a guess."""
        read = next((value for value in inputs.values() if isinstance(value, Size)), None)
        wide, high = inputs.get("width"), inputs.get("height")
        batch = inputs.get("batch")
        count = batch if isinstance(batch, int) else read.batch if read else 1
        if isinstance(wide, int) and isinstance(high, int) and wide > 0 and high > 0:
            return Size(count, wide, high)
        if read is not None:
            return replace(read, batch=count)
        return self._seen(inputs) or UNKNOWN

    def _seen(self, inputs: Mapping[str, Any]) -> Size | None:
        """The size of a picture that is named."""
        name = inputs.get("file")
        if not isinstance(name, str):
            return None
        from PIL import Image as pillow

        try:
            with pillow.open(input_picture(self.settings, name)) as picture:
                return Size(1, *picture.size)
        except (GraphEngineError, OSError, ValueError):
            return None

    # Weights

    def load(self, handles: Iterable[Handle]) -> tuple[int, int, int]:
        """Hold the weights that handles name: bytes that are new, pages read for them, and bytes of all that were asked for."""
        new = pages = own = 0
        for handle in handles:
            plain = replace(handle, patches=())
            part = Part(plain, self.settings)
            if plain not in self.held:
                self._hold(plain, part.weights)
                new, pages = new + part.weights, max(pages, part.pages)
            self.held.move_to_end(plain)
            own += part.weights
            if handle.patches:
                extra = patched_weights(part, handle.patches)
                own += extra
                if handle not in self.held:
                    self._hold(handle, extra)
                    new += extra
                self.held.move_to_end(handle)
        return new, pages, own

    def _hold(self, handle: Handle, size: int) -> None:
        while self.held and self.budget is not None and sum(self.held.values()) + size > self.budget:
            self.held.popitem(last=False)
        self.held[handle] = size

    # Work

    def look(self, task: Task, inputs: Mapping[str, Any]) -> None:
        """Add the step of a task that works with a network."""
        if task.info.facts.lane != "gpu":
            return
        handles = [value for value in inputs.values() if isinstance(value, Handle)]
        sizes = [value for value in inputs.values() if isinstance(value, Size)]
        prompts = [value for value in inputs.values() if isinstance(value, Prompt)]
        steering = list(dict.fromkeys(net for prompt in prompts for net in prompt.steering))
        if not handles:
            return
        size, assumed = (sizes[0], False) if sizes else (UNKNOWN, not isinstance(handles[0], TextEncoder))
        new, pages, own = self.load([*steering, *handles])
        work = pieces = 0
        for handle in handles:
            part = Part(replace(handle, patches=()), self.settings)
            needs = self._work(part, task, inputs, size, [Part(net, self.settings) for net in steering])
            work, pieces = max(work, needs[0]), max(pieces, needs[1])
        held = sum(self.held.values())
        made = Step(task.id, task.info.name, held, new, own, pages, work, min(work, pieces), self.kept, assumed)
        self.steps.append(made)

    def _work(
        self, part: Part, task: Task, inputs: Mapping[str, Any], size: Size, steering: list[Part]
    ) -> tuple[int, int]:
        """Bytes of a network at work on everything at once, and in the smallest pieces."""
        if isinstance(part.handle, Denoiser):
            branches = _branches(part, inputs)
            return part.drawing(size, branches, steering), part.drawing(size.picture, branches, steering)
        if isinstance(part.handle, VAE):
            encodes = any(port.type is Latent for port in task.info.outputs.values())
            return part.coding(size, encodes), part.coding(size.picture, encodes, tiled=True)
        reading = part.reading() if isinstance(part.handle, TextEncoder) else 0
        return reading, reading


def _branches(part: Part, inputs: Mapping[str, Any]) -> int:
    """How often every picture goes through a denoiser in a step."""
    if part.configs[0].get("guidance_embeds"):
        return 1
    prompts = sum(isinstance(value, Prompt) for value in inputs.values())
    return max(1, prompts if inputs.get("guidance") != 1 else 1)


def _prompt(inputs: Mapping[str, Any]) -> Prompt:
    found = [value for value in inputs.values() if isinstance(value, Prompt)]
    nets = tuple(value for value in inputs.values() if isinstance(value, ControlNet))
    return Prompt(tuple(net for prompt in found for net in prompt.steering) + nets)


def _bytes(kind: type, size: Size) -> int:
    cells = size.batch * size.width * size.height
    return cells * 12 if issubclass(kind, Image) else cells * 4 if issubclass(kind, Mask) else cells // 4


def forecast(graph: Graph, settings: Settings, work: Iterable[int] | None = None) -> Forecast:
    """What a run of the graph needs; with `work`, of a run that computes only the tasks at these positions."""
    device = settings.resolved_device()
    told = device_memory(device)
    free, total = told if told else (None, None)
    if free is not None and device == "cpu":
        free += resident_memory()  # what this process holds is that of the run, or goes when it ends
    whole = total if total is not None else (total_memory() if device == "cpu" else None)
    budget = settings.model_budget or (int(whole * WEIGHTS_SHARE) if whole is not None else None)
    walk, wanted = _Walk(settings, budget), None if work is None else set(work)
    for position, task in enumerate(graph.tasks):
        inputs = walk.take(task, position)
        if wanted is None or position in wanted:
            try:
                walk.look(task, inputs)
            except (GraphEngineError, OSError, ValueError, TypeError, KeyError) as error:
                logger.debug("no forecast of %s", task.id, exc_info=True)
                walk.faults.append(f"{task.id}: what it needs is not known: {str(error)[:200]}")
        walk.give(task, position, inputs)
    runtime = RUNTIME["cpu" if device == "cpu" else "cuda"] if walk.steps else 0
    return Forecast(device, runtime, budget, free, total, tuple(walk.steps), tuple(walk.faults))
