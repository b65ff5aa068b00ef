"""What the commands share: where they print, how they tell an error, how they find a workflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from graphengine.compose import bundled_workflows
from graphengine.errors import GraphEngineError, GraphError, Problem, did_you_mean
from graphengine.workflow import Workflow

if TYPE_CHECKING:
    from rich.table import Table

BAD_INPUT, SHOWN = 2, 100
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line for people, beside the output."""
    err.print(escape(text))


def table_of(*head: str) -> Table:
    """An empty table in the style of all of them, under a head."""
    from rich.table import Table  # costs a tenth of a light command

    return Table(*head, box=None, pad_edge=False)


def fail(error: GraphEngineError | Problem | str) -> int:
    """Tell an error, one line for each problem; returns the exit code."""
    problems = error.problems if isinstance(error, GraphError) else (error,)
    for problem in problems[:SHOWN]:
        err.print(f"[red bold]error[/] {escape(str(problem))}")
    if len(problems) > SHOWN:
        say(f"... and {len(problems) - SHOWN} more.")
    return BAD_INPUT


def find_workflow(name: str) -> Path:
    """The file of a workflow: a path, or the name of one that comes with the project.

    Raises:
        GraphError: there is none; the nearest is named.
    """
    path = Path(name)
    if path.is_file():
        return path
    bundled = {file.stem: file for file in sorted(bundled_workflows().glob("*.json"))}
    stem = path.stem if path.parent == Path("workflows") or path.suffix == "" else ""
    if stem in bundled:
        return bundled[stem]
    beside = [file.name for file in path.parent.glob("*.json")] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, [*beside, *bundled])
    raise GraphError([Problem("no_file", f"there is no workflow file {name!r}.", hint=hint)])


def load_workflow(name: str) -> Workflow:
    """Read a workflow, or the recipe of a picture.  Raises GraphError or AssetError with a sentence."""
    path = find_workflow(name)
    if path.suffix == ".png":
        from graphengine.pictures import read_recipe

        return Workflow.load(read_recipe(path)["workflow"])
    try:
        return Workflow.load(path)
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError([Problem("no_file", f"{name} cannot be read: {error}.")]) from None


def set_inputs(workflow: Workflow, assignments: list[str]) -> Workflow:
    """Apply `node.input=value` assignments; values are JSON, or else text."""
    values: dict[tuple[str, str], Any] = {}
    problems: list[Problem] = []
    for assignment in assignments:
        place, equals, text = assignment.partition("=")
        node, dot, port = place.partition(".")
        if not (equals and dot and port):
            problems.append(Problem("bad_set", f"--set wants node.input=value, got {assignment!r}."))
        elif node not in workflow.nodes:
            hint = did_you_mean(node, workflow.nodes)
            problems.append(Problem("no_node", f"--set: there is no node {node!r}.", hint=hint))
        else:
            values[node, port] = _parsed(text)
    if problems:
        raise GraphError(problems)
    return workflow.with_inputs(values)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def line(document: Mapping[str, Any]) -> None:
    """One JSON object on one line of standard output."""
    print(json.dumps(document, ensure_ascii=False), flush=True)
