"""What the server and its workers say to each other, over a socket that only they hold.

    118 1024 0\n{"kind": ...}<1024 bytes of text><0 bytes of text>

A message is a line with sizes, a head in JSON, and the texts that the head leaves out: a submission or a run's events
are JSON already and pass through as they are.

A worker says `hello` with the protocol's version, then `beat`s; it is told to `start` and `cancel` runs and is asked
questions.  A run is named with its attempt, so that news of an attempt that was given up are told from those that
count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from json.encoder import encode_basestring_ascii as quoted
from math import isfinite
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

VERSION = 1
MESSAGE_LIMIT, SIZES_LIMIT = 256 * 2**20, 100
SEQUENCE = 1_000_000
"""Events of attempt n are numbered from n * SEQUENCE: numbers only grow, whatever was lost with a worker."""


class Message(BaseModel):
    """The common part; `texts` names the fields that travel beside the head."""

    model_config = ConfigDict(defer_build=True)

    texts: ClassVar[tuple[str, ...]] = ()

    def pack(self) -> bytes:
        """The message as it goes over the wire."""
        parts = [self.model_dump_json(exclude=set(self.texts)), *(getattr(self, name) for name in self.texts)]
        encoded = [part.encode() for part in parts]
        return " ".join(str(len(part)) for part in encoded).encode() + b"\n" + b"".join(encoded)


class Setup(Message):
    """The first message to a worker: its settings, and plugins that it must leave alone."""

    kind: Literal["setup"] = "setup"
    version: int = VERSION
    settings: dict[str, Any]
    files: str
    node_limit: int
    quarantine: list[str] = []


class Start(Message):
    """A run to be done; `body` is its submission as JSON: workflow, inputs, targets."""

    texts = ("body",)
    kind: Literal["start"] = "start"
    run: str
    attempt: int
    body: str


class Cancel(Message):
    kind: Literal["cancel"] = "cancel"
    run: str


class Ask(Message):
    """A question; the worker gives one `Answer` with the same number."""

    texts = ("body",)
    kind: Literal["ask"] = "ask"
    number: int
    what: Literal["check", "explain", "catalogue", "signature", "models"]
    body: str = ""


class Watch(Message):
    """Whether anybody looks at the pictures of runs under way."""

    kind: Literal["watch"] = "watch"
    previews: bool


class Stop(Message):
    kind: Literal["stop"] = "stop"


class Hello(Message):
    kind: Literal["hello"] = "hello"
    version: int = VERSION
    broken: list[str] = []


class Loading(Message):
    """A plugin is about to be imported: if nothing more is heard, it is to blame."""

    kind: Literal["loading"] = "loading"
    plugin: str


class Beat(Message):
    kind: Literal["beat"] = "beat"
    memory: int = 0


class News(Message):
    """Events of a run, as lines of JSON."""

    texts = ("lines",)
    kind: Literal["news"] = "news"
    run: str
    attempt: int
    lines: str


class Ended(Message):
    """A run's end with its last events; `outputs` and `problems` are JSON."""

    texts = ("lines", "outputs", "problems")
    kind: Literal["ended"] = "ended"
    run: str
    attempt: int
    status: Literal["finished", "failed", "cancelled"]
    lines: str = ""
    outputs: str = "{}"
    problems: str = "[]"


class Answer(Message):
    """`body` is JSON; a checked submission stands beside it as the text that is kept."""

    texts = ("body", "submission", "problems")
    kind: Literal["answer"] = "answer"
    number: int
    body: str
    submission: str = ""
    problems: str = ""


KINDS: dict[str, type[Message]] = {kind.model_fields["kind"].default: kind for kind in Message.__subclasses__()}


class Inbox:
    """Puts messages together from bytes as they come in."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Messages that are whole now.

        Raises:
            ValueError: this is no message; nothing after it can be read either.
        """
        self._bytes += data
        start = 0
        while (head := self._bytes.find(b"\n", start, start + SIZES_LIMIT)) >= 0:
            sizes = [int(size) for size in self._bytes[start:head].split()]
            end = head + 1 + sum(sizes)
            if not sizes or min(sizes) < 0 or end - start > MESSAGE_LIMIT:
                raise ValueError("the sizes of a message are wrong")
            if end > len(self._bytes):
                break
            parts, place = [], head + 1
            for size in sizes:
                parts.append(self._bytes[place : place + size].decode())
                place += size
            start = end
            yield _unpack(*parts)
        del self._bytes[:start]
        if len(self._bytes) > SIZES_LIMIT and b"\n" not in self._bytes[:SIZES_LIMIT]:
            raise ValueError("a message begins without its sizes")


def _unpack(head: str, *texts: str) -> Message:
    fields: dict[str, Any] = json.loads(head)
    kind = KINDS.get(fields.get("kind", ""))
    if kind is None or len(kind.texts) != len(texts):
        raise ValueError(f"there is no such message: {head[:100]}")
    fields.update(zip(kind.texts, texts, strict=True))
    return kind.model_validate(fields)


def event(kind: str, run: str, seq: int, moment: float, fields: Mapping[str, Any]) -> str:
    """An event as a line of JSON.  Put together by hand: there are two for every node of every run."""
    text = f'{{"event": "{kind}", "run": "{run}", "seq": {seq}, "time": {moment:.4f}'
    for key, value in fields.items():
        text += f', "{key}": {_told(value)}'
    return text + "}"


def _told(value: Any) -> str:
    if type(value) is str:
        return quoted(value)
    if type(value) is float:
        return repr(value) if isfinite(value) else "null"
    return json.dumps(value)
