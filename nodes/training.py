"""Training as a graph: drawn pictures, pairs of noisy and clean, a network that learns, and what it has learned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from graphengine import Conditioning, Context, Denoiser, Field, Image, Latent, Node, Ports, Settings
from graphengine.fingerprint import digest, file_digest
from graphengine.models import checkpoint as checkpoints
from graphengine.models.assets import inside
from graphengine.values import Curve, Patch, VarianceSchedule


class DrawScenes(Node, category="training"):
    """Draw pictures of coloured shapes with their captions: the data that the embedded model was trained on."""

    count: int = Field(256, ge=1, le=20_000, description="pictures")
    seed: int = Field(0, ge=0, lt=2**64, description="another seed, other scenes")
    pairs: float = Field(0.3, ge=0, le=1, description="share of scenes with two things")
    patterned: float = Field(0.15, ge=0, le=1, description="share of backgrounds that are not plain")

    class Outputs(Ports):
        image: Image
        captions: list[str]

    def run(self, ctx: Context) -> Outputs:
        from graphengine.training.scenes import caption, draw, random_scene

        ctx.settings.check_pixels(64, 64, self.count)
        random = np.random.default_rng(self.seed)
        scenes = [random_scene(random, self.pairs, self.patterned) for _ in range(self.count)]
        pictures = []
        for done, scene in enumerate(scenes, 1):
            pictures.append(draw(scene, random))
            ctx.progress(done, self.count)
        pixels = np.stack(pictures).astype(np.float32) / 255
        return self.Outputs(image=Image(pixels), captions=[caption(scene) for scene in scenes])


class TrainingPairs(Node, category="training"):
    """What a denoiser learns from: latents noised to random timesteps, and the noise in them that it has to find."""

    latent: Latent
    schedule: VarianceSchedule
    seed: int = Field(0, ge=0, lt=2**64, description="another seed, other noise and timesteps")

    class Outputs(Ports):
        noisy: Latent
        noise: Latent
        timesteps: list[int]

    def run(self, ctx: Context) -> Outputs:
        import torch

        from graphengine.diffusion.forward import add_noise_vp

        clean, abar = self.latent.samples, torch.tensor(self.schedule.alphas_cumprod)
        generator = torch.Generator().manual_seed(self.seed)
        timesteps = torch.randint(len(abar), (len(clean),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = add_noise_vp(clean, noise, abar[timesteps].view(-1, 1, 1, 1))
        return self.Outputs(
            noisy=replace(self.latent, samples=noisy, empty=False),
            noise=replace(self.latent, samples=noise, empty=False),
            timesteps=timesteps.tolist(),
        )


class TrainDenoiser(Node, category="training", lane="gpu", effect=True):
    """Train a denoiser to find the noise in latents (Ho et al. 2020), and write it as a checkpoint.

    A run that was stopped or killed goes on where it was.  The loss is drawn while it trains.
    """

    denoiser: Denoiser = Field(description="whose network is trained; the checkpoint itself stays as it is")
    latent: Latent = Field(description="the examples, as one batch")
    positive: Conditioning = Field(description="the examples' prompts, as one batch (BatchPrompts), or one for all")
    negative: Conditioning = Field(description="what stands for no prompt; a tenth of the examples have it")
    steps: int = Field(60, ge=1, le=1_000_000, description="updates of the weights")
    batch: int = Field(8, ge=1, le=1024, description="examples for each noise level of a step")
    levels: int = Field(4, ge=1, le=64, description="noise levels of a step, spread over the schedule")
    rate: float = Field(1e-3, gt=0, le=1, description="peak learning rate")
    fresh: bool = Field(True, description="begin with random weights, instead of those of the checkpoint")
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, noise and the order of examples")
    name: str = Field(
        "trained", min_length=1, max_length=200, description="folder of the checkpoint in the output folder"
    )

    class Outputs(Ports):
        denoiser: Denoiser
        loss: Curve
        folder: str

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        inside(settings.output_folder, inputs.get("name", "trained"), "output")
        return {"folder": str(settings.output_folder.resolve())}

    @classmethod
    def stands(cls, outputs: Any) -> bool:
        return (Path(outputs.folder) / "model_index.json").is_file()

    def run(self, ctx: Context) -> Outputs:
        from graphengine.training.course import Course, train

        examples = _Examples(self.denoiser, self.latent, self.positive, self.negative)
        examples.check()
        if not Path(self.denoiser.folder, "model_index.json").is_file() or self.denoiser.patches:
            raise ValueError("only plain checkpoints in the diffusers layout are trained; leave out patches.")
        course = Course(self.steps, self.batch, self.levels, self.rate, self.seed, self.fresh)
        state = ctx.settings.cache_folder / "training" / examples.digest(course)
        model = ctx.models.denoiser(self.denoiser)
        prompts = (self.positive, self.negative)
        stage, network = train(model, self.latent.samples, prompts, course, state, _reporting(ctx, self.steps))
        folder = inside(ctx.settings.output_folder, self.name, "output")
        _write(Path(self.denoiser.folder), network, folder)
        made = checkpoints.at(folder, ctx.settings, self.name).handles()[0]
        return self.Outputs(denoiser=made, loss=_curve(stage.losses), folder=str(folder))


class DistillDenoiser(Node, category="training", lane="gpu", effect=True):
    """Teach a LoRA to do in a few steps without guidance what the denoiser does in many with it, and write its file.

    Progressive distillation (Salimans & Ho 2022) with guidance distilled in (Meng et al. 2023).  Sample with as many
    steps as `student_steps`, guidance 1, sampler ddim or euler and schedule simple.  With `guidance` 0 there is no
    teacher: the LoRA is trained by the plain loss, as a control.  A run that was stopped or killed goes on where it was.
    """

    denoiser: Denoiser = Field(description="the teacher, with whatever patches it has; it stays as it is")
    latent: Latent = Field(description="the examples, as one batch")
    positive: Conditioning = Field(description="the examples' prompts, as one batch (BatchPrompts), or one for all")
    negative: Conditioning = Field(description="the teacher's negative prompt")
    student_steps: int = Field(4, ge=1, le=64, description="steps that the student shall need")
    substeps: int = Field(2, ge=1, le=64, description="steps of the teacher that one of them replaces")
    guidance: float = Field(3.0, ge=0, le=30, description="the teacher's; 0 trains by the plain loss instead")
    steps: int = Field(60, ge=1, le=1_000_000, description="updates of the weights")
    batch: int = Field(4, ge=1, le=1024, description="examples for each of the student's steps")
    rate: float = Field(1e-3, gt=0, le=1, description="peak learning rate")
    rank: int = Field(8, ge=1, le=256, description="of the differences: more can learn more")
    seed: int = Field(0, ge=0, lt=2**63, description="of noise and the order of examples")
    name: str = Field(
        "student.safetensors", min_length=1, max_length=200, description="file of the LoRA in the output folder"
    )

    class Outputs(Ports):
        denoiser: Denoiser
        loss: Curve
        file: str

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        inside(settings.output_folder, inputs.get("name", "student.safetensors"), "output")
        return {"folder": str(settings.output_folder.resolve())}

    @classmethod
    def stands(cls, outputs: Any) -> bool:
        return Path(outputs.file).is_file()

    def run(self, ctx: Context) -> Outputs:
        from graphengine.models.family import Prompts
        from graphengine.training.distillation import Lesson, train
        from graphengine.training.low_rank import write_lora

        examples = _Examples(self.denoiser, self.latent, self.positive, self.negative)
        examples.check()
        sizes = (self.student_steps, self.substeps, self.guidance, self.rank)
        lesson = Lesson(self.steps, self.batch, self.rate, self.seed, *sizes)
        state = ctx.settings.cache_folder / "training" / examples.digest(lesson)
        model = ctx.models.denoiser(self.denoiser)
        draw = examples.drawing(model.device, empty=0.0 if self.guidance else 0.1)
        empty = Prompts.of(self.negative, 1, model.device)
        stage = train(model, draw, empty, lesson, state, report=_reporting(ctx, self.steps))
        path = inside(ctx.settings.output_folder, self.name, "output").with_suffix(".safetensors")
        write_lora(model.network, stage.averages["lora"], path)
        patch = Patch("lora", path.name, (1.0,), file_digest(path), str(path))
        return self.Outputs(denoiser=self.denoiser.patched(patch), loss=_curve(stage.losses), file=str(path))


@dataclass(frozen=True, eq=False)
class _Examples:
    """What a denoiser is trained on."""

    denoiser: Denoiser
    latent: Latent
    positive: Conditioning
    negative: Conditioning

    def check(self) -> None:
        """Raise ValueError when they do not go together."""
        if self.latent.space != self.denoiser.space:
            raise ValueError(f"the latents were not made by a VAE that goes with {self.denoiser.checkpoint}.")
        if self.latent.mask is not None or self.latent.beside is not None:
            raise ValueError("the latents have a mask or a picture beside them; train on plain ones.")
        for prompt in (self.positive, self.negative):
            if prompt.encoder != self.denoiser.prompts:
                raise ValueError(
                    f"a prompt was not encoded by a text encoder that goes with {self.denoiser.checkpoint}."
                )
        rows, given = len(self.latent.samples), len(self.positive.features)
        if given not in (1, rows):
            raise ValueError(f"there are {given} prompts for {rows} examples.")

    def digest(self, course: Any) -> str:
        """A name for a training on them: the same data and settings go on where they were."""
        from graphengine.values import arrays

        parts = [np.ascontiguousarray(array).tobytes() for array in arrays([self.latent, self.positive, self.negative])]
        patches = [[patch.kind, patch.digest, patch.values] for patch in self.denoiser.patches]
        told = [self.denoiser.digest, patches, type(course).__name__, vars(course)]
        return digest(*parts, json.dumps(told).encode()).hex()

    def drawing(self, device: str, empty: float) -> Callable[..., Any]:
        """Draws some of them with their prompts, a share of which is the negative one."""
        import torch

        from graphengine.models.family import Prompts
        from graphengine.training.course import prompts_of

        rows = len(self.latent.samples)
        wanted, none = Prompts.of(self.positive, rows, device), Prompts.of(self.negative, 1, device)

        def draw(generator: torch.Generator, count: int) -> tuple[torch.Tensor, Prompts]:
            picked = torch.randint(rows, (count,), generator=generator)
            dropped = torch.rand(count, generator=generator) < empty
            return self.latent.samples[picked], prompts_of(wanted, none, picked, dropped)

        return draw


def _write(source: Path, network: Any, folder: Path) -> None:
    """A checkpoint like `source` with another denoiser, swapped in whole; other parts are copied."""
    from graphengine.models.source import Source
    from graphengine.training.package import write_part

    before = Source(source)
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(source, beside, ignore=shutil.ignore_patterns(before.denoiser, "checksums.json"))
    write_part(network, beside / before.denoiser, "diffusion_pytorch_model")
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def _reporting(ctx: Context, steps: int) -> Callable[[int, float], None]:
    """Tells of every step of a training, with the loss so far as its preview."""
    losses: list[float] = []

    def report(done: int, loss: float) -> None:
        losses.append(loss)
        ctx.progress(done, steps, lambda: _plot(losses))

    return report


def _curve(losses: list[float]) -> Curve:
    return Curve("loss", tuple(range(1, len(losses) + 1)), tuple(losses))


def _plot(losses: list[float]) -> Image:
    from graphengine import plot

    return plot.curves([_curve(losses)], plot.Axes("loss", "step", width=320, height=200))
