"""Seconds per sampling step of a full-size Stable Diffusion 1.5 with random weights, beside diffusers' own pipeline.

    python tests/full_size.py sd1 FOLDER            makes the file
    python tests/benchmarks/full_size_step.py FOLDER/sd1.safetensors [SIDE; 256] [STEPS; 3]

Both in one process, the same weights in memory, float32 on the CPU, guidance on, turn by turn; the best of each counts.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from measure import judged, table

from graphengine.models.checkpoint import find
from graphengine.models.memory import ModelMemory
from graphengine.models.sampling import Request, sample
from graphengine.settings import Settings
from graphengine.values import Conditioning, Guider, Latent

LIMIT, ROUNDS = 1.0, 3


def main(path: Path, side: int, steps: int) -> None:
    settings = Settings.load(device="cpu", model_folders=(path.parent,))
    denoiser, encoder, vae = find(path.name, settings).handles()
    memory = ModelMemory(settings)
    text, model = memory.text_encoder(encoder), memory.denoiser(denoiser)
    wanted, unwanted = (Conditioning(text.encode(words).features, encoder.kind) for words in ("a red circle", ""))
    assert vae.space
    latent = Latent(torch.zeros(1, 4, side // 8, side // 8), vae.space, empty=True)

    def ours() -> None:
        request = Request(wanted, unwanted, Guider(7.5), 0, steps, "ddim", "simple")
        sample(model, latent, request, lambda done, total, denoised: None)

    network: Any = model
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        timestep_spacing="trailing",
        steps_offset=1,
    )
    pipeline: Any = StableDiffusionPipeline
    pipe: Any = pipeline(
        memory.vae(vae).__dict__["network"],
        text.__dict__["_encoder"].network,
        text.__dict__["_encoder"]._tokenizer,
        network.network,
        scheduler,
        None,
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    prompts = {"prompt_embeds": wanted.features, "negative_prompt_embeds": unwanted.features}

    def theirs() -> None:
        pipe(height=side, width=side, num_inference_steps=steps, guidance_scale=7.5, output_type="latent", **prompts)

    def seconds(call: Callable[[], None]) -> float:
        started = time.perf_counter()
        call()
        return (time.perf_counter() - started) / steps

    ours()  # warm
    theirs()
    best = {"ours": 1e9, "theirs": 1e9}
    for _ in range(ROUNDS):
        best["ours"] = min(best["ours"], seconds(ours))
        best["theirs"] = min(best["theirs"], seconds(theirs))
    ratio = best["ours"] / best["theirs"]
    rows = [
        ["GraphEngine", f"{best['ours']:.2f} s", ""],
        ["diffusers", f"{best['theirs']:.2f} s", ""],
        ["ratio", "", judged(ratio, LIMIT)],
    ]
    table(f"one step of {path.stem}, {side} x {side}, batch 1 with guidance", ["what", "seconds", ""], rows)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[2:]] or [256]
    main(Path(sys.argv[1]), numbers[0], numbers[1] if len(numbers) > 1 else 3)
