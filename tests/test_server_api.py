"""The HTTP interface, on a real server with a real worker."""

import asyncio
import hashlib
import json

import aiohttp
import numpy as np
import pytest
from PIL import Image as pillow
from serving import Server, trivial

from graphengine.training.checker import facts, read
from graphengine.training.scenes import Scene, Thing

PROMPT = "a large red circle on a blue background"
QUICK = {"prompt": PROMPT, "steps": 12}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def painted(server):
    """A run of text_to_image that has finished."""
    answer = server.post("/v1/workflows/text_to_image/runs", QUICK)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/runs/{answer.json()['id']}"
    return server.ended(answer.json()["id"])


# Runs


def test_a_workflow_is_a_typed_endpoint_that_paints_what_the_prompt_says(server, painted, tmp_path):
    data = server.get(f"/v1/runs/{painted['id']}/outputs/image").content
    (tmp_path / "made.png").write_bytes(data)
    said = Scene((Thing("red", "circle", "large"),), "blue")
    assert all(facts(said, read(np.asarray(pillow.open(tmp_path / "made.png")))).values())


def test_a_picture_from_the_server_carries_its_recipe(server, painted, tmp_path):
    from graphengine.pictures import read_recipe

    (tmp_path / "made.png").write_bytes(server.get(f"/v1/runs/{painted['id']}/outputs/image/0").content)
    assert read_recipe(tmp_path / "made.png")["inputs"]["prompt"] == PROMPT


def test_a_run_that_has_ended_says_what_it_did_otherwise_than_asked(server, painted):
    assert painted["notes"] == []
    inputs = {"prompt": "a red wombat on a white background", "steps": 1}
    ended = server.ended(server.submit("text_to_image", inputs=inputs))
    assert [note["node"] for note in ended["notes"]] == ["prompt"] and "wombat" in ended["notes"][0]["note"]


def test_every_problem_of_a_workflow_is_told_at_once(server):
    nodes = {"a": {"type": "Nope"}, "b": {"type": "EmptyLatent", "inputs": {"width": "x"}}}
    answer = server.post("/v1/runs", {"workflow": {"graphengine": 1, "nodes": nodes}})
    assert answer.status_code == 422
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert {(p.get("node"), p["code"]) for p in answer.json()["problems"]} >= {
        ("a", "unknown_type"),
        ("b", "missing_input"),
        ("b", "wrong_value"),
    }


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        '{"workflow": 3}',
        '{"workflow": "nowhere"}',
        '{"workflow": {}, "workflow": {}}',
        '{"workflow": {}, "inputs": []}',
        '{"workflow": {}, "priority": 1.5}',
        '{"workflow": {}, "priority": 1e99}',
        '{"workflow": {}, "priority": ' + "9" * 5000 + "}",
        '{"workflow": {"nodes": NaN}}',
        '{"workflow": ' + '{"a":' * 20_000,
        '{"workflow": "text_to_image", "targets": ["nope"]}',
        '{"workflow": "text_to_image", "inputs": {"sead": 1}}',
        '{"workflow": "\\ud800"}',
    ],
)
def test_a_body_that_is_wrong_is_told_and_nothing_is_accepted(server, body):
    before = server.get("/v1/runs").json()["runs"]
    answer = server.http.post("/v1/runs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["problems"]
    assert server.get("/v1/runs").json()["runs"] == before


def test_the_same_key_and_body_give_the_same_run(server):
    body = {"workflow": trivial("key")}
    first, second = (server.post("/v1/runs", body, headers={"Idempotency-Key": "k1"}).json()["id"] for _ in range(2))
    assert first == second


def test_the_same_key_with_another_body_is_a_conflict(server):
    server.post("/v1/runs", {"workflow": trivial("a")}, headers={"Idempotency-Key": "k2"})
    answer = server.post("/v1/runs", {"workflow": trivial("b")}, headers={"Idempotency-Key": "k2"})
    assert answer.status_code == 409


def test_a_hundred_clients_with_one_key_get_one_run(server):
    async def submit_all():
        async with aiohttp.ClientSession(server.url) as session:

            async def submit():
                body = {"workflow": trivial("together")}
                async with session.post("/v1/runs", json=body, headers={"Idempotency-Key": "k3"}) as answer:
                    return (await answer.json())["id"]

            return await asyncio.gather(*(submit() for _ in range(100)))

    assert len(set(asyncio.run(submit_all()))) == 1


def test_runs_are_listed_newest_first_in_pages(server):
    ids = [server.submit(trivial(f"page {i}")) for i in range(5)]
    first = server.get("/v1/runs?limit=3").json()
    second = server.get(f"/v1/runs?limit=3&cursor={first['cursor']}").json()
    listed = [run["id"] for run in first["runs"] + second["runs"]]
    assert listed[:5] == ids[::-1]


def test_only_runs_of_a_status_are_listed(server):
    run = server.submit(trivial("status"))
    server.ended(run)
    assert run in [entry["id"] for entry in server.get("/v1/runs?status=finished").json()["runs"]]
    assert run not in [entry["id"] for entry in server.get("/v1/runs?status=failed").json()["runs"]]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "status=odd", "cursor=-1", "nope=1", "limit=1&limit=2"])
def test_a_wrong_query_is_told(server, query):
    assert server.get(f"/v1/runs?{query}").status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/runs/nope"),
        ("GET", "/v1/runs/nope/events"),
        ("GET", "/v1/runs/nope/outputs/image"),
        ("DELETE", "/v1/runs/nope"),
        ("POST", "/v1/runs/nope/retry"),
        ("GET", "/v1/files/nope"),
        ("GET", "/v1/workflows/nope"),
        ("DELETE", "/v1/workflows/nope"),
        ("POST", "/v1/workflows/nope/runs"),
        ("GET", "/v1/workflows/..%2f..%2fetc"),
        ("GET", "/nope"),
    ],
)
def test_what_is_not_there_is_404(server, method, path):
    body = {"json": {}} if method == "POST" else {}
    answer = server.http.request(method, path, **body)
    assert answer.status_code == 404
    assert answer.json()["status"] == 404


def test_a_waiting_run_is_cancelled_at_once(server):
    server.post("/v1/queue/pause")
    run = server.submit(trivial("waits"))
    answer = server.http.delete(f"/v1/runs/{run}")
    server.post("/v1/queue/resume")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert [event["event"] for event in server.events(run)] == ["queued", "run_cancelled"]


def test_a_running_run_is_cancelled_inside_the_sampler(server):
    run = server.submit("text_to_image", inputs={"steps": 1000, "seed": 77})
    server.when(lambda: server.run(run)["status"] == "running")
    assert server.http.delete(f"/v1/runs/{run}").status_code == 202
    assert server.ended(run, 20)["status"] == "cancelled"


def test_cancelling_an_ended_run_changes_nothing(server, painted):
    assert server.http.delete(f"/v1/runs/{painted['id']}").json()["status"] == "finished"


def test_an_ended_run_can_be_retried_as_a_new_one(server, painted):
    answer = server.post(f"/v1/runs/{painted['id']}/retry")
    again = server.ended(answer.json()["id"])
    assert (again["retry_of"], again["status"]) == (painted["id"], "finished")
    assert again["outputs"]["image"] == painted["outputs"]["image"]


def test_a_waiting_run_cannot_be_retried_but_moved_ahead(server):
    server.post("/v1/queue/pause")
    first, second = server.submit(trivial("first")), server.submit(trivial("second"))
    assert server.post(f"/v1/runs/{first}/retry").status_code == 409
    assert server.http.patch(f"/v1/runs/{second}", json={"priority": 7}).json()["priority"] == 7
    server.post("/v1/queue/resume")
    assert server.ended(second)["started"] <= server.ended(first)["started"]


def test_an_ended_run_has_no_place_to_change(server, painted):
    assert server.http.patch(f"/v1/runs/{painted['id']}", json={"priority": 1}).status_code == 409


# Outputs and files


def test_a_part_of_a_picture_can_be_fetched(server, painted):
    path = f"/v1/runs/{painted['id']}/outputs/image"
    part = server.get(path, headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, b"\x89PNG\r\n\x1a\n")


def test_a_picture_that_is_known_is_not_sent_again(server, painted):
    path = f"/v1/runs/{painted['id']}/outputs/image"
    tag = server.get(path).headers["ETag"]
    assert server.get(path, headers={"If-None-Match": tag}).status_code == 304


def test_what_is_served_runs_nothing_in_a_browser(server, painted):
    headers = server.get(f"/v1/runs/{painted['id']}/outputs/image").headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]


def test_a_plain_output_is_its_value(server):
    run = server.submit(trivial("plain", nodes=1))
    server.ended(run)
    assert server.get(f"/v1/runs/{run}/outputs/text").json()["value"] == "plain"


@pytest.mark.parametrize("place", ["nope", "image/5", "image/x", "image/99999999999"])
def test_an_output_that_is_not_there_is_told(server, painted, place):
    assert server.get(f"/v1/runs/{painted['id']}/outputs/{place}").status_code == 404


def test_an_uploaded_picture_can_be_loaded_and_fetched(server, tmp_path):
    pillow.new("RGB", (8, 6), "#123456").save(tmp_path / "up.png")
    data = (tmp_path / "up.png").read_bytes()
    answer = server.http.post("/v1/files", content=data, headers={"Content-Type": "image/png"})
    kept = answer.json()
    assert (answer.status_code, kept["digest"]) == (201, hashlib.sha256(data).hexdigest())
    nodes = {"load": {"type": "LoadImage", "inputs": {"file": kept["file"]}}}
    workflow = {"graphengine": 1, "outputs": {"image": {"from": "load.image"}}, "nodes": nodes}
    made = server.ended(server.submit(workflow))["outputs"]["image"][0]
    assert (made["width"], made["height"]) == (8, 6)
    assert server.get(f"/v1/files/{kept['digest']}").content == data


@pytest.mark.parametrize(
    "content", [b"", b"<svg onload=alert(1)>", b"<html>", b"GIF89a", b"\x80\x04pickle", b"PK\x03\x04"]
)
@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "image/svg+xml", "text/html"])
def test_what_is_no_picture_is_not_taken_whatever_it_is_called(server, content, kind):
    answer = server.http.post("/v1/files", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 415


# Workflows, nodes, dry runs


def test_a_workflow_can_be_kept_changed_run_and_forgotten(server):
    kept = server.http.put("/v1/workflows/mine", json=trivial("kept"))
    assert kept.status_code == 201
    assert server.http.put("/v1/workflows/mine", json=trivial("changed")).status_code == 200
    run = server.post("/v1/workflows/mine/runs", {}).json()["id"]
    assert server.ended(run)["outputs"]["text"][0]["value"] == "changed, x, x"
    assert server.http.delete("/v1/workflows/mine").status_code == 204
    assert server.get("/v1/workflows/mine").status_code == 404


def test_a_workflow_that_is_wrong_is_not_kept(server):
    assert (
        server.http.put("/v1/workflows/bad", json={"graphengine": 1, "nodes": {"a": {"type": "No"}}}).status_code == 422
    )
    assert server.get("/v1/workflows/bad").status_code == 404


@pytest.mark.parametrize("name", ["..", "a.b", "-x", "x" * 65, "%2e%2e", "ä"])
def test_a_workflow_is_not_kept_under_a_name_that_is_a_path(server, name):
    assert server.http.put(f"/v1/workflows/{name}", json=trivial()).status_code in (404, 405, 422)


def test_a_workflow_that_ships_stays(server):
    assert server.http.delete("/v1/workflows/text_to_image").status_code == 409


@pytest.mark.parametrize("name", ["text_to_image", "image_to_image", "inpaint", "contact_sheet"])
def test_every_workflow_that_ships_has_a_signature_and_a_drawing(server, name):
    signature = server.get(f"/v1/workflows/{name}").json()
    assert signature["inputs"]["properties"]
    assert server.get(f"/v1/workflows/{name}/graph").text.startswith("<svg")


def test_a_signature_says_types_ranges_and_defaults(server):
    steps = server.get("/v1/workflows/text_to_image").json()["inputs"]["properties"]["steps"]
    assert (steps["type"], steps["minimum"], steps["maximum"], steps["default"]) == ("integer", 1, 1000, 20)


def test_models_are_listed_with_what_they_are_and_not_with_where_they_lie(server):
    answer = server.get("/v1/models")
    told = {model["name"]: model for model in answer.json()["models"]}
    assert told["tiny"]["kind"] == "checkpoint" and told["tiny-dit"]["kind"] == "denoiser"
    assert told["tiny-open.safetensors"]["kind"] == "lora" and not told["tiny"]["wrong"]
    assert "/checkpoints/" not in answer.text


def test_a_signature_says_which_kinds_of_models_an_input_names(server):
    properties = server.get("/v1/workflows/text_to_image").json()["inputs"]["properties"]
    assert properties["checkpoint"]["models"] == ["checkpoint"]
    assert "models" not in properties["prompt"]


def test_inputs_out_of_range_are_refused_with_the_place(server):
    answer = server.post("/v1/workflows/text_to_image/runs", {"steps": 0})
    assert (answer.status_code, answer.json()["problems"][0]["port"]) == (422, "steps")


def test_the_catalogue_has_a_schema_for_each_node(server):
    nodes = {node["type"]: node for node in server.get("/v1/nodes").json()["nodes"]}
    assert nodes["Sampler"]["schema"]["required"] == ["denoiser", "positive", "latent"]


def test_check_says_what_is_wrong_and_runs_nothing(server):
    assert server.post("/v1/check", {"workflow": "text_to_image"}).json() == {"nodes": 7, "problems": []}
    assert server.post("/v1/check", {"workflow": {"graphengine": 1, "nodes": {"a": {"type": "No"}}}}).json()["problems"]


def test_explain_says_what_would_come_from_the_cache(server, painted):
    known = server.post("/v1/explain", {"workflow": "text_to_image", "inputs": QUICK}).json()
    other = server.post("/v1/explain", {"workflow": "text_to_image", "inputs": QUICK | {"seed": 9}}).json()
    assert known["work"] == 0
    assert {node["node"] for node in other["nodes"] if node["state"] == "miss"} == {"sample", "decode", "save"}


# The document, health, webhooks


def test_the_openapi_document_has_an_operation_for_each_workflow(server):
    document = server.get("/openapi.json").json()
    schema = document["paths"]["/v1/workflows/text_to_image/runs"]["post"]["requestBody"]["content"]["application/json"]
    assert schema["schema"]["properties"]["steps"]["maximum"] == 1000
    assert "/v1/workflows/text_to_image/runs" in server.get("/docs").text


def test_the_server_is_ready_and_has_figures(server, painted):
    assert server.get("/healthz").json()["status"] == "ok"
    assert all(server.get("/readyz").json()["checks"].values())
    assert 'graphengine_runs_ended_total{status="finished"}' in server.get("/metrics").text


def test_the_log_is_json(tmp_path):
    with Server(tmp_path) as server:
        server.stop()
    told = [json.loads(line)["message"] for line in server.lines if line.startswith("{")]
    assert any("stopping" in message for message in told)
