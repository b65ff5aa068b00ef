"""Who comes in, and how much of anything is taken."""

import gzip
import json
import os
import socket
import subprocess
import time

import httpx2
import pytest
from serving import Server, trivial

TOKENS = {"ann": "a" * 20, "ben": "b" * 20}
RUN = json.dumps({"workflow": trivial()})


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    limits = {
        "body_limit": "20000",
        "upload_limit": "50000",
        "node_limit": "20",
        "queue_limit": "8",
        "client_limit": "3",
        "header_timeout": "1",
        "body_timeout": "1",
    }
    with Server(tmp_path_factory.mktemp("gate"), **limits) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that wants tokens."""
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "tokens"
    file.write_text("# who may come in\n" + "\n".join(f"{name}:{token}" for name, token in TOKENS.items()))
    with Server(folder, "--token-file", str(file)) as server:
        yield server


def port(server) -> int:
    return int(server.url.rsplit(":", 1)[1])


# Host and Origin


@pytest.mark.parametrize(
    "host", ["attacker.example", "127.0.0.1.attacker.example", "127.1", "0.0.0.0", "", "[::2]", "a b"]
)
def test_another_name_for_the_server_is_refused(server, host):
    assert server.get("/v1/runs", headers={"Host": host}).status_code in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_the_names_of_this_machine_are_taken(server, host):
    assert server.get("/v1/runs", headers={"Host": f"{host}:{port(server)}"}).status_code == 200


@pytest.mark.parametrize("origin", ["null", "https://attacker.example", "http://127.0.0.1", "file://", ""])
@pytest.mark.parametrize("path", ["/v1/runs", "/v1/queue/pause", "/v1/files"])
def test_requests_from_other_sites_are_refused(server, origin, path):
    headers = {"Origin": origin, "Content-Type": "application/json"}
    assert server.http.post(path, content=RUN, headers=headers).status_code == 403


def test_requests_of_our_own_page_are_taken(server):
    assert server.get("/v1/runs", headers={"Origin": server.url}).status_code == 200


def test_a_cross_site_request_without_an_origin_is_refused(server):
    assert server.get("/v1/runs", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_a_websocket_from_another_site_is_refused(server):
    headers = {
        "Origin": "https://attacker.example",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert server.get("/v1/events", headers=headers).status_code == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_a_form_of_another_site_could_send_is_refused(server, kind):
    assert server.http.post("/v1/runs", content=RUN, headers={"Content-Type": kind}).status_code == 415


def test_a_further_host_and_origin_can_be_allowed(tmp_path):
    options = ["--allow-host", "graph.example", "--allow-origin", "https://page.example"]
    with Server(tmp_path, *options) as server:
        headers = {"Host": "graph.example", "Origin": "https://page.example"}
        assert server.get("/healthz", headers=headers).status_code == 200


# Tokens


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/runs"),
        ("POST", "/v1/runs"),
        ("GET", "/v1/runs/x"),
        ("DELETE", "/v1/runs/x"),
        ("PATCH", "/v1/runs/x"),
        ("GET", "/v1/runs/x/events"),
        ("GET", "/v1/events"),
        ("GET", "/v1/runs/x/outputs/y"),
        ("POST", "/v1/files"),
        ("GET", "/v1/files/x"),
        ("GET", "/v1/nodes"),
        ("GET", "/v1/workflows"),
        ("PUT", "/v1/workflows/x"),
        ("POST", "/v1/check"),
        ("POST", "/v1/explain"),
        ("POST", "/v1/queue/pause"),
        ("GET", "/v1/queue"),
        ("GET", "/metrics"),
        ("GET", "/nope"),
        ("POST", "/healthz"),
    ],
)
@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer", "Basic YTph", "Bearer " + "a" * 19])
def test_without_a_token_nothing_is_answered(guarded, method, path, given):
    headers = {"Authorization": given} if given else {}
    answer = guarded.http.request(method, path, headers=headers)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/healthz"])
def test_the_page_itself_and_health_need_no_token(guarded, path):
    assert guarded.get(path).status_code == 200


def test_a_token_opens_the_server_and_names_the_client(guarded):
    headers = {"Authorization": f"Bearer {TOKENS['ben']}"}
    run = guarded.post("/v1/runs", {"workflow": trivial()}, headers=headers).json()["id"]
    assert guarded.get(f"/v1/runs/{run}", headers=headers).json()["client"] == "ben"


def test_a_token_is_a_websocket_subprotocol_where_no_header_can_be_set(guarded):
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": f"graphengine, token.{TOKENS['ann']}",
    }
    told = "GET /v1/events HTTP/1.1\r\nHost: localhost\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    with socket.create_connection(("127.0.0.1", port(guarded))) as raw:
        raw.sendall(told.encode() + b"\r\n")
        answer = raw.recv(4096)
    assert b"101" in answer.split(b"\r\n")[0]
    assert TOKENS["ann"].encode() not in answer


def refused(tmp_path, *options, **environment):
    """What a server that does not start says."""
    server = Server(tmp_path, *options)
    done = subprocess.run(
        server.command(), capture_output=True, text=True, timeout=30, env={**os.environ, **environment}
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_another_address_than_loopback_wants_tokens(tmp_path):
    assert "wants tokens" in refused(tmp_path, "--host", "0.0.0.0")


def test_a_short_token_is_refused_and_not_shown(tmp_path):
    told = refused(tmp_path, GRAPHENGINE_TOKENS="ann:hunter2")
    assert "shorter than 16" in told
    assert "hunter2" not in told


def test_a_token_file_that_is_not_there_is_told(tmp_path):
    assert "token file cannot be read" in refused(tmp_path, "--token-file", str(tmp_path / "none"))


def test_an_address_that_is_taken_is_told(tmp_path, server):
    assert "cannot listen on" in refused(tmp_path, "--port", str(port(server)))


def test_a_setting_out_of_range_is_told(tmp_path):
    assert "body_limit" in refused(tmp_path, GRAPHENGINE_SERVER_BODY_LIMIT="-5")


def test_a_worker_does_not_know_the_tokens(tmp_path):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "spy.py").write_text(
        "import os\nfrom graphengine import Context, Node, Ports\n\n"
        "class Look(Node, cached=False):\n    class Outputs(Ports):\n        value: str\n\n"
        "    def run(self, ctx: Context) -> Outputs:\n        return self.Outputs(value=repr(dict(os.environ)))\n"
    )
    server = Server(tmp_path)
    secret = "topsecret" * 3
    os.environ["GRAPHENGINE_TOKENS"] = f"ann:{secret}"
    try:
        with server:
            server.http.headers["Authorization"] = f"Bearer {secret}"
            nodes = {"look": {"type": "spy.Look"}}
            run = server.submit({"graphengine": 1, "outputs": {"value": {"from": "look.value"}}, "nodes": nodes})
            assert secret not in json.dumps(server.ended(run))
    finally:
        del os.environ["GRAPHENGINE_TOKENS"]


# Sizes


def test_a_large_body_is_refused(server):
    assert server.post("/v1/runs", {"workflow": trivial("x" * 30_000)}).status_code == 413


def test_a_large_body_without_a_length_is_refused(server):
    def pieces():
        for _ in range(50):
            yield b"x" * 1000

    answer = server.http.post("/v1/runs", content=pieces(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_a_large_upload_is_refused_and_leaves_nothing(server):
    data = b"\x89PNG\r\n\x1a\n" + bytes(60_000)
    assert server.http.post("/v1/files", content=data, headers={"Content-Type": "image/png"}).status_code == 413
    assert not list((server.folder / "data" / "input" / "files").glob(".*"))


def test_a_compressed_body_is_refused(server):
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    started = time.monotonic()
    answer = server.http.post("/v1/runs", content=gzip.compress(b" " * 10_000_000), headers=headers)
    assert (answer.status_code, time.monotonic() - started < 1) == (415, True)


def test_a_workflow_of_too_many_nodes_is_refused(server):
    answer = server.post("/v1/runs", {"workflow": trivial(nodes=21)})
    assert (answer.status_code, answer.json()["problems"][0]["code"]) == (422, "too_large")


def test_a_full_queue_says_when_to_come_back(server):
    server.post("/v1/queue/pause")
    try:
        answers = [
            server.post("/v1/runs", {"workflow": trivial(f"{i}")}, headers={"X-Client": f"client{i // 3}"})
            for i in range(10)
        ]
        one_more = server.post("/v1/runs", {"workflow": trivial("z")}, headers={"X-Client": "late"})
    finally:
        server.post("/v1/queue/resume")
    assert [answer.status_code for answer in answers[:8]] == [202] * 8
    assert (one_more.status_code, one_more.headers["Retry-After"]) == (429, "5")


def test_one_client_cannot_fill_the_queue(server):
    server.when(lambda: server.get("/v1/queue").json()["waiting"] == 0)
    server.post("/v1/queue/pause")
    try:
        mine = [server.post("/v1/runs", {"workflow": trivial(f"m{i}")}).status_code for i in range(4)]
        other = server.post("/v1/runs", {"workflow": trivial("o")}, headers={"X-Client": "other"}).status_code
    finally:
        server.post("/v1/queue/resume")
    assert (mine, other) == ([202, 202, 202, 429], 202)


# Slow ones


@pytest.mark.parametrize("sent", [b"", b"GET /v1/runs HTTP/1.1\r\nHost: loc"])
def test_a_connection_that_says_nothing_is_closed(server, sent):
    with socket.create_connection(("127.0.0.1", port(server))) as slow:
        slow.sendall(sent)
        slow.settimeout(6)
        while slow.recv(4096):
            pass


def test_a_body_that_never_comes_is_given_up(server):
    head = b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", port(server))) as slow:
        slow.sendall(head)
        slow.settimeout(6)
        assert b"408" in slow.recv(4096)


def test_slow_connections_do_not_slow_others(server):
    slow = [socket.create_connection(("127.0.0.1", port(server))) for _ in range(200)]
    for connection in slow:
        connection.sendall(b"GET / HT")
    started = time.monotonic()
    assert httpx2.get(f"{server.url}/healthz").status_code == 200
    assert time.monotonic() - started < 1
    for connection in slow:
        connection.close()


# What leaves


def test_an_error_of_a_plugin_shows_no_trace_and_no_path(tmp_path):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "bad.py").write_text(
        "from graphengine import Context, Node, Ports\n\n"
        "class Fail(Node):\n    class Outputs(Ports):\n        value: str\n\n"
        "    def run(self, ctx: Context) -> Outputs:\n        open(__file__ + '/x')\n"
    )
    with Server(tmp_path) as server:
        run = server.submit({"graphengine": 1, "nodes": {"fail": {"type": "bad.Fail"}}})
        told = json.dumps(server.ended(run)) + json.dumps(server.events(run))
    assert "NotADirectoryError" in told
    assert "Traceback" not in told
    assert str(tmp_path) not in told


def test_no_route_installs_or_configures_code(server):
    words = ("install", "plugin", "config", "exec", "eval", "import")
    paths = server.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if any(word in path for word in words)]
