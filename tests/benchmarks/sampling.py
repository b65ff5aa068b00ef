"""What a sampling step costs: GraphEngine's sampler loop against the diffusers pipeline, on the same weights.

Both run the embedded model with DPM-Solver++(2M), trailing timesteps, guidance 3, 64 x 64, from the same noise, in one
process with the same threads; diffusers is called with `output_type="latent"`, so neither decodes.  Seconds per step
are (t(40 steps) - t(10 steps)) / 30, which leaves out what each pays once a run (prompts, noise, schedule).  The sides
take turns; the median of several rounds counts.  The latents of both are compared first.

    python tests/benchmarks/sampling.py [rounds; 7]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from measure import TINY, Cost, cost, judged, table
from torch import Tensor

from graphengine.models.checkpoint import find
from graphengine.models.memory import ModelMemory
from graphengine.models.sampling import Request, sample
from graphengine.settings import Settings
from graphengine.values import Conditioning, Guider, Latent

RATIO_LIMIT = 1.0
PROMPT = "a large red circle on a blue background"
GUIDANCE, LONG, SHORT = 3.0, 40, 10
Side = Callable[[int, int], Tensor]


def ours() -> Side:
    """`latents(batch, steps)` by the path that the Sampler node takes."""
    settings = Settings.load(device="cpu")
    denoiser, encoder, vae = find("tiny", settings).handles()
    assert vae.space
    space, memory = vae.space, ModelMemory(settings)
    text, model = memory.text_encoder(encoder), memory.denoiser(denoiser)
    wanted, unwanted = (Conditioning(text.encode(words).features, encoder.kind) for words in (PROMPT, ""))

    def latents(batch: int, steps: int) -> Tensor:
        request = Request(wanted, unwanted, Guider(GUIDANCE), 0, steps, "dpmpp_2m", "simple")
        empty = Latent(torch.zeros(batch, space.channels, 8, 8), space, empty=True)
        return sample(model, empty, request, lambda done, total, denoised: None)

    return latents


def theirs() -> Side:
    """`latents(batch, steps)` by diffusers' pipeline."""
    pipe = StableDiffusionPipeline.from_pretrained(
        TINY, local_files_only=True, safety_checker=None, dtype=torch.float32
    )
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, prediction_type="v_prediction", timestep_spacing="trailing"
    )
    pipe.set_progress_bar_config(disable=True)

    def latents(batch: int, steps: int) -> Tensor:
        made = pipe(
            [PROMPT] * batch,
            negative_prompt=[""] * batch,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            width=64,
            height=64,
            generator=[torch.Generator().manual_seed(index) for index in range(batch)],
            output_type="latent",
        )
        return made.images  # pyright: ignore - latents, as asked for

    return latents


def per_step(side: Side, batch: int) -> Cost:
    long, short = cost(lambda: side(batch, LONG)), cost(lambda: side(batch, SHORT))
    steps = LONG - SHORT
    return Cost((long.cpu - short.cpu) / steps, (long.wall - short.wall) / steps)


def main(rounds: int) -> None:
    sides = {"diffusers": theirs(), "graphengine": ours()}
    rows = []
    for batch in (1, 8):
        made = [side(batch, LONG) for side in sides.values()]
        difference = float((made[0] - made[1]).abs().max())
        took: dict[str, list[Cost]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                took[name].append(per_step(side, batch))
        cpu = {name: median(c.cpu for c in costs) * 1e3 for name, costs in took.items()}
        wall = {name: median(c.wall for c in costs) * 1e3 for name, costs in took.items()}
        ratios = [judged(m["graphengine"] / m["diffusers"], RATIO_LIMIT, 3) for m in (cpu, wall)]
        milliseconds = [f"{m[name]:.2f}" for m in (cpu, wall) for name in sides]
        rows.append([f"batch {batch}", *milliseconds[:2], ratios[0], *milliseconds[2:], ratios[1], f"{difference:.1e}"])
    head = ["ms per step", "diffusers CPU", "ours CPU", "ratio", "diffusers wall", "ours wall", "ratio", "max |a - b|"]
    table(f"A sampling step, guidance {GUIDANCE:g}, {torch.get_num_threads()} threads", head, rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
