"""What README shows works."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow
from serving import Server

from graphengine import Engine, Workflow
from graphengine.testing import picture, run_node, settings
from graphengine.training.checker import facts, read
from graphengine.training.scenes import Scene, Thing

TEXT = (Path(__file__).parent.parent / "README.md").read_text()


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)[number]


def test_there_are_exactly_two_set_up_commands():
    assert len(re.findall(r"^ *pip install -c constraints\.txt -e ", TEXT, re.MULTILINE)) == 2


def test_the_workflow_runs(tmp_path, workflows):
    place = settings(tmp_path).model_copy(update={"input_folder": workflows.parent})
    with Engine(settings=place) as engine:
        image = engine.submit(Workflow.load(json.loads(block("json")))).result(30)["image"]
    assert image.size == (64, 64)


def test_the_python_call_runs(tmp_path, workflows, monkeypatch):
    monkeypatch.chdir(workflows.parent)
    names = {}
    exec(block("python", 0), names)  # README's own lines
    assert len(names["pictures"]) == 1


def test_the_node_is_ten_lines_and_runs(tmp_path):
    text = block("python", 1)
    assert len([row for row in text.splitlines() if row.strip()]) <= 11
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "fade.py").write_text(text)
    image = picture(4, 4)
    with Engine(settings=settings(tmp_path)) as engine:
        info = engine.registry.find("fade.Fade")
    assert info
    made = run_node(info.type, image=image, amount=1.0)
    assert abs(made.image.pixels - (1 - image.pixels)).max() < 1e-6


def test_the_commands_name_workflows_and_options_that_exist(workflows):
    for row in block("sh").splitlines():
        words = row.split()
        if words[1] in ("run", "explain"):
            document = Workflow.load(workflows / f"{words[2]}.json")
            options = {w[2:].replace("-", "_") for w in words if w.startswith("--")} - {"help", "set"}
            assert options <= set(document.inputs)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("readme")) as server:
        yield server


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_example_submits_follows_and_fetches(server, tmp_path):
    text = (
        block("sh", 1)
        .replace("graphengine serve &\n", "")
        .replace("localhost:8420", server.url.removeprefix("http://"))
    )
    submit, rest = text.split("curl -sN")
    told = subprocess.run(["bash", "-c", submit], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    command = f"curl -sN{rest}".replace("RUN", json.loads(told)["id"])
    events = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "event: run_finished" in events
    said = Scene((Thing("red", "star"),), "white")
    assert all(facts(said, read(np.asarray(pillow.open(tmp_path / "star.png")))).values())


def test_the_client_example_runs(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(block("python", 2).replace("http://127.0.0.1:8420", server.url), {})
    assert pillow.open(tmp_path / "star.png").size == (64, 64)
