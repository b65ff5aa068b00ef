"""Thirty plugins that misbehave, each in its own way; the test of the server puts this file into a plugin folder.

A node fails, or takes its worker with it; the server lives, and the next run runs.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

from graphengine import Context, Image, Mask, Node, Ports


class Value(Ports):
    """Nothing of note."""

    value: str


class Slow(Node):
    """No beast, only slow: it reports twenty steps a second and can be cancelled."""

    text: str = ""
    seconds: float = 1.0
    Outputs = Value

    def run(self, ctx: Context):
        steps = int(self.seconds * 20)
        for i in range(steps):
            ctx.progress(i, steps)
            time.sleep(0.05)
        return Value(value=self.text)


class Bad(Node, cached=False):
    """The base of the zoo; `attempt` makes each run another."""

    attempt: int = 0
    Outputs = Value


class RaisesError(Bad):
    def run(self, ctx: Context):
        raise ValueError("no")


class RaisesBase(Bad):
    def run(self, ctx: Context):
        raise BaseException("no")


class RaisesInterrupt(Bad):
    def run(self, ctx: Context):
        raise KeyboardInterrupt


class RaisesExit(Bad):
    def run(self, ctx: Context):
        sys.exit(3)


class RaisesGenerator(Bad):
    def run(self, ctx: Context):
        raise GeneratorExit


class RaisesHugeMessage(Bad):
    def run(self, ctx: Context):
        raise RuntimeError("x" * 10_000_000)


class RaisesBrokenText(Bad):
    def run(self, ctx: Context):
        class Odd(Exception):
            def __str__(self):
                raise RuntimeError("not even that")

        raise Odd


class RaisesSurrogate(Bad):
    def run(self, ctx: Context):
        raise RuntimeError("\ud800")


class RaisesMemory(Bad):
    def run(self, ctx: Context):
        raise MemoryError


class Recurses(Bad):
    def run(self, ctx: Context):
        return self.run(ctx)


class AllocatesTooMuch(Bad):
    def run(self, ctx: Context):
        return Value(value=str(len(bytearray(2**62))))


class ReturnsNothing(Bad):
    def run(self, ctx: Context):
        return None


class ReturnsAnother(Bad):
    def run(self, ctx: Context):
        return {"value": "x"}


class ReturnsWrongType(Bad):
    def run(self, ctx: Context):
        return Value(value=3)  # pyright: ignore[reportArgumentType]


class Mutates(Bad):
    image: Image

    def run(self, ctx: Context):
        self.image.pixels[:] = 0
        return Value(value="x")


class MutatesByForce(Bad):
    image: Image

    def run(self, ctx: Context):
        ctypes.memset(self.image.pixels.ctypes.data, 0, self.image.pixels.nbytes)
        return Value(value="x")


class PromisesTheImpossible(Bad):
    def run(self, ctx: Context):
        return Value(value=Mask(self))  # pyright: ignore[reportArgumentType]


class ProgressNonsense(Bad):
    def run(self, ctx: Context):
        ctx.progress(float("nan"), -1)  # pyright: ignore[reportArgumentType]
        return Value(value="x")


class ProgressFlood(Bad):
    def run(self, ctx: Context):
        for i in range(50_000):
            ctx.progress(i, 50_000)
        return Value(value="x")


class PrintsMuch(Bad):
    def run(self, ctx: Context):
        print("x" * 100_000)
        return Value(value="x")


class ClosesStandardOutput(Bad):
    def run(self, ctx: Context):
        os.close(1)
        return Value(value="x")


class ChangesFolder(Bad):
    def run(self, ctx: Context):
        os.chdir("/")
        return Value(value="x")


class LeaksThreads(Bad):
    def run(self, ctx: Context):
        for _ in range(20):
            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        return Value(value="x")


class LeaksFiles(Bad):
    def run(self, ctx: Context):
        for _ in range(50):
            os.dup(2)
        return Value(value="x")


class LeavesChildren(Bad):
    def run(self, ctx: Context):
        child = subprocess.Popen(["sleep", "3600"])
        return Value(value=str(child.pid))


class Exits(Bad):
    def run(self, ctx: Context):
        os._exit(3)


class Aborts(Bad):
    def run(self, ctx: Context):
        os.abort()


class Segfaults(Bad):
    def run(self, ctx: Context):
        ctypes.string_at(0)


class KillsItself(Bad):
    def run(self, ctx: Context):
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(Bad):
    def run(self, ctx: Context):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        time.sleep(3600)


class HangsInC(Bad):
    def run(self, ctx: Context):
        ctypes.PyDLL(None).sleep(3600)  # holds the interpreter's lock
