"""The run store: which runs there are, what became of them, and who may say so.  SQLite by default, PostgreSQL by URL.

One connection does all the writing, and one thread at a time uses it.  Whatever changes a run is one statement that
names the state it expects (`WHERE status = 'running' AND attempt = 3`) and whose count of rows says whether it held:
a worker that was given up cannot end a run that somebody else has taken over.  A run is accepted when the transaction
that inserted it has been committed, and not before.

    queued -> running -> finished | failed | cancelled        running -> queued   (its worker or the server was lost)

Glossary
    number    the order in which runs were accepted; also the cursor of a listing
    attempt   how often a run was given to a worker: the token that fences off stale ones, never used twice
    loss      a worker died while this run was the only one in it; after a few the run is parked as failed
    alone     the run was there when a worker died, so it is tried again by itself
    turn      the start tag of fair queueing: the k-th waiting run of every client comes before anybody's k+1st
    epoch     how often the store was opened; leases of an older epoch are void
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from graphengine.queue.entry import Accepted, Ending, Submission, Waiting, waiting
from graphengine.queue.schema import ENDED, StoreError, connect, facts, migrate, runs

Row = Any
"""A row of a result: its columns are attributes."""


class RunStore:
    """The writing side.  Every method is one step of a transaction: call them between `begin` and `commit`."""

    def __init__(self, url: str):
        """Open the store, bring its tables to this version, and begin a new epoch.

        Raises:
            StoreError: it is damaged, or newer than this program.
        """
        self.engine = connect(url)
        try:
            self.connection = self.engine.connect()
            with self.connection.begin():
                migrate(self.connection)
                self.epoch = int(self._fact("epoch") or 0) + 1
                self._set_fact("epoch", str(self.epoch))
                self._number = self.connection.execute(sa.select(sa.func.max(runs.c.number))).scalar() or 0
        except (exc.DatabaseError, sqlite3.DatabaseError) as error:
            raise StoreError(f"the run store cannot be opened: {getattr(error, 'orig', error)}.") from error
        self._turns: dict[str, int] = {}
        self._turn = 0

    def close(self) -> None:
        self.connection.close()
        self.engine.dispose()

    # Accept

    def accept(self, news: Sequence[Submission]) -> list[Accepted]:
        """Insert runs; for a submission whose idempotency key is known, find the run that has it."""
        told: list[Accepted] = []
        fresh: list[dict[str, Any]] = []
        for new in news:
            if new.idempotency_key is not None:
                self._insert(fresh)  # the same key may have come twice
                same = {"who": new.client, "key": new.idempotency_key}
                found = self.connection.execute(_BY_KEY, same).first()
                if found:
                    told.append(Accepted(waiting(found), found.client, found.status, found.body_digest, False))
                    continue
            turn = self._turns[new.client] = max(self._turns.get(new.client, 0) + 1, self._turn)
            self._number += 1
            now = time.time()
            if new.claimed:
                self._passed(turn)
            fresh.append(
                {
                    "number": self._number,
                    "id": new.id,
                    "client": new.client,
                    "workflow": new.workflow,
                    "body": new.body,
                    "body_digest": new.body_digest,
                    "priority": new.priority,
                    "idempotency_key": new.idempotency_key,
                    "retry_of": new.retry_of,
                    "webhook": new.webhook,
                    "told": new.webhook is None,
                    "status": "running" if new.claimed else "queued",
                    "attempt": int(new.claimed),
                    "epoch": self.epoch if new.claimed else 0,
                    "started": now if new.claimed else None,
                    "turn": turn,
                    "created": now,
                }
            )
            place = Waiting((-new.priority, turn, self._number), new.id, False, new.workflow)
            told.append(Accepted(place, new.client, fresh[-1]["status"], new.body_digest, True))
        self._insert(fresh)
        return told

    def _insert(self, fresh: list[dict[str, Any]]) -> None:
        if fresh:
            self.connection.execute(_ACCEPT, fresh)
            fresh.clear()

    def waiting(self) -> list[tuple[Waiting, str]]:
        """Every queued run with its client: what the queue in memory is made of when the server starts."""
        rows = self.connection.execute(sa.select(*_WAITING).where(runs.c.status == "queued")).all()
        for row in rows:
            self._turns[row.client] = max(self._turns.get(row.client, 0), row.turn)
        return [(waiting(row), row.client) for row in rows]

    def _passed(self, turn: int) -> None:
        """A run of this turn was taken: clients that come now start from here."""
        self._turn = max(self._turn, turn)
        if len(self._turns) > 1000:
            self._turns = {client: own for client, own in self._turns.items() if own > self._turn}

    # Claim and end

    def claim(self, ids: Sequence[str]) -> list[Row | None]:
        """Take queued runs: for each its attempt and body, or None when it is not queued any more."""
        values = {"ids": ids, "mine": self.epoch, "now": time.time()}
        rows = {row.id: row for row in self.connection.execute(_CLAIM, values)}
        for row in rows.values():
            self._passed(row.turn)
        return [rows.get(id) for id in ids]

    def end(self, endings: Sequence[Ending]) -> list[bool]:
        """End running runs.  False for one that this attempt does not hold: another one does, or it has ended.

        Raises:
            StoreError: of several one is not held, and it is not known which; roll back, and end each by itself.
        """
        now = time.time()
        values = [
            {
                "run": ending.id,
                "held": ending.attempt,
                "mine": self.epoch,
                "became": ending.status,
                "now": now,
                "made": ending.outputs,
                "faults": ending.problems,
                "log": ending.events,
            }
            for ending in endings
        ]
        ended = self.connection.execute(_END, values).rowcount
        if len(values) > 1 and ended != len(values):
            raise StoreError("not all of these runs are held")
        return [ended > 0] * len(values)

    def give_back(self, id: str, attempt: int, *, alone: bool, loss: bool) -> Row | None:
        """Put a running run back into the queue, because its worker is gone or the server stops.

        One that was to be cancelled meanwhile is cancelled by this instead; the row's status says which.
        """
        held = [runs.c.id == id, runs.c.status == "running", runs.c.attempt == attempt, runs.c.epoch == self.epoch]
        change = {
            "status": sa.case((runs.c.cancelling, "cancelled"), else_="queued"),
            "ended": sa.case((runs.c.cancelling, time.time()), else_=None),
            "alone": sa.or_(runs.c.alone, sa.literal(alone)),
            "losses": runs.c.losses + int(loss),
        }
        given = sa.update(runs).where(*held).values(change).returning(*_WAITING, runs.c.status)
        return self.connection.execute(given).first()

    def cancel(self, id: str) -> str | None:
        """Cancel a run: one that waits ends here and now, one that runs is marked.  Its status, or None: unknown."""
        waits = sa.and_(runs.c.id == id, runs.c.status == "queued")
        if self.connection.execute(sa.update(runs).where(waits).values(status="cancelled", ended=time.time())).rowcount:
            return "cancelled"
        works = sa.and_(runs.c.id == id, runs.c.status == "running")
        if self.connection.execute(sa.update(runs).where(works).values(cancelling=True)).rowcount:
            return "running"
        return self.connection.execute(sa.select(runs.c.status).where(runs.c.id == id)).scalar()

    def prioritise(self, id: str, priority: int) -> Row | None:
        """Change the priority of a waiting run; None when it does not wait."""
        waits = sa.and_(runs.c.id == id, runs.c.status == "queued")
        return self.connection.execute(
            sa.update(runs).where(waits).values(priority=priority).returning(*_WAITING)
        ).first()

    def recover(self) -> None:
        """Leases of older epochs are void: cancelled if that was asked for, else queued again and charged nothing."""
        old = sa.and_(runs.c.status == "running", runs.c.epoch != self.epoch)
        cancelled = {"status": "cancelled", "ended": time.time()}
        self.connection.execute(sa.update(runs).where(old, runs.c.cancelling).values(cancelled))
        self.connection.execute(sa.update(runs).where(old).values(status="queued"))

    # Webhooks, history, facts

    def untold(self) -> list[tuple[str, str]]:
        """Ended runs whose webhook has not been delivered: id and address."""
        rows = self.connection.execute(
            sa.select(runs.c.id, runs.c.webhook).where(sa.not_(runs.c.told), runs.c.status.in_(ENDED))
        )
        return [(row.id, row.webhook) for row in rows]

    def told(self, id: str) -> None:
        self.connection.execute(sa.update(runs).where(runs.c.id == id).values(told=True))

    def forget(self, keep: int) -> int:
        """Drop the oldest ended runs beyond `keep`; returns how many."""
        ended = sa.and_(runs.c.status.in_(ENDED), runs.c.told)
        newest = sa.select(runs.c.number).where(ended).order_by(runs.c.number.desc()).offset(keep).limit(1)
        limit = self.connection.execute(newest).scalar()
        if limit is None:
            return 0
        return self.connection.execute(sa.delete(runs).where(ended, runs.c.number <= limit)).rowcount

    def paused(self) -> bool:
        return self._fact("paused") == "yes"

    def pause(self, yes: bool) -> None:
        self._set_fact("paused", "yes" if yes else "no")

    def _fact(self, name: str) -> str | None:
        return self.connection.execute(sa.select(facts.c.value).where(facts.c.name == name)).scalar()

    def _set_fact(self, name: str, value: str) -> None:
        if not self.connection.execute(sa.update(facts).where(facts.c.name == name).values(value=value)).rowcount:
            self.connection.execute(sa.insert(facts).values(name=name, value=value))


_WAITING = (runs.c.number, runs.c.id, runs.c.client, runs.c.priority, runs.c.turn, runs.c.alone, runs.c.workflow)
_BY_KEY = sa.select(*_WAITING, runs.c.body_digest, runs.c.status).where(
    runs.c.client == sa.bindparam("who"), runs.c.idempotency_key == sa.bindparam("key")
)
_ACCEPT = sa.insert(runs)
_CLAIM = (
    sa.update(runs)
    .where(runs.c.id.in_(sa.bindparam("ids", expanding=True)), runs.c.status == "queued")
    .values(status="running", attempt=runs.c.attempt + 1, epoch=sa.bindparam("mine"), started=sa.bindparam("now"))
    .returning(runs.c.id, runs.c.attempt, runs.c.losses, runs.c.body, runs.c.turn)
)
_END = (
    sa.update(runs)
    .where(
        runs.c.id == sa.bindparam("run"),
        runs.c.status == "running",
        runs.c.attempt == sa.bindparam("held"),
        runs.c.epoch == sa.bindparam("mine"),
    )
    .values(
        status=sa.bindparam("became"),
        ended=sa.bindparam("now"),
        outputs=sa.bindparam("made"),
        problems=sa.bindparam("faults"),
        events=sa.bindparam("log"),
    )
)
