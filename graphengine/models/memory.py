"""The loaded networks, by handle: the only place that moves weights to a device.

A part is loaded when it is first asked for and shared by every run; two runs that ask at once load it once.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections import OrderedDict
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
from graphengine.models.checkpoint import at, source_of
from graphengine.models.family import DenoiserAdapter, TextAdapter, VAEAdapter
from graphengine.models.variant import variant
from graphengine.settings import Settings
from graphengine.values import VAE, Denoiser, Handle, TextEncoder

transformers_log.disable_progress_bar()
transformers_log.set_verbosity_error()  # what is missing is told by `network`, in a sentence

VARIANTS = 4
"""Patched networks that are kept; each holds only what its patches change."""


class ModelMemory:
    """Loads parts of checkpoints and keeps them."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self.device = settings.resolved_device()
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise CheckpointError("the device is cuda, but torch finds none. Use --device cpu.")
        self.dtype: torch.dtype = getattr(torch, settings.resolved_dtype())
        self._parts: dict[tuple[str, str], Any] = {}
        self._variants: OrderedDict[tuple[Handle, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    def denoiser(self, handle: Denoiser) -> DenoiserAdapter:
        return self._part(handle, "Denoiser")

    def text_encoder(self, handle: TextEncoder) -> TextAdapter:
        return self._part(handle, "Text")

    def vae(self, handle: VAE) -> VAEAdapter:
        return self._part(handle, "VAE")

    def _part(self, handle: Handle, part: str) -> Any:
        with self._lock:
            known = self._parts.get((handle.digest, part))
            if known is None:
                place = Path(handle.folder)
                self._check(handle, place)
                with uncollected(freeze=True):
                    family = importlib.import_module(f"graphengine.models.families.{handle.family}")
                    known = getattr(family, part)(source_of(place), self.device, self.dtype)
                self._check(handle, place)
                self._parts[handle.digest, part] = known
            return self._variant(handle, part, known) if handle.patches else known

    def _variant(self, handle: Handle, part: str, plain: Any) -> Any:
        """The patched part; the least recently used variant makes room."""
        place = handle, part
        made = self._variants.pop(place, None)
        if made is None:
            made = variant(plain, handle.patches)
        self._variants[place] = made
        while len(self._variants) > VARIANTS:
            self._variants.popitem(last=False)
        return made

    def _check(self, handle: Handle, place: Path) -> None:
        """Weights that are not those that the run was planned with fail it: its keys would name others."""
        if not place.exists() or at(place, self._settings).digest != handle.digest:
            raise CheckpointError(
                f"the checkpoint {handle.checkpoint} was changed while the run went on. Run it again."
            )
