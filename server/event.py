"""Events over HTTP: server-sent events for one run, a WebSocket for everything."""

from __future__ import annotations

import asyncio

from aiohttp import WSMsgType, web
from pydantic import BaseModel, ConfigDict, Field

from .api import Media, Refusal, route
from .house import House

HEARTBEAT_SECONDS = 15.0
MESSAGE_LIMIT = 64 * 1024


class After(BaseModel):
    """Where to read on."""

    model_config = ConfigDict(extra="forbid")

    after: int | None = Field(default=None, ge=-1, lt=2**63, description="number of the last event that was seen")


class Feed(After):
    run: str | None = Field(default=None, max_length=32, description="only events of this run")


@route(
    "GET",
    "/v1/runs/{id}/events",
    "Follow a run: server-sent events, from the first on or after `Last-Event-ID`",
    query=After,
    headers={"Last-Event-ID": "number of the last event that was seen"},
    answers={200: Media(("text/event-stream",)), 404: None},
)
async def follow_run(house: House, request: web.Request, query: After) -> web.StreamResponse:
    last = _last_event(request)
    after = last if query.after is None else query.after
    stream = await house.stream(request.match_info["id"])
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    position = stream.start(after)
    house.dispatcher.crew.watch(+1)
    try:
        while True:
            lines = stream.lines[position:]
            position += len(lines)
            if lines:
                await response.write("".join(map(_sent, lines)).encode())
            if stream.ended and position >= len(stream.lines):
                break
            if not await stream.wait(position, HEARTBEAT_SECONDS):
                await response.write(b": still here\n\n")
    finally:
        house.dispatcher.crew.watch(-1)
    return response


def _last_event(request: web.Request) -> int:
    text = request.headers.get("Last-Event-ID", "-1").strip()
    number = text.removeprefix("-")
    if not (number.isascii() and number.isdigit() and len(number) <= 19):
        raise Refusal(400, "Last-Event-ID must be the number of an event.")
    return int(text)


def _sent(line: str) -> str:
    """One event in the format of server-sent events.  The fields stand where `json.dumps` has put them."""
    kind = line.split('"', 4)[3]
    seq = line.split('"seq": ', 1)[1].split(",", 1)[0]
    return f"id: {seq}\nevent: {kind}\ndata: {line}\n\n"


@route(
    "GET",
    "/v1/events",
    "Follow everything over a WebSocket: one or more events a message, one on each line",
    query=Feed,
    answers={101: None, 400: None},
)
async def follow_all(house: House, request: web.Request, query: Feed) -> web.StreamResponse:
    socket = web.WebSocketResponse(protocols=("graphengine",), heartbeat=20, compress=False, max_msg_size=MESSAGE_LIMIT)
    if not socket.can_prepare(request):
        raise Refusal(400, "This address is a WebSocket; connect with one.")
    await socket.prepare(request)
    transport = request.transport
    if transport is None:
        return socket
    listener = house.hub.listen(transport, query.after, query.run)
    house.dispatcher.crew.watch(+1)
    lost = asyncio.ensure_future(listener.lost.wait())
    lost.add_done_callback(lambda done: None if done.cancelled() else transport.abort())
    try:
        async for message in socket:
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                await socket.close(code=1008, message=b"this socket only tells")
    finally:
        lost.cancel()
        house.hub.leave(listener)
        house.dispatcher.crew.watch(-1)
    return socket
