"""A small part of the fuzzing, at every run of the tests."""

import pytest
from fuzz import fuzz
from serving import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("fuzz"), queue_limit="100000") as server:
        server.post("/v1/queue/pause")
        yield server


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_graphs_and_bodies_get_a_quick_answer_that_is_no_5xx(server, seed):
    seen = fuzz(server, 400, seed)
    assert (seen["5xx"], seen["slow"]) == (0, 0)
    assert seen["422"] > 100


def test_a_graph_as_deep_as_is_allowed_is_checked_quickly(server):
    from serving import trivial

    assert server.post("/v1/check", {"workflow": trivial(nodes=20_000)}).json()["nodes"] == 20_000
