"""Keeping the garbage collector out of the way where many objects are made and none is garbage.

Building a graph of 10,000 nodes, or importing torch, makes so many objects that the collector would walk the whole heap
several times, which costs more than the work itself.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

MANY, SELDOM = 1000, (20_000, 20, 20)


@contextmanager
def aside(objects: int) -> Iterator[None]:
    """Put what is there aside while a large graph runs, so that a collection walks only what the run has made.

    All of it comes back afterwards, what `settled` had left out as well: kept aside for good, weights that are let go of
    could stay in memory.
    """
    if objects < MANY:
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def uncollected(freeze: bool = False) -> Iterator[None]:
    """Pause the collector inside; with `freeze`, what is there afterwards is never walked again (imported modules)."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if freeze:
            gc.freeze()
        gc.enable()


def rarely() -> None:
    """Make collections rarer, in a process that is ours: imports alone would set off a hundred that find nothing."""
    gc.set_threshold(*SELDOM)


def settled() -> None:
    """What a process that serves has imported stays: leave it out of collections, and make these rarer."""
    gc.collect()
    gc.freeze()
    rarely()
