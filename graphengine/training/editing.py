"""Training `tiny-edit`, which edits a picture by an instruction (InstructPix2Pix, Brooks et al. 2023), from `tiny`.

    1. lesson    tiny's text encoder learns the words of instructions
    2. pairs     drawn before and after an edit, and encoded once with tiny's autoencoder, which stays as it is
    3. edit      tiny's U-Net reads the latent of the picture before beside the noisy one, through new channels that
                 start at zero, and learns to predict the velocity of the picture after
    4. checkpoint and accuracy at every save

The paper's dropping of inputs is kept, so that text and picture can be weighed apart: no text, no picture, neither.
But without a text the wanted picture is the one before: an empty instruction changes nothing, and guidance then
amplifies exactly what the instruction changes.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from graphengine.settings import Settings
from graphengine.training import autoencoder, edit_text
from graphengine.training.denoiser import TRAIN_TIMESTEPS, alphas_cumprod
from graphengine.training.edit_scenes import Edit, View, draw_view, is_held_out, random_edit, random_view
from graphengine.training.edit_words import say, words
from graphengine.training.language import tokenize
from graphengine.training.optimiser import Optimiser
from graphengine.training.package import INDEX, write_checkpoint
from graphengine.training.trainer import Stage

BASE = Path(__file__).parent.parent / "checkpoints" / "tiny"
PAIRS_SEED, EDITS_OF_A_VIEW, GATE = 13, 3, 0.97
DROPPED, IDENTITY = 0.05, 0.03
"""Share of pairs without text, without picture, and without either; share that is told in words to change nothing."""
TEXT_RATE, NEW_CHANNELS = 0.2, 8
OWN_INDEX = {"_class_name": "StableDiffusionInstructPix2PixPipeline", "vae": ["graphengine", "tiny"]}
console = Console(stderr=True)


@dataclass(frozen=True)
class EditPlan:
    """How much training: steps and views (each gives three edits, used both ways), pairs in a step."""

    steps: int = 2600
    text_steps: int = 350
    views: int = 6500
    batch: int = 96
    rate: float = 1.5e-3
    seed: int = 0


@dataclass(frozen=True)
class Pairs:
    """Edits, the rows of their pictures before and after, int64 `[n, 2]`, and unscaled latents `[m, 8, 8, 8]`."""

    edits: list[Edit]
    rows: Tensor
    latents: Tensor


class LessonError(RuntimeError):
    """The text encoder has not learned to read instructions."""


def train_edit(folder: Path, plan: EditPlan, base: Path = BASE) -> Path:
    """Train everything that is not trained yet; returns the checkpoint's folder.

    Raises:
        LessonError: the text encoder did not reach its gate; teach it longer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vae: Any = AutoencoderKL.from_pretrained(base / "vae", low_cpu_mem_usage=False, torch_dtype=torch.float32)
    tokenizer = edit_text.extend_tokenizer(base / "tokenizer", folder / "tokenizer", words())
    text = _encoder(folder, plan, tokenizer, base)
    pairs = _pairs(folder, vae, plan.views)
    console.print(f"{len(pairs.edits)} edits of {len(pairs.latents)} pictures")

    def look(stage: Stage) -> None:
        write(stage, folder)
        _report(folder, stage)

    stage = train(pairs, _unet(base), text, tokenizer, float(vae.config.scaling_factor), folder, plan, look)
    return write(stage, folder)


def widened(unet: Any, channels: int) -> UNet2DConditionModel:
    """A copy of a U-Net that reads `channels` more, through weights that start at zero."""
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    read = config["in_channels"]
    grown: Any = UNet2DConditionModel(**(config | {"in_channels": read + channels}))
    state = unet.state_dict()
    first = state["conv_in.weight"]
    state["conv_in.weight"] = torch.cat([first, first.new_zeros(len(first), channels, *first.shape[2:])], dim=1)
    grown.load_state_dict(state)
    return grown


def _unet(base: Path) -> UNet2DConditionModel:
    unet: Any = UNet2DConditionModel.from_pretrained(base / "unet", low_cpu_mem_usage=False, torch_dtype=torch.float32)
    return widened(unet, NEW_CHANNELS)


def _encoder(folder: Path, plan: EditPlan, tokenizer: CLIPTokenizer, base: Path) -> CLIPTextModel:
    if (folder / "text_encoder" / "config.json").is_file():
        return CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    model: Any = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32)
    model = edit_text.widen_embedding(model, len(tokenizer), plan.seed)
    model, read = edit_text.teach(model, tokenizer, folder, plan.text_steps, plan.seed)
    console.print(f"lesson: {read:.1%} of what instructions ask for can be read from them")
    if read < GATE:
        raise LessonError(f"the text encoder reads {read:.1%} of instructions, the gate is {GATE:.0%}; use more steps.")
    model.save_pretrained(folder / "text_encoder")
    return model


def training_edits(views: int) -> tuple[list[View], list[Edit], np.ndarray]:
    """Views, edits between them, and the rows `[n, 2]` of the views before and after; nothing that is held out."""
    random = np.random.default_rng(PAIRS_SEED)
    drawn: list[View] = []
    edits: list[Edit] = []
    rows: list[tuple[int, int]] = []
    for _ in range(views):
        drawn.append(random_view(random))
        base = len(drawn) - 1
        for _ in range(EDITS_OF_A_VIEW):
            edit = random_edit(drawn[base], random)
            if edit is None:
                continue
            drawn.append(edit.after)
            both = [(edit, (base, len(drawn) - 1)), (edit.turned(), (len(drawn) - 1, base))]
            wanted = [(way, row) for way, row in both if not is_held_out(way)]
            edits += [way for way, _ in wanted]
            rows += [row for _, row in wanted]
    return drawn, edits, np.array(rows)


def _pairs(folder: Path, vae: AutoencoderKL, views: int) -> Pairs:
    """The training pairs; their pictures are encoded once and kept."""
    drawn, edits, rows = training_edits(views)
    path = folder / "edit-latents.pt"
    if path.is_file():
        return Pairs(edits, torch.from_numpy(rows), torch.load(path, weights_only=True))
    parts = [
        autoencoder.encode(vae, np.stack([draw_view(view) for view in drawn[start : start + 1000]]))
        for start in track(range(0, len(drawn), 1000), "encoding")
    ]
    latents = torch.cat(parts)
    torch.save(latents, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)
    return Pairs(edits, torch.from_numpy(rows), latents)


def train(
    pairs: Pairs,
    unet: Any,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scale: float,
    folder: Path,
    plan: EditPlan,
    look: Callable[[Stage], None] | None = None,
) -> Stage:
    """Train on pairs; `scale` is the autoencoder's, by which all but the picture before is scaled.

    `look(stage)` is called at every save and at the end.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(plan.seed)
    unet.to(device, memory_format=torch.channels_last).train()
    unet.set_attn_processor(AttnProcessor())
    nn.Module.to(text, device).train()
    optimiser = Optimiser([(unet, 1.0), (text, TEXT_RATE)], plan.rate)
    stage = Stage("edit", {"unet": unet, "text": text}, optimiser, plan.steps, folder, average_decay=0.998)
    stage.save_seconds, stage.decay_from = 400.0, 0.4
    abar = alphas_cumprod().to(device)

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        ids, before, after = visit(pairs, tokenizer, plan.batch, np.random.default_rng((plan.seed, step)))
        noise = torch.randn(after.shape, generator=generator).to(device)
        strata = (torch.arange(plan.batch) + torch.rand(plan.batch, generator=generator)).to(device)
        timesteps = (strata / plan.batch * TRAIN_TIMESTEPS).long()
        noised, velocity = noisy(after.to(device) * scale, noise, abar[timesteps])
        with torch.autocast(device, torch.bfloat16):
            features = text(input_ids=ids.to(device)).last_hidden_state
            read = torch.cat([noised, before.to(device)], dim=1).contiguous(memory_format=torch.channels_last)
            predicted = unet(read, timesteps, features).sample.float()
        return (predicted - velocity).square().mean()

    stage.run(loss, (lambda done: look(stage)) if look else None)
    return stage


def noisy(clean: Tensor, noise: Tensor, abar: Tensor) -> tuple[Tensor, Tensor]:
    """Noised latents and their velocity (Salimans & Ho 2022, eq. 9), each `[n, c, h, w]`; `abar` is `[n]`."""
    signal, spread = abar.sqrt()[:, None, None, None], (1 - abar).sqrt()[:, None, None, None]
    return signal * clean + spread * noise, signal * noise - spread * clean


def visit(
    pairs: Pairs, tokenizer: CLIPTokenizer, batch: int, random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids `[batch, 32]` and unscaled latents before and after `[batch, 8, 8, 8]` of some pairs.

    Words are drawn anew at every visit; no text means no change, no picture means zeros.
    """
    chosen = random.integers(0, len(pairs.edits), batch)
    share = random.random(batch)
    mute = (share < DROPPED) | ((share >= 2 * DROPPED) & (share < 3 * DROPPED))
    blind = (share >= DROPPED) & (share < 3 * DROPPED)
    told = (share >= 3 * DROPPED) & (share < 3 * DROPPED + IDENTITY)
    edits = [pairs.edits[row].nothing() if told[at] else pairs.edits[row] for at, row in enumerate(chosen)]
    instructions = ["" if mute[at] else say(edit, random) for at, edit in enumerate(edits)]
    rows = pairs.rows[torch.from_numpy(chosen)]
    before, after = pairs.latents[rows[:, 0]], pairs.latents[rows[:, 1]]
    after = torch.where(torch.from_numpy(mute | told)[:, None, None, None], before, after)
    before = torch.where(torch.from_numpy(blind)[:, None, None, None], 0.0, before)
    return tokenize(tokenizer, instructions), before, after


def write(stage: Stage, folder: Path) -> Path:
    """The moving averages as the checkpoint `checkpoints/tiny-edit` in a folder, with tiny's autoencoder by name."""
    unet, text = (copy.deepcopy(stage.modules[name]) for name in ("unet", "text"))
    unet.load_state_dict(stage.averages["unet"])
    text.load_state_dict(stage.averages["text"])
    to = folder / "checkpoints" / "tiny-edit"
    to.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint({"unet": unet, "text_encoder": text}, folder / "tokenizer", to, INDEX | OWN_INDEX)
    return to


def _report(folder: Path, stage: Stage) -> None:
    """Accuracy of the present checkpoint on a few cases, and a sheet of them."""
    from graphengine.training.edit_score import EditEvaluation, evaluate_edits

    settings = Settings.load(model_folders=(folder / "checkpoints",))
    results = evaluate_edits(EditEvaluation(count=12, steps=12), settings, folder / "edits.png")
    shares = {kind: {fact: right / total for fact, (right, total) in s.items()} for kind, s in results.items()}
    with (folder / "accuracy.jsonl").open("a") as log:
        log.write(json.dumps({"step": stage.done, **shares}) + "\n")
    told = ", ".join(f"{kind} {share['all']:.0%}" for kind, share in shares.items())
    console.print(f"step {stage.done} of {stage.steps}: changed and rest kept: {told}")
