"""The tables of the run store, how a store is opened, and how an older one is brought up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from graphengine.errors import GraphEngineError

ENDED = ("finished", "failed", "cancelled")
tables = sa.MetaData()
runs = sa.Table(
    "runs",
    tables,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("client", sa.String(128), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, default=0),
    sa.Column("turn", sa.BigInteger, nullable=False, default=0),
    sa.Column("workflow", sa.String(256), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.String(256)),
    sa.Column("body_digest", sa.String(64), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("losses", sa.Integer, nullable=False, default=0),
    sa.Column("alone", sa.Boolean, nullable=False, default=False),
    sa.Column("cancelling", sa.Boolean, nullable=False, default=False),
    sa.Column("epoch", sa.Integer, nullable=False, default=0),
    sa.Column("retry_of", sa.String(32)),
    sa.Column("webhook", sa.Text),
    sa.Column("told", sa.Boolean, nullable=False, default=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("ended", sa.Float),
    sa.Column("outputs", sa.Text),
    sa.Column("problems", sa.Text),
    sa.Column("events", sa.Text),
    sa.CheckConstraint("status IN ('queued', 'running', 'finished', 'failed', 'cancelled')", name="known_status"),
    sa.CheckConstraint("(ended IS NULL) = (status IN ('queued', 'running'))", name="ended_once"),
    sa.UniqueConstraint("client", "idempotency_key", name="one_run_per_key"),
    sa.Index("by_status", "status", "number"),
)
facts = sa.Table("facts", tables, sa.Column("name", sa.String(32), primary_key=True), sa.Column("value", sa.Text))


class StoreError(GraphEngineError):
    """The store cannot be used: damaged, of a newer version, or in use by another server."""


def connect(url: str, reading: bool = False) -> sa.Engine:
    """An engine for a URL; SQLite in WAL mode, every commit on disk before it returns."""
    try:
        made = sa.make_url(url)
        if made.get_backend_name() != "sqlite":
            return sa.create_engine(made, pool_pre_ping=True)
    except (exc.ArgumentError, exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise StoreError(f"{url!r} is no address of a run store: {error}.") from error
    if made.database:
        Path(made.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(made, connect_args={"check_same_thread": False, "timeout": 30})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so
        for pragma in _READING if reading else _WRITING:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


_WRITING = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "journal_size_limit=67108864")
_READING = ("query_only=1", "wal_autocheckpoint=0")  # the writer checkpoints; two that do can lose commits


def _first(connection: sa.Connection) -> None:
    tables.create_all(connection)


MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (_first,)
"""Each brings the tables from one version to the next; a store's version is how many it has seen."""


def migrate(connection: sa.Connection, steps: Iterable[Callable[[sa.Connection], None]] = MIGRATIONS) -> None:
    """Bring the tables to this version within the transaction: all of it, or nothing.

    Raises:
        StoreError: the store is of a newer version.
    """
    known = list(steps)
    there = sa.inspect(connection).has_table("facts")
    version = 0
    if there:
        found = connection.execute(sa.select(facts.c.value).where(facts.c.name == "version")).scalar()
        version = int(found or 0)
    if version > len(known):
        raise StoreError(f"the run store is of version {version}; this program knows {len(known)}. Update the program.")
    for step in known[version:]:
        step(connection)
    if version < len(known):
        connection.execute(sa.delete(facts).where(facts.c.name == "version"))
        connection.execute(sa.insert(facts).values(name="version", value=str(len(known))))
