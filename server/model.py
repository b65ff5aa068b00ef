"""The shapes of requests and answers: what is checked at the door, and what the OpenAPI document says."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graphengine.errors import GraphError, Problem
from graphengine.workflow import parse_json

Status = Literal["queued", "running", "finished", "failed", "cancelled"]
Priority = Annotated[int, Field(ge=-100, le=100, description="greater goes first")]


class Told(BaseModel):
    """The common part of answers.  Most shapes are needed for the OpenAPI document only, and built then."""

    model_config = ConfigDict(defer_build=True)


class Asked(BaseModel):
    """A body of a request: nothing but what is declared, and no value bent into another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


Model = TypeVar("Model", bound=Asked)


class Submitted(Asked):
    """A workflow to be run (or checked, or explained)."""

    workflow: str | dict[str, Any] = Field(description="a workflow document, or the name of one that is kept here")
    inputs: dict[str, Any] = Field(default={}, description="values of the workflow's declared inputs")
    targets: list[str] | None = Field(default=None, max_length=1000, description="compute only these nodes or outputs")
    priority: Priority = 0
    webhook: str | None = Field(
        default=None, max_length=2000, pattern="^https?://", description="address that is told of the end"
    )


class Change(Asked):
    """What can be changed about a run that waits."""

    priority: Priority


class Fault(Told):
    """One fault of a workflow: where, what, and what to try."""

    code: str
    message: str
    node: str | None = None
    port: str | None = None
    hint: str | None = None


class ProblemDocument(Told):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str = Field(default="", description="where in the log to look: an error's id")
    problems: list[Fault] = []


class Item(Told):
    """One thing that a run has made: a picture by digest, a plain value, or only the name of its kind."""

    digest: str | None = None
    type: str | None = None
    bytes: int | None = None
    width: int | None = None
    height: int | None = None
    name: str | None = None
    value: Any = None
    kind: str | None = None


class RunSummary(Told):
    """A run in a list."""

    id: str
    number: int
    status: Status
    workflow: str
    client: str
    priority: int
    attempt: int = Field(description="how often it was given to a worker")
    retry_of: str | None
    created: float = Field(description="seconds since the epoch")
    started: float | None
    ended: float | None


class Note(Told):
    """A sentence of a node: what it did otherwise than asked, or could not do."""

    node: str
    note: str


class RunDocument(RunSummary):
    """A run, whole."""

    inputs: dict[str, Any]
    outputs: dict[str, list[Item]]
    problems: list[Fault]
    notes: list[Note] = Field(description="what was done otherwise than asked, once it has ended")


class RunPage(Told):
    """Runs from the newest on; `cursor` leads to the next page."""

    runs: list[RunSummary]
    cursor: str | None


class FileDocument(Told):
    """A file that was uploaded; `file` is what a LoadImage node calls it."""

    digest: str
    type: str
    bytes: int
    file: str


class NodeDocument(Told):
    """A node type; `schema` is a JSON Schema of its inputs in a workflow."""

    model_config = ConfigDict(protected_namespaces=())

    type: str
    summary: str
    category: str
    plugin: str
    version: int
    lane: str
    effect: bool
    inputs: dict[str, Any]
    outputs: dict[str, str]
    json_schema: dict[str, Any] = Field(alias="schema")


class Catalogue(Told):
    """Every node type, and the plugins that could not be loaded with their errors."""

    nodes: list[NodeDocument]
    broken: dict[str, str]


class ModelSummary(Told):
    """Something in the model folders: its kind (checkpoint, denoiser, lora, ...), and what is missing or wrong."""

    name: str
    kind: str
    family: str
    variant: str
    parameters: int
    bytes: int
    wrong: str


class ModelList(Told):
    models: list[ModelSummary]


class WorkflowSummary(Told):
    """A workflow that is kept here; those that ship cannot be deleted."""

    name: str
    description: str
    ships: bool


class WorkflowList(Told):
    workflows: list[WorkflowSummary]


class WorkflowDocument(Told):
    """A workflow as a typed function: a JSON Schema of its inputs, its outputs by type, and the document itself."""

    name: str
    description: str
    inputs: dict[str, Any]
    outputs: dict[str, str]
    document: dict[str, Any]


class Checked(Told):
    """What a check found."""

    nodes: int
    problems: list[Fault]


class Needs(Told):
    """How much memory a run would need, and what would be done about every node for which there is too little."""

    needed: int = Field(description="bytes at the worst moment, the process included; an estimate")
    fits: bool = Field(description="whether that is free now; yes where nobody knows")
    measures: list[str]


class Explained(Told):
    """A dry run: how many nodes come from the cache and how many would be computed, and why each."""

    hits: int
    work: int
    memory: Needs
    nodes: list[dict[str, str]]


class QueueState(Told):
    paused: bool
    waiting: int
    running: int


class Health(Told):
    status: Literal["ok", "unavailable"]
    checks: dict[str, bool] = {}


def parsed(model: type[Model], body: str) -> Model:
    """A body of this shape.  Raises GraphError with every fault of form."""
    document: Any = parse_json(body, "body")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise GraphError(map(_problem, error.errors(include_url=False, include_context=False)[:100])) from None


def _problem(error: Any) -> Problem:
    where = ".".join(str(part) for part in error["loc"])
    return Problem("form", f"{error['msg']}, got {error.get('input')!r:.60}.", port=where[:100] or None)
