"""How much memory there is: of the machine, of what this process may have of it, and of a device.

Nothing is imported for it: Linux tells in files, NVIDIA's driver in a library of its own.  Where nobody tells, the answer
is None, and nothing is decided by it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

WEIGHTS_SHARE = 0.8
"""Of a device's memory, for weights, where no budget is set."""
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
GROUP = Path("/sys/fs/cgroup")
NVML = "libnvidia-ml.so.1"
KEPT, KEPT_SHARE = 2**30, 1 / 16
"""Bytes of freed memory that the allocator may keep, and the most of the machine's."""
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8
LARGEST_THRESHOLD, USUAL_PAD = 2**25, 2**17
"""glibc's numbers for what can be set of its allocator; the most that it takes for the third, and what the second is."""


def total_memory() -> int:
    """Bytes of memory that this process may use at all: the machine's, or its control group's where that is less."""
    whole = PAGE * os.sysconf("SC_PHYS_PAGES")
    limit = _number(GROUP / "memory.max")
    return whole if limit is None else min(whole, limit)


def free_memory() -> int | None:
    """Bytes that can still be had without anybody being sent away; None where it is not told."""
    told = _field("/proc/meminfo", "MemAvailable:")
    if told is None:
        return None
    limit, used = _number(GROUP / "memory.max"), _number(GROUP / "memory.current")
    if limit is None or used is None:
        return told
    reclaimable = _field(str(GROUP / "memory.stat"), "inactive_file", 1) or 0
    return min(told, max(0, limit - used + reclaimable))


def resident_memory() -> int:
    """Bytes of this process that lie in memory now; 0 where it is not told."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    except (OSError, ValueError, IndexError):
        return 0


def device_memory(device: str) -> tuple[int, int] | None:
    """Free bytes of a device and all it has: those of the host for `cpu`; None where it is not told."""
    if not device.startswith("cuda"):
        free = free_memory()
        return None if free is None else (free, total_memory())
    return _nvidia(int(device.partition(":")[2] or 0))


def give_back() -> None:
    """Have the allocator give back what it keeps of memory that was let go of."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):
            return


def keep_freed_memory() -> None:
    """Have the allocator keep some memory that was let go of, until `give_back`.

    A network's temporaries come and go with every layer.  Left alone, glibc has fresh memory from the system for each large
    one, which is given a page at a time and zeroed: a fifth of the time of a step of a large network on a CPU.
    """
    if sys.platform != "linux":
        return
    kept = min(KEPT, int(total_memory() * KEPT_SHARE))
    try:
        library = ctypes.CDLL(None)
        mallopt, malloc, free = library.mallopt, library.malloc, library.free
    except (OSError, AttributeError):  # another allocator
        return
    mallopt(MMAP_THRESHOLD, LARGEST_THRESHOLD)
    mallopt(TRIM_THRESHOLD, kept)
    mallopt(TOP_PAD, kept // 2)
    mallopt(ARENA_MAX, 1)  # the arenas of other threads hold nothing large
    malloc.argtypes, malloc.restype, free.argtypes = [ctypes.c_size_t], ctypes.c_void_p, [ctypes.c_void_p]
    free(malloc(LARGEST_THRESHOLD // 2))  # what is below the threshold makes the heap grow, by as much as is to be kept
    mallopt(TOP_PAD, USUAL_PAD)  # later no more than is needed, for so much may not be had any more


class _NvidiaMemory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def _nvidia(number: int) -> tuple[int, int] | None:
    """What NVIDIA's management library tells of a device, which no process need have opened."""
    try:
        library = ctypes.CDLL(NVML)
        told, handle = _NvidiaMemory(), ctypes.c_void_p()
        calls = (
            lambda: library.nvmlInit_v2(),
            lambda: library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(handle)),
            lambda: library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(told)),
        )
        done = all(call() == 0 for call in calls)
        library.nvmlShutdown()
    except (OSError, AttributeError):
        return None
    return (told.free, told.total) if done else None


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _field(path: str, name: str, unit: int = 1024) -> int | None:
    """The number behind a name in a file of names and numbers."""
    try:
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * unit
    except (OSError, ValueError, IndexError):
        return None
    return None
