"""Following a run on the terminal: a bar for the run, a bar for the node that is working, or lines of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from rich.markup import escape

from graphengine import events
from graphengine.cli.console import err, line
from graphengine.workflow import Workflow


class Followed(Protocol):
    """A run that can be followed: here or on a server."""

    def events(self) -> Iterator[events.Event]: ...


def watch(run: Followed, workflow: Workflow, as_json: bool) -> None:
    """Follow a run to its end."""
    if as_json:
        for event in run.events():
            line(event.model_dump(exclude={"preview"}))
    elif err.is_terminal:
        _bars(run, workflow)
    else:
        _lines(run)


def _lines(run: Followed) -> None:
    """Where nobody watches, one line for each node that took a noticeable time."""
    for event in run.events():
        if isinstance(event, events.NodeFinished) and event.seconds >= 0.1:
            err.print(f"{event.node}: {event.seconds:.1f} s", markup=False)
        elif isinstance(event, events.NodeNote):
            _note(event)


def _bars(run: Followed, workflow: Workflow) -> None:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err, transient=True) as bars:
        whole = bars.add_task(workflow.name, total=None)
        node = bars.add_task("", total=1, visible=False)
        for event in run.events():
            match event:
                case events.Planned():
                    before = bars.tasks[0].total or 0
                    bars.update(whole, total=before + len(event.work))
                case events.NodeStarted():
                    bars.reset(node, description=f"  {event.node}", total=None, visible=True)
                case events.NodeProgress():
                    bars.update(node, completed=event.done, total=event.total)
                case events.NodeNote():
                    _note(event)
                case events.NodeFinished():
                    bars.update(whole, advance=1)
                    bars.update(node, visible=False)


def _note(event: events.NodeNote) -> None:
    """What was done otherwise than asked stays on the screen."""
    err.print(f"[yellow]note[/] {escape(event.node)}: {escape(event.note)}")
