"""Walk one plan: build each node, run it, check and cache what it gives, free what nobody reads any more.

One thread walks a run from a list of jobs; nothing recurses, however the graph is built:

    a mapped node    becomes one job per item and a last one that gathers them
    a lazy input     stops its node (`Pending`); the jobs it needs go on top, then the node once more
    an expansion     a node that returns a fragment gets a frame of its own on the stack; the fragment's outputs
                     are delivered as the node's

Glossary (frames, jobs and spreads: see `frame`)
    origin   what identifies an item of a list, for the key of a mapped node's single run
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import ValidationError

from graphengine import events
from graphengine.cache import DISK_SECONDS, Cache
from graphengine.errors import Cancelled, GraphError, Problem
from graphengine.fingerprint import digest, parts
from graphengine.frame import GATHER, ITEMS, PLAIN, Claim, Frame, Job, Outputs, Spread, Tools, wrong_input
from graphengine.graph import Given, Graph, Task, Wire
from graphengine.plan import Plan, stands
from graphengine.ports import Feed, Lazy, Pending, Port
from graphengine.runner import Runner
from graphengine.workflow import Link, NodeSpec, Workflow

MAP, WRAP = Feed.MAP, Feed.WRAP


class Execution:
    """One run being executed.  `execute` returns the values of the plan's wanted positions."""

    def __init__(self, tools: Tools, cache: Cache | None, journal: events.Journal, runner: Runner):
        self.tools, self.cache, self.journal, self.runner = tools, cache, journal, runner
        self._frames: list[Frame] = []
        self._claimed: set[bytes] = set()
        self._check = runner.check

    def execute(self, plan: Plan) -> dict[int, Outputs]:
        """Compute what is wanted.  Raises NodeError, or Cancelled; claims are given back in any case."""
        root = self._frame(plan, "")
        self._frames = [root]
        try:
            while self._frames:
                frame = self._frames[-1]
                if self._walk(frame):
                    self._frames.pop()
                    self._deliver(frame)
        finally:
            if self.cache:
                for key in self._claimed:
                    self.cache.give_back(key)
        return {position: root.outputs(position) for position in plan.wanted}

    def _frame(self, plan: Plan, prefix: str) -> Frame:
        tasks = plan.graph.tasks
        hits = [prefix + tasks[position].id for position in plan.hits]
        work = [prefix + tasks[position].id for position in plan.work]
        self.journal.add(events.Planned, hits, work)
        return Frame(plan, prefix)

    # Jobs

    def _walk(self, frame: Frame) -> bool:
        """Do the jobs of a frame; False when a node has put another frame before it.

        What is written out here is the way of most nodes: it is the same for all, and calls would be a tenth of it.
        """
        tasks, keys, values, work, jobs = frame.tasks, frame.keys, frame.values, frame.work, frame.jobs
        cache, check, add, runner = self.cache, self._check, self.journal.add, self.runner
        cancelled, run, prefix = runner.cancelled, runner.run, frame.prefix
        while work or jobs:
            if cancelled():
                raise Cancelled
            position, item = jobs.pop() if jobs else (work.pop(), PLAIN)
            task = tasks[position]
            if item != PLAIN:
                if item == GATHER:
                    self._gather(frame, position, task)
                    continue
                key = self._item_key(frame, position, item)
            elif task.mapped:
                self._spread(frame, position, task)
                continue
            else:
                key = keys[position]
            info = task.info
            facts = info.facts
            if cache and facts.cached:
                if item == PLAIN and not facts.effect:
                    found = cache.claim(key, check)
                else:
                    found = self._claim(cache, key, task, item)
                if found is not None:
                    self._keep(frame, position, item, found, key)
                    continue
                self._claimed.add(key)
            name = prefix + task.id
            if item == PLAIN:
                add(events.NodeStarted, name)
            if task.direct:
                inputs = task.literals.copy()
                for port, source, output, _, _, _ in task.wires:
                    inputs[port] = values[source][output]  # pyright: ignore[reportOptionalSubscript] - it has readers
            else:
                inputs = self._inputs(frame, task, item)
            try:
                result = run(info, inputs, name)
            except Pending as pending:
                self._release(key)
                self._fetch(frame, (position, item), task, pending.name)
                continue
            claim = key, runner.began, name
            if isinstance(result, Workflow):
                self._expand(frame, (position, item), task, result, claim)
                return False
            self._finish(frame, position, item, result.__dict__, claim)
        return True

    def _claim(self, cache: Cache, key: bytes, task: Task, item: int) -> Outputs | None:
        """Outputs that are there after all (another run was quicker, or an item was known); None: it is ours to make."""
        found = cache.claim(key, self._check)
        while found is not None and task.info.facts.effect and not stands(task, found):
            cache.forget([key])
            found = cache.claim(key, self._check)
        if found is None and item != PLAIN:  # the plan has asked the disk about whole nodes only
            self._claimed.add(key)
            found = cache.get(key)
            if found is not None and task.info.facts.effect and not stands(task, found):
                found = None
            if found is not None:
                self._release(key)
        return found

    def _release(self, key: bytes) -> None:
        if key in self._claimed and self.cache:
            self._claimed.discard(key)
            self.cache.give_back(key)

    # Inputs

    def _value(self, frame: Frame, wire: Wire) -> Any:
        if wire.source < 0:
            return frame.plan.graph.given[wire.port].value
        return frame.outputs(wire.source)[wire.port]

    def _inputs(self, frame: Frame, task: Task, item: int) -> dict[str, Any]:
        inputs = dict(task.literals)
        for name, items in task.lists:
            inputs[name] = list(items)
        values = frame.values
        for wire in task.wires:
            name, source, port, feed, slot, _ = wire
            if source < 0:
                value = self._value(frame, wire)
            elif (outputs := values[source]) is None:  # so it is lazy
                inputs[name] = Lazy(name)
                continue
            else:
                value = outputs[port]
            if feed is MAP:
                value = value[item]
            elif feed is WRAP:
                value = [value]
            if slot is None:
                inputs[name] = value
            else:
                inputs[name][slot] = value
        for name in task.info.lazy:
            if name in inputs and not isinstance(inputs[name], Lazy):
                inputs[name] = Lazy(name, inputs[name], ready=True)
        return inputs

    def _fetch(self, frame: Frame, job: Job, task: Task, name: str) -> None:
        """A lazy input is wanted: compute what it depends on, then run the node again."""
        sources = [wire.source for wire in task.wires if wire.input == name]
        work, hits = frame.plan.pull(sources, self.cache)
        for position in hits:
            frame.values[position] = frame.plan.hits[position]
        frame.jobs.append(job)
        frame.jobs += [(position, PLAIN) for position in reversed(work) if frame.values[position] is None]

    # Mapping

    def _spread(self, frame: Frame, position: int, task: Task) -> None:
        lists = {w.input: len(self._value(frame, w)) for w in task.wires if w.feed is MAP}
        name = frame.prefix + task.id
        self.journal.add(events.NodeStarted, name)
        if len(set(lists.values())) > 1:
            told = ", ".join(f"{key} has {count}" for key, count in lists.items())
            message = f"the lists that it runs over differ in length: {told}."
            raise self.runner.fail(name, Problem("lengths", message, name), None)
        count = next(iter(lists.values()))
        frame.spreads[position] = Spread(count, [], [], time.perf_counter())
        frame.jobs.append((position, GATHER))
        frame.jobs += [(position, item) for item in reversed(range(count))]

    def _item_key(self, frame: Frame, position: int, item: int) -> bytes:
        """The key of one run of a mapped node: that of the same node fed with this item alone."""
        task = frame.tasks[position]
        self.runner.item = (item, frame.spreads[position].count)
        upstream = [self._origin(frame, wire, item) for wire in task.wires]
        outside = frame.plan.keys.outside.get(position, b"")
        if position in frame.plan.keys.late:
            outside = self.tools.fingerprinter.outside(task, self._inputs(frame, task, item)) or b""
        return self.tools.fingerprinter.key(task, outside + b"item", upstream)

    def _origin(self, frame: Frame, wire: Wire, item: int) -> bytes:
        if wire.source < 0:
            base = frame.plan.graph.given[wire.port].key
        else:
            base = frame.keys[wire.source]
        if wire.feed is not MAP:
            return base
        value = self._value(frame, wire)[item]
        if isinstance(value, int | float | str | bool):
            return digest(repr(value).encode())
        keys = self._value_keys(frame, wire)
        return keys[item] if keys else digest(base, wire.port.encode(), str(item).encode())

    def _value_keys(self, frame: Frame, wire: Wire) -> list[bytes] | None:
        """Keys of the single runs whose results make up a list; None when they are not what its items are."""
        if wire.source < 0 or frame.tasks[wire.source].info.outputs[wire.port].many:
            return None
        return [bytes.fromhex(key) for key in frame.outputs(wire.source).get(ITEMS, ())]

    def _gather(self, frame: Frame, position: int, task: Task) -> None:
        spread = frame.spreads[position]
        seconds = time.perf_counter() - spread.started
        self.runner.item = (0, 1)
        outputs: Outputs = {ITEMS: [key.hex() for key in spread.keys]}
        for name, port in task.info.outputs.items():
            values = [result[name] for result in spread.results]
            outputs[name] = [item for value in values for item in value] if port.many else values
        key = frame.keys[position]
        if self.cache and task.info.facts.cached:
            self.cache.settle(key, outputs)
            if seconds >= DISK_SECONDS or task.info.durable:
                self._record(frame, position, task, outputs, (key, seconds))
        self._settle(frame, position, task, outputs)
        self.journal.add(events.NodeFinished, frame.prefix + task.id, seconds)

    # Results

    def _finish(self, frame: Frame, position: int, item: int, outputs: Outputs, claim: Claim) -> None:
        key, began, name = claim
        seconds = time.perf_counter() - began
        task = frame.tasks[position]
        if self.cache and task.info.facts.cached:
            self._claimed.discard(key)
            self.cache.settle(key, outputs)
            if seconds >= DISK_SECONDS or task.info.durable:
                self._record(frame, position, task, outputs, (key, seconds))
        if item == PLAIN:
            self._settle(frame, position, task, outputs)
            self.journal.add(events.NodeFinished, name, seconds)
        else:
            self._keep(frame, position, item, outputs, key)

    def _record(self, frame: Frame, position: int, task: Task, outputs: Outputs, claim: tuple[bytes, float]) -> None:
        """To disk with it, when it was worth computing only once, and note what its key was made of."""
        key, seconds = claim
        cache = self.cache
        if cache is None or cache.disk is None:
            return
        made_of = parts(task, frame.plan.keys, position, self.tools.fingerprinter.identity(task.info))
        notes = {"node": task.info.name, "seconds": round(seconds, 4), "parts": made_of}
        if cache.store(key, outputs, notes) or not task.info.facts.effect:
            cache.disk.note(note_name(frame.plan.graph.workflow, frame.prefix + task.id), made_of)

    def _keep(self, frame: Frame, position: int, item: int, outputs: Outputs, key: bytes) -> None:
        """A job has its outputs: an item's are gathered, a node's are given to its readers."""
        task = frame.tasks[position]
        if item == PLAIN:
            self._settle(frame, position, task, outputs)
            return
        spread = frame.spreads[position]
        spread.results.append(outputs)
        spread.keys.append(key)
        self.journal.add(events.NodeProgress, frame.prefix + task.id, item + 1, spread.count, None)

    def _settle(self, frame: Frame, position: int, task: Task, outputs: Outputs) -> None:
        """Keep a node's outputs as long as somebody will read them, and let go of what it read last."""
        values, readers, wanted = frame.values, frame.readers, frame.wanted
        values[position] = outputs
        for wire in task.wires:
            source = wire[1]
            left = readers[source] = readers[source] - 1
            if left <= 0 and source not in wanted:
                values[source] = None

    # Expansion

    def _expand(self, frame: Frame, job: Job, task: Task, fragment: Workflow, claim: Claim) -> None:
        name = claim[2]
        missing = [port for port in task.info.outputs if port not in fragment.outputs]
        if missing:
            message = f"the fragment that {task.info.name} returned has no output {missing[0]!r}."
            raise self.runner.fail(name, Problem("wrong_output", message, name), None)
        bound, given = self._bind(frame, job, task, fragment)
        try:
            graph = Graph.build(bound, self.tools.registry, self.tools.find_workflow, given)
            keys = self.tools.fingerprinter.keys(graph)
        except GraphError as error:
            message = f"the fragment that {task.info.name} returned cannot run: {error.problems[0]}"
            raise self.runner.fail(name, Problem("fragment", message, name), error) from error
        plan = Plan.make(graph, keys, self.cache, {position for position, _ in graph.outputs.values()})
        inner = self._frame(plan, f"{name}/")
        inner.parent = (frame, job, claim)
        self._frames.append(inner)

    def _bind(self, frame: Frame, job: Job, task: Task, fragment: Workflow) -> tuple[Workflow, dict[str, Given]]:
        """Feed a fragment's declared inputs from the node's inputs of the same name."""
        values: dict[Link, Any] = {}
        given: dict[str, Given] = {}
        wires = {wire.input: wire for wire in task.wires if wire.slot is None}
        for name, declared in fragment.inputs.items():
            if name in wires:
                wire = wires[name]
                port = task.info.inputs[name].port
                value = self._inputs(frame, task, job[1])[name]
                key = digest(self._origin(frame, wire, max(job[1], 0)), wire.port.encode())
                given[name] = Given(Port(port.type, port.many or isinstance(value, list)), key, value)
                values |= {link: Link(name, "given") for link in declared.to}
            elif name in task.literals:
                values |= dict.fromkeys(declared.to, task.literals[name])
        nodes = {
            node: NodeSpec(spec.type, spec.inputs | {to.port: value for to, value in values.items() if to.node == node})
            for node, spec in fragment.nodes.items()
        }
        return Workflow(nodes, fragment.name, outputs=fragment.outputs), given

    def _deliver(self, frame: Frame) -> None:
        """A fragment is through: its outputs are those of the node that returned it."""
        if frame.parent is None:
            return
        above, job, claim = frame.parent
        task, name = above.tasks[job[0]], claim[2]
        outputs = {n: frame.outputs(p)[port] for n, (p, port) in frame.plan.graph.outputs.items()}
        try:
            checked = task.info.gives(**{n: outputs[n] for n in task.info.outputs})
        except ValidationError as error:
            raise self.runner.fail(name, wrong_input(name, error), error) from error
        self._finish(above, *job, dict(checked.__dict__), claim)


def note_name(workflow: Workflow, node: str) -> str:
    """The name under which it is noted what a node's key was last made of."""
    return digest(workflow.name.encode(), b"\0", node.encode()).hex()
