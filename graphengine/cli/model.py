"""`graphengine train` and `graphengine eval`: making the embedded model, and measuring it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphengine.cli.console import fail, line, out
from graphengine.errors import Problem

Model = Annotated[str, typer.Argument(help="Which model; `tiny` is the one that comes with GraphEngine.")]


def register(app: typer.Typer) -> None:
    app.command()(train)
    app.command("eval")(evaluate)


def train(
    model: Model,
    folder: Annotated[Path, typer.Option("--out", help="Folder for states, plots and the checkpoint.")] = Path(
        "runs/tiny"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Steps of the denoiser.")] = 1800,
    vae_steps: Annotated[int, typer.Option(min=1, help="Steps of the autoencoder.")] = 1700,
    text_steps: Annotated[int, typer.Option(min=1, help="Steps of the text encoder's lesson.")] = 700,
    scenes: Annotated[int, typer.Option(min=100, help="Scenes that are drawn for the denoiser.")] = 40_000,
    batch: Annotated[int, typer.Option(min=1, help="Pictures per step of the denoiser.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another model.")] = 0,
) -> None:
    """Make the embedded model from nothing: draw scenes, train the VAE, the text encoder and the denoiser.

    Stop it at any time; the same command goes on where it was.  About an hour on two CPU cores.
    """
    if model != "tiny":
        raise typer.Exit(fail(Problem("unknown_model", f"only tiny can be trained, not {model!r}.")))
    from graphengine.training.tiny import Plan, train_tiny

    made = train_tiny(folder, Plan(steps, vae_steps, text_steps, scenes, batch, seed))
    out.print(made, markup=False)


def evaluate(
    model: Model = "tiny",
    count: Annotated[int, typer.Option(min=1, help="Held-out prompts of each kind.")] = 200,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Sampling steps.")] = 20,
    guidance: Annotated[float, typer.Option(min=0, max=100, help="Guidance scale.")] = 3.0,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the prompts and the noise.")] = 20_000,
    sheet: Annotated[Path | None, typer.Option(help="Write the pictures as a contact sheet (PNG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how well a model does what prompts say: accuracy per attribute, read by the automatic checker."""
    from graphengine.settings import Settings
    from graphengine.training.evaluate import Evaluation, evaluate, table

    results = evaluate(Evaluation(model, count, steps, guidance, seed), Settings.load(), sheet)
    if as_json:
        line(
            {kind: {fact: right / total for fact, (right, total) in scores.items()} for kind, scores in results.items()}
        )
    else:
        out.print(table(results))
