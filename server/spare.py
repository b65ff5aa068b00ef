"""Worker processes that are forked before the server has imported what only it needs.

A worker imports most of what the command line has imported already, so a fork taken at that moment starts in
milliseconds and shares its memory, where a new interpreter costs half a second of CPU time.  It may only be taken
while the process has one thread and holds nothing of the server's (no lock, no store, no tokens): the very first
thing that `serve` does.  A worker that is started later, because one died, is a new interpreter.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import traceback
from dataclasses import dataclass

from . import worker  # what every process needs is imported once, before there are several

SECRETS = (
    "GRAPHENGINE_TOKENS",
    "GRAPHENGINE_SERVER_TOKENS",
    "GRAPHENGINE_SERVER_WEBHOOK_SECRET",
    "GRAPHENGINE_SERVER_STORE",
)
"""Environment variables that no worker sees."""


@dataclass
class Spare:
    """A process that waits for its first message on the other end of `connection`."""

    pid: int
    connection: socket.socket

    def wait(self) -> int:
        """Wait for its end: the exit code, or minus the number of the signal."""
        with contextlib.suppress(ChildProcessError):
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return 0


def fork(count: int) -> list[Spare]:
    """Fork so many workers; none where a fork is not safe (more than one thread, or not on Linux)."""
    if sys.platform != "linux" or threading.active_count() > 1:
        return []
    made: list[Spare] = []
    for _ in range(count):
        ours, theirs = socket.socketpair()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            for other in made:
                other.connection.close()
            _become(theirs)
        theirs.close()
        made.append(Spare(pid, ours))
    return made


def _become(connection: socket.socket) -> None:
    """What a forked process does for the rest of its life."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        for name in SECRETS:
            os.environ.pop(name, None)
        worker.begin(connection)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
