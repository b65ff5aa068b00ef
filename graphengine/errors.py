"""Every error that the engine raises on purpose, and `Problem`, the one shape in which faults are told to people.

    GraphEngineError
    ├── GraphError        a workflow that cannot run; carries *every* problem found
    ├── NodeError         a node failed while it ran; carries one problem
    ├── AssetError        a file outside the allowed folders, or one that is missing or damaged
    ├── CheckpointError   weights that are damaged, refused or of an unknown architecture
    └── Cancelled         the run was asked to stop (a BaseException, so that `except Exception` lets it through)

A problem says where (node and port), what, and what to try next.  `str(problem)` is one line.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """One fault: a stable `code`, the node and port it is about, a sentence, and a hint."""

    code: str
    message: str
    node: str | None = None
    port: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        where = ".".join(part for part in (self.node, self.port) if part)
        told = f"{where}: {self.message}" if where else self.message
        return f"{told} {self.hint}" if self.hint else told

    def document(self) -> dict[str, str]:
        """The problem as JSON, without what is not set."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class GraphEngineError(Exception):
    """The root: catching it catches everything that the engine raises on purpose."""


class GraphError(GraphEngineError):
    """A workflow that cannot run.  `problems` holds all of them."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class NodeError(GraphEngineError):
    """A node failed while it ran.  `problem` names it; `__cause__` is what the node raised."""

    def __init__(self, problem: Problem):
        self.problem = problem
        super().__init__(str(problem))


class AssetError(GraphEngineError):
    """A file that may not be read or written, does not exist, or is not what it should be."""


class CheckpointError(GraphEngineError):
    """Weights that are damaged, refused, or of an architecture that is not known."""


class Cancelled(BaseException):
    """Raised inside a node by `ctx.progress` when its run was cancelled.  Not an `Exception`, on purpose."""


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the nearest known word, or, when there are few, all of them."""
    options = list(known)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if not near:
        folded = {option.lower(): option for option in options}
        near = [folded[word.lower()]] if word.lower() in folded else []
    if near:
        return f"Did you mean {near[0]}?"
    if 0 < len(options) <= 12:
        return f"There is {', '.join(options)}."
    return None


EXHAUSTED = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "could not create a memory",
    "Cannot allocate memory (os error 12)",
)
"""What libraries say in errors that are of no class of their own; torch says the first on the host."""


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that memory ran out, on the host or on a device."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError | OSError) and any(words in _said(error) for words in EXHAUSTED):
            return True
        error = error.__cause__
    return False


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""
