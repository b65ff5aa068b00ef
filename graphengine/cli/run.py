"""`graphengine run`: a workflow's declared inputs become options, with their types, ranges and defaults.

The workflow is read before the options are, because it says which options there are: `register` looks at the
arguments, and gives the command a signature that has one parameter more for each declared input.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from graphengine.cli import options
from graphengine.cli.console import fail, load_workflow, out, say, set_inputs
from graphengine.cli.watch import watch
from graphengine.engine import Run
from graphengine.errors import Cancelled, GraphEngineError, Problem
from graphengine.node import Input
from graphengine.workflow import Workflow

PANEL = "Inputs of the workflow"
VALUED = (
    "--server",
    "--token",
    "--set",
    "--target",
    "--out",
    "--input-folder",
    "--device",
    "--dtype",
    "--cache-folder",
    "--plugins",
)


def register(app: typer.Typer, arguments: list[str]) -> None:
    """Add the command; `arguments` are those of the whole command line."""
    name = _workflow_name(arguments[1:]) if arguments[:1] == ["run"] else None
    declared = _declared(name, _plugin_folders(arguments)) if name else {}
    app.command("run")(_with_inputs(declared))


def _workflow_name(arguments: list[str]) -> str | None:
    """The first argument that is neither an option nor the value of one of the command's own."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument.startswith("-") and before not in VALUED:
            return argument
    return None


def _plugin_folders(arguments: list[str]) -> list[Path]:
    found = [after for before, after in itertools.pairwise(arguments) if before == "--plugins"]
    found += [argument.partition("=")[2] for argument in arguments if argument.startswith("--plugins=")]
    return [Path(folder) for folder in found]


def _declared(name: str, plugins: list[Path]) -> dict[str, tuple[Input, Any, str]]:
    """Declared inputs that a value can be written for: the port, what is written now, and the help."""
    from graphengine.compose import make_registry

    workflow = load_workflow(name)
    registry = make_registry(options.settings(plugins=plugins or None))
    found = {}
    for key, declared in workflow.inputs.items():
        spec = workflow.nodes.get(declared.to[0].node)
        info = registry.find(spec.type) if spec else None
        target = info.inputs.get(declared.to[0].port) if info else None
        if spec and target and target.validate:
            written = spec.inputs.get(target.name, None if target.required else target.default)
            found[key] = (target, written, declared.description or target.help)
    return found


def _with_inputs(declared: Mapping[str, tuple[Input, Any, str]]) -> Any:
    """The command `run` with a parameter for each declared input."""

    names = {key: f"declared_{number}" for number, key in enumerate(declared)}  # what they are called may be taken

    def command(**values: Any) -> None:
        given = {key: values.pop(name) for key, name in names.items()}
        run({key: value for key, value in given.items() if value is not None}, **values)

    hints = get_type_hints(run, include_extras=True)
    parameters = list(inspect.signature(run).parameters.values())[1:]
    parameters = [p.replace(annotation=hints[p.name]) for p in parameters]
    told = [p.annotation.__metadata__[0] for p in parameters]
    taken = {"--help", *(flag for info in told for flag in (info.default, *(info.param_decls or ())))}
    for key, (target, written, text) in declared.items():
        flag = "--" + key.replace("_", "-")
        flag = f"--input-{flag[2:]}" if flag in taken else flag
        taken.add(flag)
        annotation = Annotated[_kind(target), _option(flag, target, written, text)]
        parameters.append(
            inspect.Parameter(names[key], inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess] - read by inspect
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = run.__doc__
    return command


def _option(flag: str, target: Input, written: Any, text: str) -> Any:
    low, high = target.bounds
    number = target.port.type is int or _kind(target) == float | None
    return typer.Option(
        f"{flag}/--no-{flag[2:]}" if target.port.type is bool else flag,
        help=text,
        min=low if number else None,
        max=high if number else None,
        show_default=str(written) if written not in (None, "") else False,
        rich_help_panel=PANEL,
    )


def _kind(target: Input) -> Any:
    """The option's type: that of the port, where a command line can tell it; text is left to the graph's checks."""
    kind = target.port.type
    if target.choices:
        made: Any = kind
    elif kind in (int, float, bool, str):
        made = kind
    else:
        made = float if target.bounds != (None, None) else str
    return list[made] | None if target.port.many else made | None


def run(
    inputs: dict[str, Any],
    workflow: Annotated[str, typer.Argument(help="Workflow file or name, or a picture that carries its recipe.")],
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="NODE.INPUT=VALUE", help="Set any input of any node.")
    ] = None,
    targets: Annotated[
        list[str] | None, typer.Option("--target", help="Compute only this node or output; may be given again.")
    ] = None,
    folder: options.Out = None,
    input_folder: options.InputFolder = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    cache_folder: options.CacheFolder = None,
    plugins: options.PluginFolder = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compute everything anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print events as lines of JSON.")] = False,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="Run it on this server.", envvar="GRAPHENGINE_SERVER")
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="The server's token.", envvar="GRAPHENGINE_TOKEN", show_envvar=True)
    ] = None,
) -> None:
    """Run a workflow and print where its results are.

    The inputs that a workflow declares are options: `graphengine run WORKFLOW --help` lists them.
    Ctrl-C stops it; what was finished stays in the cache, so the next run goes on from there.
    """
    from graphengine.compose import Engine

    document = set_inputs(load_workflow(workflow), assignments or [])
    settings = options.settings(folder, input_folder, device, dtype, cache_folder, plugins)
    if server:
        from graphengine.cli.remote import run_on_server

        run_on_server(server, token, document, inputs, targets, settings, as_json)
        return
    with Engine(settings=settings, cached=not no_cache) as engine:
        submitted = engine.submit(document, inputs, targets or None)
        try:
            watch(submitted, document, as_json)
            outputs = submitted.result()
        except KeyboardInterrupt:
            submitted.cancel()
            say("stopping ...")
            _end_quietly(submitted)
            say("stopped; what was finished is kept.")
            raise typer.Exit(130) from None
        except GraphEngineError as error:
            raise typer.Exit(fail(error)) from None
        except Exception as error:
            raise typer.Exit(_unexpected(error)) from None
    if not as_json:
        _print_results(outputs, submitted, document)


def _end_quietly(run: Run) -> None:
    try:
        run.result(timeout=60)
    except (Cancelled, GraphEngineError, TimeoutError):
        return


def _unexpected(error: Exception) -> int:
    fail(Problem("engine", f"{type(error).__name__}: {error}", hint="This is a fault of the engine; please report it."))
    return 1


def _print_results(outputs: dict[str, Any], run: Run, workflow: Workflow) -> None:
    """Paths of files on lines of their own; plain values after their names."""
    files = {file.path: None for value in (*outputs.values(), *_flat(run.effects)) for file in _files(value)}
    for path in files:
        here = Path.cwd()
        out.print(Path(path).relative_to(here) if Path(path).is_relative_to(here) else path, markup=False)
    for name, value in outputs.items():
        if isinstance(value, int | float | str | bool):
            out.print(f"{name}: {value}", markup=False)
    if not files and not any(isinstance(v, int | float | str | bool) for v in outputs.values()):
        say(f"{workflow.name} finished; nothing was saved (a SaveImage node would).")


def _flat(effects: dict[str, dict[str, Any]]) -> list[Any]:
    return [value for outputs in effects.values() for value in outputs.values()]


def _files(value: Any) -> list[Any]:
    from graphengine.values import File

    items, found = [value], []
    for item in items:  # grows while it is walked
        if isinstance(item, File):
            found.append(item)
        elif isinstance(item, list):
            items.extend(item)
    return found
