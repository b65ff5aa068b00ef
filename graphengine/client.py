"""Speaking to a GraphEngine server from Python, with or without asyncio.

    with Client("http://127.0.0.1:8420") as client:
        run = client.submit("text_to_image", {"prompt": "a red star on a white background"})
        for event in run.events():
            print(event)
        for made in run.result()["image"]:
            made.save("star.png")

`AsyncClient` has the same methods to be awaited.  A submission carries an idempotency key, so that one that is sent
again after a lost connection is still one run; events go on where they broke off.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx2

from graphengine.errors import Cancelled, GraphEngineError, GraphError, Problem
from graphengine.events import Event, RunCancelled, RunFailed, RunFinished, parse_event
from graphengine.workflow import Workflow

ENDS = (RunFinished, RunFailed, RunCancelled)
TRIES, PAUSE = 5, 0.5


class ServerError(GraphEngineError):
    """The server could not be reached, or refused.  `status` is its HTTP status, 0 when there was no answer."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Made:
    """One thing that a run has made: a picture (`bytes`, `type`), or a plain `value`."""

    type: str | None = None
    digest: str | None = None
    bytes: bytes | None = None
    value: Any = None
    kind: str | None = None
    name: str | None = None

    def save(self, path: str | Path) -> Path:
        """Write a picture to a file.  Raises ValueError when it is none."""
        if self.bytes is None:
            raise ValueError("this output is no file")
        Path(path).write_bytes(self.bytes)
        return Path(path)


def _request(
    workflow: Workflow | Mapping[str, Any] | str | Path,
    inputs: Mapping[str, Any] | None,
    targets: Sequence[str] | None,
    priority: int,
) -> dict[str, Any]:
    """The body of a submission: a name stays a name, a file and a Workflow become a document."""
    if isinstance(workflow, str) and "/" not in workflow and not workflow.endswith(".json"):
        given: Any = workflow
    else:
        given = dict(workflow) if isinstance(workflow, Mapping) else Workflow.load(workflow).document()
    return {
        "workflow": given,
        "inputs": dict(inputs or {}),
        "targets": list(targets) if targets is not None else None,
        "priority": priority,
    }


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _read(response: httpx2.Response) -> Any:
    """The answer's JSON.  Raises GraphError with the problems of a workflow, ServerError for other refusals."""
    if response.is_success:
        return response.json() if response.content else None
    try:
        document = response.json()
    except ValueError:
        document = {}
    problems = [Problem(**problem) for problem in document.get("problems", [])]
    if response.status_code == 422 and problems:
        raise GraphError(problems)
    raise ServerError(document.get("detail") or f"the server answered {response.status_code}.", response.status_code)


def _ending(document: Mapping[str, Any]) -> None:
    """Raise what a run that has ended otherwise than well says."""
    if document["status"] == "failed":
        raise GraphError(Problem(**problem) for problem in document["problems"])
    if document["status"] == "cancelled":
        raise Cancelled


def _lost(error: httpx2.TransportError, url: str) -> ServerError:
    return ServerError(f"the server at {url} cannot be reached: {error or type(error).__name__}.")


class RemoteRun:
    """A run on a server."""

    def __init__(self, client: Client, id: str):
        self.client, self.id = client, id

    def document(self) -> dict[str, Any]:
        """The run as the server tells it: status, inputs, outputs, problems, notes."""
        return self.client.call("GET", f"/v1/runs/{self.id}")

    @property
    def status(self) -> str:
        return self.document()["status"]

    def events(self, after: int = -1) -> Iterator[Event]:
        """Events numbered above `after` until the run has ended; goes on where a lost connection broke off."""
        for number in range(TRIES):
            try:
                with self.client.http.stream(
                    "GET", f"/v1/runs/{self.id}/events", params={"after": after}, timeout=60
                ) as response:
                    if not response.is_success:
                        response.read()
                        _read(response)
                    for line in response.iter_lines():
                        if line.startswith("data: "):
                            event = parse_event(line[6:])
                            after = event.seq
                            yield event
                            if isinstance(event, ENDS):
                                return
            except httpx2.TransportError as error:
                if number == TRIES - 1:
                    raise _lost(error, self.client.url) from error
                time.sleep(PAUSE * 2**number)  # a server that starts again is not asked all the time

    def cancel(self) -> None:
        self.client.call("DELETE", f"/v1/runs/{self.id}")

    def retry(self) -> RemoteRun:
        """The same again, as a new run."""
        return RemoteRun(self.client, self.client.call("POST", f"/v1/runs/{self.id}/retry")["id"])

    def result(self) -> dict[str, list[Made]]:
        """Wait for the end; what the run has made, by output.

        Raises:
            GraphError: it failed, with its problems.  Cancelled.  ServerError.
        """
        for _ in self.events():
            pass
        document = self.document()
        _ending(document)
        return {name: [self._made(item) for item in items] for name, items in document["outputs"].items()}

    def _made(self, item: Mapping[str, Any]) -> Made:
        data = self.client.fetch(item["digest"]) if item.get("digest") else None
        return Made(item.get("type"), item.get("digest"), data, item.get("value"), item.get("kind"), item.get("name"))


class Client:
    """A connection to a server.  Close it, or use it as a context manager."""

    def __init__(self, url: str, token: str | None = None):
        self.url = url.rstrip("/")
        self.http = httpx2.Client(base_url=self.url, headers=_headers(token), timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request; its JSON answer.  Tries again when the connection is lost.  Raises GraphError, ServerError."""
        for number in range(TRIES):
            try:
                return _read(self.http.request(method, path, **options))
            except httpx2.TransportError as error:
                if number == TRIES - 1 or isinstance(error, httpx2.ConnectError):
                    raise _lost(error, self.url) from error
                time.sleep(PAUSE * 2**number)  # a server that starts again is not asked all the time
        raise AssertionError("unreachable")

    def submit(
        self,
        workflow: Workflow | Mapping[str, Any] | str | Path,
        inputs: Mapping[str, Any] | None = None,
        targets: Sequence[str] | None = None,
        priority: int = 0,
    ) -> RemoteRun:
        """Submit a workflow: a document, a file, or the name of one that the server keeps.

        Raises:
            GraphError: with every problem of the workflow.  ServerError: it was not accepted.
        """
        body = _request(workflow, inputs, targets, priority)
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        return RemoteRun(self, self.call("POST", "/v1/runs", json=body, headers=headers)["id"])

    def run(self, id: str) -> RemoteRun:
        """A run that was submitted earlier."""
        return RemoteRun(self, id)

    def fetch(self, digest: str) -> bytes:
        """A file by the digest of its bytes."""
        response = self.http.get(f"/v1/files/{digest}")
        if not response.is_success:
            _read(response)
        return response.content

    def upload(self, path: str | Path) -> str:
        """Upload a picture; returns what a LoadImage node calls it."""
        headers = {"Content-Type": "application/octet-stream"}
        return self.call("POST", "/v1/files", content=Path(path).read_bytes(), headers=headers)["file"]


class AsyncRun:
    """A run on a server, for asyncio."""

    def __init__(self, client: AsyncClient, id: str):
        self.client, self.id = client, id

    async def document(self) -> dict[str, Any]:
        return await self.client.call("GET", f"/v1/runs/{self.id}")

    async def events(self, after: int = -1) -> AsyncIterator[Event]:
        """Events numbered above `after` until the run has ended; goes on where a lost connection broke off."""
        for number in range(TRIES):
            try:
                async with self.client.http.stream(
                    "GET", f"/v1/runs/{self.id}/events", params={"after": after}, timeout=60
                ) as response:
                    if not response.is_success:
                        await response.aread()
                        _read(response)
                    async for line in response.aiter_lines():
                        if line.startswith("data: "):
                            event = parse_event(line[6:])
                            after = event.seq
                            yield event
                            if isinstance(event, ENDS):
                                return
            except httpx2.TransportError as error:
                if number == TRIES - 1:
                    raise _lost(error, self.client.url) from error
                await asyncio.sleep(PAUSE * 2**number)

    async def cancel(self) -> None:
        await self.client.call("DELETE", f"/v1/runs/{self.id}")

    async def result(self) -> dict[str, list[Made]]:
        """Wait for the end; what the run has made, by output.  Raises like `RemoteRun.result`."""
        async for _ in self.events():
            pass
        document = await self.document()
        _ending(document)
        return {name: [await self._made(item) for item in items] for name, items in document["outputs"].items()}

    async def _made(self, item: Mapping[str, Any]) -> Made:
        data = await self.client.fetch(item["digest"]) if item.get("digest") else None
        return Made(item.get("type"), item.get("digest"), data, item.get("value"), item.get("kind"), item.get("name"))


class AsyncClient:
    """A connection to a server, for asyncio.  Close it, or use it as a context manager."""

    def __init__(self, url: str, token: str | None = None):
        self.url = url.rstrip("/")
        self.http = httpx2.AsyncClient(base_url=self.url, headers=_headers(token), timeout=30)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """One request; its JSON answer.  Raises GraphError, ServerError."""
        for number in range(TRIES):
            try:
                return _read(await self.http.request(method, path, **options))
            except httpx2.TransportError as error:
                if number == TRIES - 1 or isinstance(error, httpx2.ConnectError):
                    raise _lost(error, self.url) from error
                await asyncio.sleep(PAUSE * 2**number)
        raise AssertionError("unreachable")

    async def submit(
        self,
        workflow: Workflow | Mapping[str, Any] | str | Path,
        inputs: Mapping[str, Any] | None = None,
        targets: Sequence[str] | None = None,
        priority: int = 0,
    ) -> AsyncRun:
        """Submit a workflow, as `Client.submit` does."""
        body = _request(workflow, inputs, targets, priority)
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        return AsyncRun(self, (await self.call("POST", "/v1/runs", json=body, headers=headers))["id"])

    async def fetch(self, digest: str) -> bytes:
        """A file by the digest of its bytes."""
        response = await self.http.get(f"/v1/files/{digest}")
        if not response.is_success:
            _read(response)
        return response.content

    async def upload(self, path: str | Path) -> str:
        """Upload a picture; returns what a LoadImage node calls it."""
        headers = {"Content-Type": "application/octet-stream"}
        data = await asyncio.to_thread(Path(path).read_bytes)
        return (await self.call("POST", "/v1/files", content=data, headers=headers))["file"]
