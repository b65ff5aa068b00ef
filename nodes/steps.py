"""The reverse process, step by step: what a sampler thinks of the clean picture while it works."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from graphengine import Context, Latent

from .sampling import Sampler


class SamplerSteps(Sampler, category="sampling", lane="gpu"):
    """Like Sampler, and hands out the estimate of the clean latent after every step, and the CPU time of it all."""

    class Outputs(Sampler.Outputs):
        estimates: list[Latent]
        seconds: float

    def run(self, ctx: Context) -> Any:
        began, seen = time.process_time(), []
        latent = self.sampled(ctx, lambda estimate: seen.append(estimate.detach().float().cpu().clone()))
        seconds = time.process_time() - began
        estimates = [replace(self.latent, samples=samples, empty=False) for samples in seen]
        return self.Outputs(latent=latent, estimates=estimates, seconds=seconds)
