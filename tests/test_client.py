"""The Python client and `run --server`, against a real server."""

import asyncio
import json

import pytest
from PIL import Image as pillow
from serving import Server, painting, trivial

from graphengine import AsyncClient, Cancelled, Client, GraphError, Workflow
from graphengine.cli import main
from graphengine.client import ServerError
from graphengine.events import NodeFinished, RunFinished


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("client")) as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.url) as client:
        yield client


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_a_workflow_is_submitted_followed_and_fetched(client, tmp_path):
    run = client.submit(painting(3))
    events = list(run.events())
    assert isinstance(events[-1], RunFinished)
    assert [event.node for event in events if isinstance(event, NodeFinished)] == ["load", "resize", "save"]
    path = run.result()["image"][0].save(tmp_path / "made.png")
    assert pillow.open(path).size == (67, 64)


@pytest.mark.parametrize("form", ["name", "document", "workflow", "file"])
def test_a_workflow_may_be_a_name_a_document_or_a_file(client, tmp_path, form):
    (tmp_path / "w.json").write_text(json.dumps(trivial()))
    client.call("PUT", "/v1/workflows/known", json=trivial())
    given = {"name": "known", "document": trivial(), "workflow": Workflow.load(trivial()), "file": tmp_path / "w.json"}
    assert client.submit(given[form]).result()["text"][0].value == "hello, x, x"


def test_every_problem_comes_back_as_a_graph_error(client):
    with pytest.raises(GraphError) as told:
        client.submit({"graphengine": 1, "nodes": {"a": {"type": "No"}, "b": {"type": "Nope"}}})
    assert {problem.node for problem in told.value.problems} == {"a", "b"}


def test_a_failed_run_raises_its_problem(client):
    size = {"type": "Resize", "inputs": {"image": {"from": "load.image"}, "width": 8, "height": 8}}
    crop = {"type": "Crop", "inputs": {"image": {"from": "size.image"}, "x": 0, "y": 0, "width": 99, "height": 99}}
    load = {"type": "LoadImage", "inputs": {"file": "workflows/example.png"}}
    with pytest.raises(GraphError, match="crop"):
        client.submit({"graphengine": 1, "nodes": {"load": load, "size": size, "crop": crop}}).result()


def test_a_cancelled_run_raises_cancelled(client):
    client.call("POST", "/v1/queue/pause")
    try:
        run = client.submit(trivial("cancelled"))
        run.cancel()
        with pytest.raises(Cancelled):
            run.result()
    finally:
        client.call("POST", "/v1/queue/resume")


def test_a_run_can_be_found_again_and_retried(client):
    run = client.submit(trivial("again"))
    made = run.result()
    assert client.run(run.id).retry().result() == made


def test_a_server_that_is_not_there_is_told():
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServerError, match="cannot be reached"):
        client.submit("text_to_image")


def test_a_refusal_has_its_status(client):
    with pytest.raises(ServerError) as told:
        client.run("nope").document()
    assert told.value.status == 404


def test_the_client_can_be_awaited(server, tmp_path):
    async def speak():
        async with AsyncClient(server.url) as client:
            pillow.new("RGB", (9, 9)).save(tmp_path / "up.png")
            file = await client.upload(tmp_path / "up.png")
            nodes = {"load": {"type": "LoadImage", "inputs": {"file": file}}}
            workflow = {"graphengine": 1, "outputs": {"image": {"from": "load.image"}}, "nodes": nodes}
            runs = [await client.submit(workflow) for _ in range(3)]
            return await asyncio.gather(*(run.result() for run in runs))

    made = asyncio.run(speak())
    assert len({result["image"][0].digest for result in made}) == 1


def test_run_with_a_server_leaves_the_picture_here(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paint.json").write_text(json.dumps(painting(5)))
    assert call("run", "paint.json", "--server", server.url, "--out", "made") == 0
    assert capsys.readouterr().out.strip() == "made/painted_00001.png"
    assert pillow.open(tmp_path / "made" / "painted_00001.png").size == (69, 64)


def test_run_with_a_server_uploads_local_pictures(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pillow.new("RGB", (30, 20), "#ff0000").save(tmp_path / "mine.png")
    document = painting() | {"inputs": {"picture": {"to": "load.file"}}}
    (tmp_path / "paint.json").write_text(json.dumps(document))
    assert call("run", "paint.json", "--server", server.url, "--picture", "mine.png", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["event"] == "run_finished"
    assert call("run", "paint.json", "--server", server.url, "--picture", "mine.png") == 0
    assert pillow.open(capsys.readouterr().out.splitlines()[0].strip()).getpixel((9, 9)) == (255, 0, 0)


def test_run_with_a_server_tells_problems_as_it_does_here(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text(json.dumps({"graphengine": 1, "nodes": {"a": {"type": "No"}}}))
    assert call("run", "bad.json", "--server", server.url) == 2
    assert "there is no node type 'No'" in capsys.readouterr().err
