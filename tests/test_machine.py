"""What the process does with memory that was let go of."""

import subprocess
import sys

import pytest

COUNTED = """
import resource, threading
from graphengine.machine import {}, give_back, resident_memory

def draw():
    for _ in range(20):
        b"x" * (60 << 20)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

keep_freed_memory()
worker = threading.Thread(target=lambda: (draw(), told.append(faults()), draw(), told.append(faults())))
told = []
worker.start()
worker.join()
kept = resident_memory()
give_back()
print(told[1] - told[0], (kept - resident_memory()) >> 20)
"""


def counted(how: str) -> tuple[int, int]:
    """Page faults of twenty large things that come and go in a thread, and MiB that were kept after them."""
    done = subprocess.run([sys.executable, "-c", COUNTED.format(how)], capture_output=True, text=True, check=True)
    faults, kept = done.stdout.split()
    return int(faults), int(kept)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_large_temporaries_get_the_same_memory_again_until_it_is_given_back():
    faults, kept = counted("keep_freed_memory")
    plain, _ = counted("total_memory as keep_freed_memory")
    assert faults * 10 < plain
    assert kept >= 50
