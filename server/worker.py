"""A worker: a process with an engine, which runs what the server gives it and says what happens.

It is started as `python -m graphengine.server.worker FD` with one end of a socket that only the two hold.  When that
closes the server is gone, and so is the worker, at once: its runs are given to somebody else, and what they had
finished is in the disk cache.  A worker holds no key to the queue; all it can say is news of the attempts it was given.

    main thread    reads messages
    run threads    the engine's; the last one to touch a run says how it ended
    pump           sends the events of runs under way, many at a time, and what was to be said soon
    pulse          sends heartbeats, whatever the other threads do
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import io
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphengine.collector import settled, uncollected
from graphengine.compose import Engine, make_registry
from graphengine.engine import Run, problems_of
from graphengine.errors import AssetError, GraphError, Problem
from graphengine.events import Event, NodeProgress, RunCancelled, RunFailed, RunFinished
from graphengine.models import library
from graphengine.settings import Settings
from graphengine.values import Image

from . import answer, protocol
from .content import ContentFolder
from .result import results

PULSE_SECONDS, PUMP_SECONDS, SOON_SECONDS = 2.0, 0.03, 0.003
PREVIEW_PIXELS = 256
SMALL_QUESTION = 16 * 1024
DIE_WITH_PARENT = 1
ENDS = (RunFinished, RunFailed, RunCancelled)
KINDS = {kind: kind.model_fields["event"].default for kind in Event.__subclasses__()}


@dataclass
class Active:
    """A run that was given to this worker: how far its events have been told."""

    run: Run
    attempt: int
    told: int = 1  # the server tells itself that a run is queued
    lock: threading.Lock = field(default_factory=threading.Lock)


class Worker:
    """The engine of this process and its end of the conversation."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self._inbox = protocol.Inbox()
        self._sending = threading.Lock()
        self._unsent: list[bytes] = []
        self._sent = 0.0
        self._active: dict[str, Active] = {}
        self._busy = threading.Event()
        self._questions = ThreadPoolExecutor(2, thread_name_prefix="question")

    def work(self) -> None:
        """Set up, then do what is said until the server stops or goes away."""
        messages = self._messages()
        setup = next(messages, None)
        if not isinstance(setup, protocol.Setup):
            return  # the server did not come to start
        self._thread(self._pulse)
        settings, self.node_limit = Settings.model_validate(setup.settings), setup.node_limit
        self._folders = folders(settings)
        quarantine = set(setup.quarantine)

        def before(plugin: str) -> None:
            if plugin in quarantine:
                raise RuntimeError("importing it took the process down; it is left out until the server starts again")
            self.send(protocol.Loading(plugin=plugin))

        with uncollected():
            registry = make_registry(settings, before=before)
        self.folder = ContentFolder(Path(setup.files))
        with Engine(settings=settings, registry=registry) as self.engine:
            settled()
            self.send(protocol.Hello(broken=sorted(registry.broken)))
            self._thread(self._pump)
            for message in messages:
                if isinstance(message, protocol.Stop):
                    return
                self._do(message)
        os._exit(0)  # the server is gone: nobody wants what is still running

    def _messages(self) -> Iterator[Any]:
        while data := self.connection.recv(2**16):
            yield from self._inbox.feed(data)

    def send(self, message: protocol.Message, soon: bool = False) -> None:
        """Say something; what may be said `soon` waits a moment for what else there is, while runs are under way."""
        data = message.pack()
        with self._sending:
            self._unsent.append(data)
            if not soon or not self._active or time.monotonic() - self._sent > SOON_SECONDS:
                self._flush()

    def _flush(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        self._sent = time.monotonic()
        try:
            self.connection.sendall(data)
        except OSError:
            os._exit(0)

    def _thread(self, target: Any) -> None:
        threading.Thread(target=target, daemon=True, name=target.__name__).start()

    def _do(self, message: Any) -> None:
        if isinstance(message, protocol.Start):
            self._start(message)
        elif isinstance(message, protocol.Cancel):
            active = self._active.get(message.run)
            if active:
                active.run.cancel()
        elif isinstance(message, protocol.Ask):
            if len(message.body) < SMALL_QUESTION and message.what == "check":
                self._answer(message)  # quicker than handing it to another thread
            else:
                self._questions.submit(self._answer, message)
        elif isinstance(message, protocol.Watch):
            self.engine.previews = message.previews

    # Runs

    def _start(self, message: protocol.Start) -> None:
        try:
            submission = json.loads(message.body)
            told = submission["workflow"], submission.get("inputs"), submission.get("targets")
            run = self.engine.submit(*told, id=message.run)
        except GraphError as error:
            problems = json.dumps([problem.document() for problem in error.problems])
            self.send(protocol.Ended(run=message.run, attempt=message.attempt, status="failed", problems=problems))
            return
        active = self._active[message.run] = Active(run, message.attempt)
        self._busy.set()
        run.add_done_callback(lambda run: self._ended(active))

    def _ended(self, active: Active) -> None:
        run, status, problems, outputs = active.run, active.run.status, "[]", "{}"
        assert status in ("finished", "failed", "cancelled")
        if status == "finished":
            try:
                outputs = json.dumps(results(run, self.folder))
            except Exception as error:
                status, problems = "failed", json.dumps([Problem("outputs", str(error)).document()])
        elif status == "failed" and run.error:
            problems = json.dumps([problem.document() for problem in problems_of(run.error)])
        with active.lock:
            self._active.pop(run.id, None)
            lines = self._lines(active, whole=True)
            if status == "failed":
                problems, lines = self._scrubbed(problems), [self._scrubbed(line) for line in lines]
            if status != run.status:  # its outputs could not be kept, so it has not finished
                document = json.loads(lines.pop()) | {"event": "run_failed", "problems": json.loads(problems)}
                lines.append(json.dumps(document))
            told = "\n".join(lines)
        self.send(
            protocol.Ended(
                run=run.id, attempt=active.attempt, status=status, lines=told, outputs=outputs, problems=problems
            ),
            soon=True,
        )

    def _scrubbed(self, text: str) -> str:
        """What leaves the server names no folder of this machine."""
        for folder in self._folders:
            text = text.replace(folder, "...")
        return text

    def _lines(self, active: Active, whole: bool = False) -> list[str]:
        """Events that have not been told yet, as JSON; of a node's progress only the last.

        The run's end is left out unless `whole`: it is told together with what the run has made.
        """
        lines: list[str] = []
        entries = active.run.journal.entries(active.told)
        if entries and entries[-1][0] in ENDS and not whole:
            entries.pop()
        run, base = active.run.id, active.attempt * protocol.SEQUENCE
        latest = {fields["node"]: i for i, (model, _, fields) in enumerate(entries) if model is NodeProgress}
        for number, (model, moment, fields) in enumerate(entries):
            if model is NodeProgress:
                if latest[fields["node"]] != number:
                    continue
                fields = self._shown(fields)
            lines.append(protocol.event(KINDS[model], run, base + active.told + number, moment, fields))
        active.told += len(entries)
        return lines

    @staticmethod
    def _shown(fields: dict[str, Any]) -> dict[str, Any]:
        preview = fields.get("preview")
        if preview is None:
            return fields
        return {**fields, "preview": _data_url(preview)}

    def _pump(self) -> None:
        while self._busy.wait():
            time.sleep(PUMP_SECONDS)  # many events go in one message
            with self._sending:
                if self._unsent:
                    self._flush()
            for active in list(self._active.values()):
                with active.lock:
                    if active.run.id in self._active and (lines := self._lines(active)):
                        self.send(protocol.News(run=active.run.id, attempt=active.attempt, lines="\n".join(lines)))
            if not self._active:
                self._busy.clear()
                if self._active:  # one came in between
                    self._busy.set()

    def _pulse(self) -> None:
        while True:
            self.send(protocol.Beat(memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
            time.sleep(PULSE_SECONDS)  # a heartbeat

    # Questions

    def _answer(self, ask: protocol.Ask) -> None:
        problems, body, submission = "", "{}", ""
        try:
            if ask.what == "catalogue":
                told = answer.catalogue(self.engine)
            elif ask.what == "models":
                told = answer.models(self.engine)
            elif ask.what == "signature":
                told = answer.signature(self.engine, ask.body)
            else:
                tell = answer.check if ask.what == "check" else answer.explain
                told = tell(self.engine, ask.body, self.node_limit)
            submission = told.pop("submission", "")
            body = json.dumps(told)
            if ask.what == "models":  # what is wrong with one may be told with its place
                body = self._scrubbed(body)
        except GraphError as error:
            problems = self._scrubbed(json.dumps([problem.document() for problem in error.problems[:100]]))
        except Exception as error:
            print(f"a question about {ask.what} failed: {error!r}", file=sys.stderr)
            problems = json.dumps([Problem("engine", "the question could not be answered.").document()])
        self.send(protocol.Answer(number=ask.number, body=body, submission=submission, problems=problems))


def folders(settings: Settings) -> list[str]:
    """The folders that an error may name, longest first, as they stand in JSON text."""
    own = [settings.input_folder, settings.output_folder, settings.cache_folder, settings.input_folder.parent]
    own += [*settings.model_folders, *settings.plugin_folders, Path(__file__).parents[1], Path(sys.prefix), Path.home()]
    with contextlib.suppress(AssetError):  # a file of model paths that cannot be read names none
        own += [place.folder for place in library.places(settings)]
    named = {str(place) for folder in own for place in (folder.absolute(), folder.resolve())} - {"/"}
    return [json.dumps(name)[1:-1] for name in sorted(named, key=len, reverse=True)]


def _data_url(preview: Image) -> str:
    picture = preview.pil()[0]
    picture.thumbnail((PREVIEW_PIXELS, PREVIEW_PIXELS))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def begin(connection: socket.socket) -> None:
    """Be a worker until the server says stop or goes away."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the server, which stops its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(2, 1)  # what nodes print goes where the log goes
    Worker(connection).work()


if __name__ == "__main__":  # its argument is the number of the socket
    begin(socket.socket(fileno=int(sys.argv[1])))
