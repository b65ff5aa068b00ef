"""Making the embedded model `tiny` from nothing, and going on where an interruption left it.

    1. autoencoder   on pictures drawn for it; gate: the checker reads 98 % of round trips
    2. encoder       learns to name what captions say; gate: 98 % of the attributes
    3. denoiser      on latents that are encoded once
    4. checkpoint    written at every save of the denoiser, with a sample sheet, loss plot and accuracy

Everything lies in one folder: `<stage>.state.pt` to resume from, `<stage>.jsonl` the log, `loss.png`,
`samples.png`, `accuracy.jsonl`, and `tiny/`, a checkpoint that `LoadCheckpoint` takes.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from graphengine.settings import Settings
from graphengine.training import autoencoder, denoiser, language
from graphengine.training.evaluate import Evaluation, evaluate, training_scenes
from graphengine.training.package import write_checkpoint
from graphengine.training.scenes import Scene, draw, random_scene
from graphengine.training.trainer import Stage

VAE_SEED, CHECK_SEED = 7, 99
VAE_PICTURES, VAE_BATCH, VAE_RATE = 20_000, 32, 3e-3
TEXT_BATCH, TEXT_RATE = 128, 2e-3
ROUND_TRIPS, GATE = 400, 0.98
console = Console(stderr=True)


@dataclass(frozen=True)
class Plan:
    """How much training."""

    steps: int = 1800
    vae_steps: int = 1700
    text_steps: int = 700
    scenes: int = 40_000
    batch: int = 128
    seed: int = 0


class GateError(RuntimeError):
    """A stage is not good enough for the next one to start."""


def train_tiny(folder: Path, plan: Plan) -> Path:
    """Train everything that is not trained yet; returns the checkpoint's folder.

    Raises:
        GateError: the autoencoder or the text encoder did not reach its gate; train it longer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vae = _autoencoder(folder, plan)
    tokenizer = language.write_tokenizer(folder / "tokenizer")
    text = _encoder(folder, plan, tokenizer)
    scenes, random = training_scenes(plan.scenes)
    latents = encoded(folder, vae, scenes, random)

    def look(stage: Stage) -> None:
        _report(folder, stage, vae, tokenizer, plan)

    scheme = denoiser.Scheme(plan.steps, plan.batch, seed=plan.seed)
    stage = denoiser.train(latents, scenes, text, tokenizer, folder, scheme, look)
    _write(folder, stage, vae, tokenizer)
    return folder / "tiny"


def _autoencoder(folder: Path, plan: Plan) -> AutoencoderKL:
    if (folder / "vae" / "config.json").is_file():
        return AutoencoderKL.from_pretrained(folder / "vae", low_cpu_mem_usage=False)
    random = np.random.default_rng(VAE_SEED)
    pictures = [draw(random_scene(random), random) for _ in track(range(VAE_PICTURES), "drawing")]
    model = autoencoder.train(np.stack(pictures), folder, plan.vae_steps, VAE_BATCH, VAE_RATE, plan.seed)
    read = round_trips(model)
    console.print(f"autoencoder: the checker reads {read:.1%} of {ROUND_TRIPS} round trips")
    if read < GATE:
        raise GateError(f"the autoencoder reaches {read:.1%}, the gate is {GATE:.0%}; use more --vae-steps.")
    model.save_pretrained(folder / "vae")
    return model


def round_trips(model: AutoencoderKL) -> float:
    """Share of pictures of one thing on plain ground whose every fact survives encoding and decoding."""
    from graphengine.training.checker import score

    random = np.random.default_rng(CHECK_SEED)
    scenes = [random_scene(random, 0, 0) for _ in range(ROUND_TRIPS)]
    pictures = np.stack([draw(scene, random) for scene in scenes])
    restored = autoencoder.decode(model, autoencoder.encode(model, pictures))
    right, total = score(scenes, list(restored))["all"]
    return right / total


def _encoder(folder: Path, plan: Plan, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    if (folder / "text_encoder" / "config.json").is_file():
        return CLIPTextModel.from_pretrained(folder / "text_encoder")
    model, read = language.teach(tokenizer, folder, plan.text_steps, TEXT_BATCH, TEXT_RATE, plan.seed)
    console.print(f"encoder: {read:.1%} of the attributes can be read from captions")
    if read < GATE:
        raise GateError(f"the text encoder reaches {read:.1%}, the gate is {GATE:.0%}; use more --text-steps.")
    model.save_pretrained(folder / "text_encoder")
    return model


def encoded(folder: Path, vae: AutoencoderKL, scenes: list[Scene], random: np.random.Generator) -> Tensor:
    """Scaled latents of one drawing of each scene; encoded once and kept."""
    path = folder / "latents.pt"
    if path.is_file():
        return torch.load(path, weights_only=True)
    parts = []
    for start in track(range(0, len(scenes), 2000), "encoding"):
        pictures = np.stack([draw(scene, random) for scene in scenes[start : start + 2000]])
        parts.append(autoencoder.encode(vae, pictures))
    latents = torch.cat(parts) * vae.config.scaling_factor  # pyright: ignore[reportAttributeAccessIssue]
    torch.save(latents, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)
    return latents


def _write(folder: Path, stage: Stage, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> None:
    """The moving averages as a checkpoint."""
    unet, text = denoiser.build(), language.build(tokenizer)
    unet.load_state_dict(stage.averages["unet"])
    text.load_state_dict(stage.averages["text"])
    parts = {"unet": unet, "vae": vae, "text_encoder": text}
    write_checkpoint(parts, folder / "tokenizer", folder / "tiny")


def _report(folder: Path, stage: Stage, vae: AutoencoderKL, tokenizer: CLIPTokenizer, plan: Plan) -> None:
    """A checkpoint, its accuracy, a sheet of samples and the loss curve."""
    _write(folder, stage, vae, tokenizer)
    settings = Settings.load(model_folders=(folder,))
    results = evaluate(Evaluation(count=48), settings, folder / "samples.png", quiet=True)
    shares = {kind: {fact: r / n for fact, (r, n) in s.items() if n} for kind, s in results.items()}
    with (folder / "accuracy.jsonl").open("a") as log:
        log.write(json.dumps({"step": stage.done, **shares}) + "\n")
    told = ", ".join(f"{kind} {share['all']:.0%}" for kind, share in shares.items())
    console.print(f"step {stage.done} of {plan.steps}: all facts right: {told}")
    plot_loss(folder / f"{stage.name}.jsonl", folder / "loss.png")


def plot_loss(log: Path, to: Path) -> None:
    """The loss curve of a stage's log as a PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [json.loads(row) for row in log.read_text().splitlines()] if log.is_file() else []
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows])
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=log.stem)
    axes.grid(alpha=0.3)
    figure.savefig(to, dpi=110)
    pyplot.close(figure)
