"""What a node is: a pydantic model with a `run` method.

    class Fade(Node, version=2):
        \"\"\"Blend an image towards its negative.\"\"\"

        image: Image
        amount: float = Field(1.0, ge=0, le=1, description="0 keeps the image, 1 inverts it")

        class Outputs(Ports):
            image: Image

        def run(self, ctx: Context) -> Outputs: ...

A node object exists only while it runs: before its inputs are known there is only data.  Nodes never change
their inputs, keep no state, and give the same outputs for the same inputs; what they do besides giving outputs
they declare with `effect=True`.  `describe` reads a class once into a `NodeInfo`, which is all that the rest of
the engine looks at.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from graphengine.errors import Cancelled
from graphengine.ports import Lazy, Port, takes_literal
from graphengine.values import Image

if TYPE_CHECKING:
    from graphengine.settings import Settings

Lane = Literal["cpu", "io", "gpu"]


Preview = Image | Callable[[], Image] | None


class Ports(BaseModel):
    """Outputs of a node: one field per port, checked and frozen when they are made."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Services:
    """What stands behind the contexts of one run."""

    settings: Settings
    models: Any
    recipe: Callable[[], dict[str, Any]] = dict
    report: Callable[[str, int, int, Preview], None] = lambda *_: None
    cancelled: Callable[[], bool] = lambda: False
    find_workflow: Callable[[str], Any] = lambda name: None
    note: Callable[[str, str], None] = lambda node, text: None


class Context:
    """What a running node may ask of the engine: report progress, find files and models, know its recipe.

    `frugal` is above 0 when the node has run out of memory before and is tried again: at 1 all other models were let go
    of, at 2 it should work in smaller pieces as well, if it can.
    """

    __slots__ = ("_services", "frugal", "node")

    def __init__(self, node: str, services: Services, frugal: int = 0):
        self.node, self._services, self.frugal = node, services, frugal

    @property
    def settings(self) -> Settings:
        """Folders, limits and the device."""
        return self._services.settings

    @property
    def models(self) -> Any:
        """The loaded networks: `models.denoiser(handle)`, `.text_encoder(handle)`, `.vae(handle)`."""
        return self._services.models

    def recipe(self) -> dict[str, Any]:
        """What is needed to make this run's results again, as JSON."""
        return self._services.recipe()

    def note(self, text: str) -> None:
        """Put a sentence into the run's events and recipe: something was done otherwise than asked."""
        self._services.note(self.node, text)

    def find_workflow(self, name: str) -> Any:
        """A workflow by its name, or None."""
        return self._services.find_workflow(name)

    def progress(self, done: int, total: int, preview: Preview = None) -> None:
        """Report that `done` of `total` steps are through.

        `preview` is an Image that shows how far it is, or better a function that makes one: it is called only when
        somebody looks, and not for every step.

        Raises:
            Cancelled: the run was asked to stop.  Let it pass.
        """
        self.check()
        self._services.report(self.node, done, total, preview)

    def check(self) -> None:
        """Raise `Cancelled` when the run was asked to stop; costs next to nothing."""
        if self._services.cancelled():
            raise Cancelled


class Node(BaseModel):
    """The base of all nodes; see the module's text for the shape of one."""

    model_config = ConfigDict(
        frozen=True,
        arbitrary_types_allowed=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )

    Outputs: ClassVar[type[Ports]] = Ports
    facts: ClassVar[Facts]

    def __init_subclass__(
        cls,
        *,
        version: int = 1,
        cached: bool = True,
        effect: bool = False,
        category: str = "",
        lane: Lane = "cpu",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.facts = Facts(version, cached, effect, category, lane, name or cls.__name__)

    def run(self, ctx: Context) -> Any:
        """Compute the outputs.  May return a `Workflow` fragment instead, which then takes the node's place."""
        raise NotImplementedError(f"{type(self).__name__} has no run method")  # `describe` refuses it before it can run

    @classmethod
    def outside(cls, inputs: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
        """Facts from outside the graph that the result depends on, such as a file's digest.

        `inputs` holds the literal inputs only.  The facts are JSON and become part of the cache key.
        Raise AssetError when something is missing: it is reported before anything runs.
        """
        return {}

    @classmethod
    def stands(cls, outputs: Any) -> bool:
        """Whether a cached result of an effect still holds, e.g. whether the file it wrote is still there."""
        return True


@dataclass(frozen=True)
class Facts:
    """The class keywords of a node."""

    version: int
    cached: bool
    effect: bool
    category: str
    lane: Lane
    name: str


@dataclass(frozen=True, eq=False)
class Input:
    """One input port, read: type, default, ranges, and the validator for values written in a workflow."""

    name: str
    port: Port
    field: FieldInfo
    validate: Callable[[Any], Any] | None
    """Checks a value written in a workflow, strictly; None when the port can only be linked."""
    exact: type | None
    """Values of this very type need no validation: there is no range to keep."""
    in_key: bool
    required: bool
    models: tuple[str, ...]
    """The kinds of models whose names it takes, as `graphengine models` calls them."""

    @property
    def default(self) -> Any:
        value = self.field.get_default(call_default_factory=True, validated_data={})
        return None if value is PydanticUndefined else value

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Least and greatest value, where the field says so (an exclusive bound counts as one)."""
        found: dict[str, float] = {}
        annotations = [self.field.annotation, *get_args(self.field.annotation)]
        inner = [item for a in annotations if get_origin(a) is Annotated for item in get_args(a)[1:]]
        nested = [m for item in inner if isinstance(item, FieldInfo) for m in item.metadata]
        for constraint in (*self.field.metadata, *inner, *nested):
            for name in ("ge", "gt", "le", "lt"):
                value = getattr(constraint, name, None)
                if isinstance(value, int | float):
                    found[name] = value
        low = found.get("ge", found.get("gt"))
        high = found.get("le")
        if high is None and "lt" in found:
            whole = isinstance(found["lt"], int) and self.port.type is int
            high = found["lt"] - 1 if whole else found["lt"]
        return low, high

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values to choose from, where there are only some."""
        return get_args(self.port.type) if get_origin(self.port.type) is Literal else ()

    @property
    def help(self) -> str:
        return self.field.description or ""


@dataclass(frozen=True, eq=False)
class NodeInfo:
    """Everything the engine knows of a node type."""

    name: str
    type: type[Node]
    facts: Facts
    inputs: dict[str, Input]
    gives: type[Ports]
    outputs: dict[str, Port]
    summary: str
    plugin: str
    build: Callable[[dict[str, Any]], Node]
    """Makes a node of its inputs; raises pydantic's ValidationError."""
    has_outside: bool
    durable: bool
    """Whether outputs are worth keeping on disk however quickly they came: effects, and work that needs a model."""
    outside_key: frozenset[str]
    """Inputs that are no part of the key."""
    lazy: tuple[str, ...]
    plain: bool
    """Whether its key is made of its inputs alone, all of them."""


def describe(node: type[Node], prefix: str = "", plugin: str = "graphengine") -> NodeInfo:
    """Read a node class.  Raises TypeError with a sentence when it is not one that can run."""
    if not (isinstance(node, type) and issubclass(node, Node) and node is not Node):
        raise TypeError(f"{node!r} is not a Node class")
    if node.run is Node.run:
        raise TypeError(f"{node.__name__} has no run method")
    if not issubclass(node.Outputs, Ports):
        raise TypeError(f"{node.__name__}.Outputs must be a class derived from Ports")
    name = prefix + node.facts.name
    if not re.fullmatch(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*", name):
        raise TypeError(f"{name!r} cannot be a node's name: letters, digits, _ and - only")
    inputs = {key: _input(key, info) for key, info in node.model_fields.items()}
    has_outside = node.outside.__func__ is not Node.outside.__func__  # pyright: ignore[reportFunctionMemberAccess]
    outside_key = frozenset(key for key, item in inputs.items() if not item.in_key)
    return NodeInfo(
        name=name,
        type=node,
        facts=node.facts,
        inputs=inputs,
        gives=node.Outputs,
        outputs={key: Port.of(info.annotation) for key, info in node.Outputs.model_fields.items()},
        summary=inspect.cleandoc(node.__doc__ or "").split("\n\n")[0].replace("\n", " "),
        plugin=plugin,
        build=node.__pydantic_validator__.validate_python,
        durable=node.facts.effect or node.facts.lane == "gpu",
        outside_key=outside_key,
        lazy=tuple(key for key, item in inputs.items() if item.port.lazy),
        has_outside=has_outside,
        plain=node.facts.cached and not has_outside and not outside_key,
    )


def _input(name: str, info: FieldInfo) -> Input:
    port = Port.of(info.annotation)
    extra: dict[str, Any] = {**info.json_schema_extra} if isinstance(info.json_schema_extra, dict) else {}
    in_key = extra.get("key") is not False
    validate = None
    if takes_literal(port):
        annotated: Any = info.annotation
        if port.lazy:  # what is written in a workflow is the value, not the promise of one
            annotated = list[port.type] if port.many else port.type
        for constraint in info.metadata:
            annotated = Annotated[annotated, constraint]
        adapter = TypeAdapter(annotated, config=ConfigDict(strict=True, allow_inf_nan=False))
        validate = adapter.validator.validate_python
    exact = info.annotation if info.annotation in (int, str, bool) and not info.metadata else None
    return Input(name, port, info, validate, exact, in_key, info.is_required(), tuple(extra.get("models", ())))


__all__ = ["Context", "Facts", "Input", "Lazy", "Node", "NodeInfo", "Ports", "describe"]
