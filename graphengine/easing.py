"""How the networks of a thread shall run while its node is at work: what the executor and the weights' keeper share."""

from __future__ import annotations

import threading


class Easing(threading.local):
    """Of each thread its own.

    `by_blocks` says that weights shall stay on the host; `told` holds sentences on what was done unasked.
    """

    def __init__(self) -> None:
        self.by_blocks = False
        self.told: list[str] = []
