"""Plugins: ten lines that work, and broken ones that break nothing."""

import pytest

from graphengine import Engine, GraphError, NodeError
from graphengine.testing import PromiseError, half_mask, picture, run_node, settings

FADE = '''
from graphengine import Context, Field, Image, Node, Ports

class Fade(Node, version=2):
    """Blend an image towards its negative."""
    image: Image
    amount: float = Field(1.0, ge=0, le=1)

    class Outputs(Ports):
        image: Image

    def run(self, ctx: Context) -> Outputs:
        pixels = self.image.pixels
        return self.Outputs(image=Image(pixels + (1 - 2 * pixels) * self.amount))
'''


@pytest.fixture
def plugin(tmp_path):
    folder = tmp_path / "plugins"
    folder.mkdir()

    def write(name, text):
        (folder / name).write_text(text)
        return settings(tmp_path)

    return write


def number_node(body, kind="int"):
    return f'''
from graphengine import Node, Ports
import torch

class Odd(Node):
    """Does something odd."""
    number: int = 1

    class Outputs(Ports):
        value: {kind}

    def run(self, ctx):
        {body}
'''


def run(place, kind, port="value"):
    document = {
        "graphengine": 1,
        "nodes": {"it": {"type": kind, "inputs": {}}},
        "outputs": {"value": {"from": f"it.{port}"}},
    }
    with Engine(settings=place) as engine:
        return engine.submit(document).result(30)["value"]


def test_a_file_in_the_plugin_folder_is_a_plugin(plugin):
    place = plugin("faded.py", FADE)
    with Engine(settings=place) as engine:
        info = engine.registry.find("faded.Fade")
    assert info and info.plugin == "faded" and info.facts.version == 2


def test_a_package_is_a_plugin(plugin, tmp_path):
    (tmp_path / "plugins" / "pack").mkdir()
    place = plugin("pack/part.py", FADE)
    plugin("pack/__init__.py", "from .part import Fade")
    with Engine(settings=place) as engine:
        assert engine.registry.find("pack.Fade")


def test_a_plugin_that_cannot_be_imported_is_listed_and_the_workflow_is_told(plugin):
    place = plugin("bad.py", "import no_such_module_at_all")
    with Engine(settings=place) as engine:
        assert "no_such_module_at_all" in engine.registry.broken["bad"]
        assert engine.registry.find("Sampler")
    with pytest.raises(GraphError, match="plugin bad could not be loaded"):
        run(place, "bad.Odd")


def test_a_plugin_that_exits_at_import_is_listed(plugin):
    place = plugin("quits.py", "raise SystemExit(3)")
    with Engine(settings=place) as engine:
        assert "quits" in engine.registry.broken


def test_a_plugin_cannot_take_a_name_that_is_there(plugin, tmp_path):
    with pytest.raises(ValueError, match="is taken"), Engine(settings=settings(tmp_path)) as engine:
        known = engine.registry.find("Sampler")
        assert known
        engine.registry.add(known.type)


def test_a_plugin_that_raises_fails_its_run_only(plugin):
    place = plugin("odd.py", number_node("raise RuntimeError('no')"))
    with pytest.raises(NodeError, match=r"it: odd.Odd failed: no\."):
        run(place, "odd.Odd")


def test_a_plugin_that_exits_fails_its_run_only(plugin):
    place = plugin("odd.py", number_node("import sys; sys.exit(3)"))
    with pytest.raises(NodeError, match="SystemExit"):
        run(place, "odd.Odd")


def test_a_plugin_that_returns_something_else_is_told(plugin):
    place = plugin("odd.py", number_node("return 5"))
    with pytest.raises(NodeError, match="must return its Outputs, got int"):
        run(place, "odd.Odd")


def test_an_output_of_the_wrong_type_is_told(plugin):
    place = plugin("odd.py", number_node("return self.Outputs(value='five')"))
    with pytest.raises(NodeError, match="value"):
        run(place, "odd.Odd")


def test_changed_plugin_code_is_not_served_from_the_cache(plugin):
    place = plugin("odd.py", number_node("import time; time.sleep(0.01); return self.Outputs(value=1)"))
    assert run(place, "odd.Odd") == 1
    plugin("odd.py", number_node("return self.Outputs(value=2)"))
    assert run(place, "odd.Odd") == 2


MUTATING = '''
from graphengine import Node, Ports, Latent, LatentSpace
import torch

class Make(Node):
    """Makes a latent."""
    class Outputs(Ports):
        latent: Latent
    def run(self, ctx):
        return self.Outputs(latent=Latent(torch.zeros(1, 4, 2, 2), LatentSpace(4, 8, "v")))

class Spoil(Node):
    """Writes into its input."""
    latent: Latent
    how: str = "torch"
    class Outputs(Ports):
        total: float
    def run(self, ctx):
        if self.how == "torch":
            self.latent.samples.add_(1)
        elif self.how == "numpy":
            self.latent.samples.numpy()[...] = 1
        return self.Outputs(total=float(self.latent.samples.sum()))
'''


@pytest.mark.parametrize("how", ["torch", "numpy"])
def test_a_plugin_that_writes_into_its_input_is_found_out_and_the_cache_stays_right(plugin, how):
    place = plugin("spoil.py", MUTATING)

    def document(way):
        nodes = {
            "make": {"type": "spoil.Make"},
            "use": {"type": "spoil.Spoil", "inputs": {"latent": {"from": "make.latent"}, "how": way}},
        }
        return {"graphengine": 1, "nodes": nodes, "outputs": {"total": {"from": "use.total"}}}

    with Engine(settings=place) as engine:
        with pytest.raises(NodeError, match=r"use\.latent: spoil.Spoil changed its input"):
            engine.submit(document(how)).result(30)
        assert engine.submit(document("not at all")).result(30) == {"total": 0.0}


def test_a_picture_cannot_be_written_into(plugin):
    from graphengine import Context, Image, Node, Ports

    class Scribble(Node):
        """Writes into its input."""

        image: Image

        class Outputs(Ports):
            image: Image

        def run(self, ctx: Context) -> Outputs:
            self.image.pixels[...] = 0
            return self.Outputs(image=self.image)

    with pytest.raises(ValueError, match="read-only"):
        run_node(Scribble, image=picture(4, 4))


def test_run_node_tells_a_node_that_is_not_deterministic():
    import random

    from graphengine import Context, Node, Ports

    class Dice(Node):
        """A number."""

        class Outputs(Ports):
            value: float

        def run(self, ctx: Context) -> Outputs:
            return self.Outputs(value=random.random())

    with pytest.raises(PromiseError, match="two results"):
        run_node(Dice)


def test_the_helpers_of_plugin_authors_make_values():
    assert picture(8, 6).size == (8, 6) and half_mask(8, 6).alpha.mean() == 0.5


def test_an_installed_package_offers_nodes_by_an_entry_point(tmp_path, monkeypatch):
    (tmp_path / "site" / "offered-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "offered.py").write_text(FADE)
    (tmp_path / "site" / "offered-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n"
    )
    (tmp_path / "site" / "offered-1.0.dist-info" / "entry_points.txt").write_text(
        "[graphengine.plugins]\noffered = offered\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    with Engine(settings=settings(tmp_path)) as engine:
        assert engine.registry.find("offered.Fade")
