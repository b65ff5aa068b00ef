"""The command line.  Every command is thin over `compose.Engine`; nothing heavy is imported before it is needed."""

from __future__ import annotations

import sys

import typer

from graphengine.cli import cache, gallery, graph, model, models, picture, run, serve
from graphengine.cli.console import fail, say
from graphengine.collector import rarely
from graphengine.errors import GraphEngineError

EXAMPLES = """
Start here:

- `graphengine run text_to_image --prompt "a red star on a white background"`
- `graphengine run text_to_image --help` says what this workflow takes,
- `graphengine nodes` what a workflow can be made of.
"""


def build(arguments: list[str]) -> typer.Typer:
    """The application for these arguments: what `run` takes depends on the workflow it is given."""
    app = typer.Typer(
        name="graphengine",
        help="Node-graph workflows for diffusion models.\n" + EXAMPLES,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    run.register(app, arguments)
    for room in (graph, picture, cache, model, models, gallery, serve):
        room.register(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Entry point: errors made on purpose become a sentence and exit code 2, Ctrl-C becomes 130."""
    rarely()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        build(arguments)(arguments, prog_name="graphengine")
    except GraphEngineError as error:
        sys.exit(fail(error))
    except KeyboardInterrupt:
        say("stopped.")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
