"""`graphengine cache`: what is kept on disk."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from graphengine.cli import options
from graphengine.cli.console import fail, out, table_of
from graphengine.errors import Problem
from graphengine.store.disk import DiskStore

app = typer.Typer(help="Look at the output cache on disk, check it, make it smaller.", no_args_is_help=True)


def register(parent: typer.Typer) -> None:
    parent.add_typer(app, name="cache")


def _store(folder: options.CacheFolder) -> DiskStore:
    settings = options.settings(cache_folder=folder)
    return DiskStore(settings.cache_folder, settings.disk_budget)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


@app.command()
def size(cache_folder: options.CacheFolder = None) -> None:
    """Say how much is kept, where, and how much may be."""
    store = _store(cache_folder)
    entries = list(store.entries())
    total = sum(entry.bytes for entry in entries)
    out.print(f"{len(entries)} entries, {_size(total)} of {_size(store.budget)} in {store.root}", markup=False)


@app.command("list")
def list_entries(cache_folder: options.CacheFolder = None) -> None:
    """List the entries, last used first."""
    from graphengine.store.codec import Damaged, verify

    table = table_of("key", "node", "size", "seconds", "last used")
    for entry in sorted(_store(cache_folder).entries(), key=lambda entry: -entry.used):
        try:
            notes = verify(entry.path.read_bytes())
        except (OSError, Damaged):
            notes = {"node": "damaged"}
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        seconds = str(notes.get("seconds", ""))
        table.add_row(entry.key[:12], str(notes.get("node", "")), _size(entry.bytes), seconds, used)
    out.print(table)


@app.command()
def prune(
    to: Annotated[int, typer.Option("--to", min=0, help="MiB to keep at most; 0 empties the cache.")] = 0,
    cache_folder: options.CacheFolder = None,
) -> None:
    """Delete the least recently used entries."""
    count, freed = _store(cache_folder).prune(to * 2**20)
    out.print(f"{count} entries deleted, {_size(freed)} freed.")


@app.command()
def verify(cache_folder: options.CacheFolder = None) -> None:
    """Check every entry's checksum; damaged ones are set aside and will be computed again."""
    checked = damaged = 0
    for entry, reason in _store(cache_folder).verify():
        checked += 1
        if reason:
            damaged += 1
            fail(Problem("damaged", f"{entry.key}: {reason}; set aside."))
    out.print(f"{checked} entries checked, {damaged} damaged.")
    if damaged:
        raise typer.Exit(2)
