"""The one place where everything is put together: registry, cache, models and engine out of settings."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from graphengine import engine, plugins
from graphengine.cache import Cache
from graphengine.collector import uncollected
from graphengine.easing import Easing
from graphengine.node import Node
from graphengine.registry import Registry
from graphengine.settings import Settings, bundled_workflows
from graphengine.store.disk import DiskStore
from graphengine.workflow import Workflow


class Models:
    """The weights of an engine, behind a door that opens on first use: importing them costs seconds."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._memory: Any = None
        self.easing = Easing()

    def release(self) -> None:
        """Let go of all weights, where any were loaded."""
        if self._memory is not None:
            self._memory.release()

    @property
    def streams(self) -> bool:
        """Whether weights can stay on the host and go to the device block by block."""
        return self._memory is not None and self._memory.streams

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._memory is None:
            with uncollected(freeze=True):
                memory = importlib.import_module("graphengine.models.memory")
            made = memory.ModelMemory(self._settings)
            made.easing = self.easing
            self._memory = made
        return getattr(self._memory, name)


class Engine(engine.Engine):
    """An engine with the built-in nodes, every plugin that is found, and `nodes` of the caller's own.

    `registry` stands in for all of these.

    with Engine(nodes=[Fade]) as engine:
        outputs = engine.submit("workflow.json", inputs={"seed": 3}).result()
    """

    def __init__(
        self,
        nodes: Iterable[type[Node]] = (),
        settings: Settings | None = None,
        cached: bool = True,
        registry: Registry | None = None,
        **overrides: Any,
    ):
        settings = settings or Settings.load(**overrides)
        registry = registry or make_registry(settings, nodes)
        super().__init__(
            registry,
            settings,
            make_cache(settings) if cached else None,
            Models(settings),
            workflow_finder(settings),
        )


def make_registry(
    settings: Settings, nodes: Iterable[type[Node]] = (), before: Callable[[str], None] = lambda plugin: None
) -> Registry:
    """Built-in nodes, plugins, and `nodes` of the caller; `before` is called before each plugin is imported."""
    registry = Registry()
    plugins.load(registry, settings, before)
    registry.extend(nodes)
    return registry


def make_cache(settings: Settings) -> Cache:
    """Memory tier, and a disk tier unless its budget is zero."""
    disk = DiskStore(settings.cache_folder, settings.disk_budget) if settings.disk_budget else None
    return Cache(settings.memory_budget, disk)


def workflow_finder(settings: Settings) -> engine.FindWorkflow:
    """Finds workflows that are used as nodes: `workflow.NAME` is `NAME.json` in the input folder's `workflows`."""
    known: dict[Path, tuple[tuple[int, int], Workflow]] = {}
    folders = (settings.input_folder, settings.input_folder / "workflows", bundled_workflows())

    def find(name: str) -> Workflow | None:
        if not name.replace("_", "").replace("-", "").isalnum():
            return None
        path = next((p for folder in folders if (p := folder / f"{name}.json").is_file()), None)
        if path is None:
            return None
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if path not in known or known[path][0] != stamp:
            known[path] = (stamp, Workflow.load(path))
        return known[path][1]

    return find


def run(workflow: Any, /, **inputs: Any) -> dict[str, Any]:
    """Run a workflow and return its declared outputs by name.

        pictures = graphengine.run("workflows/text_to_image.json", prompt="a red star", seed=3)["image"]

    Raises:
        GraphError: the workflow cannot run; NodeError: a node failed.
    """
    with Engine() as engine:
        return engine.submit(workflow, inputs).result()


__all__ = ["Engine", "Models", "bundled_workflows", "make_cache", "make_registry", "run", "workflow_finder"]
