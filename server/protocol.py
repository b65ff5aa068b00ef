"""What the server and its workers say to each other: one JSON object a line, over a socket that only they hold.

A worker says `hello` with the protocol's version, then `beat`s; it is told to `start` and `cancel` runs and is asked
questions.  A run is named with its attempt, so that news of an attempt that was given up are told from those that
count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quoted
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

VERSION = 1
LINE_LIMIT = 256 * 2**20
SEQUENCE = 1_000_000
"""Events of attempt n are numbered from n * SEQUENCE: numbers only grow, whatever was lost with a worker."""


class Setup(BaseModel):
    """The first message to a worker: its settings, and plugins that it must leave alone."""

    kind: Literal["setup"] = "setup"
    version: int = VERSION
    settings: dict[str, Any]
    files: str
    node_limit: int
    quarantine: list[str] = []


class Start(BaseModel):
    """A run to be done; `body` is its submission: workflow, inputs, targets."""

    kind: Literal["start"] = "start"
    run: str
    attempt: int
    body: dict[str, Any]


class Cancel(BaseModel):
    kind: Literal["cancel"] = "cancel"
    run: str


class Ask(BaseModel):
    """A question; the worker gives one `Answer` with the same number."""

    kind: Literal["ask"] = "ask"
    number: int
    what: Literal["check", "explain", "catalogue", "signature"]
    body: str = ""


class Watch(BaseModel):
    """Whether anybody looks at the pictures of runs under way."""

    kind: Literal["watch"] = "watch"
    previews: bool


class Stop(BaseModel):
    kind: Literal["stop"] = "stop"


class Hello(BaseModel):
    kind: Literal["hello"] = "hello"
    version: int = VERSION
    broken: list[str] = []


class Loading(BaseModel):
    """A plugin is about to be imported: if nothing more is heard, it is to blame."""

    kind: Literal["loading"] = "loading"
    plugin: str


class Beat(BaseModel):
    kind: Literal["beat"] = "beat"
    memory: int = 0


class News(BaseModel):
    """Events of a run, as lines of JSON."""

    kind: Literal["news"] = "news"
    run: str
    attempt: int
    lines: list[str]


class Ended(BaseModel):
    """A run's end with its last events; `outputs` and `problems` are JSON."""

    kind: Literal["ended"] = "ended"
    run: str
    attempt: int
    status: Literal["finished", "failed", "cancelled"]
    lines: list[str]
    outputs: str = "{}"
    problems: str = "[]"


class Answer(BaseModel):
    """`body` is JSON; a checked submission stands beside it as the text that is kept."""

    kind: Literal["answer"] = "answer"
    number: int
    body: str
    submission: str = ""
    problems: str = ""


ToWorker = TypeAdapter[Any](Annotated[Setup | Start | Cancel | Ask | Watch | Stop, Field(discriminator="kind")])
ToServer = TypeAdapter[Any](Annotated[Hello | Loading | Beat | News | Ended | Answer, Field(discriminator="kind")])


def event(kind: str, run: str, seq: int, moment: float, fields: Mapping[str, Any]) -> str:
    """An event as a line of JSON.  Put together by hand: there are two for every node of every run."""
    text = f'{{"event": "{kind}", "run": "{run}", "seq": {seq}, "time": {moment:.4f}'
    for key, value in fields.items():
        told = quoted(value) if type(value) is str else json.dumps(value)
        text += f', "{key}": {told}'
    return text + "}"


def start(run: str, attempt: int, body: str) -> bytes:
    """A `Start` whose body is JSON text already."""
    return f'{{"kind": "start", "run": "{run}", "attempt": {attempt}, "body": {body}}}\n'.encode()


def line(message: BaseModel) -> bytes:
    """A message as it goes over the wire."""
    return message.model_dump_json().encode() + b"\n"
