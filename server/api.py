"""Routes that describe themselves: from the same declaration come the check of a request and the OpenAPI document.

    @route("GET", "/v1/runs", "List runs", query=ListQuery, answers={200: RunPage})
    async def list_runs(server, request, query): ...

Every fault leaves as RFC 9457 problem+json, made in one place (`refusals`); what nobody expected becomes a 500 with
an error id that leads to the log, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ValidationError

from graphengine.errors import GraphError, Problem
from graphengine.queue import StoreError

from .process import WorkerLost

logger = logging.getLogger(__name__)
Handler = Callable[..., Awaitable[web.StreamResponse]]
TITLES = {
    400: "Bad request",
    401: "No token",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    411: "Length required",
    413: "Too large",
    415: "Unsupported media type",
    416: "Range not satisfiable",
    422: "Cannot be processed",
    429: "Too many runs",
    500: "Internal error",
    503: "Unavailable",
    507: "Storage full",
}


@dataclass(frozen=True)
class Media:
    """A body or an answer that is not JSON of a model."""

    types: tuple[str, ...]


@dataclass(frozen=True)
class Route:
    """One operation: how it is called, what it takes and gives, and who does it."""

    method: str
    path: str
    summary: str
    handler: Handler
    answers: Mapping[int, type[BaseModel] | Media | None]
    query: type[BaseModel] | None = None
    body: type[BaseModel] | Media | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    open: bool = False


ROUTES: list[Route] = []


def route(method: str, path: str, summary: str, **facts: Any) -> Callable[[Handler], Handler]:
    """Declare an operation."""

    def declare(handler: Handler) -> Handler:
        ROUTES.append(Route(method, path, summary, handler, **facts))
        return handler

    return declare


class Refusal(Exception):
    """A request that is refused: becomes problem+json."""

    def __init__(
        self, status: int, detail: str, problems: Sequence[Problem] = (), headers: Mapping[str, str] | None = None
    ):
        super().__init__(detail)
        self.status, self.detail, self.problems, self.headers = status, detail, problems, headers or {}


def refuse(refusal: Refusal, instance: str = "") -> web.Response:
    """The answer to a refused request."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": TITLES.get(refusal.status, "Error"),
        "status": refusal.status,
        "detail": refusal.detail,
    }
    if instance:
        document["instance"] = instance
    if refusal.problems:
        document["problems"] = [problem.document() for problem in refusal.problems]
    headers = dict(refusal.headers)
    if refusal.status in (408, 413, 415):
        headers["Connection"] = "close"  # the rest of the body is not wanted
    return web.Response(
        status=refusal.status, text=json.dumps(document), content_type="application/problem+json", headers=headers
    )


@web.middleware
async def refusals(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
    """Turn whatever a handler raises into problem+json."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return refuse(refusal)
    except GraphError as error:
        detail = f"{len(error.problems)} problem{'s' * (len(error.problems) != 1)}: {error.problems[0]}"
        return refuse(Refusal(422, detail, error.problems))
    except StoreError as error:
        logger.warning("%s", error)
        return refuse(Refusal(507, "The run could not be stored; nothing was accepted.", headers={"Retry-After": "5"}))
    except (WorkerLost, TimeoutError):
        detail = "The process that checks workflows is starting again; nothing was accepted."
        return refuse(Refusal(503, detail, headers={"Retry-After": "2"}))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return refuse(Refusal(error.status, _detail(request, error), headers=headers))
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception:
        instance = secrets.token_hex(6)
        logger.exception("error %s: %s %s", instance, request.method, request.path)
        return refuse(Refusal(500, "Something went wrong; the log says what, under this id."), instance)


def _detail(request: web.Request, error: web.HTTPException) -> str:
    if error.status == 404:
        return "There is nothing at this address; /openapi.json lists what there is."
    if error.status == 405:
        return f"{request.method} is not for this address."
    return error.reason


async def body_text(request: web.Request, limit: int, seconds: float) -> str:
    """A JSON body as text.  Raises Refusal: not JSON by its type, too large, too slow, or not UTF-8."""
    if request.content_type != "application/json":
        raise Refusal(415, "The body must be JSON: send Content-Type: application/json.")
    data = await body_bytes(request, limit, seconds)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(400, "The body is not UTF-8.") from None


async def body_bytes(request: web.Request, limit: int, seconds: float) -> bytes:
    """A small body.  Raises Refusal when it is too large or comes too slowly."""
    if (request.content_length or 0) > limit:
        raise Refusal(413, f"The body may have {limit:,} bytes.")
    if request.content.is_eof():  # it came with the head
        data = request.content.read_nowait()
        if len(data) > limit:
            raise Refusal(413, f"The body may have {limit:,} bytes.")
        return data
    parts, size = [], 0
    while True:
        try:
            async with asyncio.timeout(seconds):
                part = await request.content.readany()
        except TimeoutError:
            raise Refusal(408, "The body came too slowly.") from None
        if not part:
            return b"".join(parts)
        size += len(part)
        if size > limit:
            raise Refusal(413, f"The body may have {limit:,} bytes.")
        parts.append(part)


def query_of(model: type[BaseModel], request: web.Request) -> Any:
    """The query of a request.  Raises Refusal with every fault."""
    twice = {key for key in request.query if len(request.query.getall(key)) > 1}
    try:
        if twice:
            raise Refusal(400, f"{', '.join(sorted(twice))} stands twice in the query.")
        return model.model_validate(dict(request.query))
    except ValidationError as error:
        problems = [
            Problem("query", f"{fault['msg']}, got {fault['input']!r:.60}.", port=str(fault["loc"][0])[:60])
            for fault in error.errors(include_url=False)
        ]
        raise Refusal(400, f"The query is wrong: {problems[0]}", problems) from None


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer; text is taken as JSON already."""
    text = document if isinstance(document, str) else json.dumps(document)
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)
