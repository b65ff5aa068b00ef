"""The options that are the same for every command that builds an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphengine.settings import Settings

Out = Annotated[Path | None, typer.Option("--out", help="Folder for results.", show_default="output")]
InputFolder = Annotated[
    Path | None, typer.Option("--input-folder", help="Folder that images are read from.", show_default="here")
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1 or mps.", show_default="the best there is")
]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, float16 or bfloat16.", show_default="by device")]
CacheFolder = Annotated[
    Path | None, typer.Option("--cache-folder", help="Folder of the output cache.", show_default="the user's cache")
]
PluginFolder = Annotated[
    list[Path] | None,
    typer.Option("--plugins", help="Folder with plugins; may be given again.", show_default="the user's data"),
]


def settings(
    out: Path | None = None,
    input_folder: Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    cache_folder: Path | None = None,
    plugins: list[Path] | None = None,
    **more: Any,
) -> Settings:
    """Settings from the environment and the options that were given."""
    from pydantic import ValidationError

    try:
        return Settings.load(
            output_folder=out,
            input_folder=input_folder,
            device=device,
            dtype=dtype,
            cache_folder=cache_folder,
            plugin_folders=plugins or None,
            **more,
        )
    except ValidationError as error:
        from graphengine.errors import GraphError, Problem

        faults = error.errors(include_url=False)
        raise GraphError(
            [Problem("setting", f"{'.'.join(map(str, f['loc']))}: {f['msg']}, got {f['input']!r}.") for f in faults]
        ) from None
