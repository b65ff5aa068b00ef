"""`graphengine run --server URL`: submit, follow, fetch.  Local pictures are uploaded, results land where they would here."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import typer

from graphengine.cli.console import fail, out, say
from graphengine.cli.watch import watch
from graphengine.client import Client, Made, RemoteRun
from graphengine.errors import Cancelled, GraphEngineError
from graphengine.models.assets import write_numbered
from graphengine.settings import Settings
from graphengine.workflow import Workflow


def run_on_server(
    url: str,
    token: str | None,
    workflow: Workflow,
    inputs: dict[str, Any],
    targets: list[str] | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Run a workflow on a server and keep what it makes in the output folder."""
    with Client(url, token) as client:
        try:
            run = client.submit(workflow, _uploaded(client, workflow, inputs, settings), targets)
            _follow(run, workflow, as_json)
            made = run.result()
        except Cancelled:
            say("it was cancelled on the server.")
            raise typer.Exit(1) from None
        except GraphEngineError as error:
            raise typer.Exit(fail(error)) from None
    if not as_json:
        _keep(made, workflow, settings)


def _follow(run: RemoteRun, workflow: Workflow, as_json: bool) -> None:
    try:
        watch(run, workflow, as_json)
    except KeyboardInterrupt:
        run.cancel()
        say("cancelled; what was finished is kept on the server.")
        raise typer.Exit(130) from None


def _uploaded(client: Client, workflow: Workflow, inputs: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The inputs with local pictures replaced by what the server calls them."""
    made = dict(inputs)
    for name, value in inputs.items():
        declared = workflow.inputs.get(name)
        reads = declared and any(workflow.nodes[to.node].type == "LoadImage" for to in declared.to)
        if reads and isinstance(value, str) and (settings.input_folder / value).is_file():
            made[name] = client.upload(settings.input_folder / value)
    return made


def _keep(made: dict[str, list[Made]], workflow: Workflow, settings: Settings) -> None:
    """Write what the run has saved (or else its pictures) to the output folder, and print where; then plain values."""
    items = [item for items in made.values() for item in items]
    pictures = {item.digest: item for item in items if item.bytes is not None}
    saved = {digest: item for digest, item in pictures.items() if item.name}
    for item in (saved or pictures).values():
        stem = item.name.rpartition("_")[0] if item.name else workflow.name
        path = write_numbered(settings.output_folder, stem, ".png", partial(_write, data=item.bytes or b""))
        here = Path.cwd()
        out.print(path.relative_to(here) if path.is_relative_to(here) else path, markup=False)
    for name, values in made.items():
        for item in values:
            if item.value is not None:
                out.print(f"{name}: {item.value}", markup=False)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
