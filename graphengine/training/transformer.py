"""Training `tiny-dit`: a diffusion transformer (Peebles & Xie 2023) that takes the place of tiny's U-Net.

Every cell of tiny's 8 x 8 latents is a token; words come in by cross-attention, as in PixArt-alpha (Chen et al. 2023),
whose class the network has.  Tiny's own text encoder and autoencoder stay as they are, so prompts and latents go with
both networks.  It learns what the U-Net learned: v, on the same scenes, under the same schedule.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from rich.console import Console
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from graphengine.settings import Settings
from graphengine.training.denoiser import EMPTY_CAPTIONS, TRAIN_TIMESTEPS, Scheme, alphas_cumprod
from graphengine.training.evaluate import TRAINING_SCENES, Evaluation, evaluate, training_scenes
from graphengine.training.language import tokenize, vary
from graphengine.training.optimiser import Optimiser
from graphengine.training.package import write_companion
from graphengine.training.scenes import Scene, caption
from graphengine.training.tiny import encoded, plot_loss
from graphengine.training.trainer import Stage

HEADS, HEAD_WIDTH, BLOCKS, RATE = 4, 48, 5, 2.5e-3
BASE = Path(__file__).parent.parent / "checkpoints" / "tiny"
console = Console(stderr=True)


def build(text_width: int = 128) -> PixArtTransformer2DModel:
    """The untrained transformer on 8 x 8 latents, 3.2 million numbers; it predicts no variance."""
    model = PixArtTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        in_channels=8,
        out_channels=8,
        num_layers=BLOCKS,
        cross_attention_dim=text_width,
        sample_size=8,
        patch_size=1,
        activation_fn="gelu",  # exact, and on a CPU quicker than the approximation
    )
    with torch.no_grad():  # residual branches start near the identity; those of the others are gated
        for name, parameter in model.named_parameters():
            if name.endswith(("attn2.to_out.0.weight", "proj_out.weight")):
                parameter.mul_(0.1)
    return model


@dataclass(frozen=True)
class TransformerPlan:
    """How much training."""

    steps: int = 2200
    scenes: int = TRAINING_SCENES
    batch: int = 64
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Data:
    """What is learned from: scaled latents `[n, 8, 8, 8]` of scenes, and the frozen reader of their captions."""

    latents: Tensor
    scenes: list[Scene]
    text: CLIPTextModel
    tokenizer: CLIPTokenizer
    told: Callable[[Scene], str] = caption

    @classmethod
    def beside(
        cls,
        base: Path,
        folder: Path,
        scenes: list[Scene],
        random: np.random.Generator,
        told: Callable[[Scene], str] = caption,
    ) -> Data:
        """Scenes and the frozen parts of the checkpoint `base`; latents are encoded once and kept in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        vae: Any = AutoencoderKL.from_pretrained(base / "vae", low_cpu_mem_usage=False, torch_dtype=torch.float32)
        text: Any = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32)
        tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
        return cls(encoded(folder, vae, scenes, random), scenes, text, tokenizer, told)

    @torch.no_grad()
    def features(self, captions: list[str]) -> Tensor:
        """Text features `[n, 32, 128]`, float32."""
        ids = tokenize(self.tokenizer, captions).to(self.text.device)
        return self.text(input_ids=ids).last_hidden_state.float()

    def drawn(self, rows: np.ndarray, random: np.random.Generator, empty: float) -> Tensor:
        """Features of captions of scenes, worded anew; a share of them is empty."""
        captions = [vary(self.told(self.scenes[row]), random) for row in rows]
        none = random.random(len(rows)) < empty
        return self.features(["" if e else c for c, e in zip(captions, none, strict=True)])


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """Numbers in 0..1 `[count]`, one of each of as many equal intervals."""
    return (torch.arange(count) + torch.rand(count, generator=generator)) / count


def train_transformer(folder: Path, plan: TransformerPlan, base: Path = BASE) -> Path:
    """Train, or go on, beside the checkpoint `base`; returns the folder that LoadDenoiser takes.

    At every save it is written and measured: `accuracy.jsonl`, `samples.png`, `loss.png`.
    """
    data = Data.beside(base, folder, *training_scenes(plan.scenes))
    made = folder / "checkpoints" / "tiny-dit"

    def look(stage: Stage) -> None:
        write(stage, made, base)
        results = evaluate(
            Evaluation(made.name, 48), Settings.load(model_folders=(folder,)), folder / "samples.png", True
        )
        shares = {kind: {fact: r / n for fact, (r, n) in s.items() if n} for kind, s in results.items()}
        with (folder / "accuracy.jsonl").open("a") as log:
            log.write(json.dumps({"step": stage.done, **shares}) + "\n")
        told = ", ".join(f"{kind} {share['all']:.0%}" for kind, share in shares.items())
        console.print(f"step {stage.done} of {plan.steps}: all facts right: {told}")
        plot_loss(folder / f"{stage.name}.jsonl", folder / "loss.png")

    train(data, folder, Scheme(plan.steps, plan.batch, RATE, plan.seed), look)
    return made


def write(stage: Stage, made: Path, base: Path) -> None:
    """The moving averages as a denoiser that goes with the checkpoint `base`."""
    model = build()
    model.load_state_dict(stage.averages["transformer"])
    made.parent.mkdir(parents=True, exist_ok=True)
    write_companion(model, base, made)


def train(data: Data, folder: Path, scheme: Scheme, look: Callable[[Stage], None] | None = None) -> Stage:
    """Train or go on; returns the stage with its moving averages.  `look(stage)` is called at every save."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(scheme.seed)
    model: Any = build()
    model.to(device)
    model.set_attn_processor(AttnProcessor())  # its backward pass is twice as fast as the fused kernel's on a CPU
    nn.Module.to(data.text, device).eval().requires_grad_(False)
    optimiser = Optimiser([(model, 1.0)], scheme.rate)
    stage = Stage("transformer", {"transformer": model}, optimiser, scheme.steps, folder)
    abar = alphas_cumprod().to(device)

    def loss(step: int) -> Tensor:
        random = np.random.default_rng((scheme.seed, step))
        generator = torch.Generator().manual_seed(scheme.seed * 1_000_003 + step)
        rows = random.integers(0, len(data.scenes), scheme.batch)
        features = data.drawn(rows, random, EMPTY_CAPTIONS)
        clean = data.latents[torch.from_numpy(rows)].to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        timesteps = (stratified(scheme.batch, generator) * TRAIN_TIMESTEPS).long().to(device)
        signal, spread = abar[timesteps].sqrt()[:, None, None, None], (1 - abar[timesteps]).sqrt()[:, None, None, None]
        with torch.autocast(device, torch.bfloat16):
            predicted = model(signal * clean + spread * noise, features, timesteps, return_dict=False)[0].float()
        return (predicted - (signal * noise - spread * clean)).square().mean()

    stage.run(loss, (lambda done: look(stage)) if look else None)
    return stage
