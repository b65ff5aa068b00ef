"""The run store, on SQLite and on a real PostgreSQL."""

import os
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from serving import Server, trivial
from sqlalchemy import exc

from graphengine.queue import MIGRATIONS, Ending, RunReader, RunStore, StoreError, Submission, migrate

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.fixture(scope="session")
def postgres():
    """The address of a PostgreSQL server of our own; skipped where it is not installed."""
    if not POSTGRES:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder, programs = Path(tempfile.mkdtemp(prefix="graphengine-postgres-")), POSTGRES[-1].parent
    if os.geteuid() == 0:  # it refuses to run as root
        shutil.chown(folder, "postgres")
    run = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []

    def call(*command: object) -> None:
        subprocess.run([*run, *map(str, command)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    call(programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "tester")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    control = [programs / "pg_ctl", "-D", folder / "data", "-w"]
    call(*control, "-o", options, "-l", folder / "log", "start")
    yield f"postgresql+psycopg://tester@/postgres?host={folder}"
    call(*control, "-m", "immediate", "stop")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runs.db'}"
    address = request.getfixturevalue("postgres")
    engine = sa.create_engine(address)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS runs, facts"))
    engine.dispose()
    return address


class Books:
    """A store whose every step is a transaction of its own, for one run."""

    def __init__(self, url: str):
        self.url, self.store = url, RunStore(url)

    def __getattr__(self, name):
        def step(*arguments, **options):
            with self.store.connection.begin():
                if name in ("accept", "claim", "end"):
                    return getattr(self.store, name)(list(arguments))[0]
                return getattr(self.store, name)(*arguments, **options)

        return step

    def again(self) -> "Books":
        """The store as the next server finds it."""
        self.store.close()
        made = Books(self.url)
        made.recover()
        return made

    def read(self, run: str) -> dict:
        reader = RunReader(self.url)
        row = reader.run(run)
        reader.close()
        assert row
        return row


@pytest.fixture
def books(url):
    made = Books(url)
    yield made
    made.store.close()


def new(id: str, client: str = "ann", **more) -> Submission:
    return Submission(id, client, "workflow", '{"workflow": {}}', "digest", **more)


def order(books) -> list[str]:
    return [entry.id for entry, _ in sorted(books.waiting(), key=lambda pair: pair[0].order)]


def test_a_run_goes_from_queued_to_running_to_its_end(books):
    books.accept(new("a"))
    assert books.read("a")["status"] == "queued"
    claimed = books.claim("a")
    assert (claimed.attempt, claimed.body) == (1, '{"workflow": {}}')
    assert books.end(Ending("a", 1, "finished", "{}", "[]", "events"))
    row = books.read("a")
    assert (row["status"], row["events"]) == ("finished", "events")
    assert row["created"] <= row["started"] <= row["ended"]


def test_a_run_is_claimed_once(books):
    books.accept(new("a"))
    assert books.claim("a")
    assert books.claim("a") is None


def test_a_run_ends_once(books):
    books.accept(new("a"))
    books.claim("a")
    assert books.end(Ending("a", 1, "finished"))
    assert not books.end(Ending("a", 1, "failed"))
    assert books.read("a")["status"] == "finished"


def test_a_stale_attempt_cannot_end_a_run_that_another_has_taken_over(books):
    books.accept(new("a"))
    books.claim("a")
    assert books.give_back("a", 1, alone=True, loss=True)
    assert books.claim("a").attempt == 2
    assert not books.end(Ending("a", 1, "failed"))
    assert books.end(Ending("a", 2, "finished"))


def test_an_older_server_cannot_end_what_a_newer_one_has_taken_over(books):
    books.accept(new("a"))
    books.claim("a")
    newer = Books(books.url)
    newer.recover()
    newer.claim("a")
    assert not books.end(Ending("a", 1, "failed"))
    assert newer.end(Ending("a", 2, "finished"))
    newer.store.close()


def test_the_same_key_of_one_client_is_the_same_run(books):
    first = books.accept(new("a", idempotency_key="k"))
    second = books.accept(new("b", idempotency_key="k"))
    other = books.accept(new("c", client="ben", idempotency_key="k"))
    assert (first.new, second.new, second.place.id, other.new) == (True, False, "a", True)


def test_a_key_is_remembered_over_a_restart(books):
    books.accept(new("a", idempotency_key="k"))
    assert not books.again().accept(new("b", idempotency_key="k")).new


def test_what_ran_when_the_server_died_is_queued_again_and_charged_nothing(books):
    books.accept(new("a"))
    books.claim("a")
    after = books.again()
    row = after.read("a")
    assert (row["status"], row["losses"], row["attempt"]) == ("queued", 0, 1)
    assert order(after) == ["a"]


def test_what_was_being_cancelled_when_the_server_died_is_cancelled(books):
    books.accept(new("a"))
    books.claim("a")
    assert books.cancel("a") == "running"
    assert books.again().read("a")["status"] == "cancelled"


def test_a_waiting_run_is_cancelled_at_once_and_an_ended_one_stays(books):
    books.accept(new("a"))
    assert books.cancel("a") == "cancelled"
    assert books.claim("a") is None
    assert books.cancel("a") == "cancelled"
    assert books.cancel("nope") is None


def test_losses_are_counted_and_lone_runs_marked(books):
    books.accept(new("a"))
    books.claim("a")
    given = books.give_back("a", 1, alone=True, loss=True)
    assert (given.alone, books.read("a")["losses"]) == (True, 1)
    assert books.give_back("a", 1, alone=False, loss=True) is None


def test_a_run_cancelled_while_its_worker_dies_is_not_queued_again(books):
    books.accept(new("a"))
    books.claim("a")
    assert books.cancel("a") == "running"
    assert books.give_back("a", 1, alone=True, loss=False).status == "cancelled"
    assert books.claim("a") is None
    assert books.read("a")["ended"] is not None


def test_greater_priorities_go_first_and_clients_take_turns(books):
    for i in range(3):
        books.accept(new(f"ann{i}"))
    books.accept(new("ben0", client="ben"))
    books.accept(new("now", client="ann", priority=5))
    assert order(books) == ["now", "ann0", "ben0", "ann1", "ann2"]


def test_who_comes_late_does_not_wait_for_what_was_before(books):
    for i in range(3):
        books.accept(new(f"ann{i}"))
    books.claim("ann0")
    books.claim("ann1")
    books.accept(new("ben0", client="ben"))
    assert order(books)[:2] in (["ben0", "ann2"], ["ann2", "ben0"])
    assert books.read("ben0")["turn"] == 2


def test_a_waiting_run_can_be_moved_and_a_running_one_not(books):
    books.accept(new("a"))
    books.accept(new("b"))
    assert books.prioritise("b", 3).priority == 3
    assert order(books) == ["b", "a"]
    books.claim("b")
    assert books.prioritise("b", 4) is None


def test_the_oldest_ended_runs_are_forgotten_and_waiting_ones_never(books):
    books.accept(new("waits"))
    for i in range(5):
        books.accept(new(f"r{i}"))
        books.claim(f"r{i}")
        books.end(Ending(f"r{i}", 1, "finished"))
    assert books.forget(2) == 3
    reader = RunReader(books.url)
    assert [row["id"] for row in reader.page(None, None, 10)] == ["r4", "r3", "waits"]
    reader.close()


def test_a_webhook_that_was_not_delivered_is_remembered(books):
    books.accept(new("a", webhook="http://there/"))
    books.claim("a")
    books.end(Ending("a", 1, "finished"))
    assert books.again().untold() == [("a", "http://there/")]
    after = books.again()
    after.told("a")
    assert after.untold() == []


def test_a_pause_is_remembered(books):
    books.pause(True)
    assert books.again().paused()


def test_numbers_of_runs_only_grow(books):
    books.accept(new("a"))
    books.cancel("a")
    books.forget(0)
    assert books.accept(new("b")).place.order[2] > 1


def test_a_status_that_nobody_knows_cannot_be_written(books):
    books.accept(new("a"))
    books.claim("a")
    with pytest.raises(exc.IntegrityError):
        books.end(Ending("a", 1, "odd"))


def test_a_store_of_a_newer_version_is_refused(books):
    books._set_fact("version", "99")
    with pytest.raises(StoreError, match="version 99"):
        RunStore(books.url)


def test_a_migration_that_fails_leaves_the_store_as_it_was(books):
    books.accept(new("a"))

    def half(connection):
        connection.execute(sa.text("ALTER TABLE runs ADD COLUMN odd INTEGER"))
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError), books.store.connection.begin():
        migrate(books.store.connection, [*MIGRATIONS, half])
    assert "odd" not in {column["name"] for column in sa.inspect(books.store.engine).get_columns("runs")}
    assert books.again().read("a")["status"] == "queued"


def test_what_is_no_address_is_told():
    with pytest.raises(StoreError, match="no address"):
        RunStore("nonsense")


def test_a_server_over_postgresql_loses_nothing_when_it_is_killed(postgres, tmp_path):
    engine = sa.create_engine(postgres)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS runs, facts"))
    engine.dispose()
    server = Server(tmp_path, "--store", postgres)
    server.start()
    runs = [server.submit(trivial(f"{i}")) for i in range(8)]
    server.kill()
    with server:
        assert [server.ended(run)["status"] for run in runs] == ["finished"] * 8


@pytest.mark.parametrize("content", [b"SQLite format 3\x00" + b"x" * 4096, b"no database at all" * 100])
def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path, content):
    (tmp_path / "runs.db").write_bytes(content)
    with pytest.raises(StoreError, match="cannot be opened"):
        RunStore(f"sqlite:///{tmp_path / 'runs.db'}")
    assert (tmp_path / "runs.db").read_bytes() == content


def test_many_are_accepted_claimed_and_ended_with_one_statement_each(books):
    store = books.store
    names = ["a", "b", "c"]
    with store.connection.begin():
        made = store.accept([new(name) for name in names])
        rows = store.claim(["c", "a", "unknown"])
        ended = store.end([Ending(row.id, row.attempt, "finished") for row in rows[:2]])
    assert [accepted.place.id for accepted in made] == names
    assert [row and row.id for row in rows] == ["c", "a", None]
    assert ended == [True, True]


def test_a_run_can_be_accepted_and_claimed_at_once(books):
    made = books.accept(new("a", claimed=True))
    assert made.status == "running"
    assert books.claim("a") is None
    assert books.end(Ending("a", 1, "finished"))


def test_a_run_accepted_and_claimed_at_once_waits_again_after_a_restart(books):
    books.accept(new("a", claimed=True))
    later = books.again()
    assert later.claim("a").attempt == 2


def test_one_key_twice_in_one_transaction_is_one_run(books):
    with books.store.connection.begin():
        first, second = books.store.accept([new("a", idempotency_key="k"), new("b", idempotency_key="k")])
    assert (first.new, second.new, second.place.id) == (True, False, "a")


def test_an_end_that_is_not_held_among_many_ends_none_of_them(books):
    books.accept(new("a"))
    books.accept(new("b"))
    books.claim("a")
    with pytest.raises(StoreError), books.store.connection.begin():
        books.store.end([Ending("a", 1, "finished"), Ending("b", 1, "finished")])
    assert books.end(Ending("a", 1, "failed"))
    assert not books.end(Ending("b", 1, "finished"))


def test_a_reader_of_sqlite_cannot_write(tmp_path):
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    RunStore(url).close()
    reader = RunReader(url)
    with pytest.raises(exc.OperationalError), reader.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM runs"))
    reader.close()


def test_every_commit_of_sqlite_is_on_disk(tmp_path):
    store = RunStore(f"sqlite:///{tmp_path / 'runs.db'}")
    settings = {
        name: store.connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "journal_mode")
    }
    store.connection.rollback()
    store.close()
    assert settings == {"synchronous": 2, "journal_mode": "wal"}
    assert sqlite3.connect(tmp_path / "runs.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)
