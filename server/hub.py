"""Events on their way to whoever listens: one stream for each run, and one feed of everything.

Nothing is queued for a listener.  A stream keeps its run's events and the feed keeps the latest of all runs; every
listener has a position in them and reads on at its own pace, so that a slow one delays and costs nobody else.

Glossary
    line       one event as JSON text
    position   the number of a line in the feed; it grows over restarts too, and a client resumes with `?after=`
    behind     a listener of the feed whose socket takes no more: it keeps its position, and is told less when it is back
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict, deque
from itertools import islice
from typing import Any

from . import protocol
from .protocol import SEQUENCE

KEPT_STREAMS, FEED_LINES, FEED_BYTES = 500, 20_000, 32 * 2**20
EPOCH_POSITIONS = 2**40
SHARE = 0.015
"""At most this share of the loop's time goes into writing the feed to its listeners."""
BRIEF = 300
"""Lines in one message above which it is kept short."""
RUN_ENDED, OF_A_NODE, PROGRESS = '{"event": "run_', '{"event": "node_', '{"event": "node_progress'
SHORTEST, LONGEST = 0.01, 2.0
"""Seconds between two writings of the feed."""


class Stream:
    """The events of one run, in order; sequence numbers grow, with gaps."""

    def __init__(self, run: str, lines: list[str] | None = None, ended: bool = False):
        self.run, self.ended = run, ended
        self.lines = lines or []
        self._preview: dict[str, int] = {}
        self._changed: asyncio.Event | None = None

    def add(self, lines: list[str], last: bool = False) -> None:
        """Append events; `last` ends the stream."""
        start = len(self.lines)
        self.lines += lines
        for place, line in enumerate(lines, start):
            if '"preview": "' in line:
                self._replace_preview(line, place)
        self.ended = self.ended or last
        if self._changed:
            self._changed.set()
            self._changed = None

    def _replace_preview(self, line: str, place: int) -> None:
        """Only the last picture of a node is kept."""
        node = json.loads(line)["node"]
        if node in self._preview:
            before = self._preview[node]
            self.lines[before] = without_preview(self.lines[before])
        self._preview[node] = place

    async def wait(self, position: int, seconds: float) -> bool:
        """Wait until there are lines from `position` on, or the run has ended; False after `seconds`."""
        if position < len(self.lines) or self.ended:
            return True
        self._changed = self._changed or asyncio.Event()
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def start(self, after: int) -> int:
        """Where to read on after the event with this sequence number."""
        return next((i for i, line in enumerate(self.lines) if sequence(line) > after), len(self.lines))


def sequence(line: str) -> int:
    return json.loads(line)["seq"]


def without_preview(line: str) -> str:
    return json.dumps(json.loads(line) | {"preview": None})


def event(kind: str, run: str, seq: int, **fields: Any) -> str:
    """An event that the server tells itself."""
    return protocol.event(kind, run, seq, time.time(), fields)


class Listener:
    """One reader of the feed: where it is, and how to hand it text."""

    def __init__(self, transport: asyncio.Transport, position: int, run: str | None):
        self.transport, self.position, self.run = transport, position, run
        self.lost = asyncio.Event()


class Hub:
    """Streams by run, and the feed."""

    def __init__(self, epoch: int):
        self.streams: dict[str, Stream] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self.first = self.position = epoch * EPOCH_POSITIONS
        self._feed: deque[tuple[str, str]] = deque()
        self._bytes = 0
        self.listeners: set[Listener] = set()
        self._waiting = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None

    def stream(self, run: str) -> Stream:
        """The stream of an active run, made when there is none."""
        found = self.streams.get(run)
        if found is None:
            found = self.streams[run] = Stream(run)
        return found

    def publish(self, run: str, lines: list[str], last: bool = False) -> None:
        """Add events to a run's stream and to the feed."""
        self.stream(run).add(lines, last)
        if last:
            self._ended[run] = None
            if len(self._ended) > KEPT_STREAMS:
                del self.streams[self._ended.popitem(last=False)[0]]
        for line in lines:
            self._feed.append((run, line))
            self._bytes += len(line)
        self.position += len(lines)
        while len(self._feed) > FEED_LINES or self._bytes > FEED_BYTES:
            self._bytes -= len(self._feed.popleft()[1])
            self.first += 1
        self._waiting.set()

    # The feed's listeners

    def listen(self, transport: asyncio.Transport, after: int | None, run: str | None) -> Listener:
        """Begin to read: after a position, or from now on.  A gap is told when that position is gone."""
        position = self.position if after is None else after + 1
        listener = Listener(transport, min(position, self.position), run)
        if position < self.first or position > self.position:
            listener.position = self.first
            transport.write(frame(json.dumps({"event": "gap", "after": after, "position": self.first - 1})))
        self.listeners.add(listener)
        self._waiting.set()
        if self._flusher is None:
            self._flusher = asyncio.get_running_loop().create_task(self._flush_forever(), name="feed")
        return listener

    def leave(self, listener: Listener) -> None:
        self.listeners.discard(listener)

    async def _flush_forever(self) -> None:
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            started = time.perf_counter()
            if not self._flush():
                self._waiting.set()  # somebody is behind: try again
            spent = time.perf_counter() - started
            await asyncio.sleep(min(LONGEST, max(SHORTEST, spent / SHARE)))

    def _flush(self) -> bool:
        """Write what is new to every listener whose socket takes it; False when some were left behind."""
        frames: dict[tuple[int, str | None], bytes] = {}
        through = True
        for listener in list(self.listeners):
            if listener.position >= self.position:
                continue
            if listener.transport.is_closing() or listener.position < self.first:  # what it has missed is gone
                self.listeners.discard(listener)
                listener.lost.set()
                continue
            if listener.transport.get_write_buffer_size() > 2**16:
                through = False
                continue
            place = (listener.position, listener.run)
            if place not in frames:
                frames[place] = frame(self._text(*place))
            if frames[place]:
                listener.transport.write(frames[place])
            listener.position = self.position
        return through

    def _text(self, position: int, run: str | None) -> str:
        """What a listener at this position has not heard.  When that is much, runs that have ended by now are told
        without their nodes, and progress is left out."""
        newest = list(islice(reversed(self._feed), self.position - position))
        lines = [(at, of, line) for at, (of, line) in enumerate(reversed(newest), position) if run in (None, of)]
        if len(lines) > BRIEF:
            ended = {of for _, of, line in lines if line.startswith(RUN_ENDED)}
            lines = [
                (at, of, line)
                for at, of, line in lines
                if not line.startswith(OF_A_NODE) or not (of in ended or line.startswith(PROGRESS))
            ]
        return "\n".join(f'{{"position": {at}, {line[1:]}' for at, _, line in lines)

    def close(self) -> None:
        if self._flusher:
            self._flusher.cancel()


def frame(text: str) -> bytes:
    """A WebSocket text frame (RFC 6455, 5.2), made once however many read it; empty for no text."""
    data = text.encode()
    if not data:
        return b""
    size = len(data)
    if size < 126:
        return bytes((0x81, size)) + data
    if size < 2**16:
        return bytes((0x81, 126)) + size.to_bytes(2, "big") + data
    return bytes((0x81, 127)) + size.to_bytes(8, "big") + data


__all__ = ["SEQUENCE", "Hub", "Listener", "Stream", "event", "frame", "sequence", "without_preview"]
