"""Running one node: its lane, its memory, what it reports, and what is told of its faults.

Glossary
    lane    a lock per device: device work of all runs takes turns, other work overlaps it
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from graphengine import events
from graphengine.cache import Cache
from graphengine.errors import Cancelled, NodeError, Problem, out_of_memory
from graphengine.frame import Tools, sentence, wrong_input
from graphengine.guard import Guard
from graphengine.machine import give_back
from graphengine.node import Context, Node, NodeInfo, Preview, Services
from graphengine.ports import Pending
from graphengine.values import Image
from graphengine.workflow import Workflow

logger = logging.getLogger(__name__)
PREVIEW_SECONDS = 0.25
RELEASED = "out of memory: all other models are let go of, and it is tried again."
BY_BLOCKS = "out of memory again: its weights stay on the host and go to the device block by block."
IN_PIECES = "out of memory again: it is done in smaller pieces."
"""What is told before a node is tried again, in this order; see `Context.frugal`."""


class Runner:
    """Runs the nodes of one run, one at a time.

    `began` is when the last node began, on `time.perf_counter`; `item` is which of how many items of a list it has.
    It is made in the thread in which it runs them.
    """

    def __init__(
        self,
        tools: Tools,
        cache: Cache | None,
        journal: events.Journal,
        cancelled: Callable[[], bool],
        recipe: Callable[[], dict[str, Any]],
        previews: Callable[[], bool],
    ):
        self.cancelled, self.began, self.item = cancelled, 0.0, (0, 1)
        self._cache, self._journal, self._recipe = cache, journal, recipe
        self._models, self._lanes = tools.models, tools.lanes
        self._told: list[str] = tools.models.easing.told if tools.models else []
        self._previews, self._next_preview = previews, 0.0
        self._notes: dict[str, list[str]] = {}
        self._services = Services(
            tools.settings, tools.models, self.recipe, self._report, cancelled, tools.find_workflow, self._note
        )

    def run(self, info: NodeInfo, inputs: dict[str, Any], name: str) -> Any:
        """Build a node, run it in its lane, and check that what comes out is what it declares: Outputs or a Workflow.

        Raises:
            NodeError: it failed, or changed an input.  Cancelled, Pending: as the node raised them.
        """
        try:
            node = info.build(inputs)
        except ValidationError as error:
            raise self.fail(name, wrong_input(name, error), error) from error
        try:
            guard = Guard(inputs) if info.plugin != "graphengine" else None
            lane = self._lanes.get(info.facts.lane)
            if lane is None:
                self.began = time.perf_counter()
                result = self._tried(node, name)
            else:
                result = self._run_in(lane, node, name)
            if guard and (changed := guard.changed()):
                raise self._mutated(info, name, changed)
        except (NodeError, Cancelled, Pending):
            raise
        except BaseException as error:
            logger.debug("node %s failed", name, exc_info=True)
            message = f"{info.name} failed: {sentence(error)}"
            raise self.fail(name, Problem("node_failed", message, name), error) from error
        if type(result) is not info.gives and not isinstance(result, (info.gives, Workflow)):
            message = f"{info.name} must return its Outputs, got {type(result).__name__}."
            raise self.fail(name, Problem("wrong_output", message, name, hint="return self.Outputs(...)"), None)
        return result

    def fail(self, name: str, problem: Problem, error: BaseException | None) -> NodeError:
        """The error of a node, once it is told to who listens."""
        self._journal.add(events.NodeFailed, name, problem.document())
        return NodeError(problem)

    def check(self) -> None:
        if self.cancelled():
            raise Cancelled

    def recipe(self) -> dict[str, Any]:
        """The run's recipe, with what was done otherwise than asked so far."""
        return self._recipe() | ({"notes": self._notes} if self._notes else {})

    def _run_in(self, lane: threading.Lock, node: Node, name: str) -> Any:
        while not lane.acquire(timeout=0.05):
            self.check()
        try:
            self.began = time.perf_counter()  # waiting for the lane is no work of the node's
            return self._tried(node, name)
        finally:
            lane.release()

    def _mutated(self, info: NodeInfo, name: str, port: str) -> NodeError:
        if self._cache:
            self._cache.forget_all()  # other entries may share the array that was written into
        message = f"{info.name} changed its input {port!r} in place; the run stops and the value is forgotten."
        return self.fail(name, Problem("mutation", message, name, port, "Copy it first."), None)

    # Memory

    def _tried(self, node: Node, name: str) -> Any:
        """Run a node; when memory runs out, again and more frugally."""
        try:
            made = node.run(Context(name, self._services))
        except Exception as error:
            if not out_of_memory(error):
                raise
        else:
            if self._told:
                self._tell(name)
            return made
        return self._tried_again(node, name)  # out here nothing holds on to what the first try had made

    def _tried_again(self, node: Node, name: str) -> Any:
        models = self._models
        left = [RELEASED, BY_BLOCKS, IN_PIECES]
        if not (models and models.streams):
            left.remove(BY_BLOCKS)
        try:
            while True:
                note = left.pop(0)
                logger.info("node %s: %s", name, note)
                self._note(name, note)
                if models:
                    models.easing.by_blocks = models.easing.by_blocks or note == BY_BLOCKS
                    models.release()
                try:
                    return node.run(Context(name, self._services, 2 if note == IN_PIECES else 1))
                except Exception as error:
                    if not (left and out_of_memory(error)):
                        raise
        finally:
            give_back()  # where memory is short, none is kept for later
            if models:
                models.easing.by_blocks = False
            self._tell(name)

    def _tell(self, name: str) -> None:
        """Note what the models did otherwise than usual."""
        while self._told:
            self._note(name, self._told.pop(0))

    # What nodes say

    def _note(self, node: str, text: str) -> None:
        self._notes.setdefault(node, []).append(text)
        self._journal.add(events.NodeNote, node, text)

    def _report(self, node: str, done: int, total: int, preview: Preview) -> None:
        number, count = self.item
        at = number * total + done
        self._journal.add(events.NodeProgress, node, at, count * total, self._picture(preview))

    def _picture(self, preview: Preview) -> Image | None:
        """A preview that has to be made is made when somebody looks, and at most every so often."""
        if not callable(preview):
            return preview
        now = time.perf_counter()
        if now < self._next_preview or not self._previews():
            return None
        made = preview()
        self._next_preview = time.perf_counter() + PREVIEW_SECONDS
        return made
