"""Training three LoRAs of tiny that tell what distillation does: `tiny-open`, `tiny-few-step` and its control.

`tiny-open` is the teacher.  It draws what a prompt leaves open: `a large circle on the left` may have any colours.  That
takes steps, for what is open is settled little by little, while a prompt that says all is drawn in one.
`tiny-few-step` begins as the teacher and learns by progressive distillation (Salimans & Ho 2022, algorithm 2) with
guidance distilled in (Meng et al. 2023): one step of the student lands where several guided steps of the teacher do, so
that it needs few steps, and no second branch for guidance.  `tiny-few-step-control` begins as the teacher too, and is
trained on for as long by the plain loss.
What is learned are low-rank differences of the U-Net's weights (Hu et al. 2021), in files that LoadLora reads.

Glossary
    level     a timestep that the sampler visits: the `simple` schedule's for as many steps as the student shall need
    substeps  steps of the teacher that one of the student's replaces
    lows      the low-rank differences, by layer
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graphengine.settings import Settings
from graphengine.training.denoiser import EMPTY_CAPTIONS, TRAIN_TIMESTEPS, alphas_cumprod
from graphengine.training.evaluate import TRAINING_SCENES, Evaluation, open_accuracy
from graphengine.training.optimiser import Optimiser
from graphengine.training.trainer import Stage
from graphengine.training.transformer import BASE, Data, stratified

PREFIX, LOOKS, UNSAID = "lora_unet_", 50, 0.5
TEACHER, NAME, CONTROL = "tiny-open", "tiny-few-step", "tiny-few-step-control"
"""LoRAs that come with the package: the teacher, its student, and the teacher trained on for as long."""
LORAS = BASE.parent / "loras"
console = Console(stderr=True)
Lows = Mapping[str, Tensor]


@dataclass(frozen=True)
class Lesson:
    """What is taught, and for how long: to do as the teacher does with this guidance, or by the plain loss if it is 0."""

    steps: int
    batch: int = 48
    rate: float = 1e-3
    seed: int = 0
    student_steps: int = 4
    substeps: int = 2
    guidance: float = 3.0
    rank: int = 10


class LowRank(nn.Module):
    """A difference `up @ down` that is added to a weight `[out, in, ...]`; at first it is zero."""

    def __init__(self, shape: torch.Size, rank: int):
        super().__init__()
        rest = shape[1:].numel()
        self.down = nn.Parameter(torch.randn(rank, rest) / rest**0.5)
        self.up = nn.Parameter(torch.zeros(shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def adapted(
    unet: UNet2DConditionModel, rank: int, start: Lows | None = None
) -> tuple[UNet2DConditionModel, nn.ModuleDict]:
    """A copy of a U-Net whose linear and convolution layers have low-rank differences, and those by layer.

    They begin as `start`, or as nothing.
    """
    student = copy.deepcopy(unet).requires_grad_(False)
    found = nn.ModuleDict()
    for name, layer in list(student.named_modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            low = LowRank(layer.weight.shape, rank)
            parametrize.register_parametrization(layer, "weight", low)
            found[name.replace(".", "_")] = low
    if start:
        found.load_state_dict(start)
    return student, found


def merged(unet: UNet2DConditionModel, rank: int, lows: Lows) -> UNet2DConditionModel:
    """A copy of a U-Net with differences as `adapted` gives them, added to its weights for good."""
    made, _ = adapted(unet, rank, lows)
    for layer in list(made.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")
    return made.requires_grad_(False)


def read_lora(path: Path) -> Lows:
    """The differences in a file that `write_lora` wrote, as the state of the module that `adapted` gives."""
    tensors = load_file(path)
    stems = {name.removeprefix(PREFIX).split(".")[0] for name in tensors}
    made: dict[str, Tensor] = {}
    for stem in stems:
        for side in ("down", "up"):
            made[f"{stem}.{side}"] = tensors[f"{PREFIX}{stem}.lora_{side}.weight"].float().flatten(1)
    return made


def write_lora(unet: UNet2DConditionModel, lows: Lows, path: Path) -> None:
    """Write differences (a state of the module that `adapted` gives) for a U-Net in kohya's names, half precision."""
    tensors: dict[str, Tensor] = {}
    for name, layer in unet.named_modules():
        stem = name.replace(".", "_")
        if f"{stem}.up" in lows:
            down, up = lows[f"{stem}.down"], lows[f"{stem}.up"]
            ends = [1] * (layer.weight.ndim - 2)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
            shape = layer.weight.shape[1:]  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]
            tensors[f"{PREFIX}{stem}.lora_down.weight"] = down.reshape(len(down), *shape).half().contiguous()
            tensors[f"{PREFIX}{stem}.lora_up.weight"] = up.reshape(*up.shape, *ends).half().contiguous()
            tensors[f"{PREFIX}{stem}.alpha"] = torch.tensor(float(len(down)))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})


def moved(x: Tensor, v: Tensor, level: Tensor, following: Tensor) -> Tensor:
    """DDIM from one abar to another (Song et al. 2021, eq. 12) along a predicted v; in the variance-preserving space."""
    signal, spread = level.sqrt(), (1 - level).sqrt()
    clean, noise = signal * x - spread * v, spread * x + signal * v
    return following.sqrt() * clean + (1 - following).sqrt() * noise


def velocity_between(x: Tensor, landed: Tensor, level: Tensor, following: Tensor) -> Tensor:
    """The v whose one DDIM step goes from x to `landed`: Salimans & Ho 2022, appendix G, solved for v."""
    signal, spread = level.sqrt(), (1 - level).sqrt()
    ratio = (1 - following).sqrt() / spread
    clean = (landed - ratio * x) / (following.sqrt() - ratio * signal)
    return (signal * x - clean) / spread


class Teacher:
    """A U-Net with guidance, on a grid of `student_steps * substeps` levels."""

    def __init__(self, unet: UNet2DConditionModel, lesson: Lesson, empty: Tensor):
        self._unet, self._lesson, self._empty = unet, lesson, empty
        fine = lesson.student_steps * lesson.substeps
        self.timesteps = torch.tensor([TRAIN_TIMESTEPS - 1 - int(i * TRAIN_TIMESTEPS / fine) for i in range(fine)])
        self.abar = torch.cat([alphas_cumprod()[self.timesteps], torch.ones(1)])

    @torch.no_grad()
    def landed(self, x: Tensor, features: Tensor, rows: Tensor) -> Tensor:
        """Where the teacher gets from x `[B, C, h, w]`, at the student's steps `rows` `[B]`, until its next ones."""
        words = torch.cat([features, self._empty.expand_as(features)])
        for substep in range(self._lesson.substeps):
            at = rows * self._lesson.substeps + substep
            timesteps = self.timesteps[at].repeat(2).to(x.device)
            both = self._unet(torch.cat([x, x]), timesteps, words, return_dict=False)[0].float()
            wanted, bare = both.chunk(2)
            guided = bare + self._lesson.guidance * (wanted - bare)
            x = moved(x, guided, self.level(at), self.level(at + 1))
        return x

    def level(self, at: Tensor) -> Tensor:
        """abar `[B, 1, 1, 1]` at places of the grid; the one after the last is 1."""
        return self.abar[at][:, None, None, None].to(self._unet.device)


def train_lora(
    model: str, folder: Path, lesson: Lesson, scenes: int = TRAINING_SCENES, teacher: Path | None = None
) -> Path:
    """Train one of the three, or go on; returns the file that LoadLora takes.

    Student and control begin as the `teacher`, by default the one that comes with the package.  At every save the file is
    written and measured: `accuracy.jsonl` has the share of prompts that leave colours open drawn right, in 20 guided steps
    and in as few as the student shall need, without guidance.
    """
    data = Data.beside(BASE, folder, scenes)
    unet: Any = UNet2DConditionModel.from_pretrained(BASE / "unet", low_cpu_mem_usage=False, torch_dtype=torch.float32)
    made = folder / "loras" / f"{model}.safetensors"
    settings = Settings.load(model_folders=(folder,))
    slow = Evaluation(BASE.name, LOOKS, guidance=lesson.guidance or 3.0, lora=made.name)
    quick = replace(slow, steps=lesson.student_steps, guidance=1.0, sampler="ddim")

    def look(stage: Stage) -> None:
        write_lora(unet, stage.averages["lora"], made)
        shares = {f"{way.steps} steps": open_accuracy(way, settings) for way in (slow, quick)}
        with (folder / "accuracy.jsonl").open("a") as log:
            log.write(json.dumps({"name": stage.name, "step": stage.done, **shares}) + "\n")
        told = ", ".join(f"{share:.0%} in {name}" for name, share in shares.items())
        console.print(f"step {stage.done} of {lesson.steps}: right: {told}")

    start = None if model == TEACHER else read_lora(teacher or LORAS / f"{TEACHER}.safetensors")
    train(data, unet, folder, lesson, start, look)
    return made


def train(
    data: Data,
    unet: UNet2DConditionModel,
    folder: Path,
    lesson: Lesson,
    start: Lows | None = None,
    look: Callable[[Stage], None] | None = None,
) -> Stage:
    """Teach or go on; the stage's module `lora` holds the differences, which begin as `start`.

    `look(stage)` is called at every save.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(lesson.seed)
    network: Any = unet
    network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    nn.Module.to(data.text, device).eval().requires_grad_(False)
    unet.set_attn_processor(AttnProcessor())
    made: Any = adapted(unet, lesson.rank, start)
    student, lows = made
    optimiser = Optimiser([(lows, 1.0)], lesson.rate, vectors=1.0)
    name = "few_step" if lesson.guidance else "plain"
    stage = Stage(name, {"lora": lows.to(device)}, optimiser, lesson.steps, folder, warm_up=20)
    teacher = None
    if lesson.guidance:
        teacher = Teacher(merged(unet, lesson.rank, start) if start else unet, lesson, data.features([""]))
    abar = alphas_cumprod()

    def loss(step: int) -> Tensor:
        random = np.random.default_rng((lesson.seed, step))
        generator = torch.Generator().manual_seed(lesson.seed * 1_000_003 + step)
        rows = random.integers(0, len(data.scenes), lesson.batch)
        features = data.drawn(rows, random, 0.0 if teacher else EMPTY_CAPTIONS, UNSAID)
        clean = data.latents[torch.from_numpy(rows)].to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        at = torch.arange(lesson.batch) % lesson.student_steps
        timesteps = (stratified(lesson.batch, generator) * TRAIN_TIMESTEPS).long()
        if teacher:
            timesteps = teacher.timesteps[at * lesson.substeps]
        level = abar[timesteps][:, None, None, None].to(device)
        noised = level.sqrt() * clean + (1 - level).sqrt() * noise
        with torch.autocast(device, torch.bfloat16):
            if teacher:
                landed = teacher.landed(noised, features, at)
                wanted = velocity_between(noised, landed, level, teacher.level((at + 1) * lesson.substeps))
            else:
                wanted = level.sqrt() * noise - (1 - level).sqrt() * clean
            predicted = student(noised, timesteps.to(device), features, return_dict=False)[0].float()
        return (predicted - wanted).square().mean()

    stage.run(loss, (lambda done: look(stage)) if look else None)
    return stage
