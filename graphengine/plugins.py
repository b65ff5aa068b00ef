"""Finding node types: the built-in ones, files and packages in the plugin folders, and entry points.

A plugin is a `.py` file or a package in a plugin folder, or an entry
point in the group `graphengine.plugins`; its nodes are called `<plugin>.<Node>`.  A plugin that cannot be
imported is remembered with its error and never stops anything else.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType

from graphengine.node import Node
from graphengine.registry import Registry
from graphengine.settings import Settings

GROUP = "graphengine.plugins"


def load(registry: Registry, settings: Settings, before: Callable[[str], None] = lambda plugin: None) -> None:
    """Fill a registry with the built-in nodes and every plugin that can be found.

    `before` is called with a plugin's name before it is imported; what it raises keeps the plugin out.
    """
    load_built_in(registry)
    for folder in settings.plugin_folders:
        for path in _candidates(folder):
            _guarded(registry, path.stem, lambda path=path: _import_file(path), before)
    for point in metadata.entry_points(group=GROUP):
        _guarded(registry, point.name, point.load, before)


def load_built_in(registry: Registry) -> None:
    """Fill a registry with the built-in nodes alone, by name: a file of them is imported when one of its is asked for."""
    catalogue = importlib.import_module("graphengine.nodes.catalogue")
    for file, names in catalogue.FILES.items():
        registry.add_later(names.split(), partial(_import_built_in, f"graphengine.nodes.{file}"))


def _import_built_in(name: str) -> Iterator[type[Node]]:
    return nodes_of(importlib.import_module(name))


def _candidates(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "_")):
            continue
        if path.suffix == ".py" or (path / "__init__.py").is_file():
            yield path


def _import_file(path: Path) -> ModuleType:
    source = path / "__init__.py" if path.is_dir() else path
    place = hashlib.blake2b(str(path.resolve()).encode(), digest_size=4).hexdigest()
    name = f"graphengine_plugin_{path.stem}_{place}"
    search = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, source, submodule_search_locations=search)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _guarded(
    registry: Registry, name: str, load_module: Callable[[], ModuleType], before: Callable[[str], None]
) -> None:
    """Load one plugin, all or nothing: either every node of it is there, or it is listed as broken."""
    trial = Registry()
    try:
        before(name)
        module = load_module()
        for node in nodes_of(module):
            trial.add(node, f"{name}.", name)
        if not len(trial):
            raise ImportError("it defines no node class with a run method")
        taken = [info.name for info in trial if registry.find(info.name)]
        if taken:
            raise ValueError(f"the node name {taken[0]} is taken")
    except (Exception, SystemExit) as error:  # whatever a plugin does at import, the engine goes on
        registry.broken[name] = f"{type(error).__name__}: {error}"
        return
    for info in trial:
        registry.add(info.type, f"{name}.", name)


def nodes_of(module: ModuleType) -> Iterator[type[Node]]:
    """Every public node class that a module (or its package) defines itself."""
    for name, item in list(vars(module).items()):
        own = isinstance(item, type) and item.__module__.startswith(module.__name__)
        if own and issubclass(item, Node) and not name.startswith("_") and item.run is not Node.run:
            yield item
