"""The loaded networks, by handle: the only place that moves weights to a device.

A part is loaded when it is first asked for and shared by every run; two runs that ask at once load it once.  All parts
together stay within a budget: before one is loaded, those that were not used for longest leave.

Glossary
    held      bytes of the weights of the parts that are here, patched variants included
    peak      the most that was ever held
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# Both must be set before the first import.  Nothing is ever looked up on a hub; and threads that wait for work by
# spinning make a small network ten times slower whenever anything else runs.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import transformers.utils.logging as transformers_log

from graphengine.collector import uncollected
from graphengine.easing import Easing
from graphengine.errors import CheckpointError
from graphengine.guiding import ClipVision, IPAdapter
from graphengine.machine import WEIGHTS_SHARE, free_memory, give_back, keep_freed_memory, total_memory
from graphengine.models import alone, control_files, control_net, ip_adapter_reading, narrow, offload
from graphengine.models.checkpoint import at, source_of
from graphengine.models.estimate import Part
from graphengine.models.family import DenoiserAdapter, TextAdapter, VAEAdapter
from graphengine.models.later import imported_later
from graphengine.models.narrow import NarrowSource
from graphengine.models.variant import variant
from graphengine.settings import Settings
from graphengine.values import VAE, ControlNet, Denoiser, Handle, TextEncoder

transformers_log.disable_progress_bar()
transformers_log.set_verbosity_error()  # what is missing is told by `network`, in a sentence

logger = logging.getLogger(__name__)
Place = tuple[Handle, str]
ROLES = {"Denoiser": "denoiser", "Text": "text", "VAE": "vae"}
HOST = " on the host"
STREAMED = " by blocks"
"""What is put behind the name of a part that waits on the host, and of one that runs from there block by block."""


class ModelMemory:
    """Loads parts of checkpoints and keeps them."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self.device = settings.resolved_device()
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise CheckpointError("the device is cuda, but torch finds none. Use --device cpu.")
        if self.device == "cpu":
            keep_freed_memory()
        self.dtype: torch.dtype = getattr(torch, settings.resolved_dtype())
        self.budget = settings.model_budget or _most_of(self.device)
        self._parts: OrderedDict[Place, Any] = OrderedDict()
        self._sizes: dict[Place, int] = {}
        self._lock = threading.Lock()
        self.easing = Easing()
        self.peak = 0

    @property
    def held(self) -> int:
        return sum(self._sizes.values())

    def denoiser(self, handle: Denoiser) -> DenoiserAdapter:
        return self._part(handle, "Denoiser")

    def text_encoder(self, handle: TextEncoder) -> TextAdapter:
        return self._part(handle, "Text")

    def vae(self, handle: VAE) -> VAEAdapter:
        return self._part(handle, "VAE")

    def control_net(self, handle: ControlNet) -> control_net.ControlAdapter:
        return self._part(handle, "ControlNet")

    def clip_vision(self, handle: ClipVision) -> ip_adapter_reading.VisionEncoder:
        return self._reader(handle)

    def ip_adapter(self, handle: IPAdapter) -> ip_adapter_reading.ImageProjector:
        return self._reader(handle)

    def _reader(self, handle: ClipVision | IPAdapter) -> Any:
        """What reads pictures for prompts."""
        load = partial(ip_adapter_reading.load, handle, self._settings)
        return self.kept(
            handle, type(handle).__name__, lambda: ip_adapter_reading.numbers(handle, self._settings), load
        )

    def kept(
        self, handle: Handle, part: str, numbers: Callable[[], int], load: Callable[[str, torch.dtype], Any]
    ) -> Any:
        """What `load(device, dtype)` makes of so many numbers: made when first asked for, and kept like all parts."""
        with self._lock:
            place = handle, part
            if place not in self._parts:
                self._make_room(numbers() * self.dtype.itemsize)
                with _loading():
                    made = load(self.device, self.dtype)
                self._keep(place, made, _own_bytes(made))
            self._parts.move_to_end(place)
            return self._parts[place]

    def release(self) -> None:
        """Let go of every part; what is in use stays until its user is done."""
        with self._lock:
            self._parts.clear()
            self._sizes.clear()
        self._emptied()

    def release_others(self, handle: Handle) -> bool:
        """Let go of every part but those of a handle, patched or not; whether there was any."""
        own = replace(handle, patches=())
        with self._lock:
            others = [place for place in self._parts if replace(place[0], patches=()) != own]
            for place in others:
                del self._parts[place], self._sizes[place]
        if others:
            self._emptied()
        return bool(others)

    def _emptied(self) -> None:
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        else:
            give_back()

    @property
    def free(self) -> int | None:
        """Bytes of the device that can still be had; None where nobody tells."""
        if not self.device.startswith("cuda"):
            return free_memory() if self.device == "cpu" else None
        idle = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + idle

    # Weights that stay on the host

    @property
    def streams(self) -> bool:
        """Whether weights can stay on the host and go to the device block by block."""
        wanted = self._settings.offload
        return wanted == "always" or (wanted == "auto" and self.device != "cpu")

    def _runs_by_blocks(self, handle: Handle, part: str) -> bool:
        """Whether a part shall stay on the host: so it was said, or it is larger than what weights may take."""
        if part not in offload.PARTS or not self.streams:
            return False
        if self.easing.by_blocks or self._settings.offload == "always":
            return True
        if (handle, part) in self._parts or isinstance(handle, ControlNet):
            return False
        source = alone.source_of(handle) if handle.alone else source_of(Path(handle.folder))
        if source.numbers(ROLES[part]) * self.dtype.itemsize <= self.budget:
            return False
        told = self.easing.told
        text = f"the weights of {handle.checkpoint} are larger than the device's: they go there block by block."
        told += [text] if text not in told else []
        return True

    def _streamed(self, handle: Handle, part: str) -> Any:
        """A part that runs block by block from the host."""
        place = handle, part + STREAMED
        if place not in self._parts:
            plain = self._plain(replace(handle, patches=()), part, "cpu")
            made = variant(plain, handle.patches) if handle.patches else plain
            self._keep(place, offload.by_blocks(made, self.device), 0)
        self._parts.move_to_end(place)
        return self._parts[place]

    # Loading

    def _part(self, handle: Handle, part: str) -> Any:
        with self._lock:
            if self._runs_by_blocks(handle, part):
                return self._streamed(handle, part)
            place = handle, part
            if place not in self._parts:
                if handle.patches:
                    plain = self._plain(replace(handle, patches=()), part)
                    made = variant(plain, handle.patches)
                    self._keep(place, made, _own_bytes(made, plain))
                else:
                    self._plain(handle, part)
            self._parts.move_to_end(place)
            return self._parts[place]

    def _plain(self, handle: Handle, part: str, device: str = "") -> Any:
        """A part as its file has it, on the device, or on another one that is named: then it counts for nothing here."""
        device = device or self.device
        place = handle, part if device == self.device else part + HOST
        if isinstance(handle, ControlNet):
            return self._steering(handle, place, device)
        if place not in self._parts:
            path = Path(handle.folder)
            self._check(handle, path)
            source = alone.source_of(handle) if handle.alone else source_of(path)
            stays_narrow = part == "Denoiser" and self._settings.keeps_narrow(source.numbers(ROLES[part]))
            if device == self.device:
                self._make_room(Part(handle, self._settings).weights)
            with _loading():
                family = importlib.import_module(f"graphengine.models.families.{handle.family}")
                made = getattr(family, part)(NarrowSource(source) if stays_narrow else source, device, self.dtype)
            if stays_narrow:
                narrow.widen_as_it_runs(made.network, self.dtype)
            self._check(handle, path)
            self._keep(place, made, _own_bytes(made) if device == self.device else 0)
        return self._parts[place]

    def _steering(self, handle: ControlNet, place: Place, device: str) -> Any:
        if place not in self._parts:
            path = Path(handle.folder)
            self._check(handle, path)
            file = control_files.at(path, self._settings, handle.checkpoint)
            if device == self.device:
                self._make_room(file.numbers * self.dtype.itemsize)
            with _loading():
                made = control_net.load(file, device, self.dtype)
            self._check(handle, path)
            self._keep(place, made, _own_bytes(made) if device == self.device else 0)
        return self._parts[place]

    def _keep(self, place: Place, made: Any, size: int) -> None:
        self._make_room(size)
        self._parts[place], self._sizes[place] = made, size
        self.peak = max(self.peak, self.held)

    def _make_room(self, wanted: int) -> None:
        """Let go of what was not used for longest; a part that is too large for the budget is loaded all the same."""
        gone = False
        while self._parts and self.held + wanted > self.budget:
            place, _ = self._parts.popitem(last=False)
            del self._sizes[place]
            self._recount(place)
            logger.info("the %s of %s leaves to make room", place[1], place[0].checkpoint)
            gone = True
        if gone and self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _recount(self, left: Place) -> None:
        """What a part that left shared with its variants is theirs now."""
        own = replace(left[0], patches=())
        if (own, left[1]) in self._parts:
            return
        counted: set[int] = set()
        for place, made in self._parts.items():
            if place[1] == left[1] and replace(place[0], patches=()) == own:
                tensors = {id(tensor): tensor.nbytes for tensor in _tensors(made) if id(tensor) not in counted}
                counted |= tensors.keys()
                self._sizes[place] = sum(tensors.values())

    def _check(self, handle: Handle, place: Path) -> None:
        """Weights that are not those that the run was planned with fail it: its keys would name others."""
        look = control_files.at if isinstance(handle, ControlNet) else at
        if handle.alone:
            same = place.exists() and alone.digest_of(handle, self._settings) == handle.digest
        else:
            same = place.exists() and look(place, self._settings).digest == handle.digest
        if not same:
            raise CheckpointError(
                f"the checkpoint {handle.checkpoint} was changed while the run went on. Run it again."
            )


@contextmanager
def _loading() -> Iterator[None]:
    """Around what imports and makes networks."""
    with uncollected(freeze=True), imported_later():
        yield


def _most_of(device: str) -> int:
    """Bytes that weights may take where nothing is said."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory * WEIGHTS_SHARE)
    return int(total_memory() * WEIGHTS_SHARE)


def _own_bytes(adapter: Any, plain: Any = None) -> int:
    """Bytes of an adapter's weights that are not `plain`'s."""
    shared = {id(tensor) for tensor in _tensors(plain)}
    return sum({id(t): t.nbytes for t in _tensors(adapter) if id(t) not in shared}.values())


def _tensors(adapter: Any) -> Iterator[torch.Tensor]:
    for value in vars(adapter).values() if adapter is not None else ():
        for part in value if isinstance(value, list) else [value]:
            network = part if isinstance(part, torch.nn.Module) else getattr(part, "network", None)
            if isinstance(network, torch.nn.Module):
                yield from network.parameters()
