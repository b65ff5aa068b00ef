"""Workflows that are kept: each is a typed endpoint of its own, made from its declared inputs."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from aiohttp import web

from graphengine import drawing
from graphengine.errors import AssetError, GraphError, Problem
from graphengine.models.assets import write_atomically
from graphengine.settings import bundled_workflows
from graphengine.workflow import Workflow, parse_json

from .api import Media, Refusal, answer, body_text, route
from .house import House, unknown
from .model import Catalogue, Checked, Explained, ModelList, Submitted, WorkflowDocument, WorkflowList, parsed
from .run import KEY, SAFE, Accepted, submit

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
JSON_BODY = Media(("application/json",))


def find(house: House, name: str) -> Path:
    """The file of a workflow: the user's own before those that ship.  Raises Refusal 404."""
    if NAME.fullmatch(name):
        for folder in (house.workflow_folder, bundled_workflows()):
            path = folder / f"{name}.json"
            if path.is_file():
                return path
    raise unknown("workflow", name)


async def read_body(house: House, request: web.Request) -> str:
    return await body_text(request, house.configuration.body_limit, house.configuration.body_timeout)


@route("GET", "/v1/workflows", "List workflows", answers={200: WorkflowList})
async def list_workflows(house: House, request: web.Request) -> web.StreamResponse:
    return answer({"workflows": await asyncio.to_thread(_listed, house)})


def _listed(house: House) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for folder in (bundled_workflows(), house.workflow_folder):
        for path in sorted(folder.glob("*.json")):
            try:
                text = json.loads(path.read_text()).get("description", "")
            except (OSError, ValueError, AttributeError):
                text = "cannot be read"
            ships = folder != house.workflow_folder
            found[path.stem] = {"name": path.stem, "description": str(text), "ships": ships}
    return sorted(found.values(), key=lambda entry: entry["name"])


@route(
    "GET",
    "/v1/workflows/{name}",
    "A workflow and its signature",
    answers={200: WorkflowDocument, 404: None, 422: None, 503: None},
)
async def show_workflow(house: House, request: web.Request) -> web.StreamResponse:
    path = find(house, request.match_info["name"])
    return answer((await house.ask("signature", await asyncio.to_thread(path.read_text))).body)


@route(
    "GET",
    "/v1/workflows/{name}/graph",
    "A drawing of a workflow",
    answers={200: Media(("image/svg+xml",)), 404: None, 422: None},
)
async def draw_workflow(house: House, request: web.Request) -> web.StreamResponse:
    path = find(house, request.match_info["name"])
    drawn = await asyncio.to_thread(lambda: drawing.svg(Workflow.load(path)))
    return web.Response(text=drawn, content_type="image/svg+xml", headers={**SAFE, "Cache-Control": "no-cache"})


@route(
    "PUT",
    "/v1/workflows/{name}",
    "Keep a workflow",
    body=JSON_BODY,
    answers={200: WorkflowDocument, 201: WorkflowDocument, 422: None, 503: None, 507: None},
)
async def keep_workflow(house: House, request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    if not NAME.fullmatch(name):
        raise Refusal(422, "A name has 1 to 64 letters, digits, _ and -, and begins with a letter or digit.")
    body = await read_body(house, request)
    told = (await house.ask("signature", body)).body
    path = house.workflow_folder / f"{name}.json"
    new = not path.is_file()
    try:
        await asyncio.to_thread(write_atomically, path, lambda beside: _write(beside, body))
    except AssetError:
        raise Refusal(507, "The workflow could not be kept: the disk is full.") from None
    return answer(told, 201 if new else 200, {"Location": f"/v1/workflows/{name}"})


@route("DELETE", "/v1/workflows/{name}", "Forget a workflow", answers={204: None, 404: None, 409: None})
async def forget_workflow(house: House, request: web.Request) -> web.StreamResponse:
    path = find(house, request.match_info["name"])
    if path.parent != house.workflow_folder:
        raise Refusal(409, "This workflow ships with the program and stays; keep another one under its name.")
    path.unlink(missing_ok=True)
    return web.Response(status=204)


@route(
    "POST",
    "/v1/workflows/{name}/runs",
    "Run a workflow with its declared inputs",
    body=JSON_BODY,
    headers={KEY: "the same key and body give the same run"},
    answers={202: Accepted, 404: None, 409: None, 422: None, 429: None, 503: None, 507: None},
)
async def run_workflow(house: House, request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    find(house, name)
    inputs: Any = parse_json(await read_body(house, request), "body")
    if not isinstance(inputs, dict):
        raise GraphError([Problem("form", f"the body must be an object of inputs, got {type(inputs).__name__}.")])
    return await submit(house, request, json.dumps({"workflow": name, "inputs": inputs}))


@route(
    "POST",
    "/v1/check",
    "Say everything that is wrong with a workflow",
    body=Submitted,
    answers={200: Checked, 422: None, 503: None},
)
async def check_workflow(house: House, request: web.Request) -> web.StreamResponse:
    body = await read_body(house, request)
    await asyncio.to_thread(parsed, Submitted, body)
    try:
        checked = await house.check(body)
    except GraphError as error:
        return answer({"nodes": 0, "problems": [problem.document() for problem in error.problems]})
    return answer({"nodes": checked["nodes"], "problems": []})


@route(
    "POST",
    "/v1/explain",
    "What would come from the cache, what would be computed, and why",
    body=Submitted,
    answers={200: Explained, 422: None, 503: None},
)
async def explain_workflow(house: House, request: web.Request) -> web.StreamResponse:
    body = await read_body(house, request)
    workers = [worker for worker in house.dispatcher.crew.workers if worker.ready.is_set()]
    process = workers[0] if workers else house.dispatcher.crew.clerk  # a worker knows what it holds in memory, too
    return answer((await process.ask("explain", body, 20)).body)


@route("GET", "/v1/nodes", "Every node type, with a JSON Schema", answers={200: Catalogue, 503: None})
async def list_nodes(house: House, request: web.Request) -> web.StreamResponse:
    return answer((await house.ask("catalogue")).body)


@route("GET", "/v1/models", "What lies in the model folders", answers={200: ModelList, 503: None})
async def list_models(house: House, request: web.Request) -> web.StreamResponse:
    return answer((await house.ask("models")).body)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
