"""`graphengine models`: what lies in the model folders, and what it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from graphengine.cli import options
from graphengine.cli.console import line, out, say, table_of

if TYPE_CHECKING:
    from graphengine.models.inventory import Entry

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UNITS = (("B", 1), ("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30))
COUNTS = (("", 1), ("K", 10**3), ("M", 10**6), ("B", 10**9))


def register(app: typer.Typer) -> None:
    app.command()(models)


def models(
    name: Annotated[str | None, typer.Argument(help="A model, for all about it; none for the list.")] = None,
    as_json: Json = False,
) -> None:
    """List what lies in the model folders, with what it is and what is wrong with it; loads nothing."""
    from graphengine.models.inventory import inventory

    settings = options.settings()
    if name is not None:
        _all_about(name, as_json)
        return
    entries = list(inventory(settings))
    if as_json:
        line({"models": [asdict(entry) for entry in entries]})
        return
    table = table_of()
    for title in ("name", "kind", "family", "parameters", "format", "size"):
        side = "right" if title in ("parameters", "size") else "left"
        folds = title in ("name", "family")  # nothing of a name is left out: it is there to be copied
        table.add_column(title, justify=side, no_wrap=not folds, overflow="fold")
    for entry in entries:
        size, count = _scaled(entry.bytes, UNITS), _scaled(entry.parameters, COUNTS)
        row = (entry.name, entry.kind, _family(entry), count, ", ".join(list(entry.formats)[:2]), size)
        table.add_row(*(escape(_plain(word)) for word in row), style="yellow" if entry.wrong else None)
    out.print(table)
    for entry in entries:  # sentences, which a narrow column would crush
        if entry.wrong:
            out.print(f"[yellow]{escape(_plain(entry.name))}[/]: {escape(_plain(entry.wrong))}")
    if not entries:
        say("there is no model in the model folders.")


def _all_about(name: str, as_json: bool) -> None:
    from graphengine.models.inventory import digests, named

    settings = options.settings()
    entries = named(name, settings)
    sums = [digests(entry, settings) for entry in entries]
    if as_json:
        pairs = zip(entries, sums, strict=True)
        line({"models": [asdict(entry) | {"sha256": found} for entry, found in pairs]})
        return
    for entry, found in zip(entries, sums, strict=True):
        facts = {
            "kind": entry.kind,
            "family": _family(entry),
            "layout": entry.layout,
            "method": entry.method,
            "parameters": f"{entry.parameters:,}" if entry.parameters else "",
            "format": ", ".join(f"{kind} ({count} tensors)" for kind, count in entry.formats.items()),
            "size": f"{entry.bytes:,} bytes" if entry.bytes else "",
            "parts": ", ".join(f"{part} ({prefix or 'no prefix'})" for part, prefix in entry.parts.items()),
            "place": entry.path,
            **{f"SHA-256 of {file[len(entry.path) + 1 :] or 'the file'}": digest for file, digest in found.items()},
            "wrong": entry.wrong,
        }
        out.print(f"[bold]{escape(_plain(entry.name))}[/]")
        for title, text in facts.items():
            if text:
                out.print(f"  {escape(_plain(title))}: {escape(_plain(text))}")


def _family(entry: Entry) -> str:
    """The family, and which of it where more is known than the name of a class."""
    family, variant = entry.family, entry.variant
    told = family and variant and variant != family and variant[0].islower()
    return f"{family} ({variant})" if told else family or variant


def _plain(text: str) -> str:
    """Text that somebody else wrote, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _scaled(count: int, units: tuple[tuple[str, int], ...]) -> str:
    word, unit = next((pair for pair in reversed(units) if count >= pair[1]), units[0])
    if not count:
        return ""
    return f"{count / unit:.1f} {word}".rstrip() if unit > 1 else f"{count} {word}".rstrip()
