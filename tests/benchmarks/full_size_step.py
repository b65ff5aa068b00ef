"""Seconds per sampling step of a full-size Stable Diffusion 1.5 with random weights, beside diffusers' own pipeline.

    python tests/full_size.py sd1 FOLDER            makes the file
    python tests/benchmarks/full_size_step.py FOLDER/sd1.safetensors [SIDE; 256] [STEPS; 3]

The same file, float32 on the CPU, guidance on; each in processes of its own, for what one sets of the allocator the other
would gain by.  They run turn by turn, and the best step of each counts.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

from measure import judged, python, table

LIMIT, TURNS, ROUNDS = 1.0, 2, 3
GUIDANCE = 7.5


def prompts() -> tuple[Any, Any]:
    """Text features `[1, 77, 768]` with a prompt, and without."""
    import torch

    generator = torch.Generator().manual_seed(0)
    wanted, unwanted = torch.randn(2, 1, 77, 768, generator=generator)
    return wanted, unwanted


def ours(path: Path, side: int, steps: int) -> Any:
    """What draws so many steps."""
    import torch

    from graphengine.models.checkpoint import find
    from graphengine.models.memory import ModelMemory
    from graphengine.models.sampling import Request, sample
    from graphengine.settings import Settings
    from graphengine.values import Conditioning, Guider, Latent

    settings = Settings.load(device="cpu", model_folders=(path.parent,))
    denoiser, encoder, vae = find(path.name, settings).handles()
    model = ModelMemory(settings).denoiser(denoiser)
    wanted, unwanted = (Conditioning(features, encoder.kind) for features in prompts())
    assert vae.space
    latent = Latent(torch.zeros(1, 4, side // 8, side // 8), vae.space, empty=True)
    request = Request(wanted, unwanted, Guider(GUIDANCE), 0, steps, "ddim", "simple")
    return lambda: sample(model, latent, request, lambda done, total, denoised: None)


def theirs(path: Path, side: int, steps: int) -> Any:
    """What draws so many steps."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from full_size import their_pipeline

    pipe, _ = their_pipeline(path)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing", clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    wanted, unwanted = prompts()
    told = {"prompt_embeds": wanted, "negative_prompt_embeds": unwanted, "guidance_scale": GUIDANCE}
    return lambda: pipe(height=side, width=side, num_inference_steps=steps, output_type="latent", **told)


def best_step(draw: Any, steps: int) -> float:
    """Seconds of a step, the first run left out."""
    best = 1e9
    for number in range(ROUNDS + 1):
        started = time.perf_counter()
        draw()
        best = min(best, (time.perf_counter() - started) / steps if number else best)
    return best


def main(path: Path, side: int, steps: int) -> None:
    best = {"ours": 1e9, "theirs": 1e9}
    for _ in range(TURNS):
        for who in best:
            done = python([__file__, who, path, str(side), str(steps)])
            best[who] = min(best[who], float(done.out.splitlines()[-1]))
    rows = [
        ["GraphEngine", f"{best['ours']:.2f} s", ""],
        ["diffusers", f"{best['theirs']:.2f} s", ""],
        ["ratio", "", judged(best["ours"] / best["theirs"], LIMIT)],
    ]
    table(f"one step of {path.stem}, {side} x {side}, batch 1 with guidance", ["what", "seconds", ""], rows)


if __name__ == "__main__":
    if (role := {"ours": ours, "theirs": theirs}.get(sys.argv[1])) is not None:
        place, numbers = Path(sys.argv[2]), [int(word) for word in sys.argv[3:]]
        print(best_step(role(place, *numbers), numbers[1]))
    else:
        numbers = [int(word) for word in sys.argv[2:]] or [256]
        main(Path(sys.argv[1]), numbers[0], numbers[1] if len(numbers) > 1 else 3)
