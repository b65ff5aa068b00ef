"""Killing processes, and looking at what is left.  Two programs, both also run small by the tests:

    python tests/kill.py random [KILLS; 1000] [BUG]     kill -9 a process of a server under load, at random, and again
    python tests/kill.py sweep [EVERY; 1] [BUG]         kill a program of store steps at its n-th mutating system call,
                                                        for every n (wants strace)

A BUG is put in on purpose, to show that the harness finds it:
    ack_first            a run is accepted before it has been committed
    delete_on_dequeue    a claimed run is taken out of the store
    no_rename            a picture is written in place
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image as pillow

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from serving import ENDED, Server, painting, trivial  # noqa: E402 - the tests' own module

WRONG = ("lost", "doubled", "corrupt", "stuck", "lies", "slow")
SLOW_SECONDS = 10.0
"""How long a submission may wait for whoever takes the place of a process that was killed."""
CALLS = ("write", "pwrite64", "fsync", "fdatasync", "rename", "linkat", "link", "unlink", "unlinkat", "ftruncate")
IN_PLACE = """
import time
from graphengine.models.assets import inside

def in_place(folder, stem, suffix, write):
    place = inside(folder, f"{stem}_00001{suffix}")
    place.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while (path := place.with_name(f"{stem}_{number:05d}{suffix}")).exists():
        number += 1
    write(place.with_name(".whole.png"))
    data = place.with_name(".whole.png").read_bytes()
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(data), len(data) // 4):
            file.write(data[start : start + len(data) // 4])
            time.sleep(0.02)
    return path
"""
PLUGIN = IN_PLACE + "\nfrom graphengine.nodes import image_files\nimage_files.write_numbered = in_place\n"


def put_in(bug: str) -> None:
    """Break this process's own code."""
    import asyncio
    import importlib

    from graphengine import queue

    dispatcher: Any = importlib.import_module("graphengine.server.dispatcher")
    if bug == "ack_first":

        async def accept(self: Any, submission: Any) -> Any:
            asyncio.get_running_loop().call_later(1.0, lambda: self.spawn(honest(self, submission)))
            place = queue.Waiting((0, 0, 0), submission.id, False, submission.workflow)
            return queue.Accepted(place, submission.client, "queued", submission.body_digest, True)

        honest, dispatcher.Dispatcher.accept = dispatcher.Dispatcher.accept, accept
    elif bug == "delete_on_dequeue":
        claim = queue.RunStore.claim

        def dequeue(self: Any, ids: Any) -> Any:
            rows = claim(self, ids)
            self.connection.execute(queue.runs.delete().where(queue.runs.c.id.in_(ids)))
            return rows

        queue.RunStore.claim = dequeue


class BrokenServer(Server):
    """A server with a bug put in."""

    def __init__(self, folder: Path, bug: str, **environment: str):
        super().__init__(folder, **environment)
        self.bug = bug
        if bug == "no_rename":
            self.plugins.mkdir(parents=True, exist_ok=True)
            (self.plugins / "bug.py").write_text(PLUGIN)

    def command(self) -> list[str]:
        return [sys.executable, str(HERE / "kill.py"), "serve", self.bug, *super().command()[4:]]


# At random


def at_random(kills: int, bug: str = "", seed: int = 0) -> dict[str, int]:
    """Kill processes of a server under load; returns counts of what went wrong."""
    dice = random.Random(seed)
    done, number = 0, 0
    accepted: dict[str, int | None] = {}
    wrong = Counter[str]()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        server = BrokenServer(Path(folder), bug, losses="1000")
        server.start()
        while done < kills:
            for _ in range(dice.randint(2, 6)):
                number += 1
                number = submitted(server, number, dice, accepted, wrong)
            time.sleep(dice.random() * 0.15)
            target = "server" if bug else dice.choice(["server", "server", "worker", "clerk"])
            done += 1
            if target == "server":
                server.kill()
                server.start()
            else:
                hit(server, target)
            if done % 50 == 0:
                print(f"{done} kills, {len(accepted)} runs, {time.monotonic() - started:.0f} s", file=sys.stderr)
        wrong += examine(server, accepted)
        server.stop()
    return {**dict.fromkeys(WRONG, 0), **wrong} | {"kills": done, "runs": len(accepted)}


def submitted(
    server: Server, number: int, dice: random.Random, accepted: dict[str, int | None], wrong: Counter[str]
) -> int:
    """Submit one run, and write it down once it has been acknowledged."""
    paints = dice.random() < 0.5
    workflow = painting(number) if paints else trivial(f"run {number}", nodes=10)
    try:
        began = time.monotonic()
        answer = server.post("/v1/runs", {"workflow": workflow})
    except httpx2.TransportError:
        return number
    wrong["slow"] += time.monotonic() - began > SLOW_SECONDS or answer.status_code >= 500
    if answer.status_code == 202:
        accepted[answer.json()["id"]] = number if paints else None
        if dice.random() < 0.1:
            server.http.delete(f"/v1/runs/{answer.json()['id']}")
    return number


def hit(server: Server, target: str) -> None:
    workers = server.workers()
    if workers:
        try:
            os.kill(workers[0] if target == "clerk" else workers[-1], 9)
        except ProcessLookupError:
            return


def examine(server: Server, accepted: dict[str, int | None]) -> Counter[str]:
    """What has become of every run that was acknowledged."""
    wrong = Counter[str]()
    widths: Counter[int] = Counter()
    for path in (server.folder / "data" / "output").glob("[!.]*.png"):
        if (width := width_of(path)) is None:
            wrong["corrupt"] += 1
        else:
            widths[width] += 1
    until = time.monotonic() + 120
    for run, number in accepted.items():
        row = server.run(run)
        while row["status"] not in ENDED and row["status"] != 404 and time.monotonic() < until:
            time.sleep(0.05)
            row = server.run(run)
        if row["status"] == 404:
            wrong["lost"] += 1
        elif row["status"] not in ENDED:
            wrong["stuck"] += 1
        else:
            kinds = [event["event"] for event in server.events(run)]
            numbers = [event["seq"] for event in server.events(run)]
            ends = [kind for kind in kinds if kind.startswith("run_")]
            wrong["lies"] += ends != [f"run_{row['status']}"] or numbers != sorted(set(numbers))
            for item in [item for items in row["outputs"].values() for item in items if item.get("digest")]:
                wrong["corrupt"] += server.get(f"/v1/files/{item['digest']}").status_code != 200
            if number is not None and row["status"] == "finished":
                wrong["lost"] += widths[64 + number] == 0 and not saved_since(server, 64 + number)
    wrong["doubled"] += sum(count > 1 for count in widths.values())
    return wrong


def saved_since(server: Server, width: int) -> bool:
    """Whether a picture of this width has been saved by now."""
    return any(width_of(path) == width for path in (server.folder / "data" / "output").glob("[!.]*.png"))


def width_of(path: Path) -> int | None:
    """The width of a picture, None when it is not whole."""
    try:
        with pillow.open(path) as picture:
            picture.load()
            return picture.width
    except (OSError, SyntaxError):
        return None


# At every system call


def steps(folder: str, bug: str) -> None:
    """Submit, claim, save, commit and cancel, saying after each what is promised now."""
    from graphengine.models.assets import write_numbered
    from graphengine.queue import Ending, RunStore, Submission

    if bug:
        put_in(bug)
    place: dict[str, Any] = {}
    exec(IN_PLACE, place)
    save = place["in_place"] if bug == "no_rename" else write_numbered
    store = RunStore(f"sqlite:///{folder}/runs.db")

    def commit(step: Any) -> Any:
        with store.connection.begin():
            return step(store)

    def say(**promise: str) -> None:
        os.write(1, json.dumps(promise).encode() + b"\n")

    commit(lambda s: s.recover())
    for name in ("a", "b", "c"):
        new = Submission(name, "me", "w", "{}", "d")
        if bug == "ack_first":
            say(accepted=name)
        commit(lambda s, new=new: s.accept([new]))
        say(accepted=name)
    for name in ("a", "b"):
        row = commit(lambda s, name=name: s.claim([name]))[0]
        path = save(Path(folder) / "output", name, ".png", lambda p: pillow.effect_noise((64, 64), 50).save(p))
        ending = Ending(name, row.attempt, "finished", json.dumps(path.name))
        commit(lambda s, ending=ending: s.end([ending]))
        say(ended=name)
    commit(lambda s: s.cancel("c"))
    say(ended="c")
    store.close()


def sweep(every: int = 1, bug: str = "", calls: Sequence[str] = CALLS) -> dict[str, int]:
    """Kill `steps` at its n-th call of every kind, for every n; returns counts of what went wrong.

    strace counts each kind of call by itself, so each is swept by itself.  With a bug it ends as soon as that is found.
    """
    wrong = Counter({"lost": 0, "corrupt": 0, "stuck": 0, "points": 0})
    for call in calls:
        number = 0
        while killed_at(call, number := number + every, bug, wrong):
            wrong["points"] += 1
            if bug and wrong["lost"] + wrong["corrupt"] + wrong["stuck"]:
                return wrong
    return wrong


def killed_at(call: str, number: int, bug: str, wrong: Counter[str]) -> bool:
    """Run `steps` until its n-th call of this kind and look at what is left; False when there are not so many."""
    with tempfile.TemporaryDirectory() as folder:
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
        command = ["strace", "-f", "-qq", "-o", "/dev/null", *inject, sys.executable, "-B", str(HERE / "kill.py")]
        done = subprocess.run([*command, "steps", folder, bug], capture_output=True, text=True, timeout=120)
        look(Path(folder), [json.loads(line) for line in done.stdout.splitlines()], wrong)
    return done.returncode != 0


def look(folder: Path, promises: list[dict[str, str]], wrong: Counter[str]) -> None:
    """Open the store as the next server would, and compare it with what had been promised."""
    from graphengine.queue import RunStore

    if not (folder / "runs.db").exists():
        wrong["lost"] += len(promises)
        return
    store = RunStore(f"sqlite:///{folder}/runs.db")
    with store.connection.begin():
        store.recover()
        rows = {row.id: row for row in store.connection.exec_driver_sql("SELECT id, status, outputs FROM runs")}
    store.close()
    for promise in promises:
        name = promise.get("accepted") or promise["ended"]
        if name not in rows or ("ended" in promise and rows[name].status not in ENDED):
            wrong["lost"] += 1
    for row in rows.values():
        wrong["stuck"] += row.status == "running"
        if row.status == "finished":
            wrong["corrupt"] += width_of(folder / "output" / json.loads(row.outputs)) is None
    for path in (folder / "output").glob("[!.]*.png"):
        wrong["corrupt"] += width_of(path) is None


def main(mode: str, *arguments: str) -> None:
    if mode == "serve":
        from graphengine.cli import main as command_line

        put_in(arguments[0])
        command_line(["serve", *arguments[1:]])
    elif mode == "steps":
        steps(*arguments)
    else:
        count = int(arguments[0]) if arguments else (1000 if mode == "random" else 1)
        bug = arguments[1] if len(arguments) > 1 else ""
        wrong = (at_random if mode == "random" else sweep)(count, bug)
        print(json.dumps(wrong))
        bad = sum(value for key, value in wrong.items() if key not in ("kills", "runs", "points"))
        sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
