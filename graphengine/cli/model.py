"""`graphengine train` and `graphengine eval`: making the embedded model, and measuring it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphengine.cli.console import fail, line, out
from graphengine.errors import Problem

Model = Annotated[str, typer.Argument(help="Which model; `tiny` is the one that comes with GraphEngine.")]
DEFAULTS = {
    "tiny": {"steps": 1800, "text_steps": 700, "scenes": 40_000, "batch": 128},
    "tiny-edit": {"steps": 2600, "text_steps": 350, "scenes": 6500, "batch": 96},
    "tiny-dit": {"steps": 2200, "text_steps": 0, "scenes": 40_000, "batch": 64},
    "tiny-open": {"steps": 1800, "text_steps": 0, "scenes": 20_000, "batch": 48},
    "tiny-few-step": {"steps": 600, "text_steps": 0, "scenes": 20_000, "batch": 48},
    "tiny-few-step-control": {"steps": 600, "text_steps": 0, "scenes": 20_000, "batch": 48},
}


def _defaults(option: str) -> str:
    return f"[default: {', '.join(f'{values[option]} for {model}' for model, values in DEFAULTS.items() if values[option])}]"


def register(app: typer.Typer) -> None:
    app.command()(train)
    app.command("eval")(evaluate)


def train(
    model: Model,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for states, plots and the checkpoint.  [default: runs/MODEL]")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help=f"Steps of the denoiser.  {_defaults('steps')}")] = None,
    vae_steps: Annotated[int, typer.Option(min=1, help="Steps of the autoencoder; tiny-edit uses tiny's.")] = 1700,
    text_steps: Annotated[
        int | None, typer.Option(min=1, help=f"Steps of the text encoder's lesson.  {_defaults('text_steps')}")
    ] = None,
    scenes: Annotated[
        int | None, typer.Option(min=100, help=f"Scenes that are drawn for the denoiser.  {_defaults('scenes')}")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help=f"Pictures per step of the denoiser.  {_defaults('batch')}")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another model.")] = 0,
) -> None:
    """Make an embedded model: `tiny`, which draws what a caption says, or `tiny-edit`, which edits by an instruction.

    `tiny` is made from nothing: scenes are drawn, then the VAE, the text encoder and the denoiser are trained.
    `tiny-edit` goes on from tiny with pairs of scenes before and after an edit: colour, shape, background, size, place,
    a thing added or removed.  Its accuracy and a sheet of edits are written as it learns.
    `tiny-dit` is a transformer in place of tiny's U-Net, and `tiny-open` a LoRA that leaves to the seed what a prompt leaves
    open.  `tiny-few-step` goes over that one and draws in few steps without guidance; `tiny-few-step-control` is trained for
    as long without a teacher, to tell what distillation does from what training does.

    Stop it at any time; the same command goes on where it was.  About an hour on two CPU cores, on one for tiny-edit.
    """
    if model not in DEFAULTS:
        raise typer.Exit(fail(Problem("unknown_model", f"{', '.join(DEFAULTS)} can be trained, not {model!r}.")))
    given = {"steps": steps, "text_steps": text_steps, "scenes": scenes, "batch": batch}
    plan = {name: DEFAULTS[model][name] if value is None else value for name, value in given.items()}
    folder = folder or Path("runs") / model
    if model == "tiny-edit":
        from graphengine.training.editing import EditPlan, train_edit

        made = train_edit(folder, EditPlan(plan["steps"], plan["text_steps"], plan["scenes"], plan["batch"], seed=seed))
    elif model == "tiny-dit":
        from graphengine.training.transformer import TransformerPlan, train_transformer

        made = train_transformer(folder, TransformerPlan(plan["steps"], plan["scenes"], plan["batch"], seed))
    elif model.startswith(("tiny-open", "tiny-few-step")):
        from graphengine.training.few_step import RECIPES, train_lora

        made = train_lora(model, folder, RECIPES[model].lesson(plan["steps"], plan["batch"], seed), plan["scenes"])
    else:
        from graphengine.training.tiny import Plan, train_tiny

        made = train_tiny(folder, Plan(vae_steps=vae_steps, seed=seed, **plan))
    out.print(made, markup=False)


def evaluate(
    model: Model = "tiny",
    count: Annotated[int, typer.Option(min=1, help="Held-out prompts of each kind.")] = 200,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Sampling steps.")] = 20,
    guidance: Annotated[
        float | None, typer.Option(min=0, max=100, help="Guidance scale.  [default: 3 for tiny, 2 for tiny-edit]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the prompts and the noise.")] = 20_000,
    sampler: Annotated[str, typer.Option(help="Sampler; tiny-edit has its own.")] = "dpmpp_2m",
    lora: Annotated[str, typer.Option(help="A LoRA on top, by the name of its file.")] = "",
    sheet: Annotated[Path | None, typer.Option(help="Write the pictures as a contact sheet (PNG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how well a model does what prompts say: accuracy per attribute, read by the automatic checker.

    Of edits by instruction it is told what share was changed as asked, what share kept all else, and both.
    """
    from graphengine.settings import Settings
    from graphengine.training.evaluate import Evaluation, evaluate, table

    if model == "tiny-edit":
        from graphengine.training.edit_score import GUIDANCE, EditEvaluation, evaluate_edits

        scale = GUIDANCE if guidance is None else guidance
        results = evaluate_edits(EditEvaluation(model, count, steps, scale, seed=seed), Settings.load(), sheet)
    else:
        scale = 3.0 if guidance is None else guidance
        results = evaluate(Evaluation(model, count, steps, scale, seed, sampler, lora), Settings.load(), sheet)
    if as_json:
        line(
            {kind: {fact: right / total for fact, (right, total) in scores.items()} for kind, scores in results.items()}
        )
    else:
        out.print(table(results))
