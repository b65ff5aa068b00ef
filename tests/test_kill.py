"""The harness that kills finds nothing wrong with the server, and everything that was put in on purpose."""

import shutil

import pytest
from kill import WRONG, at_random, sweep

strace = pytest.mark.skipif(
    not shutil.which("strace"), reason="strace is not installed (Debian: apt-get install strace)"
)


def test_random_kills_lose_double_and_damage_nothing():
    found = at_random(6, seed=1)
    assert {key: found[key] for key in WRONG} == dict.fromkeys(WRONG, 0)
    assert found["runs"] > 8


@pytest.mark.parametrize("bug", ["ack_first", "delete_on_dequeue"])
def test_random_kills_find_a_queue_that_loses(bug):
    assert at_random(4, bug)["lost"]


@strace
def test_a_kill_at_a_system_call_breaks_no_promise():
    found = sweep(15, calls=["pwrite64", "fdatasync", "write"])
    assert (found["lost"], found["corrupt"], found["stuck"]) == (0, 0, 0)
    assert found["points"] > 3


@strace
def test_kills_at_system_calls_find_a_picture_written_in_place():
    assert sweep(3, "no_rename", ["write"])["corrupt"]


@strace
def test_kills_at_system_calls_find_an_acknowledgement_before_the_commit():
    assert sweep(5, "ack_first", ["pwrite64"])["lost"]
