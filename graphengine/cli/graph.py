"""Looking at workflows without running them: check, explain, nodes, draw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from graphengine.cli import options
from graphengine.cli.console import fail, line, load_workflow, out, say, set_inputs, table_of
from graphengine.errors import GraphError, Problem
from graphengine.node import NodeInfo

if TYPE_CHECKING:
    from graphengine.forecast import Forecast
    from graphengine.graph import Graph
    from graphengine.settings import Settings

WorkflowArgument = Annotated[str, typer.Argument(help="Workflow file or name, or a picture with its recipe.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="NODE.INPUT=VALUE", help="Set an input first.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    app.command()(check)
    app.command()(explain)
    app.command()(nodes)
    app.command()(draw)


def check(
    workflow: WorkflowArgument,
    assignments: Set = None,
    input_folder: options.InputFolder = None,
    plugins: options.PluginFolder = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    memory: Annotated[bool, typer.Option("--memory", help="Tell how much memory it would need, node by node.")] = False,
    as_json: Json = False,
) -> None:
    """Say everything that is wrong with a workflow; exit code 0 when nothing is, 2 otherwise."""
    from graphengine.compose import Engine

    own = options.settings(input_folder=input_folder, plugins=plugins, device=device, dtype=dtype)
    try:
        document = set_inputs(load_workflow(workflow), assignments or [])
        with Engine(settings=own, cached=False) as engine:
            graph, _ = engine.prepare(document)
    except GraphError as error:
        if as_json:
            line({"problems": [problem.document() for problem in error.problems]})
            raise typer.Exit(2) from None
        raise typer.Exit(fail(error)) from None
    told = _forecast(graph, own) if memory else None
    if as_json:
        line({"problems": []} | ({"memory": told.document()} if told else {}))
        return
    out.print(f"{document.name}: {len(graph.tasks)} nodes, nothing wrong.", markup=False)
    if told:
        _show_forecast(told)


def _forecast(graph: Graph, settings: Settings) -> Forecast:
    from graphengine.forecast import forecast

    return forecast(graph, settings)


def _show_forecast(told: Forecast) -> None:
    """A table by node, the most, and what there is."""
    table = table_of("node", "type", "weights", "read anew", "work", "in memory")
    for column in table.columns[2:]:
        column.justify = "right"
    for step in told.steps:
        work = f"{'about ' if step.assumed else ''}{_mib(step.work)}"
        peak = _mib(step.peak(told.runtime))
        table.add_row(escape(step.node), step.type, _mib(step.held), _mib(step.loaded), work, peak)
    if told.steps:
        out.print(table)
    for fault in told.faults:
        out.print(fault, markup=False)
    out.print(f"MiB on {told.device}; {_mib(told.runtime)} are the process without weights.", markup=False)
    taken = told.peak - told.needed
    pages = f", {_mib(taken)} of them pages of files, which the system can take back" if taken > 0 else ""
    out.print(f"at most {_mib(told.peak)} MiB{pages}.", markup=False)
    if told.free is not None and told.total is not None:
        budget = f"; weights may take {_mib(told.budget)}" if told.budget is not None else ""
        out.print(f"{_mib(told.free)} of {_mib(told.total)} MiB are free{budget}.", markup=False)
        out.print("it fits." if told.fits else "it does not fit:", markup=False)
    for measure in told.measures():
        out.print(f"  {measure}", markup=False)


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f}"


def explain(
    workflow: WorkflowArgument,
    assignments: Set = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=VALUE", help="Set a declared input.")
    ] = None,
    folder: options.Out = None,
    input_folder: options.InputFolder = None,
    cache_folder: options.CacheFolder = None,
    plugins: options.PluginFolder = None,
    device: options.Device = None,
    as_json: Json = False,
) -> None:
    """Say for every node whether it would be computed, and why.  Runs nothing."""
    from graphengine.compose import Engine

    document = set_inputs(load_workflow(workflow), [*_declared(workflow, inputs or []), *(assignments or [])])
    settings = options.settings(folder, input_folder, device, None, cache_folder, plugins)
    with Engine(settings=settings) as engine:
        told = engine.explain(document)
    if as_json:
        line({"nodes": [entry.__dict__ for entry in told]})
        return
    table = table_of("node", "type", "state", "why")
    colours = {"hit": "green", "miss": "yellow", "unneeded": "dim"}
    for entry in told:
        state = f"[{colours[entry.state]}]{entry.state}[/]"
        table.add_row(escape(entry.node), entry.type, state, escape(entry.reason))
    out.print(table)


def _declared(name: str, inputs: list[str]) -> list[str]:
    """Declared inputs as assignments to the ports they stand for."""
    workflow = load_workflow(name)
    made, problems = [], []
    for assignment in inputs:
        key, _, value = assignment.partition("=")
        if key in workflow.inputs:
            made += [f"{link}={value}" for link in workflow.inputs[key].to]
        else:
            problems.append(Problem("unknown_input", f"the workflow declares no input {key!r}."))
    if problems:
        raise GraphError(problems)
    return made


def nodes(
    name: Annotated[str | None, typer.Argument(help="A node type, for its ports; none for the list.")] = None,
    plugins: options.PluginFolder = None,
    as_json: Json = False,
) -> None:
    """List the node types, or show one with its ports, ranges and defaults."""
    from graphengine.compose import make_registry

    registry = make_registry(options.settings(plugins=plugins))
    if name is None:
        if as_json:
            line({"nodes": [_document(info) for info in registry], "broken": registry.broken})
            return
        table = table_of("node", "category", "what it does")
        for info in sorted(registry, key=lambda info: (info.plugin != "graphengine", info.facts.category, info.name)):
            table.add_row(info.name, info.facts.category or info.plugin, escape(info.summary))
        out.print(table)
        for plugin, reason in registry.broken.items():
            say(f"the plugin {plugin} could not be loaded: {reason}")
        return
    info = registry.find(name)
    if info is None:
        raise typer.Exit(fail(Problem("unknown_type", f"there is no node type {name!r}.", hint=registry.hint(name))))
    if as_json:
        line(_document(info))
    else:
        _show(info)


def _document(info: NodeInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "plugin": info.plugin,
        "category": info.facts.category,
        "summary": info.summary,
        "inputs": {
            key: {
                "type": item.port.label,
                "required": item.required,
                "default": item.default if item.validate else None,
                "range": item.bounds,
                "description": item.help,
            }
            for key, item in info.inputs.items()
        },
        "outputs": {key: port.label for key, port in info.outputs.items()},
    }


def _show(info: NodeInfo) -> None:
    out.print(f"[bold]{info.name}[/] ({info.plugin}, lane {info.facts.lane}, version {info.facts.version})")
    out.print(escape(info.summary) + "\n")
    table = table_of("input", "type", "default", "range", "meaning")
    for key, item in info.inputs.items():
        low, high = item.bounds
        limits = (
            f"{'' if low is None else low} .. {'' if high is None else high}" if (low, high) != (None, None) else ""
        )
        default = "required" if item.required else repr(item.default)
        table.add_row(key, escape(item.port.label), escape(default), limits, escape(item.help))
    out.print(table)
    out.print("\noutputs: " + escape(", ".join(f"{key} ({port.label})" for key, port in info.outputs.items())))


def draw(
    workflow: WorkflowArgument,
    to: Annotated[
        Path | None, typer.Argument(help="File to write: .svg, .png or .mmd (Mermaid); none prints Mermaid.")
    ] = None,
) -> None:
    """Draw a workflow's graph."""
    from graphengine import drawing

    document = load_workflow(workflow)
    if to is None:
        out.print(drawing.mermaid(document), markup=False, highlight=False)
        return
    writers = {".svg": drawing.write_svg, ".png": drawing.write_png, ".mmd": drawing.write_mermaid}
    if to.suffix not in writers:
        kinds = ", ".join(writers)
        raise typer.Exit(fail(Problem("format", f"cannot draw to {to.name}; the ending must be one of {kinds}.")))
    writers[to.suffix](document, to)
    out.print(to, markup=False)
