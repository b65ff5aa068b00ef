"""The cache: right after damage, under a budget, between processes, and once per key."""

import threading

import numpy as np
import pytest
import torch

from graphengine import VAE, Conditioning, Image, Latent, LatentSpace
from graphengine.cache import Cache
from graphengine.store import codec
from graphengine.store.disk import DiskStore

KEY = b"\xab" * 16
SPACE = LatentSpace(4, 8, "vae")


@pytest.fixture
def store(tmp_path):
    return DiskStore(tmp_path, 10**8)


def everything():
    pixels = np.random.default_rng(0).random((1, 4, 6, 3), dtype=np.float32)
    latent = Latent(torch.randn(2, 4, 3, 3), SPACE)
    prompt = Conditioning(torch.randn(1, 5, 7).bfloat16(), "digest", "red", {"pooled": torch.ones(1, 3)})
    return {
        "image": Image(pixels),
        "latent": latent,
        "prompt": prompt,
        "list": [1, 2.5, "x", None, True],
        "map": {"a": [1]},
    }


def test_every_kind_of_value_comes_back_as_it_was(store):
    outputs = everything()
    assert store.write(KEY, outputs, {})
    read = store.read(KEY)
    assert (read["image"].pixels == outputs["image"].pixels).all()
    assert torch.equal(read["latent"].samples, outputs["latent"].samples) and read["latent"].space == SPACE
    assert torch.equal(read["prompt"].features, outputs["prompt"].features)
    assert read["list"] == outputs["list"] and read["map"] == outputs["map"]


def test_values_that_share_memory_come_back_as_they_were(store):
    whole = torch.randn(3, 4, 3, 3)
    first, part = Latent(whole, SPACE), Latent(whole[1:], SPACE)
    assert store.write(KEY, {"latents": [first, first, part]}, {})
    read = store.read(KEY)["latents"]
    assert [torch.equal(made.samples, was.samples) for made, was in zip(read, [first, first, part], strict=True)] == [
        True
    ] * 3


def test_an_array_that_stands_in_a_list_twice_is_written_once(store):
    image = Image(np.random.default_rng(0).random((1, 64, 64, 3), dtype=np.float32))
    store.write(KEY, {"images": [image]}, {})
    once = store._path(KEY).stat().st_size
    store.write(KEY, {"images": [image] * 9}, {})
    assert store._path(KEY).stat().st_size < 1.2 * once


def test_a_value_that_cannot_be_written_costs_the_entry_and_no_run(store, monkeypatch):
    def encode(outputs, notes):
        raise RuntimeError("some tensors share memory")

    monkeypatch.setattr(codec, "encode", encode)
    assert not store.write(KEY, everything(), {})


def test_pictures_come_back_read_only(store):
    store.write(KEY, {"image": everything()["image"]}, {})
    assert not store.read(KEY)["image"].pixels.flags.writeable


def test_a_handle_is_never_written(store):
    assert not store.write(KEY, {"vae": VAE("tiny", "d", "f", "/x")}, {})
    assert not store.has(KEY)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_flipped_bit_is_found_and_set_aside(store, share):
    store.write(KEY, {"image": everything()["image"]}, {})
    path = store._path(KEY)
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 1
    path.write_bytes(data)
    assert store.read(KEY) is None
    assert not path.exists() and store.damaged == 1


@pytest.mark.parametrize("length", [0, 7, 40, 60, 200])
def test_a_truncated_entry_is_a_miss(store, length):
    store.write(KEY, {"image": everything()["image"]}, {})
    path = store._path(KEY)
    path.write_bytes(path.read_bytes()[:length])
    assert store.read(KEY) is None


def test_the_least_recently_used_entries_go_first(tmp_path):
    import os

    store = DiskStore(tmp_path, 10**8)
    keys = [bytes([i]) * 16 for i in range(5)]
    for age, key in enumerate(keys):
        store.write(key, {"image": everything()["image"]}, {})
        os.utime(store._path(key), (1000 + age, 1000 + age))
    store.read(keys[0])
    size = store._path(keys[0]).stat().st_size
    store.prune(budget=3 * size)
    assert [key for key in keys if store.has(key)] == [keys[0], keys[4]]


def test_another_process_sees_a_new_entry(tmp_path):
    first, second = DiskStore(tmp_path, 10**8), DiskStore(tmp_path, 10**8)
    assert not second.has(KEY)
    first.write(KEY, {"x": 1}, {})
    second.refresh()
    assert second.has(KEY) and second.read(KEY) == {"x": 1}


def test_nothing_half_written_is_left_when_the_disk_is_full(tmp_path, monkeypatch):
    store = DiskStore(tmp_path, 10**8)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert not store.write(KEY, {"x": 1}, {})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_memory_keeps_to_its_budget():
    cache = Cache(10_000)
    for number in range(100):
        cache.settle(bytes([number]), {"image": everything()["image"]})
    assert cache.memory_bytes <= 10_000 and cache.get(bytes([99])) is not None and cache.get(bytes([0])) is None


def test_a_key_is_computed_by_one_and_awaited_by_the_others():
    cache, taken = Cache(10**6), []

    def work():
        found = cache.claim(b"k", lambda: None)
        taken.append(found)
        if found is None:
            cache.settle(b"k", {"x": 1})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert taken.count(None) == 1 and taken.count({"x": 1}) == 7


def test_when_a_computation_fails_another_takes_over():
    cache = Cache(10**6)
    assert cache.claim(b"k", lambda: None) is None
    cache.give_back(b"k")
    assert cache.claim(b"k", lambda: None) is None


def test_an_entry_of_an_unknown_class_is_no_value(store, monkeypatch):
    store.write(KEY, {"image": everything()["image"]}, {})
    monkeypatch.setattr(codec, "value_class", lambda name: None)
    assert store.read(KEY) is None
