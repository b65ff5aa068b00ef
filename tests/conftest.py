"""Every test has folders of its own; torch keeps to one thread, because the machine is shared."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from pathlib import Path

import pytest

from graphengine.settings import Settings
from graphengine.testing import engine, settings

__all__ = ["engine"]
ROOT = Path(__file__).parent.parent
LONGEST = (
    "test_server_processes",
    "test_kill",
    "test_families",
    "test_out_of_memory",
    "test_page",
    "test_workflows_noise",
)


def pytest_itemcollected(item: pytest.Item) -> None:
    """`pytest -k workflows` selects the tests of workflows wherever they stand."""
    if "workflows" in getattr(item, "fixturenames", ()):
        item.extra_keyword_matches.add("workflows")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that no core waits for the other's last file."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's is read or written."""
    monkeypatch.setenv("GRAPHENGINE_CACHE_FOLDER", str(tmp_path / "cache"))
    monkeypatch.setenv("GRAPHENGINE_OUTPUT_FOLDER", str(tmp_path / "output"))
    monkeypatch.setenv("GRAPHENGINE_PLUGIN_FOLDERS", str(tmp_path / "plugins"))
    monkeypatch.setenv("GRAPHENGINE_MODEL_FOLDERS", str(tmp_path / "models"))


@pytest.fixture
def workflows() -> Path:
    return ROOT / "workflows"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty model folder."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def own(tmp_path: Path, models: Path) -> Settings:
    """Settings with this model folder and folders of the test's own."""
    return settings(tmp_path)
