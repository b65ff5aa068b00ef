"""A real server in a process of its own, for tests: `with Server(folder) as server: server.post("/v1/runs", {...})`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).parent.parent
ENDED = ("finished", "failed", "cancelled")


class Server:
    """Start, speak to, kill and start again; everything it keeps lies in `folder`."""

    def __init__(self, folder: Path, *options: str, **environment: str):
        self.folder, self.options, self.environment = folder, options, environment
        self.plugins = folder / "plugins"
        self.lines: list[str] = []
        self.url = ""

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def command(self) -> list[str]:
        folder = self.folder
        fixed = ["--port", "0", "--data", str(folder / "data"), "--cache-folder", str(folder / "cache")]
        return [sys.executable, "-m", "graphengine", "serve", *fixed, "--plugins", str(self.plugins), *self.options]

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, **{f"GRAPHENGINE_SERVER_{key.upper()}": value for key, value in self.environment.items()}}
        self.process = subprocess.Popen(self.command(), cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
        stderr = self.process.stderr
        assert stderr
        while True:
            line = stderr.readline()
            if not line:
                raise AssertionError(f"the server did not start: {self.lines}")
            self.lines.append(line)
            if found := re.search(r"http://\S+", line):
                self.url = found[0]
                break
        threading.Thread(target=lambda: self.lines.extend(stderr), daemon=True).start()
        self.http = httpx2.Client(base_url=self.url, timeout=30, headers=self.headers())

    def headers(self) -> dict[str, str]:
        return {}

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        with contextlib.suppress(AttributeError):
            self.http.close()
        return code

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        self.start()

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return self.http.get(path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        return self.http.post(path, json={} if body is None else body, **options)

    def submit(self, workflow: Any, **fields: Any) -> str:
        answer = self.post("/v1/runs", {"workflow": workflow, **fields})
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def run(self, id: str) -> dict[str, Any]:
        return self.get(f"/v1/runs/{id}").json()

    def ended(self, id: str, seconds: float = 60) -> dict[str, Any]:
        """The run, once it has ended."""
        return self.when(lambda: (run := self.run(id))["status"] in ENDED and run, seconds)

    def when(self, question: Any, seconds: float = 30) -> Any:
        """What a question gives once it gives anything."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := question():
                return found
            time.sleep(0.03)
        raise AssertionError(f"it did not come true; the log: {''.join(self.lines[-20:])}")

    def events(self, id: str, **options: Any) -> list[dict[str, Any]]:
        """All events of a run, to its end."""
        text = self.get(f"/v1/runs/{id}/events", **options).text
        return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]

    def workers(self) -> list[int]:
        """Process numbers: the clerk's and the workers'."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children]


def trivial(text: str = "hello", nodes: int = 3) -> dict[str, Any]:
    """A workflow of text nodes, done in no time."""
    made: dict[str, Any] = {"n0": {"type": "Text", "inputs": {"text": text}}}
    for i in range(1, nodes):
        made[f"n{i}"] = {"type": "JoinText", "inputs": {"texts": [{"from": f"n{i - 1}.text"}, "x"]}}
    outputs = {"text": {"from": f"n{nodes - 1}.text"}}
    return {"graphengine": 1, "name": "trivial", "outputs": outputs, "nodes": made}


def one(node_type: str, **inputs: Any) -> dict[str, Any]:
    """A workflow of one node whose output is called `value`."""
    nodes = {"node": {"type": node_type, "inputs": inputs}}
    return {"graphengine": 1, "name": "one", "outputs": {"value": {"from": "node.value"}}, "nodes": nodes}


def painting(seed: int = 0) -> dict[str, Any]:
    """A workflow that saves a picture without any model: another one for every seed."""
    nodes: dict[str, Any] = {
        "load": {"type": "LoadImage", "inputs": {"file": "workflows/example.png"}},
        "resize": {"type": "Resize", "inputs": {"image": {"from": "load.image"}, "width": 64 + seed, "height": 64}},
        "save": {"type": "SaveImage", "inputs": {"image": {"from": "resize.image"}, "name": "painted"}},
    }
    return {"graphengine": 1, "name": "painting", "outputs": {"image": {"from": "resize.image"}}, "nodes": nodes}
