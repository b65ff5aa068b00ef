"""A worker as the server sees it: a process, the socket to it, and what it has in hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphengine.errors import GraphError, Problem

from . import protocol
from .spare import SECRETS, Spare

logger = logging.getLogger(__name__)


class WorkerLost(Exception):
    """The worker ended before it answered."""


@dataclass
class Held:
    """A run that a worker has in hand."""

    run: str
    attempt: int
    losses: int
    started: float
    cancel_by: float | None = None
    over: bool = False


class _Line(asyncio.Protocol):
    """The socket to a worker: hands over whole messages until it closes."""

    def __init__(self, hear: Callable[[Any], None], name: str):
        self.closed = asyncio.Event()
        self._hear, self._name = hear, name
        self._inbox = protocol.Inbox()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._inbox.feed(data):
                self._hear(message)
        except ValueError as error:
            logger.warning("worker %s said what nobody understands: %s", self._name, error)
            if self._transport:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


class WorkerProcess:
    """Starts a process, speaks with it, and says when it is gone; a new one is started with a new object."""

    def __init__(
        self,
        name: str,
        setup: protocol.Setup,
        heard: Callable[[WorkerProcess, Any], None],
        spares: list[Spare] | None = None,
    ):
        self.name, self.setup = name, setup
        self.held: dict[str, Held] = {}
        self.reserved = 0
        self.alone: str | None = None
        self.ready = asyncio.Event()
        self.loading: str | None = None
        self.broken: list[str] = []
        self.memory = 0
        self.last_beat = time.monotonic()
        self.leaving = self.gone = False
        self._heard = heard
        self._asked: dict[int, tuple[asyncio.Future[protocol.Answer], float]] = {}
        self._unsent: list[bytes] = []
        self._number = 0
        self._spares = [] if spares is None else spares
        self._process: subprocess.Popen[bytes] | Spare | None = None
        self._writer: asyncio.WriteTransport | None = None

    async def run(self) -> None:
        """Start the process and listen to it until it is gone."""
        line = _Line(self._hear, self.name)
        self._writer, _ = await asyncio.get_running_loop().create_connection(lambda: line, sock=self._start())
        self.send(self.setup)
        try:
            await line.closed.wait()
        finally:
            self._writer.close()
            await self._bury()

    def _start(self) -> socket.socket:
        """Take the process that waits, or start a new one; returns our end of the line to it."""
        if self._spares:
            spare = self._process = self._spares.pop(0)
            return spare.connection
        ours, theirs = socket.socketpair()
        environment = {key: value for key, value in os.environ.items() if key not in SECRETS}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "graphengine.server.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        return ours

    def _hear(self, message: Any) -> None:
        self.last_beat = time.monotonic()
        if isinstance(message, protocol.Answer):
            future, _ = self._asked.pop(message.number, (None, 0))
            if future and not future.done():
                future.set_result(message)
        elif isinstance(message, protocol.Beat):
            self.memory = message.memory
        elif isinstance(message, protocol.Loading):
            self.loading = message.plugin
        elif isinstance(message, protocol.Hello):
            self.loading, self.broken = None, message.broken
            self.ready.set()
            self._heard(self, message)
        else:
            self._heard(self, message)

    async def _bury(self) -> None:
        """Make sure that the process and everything that it has started are gone."""
        self.gone = True
        self.kill()
        if self._process:
            code = await asyncio.to_thread(self._process.wait)
            if not self.leaving:
                logger.warning("worker %s ended with %s", self.name, _ending(code))
        for future, _ in self._asked.values():
            if not future.done():
                future.set_exception(WorkerLost())

    def expire(self, now: float) -> None:
        """Give up questions whose time is over."""
        for future, until in list(self._asked.values()):
            if now > until and not future.done():
                future.set_exception(TimeoutError())

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def send(self, message: protocol.Message) -> None:
        """Say something; what is said within one turn of the loop goes out together."""
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(message.pack())

    def _flush(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        if self._writer and not self._writer.is_closing():
            self._writer.write(data)

    def kill(self) -> None:
        """End the process and its children, now."""
        if self._process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def ask(self, what: Any, body: str, seconds: float) -> protocol.Answer:
        """Ask a question; the answer's body is JSON text.

        Raises:
            GraphError: with the problems of the workflow.  WorkerLost, TimeoutError: no answer came.
        """
        until = time.monotonic() + seconds
        while not self.ready.is_set():
            if self.gone:
                raise WorkerLost
            if time.monotonic() > until:
                raise TimeoutError
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ready.wait(), 0.2)
        if self.gone:  # it was ready once; nobody would answer
            raise WorkerLost
        self._number += 1
        number = self._number
        future: asyncio.Future[protocol.Answer] = asyncio.get_running_loop().create_future()
        self._asked[number] = future, until
        try:
            self.send(protocol.Ask(number=number, what=what, body=body))
            answer = await future
        finally:
            self._asked.pop(number, None)
        if answer.problems:
            raise GraphError([Problem(**problem) for problem in json.loads(answer.problems)])
        return answer


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
