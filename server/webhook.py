"""Telling an address that a run has ended: signed, tried again, and not forgotten over a restart.

The body is the run as `GET /v1/runs/{id}` gives it.  `X-GraphEngine-Signature` is `t=SECONDS,v1=HEX` with HEX the
HMAC-SHA256 of `SECONDS.BODY` under the server's webhook secret, so that a receiver can tell who speaks, and when.
Only hosts that the server was started with are spoken to: a server that posts to any address is everybody's tool.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from urllib.parse import urlsplit

import aiohttp

from graphengine.errors import GraphError, Problem
from graphengine.queue import ENDED, RunStore

from .configuration import Configuration
from .house import House

logger = logging.getLogger(__name__)
TRIES, FIRST_PAUSE, SECONDS = 6, 1.0, 10.0


def allowed(configuration: Configuration, address: str) -> None:
    """Raises GraphError when no webhook may go to this address."""
    if not configuration.webhook_secret:
        message = "this server sends no webhooks; it was started without a webhook secret."
    elif urlsplit(address).netloc not in configuration.webhook_hosts:
        message = f"webhooks may go to {', '.join(configuration.webhook_hosts) or 'no host'} only."
    else:
        return
    raise GraphError([Problem("webhook", message, port="webhook")])


def signature(secret: str, body: bytes, moment: int) -> str:
    made = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={made}"


class Webhooks:
    """Delivers what is untold, each run by itself."""

    def __init__(self, house: House):
        self.house = house
        self._under_way: set[str] = set()

    async def start(self) -> None:
        """Take up what an earlier server could not deliver."""
        if not self.house.configuration.webhook_secret:
            return
        for run, _ in await self.house.ledger.do(RunStore.untold):
            self.tell(run)

    def tell(self, run: str) -> None:
        """Deliver the webhook of a run that has ended, if it has one."""
        if self.house.configuration.webhook_secret and run not in self._under_way:
            self._under_way.add(run)
            self.house.dispatcher.spawn(self._deliver(run))

    async def _deliver(self, run: str) -> None:
        try:
            row = await self.house.row(run)
            address = row["webhook"]
            if address is None or row["told"] or row["status"] not in ENDED:
                return
            body = json.dumps(await self.house.run(run)).encode()
            for number in range(TRIES):
                if await self._post(address, body):
                    await self.house.ledger.do(lambda store: store.told(run))
                    return
                await asyncio.sleep(FIRST_PAUSE * 2**number)
            logger.warning("the webhook of run %s was not taken; it is tried again when the server starts", run)
        finally:
            self._under_way.discard(run)

    async def _post(self, address: str, body: bytes) -> bool:
        moment = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "X-GraphEngine-Signature": signature(self.house.configuration.webhook_secret, body, moment),
        }
        limit = aiohttp.ClientTimeout(total=SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit) as session,
                session.post(address, data=body, headers=headers, allow_redirects=False) as response,
            ):
                return 200 <= response.status < 300
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
