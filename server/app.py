"""Putting the server together, starting it, and stopping it without losing anything."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from graphengine.collector import settled
from graphengine.errors import AssetError
from graphengine.queue import RunReader
from graphengine.settings import Settings, bundled_workflows

from .api import ROUTES, Route, query_of, refusals
from .configuration import Configuration
from .content import ContentFolder
from .desk import Desk
from .dispatcher import Dispatcher
from .gate import EVERYWHERE, gate
from .house import House
from .hub import Hub
from .ledger import Ledger
from .spare import Spare
from .webhook import Webhooks

logger = logging.getLogger(__name__)
HERE = Path(__file__).parent
PAGE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'"
ASSETS = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
HOUSE = web.AppKey("house", House)
ROOMS = ("run", "event", "file", "workflow", "health", "openapi")
"""The modules that declare routes."""


def application(house: House) -> web.Application:
    """The aiohttp application over a house that is open."""
    app = web.Application(middlewares=[stamped, refusals, gate(house.configuration)])
    app[HOUSE] = house
    for room in ROOMS:
        importlib.import_module(f"graphengine.server.{room}")
    for entry in ROUTES:
        app.router.add_route(entry.method, entry.path, _handler(house, entry))
    for path, (name, kind) in ASSETS.items():
        app.router.add_get(path, _asset(HERE / name, kind))
    return app


def _handler(house: House, entry: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    if entry.query is None:
        return lambda request: entry.handler(house, request)
    model = entry.query
    return lambda request: entry.handler(house, request, query_of(model, request))


def _asset(path: Path, kind: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
        return web.Response(text=path.read_text(encoding="utf-8"), content_type=kind, headers=headers)

    return serve


@web.middleware
async def stamped(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
    """Headers that every answer carries."""
    response = await handler(request)
    if not response.prepared:
        response.headers.update(EVERYWHERE)
    return response


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the data folder: two servers over one queue would run everything twice.  Raises AssetError."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AssetError(f"another server uses the folder {folder}; stop it, or give this one another.") from None
        yield


async def serve(
    configuration: Configuration, settings: Settings, started: Callable[[str], None], spares: list[Spare]
) -> None:
    """Run the server until SIGTERM or SIGINT.  `started` is called with its address; its first processes are `spares`.

    Raises:
        AssetError: another server holds the folder, the address is taken, or tokens are missing.
        StoreError: the run store cannot be opened.
    """
    if not configuration.loopback and not configuration.tokens:
        raise AssetError(
            f"listening on {configuration.host} wants tokens: set GRAPHENGINE_TOKENS or give --token-file."
        )
    with only_one(configuration.data_folder):
        ledger = Ledger(configuration.store_url)
        await ledger.open()
        content = ContentFolder((settings.input_folder / "files").resolve())
        content.sweep()
        hub = Hub(ledger.epoch)
        dispatcher = Dispatcher(configuration, settings, ledger, hub, str(content.folder), spares)
        house = House(
            configuration,
            settings,
            ledger,
            RunReader(configuration.store_url),
            hub,
            dispatcher,
            content,
            Desk(settings, configuration.node_limit),
        )
        _lay_out(house)
        webhooks = Webhooks(house)
        dispatcher.on_end = webhooks.tell
        await dispatcher.start()
        await webhooks.start()
        runner = web.AppRunner(
            application(house),
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=configuration.header_timeout,
            shutdown_timeout=1,
            handler_cancellation=True,
        )
        try:
            await runner.setup()
            site = web.TCPSite(runner, configuration.host, configuration.port, backlog=1024)
            try:
                await site.start()
            except OSError as error:
                place = f"{configuration.host}:{configuration.port}"
                raise AssetError(f"cannot listen on {place}: {error.strerror}.") from None
            settled()
            started(_address(configuration, runner))
            await _stopped()
            logger.info("stopping: runs in hand get %g s", configuration.drain)
        finally:
            await dispatcher.stop()
            hub.close()
            await runner.cleanup()
            await ledger.close()
            house.reader.close()


def _lay_out(house: House) -> None:
    """The folder of workflows, with the pictures that those that ship begin with."""
    house.workflow_folder.mkdir(parents=True, exist_ok=True)
    for example in bundled_workflows().glob("example*.png"):
        if not (house.workflow_folder / example.name).exists():
            shutil.copyfile(example, house.workflow_folder / example.name)


def _address(configuration: Configuration, runner: web.AppRunner) -> str:
    port = runner.addresses[0][1]
    host = f"[{configuration.host}]" if ":" in configuration.host else configuration.host
    return f"http://{host}:{port}"


async def _stopped() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _heard, stop, number)
    await stop.wait()


def _heard(stop: asyncio.Event, number: int) -> None:
    if stop.is_set():  # the second time: at once, which is as safe as kill -9
        sys.stderr.write("stopped at once\n")
        sys.stderr.flush()
        os._exit(128 + number)
    stop.set()


class JSONLines(logging.Formatter):
    """One log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": round(time.time(), 3),
            "level": record.levelname.lower(),
            "from": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told)


def log_to_stderr() -> None:
    """Structured logs on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
