"""What the server tells of runs while they go on: events, the feed, previews, webhooks."""

import asyncio
import hmac
import http.server
import json
import threading

import aiohttp
import pytest
from serving import Server, trivial


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def painted(server):
    """A run of text_to_image that has finished."""
    return server.ended(server.submit("text_to_image", inputs={"steps": 12}))


# Events


def test_events_of_a_run_are_told_in_order_and_once(server, painted):
    events = server.events(painted["id"])
    assert [event["event"] for event in events][:2] == ["queued", "planned"]
    assert [event["event"] for event in events].count("run_finished") == 1
    assert events[-1]["event"] == "run_finished"
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers))


def test_a_sampler_reports_steps_and_shows_previews_to_who_looks(server):
    run = server.submit("text_to_image", inputs={"steps": 60, "seed": 5})
    progress = [
        event for event in server.events(run) if event["event"] == "node_progress" and event["node"] == "sample"
    ]
    assert progress[-1]["done"] == progress[-1]["total"]
    assert any((event["preview"] or "").startswith("data:image/jpeg;base64,") for event in progress)


def test_events_are_replayed_after_any_number(server, painted):
    events = server.events(painted["id"])
    again = server.events(painted["id"], headers={"Last-Event-ID": str(events[3]["seq"])})
    assert again == events[4:]
    assert server.events(painted["id"], params={"after": events[3]["seq"]}) == events[4:]


def test_a_wrong_last_event_is_told(server, painted):
    assert server.get(f"/v1/runs/{painted['id']}/events", headers={"Last-Event-ID": "x"}).status_code == 400


async def heard(server, until, after=None, run=None):
    """Events of the feed up to the end of a run."""
    query = {key: str(value) for key, value in {"after": after, "run": run}.items() if value is not None}
    events = []
    async with aiohttp.ClientSession(server.url) as session, session.ws_connect("/v1/events", params=query) as feed:
        started = until() if callable(until) else until
        async for message in feed:
            events += [json.loads(line) for line in message.data.split("\n")]
            if any(e["run"] == started and e["event"].startswith("run_") for e in events if "run" in e):
                return events
    return events


def test_the_feed_tells_everything_and_goes_on_after_a_position(server):
    events = asyncio.run(heard(server, lambda: server.submit(trivial("feed"))))
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["queued", "planned"]
    assert "node_finished" in kinds
    again = asyncio.run(heard(server, events[-1]["run"], after=events[2]["position"]))
    assert again[: len(events) - 3] == events[3:]


def test_the_feed_says_when_what_was_asked_for_is_gone(server):
    run = server.submit(trivial("gap"))
    server.ended(run)
    assert asyncio.run(heard(server, run, after=0))[0]["event"] == "gap"


def test_the_feed_of_one_run_tells_of_no_other(server):
    run = server.submit(trivial("mine"))
    server.submit(trivial("other"))
    events = asyncio.run(heard(server, run, after=0, run=run))
    assert {event["run"] for event in events if "run" in event} == {run}


def test_a_reader_that_stalls_slows_nobody_and_loses_no_end(server):
    async def watch():
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(server.url, timeout=timeout) as session:
            stalled = [await asyncio.open_connection("127.0.0.1", int(server.url[-5:]), limit=64) for _ in range(5)]
            for _, writer in stalled:
                head = "GET /v1/events HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                writer.write(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n\r\n".encode())
            async with session.ws_connect("/v1/events") as feed:
                runs = set()
                for i in range(60):
                    async with session.post("/v1/runs", json={"workflow": trivial(f"s{i}" * 300)}) as answer:
                        runs.add((await answer.json())["id"])
                ended = []
                async for message in feed:
                    events = map(json.loads, message.data.split("\n"))
                    ended += [event["run"] for event in events if event["event"] == "run_finished"]
                    if runs <= set(ended):
                        break
            for _, writer in stalled:
                writer.close()
            return runs, ended

    runs, ended = asyncio.run(watch())
    assert sorted(run for run in ended if run in runs) == sorted(runs)


def test_the_feed_is_a_websocket(server):
    assert server.get("/v1/events").status_code == 400


# Webhooks


@pytest.fixture
def receiver():
    """An address that takes posts, the first of them badly."""
    taken = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.headers["X-GraphEngine-Signature"], body))
            self.send_response(500 if len(taken) == 1 else 204)
            self.end_headers()

        def log_message(self, format, *args):
            return

    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{service.server_port}", taken
    service.shutdown()


def test_a_webhook_is_signed_and_tried_again(tmp_path, receiver):
    host, taken = receiver
    with Server(tmp_path, webhook_secret="s" * 20, webhook_hosts=host) as server:
        run = server.submit(trivial("hook"), webhook=f"http://{host}/done")
        server.when(lambda: len(taken) == 2)
    signature, body = taken[1]
    moment, made = (part.split("=")[1] for part in signature.split(","))
    assert made == hmac.new(b"s" * 20, f"{moment}.".encode() + body, "sha256").hexdigest()
    assert json.loads(body)["id"] == run


def test_a_webhook_to_an_unnamed_host_is_refused(server):
    answer = server.post("/v1/runs", {"workflow": trivial(), "webhook": "http://169.254.169.254/"})
    assert answer.status_code == 422
