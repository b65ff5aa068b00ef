"""Runs in flight: submit a workflow, follow its events, take its outputs, cancel it.

Each run walks its plan in a thread of its own; the runs share the cache (single-flight) and take turns on the
device lane.  A workflow that was seen before is not checked again: only what differs from last time is.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal, Self

from graphengine import events
from graphengine.cache import Cache
from graphengine.collector import aside, uncollected
from graphengine.errors import Cancelled, GraphEngineError, GraphError, NodeError, Problem, did_you_mean
from graphengine.executor import Execution, Tools, note_name
from graphengine.fingerprint import Fingerprinter, Keys, parts
from graphengine.graph import FindWorkflow, Graph
from graphengine.plan import Plan
from graphengine.ports import Port
from graphengine.registry import Registry
from graphengine.runner import Runner
from graphengine.settings import Settings, package_versions
from graphengine.threads import Threads
from graphengine.values import Value
from graphengine.workflow import Workflow

Status = Literal["queued", "running", "finished", "failed", "cancelled"]
RECENT = 32
AT_ONCE = 1000
"""Nodes of a workflow that is prepared where it is submitted, if it was here before; that takes microseconds a node."""
Known = tuple[Workflow, Graph, Keys]
"""A run's workflow with its inputs bound, its graph and its keys."""


@dataclass(frozen=True)
class Explanation:
    """Why a node is a hit or a miss.  `state` is hit, miss or unneeded; `reason` is a sentence."""

    node: str
    type: str
    state: Literal["hit", "miss", "unneeded"]
    reason: str


class Run:
    """One submitted workflow.  All methods may be called from any thread."""

    def __init__(self, workflow: Workflow, inputs: Mapping[str, Any], id: str):
        self.id = id
        self.workflow, self.inputs = workflow, dict(inputs)
        self.status: Status = "queued"
        self.journal = events.Journal(self.id)
        self.cancelled = False
        """Whether it was asked to stop."""
        self._ending = threading.Lock()
        self._outputs: dict[str, Any] = {}
        self._error: BaseException | None = None
        self.effects: dict[str, dict[str, Any]] = {}
        self.recipe: Callable[[], dict[str, Any]] = dict
        self._callbacks: list[Callable[[Run], None]] = []
        self.journal.add(events.Queued, workflow.name)

    def events(self, after: int = -1, timeout: float | None = None) -> Iterator[events.Event]:
        """Events numbered above `after`, from the first on, until the run has ended."""
        return self.journal.read(after, timeout)

    def cancel(self) -> None:
        """Ask the run to stop: a sampler stops within its current step.  Does nothing to a run that has ended."""
        self.cancelled = True

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Declared outputs by name, once the run has finished.

        Raises:
            GraphError, NodeError: why it failed.  Cancelled: it was cancelled.  TimeoutError: it goes on.
        """
        if not self.journal.wait(timeout):
            raise TimeoutError(f"run {self.id} goes on after {timeout} s")
        if self._error:
            raise self._error
        return self._outputs

    @property
    def error(self) -> BaseException | None:
        """Why it failed or was cancelled; None while it goes on, and when it has finished."""
        return self._error

    def add_done_callback(self, callback: Callable[[Run], None]) -> None:
        """Call `callback` with the run when it has ended, in the run's thread; at once when it already has."""
        with self._ending:
            if not self.journal.ended:
                self._callbacks.append(callback)
                return
        callback(self)

    def _end(self, status: Status, model: type[events.Event], *values: Any) -> None:
        with self._ending:
            self.status = status
            self.journal.end(model, *values)
        for callback in self._callbacks:
            callback(self)


class Engine:
    """Takes workflows, runs them, keeps what they computed.  Close it, or use it as a context manager."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        cache: Cache | None,
        models: Any = None,
        find_workflow: FindWorkflow = lambda name: None,
    ):
        self.registry, self.settings, self.cache = registry, settings, cache
        self.find_workflow = find_workflow
        self.previews = False
        """Whether nodes shall make pictures of what they are at: set it when somebody looks at the events."""
        self.fingerprinter = Fingerprinter(settings)
        lanes = {"gpu": threading.Lock()}
        self._tools = Tools(registry, settings, self.fingerprinter, find_workflow, models, lanes)
        self._threads = Threads(settings.threads, "run")
        self._recent: OrderedDict[tuple[str, int], tuple[Graph, Keys]] = OrderedDict()
        self._lock = threading.Lock()
        self._runs: set[Run] = set()
        self._random = Random()  # for ids; to ask the system for each costs more than a trivial node

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, cancel: bool = True) -> None:
        """Stop: cancel what runs (or let it finish) and wait for it."""
        if cancel:
            for run in list(self._runs):
                run.cancel()
        self._threads.close()

    def submit(
        self,
        workflow: Workflow | Mapping[str, Any] | str | Path,
        inputs: Mapping[str, Any] | None = None,
        targets: Iterable[str] | None = None,
        id: str | None = None,
    ) -> Run:
        """Queue a run, under an id of its own or the caller's.

        Its faults are told by its events and by `result`, never raised here.

        Raises:
            GraphError: the document cannot even be read as a workflow.
        """
        run = Run(Workflow.load(workflow), inputs or {}, id or f"{self._random.getrandbits(64):016x}")
        self._runs.add(run)
        wanted = None if targets is None else list(targets)
        known = self._known(run) if wanted is None else None
        if known and self._held(known):
            self._work(run, wanted, known)  # to wake a thread would take longer
        else:
            self._threads.do(partial(self._work, run, wanted, known))
        return run

    def _known(self, run: Run) -> Known | None:
        """What is needed to plan a run that was here before, perhaps with other literals; None where it has to be found out."""
        place = _place(run.workflow)
        recent = self._recent.get(place)
        if recent is None or len(run.workflow.nodes) > AT_ONCE or recent[1].outside or recent[1].unstable:
            return None  # files would be asked
        try:
            bound = bind(run.workflow, run.inputs)
            made = self._prepare_again(bound, *recent)
        except GraphError:
            return None  # the run will tell
        if made is None:
            return None
        self._remember(place, made)
        return bound, *made

    def _held(self, known: Known) -> bool:
        """Whether all that a run wants lies in memory, and nothing has to be asked whether it still holds."""
        _, graph, keys = known
        return self.cache is not None and all(
            self.cache.where(keys.keys[p]) == "memory" and not graph.tasks[p].info.facts.effect for p in graph.targets
        )

    def _work(self, run: Run, targets: list[str] | None, known: Known | None) -> None:
        started = time.perf_counter()
        try:
            run.status = "running"
            if run.cancelled:
                raise Cancelled
            with ExitStack() as until_done:
                with uncollected():
                    if known:
                        bound, graph, keys = known
                    else:
                        bound = bind(run.workflow, run.inputs)
                        graph, keys = self.prepare(bound)
                    plan = Plan.make(graph, keys, self.cache, graph.select(targets))
                    if plan.work:
                        until_done.enter_context(aside(len(plan.work)))
                run.recipe = _Recipe(self.settings, bound, keys, run.inputs)
                values = self._computed(run, plan) if plan.work else _found(run, plan)
            run._outputs = {
                name: values[position][port] for name, (position, port) in graph.outputs.items() if position in values
            }
            tasks = graph.tasks
            run.effects = {tasks[p].id: v for p, v in values.items() if tasks[p].info.facts.effect}
            run._end("finished", events.RunFinished, time.perf_counter() - started)
        except Cancelled as error:
            run._error = error
            run._end("cancelled", events.RunCancelled)
        except BaseException as error:
            run._error = error
            run._end("failed", events.RunFailed, [p.document() for p in problems_of(error)])
        finally:
            self._runs.discard(run)

    def _computed(self, run: Run, plan: Plan) -> dict[int, dict[str, Any]]:
        runner = Runner(self._tools, self.cache, run.journal, lambda: run.cancelled, run.recipe, lambda: self.previews)
        run.recipe = runner.recipe
        return Execution(self._tools, self.cache, run.journal, runner).execute(plan)

    def prepare(self, workflow: Workflow, inputs: Mapping[str, Any] | None = None) -> tuple[Graph, Keys]:
        """Bind the inputs, check everything, make the keys.  Raises GraphError with every problem."""
        bound = bind(workflow, inputs or {})
        place = _place(bound)
        with self._lock:
            recent = self._recent.get(place)
        made = self._prepare_again(bound, *recent) if recent else None
        if made is None:
            graph = Graph.build(bound, self.registry, self.find_workflow)
            made = graph, self.fingerprinter.keys(graph)
        self._remember(place, made)
        return made

    def _remember(self, place: tuple[str, int], made: tuple[Graph, Keys]) -> None:
        with self._lock:
            self._recent[place] = made
            self._recent.move_to_end(place)
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)

    def _prepare_again(self, workflow: Workflow, graph: Graph, keys: Keys) -> tuple[Graph, Keys] | None:
        changed = graph.changed(workflow, self.registry)
        if changed is None:
            return None
        return changed[0], self.fingerprinter.rekey(keys, *changed)

    def explain(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        targets: Iterable[str] | None = None,
    ) -> list[Explanation]:
        """For every node, in order: would it be computed, and why.  Runs nothing."""
        graph, keys = self.prepare(workflow, inputs)
        plan = Plan.make(graph, keys, self.cache, graph.select(targets))
        misses = set(plan.work)
        told = []
        for position, task in enumerate(graph.tasks):
            state: Literal["hit", "miss", "unneeded"]
            if position in plan.hits:
                state, reason = "hit", "its outputs are in the cache."
            elif position not in misses:
                state, reason = "unneeded", "nothing that has to be computed reads it."
            else:
                state, reason = "miss", self._why(graph, keys, position, misses)
            told.append(Explanation(task.id, task.info.name, state, reason))
        return told

    def _why(self, graph: Graph, keys: Keys, position: int, misses: set[int]) -> str:
        task = graph.tasks[position]
        if not task.info.facts.cached:
            return "this type of node is never cached."
        before = None
        if self.cache and self.cache.disk:
            before = self.cache.disk.noted(note_name(graph.workflow, task.id))
        if before is not None:
            now = parts(task, keys, position, self.fingerprinter.identity(task.info))
            if differences := [*_differences(before, now)]:
                return "; ".join(differences) + "."
            if task.info.facts.effect and self.cache and self.cache.where(keys.keys[position]):
                return "what it wrote is not there any more."
            if before.get("identity") != now["identity"]:
                return "the code of the node, its plugin, or a numeric setting (device, dtype, torch) changed."
        sources = sorted({graph.tasks[w.source].id for w in task.wires if w.source in misses})
        behind = f"; it reads {', '.join(sources)}, which has to be computed" if sources else ""
        if any(_never_kept(port) for port in task.info.outputs.values()):
            return f"handles on models are made anew in every process{behind}."
        if before is None:
            return f"it was never computed here, or too quickly to be worth keeping{behind}."
        return "it was computed before, but its outputs made room for others."


def _never_kept(port: Port) -> bool:
    return isinstance(port.type, type) and issubclass(port.type, Value) and not port.type.stored


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if before["type"] != now["type"]:
        yield f"its type changed from {before['type']} to {now['type']}"
    for section in ("inputs", "outside"):
        old, new = before[section], now[section]
        for name in [*new, *(name for name in old if name not in new)]:
            if old.get(name) == new.get(name):
                continue
            if isinstance(new.get(name), dict) and isinstance(old.get(name), dict) and "key" in new[name]:
                yield f"{name} comes from {new[name]['from']}, which changed"
            else:
                yield f"{name} changed from {_shown(old, name)} to {_shown(new, name)}"


def _shown(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "unset"
    text = repr(values[name])
    return text if len(text) <= 80 else text[:77] + "..."


def _found(run: Run, plan: Plan) -> dict[int, dict[str, Any]]:
    """The values of a plan without work."""
    run.journal.add(events.Planned, [plan.graph.tasks[position].id for position in plan.hits], [])
    return {position: plan.hits[position] for position in plan.wanted}


def _place(workflow: Workflow) -> tuple[str, int]:
    """Where a workflow's graph is kept: the next one of this name and size is likely the same."""
    return workflow.name, len(workflow.nodes)


def bind(workflow: Workflow, inputs: Mapping[str, Any]) -> Workflow:
    """The workflow with its declared inputs set.  Raises GraphError naming inputs that it does not declare."""
    if not inputs:
        return workflow
    problems, values = [], {}
    for name, value in inputs.items():
        declared = workflow.inputs.get(name)
        if declared is None:
            hint = did_you_mean(name, workflow.inputs)
            problems.append(Problem("unknown_input", f"the workflow declares no input {name!r}.", hint=hint))
            continue
        values |= {(link.node, link.port): value for link in declared.to if link.node in workflow.nodes}
    if problems:
        raise GraphError(problems)
    return workflow.with_inputs(values)


def problems_of(error: BaseException) -> Iterable[Problem]:
    """What an error of a run says, as problems."""
    if isinstance(error, GraphError):
        return error.problems
    if isinstance(error, NodeError):
        return [error.problem]
    kind = "" if isinstance(error, GraphEngineError) else f"{type(error).__name__}: "
    return [Problem("engine", f"{kind}{error}")]


class _Recipe:
    """Makes the recipe of a run when a node asks for it: what is needed to make its pictures again."""

    def __init__(self, settings: Settings, workflow: Workflow, keys: Keys, inputs: Mapping[str, Any]):
        self._parts = (settings, workflow, keys, inputs)

    def __call__(self) -> dict[str, Any]:
        settings, workflow, keys, inputs = self._parts
        outside = {keys.graph.tasks[p].id: json.loads(facts) for p, facts in keys.outside.items()}
        return {
            "graphengine": 1,
            "workflow": workflow.document(),
            "inputs": dict(inputs),
            "outside": {node: facts for node, facts in outside.items() if facts},
            "packages": package_versions(),
            "numerics": settings.numerics(),
        }


__all__ = ["Engine", "Explanation", "Run", "bind", "problems_of"]
