"""Whether the server is well, for those who look after it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from .api import Media, answer, route
from .house import House
from .model import Health

DISK_FLOOR = 64 * 2**20


@route("GET", "/healthz", "Whether the process is alive", answers={200: Health}, open=True)
async def healthz(house: House, request: web.Request) -> web.StreamResponse:
    return answer({"status": "ok", "checks": {}})


@route("GET", "/readyz", "Whether runs are accepted and worked on", answers={200: Health, 503: Health}, open=True)
async def readyz(house: House, request: web.Request) -> web.StreamResponse:
    free = await asyncio.to_thread(lambda: shutil.disk_usage(house.configuration.data_folder).free)
    checks = {
        "store": house.ledger.alive and house.ledger.healthy,
        "clerk": house.dispatcher.crew.clerk.ready.is_set(),
        "workers": any(worker.ready.is_set() for worker in house.dispatcher.crew.workers),
        "disk": free > DISK_FLOOR,
        "accepting": not house.dispatcher.draining,
    }
    well = all(checks.values())
    return answer({"status": "ok" if well else "unavailable", "checks": checks}, 200 if well else 503)


class Collector:
    """The server's figures in the shape of prometheus_client."""

    def __init__(self, house: House):
        self.house = house

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        dispatcher = self.house.dispatcher
        yield GaugeMetricFamily("graphengine_runs_waiting", "runs in the queue", len(dispatcher.line))
        yield GaugeMetricFamily("graphengine_runs_running", "runs in the hands of workers", dispatcher.crew.running)
        yield GaugeMetricFamily("graphengine_queue_paused", "1 while the queue is paused", int(dispatcher.paused))
        ready = sum(worker.ready.is_set() for worker in dispatcher.crew.workers)
        yield GaugeMetricFamily("graphengine_workers_ready", "workers that take runs", ready)
        yield GaugeMetricFamily("graphengine_listeners", "readers of the feed", len(self.house.hub.listeners))
        yield CounterMetricFamily(
            "graphengine_worker_restarts", "workers that had to be replaced", dispatcher.crew.restarts
        )
        ended = CounterMetricFamily("graphengine_runs_ended", "ended runs by status", labels=["status"])
        for status in ("finished", "failed", "cancelled"):
            ended.add_metric([status], dispatcher.totals[status])
        yield ended
        memory = GaugeMetricFamily("graphengine_worker_memory_bytes", "peak memory by worker", labels=["worker"])
        for worker in dispatcher.crew.everyone:
            memory.add_metric([worker.name], worker.memory)
        yield memory


@route("GET", "/metrics", "Figures in the format of Prometheus", answers={200: Media(("text/plain",))})
async def metrics(house: House, request: web.Request) -> web.StreamResponse:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(house))
    return web.Response(body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4"})
