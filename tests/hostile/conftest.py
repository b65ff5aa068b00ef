"""Every attack that could run code would make a file, the canary; time and memory are bounded."""

import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks import TINY

from graphengine.models.checkpoint import find
from graphengine.models.memory import ModelMemory
from graphengine.testing import settings

SECONDS, MEGABYTES = 4.0, 600
"""What an attack may cost at most; the machine is shared, so the time is generous."""


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code out of a model file was run"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint under the name `m`, without its checksums."""
    folder = tmp_path / "models" / "m"
    shutil.copytree(TINY, folder)
    (folder / "checksums.json").unlink()
    return folder


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Neither much time nor much memory is spent, and the limit makes a huge allocation fail instead of the machine."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before, began = peak(), time.perf_counter()
    resource.setrlimit(resource.RLIMIT_AS, (size + 6 * 2**30, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert peak() - before < MEGABYTES
    assert time.perf_counter() - began < SECONDS + 10 * (before == 0)


def peak() -> float:
    """Megabytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "linux" else 2**20)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """The libraries are imported before anything is measured."""
    memory = ModelMemory(settings(Path("/nonexistent")))
    denoiser, encoder, vae = find("tiny", settings(Path("/nonexistent"))).handles()
    memory.denoiser(denoiser)
    memory.text_encoder(encoder).encode("a red star")
    memory.vae(vae)
