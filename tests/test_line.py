"""The line of waiting runs: order, places that change, and who waits for how many."""

import importlib

from graphengine.queue import Waiting

Line = importlib.import_module("graphengine.server.line").Line


def entry(run: str, place: int) -> Waiting:
    return Waiting((place, 0, 0), run, False, "workflow")


def taken(line) -> list[str]:
    runs = []
    while first := line.first():
        runs.append(first.id)
        line.leave(first.id)
    return runs


def test_runs_are_taken_in_their_order():
    line = Line()
    for run, place in (("c", 3), ("a", 1), ("b", 2)):
        line.put(entry(run, place), "me")
    assert len(line) == 3 and taken(line) == ["a", "b", "c"] and len(line) == 0


def test_a_run_that_gets_another_place_is_taken_once_and_there():
    line = Line()
    line.put(entry("a", 1), "me")
    line.put(entry("b", 2), "me")
    line.put(entry("a", 3), "me")
    assert line.clients == {"me": 2} and taken(line) == ["b", "a"]


def test_a_run_that_has_left_is_not_taken():
    line = Line()
    line.put(entry("a", 1), "me")
    line.put(entry("b", 2), "you")
    line.leave("a")
    line.leave("a")
    assert "a" not in line and "b" in line and line.client("b") == "you"
    assert line.clients == {"you": 1} and taken(line) == ["b"] and not line.clients
