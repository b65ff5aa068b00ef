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
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

# Both must be set before the first import.  Nothing is ever looked up on a hub; and threads that wait for work by
# spinning make a small network ten times slower whenever anything else runs.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import transformers.utils.logging as transformers_log

from graphengine.collector import uncollected
from graphengine.errors import CheckpointError
from graphengine.models import alone, control_files, control_net
from graphengine.models.checkpoint import at, source_of
from graphengine.models.family import DenoiserAdapter, TextAdapter, VAEAdapter
from graphengine.models.variant import variant
from graphengine.settings import Settings
from graphengine.values import VAE, ControlNet, Denoiser, Handle, TextEncoder

transformers_log.disable_progress_bar()
transformers_log.set_verbosity_error()  # what is missing is told by `network`, in a sentence

logger = logging.getLogger(__name__)
Place = tuple[Handle, str]
ROLES = {"Denoiser": "denoiser", "Text": "text", "VAE": "vae"}
SHARE = 0.8
"""Of a device's memory, for weights, when no budget is set."""


class ModelMemory:
    """Loads parts of checkpoints and keeps them."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self.device = settings.resolved_device()
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise CheckpointError("the device is cuda, but torch finds none. Use --device cpu.")
        self.dtype: torch.dtype = getattr(torch, settings.resolved_dtype())
        self.budget = settings.model_budget or _most_of(self.device)
        self._parts: OrderedDict[Place, Any] = OrderedDict()
        self._sizes: dict[Place, int] = {}
        self._lock = threading.Lock()
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

    def release(self) -> None:
        """Let go of every part; what is in use stays until its user is done."""
        with self._lock:
            self._parts.clear()
            self._sizes.clear()
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _part(self, handle: Handle, part: str) -> Any:
        with self._lock:
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

    def _plain(self, handle: Handle, part: str) -> Any:
        """A part as its file has it."""
        place = handle, part
        if isinstance(handle, ControlNet):
            return self._steering(handle, place)
        if place not in self._parts:
            path = Path(handle.folder)
            self._check(handle, path)
            source = alone.source_of(handle) if handle.alone else source_of(path)
            self._make_room(source.numbers(ROLES[part]) * self.dtype.itemsize)
            with uncollected(freeze=True):
                family = importlib.import_module(f"graphengine.models.families.{handle.family}")
                made = getattr(family, part)(source, self.device, self.dtype)
            self._check(handle, path)
            self._keep(place, made, _own_bytes(made))
        return self._parts[place]

    def _steering(self, handle: ControlNet, place: Place) -> Any:
        if place not in self._parts:
            path = Path(handle.folder)
            self._check(handle, path)
            file = control_files.at(path, self._settings, handle.checkpoint)
            self._make_room(file.numbers * self.dtype.itemsize)
            with uncollected(freeze=True):
                made = control_net.load(file, self.device, self.dtype)
            self._check(handle, path)
            self._keep(place, made, _own_bytes(made))
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
            logger.info("the %s of %s leaves to make room", place[1], place[0].checkpoint)
            gone = True
        if gone and self.device.startswith("cuda"):
            torch.cuda.empty_cache()

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


def _most_of(device: str) -> int:
    """Bytes that weights may take where nothing is said."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory * SHARE)
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * SHARE)


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
