"""The journal of a run: what is added is read in order, whole, from any point and by any number of readers."""

import gc
import threading
import time

import pytest

from graphengine import events
from graphengine.events import Journal


@pytest.fixture
def journal():
    return Journal("r")


def filled(journal: Journal, count: int) -> list[tuple[str, str]]:
    """Adds events with one and with two values in turns; returns what they shall be read as."""
    for number in range(count):
        if number % 2:
            journal.add(events.NodeFinished, f"n{number}", 0.5)
        else:
            journal.add(events.NodeStarted, f"n{number}")
    return [("node_finished" if number % 2 else "node_started", f"n{number}") for number in range(count)]


def told(read):
    return [(event.event, event.node) for event in read]


def test_events_with_different_numbers_of_values_are_read_each_with_its_own(journal):
    journal.add(events.Queued, "w")
    journal.add(events.Planned, ["a"], ["b"])
    journal.add(events.NodeProgress, "b", 1, 2, None)
    journal.end(events.RunCancelled)
    read = [event.model_dump(exclude={"run", "time"}) for event in journal.read()]
    assert read == [
        {"event": "queued", "seq": 0, "workflow": "w"},
        {"event": "planned", "seq": 1, "hits": ["a"], "work": ["b"]},
        {"event": "node_progress", "seq": 2, "node": "b", "done": 1, "total": 2, "preview": None},
        {"event": "run_cancelled", "seq": 3},
    ]


@pytest.mark.parametrize("after", [-1, 0, 6, 18, 19, 50])
def test_reading_goes_on_behind_any_event(journal, after):
    expected = filled(journal, 20)
    journal.end(events.RunFinished, 1.0)
    read = list(journal.read(after))
    assert told(read[:-1]) == expected[after + 1 :]
    assert [event.seq for event in read] == list(range(after + 1, 21))


def test_what_was_added_last_can_be_asked_for_first(journal):
    filled(journal, 100)
    model, moment, fields = journal.entries(99)[0]
    assert (model, fields) == (events.NodeFinished, {"node": "n99", "seconds": 0.5})
    assert abs(moment - time.time()) < 5
    assert journal.entries(100) == []


def test_many_readers_at_once_read_the_same(journal):
    read: list[list[tuple[str, str]]] = []
    readers = [threading.Thread(target=lambda: read.append(told(journal.read())[:-1])) for _ in range(8)]
    for reader in readers:
        reader.start()
    expected = filled(journal, 3000)
    journal.end(events.NodeStarted, "last")
    for reader in readers:
        reader.join(20)
    assert read == [expected] * 8


def test_a_reader_is_woken_by_each_event(journal):
    arrived = threading.Semaphore(0)
    reader = threading.Thread(target=lambda: [arrived.release() for _ in journal.read()])
    reader.start()
    for _ in range(5):
        journal.add(events.NodeStarted, "n")
        assert arrived.acquire(timeout=5)
    journal.end(events.RunFinished, 1.0)
    reader.join(5)
    assert not reader.is_alive()


def test_reading_stops_when_nothing_new_comes_in_time(journal):
    filled(journal, 3)
    assert len(list(journal.read(timeout=0.05))) == 3


def test_waiting_tells_whether_it_has_ended(journal):
    assert not journal.wait(0.01)
    journal.end(events.RunFinished, 1.0)
    assert journal.wait(0)


def test_events_are_no_objects_for_the_garbage_collector(journal):
    gc.collect()
    gc.disable()
    try:
        before = gc.get_count()[0]
        for number in range(2000):
            journal.add(events.NodeFinished, "n", 0.5 + number)
        assert gc.get_count()[0] - before < 100
    finally:
        gc.enable()
