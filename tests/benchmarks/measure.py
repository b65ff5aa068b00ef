"""What the benchmarks share: CPU seconds here and in a subprocess, the best of several, a table with its limits.

CPU time of all threads is what is compared: it does not depend on what else the machine is doing.  Both sides of a
ratio are measured in the same run, in turns.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT_TO_IMAGE = ROOT / "workflows" / "text_to_image.json"
TINY = ROOT / "graphengine" / "checkpoints" / "tiny"


@dataclass(frozen=True)
class Cost:
    """What some work took: seconds of CPU time (all threads), seconds on the clock."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Process:
    """What a subprocess took and printed; `rss` is its largest memory, in bytes."""

    cpu: float
    wall: float
    rss: int
    out: str


def cost(work: Callable[[], object]) -> Cost:
    """Do it once, with the garbage of what came before collected first."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.process_time() - cpu, time.perf_counter() - wall)


def environment(**more: str) -> dict[str, str]:
    """This environment with the thread settings made explicit, so that both sides of a comparison have the same."""
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    policy = os.environ.get("OMP_WAIT_POLICY", "passive")
    return {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": policy, "HF_HUB_OFFLINE": "1", **more}


def python(arguments: Sequence[str | Path], env: dict[str, str] | None = None) -> Process:
    """Run this Python with arguments, to its end.  Raises RuntimeError with its last words when it fails.

    Keep the calling process small (no torch): Linux counts a parent's size into its child's `ru_maxrss`.
    """
    command = [sys.executable, *map(str, arguments)]
    started = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=ROOT, env=env or environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout and child.stderr
    out, problems = child.stdout.read(), child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    child.stderr.close()
    if child.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ended with {child.returncode}: {problems[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    seconds = usage.ru_utime + usage.ru_stime
    return Process(seconds, time.perf_counter() - started, usage.ru_maxrss * unit, out)


def judged(value: float, limit: float, digits: int = 2) -> str:
    """A figure beside its limit, and whether it holds."""
    return f"{value:.{digits}f} (<= {limit:g}{'' if value <= limit else ', MISSED'})"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a head, the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    print(f"\n{title}")
    for row in [head, ["-" * width for width in widths], *rows]:
        first, *others = zip(row, widths, strict=True)
        print("  ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]))
    sys.stdout.flush()
