"""Work on large pictures that is done in pieces from the start, because the whole would not fit."""

import json
from pathlib import Path

import numpy as np

import graphengine
from graphengine import Engine
from graphengine.events import NodeNote
from graphengine.models import autoencoder, pieces
from graphengine.models.memory import ModelMemory
from graphengine.testing import settings

ROOT = Path(graphengine.__file__).parents[1]
MIB = 2**20


class Watched:
    """An autoencoder's calls, in a run whose settings limit it."""

    def __init__(self, monkeypatch):
        self.sizes, self.tiled, real = [], [], autoencoder.KLAutoencoder.decode

        def decode(adapter, samples):
            self.sizes.append(len(samples))
            self.tiled.append(bool(adapter.network.use_tiling))
            return real(adapter, samples)

        monkeypatch.setattr(autoencoder.KLAutoencoder, "decode", decode)


def painted(tmp_path, limit: int, **inputs):
    own = settings(tmp_path).model_copy(update={"autoencoder_limit": limit})
    workflow = json.loads((ROOT / "workflows" / "text_to_image.json").read_text())
    with Engine(settings=own, cached=False) as engine:
        run = engine.submit(workflow, {"steps": 2, **inputs})
        image = run.result(60)["image"]
        return image.pixels, [event.note for event in run.events() if isinstance(event, NodeNote)]


def test_pictures_are_decoded_one_by_one_when_only_one_fits(tmp_path, monkeypatch):
    wanted, none = painted(tmp_path, 0, batch=3)
    assert none == []
    watched = Watched(monkeypatch)
    pixels, notes = painted(tmp_path, 18 * MIB, batch=3)
    assert (watched.sizes, any(watched.tiled)) == ([1, 1, 1], False)
    assert "one by one" in notes[0]
    assert np.abs(pixels - wanted).max() < 1e-5


def test_a_picture_that_is_too_large_is_decoded_in_tiles(tmp_path, monkeypatch):
    wanted, _ = painted(tmp_path, 0, width=192, height=192)
    watched = Watched(monkeypatch)
    pixels, notes = painted(tmp_path, 18 * MIB, width=192, height=192)
    assert watched.tiled == [True]
    assert "tiles of 64 pixels" in notes[0]
    assert np.abs(pixels - wanted).mean() < 0.05


def test_other_models_leave_before_anything_is_done_in_pieces(tmp_path, monkeypatch):
    wanted, _ = painted(tmp_path, 0, width=192, height=192)
    free = iter([2 * MIB, 10_000 * MIB])
    monkeypatch.setattr(ModelMemory, "free", property(lambda memory: next(free)))
    watched = Watched(monkeypatch)
    pixels, notes = painted(tmp_path, 0, width=192, height=192)
    assert "other models are let go of" in notes[0]
    assert (len(notes), watched.tiled) == (1, [False])
    assert np.array_equal(pixels, wanted)


def test_small_pictures_are_not_estimated_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "Part", None)
    _, notes = painted(tmp_path, 0)
    assert notes == []
