"""Runs: submit, list, look at, cancel, retry, reprioritise; the queue as a whole; what a run has made."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from graphengine.queue import Submission, document

from .api import Media, Refusal, answer, body_text, route
from .content import TYPES
from .house import House, body_digest, is_id, unknown
from .model import Change, QueueState, RunDocument, RunPage, RunSummary, Submitted, parsed

KEY = "Idempotency-Key"
PICTURES = Media((*TYPES.values(), "application/json"))
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "private, max-age=31536000, immutable",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Page(BaseModel):
    """The query of a listing."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["queued", "running", "finished", "failed", "cancelled"] | None = None
    limit: int = Field(default=50, ge=1, le=500)
    cursor: int | None = Field(default=None, ge=0, lt=2**63, description="where the last page ended")


async def submit(house: House, request: web.Request, body: str, retry_of: str | None = None) -> web.Response:
    """Check a submission, put it into the store, and say so: 202 means that it is on disk."""
    limits(house, request)
    key = idempotency_key(request)
    checked = await house.check(body)
    if checked["webhook"]:
        from .webhook import allowed

        allowed(house.configuration, checked["webhook"])
    limits(house, request)
    submission = Submission(
        id=house.new_id(),
        client=request["client"],
        workflow=checked["name"],
        body=checked["submission"],
        body_digest=body_digest(body),
        priority=checked["priority"],
        idempotency_key=key,
        retry_of=retry_of,
        webhook=checked["webhook"],
    )
    made = await house.dispatcher.accept(submission)
    if not made.new and made.body_digest != submission.body_digest:
        raise Refusal(409, f"The {KEY} was used for another body; nothing was accepted.")
    place = made.place
    accepted = {"id": place.id, "status": made.status, "workflow": place.workflow, "priority": -place.order[0]}
    return answer(accepted, 202, {"Location": f"/v1/runs/{place.id}"})


def limits(house: House, request: web.Request) -> None:
    """Refuse what the queue cannot take."""
    dispatcher, configuration = house.dispatcher, house.configuration
    if dispatcher.draining:
        raise Refusal(503, "The server is stopping.", headers={"Retry-After": "10"})
    if len(dispatcher.line) >= configuration.queue_limit:
        raise Refusal(429, f"{configuration.queue_limit:,} runs are waiting.", headers={"Retry-After": "5"})
    if dispatcher.line.clients[request["client"]] >= configuration.client_limit:
        detail = f"{configuration.client_limit:,} runs of yours are waiting."
        raise Refusal(429, detail, headers={"Retry-After": "5"})


def idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get(KEY)
    if key is not None and not (0 < len(key) <= 256 and key.isprintable() and key.isascii()):
        raise Refusal(400, f"{KEY} must have 1 to 256 printable characters.")
    return key


class Accepted(BaseModel):
    """A run that was accepted: it is on disk."""

    id: str
    status: Literal["queued", "running", "finished", "failed", "cancelled"]
    workflow: str
    priority: int


@route(
    "POST",
    "/v1/runs",
    "Submit a workflow",
    body=Submitted,
    headers={KEY: "the same key and body give the same run"},
    answers={202: Accepted, 409: None, 422: None, 429: None, 503: None, 507: None},
)
async def submit_run(house: House, request: web.Request) -> web.StreamResponse:
    configuration = house.configuration
    return await submit(house, request, await body_text(request, configuration.body_limit, configuration.body_timeout))


@route("GET", "/v1/runs", "List runs, newest first", query=Page, answers={200: RunPage})
async def list_runs(house: House, request: web.Request, query: Page) -> web.StreamResponse:
    rows = await asyncio.to_thread(house.reader.page, query.status, query.cursor, query.limit)
    cursor = str(rows[-1]["number"]) if len(rows) == query.limit else None
    return answer({"runs": [document(row) for row in rows], "cursor": cursor})


@route("GET", "/v1/runs/{id}", "Look at a run", answers={200: RunDocument, 404: None})
async def show_run(house: House, request: web.Request) -> web.StreamResponse:
    return answer(await house.run(request.match_info["id"]))


@route("DELETE", "/v1/runs/{id}", "Cancel a run, in any state", answers={200: RunSummary, 202: RunSummary, 404: None})
async def cancel_run(house: House, request: web.Request) -> web.StreamResponse:
    run = request.match_info["id"]
    status = await house.dispatcher.cancel(run) if is_id(run) else None
    if status is None:
        raise unknown("run", run)
    row = {**await house.row(run)}
    row.pop("outputs")
    return answer(document(row), 202 if status == "running" else 200)


@route(
    "POST",
    "/v1/runs/{id}/retry",
    "Run an ended run again, as a new one",
    answers={202: Accepted, 404: None, 409: None, 422: None, 429: None, 503: None, 507: None},
)
async def retry_run(house: House, request: web.Request) -> web.StreamResponse:
    row = await house.row(request.match_info["id"])
    if row["ended"] is None:
        raise Refusal(409, f"The run is {row['status']}; only an ended one can be retried.")
    body = json.loads(row["body"]) | {"priority": row["priority"]}
    return await submit(house, request, json.dumps(body), retry_of=row["id"])


@route(
    "PATCH",
    "/v1/runs/{id}",
    "Change the priority of a run that waits",
    body=Change,
    answers={200: RunDocument, 404: None, 409: None, 422: None, 507: None},
)
async def change_run(house: House, request: web.Request) -> web.StreamResponse:
    configuration = house.configuration
    change = parsed(Change, await body_text(request, configuration.body_limit, configuration.body_timeout))
    run = request.match_info["id"]
    row = await house.row(run)
    if not await house.dispatcher.prioritise(run, change.priority):
        raise Refusal(409, f"The run is {row['status']}; only one that waits has a place to change.")
    return answer(await house.run(run))


@route("GET", "/v1/queue", "How long the queue is", answers={200: QueueState})
async def show_queue(house: House, request: web.Request) -> web.StreamResponse:
    dispatcher = house.dispatcher
    return answer({"paused": dispatcher.paused, "waiting": len(dispatcher.line), "running": dispatcher.crew.running})


@route("POST", "/v1/queue/pause", "Start no more runs", answers={200: QueueState, 507: None})
async def pause_queue(house: House, request: web.Request) -> web.StreamResponse:
    await house.dispatcher.pause(True)
    return await show_queue(house, request)


@route("POST", "/v1/queue/resume", "Start runs again", answers={200: QueueState, 507: None})
async def resume_queue(house: House, request: web.Request) -> web.StreamResponse:
    await house.dispatcher.pause(False)
    return await show_queue(house, request)


async def _output(house: House, request: web.Request, index: int) -> web.StreamResponse:
    row = await house.row(request.match_info["id"])
    name = request.match_info["name"]
    outputs: dict[str, list[dict[str, Any]]] = json.loads(row["outputs"] or "{}")
    if name not in outputs or not 0 <= index < len(outputs[name]):
        detail = f"The run is {row['status']} and has no output {name[:60]!r}"
        raise Refusal(404, f"{detail} number {index}." if name in outputs else f"{detail}; it has {[*outputs]}.")
    item = outputs[name][index]
    if "digest" not in item:
        return answer({"value": item.get("value"), "kind": item.get("kind")})
    return content(house, item["digest"])


def content(house: House, digest: str) -> web.StreamResponse:
    """A kept file, with types and headers under which a browser runs nothing."""
    found = house.content.find(digest)
    if found is None:
        raise unknown("file", digest)
    return web.FileResponse(house.content.path(found), headers={"Content-Type": found.type, **SAFE})


FETCHED = {200: PICTURES, 206: PICTURES, 304: None, 404: None, 416: None}


@route("GET", "/v1/runs/{id}/outputs/{name}", "Fetch what a run has made", answers=FETCHED)
async def first_output(house: House, request: web.Request) -> web.StreamResponse:
    return await _output(house, request, 0)


@route("GET", "/v1/runs/{id}/outputs/{name}/{index}", "Fetch one of several pictures", answers=FETCHED)
async def nth_output(house: House, request: web.Request) -> web.StreamResponse:
    text = request.match_info["index"]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise unknown("output", text)
    return await _output(house, request, int(text))
