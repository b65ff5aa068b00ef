"""The house stands: rooms import downwards only, and the entrance is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "graphengine"
FLOORS = [
    {
        "errors",
        "values",
        "ports",
        "events",
        "settings",
        "collector",
        "machine",
        "threads",
        "guiding",
        "trajectory",
        "blocks",
        "easing",
    },
    {"node"},
    {"registry", "plugins", "workflow", "guard"},
    {"subgraph", "graph", "builder", "fingerprint"},
    {"cache", "store", "plan"},
    {"executor", "runner", "frame"},
    {"engine", "queue"},
    {"compose", "cli", "testing", "drawing", "client", "forecast", "gallery", "__main__", "__init__"},
]
WINGS = {
    "diffusion": {"errors"},
    "planes": set(),
    "plot": {"values"},
    "windows": set(),
    "models": {
        "planes",
        "diffusion",
        "errors",
        "values",
        "settings",
        "fingerprint",
        "collector",
        "machine",
        "guiding",
        "trajectory",
        "blocks",
        "easing",
    },
    "training": {"diffusion", "models", "errors", "values", "settings", "fingerprint"},
    "pictures": {"errors", "models"},
}
LEAVES = {"nodes", "server"}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> set[str]:
    found = set()
    for item in ast.walk(ast.parse(path.read_text())):
        if isinstance(item, ast.ImportFrom) and (item.module or "").split(".")[0] == "graphengine":
            names = (
                [f"graphengine.{a.name}" for a in item.names] if item.module == "graphengine" else [item.module or ""]
            )
            found |= {room(name) for name in names}
        elif isinstance(item, ast.Import):
            found |= {room(alias.name) for alias in item.names if alias.name.startswith("graphengine")}
    return found


def files(name: str) -> list[Path]:
    return sorted((PACKAGE / name).rglob("*.py")) if (PACKAGE / name).is_dir() else [PACKAGE / f"{name}.py"]


@pytest.mark.parametrize("number", range(len(FLOORS) - 1))
def test_a_floor_imports_only_from_below(number):
    below = set().union(*FLOORS[: number + 1])
    for name in FLOORS[number]:
        for path in files(name):
            assert imports(path) <= below, f"{path.name} imports from above: {imports(path) - below}"


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_imports_only_what_it_may(wing):
    for path in files(wing):
        allowed = WINGS[wing] | {wing}
        assert imports(path) <= allowed, f"{path.name} imports {imports(path) - allowed}"


def test_every_room_stands_somewhere():
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {
        p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()
    }
    assert rooms <= set().union(*FLOORS) | set(WINGS) | LEAVES


def test_no_file_outside_the_leaves_imports_them():
    for path in PACKAGE.rglob("*.py"):
        assert not imports(path) & LEAVES, path


@pytest.mark.parametrize(
    "code",
    [
        "import graphengine",
        "from graphengine.cli import main\ntry: main(['check', 'workflows/text_to_image.json'])\nexcept SystemExit: pass",
        "from graphengine.cli import main\ntry: main(['nodes'])\nexcept SystemExit: pass",
    ],
)
def test_the_entrance_imports_no_torch(code):
    script = f"{code}\nimport sys\nassert not {{'torch', 'diffusers', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)


def test_every_built_in_node_says_what_it_does(engine):
    for info in engine.registry:
        assert info.summary, info.name
        assert all(item.help for item in info.inputs.values() if item.validate), info.name
