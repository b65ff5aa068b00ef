"""`graphengine serve`: the server, with its options."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from graphengine.cli import options
from graphengine.cli.console import say
from graphengine.collector import uncollected
from graphengine.errors import GraphError, Problem


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes any free port.", show_default="8420")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of queue, uploads and results.", show_default="the user's data")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Address of the run store, e.g. postgresql+psycopg://...", show_default="SQLite")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with one NAME:TOKEN a line; who has one may use the server.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Further name of this server; may be given again.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Further web origin that may use it; may be given again.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.", show_default="1")] = None,
    run_timeout: Annotated[float | None, typer.Option(help="Seconds a run may take.", show_default="3600")] = None,
    folder: options.Out = None,
    input_folder: options.InputFolder = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    cache_folder: options.CacheFolder = None,
    plugin_folder: options.PluginFolder = None,
) -> None:
    """Take workflows over HTTP, keep them in a queue that loses nothing, and show a page at /.

    Without tokens it listens on this machine only.  Everything else (limits, time-outs, webhooks) is set by
    environment variables GRAPHENGINE_SERVER_NAME; the README lists them.  SIGTERM and Ctrl-C let runs finish first.
    """
    with uncollected():
        spares = importlib.import_module("graphengine.server.spare").fork(1 + 1)  # one for questions, one for runs
        app: Any = importlib.import_module("graphengine.server.app")
    configuration = _configuration(
        token_file,
        host=host,
        port=port,
        data_folder=data,
        store=store,
        hosts=allow_host,
        origins=allow_origin,
        workers=workers,
        run_timeout=run_timeout,
    )
    place = configuration.data_folder
    settings = options.settings(
        folder or place / "output", input_folder or place / "input", device, dtype, cache_folder, plugin_folder
    )
    app.log_to_stderr()
    _loop()(app.serve(configuration, settings, lambda address: say(f"listening on {address}"), spares))


def _loop() -> Callable[[Coroutine[Any, Any, None]], None]:
    """What runs the server to its end: uvloop takes a tenth less of the processor, where there is one."""
    try:
        return importlib.import_module("uvloop").run
    except ImportError:
        return importlib.import_module("asyncio").run


def _configuration(token_file: Path | None, **values: Any) -> Any:
    from pydantic import ValidationError

    module: Any = importlib.import_module("graphengine.server.configuration")
    try:
        return module.Configuration.load(token_file, **values)
    except ValidationError as error:
        raise GraphError(
            [
                Problem("setting", f"{'.'.join(map(str, f['loc']))}: {f['msg']}.")
                for f in error.errors(include_url=False, include_input=False)
            ]
        ) from None
