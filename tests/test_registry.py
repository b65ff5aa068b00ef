"""The catalogue of node types: the built-in ones are there by name, and imported when they are asked for."""

import importlib
import pkgutil
import subprocess
import sys
import threading

import pytest

from graphengine import Context, Node, Ports, plugins
from graphengine.registry import Registry

nodes = importlib.import_module("graphengine.nodes")
FILES = importlib.import_module("graphengine.nodes.catalogue").FILES
LIGHT = """
import sys
from graphengine import Engine
with Engine(cached=False) as engine:
    assert engine.registry.find("Text")
    assert "Sampler" in engine.registry.names()
    print(*(name for name in sys.modules if name.startswith("graphengine.nodes.")), "numpy" in sys.modules)
"""


class Sampler(Node):
    """Has the name of another."""

    def run(self, ctx: Context) -> Ports:
        return Ports()


@pytest.mark.parametrize(
    "file", sorted({module.name for module in pkgutil.iter_modules(nodes.__path__)} - {"catalogue"})
)
def test_the_catalogue_names_every_node_of(file):
    module = importlib.import_module(f"graphengine.nodes.{file}")
    made = [node.facts.name for node in plugins.nodes_of(module)]
    assert FILES[file].split() == made


def test_every_file_that_the_catalogue_names_is_there():
    assert set(FILES) <= {module.name for module in pkgutil.iter_modules(nodes.__path__)}


def test_only_files_whose_nodes_are_asked_for_are_imported():
    told = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True).stdout.split()
    assert told == ["graphengine.nodes.catalogue", "graphengine.nodes.primitive", "False"]


def test_the_name_of_a_node_that_was_not_imported_yet_is_taken():
    registry = Registry()
    plugins.load_built_in(registry)
    with pytest.raises(ValueError, match="Sampler is taken by graphengine"):
        registry.add(Sampler)


def test_all_nodes_are_there_when_they_are_walked():
    registry = Registry()
    plugins.load_built_in(registry)
    assert sorted(info.name for info in registry) == registry.names()
    assert len(registry) == len(registry.names()) > 90


def test_threads_that_ask_at_once_all_find_the_node():
    registry = Registry()
    calls: list[int] = []

    def load() -> list[type[Node]]:
        calls.append(1)
        return [Sampler]

    registry.add_later(["Sampler"], load)
    start, found = threading.Barrier(8), []

    def ask() -> None:
        start.wait()
        found.append(registry.find("Sampler"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(found) == 8 and all(info is not None and info.type is Sampler for info in found)


def test_a_name_nobody_has_gets_the_nearest_one_though_it_was_not_imported():
    registry = Registry()
    plugins.load_built_in(registry)
    assert registry.hint("Samplr") == "Did you mean Sampler?"
