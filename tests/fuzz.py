"""Mutated graphs and bodies: whatever is sent, the server answers with a refusal or takes it, quickly, and lives.

python tests/fuzz.py [REQUESTS; 10000] [SEED; 0]
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from serving import Server, trivial  # noqa: E402 - the tests' own module

ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 2**63, 2**65, -(2**70), 10**400, 1e308, "", "\0", "x" * 5000, "\ud800", "ä" * 100,
    [], {}, [[]], [None], {"": None}, {"from": ""}, {"from": "a"}, {"from": "a.b.c"}, {"from": 3}, {"from": "n0.nope"},
    {"from": "nope.text"}, {"from": "n0.text", "to": "x"}, [{"from": "n0.text"}] * 3, {"__class__": "x"}, "../../etc/passwd",
    "../" * 50, "/", "n0", "workflow.text_to_image", "Text", "__import__('os')", "{}", "NaN", "1", "{text.__class__}",
]  # fmt: skip
RAW = [
    b"\xff\xfe",
    b"\x00",
    b"NaN",
    b"Infinity",
    b"-",
    b'"',
    b"{",
    b"[" * 200,
    b",",
    b"9" * 6000,
    b'{"a":1,"a":2}',
    b"\\u",
]
SECONDS = 1.0


def corpus() -> list[dict[str, Any]]:
    """Bodies that are right."""
    ship = [{"workflow": json.loads(path.read_text())} for path in (HERE.parent / "workflows").glob("*.json")]
    return [
        *ship,
        {"workflow": trivial(), "inputs": {}, "targets": ["n1"], "priority": 3},
        {"workflow": "text_to_image"},
    ]


def mutated(document: Any, dice: random.Random) -> Any:
    """A copy with a few things changed: a value, a key, a type, an order, something twice."""
    made = json.loads(json.dumps(document))
    for _ in range(dice.choice([1, 1, 1, 2, 3, 8])):
        places = list(walk(made))
        holder, key = dice.choice(places)
        match dice.randrange(6):
            case 0 | 1:
                holder[key] = copy.deepcopy(dice.choice(ODD))
            case 2 if isinstance(holder, dict):
                holder[str(dice.choice(ODD))[:50]] = holder.pop(key)
            case 3:
                del holder[key]
            case 4:
                other, place = dice.choice(places)
                holder[key] = json.loads(json.dumps(other[place])) if place in other or isinstance(other, list) else 0
            case _:
                holder[key] = [holder[key]]
        if not any(True for _ in walk(made)):
            return made
    return made


def walk(document: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON document, as (container, key)."""
    places: list[tuple[Any, Any]] = []
    pending = [document]
    while pending and len(places) < 5000:
        item = pending.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        for key in keys:
            places.append((item, key))
            pending.append(item[key])
    return places


def text_of(document: Any, dice: random.Random) -> bytes:
    """The document as bytes; now and then these are damaged, too."""
    data = json.dumps(document).encode()
    if dice.random() < 0.3:
        place = dice.randrange(len(data) + 1)
        data = data[:place] + dice.choice(RAW) + data[place + dice.choice([0, 0, 1, 30]) :]
    return data


def fuzz(server: Server, requests: int, seed: int) -> Counter[str]:
    """Send requests; returns how many answers there were of each kind, slow and 5xx ones with an example on stderr."""
    dice = random.Random(seed)
    bodies, seen = corpus(), Counter({"5xx": 0, "slow": 0})
    paths = ["/v1/runs", "/v1/check", "/v1/explain", "/v1/workflows/fuzzed", "/v1/workflows/text_to_image/runs"]
    for _ in range(requests):
        try:
            data = text_of(mutated(dice.choice(bodies), dice), dice)
        except (IndexError, KeyError):  # nothing left to change
            continue
        path = dice.choice(paths)
        started = time.monotonic()
        method = "PUT" if path.endswith("fuzzed") else "POST"
        answer = server.http.request(method, path, content=data, headers={"Content-Type": "application/json"})
        took = time.monotonic() - started
        seen[str(answer.status_code)] += 1
        for what, wrong in (("5xx", answer.status_code >= 500), ("slow", took > SECONDS)):
            if wrong:
                seen[what] += 1
                print(f"{what} {took:.2f} s {path} {answer.text[:200]} {data[:300]!r}", file=sys.stderr)
    return seen


def main(requests: int = 10_000, seed: int = 0) -> None:
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), queue_limit="1000000") as server:
        server.post("/v1/queue/pause")
        seen = fuzz(server, requests, seed)
        server.get("/readyz").raise_for_status()
    print(json.dumps(seen))
    sys.exit(1 if seen["5xx"] or seen["slow"] else 0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
