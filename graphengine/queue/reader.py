"""Reading the run store: connections of its own, which never write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from graphengine.queue.schema import connect, runs

LIGHT = [c for c in runs.c if c.name not in ("body", "events", "outputs", "problems", "webhook")]
"""The columns of a listing."""
ONE = sa.select(runs).where(runs.c.id == sa.bindparam("run"))


class RunReader:
    """The reading side: connections of its own, which never write, for any thread."""

    def __init__(self, url: str):
        self.engine = connect(url, reading=True)

    def close(self) -> None:
        self.engine.dispose()

    def run(self, id: str) -> dict[str, Any] | None:
        """Everything about a run, or None."""
        with self.engine.connect() as connection:
            row = connection.execute(ONE, {"run": id}).first()
        return None if row is None else dict(row._mapping)

    def page(self, status: str | None, before: int | None, limit: int) -> list[dict[str, Any]]:
        """Runs from the newest on: `before` is the number where the last page ended."""
        query = sa.select(*LIGHT).order_by(runs.c.number.desc()).limit(limit)
        if status:
            query = query.where(runs.c.status == status)
        if before is not None:
            query = query.where(runs.c.number < before)
        with self.engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def counts(self) -> dict[str, int]:
        """How many runs there are in each status."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(runs.c.status, sa.func.count()).group_by(runs.c.status))
            return {row.status: row[1] for row in rows}


def document(row: dict[str, Any]) -> dict[str, Any]:
    """A run as people see it: JSON columns parsed, bookkeeping left out."""
    shown = ("id", "status", "workflow", "client", "priority", "attempt", "retry_of", "created", "started", "ended")
    made: dict[str, Any] = {key: row[key] for key in shown}
    made["number"] = row["number"]
    if "outputs" in row:
        made["outputs"] = json.loads(row["outputs"] or "{}")
        made["problems"] = json.loads(row["problems"] or "[]")
        made["notes"] = list(_notes(row["events"] or ""))
        submitted = json.loads(row["body"])
        made["inputs"] = submitted.get("inputs", {})
    return made


def _notes(events: str) -> Iterator[dict[str, str]]:
    """What nodes noted in a run that has ended: what was done otherwise than asked."""
    for line in events.split("\n"):
        if '"node_note"' in line and (told := json.loads(line))["event"] == "node_note":
            yield {"node": told["node"], "note": told["note"]}
