"""What the author of a plugin needs to test it.

    from graphengine.testing import picture, run_node

    def test_fade_at_zero_keeps_the_picture():
        image = picture(8, 8)
        outputs = run_node(Fade, image=image, amount=0.0)
        assert (outputs.image.pixels == image.pixels).all()

`run_node` also holds a node to its promises: it runs twice, must give the same both times, and must leave its
inputs alone.  For whole workflows, `engine` is a fixture (import it in your conftest.py) with folders of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphengine.compose import Engine, Models
from graphengine.guard import Guard
from graphengine.node import Context, Node, Ports, Services, describe
from graphengine.settings import Settings
from graphengine.values import Image, Mask, Value, arrays


class PromiseError(AssertionError):
    """A node does not keep what nodes promise."""


def settings(folder: Path) -> Settings:
    """Settings with every folder inside `folder`, and no plugins but those put into `folder/plugins`."""
    return Settings(
        input_folder=folder,
        output_folder=folder / "output",
        cache_folder=folder / "cache",
        model_folders=(folder / "models",),
        plugin_folders=(folder / "plugins",),
        device="cpu",
    )


def run_node(node: type[Node], **inputs: Any) -> Any:
    """Run one node by itself and return its Outputs.

    Raises:
        PromiseError: it changed an input, gives another result the second time, or no Outputs.
        pydantic.ValidationError: the inputs do not fit its ports.
    """
    info = describe(node)
    with tempfile.TemporaryDirectory() as folder:
        place = settings(Path(folder))
        context = Context("node", Services(place, Models(place)))
        guard = Guard(inputs)
        results = [info.build(inputs).run(context) for _ in range(2)]
    if changed := guard.changed():
        raise PromiseError(f"{info.name} changed its input {changed!r} in place.")
    if not all(isinstance(result, info.type.Outputs) for result in results):
        raise PromiseError(f"{info.name} must return its Outputs, got {type(results[0]).__name__}.")
    if not info.facts.effect and not _same(*results):
        raise PromiseError(f"{info.name} gave two results for the same inputs.")
    return results[0]


def _same(first: Ports, second: Ports) -> bool:
    for name in type(first).model_fields:
        a, b = getattr(first, name), getattr(second, name)
        if not isinstance(a, Value | list):
            if a != b:
                return False
            continue
        pairs = list(zip(arrays(a), arrays(b), strict=True))
        if not all(x.shape == y.shape and bool((x == y).all()) for x, y in pairs):
            return False
    return True


def picture(width: int = 64, height: int = 64, batch: int = 1, seed: int = 0) -> Image:
    """A picture of even noise, the same for the same seed."""
    import numpy as np

    random = np.random.default_rng(seed)
    return Image(random.random((batch, height, width, 3), dtype=np.float32))


def half_mask(width: int = 64, height: int = 64) -> Mask:
    """A mask whose right half is 1."""
    import numpy as np

    alpha = np.zeros((1, height, width), np.float32)
    alpha[..., width // 2 :] = 1
    return Mask(alpha)


@contextmanager
def temporary_engine(*nodes: type[Node], folder: Path | None = None, **overrides: Any) -> Iterator[Engine]:
    """An engine with `nodes` besides the built-in ones, and folders that go away with it."""
    with tempfile.TemporaryDirectory() as place:
        made = settings(folder or Path(place)).model_copy(update=overrides)
        with Engine(nodes=nodes, settings=made) as engine:
            yield engine


try:
    import pytest
except ImportError:  # only the fixture needs it
    pass
else:

    @pytest.fixture
    def engine(tmp_path: Path) -> Iterator[Engine]:
        """An engine whose folders lie in the test's own."""
        with temporary_engine(folder=tmp_path) as made:
            yield made
