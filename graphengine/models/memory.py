"""The loaded networks, by handle: the only place that moves weights to a device.

A part is loaded when it is first asked for and shared by every run; two runs that ask at once load it once.
"""

from __future__ import annotations

import importlib
import os
import threading
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
from graphengine.models.checkpoint import Source
from graphengine.models.family import DenoiserAdapter, TextAdapter, VAEAdapter
from graphengine.settings import Settings
from graphengine.values import VAE, Denoiser, Handle, TextEncoder

transformers_log.disable_progress_bar()
transformers_log.set_verbosity_error()  # what is missing is told by `network`, in a sentence


class ModelMemory:
    """Loads parts of checkpoints and keeps them."""

    def __init__(self, settings: Settings):
        self.device = settings.resolved_device()
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise CheckpointError("the device is cuda, but torch finds none. Use --device cpu.")
        self.dtype: torch.dtype = getattr(torch, settings.resolved_dtype())
        self._parts: dict[tuple[str, str], Any] = {}
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
                with uncollected(freeze=True):
                    family = importlib.import_module(f"graphengine.models.families.{handle.family}")
                    known = getattr(family, part)(Source(Path(handle.folder)), self.device, self.dtype)
                self._parts[handle.digest, part] = known
        return known
