"""Processes die, hang and misbehave; the server lives, and no run is lost or done twice."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
import zoo
from serving import ENDED, Server, one, painting, trivial

HERE = Path(__file__).parent
ANIMALS = [
    name
    for name, animal in vars(zoo).items()
    if isinstance(animal, type) and issubclass(animal, zoo.Bad) and animal is not zoo.Bad
]
DEADLY = {"Exits", "Aborts", "Segfaults", "KillsItself"}
HANGING = {"Hangs", "HangsInC"}
HARMLESS = {"ProgressFlood", "PrintsMuch", "ClosesStandardOutput", "ChangesFolder", "LeaksThreads", "LeaksFiles"}
HARMLESS |= {"LeavesChildren", "ProgressNonsense"}


def with_zoo(folder: Path) -> Path:
    """The folder, with the zoo among its plugins."""
    (folder / "plugins").mkdir(parents=True)
    shutil.copy(HERE / "zoo.py", folder / "plugins" / "zoo.py")
    return folder


def slow(*seconds: float, name: str = "slow") -> dict:
    """A chain of slow nodes."""
    document = one("zoo.Slow", text=name, seconds=seconds[0])
    for i, more in enumerate(seconds[1:]):
        source = f"more{i - 1}" if i else "node"
        document["nodes"][f"more{i}"] = {
            "type": "zoo.Slow",
            "inputs": {"text": {"from": f"{source}.value"}, "seconds": more},
        }
        document["outputs"]["value"]["from"] = f"more{i}.value"
    return document


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = with_zoo(tmp_path_factory.mktemp("zoo"))
    with Server(folder, run_timeout="1.5", silence="2", losses="2", grace="0.5") as server:
        yield server


def bad(name: str) -> dict:
    document = one(f"zoo.{name}")
    if "image" in getattr(zoo, name).model_fields:
        document["nodes"]["node"]["inputs"]["image"] = {"from": "load.image"}
        document["nodes"]["load"] = {"type": "LoadImage", "inputs": {"file": "workflows/example.png"}}
    return document


def test_the_zoo_has_thirty_animals():
    assert len(ANIMALS) >= 30


@pytest.mark.parametrize("name", ANIMALS)
def test_the_server_outlives_a_plugin_that(server, name):
    before = server.process.pid
    run = server.ended(server.submit(bad(name)), 30)
    assert run["status"] == ("finished" if name in HARMLESS else "failed"), run
    if name in DEADLY:
        assert run["problems"][0]["code"] == "worker_lost"
        assert run["attempt"] == 2
    elif name in HANGING:
        assert run["problems"][0]["code"] in ("timeout", "worker_lost")
    elif run["status"] == "failed":
        assert run["problems"][0]["node"] == "node"
        assert len(run["problems"][0]["message"]) < 5_000
    assert [event["event"] for event in server.events(run["id"])][-1] == f"run_{run['status']}"
    assert server.ended(server.submit(trivial(f"after {name}")))["status"] == "finished"
    assert (server.process.pid, server.process.poll()) == (before, None)


def test_what_mutates_its_input_poisons_nothing(server):
    before = server.ended(server.submit(painting()))
    server.ended(server.submit(bad("MutatesByForce")))
    after = server.ended(server.submit(painting()))
    assert before["outputs"]["image"] == after["outputs"]["image"]


def test_a_plugin_that_takes_the_process_down_when_imported_is_left_out(tmp_path):
    (tmp_path / "plugins").mkdir(parents=True)
    (tmp_path / "plugins" / "bomb.py").write_text("import os\nos._exit(1)\n")
    (tmp_path / "plugins" / "broken.py").write_text("import nothing_of_this_name\n")
    with Server(tmp_path) as server:
        broken = server.get("/v1/nodes").json()["broken"]
        assert server.ended(server.submit(trivial()))["status"] == "finished"
    assert "took the process down" in broken["bomb"]
    assert "nothing_of_this_name" in broken["broken"]


def test_a_hanging_run_can_be_cancelled(server):
    run = server.submit(bad("HangsInC"))
    server.when(lambda: server.run(run)["status"] == "running")
    server.http.delete(f"/v1/runs/{run}")
    assert server.ended(run, 5)["status"] == "cancelled"


def test_who_was_in_the_worker_with_a_crash_finishes_uncharged(tmp_path):
    with_zoo(tmp_path)
    with Server(tmp_path, losses="2") as server:
        server.post("/v1/queue/pause")
        innocent = server.submit(slow(1.0))
        crash = server.submit(bad("Segfaults"))
        server.post("/v1/queue/resume")
        assert server.ended(crash)["problems"][0]["code"] == "worker_lost"
        assert server.ended(innocent)["status"] == "finished"


def test_who_must_run_alone_holds_nobody_up_and_can_be_cancelled(tmp_path):
    with Server(with_zoo(tmp_path), losses="2") as server:
        server.post("/v1/queue/pause")
        crash = server.submit(bad("KillsItself"))
        others = [server.submit(slow(*seconds, name=f"{i}")) for i, seconds in enumerate([(0.6,), (0.6,), (0.6, 3.0)])]
        server.post("/v1/queue/resume")
        server.when(lambda: (run := server.run(others[2]))["status"] == "queued" and run["attempt"] == 1)
        urgent = server.submit(trivial("urgent"), priority=50)
        server.http.delete(f"/v1/runs/{others[2]}")
        assert server.ended(urgent)["status"] == "finished"
        assert server.ended(crash)["problems"][0]["code"] == "worker_lost"
        assert [server.ended(run)["status"] for run in others] == ["finished", "finished", "cancelled"]


def test_a_submission_soon_after_the_clerk_died_is_taken_by_the_next(tmp_path):
    with Server(with_zoo(tmp_path)) as server:
        # whoever dies while it imports a plugin is taken to have died of it: first let the clerk be through with that
        server.ended(server.submit(one("zoo.Slow", seconds=0.0)), 20)
        os.kill(server.workers()[0], signal.SIGKILL)
        began = time.monotonic()
        while time.monotonic() - began < 1.0:
            assert server.ended(server.submit(one("zoo.Slow", seconds=0.0)), 10)["status"] == "finished"


def test_children_of_a_worker_go_with_it(server):
    child = int(server.ended(server.submit(bad("LeavesChildren")))["outputs"]["value"][0]["value"])
    server.ended(server.submit(bad("Exits")))
    server.when(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


# Kill


def saved(server) -> list[str]:
    return sorted(path.name for path in (server.folder / "data" / "output").glob("[!.]*"))


@pytest.mark.parametrize("moment", [0.0, 0.03, 0.1, 0.3])
def test_what_was_accepted_is_done_once_after_the_server_is_killed(tmp_path, moment):
    server = Server(tmp_path)
    server.start()
    runs = [server.submit(painting(seed)) for seed in range(4)]
    time.sleep(moment)
    server.kill()
    with server:
        assert [server.ended(run)["status"] for run in runs] == ["finished"] * 4
        kinds = [event["event"] for event in server.events(runs[0])]
        assert kinds.count("run_finished") == 1
        assert saved(server) == [f"painted_0000{i}.png" for i in range(1, 5)]


def test_a_run_goes_on_from_its_last_finished_node_after_its_worker_is_killed(tmp_path):
    with Server(with_zoo(tmp_path)) as server:
        run = server.submit(slow(0.2, 1.5))
        server.when(lambda: first_events(server, run))
        os.kill(server.workers()[-1], signal.SIGKILL)
        assert server.ended(run)["status"] == "finished"
        events = server.events(run)
    planned = [event for event in events if event["event"] == "planned"]
    assert planned[0]["work"] == ["node", "more0"]
    assert (planned[-1]["hits"], planned[-1]["work"]) == (["node"], ["more0"])
    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)


def first_events(server, run) -> bytes:
    """What the stream of a run holds by the time its second node reports."""
    told = b""
    with server.http.stream("GET", f"/v1/runs/{run}/events") as answer:
        for piece in answer.iter_raw():
            told += piece
            if b'"node": "more0", "done": 5' in told:
                break
    return told


def test_a_worker_that_is_stopped_is_given_up_and_its_news_do_not_count(tmp_path):
    with Server(with_zoo(tmp_path), silence="1") as server:
        run = server.submit(slow(0.5))
        server.when(lambda: server.run(run)["status"] == "running")
        worker = server.workers()[-1]
        os.kill(worker, signal.SIGSTOP)
        server.when(lambda: server.run(run)["attempt"] == 2)
        server.when(lambda: not psutil.pid_exists(worker))
        assert server.ended(run)["status"] == "finished"
        assert [event["event"] for event in server.events(run)].count("run_finished") == 1


def test_a_run_that_was_being_cancelled_when_the_server_died_is_not_taken_up(tmp_path):
    with_zoo(tmp_path)
    server = Server(tmp_path, grace="30")
    server.start()
    run = server.submit(bad("Hangs"))
    server.when(lambda: server.run(run)["status"] == "running")
    server.http.delete(f"/v1/runs/{run}")
    server.kill()
    with server:
        assert server.run(run)["status"] == "cancelled"


def test_workers_do_not_outlive_a_killed_server(tmp_path):
    server = Server(tmp_path)
    server.start()
    server.ended(server.submit(trivial()))
    workers = server.workers()
    server.kill()
    server.when(lambda: not any(map(psutil.pid_exists, workers)))


def test_sigterm_lets_what_runs_finish_and_keeps_what_waits(tmp_path):
    server = Server(with_zoo(tmp_path), capacity="1")
    server.start()
    first, second = server.submit(slow(1.0)), server.submit(slow(0.1, name="second"))
    server.when(lambda: server.run(first)["status"] == "running")
    assert server.stop() == 0
    with server:
        assert (server.run(first)["status"], server.run(first)["attempt"]) == ("finished", 1)
        assert server.ended(second)["attempt"] == 1


def test_what_does_not_finish_in_time_is_queued_again_when_the_server_stops(tmp_path):
    server = Server(with_zoo(tmp_path), drain="0.2")
    server.start()
    run = server.submit(slow(2.0))
    server.when(lambda: server.run(run)["status"] == "running")
    assert server.stop() == 0
    server.environment["drain"] = "30"
    with server:
        assert server.ended(run)["status"] == "finished"


def test_a_second_server_over_the_same_folder_does_not_start(server):
    second = Server(server.folder)
    with pytest.raises(AssertionError, match="another server uses the folder"):
        second.start()


def test_a_paused_queue_is_still_paused_after_a_restart(tmp_path):
    server = Server(tmp_path)
    server.start()
    server.post("/v1/queue/pause")
    run = server.submit(trivial())
    server.kill()
    with server:
        assert server.get("/v1/queue").json() == {"paused": True, "waiting": 1, "running": 0}
        assert server.run(run)["status"] == "queued"
        server.post("/v1/queue/resume")
        assert server.ended(run)["status"] == "finished"


def test_clients_take_turns(tmp_path):
    with Server(tmp_path, capacity="1") as server:
        server.post("/v1/queue/pause")
        many = [server.post("/v1/runs", {"workflow": trivial(f"a{i}")}, headers={"X-Client": "a"}) for i in range(6)]
        few = server.post("/v1/runs", {"workflow": trivial("b")}, headers={"X-Client": "b"}).json()["id"]
        server.post("/v1/queue/resume")
        started = [server.ended(answer.json()["id"])["started"] for answer in many]
        assert server.ended(few)["started"] < sorted(started)[2]


def test_a_full_disk_is_told_and_the_server_recovers(tmp_path):
    with Server(tmp_path) as server:
        server.ended(server.submit(trivial()))
        limit = psutil.Process(server.process.pid)
        size = (tmp_path / "data" / "runs.db-wal").stat().st_size
        limit.rlimit(psutil.RLIMIT_FSIZE, (size, -1))
        answers = [server.post("/v1/runs", {"workflow": trivial("x" * 5000)}).status_code for _ in range(20)]
        assert 507 in answers
        limit.rlimit(psutil.RLIMIT_FSIZE, (-1, -1))
        assert server.when(lambda: server.post("/v1/runs", {"workflow": trivial("y")}).status_code == 202)
        server.when(lambda: all(run["status"] in ENDED for run in server.get("/v1/runs").json()["runs"]))
        accepted = server.get("/v1/runs?limit=500").json()["runs"]
        assert len(accepted) == 2 + answers.count(202)


def test_a_damaged_store_is_told(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "runs.db").write_bytes(b"SQLite format 3\x00" + b"damaged" * 1000)
    server = Server(tmp_path)
    with pytest.raises(AssertionError, match="run store cannot be opened"):
        server.start()


def test_a_clock_that_goes_backwards_changes_no_order(tmp_path):
    """Runs are taken by number; times of day are only shown."""
    with Server(tmp_path) as server:
        runs = [server.submit(trivial(f"{i}")) for i in range(5)]
        numbers = [server.ended(run)["number"] for run in runs]
    assert numbers == sorted(numbers)
    assert json.dumps(numbers)
