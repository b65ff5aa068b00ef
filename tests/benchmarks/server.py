"""What the server costs: CPU time to its first answer, CPU time per run, and what a thousand listeners add.

All processes together (server, clerk, worker), from `/proc`; the queue is durable, every run differs.

    python tests/benchmarks/server.py [runs; 200]
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from measure import ROOT, judged, table

START_LIMIT, RUN_LIMIT, LISTENER_LIMIT = 1.0, 1.0, 1.1
AT_ONCE, NODES, LISTENERS = 32, 10, 1_000
BEST_OF = 10
"""The clock rate of a shared machine changes from second to second: the figure is the best of so many."""
COMFYUI_MS = 7.6  # ComfyUI 0.8.0, nothing durable, the same kind of machine
TICK = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split() if int(child) not in found]
    return found


def cpu(pid: int) -> float:
    """CPU seconds of a process and its descendants, with those that have ended."""
    total = 0
    for process in family(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:13])) + (sum(map(int, fields[13:15])) if process == pid else 0)
    return total / TICK


@contextmanager
def server() -> Iterator[tuple[str, int, float]]:
    """A server in folders of its own: its address, its process, and the CPU seconds until it accepted a run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "graphengine", "serve", "--port", "0", "--data", folder, "--plugins", folder]
        command += ["--cache-folder", f"{folder}/cache"]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        address = ""
        while not address:
            found = re.search(r"http://\S+", process.stderr.readline())
            address = found[0] if found else ""
        try:
            spent = asyncio.run(first_run(address, process.pid))
            yield address, process.pid, spent
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


async def first_run(address: str, pid: int) -> float:
    async with aiohttp.ClientSession(address) as session, session.post("/v1/runs", json=body(0)) as response:
        assert response.status == 202, await response.text()
    return cpu(pid)


def body(number: int) -> dict[str, Any]:
    """A chain of trivial nodes that no other run has."""
    nodes: dict[str, Any] = {"n0": {"type": "Text", "inputs": {"text": f"run {number}"}}}
    for i in range(1, NODES):
        nodes[f"n{i}"] = {"type": "JoinText", "inputs": {"texts": [{"from": f"n{i - 1}.text"}, "x"]}}
    outputs = {"text": {"from": f"n{NODES - 1}.text"}}
    return {"workflow": {"graphengine": 1, "name": "chain", "outputs": outputs, "nodes": nodes}}


async def submit_all(address: str, first: int, count: int) -> float:
    """Submit runs, so many at once, and wait until all have ended; returns the seconds it took."""
    numbers = iter(range(first, first + count))
    async with aiohttp.ClientSession(address) as session:

        async def submit() -> None:
            for number in numbers:
                async with session.post("/v1/runs", json=body(number)) as response:
                    assert response.status == 202, await response.text()

        started = time.perf_counter()
        await asyncio.gather(*(submit() for _ in range(AT_ONCE)))
        while True:
            async with session.get("/v1/queue") as response:
                queue = await response.json()
            if not queue["waiting"] + queue["running"]:
                return time.perf_counter() - started
            await asyncio.sleep(0.02)


LISTEN = """
import asyncio, sys, aiohttp
async def main():
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(sys.argv[1], connector=connector) as session:
        feeds = []
        for _ in range(int(sys.argv[2])):
            feeds.append(await session.ws_connect("/v1/events", heartbeat=None))
        print("listening", flush=True)
        async def read(feed):
            async for message in feed:
                pass
        await asyncio.gather(*map(read, feeds))
asyncio.run(main())
"""


def measured(address: str, pid: int, first: int, count: int) -> tuple[float, float]:
    """Milliseconds of server CPU per run, and seconds for all."""
    before = cpu(pid)
    wall = asyncio.run(submit_all(address, first, count))
    time.sleep(0.5)  # what is done after the last answer counts, too
    return (cpu(pid) - before) / count * 1e3, wall


def main(count: int) -> None:
    with server() as (address, pid, start):
        measured(address, pid, 10**6, count)  # imports and caches warm
        per_run, wall = min(measured(address, pid, 10**7 * (i + 1), count) for i in range(BEST_OF))
        alone, walled = min(measured(address, pid, 2 * 10**8 * (i + 1), 5 * count) for i in range(2))
        listening = subprocess.Popen(
            [sys.executable, "-c", LISTEN, address, str(LISTENERS)], stdout=subprocess.PIPE, text=True
        )
        assert listening.stdout and listening.stdout.readline() == "listening\n"
        followed, slower = min(measured(address, pid, 3 * 10**8 * (i + 1), 5 * count) for i in range(2))
        listening.kill()
    rows = [
        ["CPU s until a run is accepted", judged(start, START_LIMIT), ""],
        [
            f"CPU ms per run of {NODES} nodes",
            judged(per_run, RUN_LIMIT),
            f"{per_run / COMFYUI_MS:.2f} x ComfyUI's {COMFYUI_MS}",
        ],
        ["seconds on the clock for them", f"{wall:.2f}", ""],
        [f"{5 * count} runs with {LISTENERS:,} listeners / without", judged(followed / alone, LISTENER_LIMIT), "CPU"],
        ["seconds on the clock, with and without", f"{slower:.2f}", f"{walled:.2f}"],
    ]
    table(f"{count} runs, {AT_ONCE} at a time", ["what", "figure", ""], rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
