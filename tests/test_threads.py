"""The pool of threads that runs walk in."""

import gc
import subprocess
import sys
import threading
import time
import weakref

import pytest

from graphengine.threads import Threads


@pytest.fixture
def pool():
    made = Threads(3, "test")
    yield made
    made.close()


def test_work_is_done_at_once_in_as_many_threads_as_may_be(pool):
    barrier = threading.Barrier(4)
    for _ in range(3):
        pool.do(lambda: barrier.wait(5))
    barrier.wait(5)


def test_no_more_threads_than_were_said(pool):
    names: set[str] = set()
    for _ in range(50):
        pool.do(lambda: names.add(threading.current_thread().name))
    pool.close()
    assert len(names) <= 3


def test_a_thread_that_is_idle_is_used_again(pool):
    names: list[str] = []
    for _ in range(5):
        done = threading.Event()
        pool.do(lambda: names.append(threading.current_thread().name))
        pool.do(done.set)
        assert done.wait(5)
        time.sleep(0.02)
    assert len(set(names)) <= 2


def test_what_waits_is_done_in_order():
    one, order = Threads(1, "test"), []
    for number in range(20):
        one.do(lambda number=number: order.append(number))
    one.close()
    assert order == list(range(20))


def test_work_that_fails_is_told_and_the_thread_goes_on(pool, monkeypatch):
    told, done = [], threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))
    one = Threads(1, "test")
    one.do(lambda: 1 // 0)
    one.do(done.set)
    assert done.wait(5)
    one.close()
    assert [type(error) for error in told] == [ZeroDivisionError]


def test_closing_waits_for_what_was_handed_in(pool):
    done = []
    for _ in range(5):
        pool.do(lambda: (time.sleep(0.02), done.append(1)))
    pool.close()
    assert len(done) == 5
    pool.close()


def test_a_closed_pool_takes_no_work(pool):
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.do(lambda: None)


def test_a_pool_can_be_closed_by_its_own_work(pool):
    done = threading.Event()
    pool.do(lambda: (pool.close(), done.set()))
    assert done.wait(5)


def test_what_was_done_is_let_go_of(pool):
    class Load:
        pass

    load, done = Load(), threading.Event()
    kept = weakref.ref(load)
    pool.do(lambda load=load: None)
    pool.do(done.set)
    del load
    assert done.wait(5)
    pool.close()
    gc.collect()
    assert kept() is None


def test_the_threads_of_a_pool_that_nobody_has_any_more_end():
    own = Threads(1, "forgotten")
    own.do(lambda: None)
    del own
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("forgotten")]


def test_the_interpreter_ends_with_a_pool_that_was_not_closed_after_its_work():
    code = "import time; from graphengine.threads import Threads; pool = Threads(2, 'x')\n"
    code += "pool.do(lambda: (time.sleep(0.3), print('done', flush=True)))"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert made.stdout == "done\n"
